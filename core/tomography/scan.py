"""Where a frame belongs in a map of rotations and translations.

A place is never guessed: a frame that has none (before the first position,
after the last, off the grid of the motors) is told apart by the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 1 << 24
"""Most positions of a map."""


class FastAxis(Enum):
    """Which axis runs through all its positions at each position of the other."""

    TRANSLATION = "translation"
    ROTATION = "rotation"


class Place(NamedTuple):
    """A position of the map."""

    rotation: int
    translation: int


class Spot(NamedTuple):
    """Where a frame belongs."""

    place: Place
    point: int
    """Number of the point of the scan at which it was taken."""


class Missed(Enum):
    """Why a frame has no place in the map."""

    SKIPPED = "before the first position"
    EXTRA = "after the last position"
    OFF_GRID = "off the grid of motor positions"
    NOT_FOUND = "without a position for so long that too many waited"
    BEFORE = "before the series was joined"


@dataclass(frozen=True, slots=True)
class Grid:
    """Places by frame number: the positions in the order in which the scan visits them.

    Raises
    ------
    ValueError
        If a number is none for a grid.
    """

    translations: int
    rotations: int
    offset: int = 0
    """Frames before the first position; negative: that many frames of it are missing."""
    zigzag: bool = False
    """Every second line of the fast axis runs backwards."""
    fast: FastAxis = FastAxis.TRANSLATION
    frames_per_point: int = 1
    """Frames taken one after the other at each position."""

    def __post_init__(self) -> None:
        for name in ("translations", "rotations", "frames_per_point"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a map has at least 1")
        if self.points > MOST_POINTS:
            raise ValueError(f"{self.points} positions are more than {MOST_POINTS}")

    @property
    def points(self) -> int:
        """Positions of the map."""
        return self.translations * self.rotations

    @property
    def shape(self) -> tuple[int, int]:
        """(rotations, translations)."""
        return self.rotations, self.translations

    def point(self, frame_number: int) -> int | Missed:
        """Return the number of the position at which a frame was taken, from 0."""
        after = frame_number - self.offset
        if after < 0:
            return Missed.SKIPPED
        point = after // self.frames_per_point
        return point if point < self.points else Missed.EXTRA

    def place(self, frame_number: int) -> Place | Missed:
        """Return the place of a frame."""
        point = self.point(frame_number)
        return point if isinstance(point, Missed) else self.place_of(point)

    def place_of(self, point: int) -> Place:
        """Return the place of a position by its number in the scan.

        Raises
        ------
        IndexError
            If there is none of this number.
        """
        if not 0 <= point < self.points:
            raise IndexError(point)
        along_translation = self.fast is FastAxis.TRANSLATION
        width = self.translations if along_translation else self.rotations
        line, step = divmod(point, width)
        if self.zigzag and line % 2:
            step = width - 1 - step
        return Place(line, step) if along_translation else Place(step, line)

    def check_length(self, frames: int) -> None:
        """Object to a series in which no frame has a place.

        Raises
        ------
        ValueError
            In one sentence.
        """
        if 0 < frames <= self.offset:
            raise ValueError(
                f"the offset of {self.offset} leaves nothing of a series of {frames} frames; "
                "set a smaller one"
            )


@dataclass(frozen=True, slots=True)
class Axis:
    """The positions of one motor: equal steps from the first to the last.

    Raises
    ------
    ValueError
        If there are several positions at one place.
    """

    count: int
    first: float
    last: float
    tolerance: float = 0.3
    """Share of a step by which a motor may be beside a position, at most 0.5."""

    def __post_init__(self) -> None:
        if self.count > 1 and self.first == self.last:
            raise ValueError(f"{self.count} positions cannot all be at {self.first:g}")

    @property
    def values(self) -> NDArray[np.float64]:
        """The positions, (count,)."""
        return np.linspace(self.first, self.last, self.count)

    def index(self, value: float) -> int | None:
        """Return the number of the position at which a motor is; None: at none.

        A single position is where the motor is, wherever that may be.
        """
        if not np.isfinite(value):
            return None
        if self.count == 1:
            return 0
        place = (value - self.first) / (self.last - self.first) * (self.count - 1)
        if not -1 < place < self.count:
            return None
        index = round(place)
        # The division rounds: a motor just at the tolerance is within it.
        near = abs(place - index) <= self.tolerance + 1e-9
        return index if near and 0 <= index < self.count else None


@dataclass(frozen=True, slots=True)
class MotorGrid:
    """Places by the positions of two motors."""

    rotation: Axis
    translation: Axis

    @classmethod
    def between(
        cls, ends: NDArray[np.float64], shape: tuple[int, int], tolerance: float
    ) -> MotorGrid:
        """Return the grid of a shape whose motors go between `ends`, as `ends` gives them.

        Raises
        ------
        ValueError
            If they cannot be ends of axes of so many positions.
        """
        if ends.shape != (2, 2) or not np.isfinite(ends).all():
            raise ValueError("the ends of the motors' axes are not four numbers")
        axes = [
            Axis(count, float(first), float(last), tolerance)
            for count, (first, last) in zip(shape, ends, strict=True)
        ]
        return cls(*axes)

    @property
    def ends(self) -> NDArray[np.float64]:
        """First and last position of the rotation and of the translation, (2, 2)."""
        return np.array([(axis.first, axis.last) for axis in (self.rotation, self.translation)])

    def place(self, rotation: float, translation: float) -> Place | Missed:
        """Return the place for two motor positions."""
        row, column = self.rotation.index(rotation), self.translation.index(translation)
        if row is None or column is None:
            return Missed.OFF_GRID
        return Place(row, column)


def found_axis(
    values: NDArray[np.float64], count: int, tolerance: float, axis: str = "motor"
) -> Axis:
    """Return the axis on which a motor was, from all its positions of a whole scan.

    Its ends are the means of what is next to the least and the largest value. Where
    an end was never reached the steps do not fit: the values then lie off the grid.

    Parameters
    ----------
    values
        (n,); NaN where unknown.
    count
        Positions of the axis.
    tolerance
        As of `Axis`.
    axis
        What it is called in sentences.

    Raises
    ------
    ValueError
        In one sentence, if there is no value or all are the same.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        raise ValueError(f"no position of the {axis} is known")
    low, high = float(known.min()), float(known.max())
    if count == 1:
        return Axis(1, low, low, tolerance)
    if low == high:
        raise ValueError(f"the {axis} stays at {low:g}, but {count} positions are expected")
    near = tolerance * (high - low) / (count - 1)
    return Axis(
        count,
        float(known[known <= low + near].mean()),
        float(known[known >= high - near].mean()),
        tolerance,
    )
