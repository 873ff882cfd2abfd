"""The frames of one series on their way into the map: which can be placed, and which wait.

By frame number a place is known at once. By motors it is known when the record
of the frame's point is in, and the ends of both axes are: as set, else as the
scan itself describes them, else from all positions once the scan is over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..frame import Frame, Series
from ..positions import Scan, ScanBooks
from .scan import Axis, FastAxis, Grid, Missed, MotorGrid, Spot, found_axis
from .tomogram import Reduced

LEAST_WAITING = 1000
"""Frames that may wait for positions at any rate; at most as many as the map has."""
FEW = 100
"""So few frames are looked for at every frame, once the scan is over."""
AGAIN = 10.0
"""Looking for positions takes at most one part in so many of the time."""


class PlaceBy(Enum):
    """What tells where a frame belongs."""

    FRAME_NUMBER = "frame number"
    MOTORS = "motors"


@dataclass(frozen=True, slots=True)
class Motors:
    """The motors of both axes, and where they go."""

    rotation: str = ""
    """Column of the scan; empty: its second movable, which Sardana's mesh moves slowly."""
    translation: str = ""
    """Likewise; empty: its first movable."""
    rotation_range: tuple[float, float] | None = None
    translation_range: tuple[float, float] | None = None
    tolerance: float = 0.3
    """Share of a step by which a motor may be beside a position."""

    def names(self, scan: Scan, grid: Grid) -> tuple[str, str]:
        """Return the names of the motors of rotation and translation; empty: not moved.

        Raises
        ------
        ValueError
            In one sentence, if the scan has no such motor.
        """
        fast, slow = (*scan.movables, "", "")[:2]
        if not slow and 1 in grid.shape:
            slow = fast  # a line: there is only one motor, whichever axis it moves
        if grid.fast is FastAxis.ROTATION:
            fast, slow = slow, fast
        names = (
            self.rotation or (slow if grid.rotations > 1 else ""),
            self.translation or (fast if grid.translations > 1 else ""),
        )
        for axis, name, count in zip(("rotation", "translation"), names, grid.shape, strict=True):
            if count > 1 and not name:
                raise ValueError(f"the scan moves nothing that could be the {axis}")
        return names


class Waiting(NamedTuple):
    """A frame that has no place yet."""

    frame_id: int
    event_number: int
    reduced: Reduced


@dataclass
class Placing:
    """Finds the places of the frames of one series.

    It keeps the frames whose places are not known yet.
    """

    grid: Grid
    by: PlaceBy
    motors: Motors
    series: Series
    books: ScanBooks
    problem: str = ""
    """Why no place can be found, in a sentence."""
    axes: MotorGrid | None = None
    """The positions of the motors, once they are known."""
    fixed: bool = False
    """Whether these are those of a map that goes on, whatever the scan says."""
    waiting: list[Waiting] = field(default_factory=list)
    _next: float = 0.0

    @property
    def scan(self) -> Scan | None:
        """The scan in which the series was taken, as far as known."""
        return self.books.scan_for(self.series)

    def add(self, frame: Frame, reduced: Reduced) -> Spot | Missed | None:
        """Return where a frame belongs; None: it waits."""
        if frame.frame_id < self.grid.offset:
            return Missed.SKIPPED
        if self.by is PlaceBy.FRAME_NUMBER:
            return self._by_number(frame.frame_id)
        event = -1 if frame.event_number is None else frame.event_number
        self.waiting.append(Waiting(frame.frame_id, event, reduced))
        return None

    def found(self, now: bool = False) -> list[tuple[Waiting, Spot | Missed]]:
        """Return the waiting frames whose places are known by now; they wait no more.

        Parameters
        ----------
        now
            Look even if that was done just before.
        """
        begin = time.monotonic()
        if not self.waiting:
            return []
        # After the last record it is cheap: nothing of the scan is sorted anew.
        cheap = len(self.waiting) <= FEW and self._all_known()
        if begin < self._next and not now and not cheap:
            return self._given_up()
        numbers = [(each.frame_id, each.event_number) for each in self.waiting]
        spots = list(zip(self.waiting, self.find(numbers), strict=True))
        found: list[tuple[Waiting, Spot | Missed]] = [
            (each, spot) for each, spot in spots if spot is not None
        ]
        self.waiting = [each for each, spot in spots if spot is None]
        end = time.monotonic()
        self._next = end + AGAIN * (end - begin)
        return found + self._given_up()

    def _given_up(self) -> list[tuple[Waiting, Spot | Missed]]:
        """Return the frames that waited longest, where there are too many."""
        most = max(self.grid.points * self.grid.frames_per_point, LEAST_WAITING)
        excess = max(len(self.waiting) - most, 0)
        oldest, self.waiting = self.waiting[:excess], self.waiting[excess:]
        return [(each, Missed.NOT_FOUND) for each in oldest]

    def settled(self) -> bool:
        """Tell whether no frame can get a place any more."""
        return not self.waiting or self._all_known()

    def _all_known(self) -> bool:
        """Tell whether no record of the scan is to come."""
        scan = self.scan
        return scan is not None and scan.ended is not None

    def find(self, frames: Sequence[tuple[int, int]]) -> list[Spot | Missed | None]:
        """Return where frames belong; None: not known (yet).

        Parameters
        ----------
        frames
            Frame number and number of the trigger event, -1 if unknown, of each.
        """
        if self.by is PlaceBy.MOTORS:
            return self._by_motors(frames)
        return [self._by_number(frame_id) for frame_id, _ in frames]

    def _by_number(self, frame_id: int) -> Spot | Missed:
        point = self.grid.point(frame_id)
        return point if isinstance(point, Missed) else Spot(self.grid.place_of(point), point)

    def _by_motors(self, frames: Sequence[tuple[int, int]]) -> list[Spot | Missed | None]:
        nowhere: list[Spot | Missed | None] = [None] * len(frames)
        scan = self.scan
        if scan is None or not scan.points.size:
            return nowhere
        try:
            rotation, translation = self.motors.names(scan, self.grid)
            axes = self._axes(scan, rotation, translation)
        except ValueError as error:
            self.problem = str(error)
            return nowhere
        if axes is None:
            return nowhere
        self.problem, self.axes = "", axes
        numbers, events = np.array(frames, np.int64).reshape(-1, 2).T
        points = scan.point_of(numbers - self.grid.offset, events, self.grid.frames_per_point)
        rows = _positions(scan, points, rotation)
        columns = _positions(scan, points, translation)
        return [
            _spot(axes, int(point), float(row), float(column))
            for point, row, column in zip(points, rows, columns, strict=True)
        ]

    def _axes(self, scan: Scan, rotation: str, translation: str) -> MotorGrid | None:
        """Return the positions of the motors, None while they are not known."""
        if self.fixed:
            return self.axes
        described = _described(scan)
        axes: list[Axis] = []
        for axis, name, count, given in (
            ("rotation", rotation, self.grid.rotations, self.motors.rotation_range),
            ("translation", translation, self.grid.translations, self.motors.translation_range),
        ):
            ends = given or described.get(name)
            if not name:
                axes.append(Axis(1, *(ends or (0.0, 0.0))))
            elif ends is not None:
                axes.append(Axis(count, *ends, self.motors.tolerance))
            elif scan.ended is None:
                self.problem = (
                    f"the scan does not say where {name} goes: frames wait for its end; set "
                    f"{axis}_range to see them now"
                )
                return None
            else:
                values = scan.x(scan.points, name)
                axes.append(found_axis(values, count, self.motors.tolerance, name))
        return MotorGrid(*axes)


def _spot(axes: MotorGrid, point: int, row: float, column: float) -> Spot | Missed | None:
    """Return where a frame of a point belongs; None: it has no position (yet)."""
    if point < 0 or not (np.isfinite(row) and np.isfinite(column)):
        return None
    place = axes.place(row, column)
    return place if isinstance(place, Missed) else Spot(place, point)


def _positions(scan: Scan, points: NDArray[np.int64], name: str) -> NDArray[np.float64]:
    """Return where a motor was at some points; 0 for one that is not moved."""
    return scan.x(points, name) if name else np.zeros(points.shape)


def _described(scan: Scan) -> Mapping[str, tuple[float, float]]:
    """Return the ends of the movables as the scan itself describes them (Sardana's columns)."""
    columns: Any = scan.start.metadata.get("column_desc", ()) if scan.start else ()
    ends: dict[str, tuple[float, float]] = {}
    for column in columns if isinstance(columns, list | tuple) else ():
        if not isinstance(column, Mapping) or not isinstance(column.get("name"), str):
            continue
        low, high = column.get("min_value"), column.get("max_value")
        if _is_number(low) and _is_number(high) and low != high:
            ends[column["name"]] = (float(low), float(high))
    return ends


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
