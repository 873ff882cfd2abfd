"""Lima's `DATA_ARRAY`: one image with a header that says what it is, as `readImage` gives it.

The header is little endian, without alignment:

    u32 magic "DTAY", u16 version, u16 bytes of the header, u32 category, u32 type,
    u16 byte order of the pixels, u16 dimensions, u16 size[6], u32 step[6],
    u64 number of the image (version 3 on), u64 tag of the acquisition (version 4)

Sizes and steps begin with the fastest axis: [columns, rows]. The header is 64
bytes up to version 3 and 80 in version 4; what it says of its size counts.
Source: the manual and the server of LimaCCDs (Lima-tango-python).
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frame import BadFrame, check_shape

MAGIC = 0x44544159
VERSIONS = range(1, 5)
NUMBERED, TAGGED = 3, 4
"""Versions from which on the header tells the image's number, and the acquisition's tag."""
FIXED = struct.Struct("<IHHIIHH6H6I")
"""What all versions have in common."""
LONG = struct.Struct("<Q")
SHORTEST = {version: 80 if version >= TAGGED else 64 for version in VERSIONS}
"""Bytes of a header at least, by version."""
LONGEST = 4096
"""Bytes of a header at most."""
IMAGE, IMAGE_STACK = 2, 4
"""Categories of which an image can be one; a stack must be of one image."""
PIXEL_TYPES = tuple(
    np.dtype(name) for name in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
)
"""Pixel types by their number in the header."""
NO_TAG = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""Tags that say that none was given."""


@dataclass(frozen=True, slots=True)
class DataArray:
    """One image."""

    pixels: NDArray[Any]
    """[row, column], read-only, over the bytes as they came, in their own byte order."""
    number: int | None
    """The image's number in its acquisition, from 0; None before version 3."""
    tag: int | None
    """Tag of the acquisition; None where it has none."""


def decode_data_array(blob: bytes) -> DataArray:
    """Return the image that a `DATA_ARRAY` holds; nothing is copied.

    Raises
    ------
    BadFrame
        In one sentence, if it is not exactly one image.
    """
    if len(blob) < min(SHORTEST.values()):
        raise BadFrame(f"{len(blob)} bytes are too few for a DATA_ARRAY")
    magic, version, header, category, kind, order, dimensions, *sizes = FIXED.unpack_from(blob)
    if magic != MAGIC:
        raise BadFrame(f"the image is no DATA_ARRAY: it begins with {blob[:4]!r}")
    if version not in VERSIONS:
        raise BadFrame(f"DATA_ARRAY of version {version}; known are 1 to {VERSIONS[-1]}")
    if not SHORTEST[version] <= header <= min(LONGEST, len(blob)):
        raise BadFrame(f"a DATA_ARRAY of {len(blob)} bytes claims a header of {header}")
    if kind >= len(PIXEL_TYPES) or order > 1:
        raise BadFrame(f"unknown pixel type {kind} or byte order {order} in a DATA_ARRAY")
    dtype = PIXEL_TYPES[kind].newbyteorder("<>"[order])
    shape = _shape(category, dimensions, sizes[:6], dtype)
    _check_steps(sizes[6 : 6 + dimensions], sizes[:dimensions], dtype.itemsize)
    wanted = shape[0] * shape[1] * dtype.itemsize
    if len(blob) - header != wanted:
        raise BadFrame(f"{len(blob) - header} bytes of pixels where {shape} {dtype} needs {wanted}")
    pixels = np.frombuffer(memoryview(blob).toreadonly(), dtype, offset=header).reshape(shape)
    number = LONG.unpack_from(blob, FIXED.size)[0] if version >= NUMBERED else None
    tag = LONG.unpack_from(blob, FIXED.size + LONG.size)[0] if version >= TAGGED else None
    return DataArray(pixels, number, None if tag in NO_TAG else tag)


def _shape(
    category: int, dimensions: int, sizes: list[int], dtype: np.dtype[Any]
) -> tuple[int, int]:
    """Return (rows, columns) of the one image.

    Raises
    ------
    BadFrame
        If it is another category, several images, or too large.
    """
    if category not in (IMAGE, IMAGE_STACK):
        raise BadFrame(f"a DATA_ARRAY of category {category} is no image")
    if dimensions != 2 and not (dimensions == 3 and sizes[2] == 1):
        raise BadFrame(f"a DATA_ARRAY of {dimensions} dimensions {sizes} is not one image")
    return check_shape([sizes[1], sizes[0]], dtype)[0]


def _check_steps(steps: list[int], sizes: list[int], itemsize: int) -> None:
    """Refuse pixels that do not lie side by side.

    Servers give steps in bytes, the manual says in pixels: both are taken.

    Raises
    ------
    BadFrame
        If the steps are neither.
    """
    pixels = list(itertools.accumulate([1, *sizes[:-1]], int.__mul__))
    if steps not in (pixels, [itemsize * step for step in pixels]):
        raise BadFrame(f"the steps {steps} of a DATA_ARRAY do not fit its sizes {sizes}")
