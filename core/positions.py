"""Positions of a scan: which motor position belongs to which frame.

Pairing is by number, never by arrival. A point's frames are those whose event
number lies between the previous record's and its own (recordings), else those
counted by the records' own frame counts, else `frames_per_point` each. So a
frame or a record that is missing never shifts the points after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .frame import Series, new_run_id

MAX_POINT = 1 << 24
"""Highest point number, and most frames of one point, that a record may name."""


@dataclass(frozen=True, slots=True)
class ScanStart:
    """A scan begins (Sardana's DataDescription)."""

    serial: int | None
    movables: tuple[str, ...]
    title: str = ""
    event_number: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScanPoint:
    """One point was measured (Sardana's RecordData)."""

    point: int
    values: Mapping[str, float]
    """Scalar columns of the record, by name: movables and counters."""
    frames: int | None = None
    """Frames of this point, where the record itself says it."""
    event_number: int | None = None


@dataclass(frozen=True, slots=True)
class ScanEnd:
    """The scan ended (Sardana's RecordEnd)."""

    event_number: int | None = None


Position = ScanStart | ScanPoint | ScanEnd


@dataclass(frozen=True)
class _Table:
    """The records of a scan as arrays, in order of the point number; replaced when one comes."""

    records: tuple[ScanPoint, ...]
    first_event: int
    """Event number of the scan's beginning; -1 if unknown."""

    @cached_property
    def points(self) -> NDArray[np.int64]:
        return np.array([record.point for record in self.records], np.int64)

    @cached_property
    def events(self) -> NDArray[np.int64] | None:
        """Last event of each point, or None if a record does not name it."""
        return _known([record.event_number for record in self.records])

    @cached_property
    def frames(self) -> NDArray[np.int64] | None:
        """Frames of each point, or None if a record does not name them."""
        return _known([record.frames for record in self.records])

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """Event after which each point begins: the last one of the point before.

        Where the record before is missing, its frames must not count here: the
        point then has its own number of frames, or its last event alone.
        """
        assert self.events is not None
        own = np.ones_like(self.events) if self.frames is None else self.frames
        begin = self.events - own
        follows = self.points[1:] == self.points[:-1] + 1
        begin[1:][follows] = self.events[:-1][follows]
        if self.points[0] == 0:
            begin[0] = self.first_event
        return begin

    def index_of(self, points: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return where points stand in the table, and whether they do."""
        index = np.minimum(np.searchsorted(self.points, points), len(self.records) - 1)
        return index, self.points[index] == points


def _known(numbers: list[int | None]) -> NDArray[np.int64] | None:
    known = [number for number in numbers if number is not None]
    return np.array(known, np.int64) if len(known) == len(numbers) else None


class Scan:
    """The book of one scan: its points, and which frames are theirs.

    Parameters
    ----------
    start
        What was said at its beginning; None for records without one.
    """

    def __init__(self, start: ScanStart | None = None) -> None:
        self.start = start
        self.ended: int | None = None
        """Number, among those of series, of when the end was heard; None while it goes on."""
        self._records: dict[int, ScanPoint] = {}
        self._table: _Table | None = None
        self._columns: dict[str, NDArray[np.float64]] = {}

    def add(self, record: ScanPoint) -> None:
        """Take one point, in any order; one with a number seen before replaces it."""
        self._records[record.point] = record
        self._table = None
        self._columns = {}

    def end(self) -> None:
        """Take note that no more points are to come."""
        if self.ended is None:
            self.ended = new_run_id()

    @property
    def serial(self) -> int | None:
        """Scan number, or None if unknown."""
        return self.start.serial if self.start else None

    @property
    def recorded(self) -> bool:
        """True if the trigger events are known: it comes from a recording, whenever that was."""
        known = self.start.event_number if self.start else None
        return known is not None or (bool(self._records) and self._rows.events is not None)

    @property
    def points(self) -> NDArray[np.int64]:
        """Numbers of the points recorded so far, ascending."""
        return self._rows.points

    @property
    def movables(self) -> tuple[str, ...]:
        """Names of the scanned movables; of all columns, if the beginning named none."""
        if self.start and self.start.movables:
            return self.start.movables
        columns = self._rows.records[0].values if self._records else ()
        return tuple(sorted(columns, key=lambda name: name == "timestamp"))

    def point_of(
        self,
        frame_ids: NDArray[np.integer[Any]],
        event_numbers: NDArray[np.integer[Any]] | None = None,
        frames_per_point: int = 1,
    ) -> NDArray[np.int64]:
        """Return the point that each frame belongs to; -1 where it is not known (yet).

        Parameters
        ----------
        frame_ids
            The detector's frame numbers, shape (n,).
        event_numbers
            Their trigger events, shape (n,), -1 where unknown; None if none is
            known. They decide wherever the records have event numbers too.
        frames_per_point
            Used only where the records do not say it themselves.
        """
        frames = np.asarray(frame_ids, np.int64)
        if not self._records:
            return np.full(frames.shape, -1, np.int64)
        if event_numbers is not None and self._rows.events is not None:
            events = np.asarray(event_numbers, np.int64)
            if np.any(events >= 0):
                return self._by_event(events)
        if self._rows.frames is not None:
            return self._by_count(frames, self._rows.frames)
        return np.where(frames >= 0, frames // max(frames_per_point, 1), -1)

    def x(self, points: NDArray[np.integer[Any]], movable: str = "") -> NDArray[np.float64]:
        """Return the position at each point, NaN where unknown.

        Parameters
        ----------
        points
            Point numbers, any shape; -1 is unknown.
        movable
            Name of a column of the records; empty: the first movable.
        """
        wanted = np.asarray(points, np.int64)
        if not self._records:
            return np.full(wanted.shape, np.nan)
        index, known = self._rows.index_of(wanted)
        name = movable or next(iter(self.movables), "")
        return np.where(known, self._column(name)[index], np.nan)

    def frames_expected(self, point: int, frames_per_point: int = 1) -> int:
        """Return how many frames a point has when it is complete.

        The record's own count, else the events that are its own, else
        `frames_per_point`.
        """
        record = self._records.get(point)
        if record is None:
            return frames_per_point
        if record.frames is not None:
            return record.frames
        rows = self._rows
        if rows.events is None:
            return frames_per_point
        index = int(np.searchsorted(rows.points, point))
        return int(rows.events[index] - max(rows.before[index], 0))

    @property
    def _rows(self) -> _Table:
        if self._table is None:
            first = self.start.event_number if self.start else None
            records = tuple(self._records[point] for point in sorted(self._records))
            self._table = _Table(records, -1 if first is None else first)
        return self._table

    def _column(self, name: str) -> NDArray[np.float64]:
        if name not in self._columns:
            values = [record.values.get(name, np.nan) for record in self._rows.records]
            self._columns[name] = np.array(values, np.float64)
        return self._columns[name]

    def _by_event(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give each event to the first point that ended with it or later."""
        rows = self._rows
        assert rows.events is not None
        order = np.argsort(rows.events, kind="stable")
        place = np.searchsorted(rows.events[order], events)
        index = order[np.minimum(place, order.size - 1)]
        mine = (place < order.size) & (events >= 0) & (events > rows.before[index])
        return np.where(mine, rows.points[index], -1)

    def _by_count(
        self, frame_ids: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count frames off, point by point; equal counts also bridge missing records."""
        points = self._rows.points
        if counts[0] > 0 and np.all(counts == counts[0]):
            found = frame_ids // counts[0]
            return np.where((frame_ids >= 0) & (found <= points[-1]), found, -1)
        whole = int(np.argmin(np.append(points == np.arange(points.size), False)))
        found = np.searchsorted(np.cumsum(counts[:whole]), frame_ids, side="right")
        return np.where((frame_ids >= 0) & (found < whole), found, -1)


class ScanBooks:
    """The recent scans, and which of them a series of frames belongs to."""

    KEEP = 16
    """Scans remembered."""

    def __init__(self) -> None:
        self._scans: deque[Scan] = deque(maxlen=self.KEEP)
        self._chosen: deque[tuple[int, Scan]] = deque(maxlen=self.KEEP)

    def add(self, position: Position) -> Scan:
        """Take a message of the positions stream; return the scan that it is about.

        A new scan ends the one before; a record without a beginning begins an
        anonymous scan.
        """
        match position:
            case ScanStart():
                self._open(Scan(position))
            case ScanPoint():
                if not self._scans or self._scans[-1].ended is not None:
                    self._open(Scan())
                self._scans[-1].add(position)
            case ScanEnd():
                if not self._scans:
                    self._open(Scan())
                self._scans[-1].end()
        return self._scans[-1]

    def scan_for(self, series: Series) -> Scan | None:
        """Return the scan in which a series was taken, or None if there is none (yet).

        The scan of the same number; where numbers are missing on either side,
        the newest scan that had not ended before the series began. Once that
        scan has points, the choice stays.
        """
        for run_id, scan in self._chosen:
            if run_id == series.run_id:
                return scan
        for scan in reversed(self._scans):
            if _fits(scan, series):
                if scan.points.size:
                    self._chosen.append((series.run_id, scan))
                return scan
        return None

    def _open(self, scan: Scan) -> None:
        if self._scans:
            self._scans[-1].end()
        self._scans.append(scan)


def _fits(scan: Scan, series: Series) -> bool:
    """Tell whether a series may have been taken in a scan."""
    if scan.serial is not None and series.scan_number is not None:
        return scan.serial == series.scan_number
    if scan.ended is None:
        return True
    return scan.recorded or scan.ended > series.run_id
