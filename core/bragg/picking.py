"""Picking of what stands out from the background: Bragg pixels, kept as they were recorded.

A pixel is kept if it stands out by `cutoff_pick` (see `thresholds`) from the background
as it is told, in single precision. Only candidates are looked at (see `candidates`), and
of them only those that reach the least threshold of their ring.

What is saturated (at the top of its type) is kept as well, wherever it lies on a ring:
nobody knows how much it counted, so it is part of no background and no peak, but who
reads the frame sees that there was more than the detector counts.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.decoding import Lend
from ..azimuthal.errors import ErrorModel
from ..azimuthal.formula import Formula
from ..azimuthal.limits import Limits, is_saturated, is_usable, pixel_limits
from ..azimuthal.once import built_once
from ..azimuthal.rings import Rings
from ..compute.jit import kernel
from ..marks import as_pixels
from .candidates import CLOSE, Clipper
from .clipping import Background, Clipping, chauvenet, clipping_model
from .layout import Index, Scratch, dark_at, layout, norm_at, value_at
from .peaks import Peaks, PeakSettings, find_peaks
from .quantile import clipping_tables
from .thresholds import (
    Profile,
    Rule,
    View,
    background_at,
    distance,
    least_thresholds,
    make_profile,
    make_rule,
)


@dataclass(frozen=True, slots=True)
class Sparsifying:
    """How frames are sparsified; `clipping` and `thresholds` tell what each setting does.

    Raises
    ------
    ValueError
        In one sentence, if a setting is out of its range.
    """

    cycles: int = 5
    """Times that outliers are clipped, at most."""
    cutoff_clip: float = 0.0
    cutoff_pick: float = 3.0
    noise: float = 1.0
    """In units of I / normalization."""
    error_model: ErrorModel | Formula = ErrorModel.POISSON
    peaks: PeakSettings | None = None
    """How peaks are looked for; None: not."""

    def __post_init__(self) -> None:
        if self.cycles < 0:
            raise ValueError(f"the number of clipping cycles is {self.cycles}, less than 0")
        for name in ("cutoff_clip", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, not a number from 0 on")
        if not 0 < self.cutoff_pick < math.inf:
            raise ValueError(f"cutoff_pick is {self.cutoff_pick}, not a number above 0")
        clipping_model(self.error_model)


@dataclass(frozen=True, slots=True, eq=False)
class SparseFrame:
    """What is kept of a frame."""

    index: Index
    """Places of the pixels in the flat frame, sorted, (n,)."""
    intensity: NDArray[Any]
    """Their values as recorded, in the frame's own type but for half precision, (n,)."""
    background: Background
    peaks: Peaks | None
    """None: not looked for."""


class Sparsifier:
    """Sparsifies frames; many threads may at the same time.

    Parameters
    ----------
    rings
        The rings and all corrections.
    settings
        How.
    """

    def __init__(self, rings: Rings, settings: Sparsifying) -> None:
        model = clipping_model(settings.error_model)
        self.rings, self.settings = rings, settings
        self._layout = layout(rings)
        if self._layout.ring.size > np.iinfo(np.uint32).max:
            raise ValueError("frames of 2^32 pixels or more cannot be sparsified")
        most = chauvenet(int(self._layout.count.max(initial=0)), settings.cutoff_clip)
        tables = clipping_tables(most)
        clipping = Clipping(int(model), settings.cycles, settings.cutoff_clip, tables)
        formula = settings.error_model if isinstance(settings.error_model, Formula) else None
        self._clipper = Clipper(self._layout, clipping, formula, settings.cutoff_pick)
        self._rule = make_rule(model, settings.cutoff_pick, settings.noise)
        self._peak_rule: Rule | None = None
        if settings.peaks is not None:
            self._peak_rule = make_rule(model, settings.peaks.stands_out, settings.noise)
        self.lend: Lend | None = None
        """What frames are best decoded into; None: anything."""
        self._local = threading.local()

    def sparsify(self, image: NDArray[Any]) -> SparseFrame:
        """Sparsify a frame.

        Parameters
        ----------
        image
            As recorded, (rows, columns) or flat; of integers or floats.

        Raises
        ------
        ValueError
            If it has not the number of pixels of the rings.
        """
        pixels = as_pixels(image).reshape(-1)
        size = self._layout.ring.size
        if pixels.size != size:
            raise ValueError(f"a frame of {pixels.size} pixels does not fit rings of {size}")
        limits = pixel_limits(pixels.dtype, self.rings.experiment.setup)
        background, kept, hot = self._stand_out(pixels, limits)
        peaks = None if hot is None else self._find_peaks(pixels, limits, background, hot)
        return SparseFrame(kept, values_of(image, kept), background, peaks)

    def _stand_out(
        self, pixels: NDArray[Any], limits: Limits
    ) -> tuple[Background, Index, Index | None]:
        """Return the background, what is kept and what peaks are made of; None: not looked for.

        The latter may be a part of memory that the next frame is written to.
        """
        background, scratch = self._clipper.clip(pixels, limits)
        profile = self._profile(background)
        kept = self._pick(pixels, limits, profile, self._rule, True, scratch).copy()
        if self._peak_rule is None:
            return background, kept, None
        hot = self._pick(pixels, limits, profile, self._peak_rule, False, scratch)
        return background, kept, hot

    def _profile(self, background: Background) -> Profile:
        return make_profile(background, self.rings.centres[0], self.rings.width)

    def _pick(
        self,
        pixels: NDArray[Any],
        limits: Limits,
        profile: Profile,
        rule: Rule,
        saturated: bool,
        scratch: Scratch,
    ) -> Index:
        """Return the pixels that stand out, sorted; a part of the scratch."""
        of_rings, kept = self._layout, scratch.kept
        least = np.full(of_rings.bins, np.inf)
        if np.isfinite(profile.average).any():
            least_thresholds(profile, of_rings.largest_norm, rule, least)
        number = pick(
            pixels, of_rings.radius, of_rings.norm, of_rings.dark, limits, of_rings.order,
            of_rings.start, scratch.by_ring, scratch.values, scratch.begin, scratch.low,
            scratch.high, profile, least, self._floor(least, pixels.dtype), rule, saturated, kept,
        )  # fmt: skip
        kept[:number].sort()
        return kept[:number]

    def _floor(self, least: NDArray[np.float64], kind: np.dtype[Any]) -> NDArray[Any]:
        """Return the least thresholds as pixels are compared: of whole ones in their own type."""
        if self._layout.norm is not None or self._layout.dark is not None or kind.kind == "f":
            return least
        bounds = np.iinfo(kind)
        floor = np.full(least.shape, bounds.max, kind)
        fits = least < float(bounds.max)
        floor[fits] = np.maximum(np.ceil(least[fits]), bounds.min).astype(kind)
        return floor

    def _find_peaks(
        self, pixels: NDArray[Any], limits: Limits, background: Background, hot: Index
    ) -> Peaks | None:
        settings, rule, of_rings = self.settings.peaks, self._peak_rule, self._layout
        if settings is None or rule is None:
            return None
        columns, profile = self.rings.experiment.shape[1], self._profile(background)
        view = View(pixels, of_rings.ring, of_rings.radius, profile, limits, columns)
        return find_peaks(view, of_rings.norm, of_rings.dark, hot, self._labels, rule, settings)

    @property
    def _labels(self) -> NDArray[np.uint8]:
        """One number for each pixel, all 0, of this thread."""
        if not hasattr(self._local, "labels"):
            self._local.labels = np.zeros(self._layout.ring.size, np.uint8)
        labels: NDArray[np.uint8] = self._local.labels
        return labels


def values_of(image: NDArray[Any], index: Index) -> NDArray[Any]:
    """Return pixels of a frame as recorded; of half precision as single, which files can hold."""
    kind = image.dtype.newbyteorder("=")
    if kind == np.float16:
        kind = np.dtype(np.float32)
    return np.take(image, index).astype(kind, copy=False)


@built_once(maxsize=2)
def sparsifier(rings: Rings, settings: Sparsifying) -> Sparsifier:
    """Return what sparsifies; the same one again for the same rings and settings."""
    return Sparsifier(rings, settings)


@kernel
def pick(
    pixels: Any, radius: Any, norm: Any, dark: Any, limits: Any, order: Any, start: Any,
    by_ring: Any, values: Any, begin: Any, low: Any, high: Any,
    profile: Any, least: Any, floor: Any, rule: Any, saturated: bool, kept: Any,
) -> int:  # fmt: skip
    """Gather the pixels that stand out, by rings; return their number.

    With `saturated` what is saturated is gathered, too. Of a ring whose inner range
    reaches its least threshold all pixels are looked at, of the others the candidates.
    """
    number = 0
    for ring in range(least.size):
        if low[ring] <= high[ring] and high[ring] >= least[ring] - CLOSE * abs(least[ring]):
            number = pick_ring(
                pixels, order, radius, norm, dark, limits, order, start[ring], start[ring + 1],
                profile, floor[ring], rule, saturated, kept, number,
            )  # fmt: skip
        else:
            number = pick_ring(
                values, None, radius, norm, dark, limits, by_ring, begin[ring], begin[ring + 1],
                profile, floor[ring], rule, saturated, kept, number,
            )  # fmt: skip
    return number


@kernel
def pick_ring(
    values: Any, at: Any, radius: Any, norm: Any, dark: Any, limits: Any, places: Any, first: int,
    end: int, profile: Any, floor: Any, rule: Any, saturated: bool, kept: Any, number: int,
) -> int:  # fmt: skip
    """Append those of some pixels of a ring that stand out; `load` tells where they lie."""
    for index in range(first, end):
        pixel = places[index]
        value = value_at(values, at, index)
        if norm is None and dark is None:
            if not value >= floor:  # the top of its type always reaches it
                continue
        elif (
            not float(value) - dark_at(dark, pixel) >= floor * norm_at(norm, pixel)
            and not value > limits.highest
        ):
            continue
        if not is_usable(value, limits):
            kept[number] = pixel
            number += saturated and is_saturated(value, limits)
            continue
        weight, offset = norm_at(norm, pixel), dark_at(dark, pixel)
        average, deviation = background_at(profile, radius[pixel])
        above = (float(value) - offset) / weight - average
        if above > distance(average, deviation, weight, offset, rule):
            kept[number] = pixel
            number += 1
    return number
