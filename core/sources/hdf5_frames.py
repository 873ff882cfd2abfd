"""Frames of an HDF5 dataset by their index, in whatever file and way they are stored."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..frame import Encoded
from .hdf5_chunks import PackedFrames, is_packed, packed_chunk
from .hdf5_file import DAMAGE, MAX_CHUNK, MAX_FRAMES, open_hdf5
from .hdf5_virtual import Index, Place, VirtualFrames, Where, height

MAX_DEPTH = 8
"""Longest chain of virtual datasets followed."""
MAX_OPEN = 8
"""Source files of a virtual dataset that are kept open."""


class StoredFrames:
    """Frames of a dataset by their index, compressed where they are stored so that it is of use.

    A frame that is a chunk of bitshuffle-LZ4 is not decoded; chunks of several frames, or
    of pieces of them, are decoded here, and what is stored in another way HDF5 reads.
    Source files of virtual datasets are opened as they are needed.

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
        if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > MAX_CHUNK:
            raise ValueError(f"{dataset.name} has chunks of more than {MAX_CHUNK} bytes")
        self.dataset = dataset
        self._file = file
        self._depth = depth
        self._packed = is_packed(dataset)
        single = dataset.chunks == (*(1 for _ in dataset.shape[:-2]), *dataset.shape[-2:])
        as_they_are = single and dataset.dtype.isnative
        self._pieces = PackedFrames(dataset) if self._packed and not as_they_are else None
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
        if self._pieces is not None:
            return self._pieces.read(index)
        if self._packed:
            return packed_chunk(self.dataset, (*index, 0, 0))
        return self._plain(index)

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


def _close(frames: StoredFrames | None) -> None:
    if frames is not None:
        frames.close()


def _type(dataset: h5py.Dataset) -> h5py.h5t.TypeID:
    return dataset.id.get_type()


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
