"""Decoding of pixel bytes from streams: raw, and bitshuffle-LZ4 with or without its HDF5 header."""

from __future__ import annotations

import struct
from typing import Any

import dectris.compression
import numpy as np
from numpy.typing import NDArray

CODECS = ("none", "bslz4")
"""Compressions that are known, by their names in stream messages."""
MAX_RATIO = 255
"""LZ4 cannot shrink by more; a larger claim is a lie, refused before allocating."""
DEFAULT_BLOCK = 8192
"""Bytes of a bitshuffle block where the stream names none."""
MAX_BLOCK = 1 << 20
"""Largest block taken; the decoder allocates what the header claims (2 GiB were measured)."""


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
    wanted = check_size(blob, codec, shape, dtype)
    if codec == "none":
        return np.frombuffer(memoryview(blob).toreadonly(), dtype).reshape(shape)
    framed = with_header(blob, wanted, dtype.itemsize)
    try:
        raw = dectris.compression.decompress(framed, "bslz4", elem_size=dtype.itemsize)
    except Exception as error:
        raise ValueError(f"bslz4 data cannot be decompressed ({error})") from None
    if len(raw) != wanted:
        raise ValueError(f"bslz4 data holds {len(raw)} bytes where {shape} {dtype} needs {wanted}")
    return np.frombuffer(raw, dtype).reshape(shape)


def check_size(
    blob: bytes | memoryview, codec: str, shape: tuple[int, int], dtype: np.dtype[Any]
) -> int:
    """Return the bytes of the decoded pixels, or refuse what can be refused without decoding.

    Raises
    ------
    ValueError
        If the compression is unknown or the number of bytes cannot be right.
    """
    if codec not in CODECS:
        raise ValueError(f"unknown compression {codec!r:.40}; known are {', '.join(CODECS)}")
    wanted = shape[0] * shape[1] * dtype.itemsize
    if codec == "none" and len(blob) != wanted:
        raise ValueError(f"{len(blob)} bytes of pixels where {shape} {dtype} needs {wanted}")
    if wanted > MAX_RATIO * len(blob):
        raise ValueError(f"{len(blob)} compressed bytes cannot hold the {wanted} claimed")
    return wanted


def with_header(blob: bytes | memoryview, nbytes: int, itemsize: int) -> bytes | memoryview:
    """Return bslz4 bytes with their 12-byte HDF5 header, adding it where it is missing.

    Parameters
    ----------
    blob
        The bytes as received.
    nbytes, itemsize
        Bytes of the decoded pixels, and of one of them.

    Raises
    ------
    ValueError
        If the header claims a block that no encoder makes.
    """
    claimed, block = struct.unpack(">QI", blob[:12]) if len(blob) >= 12 else (None, 0)
    if claimed != nbytes:
        return struct.pack(">QI", nbytes, DEFAULT_BLOCK) + bytes(blob)
    if not 0 < block <= MAX_BLOCK or block % (8 * itemsize):
        raise ValueError(f"bslz4 blocks of {block} bytes do not fit pixels of {itemsize} bytes")
    return blob
