"""The background of a frame in one pass over its pixels.

Most pixels of a frame are background that no band of the clipping would ever take
away and no threshold would ever keep. So each ring has an inner range, guessed from
a sample of its pixels; pixels inside are summed as they go by, and all others become
*candidates*, some percent of the frame, which alone are clipped and picked from. The
guess decides how long it takes, not what comes out: where a band turns out to end
within the inner range, all pixels of that ring are clipped one by one.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.formula import Formula
from ..azimuthal.limits import Limits, is_usable
from ..compute.jit import kernel
from .clipping import ROOT_TWO_PI, Background, Clipping, Model, Sums, clip_ring, variance_term
from .guessing import guess
from .layout import Layout, Scratch, dark_at, formula_at, norm_at, value_at

REACH = 2.5
"""Half the inner range in deviations, at most."""
CLOSE = 1e-9
"""Share of an end of an inner range by which a band must lie outside, for rounding."""


class Clipper:
    """Takes the background of frames.

    Parameters
    ----------
    layout
        The rings.
    clipping
        How they are clipped.
    formula
        Variance of a pixel; None: another error model.
    cutoff_pick
        What is to be kept of the candidates lies so many deviations above.
    """

    def __init__(
        self, layout: Layout, clipping: Clipping, formula: Formula | None, cutoff_pick: float
    ) -> None:
        self.layout, self.clipping, self._formula = layout, clipping, formula
        self._local = threading.local()
        chauvenet = np.sqrt(2 * np.log(np.maximum(layout.count, 3) / ROOT_TWO_PI))
        cutoff = np.maximum(clipping.cutoff, chauvenet)
        self._reach = np.minimum(min(REACH, 0.83 * cutoff_pick), 0.75 * cutoff)

    def clip(self, pixels: NDArray[Any], limits: Limits) -> tuple[Background, Scratch]:
        """Return the background, and the scratch that the candidates lie in.

        Parameters
        ----------
        pixels
            As `as_pixels` gives them, flat.
        limits
            Which of them count.
        """
        layout, clipping = self.layout, self.clipping
        scratch = self._scratch(pixels.dtype)
        scratch.clear()
        self._evaluate(pixels, scratch)
        guess(
            pixels, layout.norm, layout.dark, limits, layout.sample, layout.count,
            layout.norm_sum, layout.norm_squared, self._reach, clipping.model, clipping.tables,
            scratch.whole, scratch.reference, scratch.window, scratch.low, scratch.high,
        )  # fmt: skip
        self._scan(pixels, limits, scratch)
        average, deviation = (np.empty(layout.bins, np.float32) for _ in range(2))
        count, totals = np.empty(layout.bins, np.int64), np.empty((2, layout.bins))
        clip_rings(
            pixels, layout.norm, layout.dark, scratch.formula, limits,
            layout.order, layout.start, layout.norm_sum, layout.norm_squared,
            scratch.by_ring, scratch.values, scratch.begin, scratch.low, scratch.high,
            scratch.reference, scratch.window, scratch.sums(), scratch.whole,
            scratch.pixels, clipping, average, deviation, count, totals,
        )  # fmt: skip
        return Background(average, deviation, count, totals), scratch

    def _scratch(self, dtype: np.dtype[Any]) -> Scratch:
        local = self._local
        if not hasattr(local, "scratch") or local.dtype != dtype:
            local.scratch = Scratch(self.layout, dtype, Model(self.clipping.model))
            local.dtype = dtype
        scratch: Scratch = local.scratch
        return scratch

    def _evaluate(self, pixels: NDArray[Any], scratch: Scratch) -> None:
        """Evaluate the formula of the variance."""
        if self._formula is not None and scratch.formula is not None:
            self._formula(pixels, scratch.formula)

    def _scan(self, pixels: NDArray[Any], limits: Limits, scratch: Scratch) -> None:
        """Sum up the inner ranges; sort all else by rings."""
        layout = self.layout
        if scratch.whole:
            origin = scratch.reference.astype(np.int64)
            as_words(scratch.low, scratch.high, scratch.bottom, scratch.span)
            number = scan_counts(
                pixels, layout.ring, scratch.bottom, scratch.span, origin, scratch.signal,
                scratch.terms, scratch.squares, scratch.found,
            )  # fmt: skip
            take_off(
                pixels, scratch.found, number, layout.ring, origin, scratch.signal,
                scratch.terms, scratch.squares,
            )  # fmt: skip
        else:
            number = scan_any(
                pixels, layout.ring, layout.norm, layout.dark, scratch.formula, limits,
                self.clipping.model, scratch.low, scratch.high, scratch.reference,
                scratch.signal, scratch.terms, scratch.squares, scratch.shifted, scratch.found,
            )  # fmt: skip
        sort_by_ring(
            pixels, scratch.found, number, layout.ring, scratch.begin, scratch.by_ring,
            scratch.values,
        )  # fmt: skip


# -------------------------------------------------------------------- the pass


@kernel
def as_words(low: Any, high: Any, bottom: Any, span: Any) -> None:
    """Write ranges of whole numbers as least value and number of values, modulo 2^32."""
    for ring in range(low.size):
        bottom[ring] = np.uint32(int(low[ring]))
        span[ring] = np.uint32(max(int(high[ring]) - int(low[ring]) + 1, 0))


@kernel
def scan_counts(
    pixels: Any, rings: Any, bottom: Any, span: Any, origin: Any, signal: Any, terms: Any,
    squares: Any, found: Any,
) -> int:  # fmt: skip
    """Sum up all pixels, of up to 4 bytes; gather those outside the inner ranges.

    What it sums too much is taken off later. All sums are of whole numbers and modulo
    2^64, so nothing of those inside is lost, however large the others are; and no sum
    waits for a comparison.
    """
    number = 0
    for pixel in range(pixels.size):
        value, ring = pixels[pixel], rings[pixel]
        outside = np.uint32(np.uint32(value) - bottom[ring]) >= span[ring]
        signal[ring] += np.int64(value)
        if terms is not None:
            terms[ring] += max(np.int64(value), 1)
        if squares is not None:
            distance = np.int64(value) - origin[ring]
            squares[ring] += distance * distance
        found[number] = pixel
        number += outside
    return number


@kernel
def take_off(
    pixels: Any, found: Any, number: int, rings: Any, origin: Any, signal: Any, terms: Any,
    squares: Any,
) -> None:  # fmt: skip
    """Take off what was summed of pixels outside."""
    for index in range(number):
        pixel = found[index]
        value, ring = np.int64(pixels[pixel]), rings[pixel]
        signal[ring] -= value
        if terms is not None:
            terms[ring] -= max(value, 1)
        if squares is not None:
            distance = value - origin[ring]
            squares[ring] -= distance * distance


@kernel
def scan_any(
    pixels: Any, rings: Any, norm: Any, dark: Any, formula: Any, limits: Any, model: int,
    low: Any, high: Any, reference: Any, signal: Any, terms: Any, squares: Any, shifted: Any,
    found: Any,
) -> int:  # fmt: skip
    """Sum up pixels in the inner ranges, of I / normalization; gather the others."""
    number = 0
    bins = low.size
    for pixel in range(pixels.size):
        value, ring = pixels[pixel], np.int64(rings[pixel])
        if ring == bins:
            continue
        weight, offset = norm_at(norm, pixel), dark_at(dark, pixel)
        counts = float(value) - offset
        inside = (counts >= low[ring] * weight) & (counts <= high[ring] * weight)
        outside = not (inside & is_usable(value, limits))
        # Pixels outside are summed as well, where nobody looks: that needs no branch.
        place = ring + (bins + 1) * outside
        signal[place] += counts
        if terms is not None:
            terms[place] += variance_term(model, value, offset, formula_at(formula, pixel))
        if squares is not None:
            distance = counts - reference[ring] * weight
            squares[place] += distance * distance
            shifted[place] += distance * weight
        found[number] = pixel
        number += outside
    return number


@kernel
def sort_by_ring(
    pixels: Any, found: Any, number: int, rings: Any, begin: Any, by_ring: Any, values: Any
) -> None:
    """Put candidates in order of rings, keeping the order of places; `begin` tells where each is.

    Those on no ring are left out.
    """
    bins = begin.size - 1
    ends = np.zeros(bins + 2, np.int64)
    for index in range(number):
        ends[np.int64(rings[found[index]]) + 1] += 1
    for ring in range(bins):
        ends[ring + 1] += ends[ring]
        begin[ring + 1] = ends[ring + 1]
    for index in range(number):
        pixel = found[index]
        home = np.int64(rings[pixel])
        if home < bins:
            by_ring[ends[home]], values[ends[home]] = pixel, pixels[pixel]
            ends[home] += 1


# ------------------------------------------------------------------- the rings


@kernel
def clip_rings(
    pixels: Any, norm: Any, dark: Any, formula: Any, limits: Any, order: Any, start: Any,
    norm_sum: Any, norm_squared: Any, by_ring: Any, values: Any, begin: Any, low: Any, high: Any,
    reference: Any, window: Any, sums: Any, whole: bool, room: Any, clipping: Any, average: Any,
    deviation: Any, count: Any, totals: Any,
) -> None:  # fmt: skip
    """Clip every ring: its candidates, or all its pixels where a band ends too far inside."""
    model = clipping.model
    nothing = Sums(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for ring in range(average.size):
        first, end = begin[ring], begin[ring + 1]
        number, weight, weight_squared = load(
            values, None, norm, dark, formula, limits, model, by_ring, first, end, room
        )
        inside = start[ring + 1] - start[ring] - (end - first)
        base = nothing
        if inside > 0:
            signal, term, square, about = sums[ring]
            rest = norm_sum[ring] - weight
            if whole:
                about = signal - reference[ring] * rest
            base = Sums(
                inside, signal, rest, norm_squared[ring] - weight_squared, term, about, square
            )
        totals[0, ring], totals[1, ring] = base.signal, base.norm
        for index in range(number):
            totals[0, ring] += room.signal[index]
            totals[1, ring] += room.norm[index]
        clipped = clip_ring(base, room, number, reference[ring], window[ring], clipping)
        if inside > 0 and (
            clipped.lowest > low[ring] - CLOSE * abs(low[ring])
            or clipped.highest < high[ring] + CLOSE * abs(high[ring])
            or high[ring] - reference[ring] > window[ring]
            or reference[ring] - low[ring] > window[ring]
        ):
            number, _, _ = load(
                pixels, order, norm, dark, formula, limits, model, order, start[ring],
                start[ring + 1], room,
            )  # fmt: skip
            clipped = clip_ring(nothing, room, number, reference[ring], window[ring], clipping)
        average[ring], deviation[ring] = clipped.average, clipped.deviation
        count[ring] = clipped.number


@kernel
def load(
    values: Any, at: Any, norm: Any, dark: Any, formula: Any, limits: Any, model: int,
    places: Any, first: int, end: int, room: Any,
) -> tuple[int, float, float]:  # fmt: skip
    """Load pixels that are usable; return their number, and norm and norm^2 of usable or not.

    Their values lie in the order of their places, or, with `at`, at the places it tells.
    """
    number, total, squared = 0, 0.0, 0.0
    for index in range(first, end):
        pixel = places[index]
        value = value_at(values, at, index)
        weight = norm_at(norm, pixel)
        total += weight
        squared += weight * weight
        if is_usable(value, limits):
            offset = dark_at(dark, pixel)
            counts = float(value) - offset
            room.value[number] = counts / weight
            room.signal[number] = counts
            room.norm[number] = weight
            room.variance[number] = variance_term(model, value, offset, formula_at(formula, pixel))
            number += 1
    return number, total, squared
