"""Dark and threshold are what plain numbers say: nothing wraps, no mark gets lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ronda.core.images.dark import Dark
from ronda.core.images.orientation import Orientation
from ronda.core.images.threshold import recorded, uniform
from ronda.core.marks import as_pixels
from ronda.tests.core.images.frames import DTYPES, forms, images, valid, values

NORMAL = Orientation.NORMAL
LEVELS = st.floats(0, 1e6) | st.sampled_from(
    [0.0, 0.4, 0.5, 1.5, 100, 100.5, 126, 254, 255, 65534, 2.0**31, 2.0**62, 2.0**63, 1e19, 1e39]
)
"""Counts from 0 to beyond every type but float64."""


def above(value: Any, dark: float, threshold: float) -> Any:
    """Return a measured pixel less dark, or 0 below the threshold, in plain numbers."""
    if isinstance(value, np.floating):
        kind, most = type(value), float(np.finfo(type(value)).max)
        own = kind(min(dark, most))
        reached = value >= own and threshold <= most and value - own >= kind(threshold)
        return value - own if reached else 0
    top = int(np.iinfo(type(value)).max) - 1
    own = top if dark > top else round(max(dark, 0))
    left = int(value) - own
    return left if left >= 0 and left >= threshold else 0


def expected(image: NDArray[Any], dark: Any, threshold: Any) -> NDArray[Any]:
    """Return the image that dark and threshold, each a number or one a pixel, should leave."""
    dark, threshold = (np.broadcast_to(array, image.shape) for array in (dark, threshold))
    result, measured = image.copy(), valid(image)
    for place in zip(*np.nonzero(measured), strict=True):
        result[place] = above(image[place], dark[place].item(), threshold[place].item())
    return result


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threshold_is_not_inclusive(dtype: str) -> None:
    image = as_pixels(np.array([[0, 99, 100, 111, 112, 113]], dtype))
    found = uniform(100, 12, 6, image.dtype).subtracted(image)
    assert found.tolist() == [[0, 0, 0, 0, 12, 13]]
    assert found.dtype == image.dtype
    assert uniform(100, 0, 6, image.dtype).subtracted(image).tolist() == [[0, 0, 0, 11, 12, 13]]


@pytest.mark.parametrize(
    ("dtype", "raw", "left"),
    [
        ("u2", [65533, 65534, 65535, 99, 0], [65433, 65434, 65535, 0, 0]),
        ("i2", [32766, 32767, -1, -2, -32768], [32666, 32767, -1, -2, 0]),
        ("i1", [126, 127, -1, -2, -128], [26, 127, -1, -2, 0]),
        ("f4", [1e38, np.inf, -1, -2, -1e38], [np.float32(1e38), np.inf, -1, -2, 0]),
    ],
)
def test_marked_pixels_lose_their_mark_or_others_wrap(
    dtype: str, raw: list[float], left: list[float]
) -> None:
    image = as_pixels(np.array([raw], dtype))
    assert uniform(100, 12, 5, image.dtype).subtracted(image).tolist() == [left]
    dark = Dark(as_pixels(np.full((1, 5), 100, dtype)))
    assert recorded(dark, NORMAL, 12, None, image.dtype).subtracted(image).tolist() == [left]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), dark=LEVELS, threshold=LEVELS | st.just(np.nan))
def test_a_uniform_dark_differs_from_plain_numbers(
    dtype: str, data: st.DataObject, dark: float, threshold: float
) -> None:
    image = as_pixels(data.draw(images(dtype)))
    found = uniform(dark, threshold, image.shape[1], image.dtype).subtracted(image)
    np.testing.assert_array_equal(found, expected(image, dark, threshold), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), threshold=LEVELS, sigmas=st.none() | st.floats(0.1, 100))
def test_a_recorded_dark_differs_from_plain_numbers(
    dtype: str, data: st.DataObject, threshold: float, sigmas: float | None
) -> None:
    """Also of another type than the frames, and with noise that is not known everywhere."""
    image = as_pixels(data.draw(images(dtype)))
    other = data.draw(st.sampled_from([dtype, *DTYPES]))
    most = 1e6 if other == dtype else 6e4
    mean = as_pixels(data.draw(hnp.arrays(other, image.shape, elements=values(other, most))))
    rms = data.draw(
        hnp.arrays(
            "f4",
            image.shape,
            elements=st.floats(0, 300, width=32) | st.sampled_from([np.nan, np.inf]),
        )
    )
    found = recorded(Dark(mean, rms), NORMAL, threshold, sigmas, image.dtype).subtracted(image)
    limits = threshold if sigmas is None else np.maximum(np.float64(sigmas) * rms, 1)
    nowhere = np.where(np.isnan(mean), np.inf, mean) if mean.dtype.kind == "f" else mean
    np.testing.assert_array_equal(found, expected(image, np.maximum(nowhere, 0), limits))


def test_noise_gives_another_limit_than_so_many_sigmas() -> None:
    image = as_pixels(np.array([[101, 107, 108, 60000, 110]], np.uint16))
    rms = np.array([[0.01, 1.5, 1.5, np.nan, 2]], np.float32)
    dark = Dark(as_pixels(np.full((1, 5), 100, np.uint16)), rms)
    found = recorded(dark, NORMAL, 500, 5, image.dtype).subtracted(image)
    assert found.tolist() == [[1, 0, 8, 0, 10]]  # at least 1; 7.5 twice; never; 10
    quiet = as_pixels(np.full((1, 5), 100, np.uint16))
    assert not recorded(dark, NORMAL, 500, 5, image.dtype).subtracted(quiet).any()
    floats = as_pixels(np.array([[100.9, 101]], np.float32))
    still = Dark(as_pixels(np.full((1, 2), 100, np.float32)), np.full((1, 2), 0.01, np.float32))
    assert recorded(still, NORMAL, 0, 5, floats.dtype).subtracted(floats).tolist() == [[0, 1]]
    unknown = recorded(Dark(dark.mean), NORMAL, 500, 5, image.dtype).subtracted(image)
    assert unknown.tolist() == [[0, 0, 0, 59900, 0]]


def test_a_fraction_of_a_count_is_rounded_the_wrong_way() -> None:
    image = as_pixels(np.array([[111, 112, 113]], np.uint16))
    assert uniform(100, 11.01, 3, image.dtype).subtracted(image).tolist() == [[0, 12, 13]]
    assert uniform(100, 12.99, 3, image.dtype).subtracted(image).tolist() == [[0, 0, 13]]
    mean = as_pixels(np.array([[100.4, 100.5, 100.6]]))
    found = recorded(Dark(mean), NORMAL, 0, None, image.dtype).subtracted(image)
    assert found.tolist() == [[11, 12, 12]]


def test_a_pixel_without_dark_counts_as_if_it_were_light() -> None:
    """A dark of floats knows it as NaN; no value of an integer frame may be above it."""
    image = as_pixels(np.array([[50, 65534]], np.uint16))
    dark = Dark(as_pixels(np.array([[np.nan, np.nan]])))
    assert not recorded(dark, NORMAL, 1, None, image.dtype).subtracted(image).any()


@pytest.mark.parametrize("orientation", Orientation)
def test_the_dark_is_turned_otherwise_than_the_frames(orientation: Orientation) -> None:
    random = np.random.default_rng(3)
    raw = random.integers(90, 200, (5, 8)).astype(np.uint16)
    mean, rms = random.integers(80, 120, raw.shape).astype(np.uint16), random.random(raw.shape)
    dark = Dark(as_pixels(mean), (9 * rms).astype(np.float32))
    plain = recorded(dark, NORMAL, 0, 3, raw.dtype).subtracted(as_pixels(raw))
    image = as_pixels(orientation.apply(raw))
    found = recorded(dark, orientation, 0, 3, raw.dtype).subtracted(image)
    np.testing.assert_array_equal(found, orientation.apply(plain))
    assert 5 < np.count_nonzero(found) < 35


@pytest.mark.parametrize("dtype", ["u2", "u8", "i4", "f4"])
def test_the_form_of_memory_shows_or_the_frame_is_written_to(dtype: str) -> None:
    raw = np.random.default_rng(1).integers(90, 300, (6, 7)).astype(dtype)
    dark = Dark(as_pixels(np.random.default_rng(2).integers(90, 110, raw.shape).astype(dtype)))
    kind = as_pixels(raw).dtype
    want = expected(as_pixels(raw), dark.mean, 12)
    for form, image in forms(raw):
        before = image.copy()
        found = recorded(dark, NORMAL, 12, None, kind).subtracted(as_pixels(image))
        np.testing.assert_array_equal(found, want, err_msg=form)
        np.testing.assert_array_equal(image, before, err_msg=form)
        assert not np.shares_memory(found, image) and found.flags.writeable
