"""Tables of an open series file: they grow by rows, and no row is forgotten before it is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .compression import PIECE_BYTES, bitshuffle, most_bytes
from .tree import CHUNK_BYTES, SLOT, slot_name, storage_type

CHUNK_ROWS = 1024
"""Rows in a piece of a table of frames; fewer where rows are long."""
POINTS_INTO = "points_into"
"""Attribute of a table that says where frames end in others: their names."""


def fill_value(dtype: np.dtype[Any]) -> Any:
    """Return what stands where no row was written: NaN, -1, 0 or empty text."""
    return {"f": np.nan, "c": np.nan, "i": -1, "S": b""}.get(dtype.kind, 0)


def fitted(value: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return numbers in another type, or None where that would change them.

    Floats may be rounded, or become infinite; integers never wrap, and no
    fraction is cut off.
    """
    if value.dtype == dtype:
        return value
    if dtype.kind in "iu" and value.dtype.kind in "iub":
        cast = value.astype(dtype)
        return cast if np.array_equal(cast, value) else None
    if not np.can_cast(value.dtype, dtype, "same_kind"):
        return None
    with np.errstate(over="ignore"):
        return value.astype(dtype)


@dataclass(frozen=True, slots=True)
class Table:
    """A dataset that grows by rows, or one for each slot."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of one row; with `{slot}` in its path, of one row of one slot."""
    marks: bool = False
    """True: a slot is in use from its first value here on that is not NaN."""
    most_rows: int = CHUNK_ROWS
    """Most rows in a piece of the table."""
    compressed: bool = False
    points_into: tuple[str, ...] = ()
    """Tables of events beside it: then it has one row more than rows came, is 0 there,
    and holds the sum of what came, the events of all frames so far."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (of one slot)."""
        return max(int(np.prod(self.shape)) * self.dtype.itemsize, 1)

    @property
    def chunk_rows(self) -> int:
        """Rows in a piece of the table."""
        most = PIECE_BYTES if self.compressed else CHUNK_BYTES
        return min(max(most // self.row_bytes, 1), self.most_rows)

    def room(self, nbytes: int) -> int:
        """Return the most bytes that so many of rows and the piece they continue, take."""
        nbytes += self.chunk_rows * self.row_bytes
        return most_bytes(nbytes) if self.compressed else nbytes

    def create(self, file: h5py.File, path: str) -> None:
        """Create the table, empty."""
        table = file.create_dataset(
            path,
            shape=(1 if self.points_into else 0, *self.shape),
            maxshape=(None, *self.shape),
            chunks=(self.chunk_rows, *self.shape),
            dtype=storage_type(self.dtype),
            fillvalue=fill_value(self.dtype),
            **(bitshuffle() if self.compressed else {}),
        )
        if self.points_into:
            table.attrs.create(POINTS_INTO, list(self.points_into), dtype=h5py.string_dtype())


@dataclass(slots=True)
class Book:
    """Tables that grow together, by path, and the rows that are not safely written yet."""

    tables: dict[str, Table]
    written: int = 0
    waiting: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    """Columns by path: [row, ...], or [row, slot, ...] where the path has `{slot}`."""
    _sums: dict[str, int] = field(default_factory=dict)
    """What pointers hold in their last row that is safe."""

    @property
    def rows_waiting(self) -> int:
        """Rows taken but not safely written."""
        return sum(len(next(iter(columns.values()))) for columns in self.waiting)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that wait."""
        return sum(column.nbytes for columns in self.waiting for column in columns.values())

    def check(self, columns: dict[str, NDArray[Any]]) -> None:
        """Object to rows that cannot be taken.

        Raises
        ------
        KeyError
            If a column is missing or unknown.
        """
        if columns.keys() != self.tables.keys():
            raise KeyError(f"columns {sorted(columns)} where {sorted(self.tables)} are wanted")

    def room(self, slots: int) -> int:
        """Return the most bytes that writing the rows that wait can take on the disk."""
        room = 0
        for path, table in self.tables.items() if self.waiting else ():
            room += table.room(sum(columns[path].nbytes for columns in self.waiting))
            room += (slots - 1) * table.room(0) if SLOT in path else 0
        return room

    def create(self, file: h5py.File, slots: int) -> None:
        """Create the tables, empty; those with `{slot}` for every slot."""
        for path, table in self.tables.items():
            for number in range(slots if SLOT in path else 1):
                table.create(file, path.replace(SLOT, slot_name(number)))

    def write(self, item: Callable[[str], h5py.Dataset], used: set[int]) -> None:
        """Write the rows that wait, after those written.

        Parameters
        ----------
        item
            Returns the dataset at a path.
        used
            Slots in use; those that turn out to be are added. Only their tables
            grow; a table that starts late has the fill value in earlier rows.
        """
        stop = self.written + self.rows_waiting
        columns = {
            path: np.concatenate([columns[path] for columns in self.waiting])
            for path in self.tables
        }
        for path, table in self.tables.items():
            if table.marks:
                used.update(_slots_in_use(columns[path]))
        for path, values in columns.items():
            more = 0
            if self.tables[path].points_into:
                values, more = self._ends(path, values), 1
            for target, part in _targets(path, values, used):
                dataset = item(target)
                if len(dataset) != stop + more:
                    dataset.resize(stop + more, axis=0)
                dataset[self.written + more : stop + more] = part.astype(dataset.dtype)

    def written_safely(self) -> None:
        """Forget the rows that waited: they were flushed."""
        for path, table in self.tables.items():
            if table.points_into:
                came = sum(int(columns[path].sum()) for columns in self.waiting)
                self._sums[path] = self._sums.get(path, 0) + came
        self.written += self.rows_waiting
        self.waiting.clear()

    def _ends(self, path: str, counts: NDArray[Any]) -> NDArray[np.uint64]:
        """Return where each frame's events end, from how many it has."""
        return np.cumsum(counts, dtype=np.uint64) + np.uint64(self._sums.get(path, 0))


def _targets(path: str, values: NDArray[Any], used: set[int]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the datasets that a column goes to: its own, or that of every used slot."""
    if SLOT not in path:
        yield path, values
        return
    for slot in sorted(used):
        yield path.replace(SLOT, slot_name(slot)), values[:, slot]


def _slots_in_use(column: NDArray[Any]) -> list[int]:
    """Return the slots with any value in a column [row, slot, ...]: not NaN, not 0."""
    filled = ~np.isnan(column) if column.dtype.kind in "fc" else column != 0
    axes = (0, *range(2, column.ndim))
    return [int(slot) for slot in np.flatnonzero(filled.any(axis=axes))]
