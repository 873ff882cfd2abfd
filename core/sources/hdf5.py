"""The source `hdf5:FILE[::/path]`: frames in an HDF5 or NeXus file."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar

import h5py
import hdf5plugin  # makes bitshuffle and its like readable
import numpy as np
from numpy.typing import NDArray

from ..codecs import MAX_BLOCK, check_size, has_header
from ..frame import (
    BadFrame,
    Encoded,
    Frame,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
    check_shape,
    new_run_id,
)
from .base import Event, Source, SourceError, source
from .hdf5_virtual import Index, Place, VirtualFrames, Where, height

CHUNK_CACHE = 64 << 20
"""Bytes of decoded chunks kept, so that a chunk of several frames is decoded once."""
MAX_CHUNK = 4 << 30
"""Bytes of the largest chunk read: it is decoded whole."""
MAX_FRAMES = 100_000_000
"""Most frames taken; a file of a few bytes can claim any number."""
MAX_DEPTH = 8
"""Deepest group searched for images, and longest chain of virtual datasets followed."""
MAX_OPEN = 8
"""Source files of a virtual dataset that are kept open."""
BITSHUFFLE_LZ4 = 2
"""What bitshuffle's filter is set to for LZ4 (bshuf_h5filter.h)."""
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises where a file is not as it should be."""
WAYS: tuple[dict[str, bool], ...] = ({}, {"locking": False}, {"swmr": True, "locking": False})
"""How a file is opened, in turn: plainly; where locks do not work; while it is
written, or after its writer was killed."""


@source("hdf5")
class Hdf5Source(Source):
    """Reads a dataset with frames along its first axes, as one series.

    Shapes (rows, columns), (n, rows, columns) and (..., rows, columns) are
    taken, through virtual datasets and links too. Without a path it is the
    default NXdata signal, or the only dataset that looks like images. A frame
    that cannot be read is rejected; one that was never written, or whose raw
    file is gone, is lost (HDF5 itself would fill in zeros, which would count).
    Frames that are chunks of bitshuffle-LZ4 come compressed: who needs the pixels
    decodes them, in parallel, and finds damage.
    """

    live: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        name, _, self._path = url.partition(":")[2].partition("::")
        self._name = Path(name)
        if not self._name.is_file():
            raise SourceError(f"there is no file {self._name}")
        with open_hdf5(self._name) as file:
            self.total = math.prod(find_images(file, self._path).shape[:-2])

    def events(self) -> Iterator[Event]:
        """Yield one series with every frame of the dataset.

        Raises
        ------
        SourceError
            If the file or the dataset is gone.
        """
        series = Series(new_run_id(), filename=str(self._name.absolute()))
        with open_hdf5(self._name) as file:
            dataset = find_images(file, self._path)
            absent = 0
            yield SeriesStart(series)
            with closing(StoredFrames(dataset)) as frames:
                if frames.missing_files:
                    names = ", ".join(frames.missing_files)
                    yield Notice(f"raw files of the virtual dataset are missing: {names:.300}")
                for frame_id, index in enumerate(np.ndindex(dataset.shape[:-2])):
                    if self.closed.is_set():
                        return
                    event = _read(frames, index, series, frame_id)
                    absent += isinstance(event, Lost)
                    yield event
        if absent:
            yield Notice(f"{absent} frames of {self._name} were never written or are gone")
        yield SeriesEnd(series)


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading, also one that is being written or whose writer was killed.

    Raises
    ------
    SourceError
        If it is no HDF5 file or cannot be read.
    """
    reason = ""
    for way in WAYS:
        try:
            return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE, **way)
        except DAMAGE as error:
            reason = reason or str(error)
    raise SourceError(f"{path} cannot be read: {reason}")


def find_images(file: h5py.File, path: str = "") -> h5py.Dataset:
    """Return the dataset of images at a path, or the one that is meant without a path.

    Raises
    ------
    SourceError
        If there is none, it holds no images, or several may be meant: then
        their paths are listed.
    """
    try:
        return _checked(dataset_at(file, path))
    except SourceError:
        raise
    except DAMAGE as error:
        raise SourceError(f"{file.filename} is damaged: {error}") from None


def dataset_at(file: h5py.File, path: str = "") -> h5py.Dataset:
    """Return the dataset at a path, or the one that is meant without a path, whatever it holds.

    Raises
    ------
    SourceError
        If there is none, or several may be meant.
    """
    return _at(file, path) if path else _default(file)


class StoredFrames:
    """Frames of a dataset by their index, compressed where they are stored so that it is of use.

    A frame that is a chunk of bitshuffle-LZ4 is not decoded; what is stored in another
    way HDF5 reads. Source files of virtual datasets are opened as they are needed.

    Parameters
    ----------
    dataset
        As from `find_images`, of an open file.
    depth
        Number of virtual datasets that led to this one.
    file
        To be closed with the frames; None: stays open.
    """

    def __init__(
        self, dataset: h5py.Dataset, depth: int = 0, file: h5py.File | None = None
    ) -> None:
        if math.prod(dataset.shape[:-2]) > MAX_FRAMES:
            raise ValueError(f"{dataset.name} claims more than {MAX_FRAMES} frames")
        self.dataset = dataset
        self._file = file
        self._depth = depth
        self._packed = _is_packed(dataset)
        followed = dataset.is_virtual and depth < MAX_DEPTH
        self._virtual = VirtualFrames(dataset) if followed else None
        self._height: float | None = None
        self._written: NDArray[np.bool_] | None = None
        self._sources: OrderedDict[tuple[Path, str], StoredFrames | None] = OrderedDict()

    @property
    def missing_files(self) -> list[str]:
        """Names of a virtual dataset's source files that are not there."""
        return self._virtual.missing_files if self._virtual is not None else []

    def read(self, index: Index) -> NDArray[Any] | Encoded | None:
        """Return a frame, or None if it was never written or its file is gone.

        Raises
        ------
        OSError, RuntimeError, KeyError, ValueError, TypeError
            If it cannot be read (`DAMAGE`).
        """
        if self._virtual is not None:
            where = self._virtual.find(index)
            if where is Where.NOWHERE:
                return None
            return self._follow(where, index) if isinstance(where, Place) else self._plain(index)
        if not self._was_written(index):
            return None
        return self._chunk(index) if self._packed else self._plain(index)

    def close(self) -> None:
        """Close the source files; the dataset's own stays open unless it was handed over."""
        while self._sources:
            _close(self._sources.popitem()[1])
        if self._file is not None:
            self._file.close()

    def _plain(self, index: Index) -> NDArray[Any]:
        """Return a frame as HDF5 reads it, in native byte order."""
        if self.dataset.is_virtual and self._height is None:
            self._height = height(self.dataset, open_hdf5, MAX_DEPTH)
        if self._height is not None and self._height > MAX_DEPTH:
            raise ValueError("virtual datasets lead to each other in a circle, or too often")
        data = self.dataset[index]
        return np.ascontiguousarray(data, data.dtype.newbyteorder("="))

    def _follow(self, place: Place, index: Index) -> NDArray[Any] | Encoded | None:
        """Return a frame from the dataset that it comes from."""
        source = self._source(place)
        if source is None:
            return None
        shape, here = source.dataset.shape, self.dataset
        there = place.within(shape[:-2])
        same = shape[-2:] == here.shape[-2:] and _type(source.dataset) == _type(here)
        if there is None or not same:
            return self._plain(index)  # HDF5 converts
        if any(i >= length for i, length in zip(there, shape, strict=False)):
            return None
        return source.read(there)

    def _source(self, place: Place) -> StoredFrames | None:
        """Return the frames of a source dataset, which is opened if it is not open yet."""
        key = place.file, place.dataset
        if key not in self._sources:
            while len(self._sources) >= MAX_OPEN:
                _close(self._sources.popitem(last=False)[1])
            self._sources[key] = self._opened(place)
        self._sources.move_to_end(key)
        return self._sources[key]

    def _opened(self, place: Place) -> StoredFrames | None:
        """Return the frames of a source dataset; None if the file does not hold it."""
        own = self.dataset.file
        with ExitStack() as unused:
            opened = None
            if place.file != Path(own.filename):
                opened = unused.enter_context(open_hdf5(place.file))
            found = (own if opened is None else opened).get(place.dataset)
            if not isinstance(found, h5py.Dataset):
                return None
            frames = StoredFrames(found, self._depth + 1, opened)
            unused.pop_all()
        return frames

    def _chunk(self, index: Index) -> Encoded:
        """Return a frame's chunk as it is stored.

        HDF5's own filter never sees it: damage makes that read where it must not, and die.
        """
        shape, dtype = self.dataset.shape[-2:], self.dataset.dtype
        left_out, blob = self.dataset.id.read_direct_chunk((*index, 0, 0))
        codec = "none" if left_out & 1 else "bslz4"
        wanted = check_size(blob, codec, shape, dtype)
        if codec == "bslz4" and blob[:12] == struct.pack(">QI", wanted, 0):
            return Encoded(memoryview(blob)[12:], shape, dtype, codec)  # the usual blocks: Lima
        if codec == "bslz4" and not has_header(blob, wanted, dtype.itemsize):
            raise ValueError(f"a chunk of {len(blob)} bytes does not say that it holds {wanted}")
        return Encoded(blob, shape, dtype, codec)

    def _was_written(self, index: Index) -> bool:
        """Tell whether a frame is there, and not left out by an aborted scan."""
        chunks = self.dataset.chunks
        if chunks is None:
            return True
        if self._written is None:
            self._written = _written_chunks(self.dataset)
        at = tuple(i // length for i, length in zip(index, chunks, strict=False))
        if self._written[at]:
            return True
        try:  # it may have been written since
            first = tuple(i * length for i, length in zip(at, chunks, strict=False))
            self.dataset.id.read_direct_chunk((*first, 0, 0))
        except DAMAGE:
            return False
        return True


def _read(frames: StoredFrames, index: Index, series: Series, frame_id: int) -> Event:
    try:
        payload = frames.read(index)
    except (SourceError, *DAMAGE) as error:
        return Rejected(f"it cannot be read: {error}", frame_id)
    return Lost(1) if payload is None else Frame(series, frame_id, payload)


def _close(frames: StoredFrames | None) -> None:
    if frames is not None:
        frames.close()


def _type(dataset: h5py.Dataset) -> h5py.h5t.TypeID:
    return dataset.id.get_type()


def _is_packed(dataset: h5py.Dataset) -> bool:
    """Tell whether the frames are chunks of bitshuffle-LZ4 and of nothing else, in native order."""
    if dataset.chunks != (*(1 for _ in dataset.shape[:-2]), *dataset.shape[-2:]):
        return False
    try:
        filters = dataset.id.get_create_plist()
        if filters.get_nfilters() != 1 or _type(dataset) != h5py.h5t.py_create(dataset.dtype):
            return False
        number, _, options, _ = filters.get_filter(0)
    except DAMAGE:
        return False
    if number != hdf5plugin.Bitshuffle.filter_id or len(options) < 5:
        return False
    itemsize, block, compression = options[2:5]
    largest = max(MAX_BLOCK, math.prod(dataset.chunks) * itemsize)
    return bool(
        itemsize == dataset.dtype.itemsize
        and compression == BITSHUFFLE_LZ4
        and block * itemsize <= largest  # as `decode` takes them
        and dataset.dtype.isnative
    )


def _written_chunks(dataset: h5py.Dataset) -> NDArray[np.bool_]:
    """Return which chunks along the axes before the frames' own are there.

    All at once: HDF5 goes through its whole list to answer for one.
    """
    chunks = dataset.chunks
    axes = zip(dataset.shape[:-2], chunks, strict=False)
    written = np.zeros([-(-length // chunk) for length, chunk in axes], np.bool_)

    def note(chunk: Any) -> None:
        offset = chunk.chunk_offset
        if not any(offset[-2:]):
            written[tuple(i // n for i, n in zip(offset[:-2], chunks, strict=False))] = True

    try:
        dataset.id.chunk_iter(note)
    except DAMAGE:
        written[...] = True  # what is wrong with them is found when they are read
    return written


def _at(file: h5py.File, path: str) -> h5py.Dataset:
    """Return the dataset at a path, or the signal of the group there."""
    try:
        found = file[path]
    except DAMAGE:
        raise SourceError(f"{file.filename} has nothing to read at {path}") from None
    dataset = _signal(found) if isinstance(found, h5py.Group) else found
    if not isinstance(dataset, h5py.Dataset):
        raise SourceError(f"{file.filename} has no dataset at {path}")
    return dataset


def _default(file: h5py.File) -> h5py.Dataset:
    """Return the dataset that is meant where no path is given."""
    signal = _signal(file)
    if signal is not None:
        return signal
    candidates = list(_candidates(file, "", set()))
    if not candidates:
        raise SourceError(f"{file.filename} has no dataset of images")
    if len(candidates) > 1:
        raise SourceError(
            f"{file.filename} has several datasets of images; choose one with ::PATH: "
            f"{', '.join(candidates[:20])}"
        )
    return file[candidates[0]]


def _checked(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset that holds images of a usable shape and type."""
    if len(dataset.shape or ()) < 2:
        raise SourceError(f"{dataset.file.filename}::{dataset.name} is no image or stack of images")
    try:
        check_shape(dataset.shape[-2:], dataset.dtype)
    except BadFrame as error:
        raise SourceError(f"{dataset.file.filename}::{dataset.name}: {error}") from None
    if math.prod(dataset.shape[:-2]) > MAX_FRAMES:
        raise SourceError(
            f"{dataset.file.filename}::{dataset.name} claims {dataset.shape}, "
            f"more than {MAX_FRAMES} frames"
        )
    if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > MAX_CHUNK:
        raise SourceError(
            f"{dataset.file.filename}::{dataset.name} has chunks {dataset.chunks}, "
            f"more than {MAX_CHUNK} bytes each"
        )
    return dataset


def _signal(group: h5py.Group) -> h5py.Dataset | None:
    """Return the signal of a group's default NXdata (NeXus: attributes default, signal)."""
    found: Any = group
    for _ in range(MAX_DEPTH):
        if not isinstance(found, h5py.Group):
            break
        name = found.attrs.get("signal", found.attrs.get("default"))
        found = found.get(name) if isinstance(name, str) else None
    return found if isinstance(found, h5py.Dataset) and len(found.shape or ()) >= 2 else None


def _candidates(group: h5py.Group, path: str, seen: set[Any]) -> Iterator[str]:
    """Yield the paths of numeric datasets with three axes or more, each dataset once."""
    for name in group:
        try:
            item = group[name]
        except DAMAGE:
            continue  # a broken link
        where = f"{path}/{name}"
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, h5py.Group) and where.count("/") < MAX_DEPTH:
            yield from _candidates(item, where, seen)
        elif isinstance(item, h5py.Dataset) and item.ndim >= 3 and item.dtype.kind in "uif":
            yield where
