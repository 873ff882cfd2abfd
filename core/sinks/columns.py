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
TABLES = (Record.FRAME, Record.EVENTS)
"""What is recorded in tables."""
EVENT_ROWS = 16_384
"""Events in a piece of a table: a frame may have 10 000."""
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


@dataclass(frozen=True, slots=True)
class Columns(ABC):
    """Tables that grow together: a book of the file."""

    name: str
    columns: tuple[Column, ...]
    chunk_rows: ClassVar[int] = CHUNK_ROWS

    @abstractmethod
    def stack(self, rows: Sequence[Row]) -> tuple[_Columns, Counter[str]]:
        """Return what frames add to each table, by path, and of what how many did not fit."""


class FrameColumns(Columns):
    """The tables with one row a frame: outputs with `Record.FRAME`."""

    def stack(self, rows: Sequence[Row]) -> tuple[_Columns, Counter[str]]:
        """Return arrays [row, (slot,) ...]; what is missing or does not fit has the fill value."""
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
        return out, misfits


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

    def _events(self, row: Row) -> list[NDArray[Any]] | None:
        """Return one frame's events, an array for each table; None if they do not fit."""
        values = [_fitted_events(row.get(each.name), each.dtype) for each in self.columns]
        events = [value for value in values if value is not None]
        same = len({len(value) for value in events}) == 1
        return events if same and len(events) == len(values) else None


def _fitted_events(given: Any, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    value = np.empty(0, dtype) if given is None else np.asarray(given)
    if value.ndim != 1:
        return None
    return fitted(value, dtype) if len(value) else np.empty(0, dtype)


def check_events(outputs: Iterable[Output]) -> None:
    """Object to tables of events that cannot be written.

    Raises
    ------
    ValueError
        In one sentence, if their group has slots, or tables of frames.
    """
    recorded = [output for output in outputs if output.path]
    frames = {_group(output) for output in recorded if output.record is Record.FRAME}
    for output in recorded:
        if output.record is Record.EVENTS and (SLOT in output.path or _group(output) in frames):
            raise ValueError(
                f"output {output.name} records events at {output.path}: "
                "its group may have neither slots nor tables of frames; choose another path"
            )


def columns(stage: Stage[Any, Any], row: Row) -> tuple[Columns, ...]:
    """Return the tables of a stage, numbers only; the shape of a row is that of the first one."""
    tables = [output for output in stage.outputs if output.path and output.kind not in _TEXTS]
    frames = [
        _frame_column(stage, output, row.get(output.name))
        for output in tables
        if output.record is Record.FRAME
    ]
    events: dict[str, list[Column]] = {}
    for output in tables:
        if output.record is Record.EVENTS:
            path = f"entry/{output.path}"
            column = Column(output.name, path, np.dtype(output.dtype))
            events.setdefault(path.rpartition("/")[0], []).append(column)
    # Events are written before their frames: a frame that is in the file has all of them.
    books = [EventColumns(group, tuple(each)) for group, each in events.items()]
    return (*books, FrameColumns(FRAMES, tuple(frames))) if frames else tuple(books)


def _frame_column(stage: Stage[Any, Any], output: Output, value: Any) -> Column:
    dtype = np.dtype(output.dtype)
    shape = () if value is None else np.shape(value)
    if SLOT in output.path:
        shape = shape[1:]
    leaf = output.path.rpartition("/")[2]
    signal = stage.groups.get(_group(output), {}).get("signal", leaf)
    marks = SLOT in output.path and signal == leaf and dtype.kind == "f"
    return Column(output.name, f"entry/{output.path}", dtype, shape, marks)


def _group(output: Output) -> str:
    return output.path.rpartition("/")[0]
