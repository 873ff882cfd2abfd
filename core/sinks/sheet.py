"""One series on its way to its file: its rows as messages, and what became of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from ..frame import Series
from ..stage import Row, Settings, Tree
from . import layout
from .cells import Places
from .columns import Columns
from .seriesfile import CHANGES
from .wire import Message


class Place(Enum):
    """Whether a series has a file."""

    UNKNOWN = "unknown"
    """Not looked for yet."""
    FOUND = "found"
    NONE = "none"
    """It shall have none."""
    REFUSED = "refused"
    """There is no place for it: its rows are lost, and counted."""


@dataclass(eq=False)
class Sheet:
    """One series on its way to its file; used by three threads.

    Parameters
    ----------
    series, shape, pixels, settings
        Of its first frame; `shape` is (rows, columns), `pixels` their type.
    entry
        Name of the file's entry.
    lose
        Called with the number of rows that will not be in the file.
    complain
        Called with a sentence about values that do not fit.
    """

    series: Series
    shape: tuple[int, ...]
    pixels: np.dtype[Any]
    settings: Settings
    entry: str
    lose: Callable[[int], None]
    complain: Callable[[str], None]
    begun: bool = False
    """True once its first row came."""
    place: Place = Place.UNKNOWN
    books: tuple[Columns, ...] = ()
    first: Tree = field(default_factory=dict)
    """What the stage has for its file when it begins."""
    places: Places = field(default_factory=Places)
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Changes of parameters, as in `layout.change_row`."""
    missing: int = 0
    """Rows that are not in the file."""
    dead: bool = False
    """True once its writer died: nothing more comes to the file."""
    _sent: int = 0
    _written: int = 0
    _dropped: int = 0
    _misfits: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pack(self, rows: list[Row]) -> Message | None:
        """Return the message for some rows, None if they have no file (any more)."""
        if not self._holds_frames or self.dead:
            return None
        books: dict[str, Any] = {}
        cells, misfits = self.places.of_rows(rows)
        for book in self.books:
            books[book.name], found = book.stack(rows)
            misfits += found
        self._note_misfits(misfits)
        return self._rows(len(rows), books, cells)

    def change_message(self, change: Mapping[str, Any]) -> Message | None:
        """Return the message for a change of parameters, None without a file."""
        if self.place is not Place.FOUND:
            return None
        return self._rows(0, {CHANGES: layout.change_columns(self.entry, change)}, {})

    def update_message(self, tree: Tree) -> Message | None:
        """Return the message for new values, None without a file."""
        return self._values("update", tree, {})

    def finish_message(self, tree: Tree, end: str) -> Message | None:
        """Return the message for the last values, None without a file."""
        changes = [change["values"] for change in self.changes]
        return self._values(
            "finish", tree, layout.last_tree(self.entry, end, self.missing, changes)
        )

    def _rows(self, frames: int, books: dict[str, Any], cells: dict[str, Any]) -> Message:
        run = self.series.run_id
        return {"do": "rows", "run": run, "frames": frames, "books": books, "cells": cells}

    def _values(self, what: str, tree: Tree, more: Tree) -> Message | None:
        if self.place is not Place.FOUND:
            return None
        rest, cells, misfits = self.places.of_tree(tree)
        self._note_misfits(misfits)
        values = {**more, **layout.below_entry(self.entry, rest)}
        return {"do": what, "run": self.series.run_id, "tree": values, "cells": cells}

    def _note_misfits(self, misfits: Counter[str]) -> None:
        if misfits:
            self._misfits += misfits
            bad = [f"{name} of {count} frames" for name, count in self._misfits.items()]
            self.complain(f"values do not fit their tables: {', '.join(bad)}")

    @property
    def _holds_frames(self) -> bool:
        """True if there is a file, and anything of a frame in it."""
        return self.place is Place.FOUND and bool(self.books or self.places.paths)

    def sent(self, rows: int) -> None:
        """Count rows that went to the writer, as far as there is a file."""
        if self.place is Place.REFUSED or self.dead:
            self.lost(rows)
        elif self._holds_frames:
            self._sent += rows

    def lost(self, rows: int) -> None:
        """Count rows that did not reach the writer."""
        if self.place is not Place.NONE and rows:
            with self._lock:
                self.missing += rows
            self.lose(rows)

    def written(self, rows: int) -> None:
        """Take note that so many rows of the series are safe by now."""
        self._written = rows

    def dropped(self, rows: int) -> None:
        """Count rows that the writer dropped."""
        self._dropped += rows
        self.lost(rows)

    def died(self) -> None:
        """Take note that the writer died: what it had not written is lost."""
        self.dead = True
        self.dropped(self._sent - self._written - self._dropped)
