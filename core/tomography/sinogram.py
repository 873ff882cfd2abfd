"""What a pattern adds to a sinogram: the sum over a radial range, with or without background."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
MOST_RANGES = 32
WHOLE = "all"
"""Name of the sum over the whole pattern; no range may have it."""


@dataclass(frozen=True, slots=True)
class RadialRange:
    """Bins whose centres lie from low to high, both included, in the unit of the radial axis."""

    name: str
    low: float = -math.inf
    high: float = math.inf


class RangeSums:
    """Sums patterns over radial ranges, all at once.

    Parameters
    ----------
    ranges
        May overlap.
    radial
        Bin centres, (bins,), ascending.
    background
        Subtract from each range a straight line through the means of half a range's
        width on either side; of one side alone where the other has no value.
    """

    def __init__(self, ranges: Sequence[RadialRange], radial: Floats, background: bool) -> None:
        self._radial, self._background = radial, background
        low = np.array([each.low for each in ranges])
        high = np.array([each.high for each in ranges])
        half = (high - low) / 2
        self._first = np.searchsorted(radial, low, "left")
        self._last = np.searchsorted(radial, high, "right")
        self._before = np.searchsorted(radial, low - half, "left")
        self._after = np.searchsorted(radial, high + half, "right")

    def of(self, patterns: NDArray[Any]) -> Floats:
        """Return the sums of patterns, (..., ranges); NaN where no bin of a range has a value.

        Parameters
        ----------
        patterns
            (..., bins); NaN where a bin has no value, which then adds nothing.
        """
        there = np.isfinite(patterns)
        # Sums up to each bin: that over a range is the difference of two.
        values = _running(np.where(there, patterns, 0))
        numbers, places = _running(there), _running(there * self._radial)

        def part(first: NDArray[Any], last: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
            """Return sum and number of the values there, and their mean radius."""
            total, number, place = (
                each[..., last] - each[..., first] for each in (values, numbers, places)
            )
            return total, number, place / number

        with np.errstate(invalid="ignore", divide="ignore"):
            total, number, place = part(self._first, self._last)
            if self._background:
                below, above = part(self._before, self._first), part(self._last, self._after)
                total = total - number * _level(below, above, place)
        return np.where(number > 0, total, np.nan)


def _running(values: NDArray[Any]) -> Floats:
    """Return the sums of the values before each place along the last axis, and of all."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, dtype=np.float64, out=sums[..., 1:])
    return sums


def _level(
    below: tuple[Floats, Floats, Floats], above: tuple[Floats, Floats, Floats], place: Floats
) -> Floats:
    """Return the line through the means of both sides at a place; 0 where there is neither.

    A side is the sum and number of its values, and their mean radius.
    """
    low, high = below[0] / below[1], above[0] / above[1]
    line = low + (place - below[2]) / (above[2] - below[2]) * (high - low)
    alone = np.where(below[1] > 0, low, np.where(above[1] > 0, high, 0.0))
    return np.where((below[1] > 0) & (above[1] > 0), line, alone)


def parse_ranges(texts: Sequence[str]) -> tuple[RadialRange, ...]:
    """Return the ranges that texts such as `ceria=10.2,11` name.

    Raises
    ------
    ValueError
        In one sentence.
    """
    ranges = tuple(map(_parse_range, texts))
    names = [each.name for each in ranges]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"there are two ranges named {name}")
    return ranges


def without_bins(ranges: Sequence[RadialRange], radial: Floats) -> list[str]:
    """Return a sentence for each range in which no bin centre of `radial` (bins,) lies."""
    return [
        f"radial range {each.name} ({each.low:g} to {each.high:g}) holds no point of the patterns, "
        f"which lie from {radial[0]:.6g} to {radial[-1]:.6g}"
        for each in ranges
        if not ((radial >= each.low) & (radial <= each.high)).any()
    ]


def _parse_range(text: str) -> RadialRange:
    name, _, numbers = text.partition("=")
    name = name.strip()
    if not NAME.fullmatch(name) or name == WHOLE:
        raise ValueError(
            f"{name!r:.40} is no name for a range: a letter, then at most 31 letters, digits, "
            f"_ or -, and not {WHOLE}"
        )
    try:
        low, high = map(float, numbers.split(","))
    except ValueError:
        raise ValueError(f"{text!r:.60} is not of the form name=low,high") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range {name} goes from {low:g} to {high:g}: the lower end comes first")
    return RadialRange(name, low, high)
