"""The HDF5 file of one series, as its writer sees it: created whole, then only values change.

While the file is open it is in SWMR mode: readers that open it with
`swmr=True` follow it, and after a crash they find everything up to the last
flush. What SWMR does not allow (new objects, links, values of another form)
waits until the series ends: the file is closed, opened alone, completed, closed.

Everything is written into room that was reserved before (`ronda.core.sinks.reserved`);
where there is none it waits. Should HDF5 fail nevertheless, it is not asked again:
the file is given up as it is on the disk, readable up to the last good flush,
and left to `ronda recover`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from . import tree as trees
from .grids import Cells, Grid, Grids
from .inplace import modify
from .reserved import ROOM, VERSION, abandon, close, create_new, give_back, reserve
from .tables import Book, Table, fill_value
from .wire import size

CHANGES = "changes"
"""Name of the book of parameter changes, and of its group; the others' rows belong to frames."""
END_TIME, END_NOTE = "end_time", "end_note"
"""Texts in the entry of every series' file that whoever completes it fills in."""
GIVEN_UP = "given up"
"""What the problem of a file that cannot be completed is about, until somebody acknowledges."""
COUNTED = "the last checkpoint; there may be more rows"
"""Attribute `as_of` of the counts in a file that was not ended by its device."""
ENTRY = "entry"
"""Name of the entry of a file that has no attribute `default`."""


class State(Enum):
    """How far a file is."""

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"
    COMPLETE = "complete"
    BROKEN = "broken"


class SeriesFile:
    """One file, from its layout to its completion.

    Parameters
    ----------
    path
        Where it shall be; if that exists, `_2`, `_3`... is appended.
    tree
        Groups, values and attributes at the beginning, from the file's root.
    blanks
        Datasets that get their value later, by path: (dtype, shape).
    books
        Tables that grow together, by name and path.
    slots
        Number of slots that `{slot}` in a path stands for.
    overwrite
        Replace an existing file instead.
    grids
        Datasets that cells are written to, by path.
    """

    def __init__(
        self,
        path: Path,
        tree: trees.Tree,
        blanks: Mapping[str, tuple[str, tuple[int, ...]]],
        books: Mapping[str, dict[str, Table]],
        slots: int,
        overwrite: bool = False,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        self.path, self.state = path, State.NEW
        self.refused: list[str] = []
        """Entries that HDF5 has no form for, with the reason."""
        self._tree, self._blanks = trees.expand(tree, slots), blanks
        self.frames = 0
        """Frames whose rows are safely written."""
        self._frames_waiting = 0
        self._books = {name: Book(tables) for name, tables in books.items()}
        self._grids = Grids(grids or {})
        self._slots, self._overwrite, self._ending = slots, overwrite, False
        self._used: set[int] = set()
        self._values: dict[str, Any] = {}
        self._later: dict[str, Any] = {}
        self._file: h5py.File | None = None
        self._items: dict[str, Any] = {}
        self._handle = -1
        self._note_names(tree)

    # --------------------------------------------------------------- what comes

    def rows(
        self,
        books: Mapping[str, dict[str, NDArray[Any]]],
        frames: int,
        cells: Cells | None = None,
    ) -> None:
        """Take the rows of so many frames: by book, for each table an array [row, ...].

        Raises
        ------
        KeyError
            If a book, its columns or a cell are not in the layout; nothing is taken.
        """
        cells = cells or {}
        self._grids.check(cells)
        for name, columns in books.items():
            self._books[name].check(columns)
        for name, columns in books.items():
            self._books[name].waiting.append(columns)
        self._grids.take(cells, of_frames=True)
        self._frames_waiting += frames

    def update(self, tree: trees.Tree, cells: Cells | None = None) -> None:
        """Take new values; of each only the newest is kept.

        Raises
        ------
        KeyError
            If there is no dataset for a cell; nothing is taken.
        """
        cells = cells or {}
        self._grids.check(cells)
        self._grids.take(cells, of_frames=False)
        self._values.update(tree)
        self._note_names(tree)

    def finish(self, tree: trees.Tree, cells: Cells | None = None) -> None:
        """Take the last values; the next `flush` that succeeds completes the file."""
        self.update(tree, cells)
        self._ending = True

    def finish_early(self, note: str, time: str) -> None:
        """Complete the file without last values: how and when that came is noted."""
        entry = str(self._tree.get("@default", ENTRY))
        self.finish(early_end(entry, note, time))

    @property
    def ending(self) -> bool:
        """True once the last values came."""
        return self._ending

    @property
    def nbytes(self) -> int:
        """Bytes that wait."""
        rows = sum(book.nbytes for book in self._books.values())
        values = sum(getattr(value, "nbytes", 0) for value in self._values.values())
        return rows + values + self._grids.nbytes

    def drop_frames(self) -> int:
        """Forget the frames that wait, with all their rows and cells; return how many."""
        self._grids.drop_frames()
        for name, book in self._books.items():
            if name != CHANGES:
                book.waiting.clear()
        count, self._frames_waiting = self._frames_waiting, 0
        return count

    def _note_names(self, tree: trees.Tree) -> None:
        """Count slots that have a name as used."""
        for path, value in tree.items():
            if path.endswith(f"/{trees.NAMES}") and isinstance(value, list | np.ndarray):
                self._used.update(n for n, text in enumerate(value[: self._slots]) if text)

    # ------------------------------------------------------------- what is done

    @property
    def idle(self) -> bool:
        """True if there is nothing to write."""
        rows = self._frames_waiting or any(book.waiting for book in self._books.values())
        waiting = rows or self._values or self._grids.waiting
        return self.state is State.OPEN and not (self._ending or waiting)

    def flush(self) -> None:
        """Write and flush what waits; after `finish`, complete and close the file.

        Raises
        ------
        OSError
            If there is no room or no permission: everything waits for the next call.
        Exception
            From HDF5: the file is `BROKEN`, and stays open, as HDF5 cannot close it.
        """
        if self.idle:
            return
        if self.state is State.NEW:
            self._create()
        if self.state is State.OPEN:
            self._write()
        if self.state is State.OPEN and self._ending:
            self._close()
        if self.state is State.CLOSED:
            self._complete()

    @contextlib.contextmanager
    def _trusting(self) -> Iterator[None]:
        """Mark the file as broken if HDF5 fails."""
        try:
            yield
        except Exception:
            self.state = State.BROKEN
            raise

    def _create(self) -> None:
        """Create everything the file will hold while it is open, and start SWMR."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._overwrite:
            self.path.unlink(missing_ok=True)
        file = create_new(self.path, size(self._tree) + ROOM)
        try:
            self._handle = os.open(file.filename, os.O_RDWR | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # `recover` sees by this that it is being written
                fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._lay_out(file)
            file.flush()
            file.swmr_mode = True
        except Exception:
            self.state = State.BROKEN
            abandon(file)
            raise
        self._file, self.path, self.state = file, Path(file.filename), State.OPEN

    def _lay_out(self, file: h5py.File) -> None:
        for path, (dtype, shape) in self._blanks.items():
            kind = np.dtype(dtype)
            fill = 0 if kind.kind == "i" else fill_value(kind)
            storage = trees.image_storage(shape, kind)
            file.create_dataset(path, shape=shape, dtype=kind, fillvalue=fill, **storage)
        self._grids.create(file)
        for book in self._books.values():
            book.create(file, self._slots)
        file.attrs["file_name"] = file.filename
        self.refused += trees.write_tree(file, self._tree)

    def _write(self) -> None:
        """Write all that waits, and flush."""
        rows = sum(book.room(self._slots) for book in self._books.values())
        reserve(self._handle, rows + self._grids.room() + size(self._values) + ROOM)
        with self._trusting():
            self._write_reserved()
        give_back(self._handle)
        for book in self._books.values():
            book.written_safely()
        self._grids.written_safely()
        self.frames += self._frames_waiting
        self._frames_waiting = 0
        self._values.clear()

    def _write_reserved(self) -> None:
        assert self._file is not None
        if self._grids.waiting:
            self._grids.write(self._item)
            self._file.flush()  # whoever finds a frame finds its cells...
        for book in self._books.values():
            if book.rows_waiting:
                book.write(self._item, self._used)
                self._file.flush()  # ...and the events before it
        for key, value in self._values.items():
            self._later.pop(key, None)
            if not self._modified(key, value):
                self._later[key] = value
        self._file.flush()

    def _item(self, path: str) -> Any:
        """Return what stands at a path; it stays open, since closing it would write."""
        if path not in self._items:
            assert self._file is not None
            self._items[path] = self._file[path or "/"]
        return self._items[path]

    def _modified(self, key: str, value: Any) -> bool:
        """Write one entry of a tree if SWMR allows it; False if it has to wait."""
        path, _, name = key.partition("@")
        if key.endswith(">") or (path or "/") not in self._item(""):
            return False
        return modify(self._item(path), name, value)

    def _close(self) -> None:
        assert self._file is not None
        self._items.clear()
        with self._trusting():
            close(self._file)
        self._file, self.state = None, State.CLOSED
        os.close(self._handle)

    def _complete(self) -> None:
        """Add what had to wait for the end of SWMR."""
        with self.path.open("r+b") as handle:
            reserve(handle.fileno(), size(self._later) + ROOM)
        self._file = h5py.File(self.path, "r+", libver=VERSION)
        with self._trusting():
            refused = complete(self._file, self._later)
            self._file.flush()
            close(self._file)
        self._file, self.state = None, State.COMPLETE
        self.refused += refused


def early_end(entry: str, note: str, time: str) -> dict[str, Any]:
    """Return what a file gets whose device did not end it, and so did not count to the end."""
    return {
        f"{entry}/{END_NOTE}": note,
        f"{entry}/{END_TIME}": time,
        f"{entry}/ledger@as_of": COUNTED,
        f"{entry}/ledger/missing_rows": -1,
    }


def complete(file: h5py.File, tree: trees.Tree) -> list[str]:
    """Name the slots, remove the unused, write a tree; return what was refused.

    Doing it twice gives the same as once.
    """
    first = {
        key: value
        for key, value in tree.items()
        if key.endswith(f"/{trees.NAMES}") or (key.endswith(">") and value in file)
    }
    refused = trees.write_tree(file, first)
    removed = tuple(f"{path[1:]}/" for path in trees.name_slots(file))
    rest = {k: v for k, v in tree.items() if k not in first and not k.startswith(removed)}
    return refused + trees.write_tree(file, rest)
