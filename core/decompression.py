"""Bitshuffle-LZ4 decompressed into memory that is there already, by Dectris' library.

Its Python function makes a new object for every frame; its C function, which the same
file exports (`compression_decompress_buffer` of src/compression.h in
github.com/dectris/compression), writes into a buffer. Where malloc gives large pieces
back to the system, fresh memory for a frame costs more than decoding it: 50 ms instead
of 17 ms for one of 72 MB.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import dectris.compression
import numpy as np
from numpy.typing import NDArray

BSLZ4 = 0
"""The library's number of bitshuffle-LZ4 with HDF5's header."""
Decompress = Callable[[NDArray[np.uint8], bytes | memoryview, int], int]
KNOWN = np.array([3, 0, 1, 65535, 0, 0, 7, 2, 9, 0, 1, 1, 0, 2, 513, 4, 77], "<u2")
PACKED = bytes.fromhex(
    "00000000000000220000200000000017a54d4dc920488008010800020013400a005000080008004d00"
)
"""`KNOWN` as compressed by bitshuffle's HDF5 filter."""


def decompress_into(buffer: NDArray[np.uint8], blob: bytes | memoryview, itemsize: int) -> bool:
    """Fill a buffer with what bslz4 bytes hold; tell whether it can be done here at all.

    The interpreter is free for other threads meanwhile.

    Parameters
    ----------
    buffer
        Contiguous and writable; as long as the decompressed bytes.
    blob
        With its 12-byte header, which claims just that length (`codecs.has_header`).
    itemsize
        Bytes of a pixel.

    Raises
    ------
    ValueError
        If the bytes are damaged; the buffer then holds anything.
    """
    decompress = _function()
    if decompress is None:
        return False
    done = decompress(buffer, blob, itemsize)
    if done != buffer.size:
        raise ValueError("bslz4 data cannot be decompressed")
    return True


@cache
def _function() -> Decompress | None:
    """Return the library's C function if it is there and does what it should, else None."""
    try:
        function = ctypes.CDLL(dectris.compression.__file__).compression_decompress_buffer
    except (OSError, AttributeError):
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes = ctypes.c_int, pointer, size, pointer, size, size
    function.restype = size

    def decompress(buffer: NDArray[np.uint8], blob: bytes | memoryview, itemsize: int) -> int:
        packed = np.frombuffer(blob, np.uint8)
        if not buffer.flags.c_contiguous or not buffer.flags.writeable:
            raise ValueError("pixels cannot be decoded into read-only or scattered memory")
        return int(
            function(
                BSLZ4, buffer.ctypes.data, buffer.size, packed.ctypes.data, packed.size, itemsize
            )
        )

    return decompress if _proven(decompress) else None


def _proven(decompress: Decompress) -> bool:
    """Tell whether a function decompresses, stays within its buffer and notices damage."""
    memory = np.full(KNOWN.nbytes + 32, 0xA5, np.uint8)
    buffer = memory[16:-16]
    good = decompress(buffer, PACKED, KNOWN.itemsize) == KNOWN.nbytes
    same = buffer.tobytes() == KNOWN.tobytes()
    outside = np.concatenate([memory[:16], memory[-16:]])
    cut = decompress(buffer, PACKED[:-3], KNOWN.itemsize) != KNOWN.nbytes
    return bool(good and same and cut and (outside == 0xA5).all())
