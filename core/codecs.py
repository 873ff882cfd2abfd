"""Decoding of pixel bytes from streams: raw, and bitshuffle-LZ4 with or without its HDF5 header."""

from __future__ import annotations

import struct
from typing import Any

import dectris.compression
import numpy as np
from numpy.typing import NDArray

MAX_RATIO = 255
"""LZ4 cannot shrink by more; a larger claim is a lie, refused before allocating."""
DEFAULT_BLOCK = 8192
"""Bytes of a bitshuffle block where the stream names none."""


def decode(
    blob: bytes | memoryview, codec: str, shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return pixels (rows, columns) from the bytes of a stream message.

    Parameters
    ----------
    blob
        The bytes as received.
    codec
        `none` or `bslz4`. The latter comes with the 12-byte HDF5 header (bytes
        as big-endian u64, block bytes as u32) or without: detected.
    shape, dtype
        What the message's header claims, already checked by `check_shape`.

    Raises
    ------
    ValueError
        If the bytes do not hold exactly this shape, in one sentence.
    """
    wanted = shape[0] * shape[1] * dtype.itemsize
    if codec == "none":
        if len(blob) != wanted:
            raise ValueError(f"{len(blob)} bytes of pixels where {shape} {dtype} needs {wanted}")
        return np.frombuffer(blob, dtype).reshape(shape)
    if codec != "bslz4":
        raise ValueError(f"unknown compression {codec!r:.40}; known are none and bslz4")
    if wanted > MAX_RATIO * len(blob):
        raise ValueError(f"{len(blob)} compressed bytes cannot hold the {wanted} claimed")
    try:
        raw = dectris.compression.decompress(
            with_header(blob, wanted), "bslz4", elem_size=dtype.itemsize
        )
    except Exception as error:
        raise ValueError(f"bslz4 data cannot be decompressed ({error})") from None
    if len(raw) != wanted:
        raise ValueError(f"bslz4 data holds {len(raw)} bytes where {shape} {dtype} needs {wanted}")
    return np.frombuffer(raw, dtype).reshape(shape)


def with_header(blob: bytes | memoryview, nbytes: int) -> bytes:
    """Return bslz4 bytes with their 12-byte HDF5 header, adding it where it is missing.

    Raises
    ------
    ValueError
        If there are too few bytes for any bslz4 data.
    """
    if len(blob) < 12:
        raise ValueError("too short")
    if struct.unpack(">Q", blob[:8])[0] == nbytes:
        return bytes(blob)
    return struct.pack(">QI", nbytes, DEFAULT_BLOCK) + bytes(blob)
