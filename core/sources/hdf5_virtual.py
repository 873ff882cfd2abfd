"""Which frame of which file stands behind each frame of a virtual HDF5 dataset."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Index = tuple[int, ...]
Key = tuple[Path, str]
"""A dataset: its file, and its path within."""
Axes = tuple[NDArray[np.intp], ...]
"""Selected places along each axis before those of the frame, ascending."""
ODD, MISSING = -1, -2
MOST_PLACES = 10_000_000
"""Longest axis of a mapping that is followed; a file of a few bytes can claim any length."""


class Where(Enum):
    """What is known of a frame that is no whole frame of another dataset."""

    ODD = "HDF5 must put it together"
    NOWHERE = "nothing was ever written"


@dataclass(frozen=True, slots=True)
class Place:
    """A frame of another dataset."""

    file: Path
    dataset: str
    rank: int
    """Its number among those mapped together, in C order."""
    index: Index | None = None
    """None: where the source's whole shape, which the mapping does not say, has this number."""
    count: int = 1
    """Number of frames mapped together."""

    def within(self, shape: Index) -> Index | None:
        """Return the index in a source of so many frames along each axis; None: it does not fit.

        A source that has not grown to the frame yet fits: the index lies beyond its end.
        """
        if self.index is not None:
            return self.index if len(self.index) == len(shape) else None
        if self.count != math.prod(shape):
            return None
        return tuple(map(int, np.unravel_index(self.rank, shape))) if shape else ()


@dataclass(frozen=True, slots=True)
class _Part:
    """One mapping of whole frames: those of `source`, in its order, to those of `target`."""

    file: Path
    dataset: str
    target: Axes
    source: Axes | None
    """None: all that the source holds."""


def height(
    dataset: h5py.Dataset,
    opened: Callable[[Path], h5py.File],
    most: int,
    above: tuple[Key, ...] = (),
    known: dict[Key, float] | None = None,
) -> float:
    """Return through how many virtual datasets a dataset leads; infinity for more than `most`.

    HDF5 itself follows them until its stack overflows, one that needs itself for ever.

    Parameters
    ----------
    dataset
        Virtual or not.
    opened
        Opens a file; what it raises counts as a file that is not there.
    most
        Where to stop.
    above, known
        Datasets that led to this one, and the heights found so far.
    """
    known = {} if known is None else known
    here: Key = (Path(dataset.file.filename), dataset.name or "")
    if not dataset.is_virtual:
        return 0
    if here in above or len(above) >= most:
        return math.inf
    below = 0.0
    for file, name in {(m.file_name, _absolute(m.dset_name)) for m in dataset.virtual_sources()}:
        path = here[0] if file == "." else here[0].parent / file
        if any(_is_meant(key, (path, name)) for key in (*above, here)):
            return math.inf
        if (path, name) not in known:
            with (
                suppress(OSError, RuntimeError, KeyError, ValueError, TypeError),
                opened(path) as at,
            ):
                found = at.get(name)
                if isinstance(found, h5py.Dataset):
                    known[path, name] = height(found, opened, most, (*above, here), known)
        below = max(below, known.get((path, name), 0))
    return 1 + below


def _absolute(name: str) -> str:
    return "/" + name.lstrip("/")


def _is_meant(key: Key, name: Key) -> bool:
    """Tell whether a source's name, in which %b stands for any number, is that of a dataset."""
    file, dataset = (str(part).replace("%b", "*") for part in name)
    return fnmatchcase(str(key[0]), file) and fnmatchcase(key[1], dataset)


class VirtualFrames:
    """Frames of a virtual dataset, found in the datasets that they come from.

    Mappings of whole frames are followed, also strided ones and those of several axes.
    What is put together from pieces of frames, mapped twice, or named by a pattern is
    left to HDF5. Source files are looked for where HDF5 finds them first: in the folder
    of the virtual dataset's own file.

    Parameters
    ----------
    dataset
        Of shape (..., rows, columns).
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.missing_files: list[str] = []
        """Names of source files that are not there; their frames are nowhere."""
        self._file = Path(dataset.file.filename)
        self._shape: tuple[int, ...] = dataset.shape
        self._parts: list[_Part] = []
        self._part = np.zeros(dataset.shape[:-2], np.int32)  # 1 and up: number of the part
        self._rest = Where.NOWHERE
        for mapping in dataset.virtual_sources():
            self._add(mapping)

    def find(self, index: Index) -> Place | Where:
        """Return where a frame is."""
        number = int(self._part[index])
        if number == 0:
            return self._rest
        if number < 0:
            return Where.NOWHERE if number == MISSING else Where.ODD
        part = self._parts[number - 1]
        at = [int(np.searchsorted(axis, i)) for axis, i in zip(part.target, index, strict=True)]
        lengths = _lengths(part.target)
        rank = int(np.ravel_multi_index(at, lengths)) if at else 0
        source: Index | None = None
        if part.source is not None:
            place = np.unravel_index(rank, _lengths(part.source)) if part.source else ()
            source = tuple(int(axis[i]) for axis, i in zip(part.source, place, strict=True))
        return Place(part.file, part.dataset, rank, source, math.prod(lengths))

    def _add(self, mapping: Any) -> None:
        """Note where the frames of one mapping are."""
        name = mapping.file_name
        path = self._file if name == "." else self._file.parent / name
        missing = name != "." and "%" not in name and not path.exists()
        if missing:
            self.missing_files.append(name)
        target = _whole_frames(mapping.vspace, self._shape)
        bounds = None if target is not None else _bounds(mapping.vspace, self._shape)
        part = None
        if target is not None and "%" not in name + mapping.dset_name:
            part = _part(path, mapping, target)
        if target is None and bounds is None:  # a mapping without end
            self._rest = Where.ODD
            return
        here = bounds if target is None else np.ix_(*target)
        before = self._part[here]
        if missing:
            self._part[here] = MISSING
        elif part is None:
            self._part[here] = np.where(before == MISSING, before, ODD)
        else:
            self._parts.append(part)
            fresh = np.where(before == MISSING, before, ODD)
            self._part[here] = np.where(before == 0, len(self._parts), fresh)


def _part(path: Path, mapping: Any, target: Axes) -> _Part | None:
    """Return a mapping of whole frames to whole frames; None if the source's are none."""
    space = mapping.src_space
    if space.get_select_type() == h5py.h5s.SEL_ALL:  # its shape is not said
        return _Part(path, mapping.dset_name, target, None)
    source = _whole_frames(space, space.shape)
    if source is None or math.prod(_lengths(source)) != math.prod(_lengths(target)):
        return None
    return _Part(path, mapping.dset_name, target, source)


def _lengths(axes: Axes) -> tuple[int, ...]:
    return tuple(axis.size for axis in axes)


def _whole_frames(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> Axes | None:
    """Return the frames that a selection holds; None unless they are whole and regularly placed."""
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_ALL:
        return tuple(np.arange(length) for length in shape[:-2])
    if kind != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab() or len(shape) < 2:
        return None
    axes = []
    for length, start, stride, count, block in zip(
        shape, *space.get_regular_hyperslab(), strict=True
    ):
        if (
            count * block > min(length, MOST_PLACES)
            or start + (count - 1) * stride + block > length
        ):
            return None  # without end, or not of this dataset
        axes.append((start + stride * np.arange(count)[:, None] + np.arange(block)).reshape(-1))
    if any(axis.size != length for axis, length in zip(axes[-2:], shape[-2:], strict=True)):
        return None
    return tuple(axes[:-2])


def _bounds(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return the frames between the first and the last of a selection; None if there is no last."""
    try:
        first, last = space.get_select_bounds()
    except (RuntimeError, ValueError):
        return None
    ends = np.minimum(np.add(last, 1), shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(first[:-2], ends[:-2], strict=True))
