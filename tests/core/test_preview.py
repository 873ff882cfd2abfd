"""A preview shows every photon, no mark, and what a screen needs to colour it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ronda.core.marks import as_mask, as_pixels, marks, unmarked
from ronda.core.preview import (
    BINS,
    LEVELS,
    LONGEST_SIDE,
    UPPER,
    Binning,
    bin_maximum,
    bin_mean,
    make_preview,
    no_preview,
)
from ronda.tests.core.images import frames


def binned_by_numpy(
    image: NDArray[Any], valid: NDArray[np.bool_], factor: int, binning: Binning
) -> NDArray[np.float64]:
    rows, columns = (-(-side // factor) for side in image.shape)
    out = np.full((rows, columns), np.nan)
    for row in range(rows):
        for column in range(columns):
            square = np.s_[
                row * factor : (row + 1) * factor, column * factor : (column + 1) * factor
            ]
            pixels = image[square][valid[square]].astype(np.float64)
            if pixels.size:
                out[row, column] = pixels.max() if binning is Binning.MAXIMUM else pixels.mean()
    return out


@pytest.mark.parametrize("dtype", ["u2", "i4", "u8", "f4", "f8"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_squares_are_binned_as_numpy_does(dtype: str, data: st.DataObject) -> None:
    image = data.draw(frames.images(dtype))
    mask = data.draw(st.none() | hnp.arrays(np.bool_, image.shape))
    factor, binning = data.draw(st.integers(1, 4)), data.draw(st.sampled_from(Binning))
    valid = frames.valid(image) & (np.True_ if mask is None else ~mask)
    expected = binned_by_numpy(image, valid, factor, binning)
    binned = np.empty(expected.shape, np.float32)
    pixels = as_pixels(image)
    fill = bin_maximum if binning is Binning.MAXIMUM else bin_mean
    fill(pixels, marks(pixels.dtype), as_mask(mask, image.shape), factor, binned)
    np.testing.assert_allclose(binned, expected, rtol=1e-5, atol=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (1024, 3), (1025, 7), (831, 1475), (5, 2049)])
def test_a_single_photon_does_not_vanish(shape: tuple[int, int]) -> None:
    image = np.zeros(shape, np.uint16)
    image[-1, -1] = 7
    preview = make_preview(image, marks(np.uint16), None, Binning.MAXIMUM)
    assert max(preview.image.shape) <= LONGEST_SIDE
    factor = -(-max(shape) // LONGEST_SIDE)
    assert preview.image.shape == tuple(-(-side // factor) for side in shape)
    assert preview.image[-1, -1] == 7 and np.nansum(preview.image) == 7


def test_sums_have_no_marks() -> None:
    total = np.array([[-1, -2], [2**40, 0]], np.int64)
    never = np.array([[False, False], [False, True]])
    preview = make_preview(total, unmarked(np.int64), never, Binning.MAXIMUM)
    np.testing.assert_array_equal(preview.image, [[-1, -2], [2**40, np.nan]])
    keV = np.array([[-1.0, -2.0, np.inf]])
    preview = make_preview(keV, unmarked(np.float64), None, Binning.MEAN)
    np.testing.assert_array_equal(preview.image, [[-1, -2, np.nan]])


@pytest.mark.parametrize("binning", Binning)
@pytest.mark.parametrize("shape", [(3, 5), (1030, 2100)])
def test_parts_of_a_sum_are_shown_as_the_sum(shape: tuple[int, int], binning: Binning) -> None:
    random = np.random.default_rng(0)
    parts = [random.integers(0, 1 << 40, shape) for _ in range(3)]
    never = random.random(shape) < 0.3
    of_parts = make_preview(parts, unmarked(np.int64), never, binning)
    of_sum = make_preview(sum(parts), unmarked(np.int64), never, binning)
    np.testing.assert_array_equal(of_parts.image, of_sum.image)
    np.testing.assert_array_equal(of_parts.histogram, of_sum.histogram)


@settings(max_examples=40, deadline=None)
@given(image=hnp.arrays(np.float32, (6, 5), elements=st.floats(0, 1e4, width=32)))
def test_percentiles_are_numpys_and_no_pixel_is_left_out(image: NDArray[np.float32]) -> None:
    preview = make_preview(image, marks(np.float32), None, Binning.MAXIMUM)
    np.testing.assert_allclose(preview.percentiles, np.percentile(image, LEVELS), rtol=1e-6)
    assert preview.histogram.shape == (BINS,) and preview.histogram.sum() == image.size


def test_a_histogram_holds_every_pixel_in_its_bin() -> None:
    image = np.arange(1000, dtype=np.float32).reshape(10, 100)
    preview = make_preview(image, marks(np.float32), None, Binning.MAXIMUM)
    expected, _ = np.histogram(
        np.minimum(image, preview.percentiles[UPPER]), BINS, (0, preview.percentiles[UPPER])
    )
    np.testing.assert_array_equal(preview.histogram, expected)


def test_no_valid_pixel_makes_no_numbers() -> None:
    preview = make_preview(np.full((3, 3), -1, np.int32), marks(np.int32), None, Binning.MEAN)
    assert np.isnan(preview.image).all() and np.isnan(preview.percentiles).all()
    assert preview.histogram.sum() == 0
    assert no_preview().image.shape == (0, 0)
