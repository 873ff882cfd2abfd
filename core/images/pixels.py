"""Kernels that touch every pixel of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from ..compute.jit import kernel
from ..marks import Marks, Mask, Pixels, Rectangle, is_overflow, is_valid, marks, sum_type


@kernel
def add_frame(
    frame: Pixels,
    marks: Marks,
    mask: Mask,
    total: Pixels,
    missing: NDArray[np.uint32] | None,
    zero: Any,
) -> tuple[int, int, Any]:
    """Add the valid pixels of a frame to a sum, reading the frame once.

    Parameters
    ----------
    frame
        (rows, columns), as from `as_pixels`.
    marks
        Of the frame's type.
    mask
        (rows, columns), True where a pixel is not to be used.
    total
        (rows, columns) int64 or float64, added to in place.
    missing
        (rows, columns) times that a pixel was not valid, counted up in place; or None.
    zero
        0 of the type of `total`.

    Returns
    -------
    Number of pixels not added, number of those marked as overflow outside the
    mask, and the sum of what was added.
    """
    invalid, overflow, added = 0, 0, zero
    for row in range(frame.shape[0]):
        pixels, masked, sums = frame[row], mask[row], total[row]
        good = 0
        # Without a branch, so that it vectorises: three times as fast.
        for column in range(pixels.size):
            valid = is_valid(pixels[column], marks) & (not masked[column])
            value = pixels[column] if valid else zero
            sums[column] += value
            added += value
            good += valid
        if good == pixels.size:
            continue
        invalid += pixels.size - good
        # Once more over the row, which is still in the cache.
        for column in range(pixels.size):
            shown = not masked[column]
            overflow += is_overflow(pixels[column], marks) & shown
            if missing is not None:
                missing[row, column] += not (is_valid(pixels[column], marks) & shown)
    return invalid, overflow, added


@kernel
def divide(frame: Pixels, marks: Marks, divisor: float, quotient: Pixels) -> None:
    """Divide the valid pixels of a float frame; marked ones keep their mark."""
    for row in range(frame.shape[0]):
        pixels, results = frame[row], quotient[row]
        for column in range(pixels.size):
            value = pixels[column]
            results[column] = value / divisor if is_valid(value, marks) else value


class Sums(NamedTuple):
    """Of the valid pixels of a rectangle; where there are none, `least` is above `most`."""

    number: int
    total: Any
    """An int, exact and of any size, for integers; else a float."""
    least: Any
    most: Any


def first_moments(frame: Pixels, mask: Mask, rectangle: Rectangle) -> Sums:
    """Return number, sum, minimum and maximum of the valid pixels of a rectangle."""
    kind, zero = marks(frame.dtype), sum_type(frame.dtype).type(0)
    number, total, least, most = _first_moments(frame, kind, mask, rectangle, zero)
    if frame.dtype.kind != "f" and number * max(most, -least) >= 2**63:
        # It may have wrapped. The upper halves' sum cannot, and the lower halves' is too
        # small to: of at most 2**28 pixels it is less than 2**60.
        upper = _upper_halves(frame, kind, mask, rectangle) << 32
        total = upper + (total - upper) % 2**64
    return Sums(number, total, least, most)


@kernel
def _first_moments(
    frame: Pixels, marks: Marks, mask: Mask, rectangle: Rectangle, zero: Any
) -> tuple[int, Any, Any, Any]:
    """Return the same, summed in the type of `zero`."""
    top, bottom, left, right = rectangle
    number, total = 0, zero
    least, most = marks.highest, marks.lowest
    for row in range(top, bottom):
        pixels = frame[row, left:right]
        for column in range(pixels.size):
            value = pixels[column]
            if is_valid(value, marks) & (not mask[row, left + column]):
                number += 1
                total += value
                least = value if value < least else least
                most = value if value > most else most
    return number, total, least, most


@kernel
def _upper_halves(frame: Pixels, marks: Marks, mask: Mask, rectangle: Rectangle) -> int:
    """Return the sum of the upper four bytes of valid eight-byte integers."""
    top, bottom, left, right = rectangle
    total = 0
    for row in range(top, bottom):
        pixels = frame[row, left:right]
        for column in range(pixels.size):
            value = pixels[column]
            if is_valid(value, marks) & (not mask[row, left + column]):
                total += value >> 32
    return total


Level = float | tuple[int, float]
"""A brightness: a float; or, beside integers that no float holds, an int less a share of 1."""


def mean_level(sums: Sums, dtype: np.dtype[Any]) -> Level:
    """Return the mean of at least one pixel of a type, as `second_moments` takes it."""
    if dtype.kind == "f" or dtype.itemsize < 8:
        return float(sums.total / sums.number)
    ceiling = -(-sums.total // sums.number)
    return ceiling, (ceiling * sums.number - sums.total) / sums.number


def distance(value: Any, level: Any) -> float:
    """Return how far a pixel is above a `Level`; in kernels only."""
    raise NotImplementedError


@overload(distance)
def _distance(value: Any, level: Any) -> Callable[[Any, Any], Any]:
    return _exact_distance if isinstance(level, types.BaseTuple) else _float_distance


def _float_distance(value: Any, level: Any) -> Any:
    return value - level


def _exact_distance(value: Any, level: Any) -> Any:
    # Rounded only once the large numbers are gone; without a sign, no difference wraps.
    ceiling, less = level
    if value >= ceiling:
        return np.float64(np.uint64(value) - np.uint64(ceiling)) + less
    return less - np.float64(np.uint64(ceiling) - np.uint64(value))


@kernel
def second_moments(
    frame: Pixels,
    marks: Marks,
    mask: Mask,
    rectangle: Rectangle,
    mean: Level,
    background: Level,
) -> tuple[float, float, float, float]:
    """Return sums over the valid pixels of a rectangle.

    Returns
    -------
    The squared distances from `mean`; the weight, that is what is above
    `background`, pixels below counting as nothing; and the weight times the row
    and times the column, counted from the rectangle's corner.
    """
    top, bottom, left, right = rectangle
    squares, weight, along_y, along_x = 0.0, 0.0, 0.0, 0.0
    for row in range(top, bottom):
        pixels = frame[row, left:right]
        row_weight = 0.0
        for column in range(pixels.size):
            value = pixels[column]
            if is_valid(value, marks) & (not mask[row, left + column]):
                away = distance(value, mean)
                squares += away * away
                above = max(distance(value, background), 0.0)
                row_weight += above
                along_x += above * column
        weight += row_weight
        along_y += row_weight * (row - top)
    return squares, weight, along_y, along_x
