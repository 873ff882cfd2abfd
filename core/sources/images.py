"""Images in files that fabio reads (CBF, EDF, TIFF and more), without what is dangerous in it."""

from __future__ import annotations

import bz2
import gzip
import logging
import threading
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Self

import fabio
import numpy as np
from fabio.TiffIO import TiffIO
from fabio.tifimage import TifImage
from numpy.typing import NDArray

from ..frame import MAX_SIDE, BadFrame, Encoded, check_shape
from .stored import CBF_PIXELS, CBF_SECTION, Place, places, read_place

NUMPY, MAX_NUMPY_HEADER = b"\x93NUMPY", 1 << 16
"""How a NumPy file begins, and bytes of the longest header of version 2 that is read."""
HDF5, XML = b"\x89HDF\r\n\x1a\n", {".xml", ".xsd"}
"""How a file of HDF5 begins, and how one of XML may be called."""
PACKED = (".gz", ".bz2")
MAX_UNPACKED = MAX_SIDE * MAX_SIDE * 8 + (1 << 20)
"""Bytes of a compressed file, unpacked: one largest frame and some text."""
CBF_SEARCH = 1 << 16
"""Bytes at whose end the header of a CBF is over."""


def read_images(path: Path) -> Iterator[NDArray[Any] | Encoded | str]:
    """Yield the images of one file, [row, column]; for one that cannot be used, the reason.

    What need not be unpacked by fabio comes as it is stored.
    """
    with _Complaints() as complaints:
        try:
            begin = _check_form(path)
            stored = _claims(path, begin)
            if stored and not complaints.first:
                yield from (_read_stored(path, place) for place in stored)
                return
            file = fabio.open(str(path))
        except Exception as error:  # fabio raises whatever its formats come across
            yield complaints.first or _reason(error)
            return
        with file:
            image: NDArray[Any] | str = ""
            for index in range(file.nframes):
                image = _read_image(file, index, complaints)
                yield image
                complaints.first = ""
            if _is_cut(file) and not isinstance(image, str):  # fabio does not mind
                yield "it is incomplete: it ends within the header of an image"


def count_images(path: Path) -> int | None:
    """Return how many images a file holds, as its headers say; None if it is damaged."""
    with _Complaints() as complaints:
        try:
            count = len(_claims(path, _check_form(path)))
            if not count:
                with fabio.open(str(path)) as file:
                    count = 0 if _is_cut(file) else file.nframes
        except Exception:  # as in `read_images`
            return None
        return None if complaints.first or not count else count


def _check_form(path: Path) -> bytes:
    """Refuse what fabio would open and must not; return how the file begins.

    XML and HDF5 name other files, which are then read; in a CBF that ends before its
    pixels begin fabio would look for them for ever.
    """
    with _unpacked(path) as file:
        begin = file.read(CBF_SEARCH)
        if path.suffix in PACKED:
            _check_length(file)
    if begin.startswith(HDF5):
        raise BadFrame("it is an HDF5 file: name it as hdf5:FILE::/dataset")
    check_numpy(begin)
    if begin.startswith(b"<") or XML & set(path.suffixes):
        raise BadFrame("it is XML, which is not read here")
    if begin.startswith(b"###CBF") or ".cbf" in path.name.lower():
        section = begin.find(CBF_SECTION)
        if section < 0 or CBF_PIXELS not in begin[section:]:
            raise BadFrame("it is no whole CBF file")
    return begin


def check_numpy(begin: bytes) -> None:
    """Refuse a NumPy file whose header claims to be longer than any: NumPy would read it all.

    Raises
    ------
    BadFrame
        If it does; not for files of another form.
    """
    short = not begin.startswith(NUMPY) or begin[6:7] == b"\x01"
    if not short and int.from_bytes(begin[8:12], "little") > MAX_NUMPY_HEADER:
        raise BadFrame(f"its header is longer than {MAX_NUMPY_HEADER} bytes")


def _check_length(file: BufferedIOBase) -> None:
    """Refuse what is too long when it is unpacked: fabio does that in memory."""
    room = MAX_UNPACKED
    while piece := file.read(1 << 20):
        room -= len(piece)
        if room < 0:
            raise BadFrame(f"it has more than {MAX_UNPACKED} bytes when it is unpacked")


def _claims(path: Path, begin: bytes) -> list[Place]:
    """Check what the header says, before anything is allocated for it; return where images lie."""
    with fabio.openheader(str(path)) as header:
        if not isinstance(header, TifImage):
            check_shape(tuple(header.shape), np.uint8)
            return [] if path.suffix in PACKED else places(header, begin)
    with _unpacked(path) as file, TiffIO(file) as tiff:  # fabio's own header is wrong for TIFF
        claims = tiff.getInfo(0)
    check_shape((int(claims["nRows"]), int(claims["nColumns"])), np.uint8)
    return [] if path.suffix in PACKED else places(header, begin)


def _is_cut(file: Any) -> bool:
    """Tell whether a file of EDF ends before its last image does, or within a header."""
    return bool(getattr(file, "incomplete_file", False))


def _unpacked(path: Path) -> BufferedIOBase:
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
        case _:
            return path.open("rb")


def _read_stored(path: Path, place: Place) -> Encoded | str:
    try:
        return read_place(path, place)
    except (OSError, BadFrame) as error:
        return _reason(error)


def _read_image(file: Any, index: int, complaints: _Complaints) -> NDArray[Any] | str:
    try:
        data = file.data if file.nframes == 1 else file.get_frame(index).data
        check_shape(data.shape, data.dtype)
    except Exception as error:  # as above
        return complaints.first or _reason(error)
    if complaints.first:
        return complaints.first
    return np.ascontiguousarray(data, data.dtype.newbyteorder("="))


class _Complaints(logging.Handler):
    """Hears what fabio logs as errors in this thread.

    fabio fills up truncated data with zeros and ignores wrong checksums, and
    says so in its log only; such an image must not count.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first = ""
        """The first complaint since it was emptied."""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread and not self.first:
            self.first = record.getMessage()

    def __enter__(self) -> Self:
        logging.getLogger("fabio").addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        logging.getLogger("fabio").removeHandler(self)
        self.close()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BadFrame) else f"{type(error).__name__} {error}".strip()
