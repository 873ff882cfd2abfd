"""The map of a scan: one pattern for each position, and what is derived as it grows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layer import Layer, Profile
from .scan import Place, Spot
from .sinogram import WHOLE, RadialRange, RangeSums

Floats = NDArray[np.float64]
MOST_BYTES = 4 << 30
"""Largest map, in bytes."""
ENTRIES = ("frame", "event", "point", "frames", "averaged", "repeated")
"""What is kept about each position: its newest frame with its trigger event, its point, how many
frames its profile is of, and how often a frame was averaged with others or replaced some."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """One frame reduced."""

    pattern: Profile
    cake: Profile | None = None


class Added(Enum):
    """What a frame was to its position."""

    FIRST = "first"
    MEAN = "averaged with others of the same point"
    AGAIN = "measured again: the newest counts"


class Tomogram:
    """The map of a scan.

    Parameters
    ----------
    shape
        (rotations, translations).
    radial
        Bin centres, (bins,).
    azimuthal
        Centres of the azimuthal bins in deg; None: patterns only.
    errors
        Whether profiles have errors.
    origin
        How the profiles were made, as JSON.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        radial: Floats,
        azimuthal: Floats | None = None,
        errors: bool = False,
        origin: str = "",
    ) -> None:
        self.shape, self.radial, self.azimuthal, self.errors = shape, radial, azimuthal, errors
        self.origin = origin
        self.identity = object()
        """The same for what the map becomes when its patterns move."""
        self.patterns = Layer(shape, radial.shape, errors)
        self.cakes: Layer | None = None
        if azimuthal is not None:
            self.cakes = Layer(shape, (azimuthal.size, radial.size), errors)
        self.frame: NDArray[np.int32] = np.full(shape, -1, np.int32)
        """The newest frame of each position; -1: not measured."""
        self._event: NDArray[np.int64] = np.full(shape, -1, np.int64)
        self._point: NDArray[np.int64] = np.full(shape, -1, np.int64)
        self._times: NDArray[np.int64] = np.zeros((*shape, 3), np.int64)
        """The last three of `ENTRIES`."""
        self.measured = 0
        """Positions that have a frame."""
        self._total, self._number = np.zeros(radial.shape), np.zeros(radial.shape, np.int64)
        self._background = False
        self.choose((), background=False)

    @property
    def layer(self) -> Layer:
        """What is written: patterns, or cakes where there are any."""
        return self.patterns if self.cakes is None else self.cakes

    def add(
        self, place: Place, point: int, reduced: Reduced, frame_number: int, event: int = -1
    ) -> Added:
        """Put a frame in its place.

        Parameters
        ----------
        point
            Frames of one point are averaged; of another point at the same position
            the newest counts.
        event
            Number of the trigger event; -1: unknown.
        """
        there = self.frame[place] >= 0
        same = bool(there and self._point[place] == point)
        if there:
            self._count(place, -1)
        for layer, profile in ((self.patterns, reduced.pattern), (self.cakes, reduced.cake)):
            if layer is not None and profile is not None:
                if same:
                    layer.average(place, profile, int(self._times[place][0]))
                else:
                    layer.set(place, profile)
        self._count(place, 1)
        if not same or frame_number > self.frame[place]:
            self.frame[place], self._event[place] = frame_number, event
        self._point[place] = point
        self._times[place] += (1, same, there and not same)
        if not same:
            self._times[place][0] = 1
        self.measured += not there
        self._sums[:, *place] = self._summing.of(self.patterns.profile(place).intensity)
        return Added.MEAN if same else Added.AGAIN if there else Added.FIRST

    def _count(self, place: Place, sign: int) -> None:
        """Add the pattern of a position to the mean of all, or take it away."""
        pattern = self.patterns.profile(place).intensity
        there = np.isfinite(pattern)
        self._total += np.where(there, sign * pattern, 0)
        self._number += sign * there

    # ------------------------------------------------------------- what it shows

    @property
    def mean(self) -> Floats:
        """Mean pattern over the positions in which a bin has a value, (bins,); NaN: none."""
        return _quotient(self._total, self._number)

    def whole_mean(self) -> Floats:
        """Return `mean` added up anew: the same whatever the order in which frames came."""
        return _quotient(*self._all())

    def _all(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return the sum of all patterns and how many have a value, by bin; row by row."""
        total, number = np.zeros(self.radial.shape), np.zeros(self.radial.shape, np.int64)
        for line, measured in self._rows():
            row = self.patterns.row(line, measured)
            there = np.isfinite(row)
            total += np.where(there, row, 0).sum(axis=0, dtype=np.float64)
            number += there.sum(axis=0, dtype=np.int64)
        return total, number

    def choose(self, ranges: Sequence[RadialRange], background: bool) -> None:
        """Take the sinograms of other ranges, beside that of the whole pattern."""
        self._ranges, self._background = (RadialRange(WHOLE), *ranges), background
        self._summing = RangeSums(self._ranges, self.radial, background)
        self._sums = np.full((len(self._ranges), *self.shape), np.nan)
        for number, measured in self._rows():
            sums = self._summing.of(self.patterns.row(number, measured))
            self._sums[:, number, measured] = sums.T

    def _rows(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield the rows of the map, and what of them is measured: copies of these stay small."""
        for number, frames in enumerate(self.frame):
            if (measured := frames >= 0).any():
                yield number, measured

    def sinogram(self, name: str) -> Floats:
        """Return the sinogram of a range by its name, (rotations, translations); a copy."""
        names = [each.name for each in self._ranges]
        return np.array(self._sums[names.index(name)])

    @property
    def sinograms(self) -> dict[str, Floats]:
        """All sinograms by name; copies."""
        return {each.name: self.sinogram(each.name) for each in self._ranges}

    def pattern(self, place: Place) -> Floats:
        """Return the pattern of a position, (bins,), NaN where there is none; a copy."""
        if place[0] >= self.shape[0] or place[1] >= self.shape[1]:
            return np.full(self.radial.shape, np.nan)
        return np.array(self.patterns.profile(place).intensity, np.float64)

    # -------------------------------------------------------------- what is kept

    @property
    def places(self) -> list[Place]:
        """The positions measured, row after row."""
        return [Place(*where) for where in np.argwhere(self.frame >= 0).tolist()]

    @property
    def frames(self) -> list[tuple[int, int]]:
        """Frame number and trigger event at each of `places`."""
        there = self.frame >= 0
        pairs = zip(self.frame[there].tolist(), self._event[there].tolist(), strict=True)
        return list(pairs)

    def entry(self, place: Place) -> NDArray[np.int64]:
        """Return the `ENTRIES` of a position."""
        known = (self.frame[place], self._event[place], self._point[place])
        return np.array([*known, *self._times[place]], np.int64)

    def entries(self) -> NDArray[np.int64]:
        """Return the `ENTRIES` of all positions, (rotations, translations, entries); -1: none."""
        known = np.stack((self.frame, self._event, self._point), axis=-1)
        entries = np.concatenate((known, self._times), axis=-1)
        entries[self.frame < 0] = -1
        return entries

    def take(self, other: Tomogram, there: NDArray[np.bool_]) -> None:
        """Take over some positions of another map of the same form."""
        self.restore(other.tree(there))

    def reduced(self, place: Place) -> Reduced:
        """Return the profiles of a position; views."""
        cake = None if self.cakes is None else self.cakes.profile(place)
        return Reduced(self.patterns.profile(place), cake)

    def rearranged(self, shape: tuple[int, int], spots: Sequence[Spot | None]) -> Tomogram:
        """Return a map of another shape with the same patterns.

        Parameters
        ----------
        spots
            New place and point for each of `places`; None: left out.
        """
        new = Tomogram(shape, self.radial, self.azimuthal, self.errors, self.origin)
        for old, spot in zip(self.places, spots, strict=True):
            if spot is not None:
                frame_number, event = int(self.frame[old]), int(self._event[old])
                new.add(*spot, self.reduced(old), frame_number, event)
        new.identity = self.identity
        new.choose(self._ranges[1:], self._background)
        return new

    def copy(self) -> Tomogram:
        """Return an independent copy."""
        new = Tomogram(self.shape, self.radial, self.azimuthal, self.errors, self.origin)
        new.choose(self._ranges[1:], self._background)
        new.restore(self.tree())
        return new

    def tree(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, Any]:
        """Return the measured positions, or some of them, for a checkpoint; copies."""
        measured = self.frame >= 0
        if chosen is not None:
            measured &= chosen
        tree: dict[str, Any] = {
            "place": np.flatnonzero(measured),
            "frame": self.frame[measured],
            "event": self._event[measured],
            "point": self._point[measured],
            "times": self._times[measured],
            **self.patterns.tree("pattern", measured),
        }
        return tree if self.cakes is None else {**tree, **self.cakes.tree("cake", measured)}

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Take back what `tree` gave, in a map of the same form; other positions stay.

        Raises
        ------
        ValueError
            If it is of another form.
        """
        try:
            measured = np.zeros(self.frame.size, np.bool_)
            measured[tree["place"]] = True
            measured = measured.reshape(self.shape)
            for name, array in (
                ("frame", self.frame),
                ("event", self._event),
                ("point", self._point),
                ("times", self._times),
            ):
                array[measured] = tree[name]
            self.patterns.restore("pattern", tree, measured)
            if self.cakes is not None:
                self.cakes.restore("cake", tree, measured)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the map in the checkpoint is of another form ({error})") from None
        self.measured = int((self.frame >= 0).sum())
        self._total, self._number = self._all()
        self.choose(self._ranges[1:], self._background)


def _quotient(total: Floats, number: NDArray[np.int64]) -> Floats:
    """Return means; NaN where there is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, total / number, np.nan)


def map_bytes(points: int, bins: int, azimuthal_bins: int, errors: bool) -> int:
    """Return the bytes that a map takes."""
    return points * bins * (1 + azimuthal_bins) * 4 * (1 + errors)


def remaining_seconds(times: Sequence[float], missing: int) -> float:
    """Return how long the missing positions take, in s, at the pace of the newest.

    Parameters
    ----------
    times
        When the newest positions came in, in s, ascending; NaN for fewer than two.
    """
    if not missing:
        return 0.0
    if len(times) < 2 or times[-1] <= times[0]:
        return math.nan
    return missing * (times[-1] - times[0]) / (len(times) - 1)
