"""Sparse frames stand for whole ones: pyFAI's pixels, exact values, spots and backgrounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.azimuthal.rings import Rings, rings
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.parameters import BraggParameters
from ronda.core.bragg.sparse_file import SparseFile, StoredFrame
from ronda.core.compute.device import opencl_devices
from ronda.tests.core.bragg.crystal import Crystal, dense, make_crystal, write_sparse
from ronda.tests.core.bragg.pyfai_peers import by_opencl, by_python, jaccard
from ronda.tests.core.bragg.spots import (
    Real,
    find_spots,
    integrate,
    thaumatin,
    weak_frame,
    weak_settings,
)
from scipy.special import ndtr

REAL_FRAME = "0007"
SQUARES = {
    2.0: ((3, 5, 0.12), (5, 10, 0.04), (10, np.inf, 0.01)),
    3.0: ((5, 10, 0.12), (10, np.inf, 0.01)),
}
"""Most that is lost of squares of so many errors, by cutoff."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agreement")


@pytest.fixture(scope="module")
def crystal(folder: Path) -> Crystal:
    return make_crystal(folder, 1)


@pytest.fixture(scope="module")
def kept_real() -> dict[str, Real]:
    return {}


@pytest.fixture
def real(shared_data: Path, folder: Path, kept_real: dict[str, Real]) -> Real:
    """A frame of thousands of spots."""
    if not kept_real and (found := thaumatin(shared_data, REAL_FRAME, folder)):
        kept_real["frame"] = found
    if not kept_real:
        pytest.skip("the frames of thaumatin are not among the real data")
    return kept_real["frame"]


def only_frame(path: Path) -> tuple[Densifier, StoredFrame]:
    with SparseFile(path) as file:
        return Densifier(file), file.frame(0)


def rings_of(values: dict[str, Any], shape: tuple[int, ...]) -> Rings:
    parameters = BraggParameters().changed(values)
    experiment = parameters.setup.experiment(shape)
    return rings(experiment, parameters.unit, parameters.radial_bins)


# --------------------------------------------------------------------------- exactness


@pytest.mark.parametrize(
    ("dtype", "value", "marks"),
    [
        ("u1", 254, True),
        ("u2", 65_534, True),
        ("u4", 2**32 - 2, True),
        ("u4", 2**32 - 1, False),
        ("i4", 2**31 - 1, False),
        ("i4", 8_388_609, True),
        ("i8", 2**53 + 1, True),
        ("i8", 2**62 + 1, True),
        ("u8", 2**53 + 1, True),
        ("u8", 2**64 - 1, False),
        ("f4", 8_388_609, True),
        ("f8", 2**53 - 1, True),
    ],
)
def test_large_counts_come_back_to_the_last_one(
    crystal: Crystal, tmp_path: Path, dtype: str, value: int, marks: bool
) -> None:
    image = np.minimum(crystal.frames[0], 120).astype(dtype)
    image[:, 40:42] = 2
    image[77, 30], image[78, 30] = value, value - 1
    path = tmp_path / "exact.h5"
    write_sparse(path, [image], **crystal.settings, detector_marks=marks)
    _, frame = only_frame(path)
    (rebuilt,) = dense(path)
    assert rebuilt.dtype == frame.intensity.dtype == np.dtype(dtype)
    assert (rebuilt[77, 30], rebuilt[78, 30]) == (value, value - 1)
    np.testing.assert_array_equal(rebuilt.flat[frame.index], image.flat[frame.index])
    assert frame.index.size > 20


# -------------------------------------------------------------------------- real frames


@pytest.mark.filterwarnings("ignore")
def test_real_frames_give_pyfais_pixels(real: Real, folder: Path) -> None:
    path = folder / "hybrid.h5"
    shown = write_sparse(path, [real.image], **real.settings, error_model="hybrid")
    densifier, ours = only_frame(path)
    made = rings_of(real.settings, real.image.shape)
    peer: Any = by_opencl if opencl_devices() else by_python
    theirs, average, deviation = peer(real.image, made, "hybrid")
    assert jaccard(ours.index.astype(np.uint32), theirs) >= 0.9
    assert shown["empty_rings"] == 0
    radius = made.radius.astype(np.float64).ravel()
    level, spread = (np.interp(radius, made.centres, each) for each in (average, deviation))
    with np.errstate(invalid="ignore"):
        strong = np.flatnonzero(real.image.ravel() - level > 6 * np.hypot(spread, 1))
    assert strong.size > 5000
    assert np.isin(strong, ours.index).all()
    assert np.isin(strong, theirs).all()
    assert ours.intensity.dtype == np.int32
    np.testing.assert_array_equal(ours.intensity, real.image.ravel()[ours.index])
    # spots lose to the background what they lose with pyFAI's pixels
    whole, rebuilt = np.where(real.valid, real.image, 0), densifier.image(ours)
    others = StoredFrame(
        theirs.astype(np.int64), real.image.ravel()[theirs], average.astype(float), None
    )
    places = find_spots(real.image, real.valid, 8.0)
    spots, errors, _ = integrate(whole, places)
    lost, their_loss = (
        (spots - integrate(np.where(real.valid, image, 0), places)[0]) / errors
        for image in (rebuilt, densifier.image(others))
    )
    assert abs(lost.mean() - their_loss.mean()) < 0.1


@pytest.mark.parametrize("cutoff", [2.0, 3.0])
def test_real_spots_and_backgrounds_come_back(real: Real, folder: Path, cutoff: float) -> None:
    path = folder / f"cutoff-{cutoff}.h5"
    shown = write_sparse(path, [real.image], **real.settings, cutoff_pick=cutoff)
    assert shown["empty_rings"] == 0
    densifier, frame = only_frame(path)
    image, valid = densifier.image(frame), real.valid
    places = find_spots(real.image, valid, 8.0)
    whole, errors, _ = integrate(np.where(valid, real.image, 0), places)
    found, *_ = integrate(np.where(valid, image, 0), places)
    # what lies below the threshold is not there: the weaker a spot, the larger that share
    strong = whole > 50 * errors
    medium = (whole > 25 * errors) & ~strong
    assert min(strong.sum(), medium.sum()) > 20
    for chosen, most in ((strong, 0.005), (medium, 0.03)):
        share = 1 - found[chosen].sum() / whole[chosen].sum()
        assert -0.001 < share < most
    counts = real.image.astype(float)
    noisy = densifier.image(frame, 1.0, np.random.default_rng(1))
    for rebuilt in (image, noisy):
        assert abs((rebuilt - counts)[valid].mean()) < 0.05
    # chance keeps what is far above the mean: E[x; x > mean + 2 sigma] is 0.054 sigma
    plain = densifier.image(replace(frame, fill=None))
    assert ((plain - counts)[valid].mean() > 0.05) == (cutoff == 2)


@pytest.mark.parametrize("cutoff", [2.0, 3.0])
def test_weak_real_spots_come_back_with_a_spot_size(
    real: Real, folder: Path, cutoff: float
) -> None:
    path = folder / f"boxes-{cutoff}.h5"
    write_sparse(path, [real.image], **real.settings, cutoff_pick=cutoff, noise=0.0, spot_size=3)
    densifier, frame = only_frame(path)
    image, valid = densifier.image(frame), real.valid
    dense_image, rebuilt = (np.where(valid, each, 0) for each in (real.image, image))
    assert abs((image - real.image.astype(float))[valid].mean()) < 0.02
    # found by their 3 x 3 pixels, over what is about them: a background that is not round
    # makes that another criterion than the ring's
    places = find_spots(real.image, valid, 2.0)
    whole, errors, floor = integrate(dense_image, places, 3)
    found, *_ = integrate(rebuilt, places, 3)
    for low, high, most in SQUARES[cutoff]:
        chosen = (whole >= low * floor) & (whole < high * floor)
        assert chosen.sum() > 100
        assert abs(1 - found[chosen].sum() / whole[chosen].sum()) < most
    # and with what lies about them
    places = find_spots(real.image, valid, 5.0)
    whole, errors, _ = integrate(dense_image, places)
    found, *_ = integrate(rebuilt, places)
    for low, high, most in ((3, 10, 0.05), (10, 30, 0.01), (30, np.inf, 0.01)):
        chosen = (whole >= low * errors) & (whole < high * errors)
        assert chosen.sum() > 20
        assert abs(1 - found[chosen].sum() / whole[chosen].sum()) < most
        assert abs(((found - whole) / errors)[chosen].mean()) < 0.4


# ---------------------------------------------------------------------- weak simulated


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.5])
def test_weak_spots_stand_out_that_a_variance_floor_of_one_hides(folder: Path, mean: float) -> None:
    settings, weak = weak_settings(folder), weak_frame(mean, seed=11)
    whole, *_ = integrate(weak.image, weak.places)
    share = {}
    for cutoff in (2.0, 3.0):
        for model, noise in (("poisson", 0.0), ("poisson-classic", 1.0)):
            path = folder / f"weak-{mean}-{model}-{cutoff}.h5"
            how = {"error_model": model, "noise": noise, "cutoff_pick": cutoff}
            write_sparse(path, [weak.image], **settings, **how)
            densifier, frame = only_frame(path)
            found, *_ = integrate(densifier.image(frame), weak.places)
            share[model, cutoff] = found.sum() / whole.sum()
            if model == "poisson":
                _check_background(weak.image, weak.free, densifier, frame, cutoff)
    assert share["poisson", 2.0] > share["poisson", 3.0]
    for cutoff in (2.0, 3.0):
        assert share["poisson", cutoff] > share["poisson-classic", cutoff] + 0.08
    assert 0.6 < share["poisson", 2.0] < 1.01


def _check_background(
    image: NDArray[Any],
    free: NDArray[np.bool_],
    densifier: Densifier,
    frame: StoredFrame,
    cutoff: float,
) -> None:
    """Check that chance keeps no more than its share, and that the mean is kept with noise."""
    kept = np.zeros(image.size, np.bool_)
    kept[frame.index] = True
    chance = kept.reshape(image.shape)[free].mean()
    number = free.sum()
    tail = ndtr(-cutoff)
    assert chance < tail + 3 * np.sqrt(tail / number)
    noisy = densifier.image(frame, 1.0, np.random.default_rng(3)).astype(float)
    assert abs((noisy - image)[free].mean()) < 0.05
