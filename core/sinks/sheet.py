"""One series on its way to its file: its rows as messages, and what became of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..frame import Series
from ..stage import Row, Settings
from .columns import Columns
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
    series, shape, settings
        Of its first frame; `shape` is (rows, columns).
    lose
        Called with the number of rows that will not be in the file.
    complain
        Called with a sentence about values that do not fit.
    """

    series: Series
    shape: tuple[int, ...]
    settings: Settings
    lose: Callable[[int], None]
    complain: Callable[[str], None]
    begun: bool = False
    """True once its first row came."""
    place: Place = Place.UNKNOWN
    books: tuple[Columns, ...] = ()
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
        if self.place is not Place.FOUND or not self.books or self.dead:
            return None
        books, misfits = {}, Counter[str]()
        for book in self.books:
            books[book.name], found = book.stack(rows)
            misfits += found
        if misfits:
            self._misfits += misfits
            bad = [f"{name} of {count} frames" for name, count in self._misfits.items()]
            self.complain(f"values do not fit their tables: {', '.join(bad)}")
        return {"do": "rows", "run": self.series.run_id, "frames": len(rows), "books": books}

    def sent(self, rows: int) -> None:
        """Count rows that went to the writer, as far as there is a file."""
        if self.place is Place.REFUSED or self.dead:
            self.lost(rows)
        elif self.place is Place.FOUND and self.books:
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
