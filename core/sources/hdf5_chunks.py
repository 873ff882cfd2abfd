"""Chunks of bitshuffle-LZ4 in HDF5 files, read as they are stored and decoded here.

HDF5's own filter never sees them: damage makes that read where it must not, and die.
"""

from __future__ import annotations

import math
import struct
from itertools import product
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ..codecs import MAX_BLOCK, check_size, has_header
from ..frame import Encoded
from .hdf5_file import DAMAGE
from .hdf5_virtual import Index

BITSHUFFLE_LZ4 = 2
"""What bitshuffle's filter is set to for LZ4 (bshuf_h5filter.h)."""
KEPT = 256 << 20
"""Bytes of decoded chunks kept for the frames that share them, if that is more than one chunk."""
LEAST = 4096
"""Bytes that a kept chunk counts as, however small: it takes some memory besides its pixels."""


def is_packed(dataset: h5py.Dataset) -> bool:
    """Tell whether the chunks are bitshuffle-LZ4 and nothing else, of pixels as NumPy has them."""
    if dataset.chunks is None:
        return False
    try:
        filters = dataset.id.get_create_plist()
        kind = h5py.h5t.py_create(dataset.dtype)
        if filters.get_nfilters() != 1 or dataset.id.get_type() != kind:
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
    )


def packed_chunk(dataset: h5py.Dataset, first: Index) -> Encoded:
    """Return the chunk that begins with this pixel as it is stored, as one image.

    Its last axis is that of the columns, all before are that of the rows.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If it cannot be read, is not there, or cannot hold what it should.
    """
    chunks, dtype = dataset.chunks, dataset.dtype
    shape = math.prod(chunks[:-1]), chunks[-1]
    left_out, blob = dataset.id.read_direct_chunk(first)
    codec = "none" if left_out & 1 else "bslz4"
    wanted = check_size(blob, codec, shape, dtype)
    if codec == "bslz4" and blob[:12] == struct.pack(">QI", wanted, 0):
        return Encoded(memoryview(blob)[12:], shape, dtype, codec)  # the usual blocks: Lima
    if codec == "bslz4" and not has_header(blob, wanted, dtype.itemsize):
        raise ValueError(f"a chunk of {len(blob)} bytes does not say that it holds {wanted}")
    return Encoded(blob, shape, dtype, codec)


class PackedFrames:
    """Frames of a dataset of packed chunks that hold several frames, or pieces of them.

    What is decoded for a frame is kept for those that share it, until the last of them
    is read: read in their order, each chunk is decoded once.

    Parameters
    ----------
    dataset
        Of shape (..., rows, columns); `is_packed`.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        axes = zip(dataset.shape[-2:], dataset.chunks[-2:], strict=True)
        self._places = [range(0, length, step) for length, step in axes]
        nbytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        self._room = max(KEPT // max(nbytes, LEAST), 1)
        self._first: Index | None = None
        self._kept: dict[Index, NDArray[Any] | str] = {}
        """Chunks from frame `_first` on by their row and column, or what is wrong with them."""

    def read(self, index: Index) -> NDArray[Any]:
        """Return a frame, in native byte order.

        Raises
        ------
        OSError, ValueError
            If a chunk of it cannot be read, is not there, or is damaged.
        """
        shape, deep = self._dataset.shape, self._dataset.chunks[:-2]
        within = tuple(i % n for i, n in zip(index, deep, strict=True))
        first = tuple(i - k for i, k in zip(index, within, strict=True))
        if first != self._first:
            self._first, self._kept = first, {}
        frame = np.empty(shape[-2:], self._dataset.dtype.newbyteorder("="))
        try:
            for place in product(*self._places):
                into = frame[place[0] :, place[1] :]
                piece = self._chunk(first, place)[within][: into.shape[0], : into.shape[1]]
                into[: piece.shape[0], : piece.shape[1]] = piece
        finally:
            last = (min(i + n, end) - 1 for i, n, end in zip(first, deep, shape, strict=False))
            if index == tuple(last):
                self._kept = {}
        return frame

    def _chunk(self, first: Index, place: Index) -> NDArray[Any]:
        """Return a chunk's pixels, decoded if they are not kept."""
        found = self._kept.get(place)
        if found is None:
            found = self._decoded((*first, *place))
            if len(self._kept) < self._room:
                self._kept[place] = found
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _decoded(self, first: Index) -> NDArray[Any] | str:
        """Return the pixels of the chunk that begins here, or why there are none."""
        try:
            return packed_chunk(self._dataset, first).decode().reshape(self._dataset.chunks)
        except RuntimeError as error:
            return f"part of it was never written ({error})"
        except ValueError as error:
            return str(error)
