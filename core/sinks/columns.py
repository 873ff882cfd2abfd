"""A series' tables as its stage declares them, and the columns that rows become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..stage import SLOTS, Kind, Output, Record, Row, Stage
from .tables import CHUNK_ROWS, fill_value, fitted
from .tree import SLOT

FRAMES = "frames"
"""Name of the book whose rows are frames."""
TABLES = (Record.FRAME, Record.EVENTS, Record.POINTER)
"""What is recorded in tables."""
EVENT_ROWS = 16_384
"""Events in a piece of a table: a frame may have 10 000."""
COUNT = np.dtype(np.uint64)
"""Type of a pointer."""
_TEXTS = (Kind.TEXT, Kind.TEXTS)
_Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """One table."""

    name: str
    """Of the output."""
    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    """Of one row; with `{slot}` in the path, of one row of one slot."""
    marks: bool = False
    compressed: bool = False
    exact: bool = False
    """True: values of another type do not fit, even if they could be stored."""


@dataclass(frozen=True, slots=True)
class Columns(ABC):
    """Tables that grow together: a book of the file."""

    name: str
    columns: tuple[Column, ...]
    chunk_rows: ClassVar[int] = CHUNK_ROWS

    @abstractmethod
    def stack(self, rows: Sequence[Row]) -> tuple[_Columns, Counter[str]]:
        """Return what frames add to each table, by path, and of what how many did not fit."""


@dataclass(frozen=True, slots=True)
class EventColumns(Columns):
    """The tables of one group with any number of rows a frame: outputs with `Record.EVENTS`."""

    chunk_rows: ClassVar[int] = EVENT_ROWS

    def stack(self, rows: Sequence[Row]) -> tuple[_Columns, Counter[str]]:
        """Return arrays of one length; of a frame whose events do not fit there are none."""
        frames = [self._events(row) for row in rows]
        taken = [events for events in frames if events is not None]
        out = {
            each.path: np.concatenate([np.empty(0, each.dtype), *(e[n] for e in taken)])
            for n, each in enumerate(self.columns)
        }
        misfits = len(frames) - len(taken)
        return out, Counter({f"events in {self.name}": misfits} if misfits else {})

    def count(self, row: Row) -> int:
        """Return how many events a frame has here; 0 if they do not fit."""
        events = self._events(row)
        return len(events[0]) if events else 0

    def _events(self, row: Row) -> list[NDArray[Any]] | None:
        """Return one frame's events, an array for each table; None if they do not fit."""
        values = [_fitted_events(row.get(each.name), each) for each in self.columns]
        events = [value for value in values if value is not None]
        same = len({len(value) for value in events}) == 1
        return events if same and len(events) == len(values) else None


@dataclass(frozen=True, slots=True)
class FrameColumns(Columns):
    """The tables with one row a frame: outputs with `Record.FRAME` and `Record.POINTER`."""

    pointers: tuple[tuple[str, EventColumns], ...] = ()
    """By path, the tables of events that a pointer is for."""

    def stack(self, rows: Sequence[Row]) -> tuple[_Columns, Counter[str]]:
        """Return arrays [row, (slot,) ...]; what is missing or does not fit has the fill value.

        For a pointer it is how many events each frame has.
        """
        out: _Columns = {}
        misfits: Counter[str] = Counter()
        for each in self.columns:
            slots = (SLOTS,) if SLOT in each.path else ()
            shape = (len(rows), *slots, *each.shape)
            out[each.path] = column = np.full(shape, fill_value(each.dtype), each.dtype)
            for number, row in enumerate(rows):
                given = row.get(each.name)
                if given is None:
                    continue
                value = fitted(np.asarray(given), each.dtype)
                if value is not None and value.shape in ((), column.shape[1:]):
                    column[number] = value
                else:
                    misfits[each.name] += 1
        for path, events in self.pointers:
            out[path] = np.array([events.count(row) for row in rows], COUNT)
        return out, misfits


def _fitted_events(given: Any, column: Column) -> NDArray[Any] | None:
    dtype = column.dtype
    value = np.empty(0, dtype) if given is None else np.asarray(given)
    if value.ndim != 1:
        return None
    if not len(value):
        return np.empty(0, dtype)
    other = value.dtype.newbyteorder("=") != dtype
    return None if column.exact and other else fitted(value, dtype)


def check_tables(outputs: Iterable[Output]) -> None:
    """Object to tables that cannot be written.

    Raises
    ------
    ValueError
        In one sentence, if a group of events has slots, or tables of frames without one
        pointer; if a pointer has no events, cells have slots, or a type is missing.
    """
    recorded = [each for each in outputs if each.path and each.kind not in _TEXTS]
    groups = {
        record: [_group(each) for each in recorded if each.record is record] for record in TABLES
    }
    for output in recorded:
        group, where = _group(output), f"output {output.name} records"
        pointers = groups[Record.POINTER].count(group)
        alone = not pointers and group not in groups[Record.FRAME]
        even = SLOT not in output.path and (alone or pointers == 1)
        if output.record is Record.EVENTS and not even:
            raise ValueError(
                f"{where} events at {output.path}: its group may have no slots, "
                "and tables of frames only with one pointer; choose another path"
            )
        if output.record is Record.POINTER and group not in groups[Record.EVENTS]:
            raise ValueError(f"{where} a pointer at {output.path}: its group has no events")
        if output.record is Record.CELL and SLOT in output.path:
            raise ValueError(f"{where} cells at {output.path}: they have no slots")
        if output.dtype is None and output.record is not Record.EVENTS:
            raise ValueError(f"output {output.name} has no type: only events may go without")


def columns(stage: Stage[Any, Any], row: Row, pixels: np.dtype[Any]) -> tuple[Columns, ...]:
    """Return the tables of a stage, numbers only.

    Parameters
    ----------
    row
        The first one: shapes of rows, and types that the stage left open, are its own.
    pixels
        Type of the frames' pixels: that of events of which the row says nothing.
    """
    tables = [output for output in stage.outputs if output.path and output.kind not in _TEXTS]
    absent = left_out(stage, row)
    frames = [
        _frame_column(stage, output, row.get(output.name))
        for output in tables
        if output.record is Record.FRAME and output.name not in absent
    ]
    events: dict[str, list[Column]] = {}
    for output in tables:
        if output.record is Record.EVENTS:
            column = _event_column(stage, output, row.get(output.name), pixels)
            events.setdefault(column.path.rpartition("/")[0], []).append(column)
    # Events are written before their frames: a frame that is in the file has all of them.
    books = {group: EventColumns(group, tuple(each)) for group, each in events.items()}
    paths = [f"{stage.entry}/{each.path}" for each in tables if each.record is Record.POINTER]
    pointers = tuple((path, books[path.rpartition("/")[0]]) for path in paths)
    if not (frames or pointers):
        return tuple(books.values())
    return (*books.values(), FrameColumns(FRAMES, tuple(frames), pointers))


def left_out(stage: Stage[Any, Any], row: Row) -> frozenset[str]:
    """Return the names of optional outputs of which the first row says nothing."""
    return frozenset(o.name for o in stage.outputs if o.optional and o.name not in row)


def _frame_column(stage: Stage[Any, Any], output: Output, value: Any) -> Column:
    dtype = np.dtype(output.dtype)
    shape = () if value is None else np.shape(value)
    if SLOT in output.path:
        shape = shape[1:]
    leaf = output.path.rpartition("/")[2]
    signal = stage.groups.get(_group(output), {}).get("signal", leaf)
    marks = SLOT in output.path and signal == leaf and dtype.kind == "f"
    path = f"{stage.entry}/{output.path}"
    return Column(output.name, path, dtype, shape, marks, output.compressed)


def _event_column(
    stage: Stage[Any, Any], output: Output, value: Any, pixels: np.dtype[Any]
) -> Column:
    path, exact = f"{stage.entry}/{output.path}", output.dtype is None
    given = value.dtype if isinstance(value, np.ndarray) and value.dtype.kind in "iufc" else pixels
    dtype = given.newbyteorder("=") if exact else np.dtype(output.dtype)
    return Column(output.name, path, dtype, compressed=output.compressed, exact=exact)


def _group(output: Output) -> str:
    return output.path.rpartition("/")[0]
