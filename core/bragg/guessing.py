"""First guess of the background of each ring, from a sample of its pixels.

It gives the reference and the window of `clipping`, and the inner range of `candidates`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..azimuthal.limits import is_usable
from ..compute.jit import kernel
from .clipping import CLASSIC, LN_2, MAD, POISSON, WINDOW
from .layout import SAMPLE, dark_at, norm_at
from .quantile import limits_of_clipping

WIDEST = 1 << 19
"""Most whole numbers in an inner range: squares of so many fit into 8 bytes."""


@kernel
def guess(
    pixels: Any, norm: Any, dark: Any, limits: Any, sample: Any, count: Any, norm_sum: Any,
    norm_squared: Any, reach: Any, model: int, tables: Any, whole: bool, reference: Any,
    window: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """Guess where the background of each ring lies: reference, window, inner range."""
    values, distances = np.empty(SAMPLE), np.empty(SAMPLE)
    for ring in range(count.size):
        number = take_sample(pixels, norm, dark, limits, sample[ring], count[ring], values)
        low[ring], high[ring] = 1.0, 0.0
        if number == 0:
            reference[ring], window[ring] = 0.0, np.inf
            continue
        sort(values, number)
        middle, upper = values[(number - 1) // 2], values[number // 2]
        if abs(upper) < abs(middle):
            middle = upper
        for index in range(number):
            distances[index] = abs(values[index] - middle)
        sort(distances, number)
        scatter = MAD * distances[(number - 1) // 2]
        weight = norm_squared[ring] / norm_sum[ring]
        lift = LN_2 / weight
        near = lift + WINDOW * max(scatter, math.sqrt((abs(middle) + lift) / weight))
        reference[ring], window[ring] = middle, near
        if count[ring] >= 2 * SAMPLE:
            first, last = inner(
                values, number, middle, near, scatter, weight, reach[ring], model, tables
            )
            if whole:
                first, last = usable_range(first, last, middle, limits)
            low[ring], high[ring] = first, last


@kernel
def take_sample(
    pixels: Any, norm: Any, dark: Any, limits: Any, places: Any, count: int, values: Any
) -> int:
    """Take the values of the usable pixels of a sample; return their number."""
    number = 0
    for index in range(min(count, SAMPLE)):
        pixel = places[index]
        signal = float(pixels[pixel]) - dark_at(dark, pixel)
        values[number] = signal / norm_at(norm, pixel)
        number += is_usable(pixels[pixel], limits)
    return number


@kernel
def sort(values: Any, number: int) -> None:
    """Sort the first, few values."""
    for end in range(1, number):
        value, place = values[end], end
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@kernel
def inner(
    values: Any,
    number: int,
    middle: float,
    near: float,
    scatter: float,
    weight: float,
    reach: float,
    model: int,
    tables: Any,
) -> tuple[float, float]:
    """Return a range well within all bands and below all thresholds, as far as a sample tells."""
    total, used = 0.0, 0
    for index in range(number):
        if abs(values[index] - middle) <= near:
            total += values[index]
            used += 1
    mean = total / used
    if model not in (POISSON, CLASSIC) and scatter > 0:
        error = 2 * scatter / math.sqrt(used)
        return mean + error - reach * scatter, mean - error + reach * scatter
    least = 1.0 if model == CLASSIC else 0.0
    error = 2 * math.sqrt(max(mean, least, 1 / (used * weight)) / (weight * used))
    lower, upper = max(mean - error, 0.0), max(mean + error, 0.0)
    first = upper - reach * math.sqrt(max(upper, least) / weight)
    last = lower + reach * math.sqrt(max(lower, least) / weight)
    if model == POISSON:
        first = upper - limits_of_clipping(tables, reach, upper * weight)[0] / weight
        last = lower + limits_of_clipping(tables, reach, lower * weight)[1] / weight
    if values[0] >= 0:
        first = max(first, 0.0)
    return first, last


@kernel
def usable_range(first: float, last: float, middle: float, limits: Any) -> tuple[float, float]:
    """Return the whole numbers about the middle, within a range, that all count."""
    first = max(math.ceil(first), float(limits.lowest))
    last = min(math.floor(last), float(limits.highest))
    for start, end in (
        (float(limits.masked_low), float(limits.masked_high)),
        (float(limits.overflow_low), float(limits.overflow_high)),
        (float(limits.dummy_low), float(limits.dummy_high)),
    ):
        if start <= end and end < middle:
            first = max(first, end + 1)
        elif start <= end:
            last = min(last, start - 1)
    if last - first > WIDEST:
        return 1.0, 0.0
    return first, last
