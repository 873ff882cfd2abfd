"""STINS, the multipart messages of MAX IV's detector streams: both directions in one place.

A message is a JSON part and, for an image, a part of pixel bytes:

    {"htype": "header", "msg_number": 7, "filename": "..."}   [+ JSON metadata]
    {"htype": "image", "msg_number": 8, "frame": 0, "shape": [rows, columns],
     "type": "float32", "compression": "none", ...}           + pixels, C order
    {"htype": "series_end", "msg_number": 9}

Sources: `streaming-receiver`, `andor-streamer` and `dranspose` of MAX IV, and a
recorded Pilatus stream. `msg_number` runs on across series and may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs import check_size
from ..frame import BadFrame, Encoded, check_shape
from .parsing import json_object, message_head

MAX_NUMBER = 1 << 62
"""Highest frame or message number taken."""
MAX_FILENAME = 4096
"""Longest file name taken, in characters."""
PIXEL_TYPES = {
    name: np.dtype(code)
    for code in ("<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f4", "<f8")
    for name in (np.dtype(code).name, code, code[1:])
}
"""Pixel types by the names that senders use; little endian."""

Part = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Header:
    """A series begins."""

    number: int | None
    filename: str = ""
    """The detector's own raw file; empty: nothing is to be saved."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """One frame, not yet decoded."""

    number: int | None
    frame_id: int
    pixels: Encoded
    timestamp: float | None = None
    """Unix time in s stamped by the detector, if it stamps."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class End:
    """A series ended."""

    number: int | None


Message = Header | Image | End


class BadMessage(BadFrame):
    """A message that cannot be used, with what is known of it."""

    def __init__(
        self,
        reason: str,
        kind: str = "",
        number: int | None = None,
        frame_id: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind, self.number, self.frame_id = kind, number, frame_id


def decode_message(parts: Sequence[Part]) -> Message:
    """Return what a message says; pixels stay as they came.

    Raises
    ------
    BadMessage
        In one sentence, if anything in it is not as it must be.
    """
    try:
        entries = message_head(parts)
    except ValueError as error:
        raise BadMessage(str(error)) from None
    kind = str(entries.pop("htype", None))
    number = frame_id = None
    try:
        if "msg_number" in entries:
            number = _number(entries.pop("msg_number"), "msg_number")
        if "frame" in entries:
            frame_id = _number(entries.pop("frame"), "frame")
        return _decode(kind, number, frame_id, entries, parts[1:])
    except ValueError as error:
        raise BadMessage(str(error), kind, number, frame_id) from None


def _decode(
    kind: str,
    number: int | None,
    frame_id: int | None,
    entries: dict[str, Any],
    parts: Sequence[Part],
) -> Message:
    match kind:
        case "header":
            return Header(number, _filename(entries.pop("filename", None)), _metadata(parts))
        case "image":
            return _image(number, frame_id, entries, parts)
        case "series_end":
            return End(number)
        case _:
            raise BadFrame(f"unknown kind of message {kind!r:.40}")


def _image(
    number: int | None, frame_id: int | None, entries: dict[str, Any], parts: Sequence[Part]
) -> Image:
    if frame_id is None:
        raise BadFrame("an image without its frame number")
    name = entries.pop("type", None)
    if not isinstance(name, str) or name not in PIXEL_TYPES:
        raise BadFrame(f"unknown pixel type {name!r:.40}")
    shape, dtype = check_shape(entries.pop("shape", None), PIXEL_TYPES[name])
    codec = entries.pop("compression", "none")
    if not parts:
        raise BadFrame("an image without its part of pixels")
    check_size(parts[0], codec, shape, dtype)
    pixels = Encoded(parts[0], shape, dtype, codec)
    return Image(number, frame_id, pixels, _timestamp(entries.pop("timestamp", None)), entries)


def _timestamp(value: object) -> float | None:
    """Return a Unix time in s; None for anything else, which is no reason to lose a frame."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 < value < MAX_NUMBER else None


def _number(value: object, name: str) -> int | None:
    """Return a number from 0, or None for null."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        raise BadFrame(f"{name} is {value!r:.40}, not a number from 0")
    return value


def _filename(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_FILENAME or not value.isprintable():
        raise BadFrame(
            f"file name {value!r:.60} is no printable text of at most {MAX_FILENAME} characters"
        )
    return value


def _metadata(parts: Sequence[Part]) -> dict[str, Any]:
    """Return a header's second part; what is wrong with it never costs the series."""
    if not parts:
        return {}
    try:
        return json_object(parts[0])
    except ValueError as error:
        return {"metadata_error": f"the header's second part {error}"}


def encode_header(
    number: int, filename: str = "", metadata: Mapping[str, Any] | None = None
) -> list[bytes]:
    """Return the message that begins a series.

    Parameters
    ----------
    number
        `msg_number` of this message.
    filename
        The raw file; empty: nothing is to be saved.
    metadata
        Free entries: numbers, texts, lists, NumPy values.
    """
    head = {"htype": "header", "msg_number": number, "filename": filename}
    return [_json(head), _json(metadata or {})]


def encode_image(
    number: int,
    frame_id: int,
    image: NDArray[Any] | Encoded,
    timestamp: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> list[Part]:
    """Return the message that carries one frame.

    Parameters
    ----------
    number, frame_id
        `msg_number` of this message, and number of the frame.
    image
        Pixels [row, column], of an integer or float type; copied only if they
        are not contiguous and little endian. Or bytes as they came.
    timestamp
        Unix time in s at which the detector took it.
    extra
        Free entries of the JSON part; they never replace the protocol's own.
    """
    if isinstance(image, Encoded):
        blob, codec = image.blob, image.codec
    else:
        blob = np.ascontiguousarray(image, image.dtype.newbyteorder("<")).data.cast("B")
        codec = "none"
    head = {
        **(extra or {}),
        "htype": "image",
        "msg_number": number,
        "frame": frame_id,
        "shape": list(image.shape),
        "type": image.dtype.name,
        "compression": codec,
    }
    if timestamp is not None:
        head["timestamp"] = timestamp
    return [_json(head), blob]


def encode_end(number: int) -> list[bytes]:
    """Return the message that ends a series."""
    return [_json({"htype": "series_end", "msg_number": number})]


def _json(entries: Mapping[str, Any]) -> bytes:
    return json.dumps(entries, default=_plain).encode()


def _plain(value: object) -> Any:
    """Return something that JSON knows for a value that it does not know."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
