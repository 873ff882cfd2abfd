"""From frames to the points of a scan: the mean of each point's frames, with its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ..positions import MAX_POINT, Scan

MOST_NAMED = 8
"""Incomplete points named in a sentence; the others are counted."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class XAxis(Enum):
    """Against what ROI values are shown."""

    MOTOR = "motor"
    FRAME = "frame"
    TIME = "time"


@dataclass(frozen=True)
class Pairing:
    """Which point of a scan each frame of a series belongs to, and where x is.

    Frames are paired with points by number, never by arrival; without a scan,
    every `frames_per_point` frames are one point, and the motor's place is taken
    by the frame number.
    """

    frames: Integers
    """The detector's frame numbers, (n,)."""
    events: Integers
    """Trigger events, (n,); -1 where unknown."""
    times: Floats
    """Unix times in s, (n,)."""
    began: float
    """Unix time in s from which x counts, where it is the time."""
    scan: Scan | None
    frames_per_point: int = 1
    x_axis: XAxis = XAxis.MOTOR
    movable: str = ""
    """The movable that is x; empty: the first."""
    joined_late: bool = False
    """Frames before the first one here were not lost but not looked at."""

    @property
    def points(self) -> Integers:
        """Point of each frame, (n,); -1 where it is not known (yet)."""
        if self.scan is None:
            return self.frames // self.frames_per_point
        return self.scan.point_of(self.frames, self.events, self.frames_per_point)

    @property
    def x_name(self) -> str:
        """What x is: the movable's name, `frame number`, or `time since the first frame (s)`."""
        if self.x_axis is XAxis.TIME:
            return "time since the first frame (s)"
        if self.x_axis is XAxis.FRAME or self.scan is None:
            return "frame number"
        return self.movable or next(iter(self.scan.movables), "")

    def x(self, rows: slice = slice(None)) -> Floats:
        """Return x of each frame in some rows; NaN where it is not known (yet).

        Motor position; frame number; or seconds since the first frame.
        """
        if self.x_axis is XAxis.TIME:
            return self.times[rows] - self.began
        if self.x_axis is XAxis.FRAME or self.scan is None:
            return self.frames[rows].astype(np.float64)
        points = self.scan.point_of(self.frames[rows], self.events[rows], self.frames_per_point)
        return self.scan.x(points, self.movable)

    def part(self, rows: slice) -> Pairing:
        """Return the same for some of the frames."""
        return replace(
            self, frames=self.frames[rows], events=self.events[rows], times=self.times[rows]
        )

    def steps(self, means: Sequence[Floats]) -> Steps:
        """Return the points that have frames, with the means of ROIs over them.

        Parameters
        ----------
        means
            The mean of each frame for one ROI after the other, (n,) each; NaN: none.
        """
        points = self.points
        known = points >= 0
        point, index = np.unique(points[known], return_inverse=True)
        size = point.size
        rois = [_grouped(mean[known], index, size) for mean in means]
        stacked = np.array(rois, np.float64).reshape(len(rois), 3, size)
        return Steps(
            point=point,
            x=_grouped(self.x()[known], index, size)[0],
            frames=np.bincount(index, minlength=size),
            expected=self._expected(point),
            mean=stacked[:, 0],
            error=stacked[:, 1],
            n=stacked[:, 2].astype(np.int64),
        )

    def incomplete(self, ended: bool) -> str:
        """Return a sentence that names the points with too few frames; empty if there are none.

        Parameters
        ----------
        ended
            The series has ended, so its last point is not going on.
        """
        if self.scan is None and self.frames_per_point == 1:
            return ""
        points = self.points
        known = points[points >= 0]
        first = int(known.min(initial=MAX_POINT)) if self.joined_late else 0
        last = int(known.max(initial=first - 1))
        wanted = np.arange(first, last + 1)
        if self.scan is not None:
            wanted = np.union1d(self.scan.points, known)
        wanted = wanted[(wanted >= first) & ((wanted < last) | ended)]
        counts = np.bincount(known, minlength=int(wanted.max(initial=0)) + 1)[wanted]
        expected = self._expected(wanted)
        short = np.flatnonzero(counts < expected)
        named = [
            f"point {wanted[i]}: {counts[i]} of {expected[i]} frames" for i in short[:MOST_NAMED]
        ]
        more = [f"and {short.size - MOST_NAMED} more"] if short.size > MOST_NAMED else []
        return "; ".join(named + more)

    def settled(self) -> bool:
        """Tell whether no position can change any more."""
        if self.scan is None or self.scan.ended is not None:
            return True
        return bool(np.isin(self.points, self.scan.points).all())

    def _expected(self, points: Integers) -> Integers:
        """Return how many frames each point has when it is complete."""
        if self.scan is None:
            return np.full(points.shape, self.frames_per_point, np.int64)
        numbers = [self.scan.frames_expected(int(p), self.frames_per_point) for p in points]
        return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Steps:
    """The points of a scan that have frames, ascending; m points, k ROIs."""

    point: Integers
    """Numbers of the points, (m,)."""
    x: Floats
    """Position, or mean x of the frames, (m,); NaN where not known."""
    frames: Integers
    """Frames of each point that are in, (m,)."""
    expected: Integers
    """Frames of each point when it is complete, (m,)."""
    mean: Floats
    """Mean of the frames' means, (k, m); NaN where there are none."""
    error: Floats
    """Standard error of that mean, std / sqrt(n), (k, m)."""
    n: Integers
    """Frames that have a mean, (k, m)."""

    def newest(self, count: int) -> Steps:
        """Return the last points alone."""
        last = {field.name: getattr(self, field.name)[..., -count:] for field in fields(self)}
        return Steps(**last)


def _grouped(values: Floats, index: NDArray[np.intp], size: int) -> tuple[Floats, Floats, Floats]:
    """Return mean, its standard error (std with ddof 0) and number of each group's values.

    NaN values do not count.
    """
    good = ~np.isnan(values)
    values, index = values[good], index[good]
    number = np.bincount(index, minlength=size).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, values, size) / number
        variance = np.bincount(index, (values - mean[index]) ** 2, size) / number
        return mean, np.sqrt(variance / number), number
