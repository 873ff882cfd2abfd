"""Boxes that stand out: exactly those, kept whole, and nothing that does not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.azimuthal.errors import ErrorModel, parse_error_model
from ronda.core.azimuthal.rings import rings
from ronda.core.bragg.boxes import with_boxes
from ronda.core.bragg.clipping import Background
from ronda.core.bragg.filling import fill_of
from ronda.core.bragg.opencl_sparsifier import opencl_sparsifier
from ronda.core.bragg.parameters import BraggParameters
from ronda.core.bragg.picking import SparseFrame, Sparsifier, Sparsifying
from ronda.core.bragg.quantile import excess, picking_table
from ronda.core.compute.device import Compute, opencl_devices
from ronda.tests.core.bragg.crystal import SHAPE as CRYSTAL_SHAPE
from ronda.tests.core.bragg.crystal import Crystal, bench, dense, write_sparse
from ronda.tests.core.bragg.sparsifying import (
    CORRECTED,
    EACH,
    SHAPE,
    Plain,
    PlainRings,
    corrected_rings,
    frame,
    kept_of,
)
from ronda.tests.core.bragg.spots import weak_frame, weak_settings
from scipy.ndimage import convolve, maximum_filter

Floats = NDArray[np.float64]


class PlainBoxes:
    """Which boxes stand out, as plainly as it can be written."""

    def __init__(
        self, image: NDArray[Any], rings: PlainRings, how: Sparsifying, side: int, told: Background
    ) -> None:
        plain = Plain(image, rings, how)
        self.shape, self.side = image.shape, side
        self.usable = plain.usable.reshape(image.shape)
        radius = np.nan_to_num(rings.radius.astype(np.float64).ravel())
        average, deviation = (
            np.interp(radius, rings.centres, each.astype(np.float64)) for each in told.filled()
        )
        counts, expected = self._sum(plain.counts), self._sum(average * plain.norm + plain.dark)
        lift = self._sum((how.noise * plain.norm) ** 2)
        squared = how.cutoff_pick**2
        if how.error_model is ErrorModel.POISSON:
            table = picking_table(how.cutoff_pick)
            limits = [excess(table, how.cutoff_pick, each) for each in expected.ravel()]
            far = np.reshape(limits, self.shape) ** 2 + squared * lift
        else:
            far = squared * (self._sum((deviation * plain.norm) ** 2) + lift)
        over = counts - expected - np.sqrt(np.maximum(far, lift))
        # the radial axis of pixels is told in single precision
        doubt = 1e-5 * (1 + abs(expected) + np.sqrt(far)) + 1e-12 * self._sum(abs(plain.counts))
        self.sure, self.possible = over > doubt, over > -doubt

    def _sum(self, values: Floats) -> Floats:
        counted = np.where(self.usable, np.nan_to_num(values).reshape(self.shape), 0.0)
        found: Floats = convolve(counted, np.ones((self.side,) * 2), mode="constant")
        return found

    def pixels(self, boxes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the pixels of boxes that count, flat."""
        inside: NDArray[np.bool_] = maximum_filter(boxes, self.side, mode="constant") & self.usable
        return inside.ravel()


def check(image: NDArray[Any], rings: PlainRings, how: Sparsifying, side: int) -> SparseFrame:
    """Compare what is kept with the boxes found plainly, ties apart."""
    single = Sparsifier(rings.as_rings, how).sparsify(image)
    found = with_boxes(single, image, rings.as_rings, how, side)
    plain = PlainBoxes(image, rings, how, side, single.background)
    kept, alone = kept_of(found, image), kept_of(single, image)
    assert kept[alone | plain.pixels(plain.sure)].all()
    assert not kept[~(alone | plain.pixels(plain.possible))].any()
    return found


@pytest.mark.parametrize(("dtype", "model"), EACH)
@settings(deadline=None, max_examples=4)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.0, 0.03, 0.7, 4.0, 90.0]),
    spots=st.sampled_from([0, 5, 40]),
    cutoff=st.sampled_from([0.3, 1.0, 2.0, 3.0, 7.0]),
    noise=st.sampled_from([0.0, 0.3, 1.0]),
    side=st.sampled_from([3, 5, 15]),
)
def test_boxes_of_a_plain_frame_are_kept_exactly_if_they_stand_out(
    dtype: str, model: str, seed: int, bins: int, mean: float, spots: int, cutoff: float,
    noise: float, side: int,
) -> None:  # fmt: skip
    how = Sparsifying(cutoff_pick=cutoff, noise=noise, error_model=parse_error_model(model))
    image = frame(np.random.default_rng(seed), dtype, mean, spots, holes=3)
    check(image, PlainRings(SHAPE, bins), how, side)


@pytest.mark.parametrize(("model", "dtype", "with_norm", "with_dark"), CORRECTED)
@settings(deadline=None, max_examples=4)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    cutoff=st.sampled_from([0.5, 2.0, 3.0]),
    noise=st.sampled_from([0.0, 1.0]),
    side=st.sampled_from([3, 5]),
)
def test_boxes_of_a_frame_with_corrections_and_gaps_are_kept_exactly_if_they_stand_out(
    model: str, dtype: str, with_norm: bool, with_dark: bool, seed: int, bins: int,
    cutoff: float, noise: float, side: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    plain = corrected_rings(rng, bins, with_norm, with_dark, most_dark=30)
    how = Sparsifying(cutoff_pick=cutoff, noise=noise, error_model=parse_error_model(model))
    check(frame(rng, dtype, 6.0, 60), plain, how, side)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (4, 4)])
def test_frames_smaller_than_a_box_are_no_exception(shape: tuple[int, int]) -> None:
    plain = PlainRings(shape, 1)
    image = np.arange(shape[0] * shape[1]).reshape(shape).astype(np.uint16) % 5
    for side in (3, 5, 15):
        check(image, plain, Sparsifying(cutoff_pick=0.5, noise=0), side)


@pytest.mark.parametrize("place", [(0, 0), (0, 17), (-1, -1), (13, 0), (20, 20)])
def test_a_spot_at_an_edge_is_kept_as_far_as_it_is_on_the_frame(place: tuple[int, int]) -> None:
    shape = (40, 38)
    background = Background(
        *(np.full(4, value, np.float32) for value in (2, 1.4)), np.ones(4, int), np.ones((2, 4))
    )
    nothing = SparseFrame(np.empty(0, np.uint32), np.empty(0, np.uint16), background, None)
    image = np.full(shape, 2, np.uint16)
    image[place] = 14
    how = Sparsifying(cutoff_pick=2, noise=0)
    found = with_boxes(nothing, image, PlainRings(shape, 4).as_rings, how, 3)
    rows, columns = np.indices(shape)
    y, x = (at % length for at, length in zip(place, shape, strict=True))
    # all boxes that have it in them stand out
    near = (abs(rows - y) <= 2) & (abs(columns - x) <= 2)
    np.testing.assert_array_equal(found.index, np.flatnonzero(near))


def test_a_strong_pixel_leaves_nothing_behind_in_the_boxes_after_it() -> None:
    image = np.random.default_rng(5).poisson(3.0, SHAPE).astype(np.float64)
    of = PlainRings(SHAPE, 3).as_rings
    how = Sparsifying(cutoff_pick=1.5, noise=0, error_model=ErrorModel.AZIMUTHAL)
    told = Sparsifier(of, how).sparsify(image)
    before = with_boxes(told, image, of, how, 3)
    strong = image.copy()
    strong[20, 20] = 1e17
    after = with_boxes(told, strong, of, how, 3)
    y, x = np.divmod(np.setxor1d(before.index, after.index).astype(int), SHAPE[1])
    assert x.size > 3
    assert ((abs(y - 20) <= 2) & (abs(x - 20) <= 2)).all()


@pytest.mark.parametrize("cutoff", [2.0, 3.0])
@pytest.mark.parametrize("mean", [0.02, 0.5])
def test_what_stands_out_in_a_box_has_the_same_counts_when_rebuilt(
    tmp_path: Path, mean: float, cutoff: float
) -> None:
    """Below one count a pixel: each box over the cutoff, to the last count."""
    weak, values = weak_frame(mean, seed=4), weak_settings(tmp_path)
    values |= {"cutoff_pick": cutoff, "noise": 0.0, "spot_size": 3}
    write_sparse(tmp_path / "weak.h5", [weak.image], **values)
    (image,) = dense(tmp_path / "weak.h5")
    parameters = BraggParameters().changed(values)
    made = rings(parameters.setup.experiment(weak.image.shape), parameters.unit, 100)
    told = Sparsifier(made, parameters.sparsifying).sparsify(weak.image)
    average, _ = told.background.filled()
    level = np.interp(made.radius.astype(np.float64), made.centres, average)
    box = np.ones((3, 3))
    expected = convolve(level, box, mode="constant")
    counts = convolve(weak.image.astype(np.int64), box.astype(np.int64), mode="constant")
    table = picking_table(cutoff)
    far = np.reshape([excess(table, cutoff, each) for each in expected.ravel()], counts.shape)
    out = counts - expected > far * (1 + 1e-4) + 1e-4
    assert out.sum() > 1000
    rebuilt = convolve(image.astype(np.int64), box.astype(np.int64), mode="constant")
    np.testing.assert_array_equal(rebuilt[out], counts[out])
    # of the spots, some have no pixel that stands out and are whole all the same
    y, x = weak.places.T
    assert out[y, x].sum() > np.isin(y * counts.shape[1] + x, told.index).sum()


# --------------------------------------------------------------------- in the stage


@pytest.mark.parametrize("dtype", ["u4", "i4", "f4", "u8", ">u2"])
def test_the_stage_keeps_single_pixels_and_boxes(crystal: Crystal, dtype: str) -> None:
    image = np.minimum(crystal.frames[0], 60_000).astype(dtype)
    image[:, 40:42] = 3
    image[30, 60] = 0
    rows = [bench(crystal, spot_size=size).frame(image, dtype) for size in (1, 3, 5)]
    index = [row["sparse_index"] for row in rows]
    assert np.isin(index[0], index[1]).all()
    assert index[0].size < index[1].size
    assert index[2].size < CRYSTAL_SHAPE[0] * CRYSTAL_SHAPE[1]
    for row in rows:
        assert row["sparse_intensity"].dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(row["sparse_intensity"], image.ravel()[row["sparse_index"]])
        np.testing.assert_array_equal(
            row["sparse_background_avg"], rows[0]["sparse_background_avg"]
        )


@pytest.mark.skipif(not opencl_devices(), reason="there is no OpenCL device")
def test_boxes_come_after_opencl_as_well() -> None:
    image = frame(np.random.default_rng(2), "int32", 4.0, 40)
    of, how = PlainRings(SHAPE, 7).as_rings, Sparsifying(cutoff_pick=2, noise=0)
    by_device = opencl_sparsifier(of, how, Compute(opencl=True)).sparsify(image)
    told = replace(Sparsifier(of, how).sparsify(image), background=by_device.background)
    found, wanted = (with_boxes(each, image, of, how, 3) for each in (by_device, told))
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_array_equal(fill_of(found, image, of), fill_of(wanted, image, of))
