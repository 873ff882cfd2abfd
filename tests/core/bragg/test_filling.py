"""What stands for pixels that are not kept: their own mean, so that no count is lost or made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.filling import fill_of
from ronda.core.bragg.picking import Sparsifier, Sparsifying
from ronda.core.bragg.sparse_file import SparseFile
from ronda.tests.core.bragg.crystal import write_sparse
from ronda.tests.core.bragg.sparsifying import (
    CORRECTED,
    DTYPES,
    SHAPE,
    Plain,
    PlainRings,
    corrected_rings,
    frame,
)
from ronda.tests.core.bragg.spots import weak_frame, weak_settings


def check(image: Any, rings: PlainRings, how: Sparsifying) -> None:
    """Compare the fill with sums of the pixels, one ring after another."""
    sparse = Sparsifier(rings.as_rings, how).sparsify(image)
    found = fill_of(sparse, image, rings.as_rings)
    plain = Plain(image, rings, how)
    rest = plain.usable.copy()
    rest[sparse.index] = False
    average, _ = sparse.background.filled()
    for ring in range(rings.bins):
        chosen = rest & (rings.ring == ring)
        expected = average[ring]
        everything = np.abs(plain.signal[chosen]).sum()
        if chosen.any():
            expected = plain.signal[chosen].sum() / plain.norm[chosen].sum()
        np.testing.assert_allclose(found[ring], expected, rtol=2e-6, atol=1e-9 * everything)
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=5)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.03, 4.0, 90.0]),
    cutoff=st.sampled_from([0.3, 2.0, 7.0]),
)
def test_the_fill_is_the_mean_of_what_is_not_kept(
    dtype: str, seed: int, bins: int, mean: float, cutoff: float
) -> None:
    rng = np.random.default_rng(seed)
    image = np.abs(np.nan_to_num(frame(rng, dtype, mean, 40).astype(np.float64), posinf=0))
    image = np.minimum(image, 100).astype(dtype)
    image[3, 5:25] = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else np.nan
    check(image, PlainRings(SHAPE, bins), Sparsifying(cutoff_pick=cutoff, noise=0))


@pytest.mark.parametrize(("model", "dtype", "with_norm", "with_dark"), CORRECTED[-5:])
def test_the_fill_is_told_as_the_background_is(
    model: str, dtype: str, with_norm: bool, with_dark: bool
) -> None:
    rng = np.random.default_rng(3)
    rings = corrected_rings(rng, 7, with_norm, with_dark)
    image = rng.poisson(6.0, SHAPE).astype(dtype)
    image[:, 9] = 100 if dtype == "float32" else np.iinfo(dtype).max
    check(image, rings, Sparsifying(cutoff_pick=2.0, noise=0.5))


def test_large_counts_are_summed_exactly() -> None:
    rings = PlainRings(SHAPE, 1)
    image = np.full(SHAPE, 2**32 - 2, np.uint32)
    image[0, 0] = 2**32 - 1
    sparse = Sparsifier(rings.as_rings, Sparsifying()).sparsify(image)
    assert fill_of(sparse, image, rings.as_rings)[0] == np.float32(2**32 - 2)


@pytest.mark.parametrize(("dtype", "strong"), [("f4", 1e30), ("f8", 1e300), ("i8", 2**62)])
def test_strong_pixels_that_are_kept_leave_nothing_behind(dtype: str, strong: float) -> None:
    image = np.random.default_rng(1).poisson(4.0, SHAPE).astype(dtype)
    image[5, 5] = strong
    check(image, PlainRings(SHAPE, 2), Sparsifying(cutoff_pick=3.0))


def test_a_ring_whose_pixels_are_all_kept_has_the_background() -> None:
    rings = PlainRings(SHAPE, 5)
    image = np.random.default_rng(1).poisson(4.0, SHAPE).astype(np.uint16)
    sparse = Sparsifier(rings.as_rings, Sparsifying()).sparsify(image)
    kept = np.flatnonzero(rings.ring == 2).astype(np.uint32)
    found = fill_of(replace(sparse, index=kept), image, rings.as_rings)
    assert found[2] == sparse.background.average[2]
    assert np.isfinite(found).all()


@pytest.mark.parametrize("spot_size", [1, 3])
@pytest.mark.parametrize("mean", [0.1, 3.0])
def test_rebuilt_frames_have_the_counts_of_the_whole_ones(
    tmp_path: Path, mean: float, spot_size: int
) -> None:
    weak, values = weak_frame(mean, seed=6), weak_settings(tmp_path)
    values |= {"cutoff_pick": 2.0, "noise": 0.0, "spot_size": spot_size}
    image = weak.image.astype(np.float32)  # whose background is not rounded
    write_sparse(tmp_path / "weak.h5", [image], **values)
    with SparseFile(tmp_path / "weak.h5") as file:
        densifier, stored = Densifier(file), file.frame(0)
    assert stored.fill is not None
    off = densifier.image(stored).astype(np.float64).mean() - weak.image.mean()
    plain = densifier.image(replace(stored, fill=None)).astype(np.float64).mean()
    assert abs(off) < 2e-3 * mean
    assert plain - weak.image.mean() > 0.01 * np.sqrt(mean)
    noisy = densifier.image(stored, 1.0, np.random.default_rng(1)).astype(np.float64)
    assert abs((noisy - image)[weak.free].mean()) < 0.01


def test_a_file_without_a_fill_is_rebuilt_from_its_background(tmp_path: Path) -> None:
    weak, values = weak_frame(0.5, seed=7), weak_settings(tmp_path)
    path = tmp_path / "weak.h5"
    write_sparse(path, [weak.image], **values, cutoff_pick=2.0)
    with SparseFile(path) as file:
        wanted = Densifier(file).image(replace(file.frame(0), fill=None))
    with h5py.File(path, "a") as file:
        del file["entry_0000/sparse_frames/background_fill"]
    with SparseFile(path) as file:
        assert file.frame(0).fill is None
        np.testing.assert_array_equal(Densifier(file).image(file.frame(0)), wanted)


def test_a_fill_of_other_rings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weak.h5"
    write_sparse(path, [weak_frame(0.5, seed=7).image], **weak_settings(tmp_path))
    with h5py.File(path, "a") as file:
        group = file["entry_0000/sparse_frames"]
        del group["background_fill"]
        group["background_fill"] = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="background_fill has 3 bins"):
        SparseFile(path)
