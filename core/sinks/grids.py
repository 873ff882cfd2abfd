"""Datasets of fixed shape of which frames write cells: only the pieces that are written take room.

A cell is written in place. It is at most one piece of the dataset where it has
8 KiB or more; smaller ones share a piece with their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .compression import PIECE_BYTES, bitshuffle, most_bytes
from .tables import fill_value

MOST_PIECES = 1 << 20
"""Pieces of a dataset; it has larger ones where there would be more."""
MOST_TOGETHER = 1 << 20
"""Bytes of cells that are written in one go; they are copied for it."""
ENTRY_BYTES = 24
"""Most bytes that HDF5 keeps about a piece; it takes them all with the first."""
Index = tuple[int, ...]
Cells = Mapping[str, Sequence[tuple[Sequence[int], NDArray[Any]]]]
"""By path: places and what goes there, in order, as a message has them."""


@dataclass(frozen=True, slots=True)
class Grid:
    """One such dataset."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    compressed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the whole, not compressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def piece(self) -> tuple[int, ...]:
        """Shape of a piece: whole last axes, as far as they fit."""
        limit = max(PIECE_BYTES, self.nbytes // MOST_PIECES)
        sides: list[int] = []
        for length in reversed(self.shape):
            most = max(limit // (math.prod(sides) * self.dtype.itemsize), 1)
            sides.append(-(-length // -(-length // most)) if length else 1)
        return tuple(reversed(sides))

    @property
    def in_pieces(self) -> bool:
        """False for what is too small to be divided, unless it is to be compressed."""
        return self.nbytes > 0 < len(self.shape) and (self.compressed or self.piece != self.shape)

    def create(self, file: h5py.File, path: str) -> None:
        """Create the dataset, with nothing in it."""
        storage: dict[str, Any] = {"chunks": self.piece} if self.in_pieces else {}
        if storage and self.compressed:
            storage |= bitshuffle()
        file.create_dataset(
            path, shape=self.shape, dtype=self.dtype, fillvalue=fill_value(self.dtype), **storage
        )

    def room(self, places: set[Index]) -> int:
        """Return the most bytes that writing cells at these places can take on the disk."""
        if not self.in_pieces:
            return self.nbytes
        piece = self.piece
        touched = {tuple(i // n for i, n in zip(place, piece, strict=False)) for place in places}
        pieces = sum(math.prod(self._counts[len(at) :]) for at in touched)
        return most_bytes(pieces * math.prod(piece) * self.dtype.itemsize)

    @property
    def index_bytes(self) -> int:
        """Bytes that HDF5 takes with the first piece, to find them all."""
        return ENTRY_BYTES * math.prod(self._counts) if self.in_pieces else 0

    @property
    def _counts(self) -> tuple[int, ...]:
        """Pieces along each axis."""
        return tuple(-(-n // m) for n, m in zip(self.shape, self.piece, strict=True))


@dataclass(slots=True)
class Grids:
    """All such datasets of a file, by path, and the cells that are not safely written yet."""

    grids: Mapping[str, Grid]
    waiting: dict[tuple[str, Index], tuple[NDArray[Any], bool]] = field(default_factory=dict)
    """By path and place, the newest last: the value, and whether it is a frame's."""
    _begun: set[str] = field(default_factory=set)

    @property
    def nbytes(self) -> int:
        """Bytes that wait."""
        return sum(value.nbytes for value, _ in self.waiting.values())

    def check(self, cells: Cells) -> None:
        """Object to cells of what is not there; raises KeyError."""
        for path in cells:
            if path not in self.grids:
                raise KeyError(f"there is no {path} to write to")

    def take(self, cells: Cells, of_frames: bool) -> None:
        """Take cells; of those at the same place only the newest is kept."""
        for path, given in cells.items():
            for place, value in given:
                key = (path, tuple(place))
                self.waiting.pop(key, None)
                self.waiting[key] = (value, of_frames)

    def drop_frames(self) -> None:
        """Forget what frames wrote."""
        self.waiting = {key: cell for key, cell in self.waiting.items() if not cell[1]}

    def room(self) -> int:
        """Return the most bytes that writing what waits can take on the disk."""
        places: dict[str, set[Index]] = {}
        for path, place in self.waiting:
            places.setdefault(path, set()).add(place)
        new = sum(self.grids[path].index_bytes for path in places.keys() - self._begun)
        return new + sum(self.grids[path].room(found) for path, found in places.items())

    def create(self, file: h5py.File) -> None:
        """Create the datasets."""
        for path, grid in self.grids.items():
            grid.create(file, path)

    def write(self, item: Callable[[str], h5py.Dataset]) -> None:
        """Write what waits; `item` returns the dataset at a path."""
        for path, place, value in self._runs():
            item(path)[place or ...] = value

    def _runs(self) -> Iterator[tuple[str, tuple[Any, ...], NDArray[Any]]]:
        """Yield where to write what: neighbours that come one after the other together.

        A call of HDF5 takes its time, whatever it writes: `write` took 83 us a cell with one
        cell waiting each time, 5.4 us with all 10,000 of a map of 100 x 100 x 1000 float32.
        """
        run: list[NDArray[Any]] = []
        path, step = "", 0
        begin: Index = ()
        for (name, place), (value, _) in self.waiting.items():
            if run and name == path and len(place) == len(begin) > 0 and place[:-1] == begin[:-1]:
                ahead = place[-1] - begin[-1]
                room = (len(run) + 1) * value.nbytes <= MOST_TOGETHER
                if room and abs(ahead) == len(run) and step in (0, ahead // len(run)):
                    step = ahead // len(run)
                    run.append(value)
                    continue
            if run:
                yield path, *_together(begin, step, run)
            path, begin, step, run = name, place, 0, [value]
        if run:
            yield path, *_together(begin, step, run)

    def written_safely(self) -> None:
        """Forget what waited: it was flushed."""
        self._begun |= {path for path, _ in self.waiting}
        self.waiting.clear()


def _together(
    begin: Index, step: int, run: list[NDArray[Any]]
) -> tuple[tuple[Any, ...], NDArray[Any]]:
    """Return place and value of cells that follow each other from a place on, up or down."""
    if not step:
        return begin, run[0]
    values = np.stack(run[::step])
    first = begin[-1] if step > 0 else begin[-1] - len(run) + 1
    return (*begin[:-1], slice(first, first + len(run))), values
