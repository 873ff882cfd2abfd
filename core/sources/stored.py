"""Where in a file the pixels of its images lie as they are, or as CBF packs them.

What is found here is read as bytes, and decoded by who needs the pixels; fabio's way,
with its copies, is for all else.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fabio.cbfimage import CbfImage
from fabio.edfimage import EdfImage
from fabio.pilatusimage import PilatusImage
from fabio.TiffIO import TiffIO
from fabio.tifimage import TifImage

from ..frame import BadFrame, Encoded, check_shape

CBF_SECTION, CBF_PIXELS = b"--CIF-BINARY-FORMAT-SECTION--", b"\x0c\x1a\x04\xd5"
"""What stands before the binary part of a CBF, and in it before the pixels (imgCIF dictionary)."""
BYTE_OFFSET, INT32 = "x-CBF_BYTE_OFFSET", "signed 32-bit integer"
"""The compression and the pixels of nearly all CBF."""
TIFF_KINDS = {1: "u", 2: "i", 3: "f"}
"""Kinds of numbers by the tag SampleFormat of TIFF 6.0."""
TIFF_ORDERS = {"little": b"II*\0", "big": b"MM\0*"}
"""How a TIFF file of each byte order begins."""


class Place(NamedTuple):
    """One image in a file."""

    offset: int
    nbytes: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    codec: str
    checksum: str = ""
    """MD5 of the bytes, in base 64; empty: there is none."""


def places(header: Any, begin: bytes) -> list[Place]:
    """Return where all images of a file lie; nothing if fabio has to read it.

    Parameters
    ----------
    header
        What `fabio.openheader` gave; stays open.
    begin
        How the file begins, in a CBF up to the pixels at least.

    Raises
    ------
    BadFrame
        If shape or type cannot be.
    Exception
        Whatever fabio comes across.
    """
    if isinstance(header, EdfImage):
        return _in_edf(header)
    if isinstance(header, CbfImage):
        return _in_cbf(header.header, begin)
    return _in_tiff(header, begin) if type(header) in (TifImage, PilatusImage) else []


def read_place(path: Path, place: Place) -> Encoded:
    """Return an image as it lies in its file.

    Raises
    ------
    BadFrame
        If the file ends before, or the checksum is another.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(place.offset)
        blob = file.read(place.nbytes)
    if len(blob) != place.nbytes:
        raise BadFrame(f"it is incomplete: {len(blob)} of {place.nbytes} bytes of an image")
    if place.checksum:
        found = hashlib.md5(blob, usedforsecurity=False).digest()
        if base64.b64encode(found).decode() != place.checksum:
            raise BadFrame("its checksum is not that of its pixels")
    return Encoded(blob, place.shape, place.dtype, place.codec)


def _in_edf(header: Any) -> list[Place]:
    found = []
    for number in range(header.nframes):
        frame = header.get_frame(number)
        names = {name.upper() for name in frame.header}
        shape, dtype = check_shape(frame.shape, frame.dtype)
        foreign = dtype.itemsize > 1 and frame.byteorder.name.lower() != sys.byteorder
        elsewhere = "COMPRESSION" in names or "EDF_BINARYFILENAME" in names
        if elsewhere or foreign or frame.blobsize < _nbytes(shape, dtype):
            return []
        found.append(Place(frame.start, _nbytes(shape, dtype), shape, dtype, "none"))
    return [] if header.incomplete_file else found


def _in_cbf(header: Any, begin: bytes) -> list[Place]:
    if header.get("conversions") != BYTE_OFFSET or header.get("X-Binary-Element-Type") != INT32:
        return []
    start = begin.find(CBF_PIXELS, begin.find(CBF_SECTION)) + len(CBF_PIXELS)
    sides = [int(header[f"X-Binary-Size-{axis}-Dimension"]) for axis in ("Second", "Fastest")]
    shape, dtype = check_shape(sides, np.int32)
    checksum, nbytes = header.get("Content-MD5", ""), int(header["X-Binary-Size"])
    if not 0 < nbytes <= _nbytes(shape, np.dtype("u1")) * LONGEST:
        return []
    return [Place(start, nbytes, shape, dtype, "byte-offset", checksum)]


LONGEST = 1 + 2 + 4 + 8
"""Most bytes of a pixel in a CBF."""


def _in_tiff(header: Any, begin: bytes) -> list[Place]:
    if not begin.startswith(TIFF_ORDERS[sys.byteorder]):
        return []
    with Path(header.filename).open("rb") as file, TiffIO(file) as tiff:
        claims, images = tiff.getInfo(0), tiff.getNumberOfImages()
    bits, kind = claims["nBits"], TIFF_KINDS.get(claims["sampleFormat"])
    usual = (images, claims["photometricInterpretation"], claims["compression_type"]) == (1, 1, 1)
    if not (usual and kind and bits in (8, 16, 32, 64) and claims["colormap"] is None):
        return []
    sides = [int(claims["nRows"]), int(claims["nColumns"])]
    shape, dtype = check_shape(sides, f"{kind}{bits // 8}")
    nbytes, strips = _nbytes(shape, dtype), list(map(int, claims["stripOffsets"]))
    each = list(map(int, claims["stripByteCounts"]))
    ends = [start + size for start, size in zip(strips, each, strict=True)]
    if sum(each) != nbytes or ends[:-1] != strips[1:]:
        return []
    return [Place(strips[0], nbytes, shape, dtype, "none")]


def _nbytes(shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
    return shape[0] * shape[1] * dtype.itemsize
