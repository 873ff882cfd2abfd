"""The compression of CBF files: each pixel as its difference from the one before.

A difference is one byte; two after the byte -128, if it takes more; four after -32768 in
those two; eight after -2^31 in those four. All little-endian (imgCIF dictionary,
`x-CBF_BYTE_OFFSET`). Writers let differences wrap around in the pixels' type, so sums do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compute.jit import kernel


def decode_byte_offset(blob: bytes | memoryview, pixels: NDArray[Any]) -> None:
    """Set signed pixels, (n,), from their differences.

    Raises
    ------
    ValueError
        If there are too few.
    """
    done = _add_up(np.frombuffer(blob, np.uint8), pixels)
    if done != pixels.size:
        raise ValueError(f"byte-offset data end at pixel {done} of {pixels.size}")


@kernel
def _add_up(packed: NDArray[np.uint8], pixels: NDArray[Any]) -> int:
    """Set pixels; return how many there are."""
    value, at = np.int64(0), 0
    for number in range(pixels.size):
        if at >= packed.size:
            return number
        difference, size = np.int64(np.int8(packed[at])), 1
        at += 1
        while size < 8 and difference == -(np.int64(1) << (8 * size - 1)):
            size *= 2
            if at + size > packed.size:
                return number
            difference = np.int64(0)
            for byte in range(size):
                difference |= np.int64(packed[at + byte]) << (8 * byte)
            spare = 64 - 8 * size
            difference = (difference << spare) >> spare  # with its sign
            at += size
        value += difference
        pixels[number] = value
    return pixels.size
