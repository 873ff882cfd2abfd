"""Sparsification on an OpenCL device against that on the CPU."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabio
import numpy as np
import pytest
from numpy.typing import NDArray
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal.errors import parse_error_model
from ronda.core.azimuthal.experiment import Setup
from ronda.core.azimuthal.rings import rings
from ronda.core.azimuthal.units import Unit
from ronda.core.bragg import opencl_sparsifier as module
from ronda.core.bragg.opencl_sparsifier import OpenClSparsifier
from ronda.core.bragg.parameters import BraggParameters
from ronda.core.bragg.peaks import PeakMode, PeakSettings
from ronda.core.bragg.picking import SparseFrame, Sparsifier, Sparsifying
from ronda.core.bragg.stage import BraggStage
from ronda.core.compute.device import Compute
from ronda.core.compute.opencl import accelerator
from ronda.core.frame import BadFrame, Encoded, Frame, Series
from ronda.core.stage import Connection
from ronda.tests.core.bragg.sparsifying import MODELS, PlainRings, rings_of_few

SHAPE = (137, 141)
DTYPES = ("uint8", "uint16", "int32", "uint64", "float16", "float64")
"""Each is another program, which PoCL takes a second for; integration is tested with all."""


def frame(dtype: str, mean: float = 5.0, spots: int = 300, seed: int = 1) -> NDArray[Any]:
    """Poisson background, spots, marked pixels; what the types hold."""
    random, kind = np.random.default_rng(seed), np.dtype(dtype)
    top = float(np.iinfo(kind).max) if kind.kind in "iu" else 6e4
    image = np.minimum(random.poisson(mean, SHAPE), top)
    image.flat[random.integers(0, image.size, spots)] = np.minimum(
        random.choice([9.0, 40.0, 1e3, 1e6], spots), top - 1
    )
    exact: NDArray[Any] = image.astype(kind)
    exact[3, 5:25] = np.iinfo(kind).max if kind.kind in "iu" else np.nan
    if kind.kind != "u":
        exact[100:103, 20:60] = -1
        exact[:2, 9] = -2
    return exact


def corrected(bins: int = 23) -> PlainRings:
    """Return rings with everything that a pixel can be corrected for."""
    random = np.random.default_rng(2)
    return PlainRings(
        SHAPE, bins, normalization=random.uniform(0.2, 3, SHAPE), dark=random.uniform(-1, 3, SHAPE),
        mask=random.random(SHAPE) < 0.1, dummy=4.0, delta_dummy=0.5,
    )  # fmt: skip


def same(found: SparseFrame, expected: SparseFrame) -> None:
    """Check that two frames are the same: the background to single precision."""
    for name in ("average", "deviation"):
        np.testing.assert_allclose(
            getattr(found.background, name), getattr(expected.background, name), rtol=3e-7,
            err_msg=name,
        )  # fmt: skip
    np.testing.assert_array_equal(found.background.count, expected.background.count)
    if expected.intensity.dtype.kind in "iu":
        totals = found.background.totals, expected.background.totals
        np.testing.assert_allclose(*totals, rtol=1e-12, atol=1e-6)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.intensity, expected.intensity)
    assert found.index.dtype == np.uint32
    assert found.intensity.dtype == expected.intensity.dtype
    assert (found.peaks is None) == (expected.peaks is None)
    if expected.peaks is not None and found.peaks is not None:
        for name in ("intensity", "x", "y", "snr", "pixels"):
            np.testing.assert_allclose(
                getattr(found.peaks, name), getattr(expected.peaks, name), rtol=1e-5
            )


def check(image: NDArray[Any], plain: PlainRings, opencl: Compute, **settings: Any) -> SparseFrame:
    """Compare the device with the CPU; return what it found."""
    how = Sparsifying(**{"noise": 0.3, **settings})
    found = OpenClSparsifier(plain.as_rings, how, opencl).sparsify(image)
    same(found, Sparsifier(plain.as_rings, how).sparsify(image))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_of_every_type(opencl: Compute, dtype: str) -> None:
    found = check(frame(dtype), PlainRings(SHAPE, 23), opencl)
    assert 100 < found.index.size < 500


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("plain", (True, False))
def test_every_error_model(opencl: Compute, model: str, plain: bool) -> None:
    of = PlainRings(SHAPE, 23) if plain else corrected()
    found = check(frame("int32"), of, opencl, error_model=parse_error_model(model))
    assert found.index.size > 100


@pytest.mark.parametrize(("which", "model"), [("normalization", "poisson"), ("dark", "hybrid")])
def test_one_correction_without_the_other(opencl: Compute, which: str, model: str) -> None:
    image = np.random.default_rng(2).uniform(0.2, 3, SHAPE)
    plain = (
        PlainRings(SHAPE, 23, dark=image)
        if which == "dark"
        else PlainRings(SHAPE, 23, normalization=image)
    )
    check(frame("int32"), plain, opencl, error_model=parse_error_model(model))


@pytest.mark.parametrize("mean", (0.0, 0.02, 0.7, 300.0, 3e6))
@pytest.mark.parametrize("model", ("poisson", "azimuthal"))
def test_few_counts_and_many(opencl: Compute, model: str, mean: float) -> None:
    check(
        frame("int32", mean), PlainRings(SHAPE, 23), opencl, noise=0.0,
        error_model=parse_error_model(model),
    )  # fmt: skip


@pytest.mark.parametrize("cycles", (0, 1, 2, 20))
@pytest.mark.parametrize("cutoff_clip", (0.0, 5.0))
@pytest.mark.parametrize("cutoff_pick", (0.1, 3.0, 40.0))
def test_cycles_and_cutoffs(
    opencl: Compute, cycles: int, cutoff_clip: float, cutoff_pick: float
) -> None:
    check(
        frame("int32"), PlainRings(SHAPE, 23), opencl, cycles=cycles, cutoff_clip=cutoff_clip,
        cutoff_pick=cutoff_pick,
    )  # fmt: skip


@pytest.mark.parametrize("model", ("poisson", "azimuthal"))
@pytest.mark.parametrize("outlier", (20, 1000, 2**31 - 2, -20, -1000, -(2**31)))
def test_rings_of_few_pixels_most_of_them_far_off(
    opencl: Compute, model: str, outlier: int
) -> None:
    image, plain = rings_of_few(outlier, SHAPE, 8, most=True)
    found = check(image, plain, opencl, error_model=parse_error_model(model))
    assert (found.background.count > 0).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("plain", (True, False))
def test_pixels_far_below_zero_do_not_pull_their_rings_down(
    opencl: Compute, model: str, plain: bool
) -> None:
    of, image = PlainRings(SHAPE, 23) if plain else corrected(), frame("int32", spots=0)
    how = parse_error_model(model)
    clean = check(image, of, opencl, error_model=how).background
    image.flat[::60], image.flat[::71] = -(2**31), -1000
    found = check(image, of, opencl, error_model=how).background
    np.testing.assert_allclose(found.average, clean.average, atol=0.7)


def test_floats_far_below_zero_do_not_pull_their_rings_down(opencl: Compute) -> None:
    image = frame("float64", spots=0)
    image.flat[::60], image.flat[::71] = -1e300, -1e30
    found = check(image, PlainRings(SHAPE, 23), opencl).background
    assert (found.average > 4).all()


@pytest.mark.parametrize("model", ("poisson", "azimuthal", "hybrid"))
def test_negative_noise_on_half_of_the_pixels(opencl: Compute, model: str) -> None:
    image = np.random.default_rng(3).normal(0, 9, SHAPE).round().astype(np.int32)
    image.flat[::60], image.flat[::71] = -(2**31), 10**6
    plain = PlainRings(SHAPE, 23, marks=False)
    found = check(image, plain, opencl, error_model=parse_error_model(model)).background
    np.testing.assert_allclose(found.average, 0, atol=4)


@pytest.mark.parametrize(
    ("model", "sizes"), [("poisson", (1, 8, 64, 256, 4096)), ("hybrid", (3, 256))]
)
def test_the_size_of_work_groups_changes_nothing(
    opencl: Compute, model: str, sizes: tuple[int, ...]
) -> None:
    of, image, expected = corrected(5), frame("int32"), None
    how = Sparsifying(error_model=parse_error_model(model), noise=0.0, cutoff_pick=1.0)
    for workgroup in sizes:
        chosen = replace(opencl, workgroup=workgroup)
        found = OpenClSparsifier(of.as_rings, how, chosen).sparsify(image)
        assert found.index.size > 1000
        if expected is not None:
            for name in ("average", "deviation", "count"):
                np.testing.assert_array_equal(
                    getattr(found.background, name), getattr(expected.background, name)
                )
            np.testing.assert_array_equal(found.index, expected.index)
        expected = found


def test_gaps_in_the_background_are_bridged(opencl: Compute) -> None:
    mask = np.zeros(SHAPE, np.bool_)
    plain = PlainRings(SHAPE, 40)
    of_pixel = plain.ring.reshape(SHAPE)
    for gone in (0, 1, 7, 20, 21, 22, 38, 39):
        mask |= of_pixel == gone
    image = frame("int32")
    image[of_pixel == 30] = -1  # by this frame only
    found = check(image, PlainRings(SHAPE, 40, mask=mask), opencl, cutoff_pick=1.0)
    assert np.isnan(found.background.average).sum() == 9


@pytest.mark.parametrize("bins", (1, 2, 70_000))
def test_one_ring_and_more_rings_than_pixels(opencl: Compute, bins: int) -> None:
    plain = PlainRings(SHAPE, min(bins, 65_000))
    if bins > 65_000:
        radius = np.nan_to_num(plain.radius)
        plain.bins, plain.width = bins, radius.max() * 1.0001 / bins
        plain.centres = plain.width * (np.arange(bins) + 0.5)
        plain.ring = (radius / plain.width).astype(np.uint32).ravel()
    check(frame("int32"), plain, opencl)


@pytest.mark.parametrize("how", ("mask", "marks"))
def test_nothing_is_kept_of_a_frame_that_is_masked_all_over(opencl: Compute, how: str) -> None:
    mask = np.full(SHAPE, how == "mask")
    found = check(np.full(SHAPE, -1, np.int32), PlainRings(SHAPE, 5, mask=mask), opencl)
    assert found.index.size == 0
    assert np.isnan(found.background.average).all()


@pytest.mark.parametrize("dtype", ("uint16", "float32"))
def test_saturated_pixels_are_kept_unless_masked_or_of_the_dummy(
    opencl: Compute, dtype: str
) -> None:
    image, top = frame(dtype), np.inf if dtype == "float32" else np.iinfo(dtype).max
    image[50, 60:64] = image[90, 3] = top
    mask = np.zeros(SHAPE, np.bool_)
    mask[50, 60] = True
    peaks = PeakSettings(cutoff=3.0, connected=1)
    found = check(image, PlainRings(SHAPE, 23, mask=mask), opencl, peaks=peaks)
    wanted = np.flatnonzero((image == top) & ~mask)
    np.testing.assert_array_equal(found.index[found.intensity == top], wanted)
    if dtype != "float32":
        found = check(image, PlainRings(SHAPE, 23, dummy=float(top)), opencl)
        assert not (found.intensity == top).any()
    found = check(np.full(SHAPE, top, dtype), corrected(), opencl)
    assert found.index.size == (corrected().ring < 23).sum()


@pytest.mark.parametrize("shape", ((1, 1), (1, 7), (64, 64), (64, 65)))
def test_small_frames_and_segments_that_are_just_full(
    opencl: Compute, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).poisson(2, shape).astype(np.uint16)
    image.flat[-1] = 500
    check(image, PlainRings(shape, 2), opencl)


def test_more_is_fetched_where_more_is_kept_than_before(
    opencl: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEW", 10)
    of, how = PlainRings(SHAPE, 5).as_rings, Sparsifying(noise=0.0, cutoff_pick=0.5)
    made, cpu = OpenClSparsifier(of, how, opencl), Sparsifier(of, how)
    sizes = []
    for mean, spots in ((0.0, 9), (0.0, 10), (0.0, 11), (0.3, 500), (0.0, 3), (9.0, 900)):
        image = np.zeros(SHAPE, np.int32)
        image.flat[np.arange(spots) * 7] = 100
        image += np.random.default_rng(1).poisson(mean, SHAPE).astype(np.int32)
        same(made.sparsify(image), cpu.sparsify(image))
        sizes.append(made.sparsify(image).index.size)
    assert sizes[:3] == [9, 10, 11]
    assert max(sizes) > 1000


def test_all_pixels_can_be_kept(opencl: Compute) -> None:
    image = np.full(SHAPE, 100, np.int32)
    image[::2] = 0
    found = check(image, PlainRings(SHAPE, 1), opencl, noise=0.0, cutoff_pick=0.001)
    assert found.index.size == (image > 0).sum()


def test_values_and_marks_are_exact(opencl: Compute) -> None:
    for value, dtype in ((2**32 - 1, "uint32"), (2**53 + 1, "int64"), (2**64 - 1, "uint64")):
        image = np.zeros(SHAPE, dtype)
        image[3, 5] = value
        found = check(image, PlainRings(SHAPE, 4, marks=False), opencl)
        assert found.intensity.tolist() == [value]


@pytest.mark.parametrize("mode", list(PeakMode))
def test_peaks_are_those_of_the_cpu(opencl: Compute, mode: PeakMode) -> None:
    image = frame("int32")
    image[50:53, 60:63] += 200
    image[80:82, 90:92] += 90
    found = check(
        image, PlainRings(SHAPE, 23), opencl, cutoff_pick=6.0,
        peaks=PeakSettings(mode=mode, cutoff=3.0, connected=3),
    )  # fmt: skip
    assert found.peaks is not None
    assert len(found.peaks) >= 2


def test_frames_of_one_type_after_another(opencl: Compute) -> None:
    of, how = PlainRings(SHAPE, 23).as_rings, Sparsifying()
    made, cpu = OpenClSparsifier(of, how, opencl), Sparsifier(of, how)
    for dtype in ("int32", "uint16", "int32", "float32", "uint16"):
        same(made.sparsify(frame(dtype)), cpu.sparsify(frame(dtype)))
    with pytest.raises(ValueError, match="9 pixels does not fit"):
        made.sparsify(np.zeros((3, 3), np.int32))


def test_threads_do_not_disturb_each_other(opencl: Compute) -> None:
    of, how = PlainRings(SHAPE, 23).as_rings, Sparsifying(peaks=PeakSettings())
    made, cpu = OpenClSparsifier(of, how, opencl), Sparsifier(of, how)
    frames = [frame("int32", seed=seed, spots=50 * seed) for seed in range(8)]
    expected = [cpu.sparsify(each) for each in frames]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(made.sparsify, frames * 8), expected * 8, strict=True):
            same(found, right)


# -------------------------------------------------------------- a real frame, and the stage


def test_a_real_frame(opencl: Compute, shared_data: Path, tmp_path: Path) -> None:
    packed = shared_data / "thaumatin/thau_3_2_0001.cbf.bz2"
    if not packed.is_file():
        pytest.skip("the thaumatin frames are not among the real data")
    (tmp_path / "a.cbf").write_bytes(bz2.decompress(packed.read_bytes()))
    image = fabio.open(tmp_path / "a.cbf").data
    AzimuthalIntegrator(
        0.351, 1306.96 * 172e-6, 1261.61 * 172e-6, wavelength=0.96859e-10,
        detector=Detector(172e-6, 172e-6, max_shape=image.shape),
    ).save(str(tmp_path / "a.poni"))  # fmt: skip
    setup = Setup(str(tmp_path / "a.poni"), solid_angle=False)
    of = rings(setup.experiment(image.shape), Unit.R_M, 800)
    for model in ("poisson", "hybrid"):
        how = Sparsifying(error_model=parse_error_model(model), noise=0.0)
        found = OpenClSparsifier(of, how, opencl).sparsify(image)
        same(found, Sparsifier(of, how).sparsify(image))
        assert found.index.size > 5000


def stage(opencl: Compute, folder: Path) -> tuple[BraggStage, BraggParameters]:
    """Return a stage that computes on the device, and what is set of it."""
    AzimuthalIntegrator(
        0.05, 0.003, 0.0034, detector=Detector(1e-4, 1e-4, max_shape=SHAPE), wavelength=1e-10
    ).save(str(folder / "a.poni"))
    made = BraggStage()
    made.connection = Connection(compute=opencl)
    return made, BraggParameters(poni_file=str(folder / "a.poni"), radial_bins=40)


def test_the_stage_computes_where_it_is_told(opencl: Compute, tmp_path: Path) -> None:
    made, parameters = stage(opencl, tmp_path)
    of_frame = Frame(Series(1), 0, frame("uint16"))
    found = made.map(of_frame, parameters)
    cpu = stage(Compute(), tmp_path)[0].map(of_frame, parameters)
    same(found.sparse, cpu.sparse)
    assert found.sparse.index.size > 100


def test_compressed_frames_are_decoded_to_where_the_device_copies_them_from(
    opencl: Compute,
    tmp_path: Path,
    bslz4: Callable[[NDArray[Any]], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, parameters = stage(opencl, tmp_path)
    image = frame("uint16")
    encoded = Frame(Series(1), 0, Encoded(bslz4(image)[12:], SHAPE, image.dtype, "bslz4"))
    expected = made.map(Frame(Series(1), 0, image), parameters)
    # There is no staging now: what is not in page-locked memory could not be sent.
    monkeypatch.setattr(accelerator(opencl).lane(), "_staging", None)
    same(made.map(encoded, parameters).sparse, expected.sparse)


def test_a_device_that_fails_costs_the_frame_only(
    opencl: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("the device is gone")

    made, parameters = stage(opencl, tmp_path)
    monkeypatch.setattr(OpenClSparsifier, "_stand_out", broken)
    with pytest.raises(BadFrame, match="frame 0: the device is gone"):
        made.map(Frame(Series(1), 0, frame("uint16")), parameters)
