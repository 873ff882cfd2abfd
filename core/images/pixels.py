"""Kernels that touch every pixel of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel
from ..marks import Marks, Mask, Pixels, Rectangle, is_overflow, is_valid


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


@kernel
def first_moments(
    frame: Pixels, marks: Marks, mask: Mask, rectangle: Rectangle, zero: Any
) -> tuple[int, Any, Any, Any]:
    """Return number, sum, minimum and maximum of the valid pixels of a rectangle.

    `zero` is 0 of the type to sum in. Where no pixel is valid, the minimum is
    above the maximum.
    """
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
def second_moments(
    frame: Pixels,
    marks: Marks,
    mask: Mask,
    rectangle: Rectangle,
    mean: float,
    background: float,
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
                squares += (value - mean) * (value - mean)
                above = max(value - background, 0.0)
                row_weight += above
                along_x += above * column
        weight += row_weight
        along_y += row_weight * (row - top)
    return squares, weight, along_y, along_x
