"""What the clipping of frames keeps: the pixels of each ring, and memory for a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..azimuthal.once import built_once
from ..azimuthal.rings import Rings
from ..compute.jit import kernel
from .clipping import Floats, Model, Pixels

SAMPLE = 32
"""Pixels of a ring that its start is guessed from."""
NOBODY = (1 << 31) + 12345
"""Least value but one of the range of what is on no ring: it goes round to the one before."""

Index = NDArray[np.uint32]


class Layout:
    """What is the same for all frames: which pixels a ring has, and a sample of them.

    A pixel whose normalization is not positive, or whose normalization, dark or
    radius is no number, is left out.
    """

    def __init__(self, rings: Rings) -> None:
        ring, bins = rings.ring, rings.bins
        self.bins = bins
        self.norm, self.dark = rings.normalization, rings.dark
        self.radius = np.ascontiguousarray(rings.radius, np.float32).ravel()
        good = np.isfinite(self.radius)
        if self.norm is not None:
            good &= (self.norm > 0) & np.isfinite(self.norm)
        if self.dark is not None:
            good &= np.isfinite(self.dark)
        self.ring = np.where(good, ring, ring.dtype.type(bins))
        counts = np.bincount(self.ring, minlength=bins + 1)[:bins]
        self.start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """First pixel of each ring in `order`, and the end, (bins + 1,)."""
        order = np.argsort(self.ring, kind="stable")[: self.start[-1]]
        self.order: Index = order.astype(np.uint32)
        """Pixels by ring, then by place."""
        self.count = counts.astype(np.int64)
        weight = None if self.norm is None else self.norm.astype(np.float64)
        self.norm_sum = self._sum(weight)
        self.norm_squared = self._sum(None if weight is None else weight * weight)
        self.largest_norm = np.ones(bins)
        if self.norm is not None:
            self.largest_norm[:] = 0
            np.maximum.at(self.largest_norm, self.ring[self.order], self.norm[self.order])
        steps = np.minimum(self.count, SAMPLE)[:, None]
        nth = np.arange(SAMPLE) * self.count[:, None] // np.maximum(steps, 1)
        place = np.minimum(self.start[:-1, None] + nth, max(order.size - 1, 0))
        self.sample: Index = self.order[place] if order.size else np.zeros_like(place, np.uint32)
        """Pixels spread over each ring, (bins, SAMPLE); of few pixels the first `count` hold."""

    def _sum(self, weight: Floats | None) -> Floats:
        sums = np.bincount(self.ring, weight, minlength=self.bins + 1)[: self.bins]
        return sums.astype(np.float64)


@built_once(maxsize=4)
def layout(rings: Rings) -> Layout:
    """Return the layout of rings; the same one again for the same rings."""
    return Layout(rings)


class Scratch:
    """Memory of one thread for one layout: as pages are touched, they are taken."""

    def __init__(self, layout: Layout, dtype: DTypeLike, model: Model) -> None:
        size, bins = layout.ring.size, layout.bins
        kind = np.dtype(dtype)
        plain = layout.norm is None and layout.dark is None and model is not Model.FORMULA
        self.whole = plain and kind.kind in "iu" and kind.itemsize < 8
        """True if all sums are of whole numbers: see `scan_counts`."""
        self.found: Index = np.empty(size + 1, np.uint32)
        """Candidates in order of place; one more is written and not counted."""
        self.by_ring: Index = np.empty(size, np.uint32)
        self.values = np.empty(size, kind)
        """The pixels `by_ring`."""
        self.begin = np.zeros(bins + 1, np.int64)
        """First candidate of each ring in `by_ring`, and the end."""
        self.kept: Index = np.empty(size, np.uint32)
        self.low, self.high = np.zeros(bins), np.zeros(bins)
        self.reference, self.window = np.zeros(bins), np.zeros(bins)
        self.bottom, self.span = (np.empty(bins + 1, np.uint32) for _ in range(2))
        self.bottom[bins], self.span[bins] = NOBODY, np.iinfo(np.uint32).max
        squared = model in (Model.AZIMUTHAL, Model.HYBRID)
        termed = model in (Model.CLASSIC, Model.HYBRID, Model.FORMULA)
        termed |= model is Model.POISSON and layout.dark is not None
        sums, room = np.int64 if self.whole else np.float64, 2 * (bins + 1)
        self.signal: NDArray[Any] = np.zeros(room, sums)
        """Sums of pixels in the inner range of each ring; then what is not used."""
        self.terms: NDArray[Any] | None = np.zeros(room, sums) if termed else None
        self.squares: NDArray[Any] | None = np.zeros(room, sums) if squared else None
        self.shifted = np.zeros(room) if squared and not self.whole else None
        self.formula = np.empty(size) if model is Model.FORMULA else None
        most = max(int(layout.count.max(initial=0)), 1)
        self.pixels = Pixels(np.empty(most), np.empty(most), np.empty(most), np.empty(most))

    def clear(self) -> None:
        """Set the sums to 0."""
        for sums in self._sums:
            if sums is not None:
                sums[:] = 0

    def sums(self) -> Floats:
        """Return the sums of the inner ranges, (bins, 4): signal, terms, squares, shifted."""
        bins = self.low.size
        table = np.zeros((bins, 4))
        for column, sums in enumerate(self._sums):
            if sums is not None:
                table[:, column] = sums[:bins]
        return table

    @property
    def _sums(self) -> tuple[NDArray[Any] | None, ...]:
        return self.signal, self.terms, self.squares, self.shifted


# ------------------------------------------------------------------- one pixel


@kernel
def norm_at(norm: Any, pixel: Any) -> float:
    """Return the normalization of a pixel."""
    if norm is None:
        return 1.0
    return float(norm[pixel])


@kernel
def dark_at(dark: Any, pixel: Any) -> float:
    """Return the dark of a pixel."""
    if dark is None:
        return 0.0
    return float(dark[pixel])


@kernel
def formula_at(formula: Any, pixel: Any) -> float:
    """Return the variance of a pixel by a formula."""
    if formula is None:
        return 0.0
    return float(formula[pixel])


@kernel
def value_at(values: Any, at: Any, index: Any) -> Any:
    """Return the value of the pixel number `index`: in that order, or at the place `at` tells."""
    if at is None:
        return values[index]
    return values[at[index]]
