"""The source `simplon2+tcp://host:port`: the stream V2 of DECTRIS detectors.

Each message is one map in CBOR (github.com/dectris/documentation, `stream_v2`; a PUSH
socket at port 31001), self-described, with `type` first: `start`, `image` or `end`.
The pixels of an image are under the name of their channel in `data`:

    40([[rows, columns], 70(56500(["bslz4", 4, pixels]))])

tag 40 an array of several dimensions and 70 one of uint32 (RFC 8746), 56500 compressed
bytes (`cbor/dectris-compression-tag.md` there). Image numbers begin at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..codecs import check_size
from ..frame import BadFrame, Encoded, check_shape
from .base import source
from .cbor import Tagged, read_cbor
from .parsing import split_url
from .simplon import (
    BadSimplon,
    End,
    Image,
    Message,
    SeriesId,
    Start,
    file_named,
    plain,
    unix_time,
    whole_number,
)
from .simplon_reader import SimplonReader
from .stins import MAX_NUMBER, Part
from .zmq_source import ZmqSource, zmq_address

ROW_MAJOR, COMPRESSED = 40, 56500
"""Tags of an array of several dimensions, and of compressed bytes."""
TYPES = {
    tag: np.dtype(code)
    for tag, code in {
        64: "u1", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8",
        72: "i1", 77: "<i2", 78: "<i4", 79: "<i8", 85: "<f4", 86: "<f8",
    }.items()
}  # fmt: skip
"""Pixel types by the tags of typed arrays (RFC 8746, section 2.1); little endian."""
KINDS: Mapping[str, type[Message]] = {"start": Start, "image": Image, "end": End}
TABLES = ("flatfield", "pixel_mask", "countrate_correction_lookup_table")
MAX_CHANNELS = 32
MAX_NAME = 256
"""Longest name of a channel or unique name of a series, in characters."""


def decode_simplon2(parts: Sequence[Part], channel: str = "") -> Message:
    """Return what a message says; pixels stay as they came.

    Parameters
    ----------
    parts
        The message.
    channel
        Which of an image's channels is wanted; empty: the first.

    Raises
    ------
    BadSimplon
        In one sentence, if anything in it is not as it must be.
    """
    if len(parts) != 1:
        raise BadSimplon(f"a message has {len(parts)} parts, not one")
    try:
        entries = read_cbor(parts[0])
    except ValueError as error:
        raise BadSimplon(f"a message {error}") from None
    if not isinstance(entries, dict):
        raise BadSimplon("a message is no map")
    name = entries.pop("type", None)
    kind = KINDS.get(name) if isinstance(name, str) else None
    series = number = None
    try:
        if kind is None:
            raise BadFrame(f"unknown kind of message {name!r:.40}")
        series = SeriesId(
            whole_number(entries.get("series_id"), "series_id"),
            _name(entries.get("series_unique_id", ""), "series_unique_id"),
        )
        if kind is Start:
            return _start(series, entries)
        if kind is End:
            return End(series)
        number = whole_number(entries.pop("image_id", None), "image_id")
        return _image(series, number, entries, channel, len(parts[0]))
    except ValueError as error:
        raise BadSimplon(str(error), kind, series, number) from None


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or not value.isprintable():
        raise BadFrame(f"{what} {value!r:.40} is no name")
    return value


def _channels(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_CHANNELS:
        raise BadFrame(f"channels {value!r:.40} are no list of at most {MAX_CHANNELS} names")
    return tuple(_name(one, "channel") for one in value)


def _start(series: SeriesId, entries: dict[str, Any]) -> Start:
    tables = tuple(name for name in TABLES if entries.pop(name, None))
    channels = _channels(entries.get("channels", []))
    metadata = plain(entries)
    detector, images = metadata.get("detector_description"), metadata.get("number_of_images")
    return Start(
        series,
        detector if isinstance(detector, str) else "",
        file_named(entries, entries.get("user_data")),
        metadata,
        max(images, 0) if type(images) is int else 0,
        channels,
        tables,
    )


def _image(
    series: SeriesId, number: int, entries: dict[str, Any], channel: str, length: int
) -> Image:
    data = entries.pop("data", None)
    if not isinstance(data, dict) or not data:
        raise BadFrame("an image without its data")
    channels = _channels(list(data))
    chosen = channel or channels[0]
    if chosen not in data:
        raise BadFrame(f"an image has no channel {chosen!r:.40}; it has {', '.join(channels):.200}")
    began = unix_time(entries.get("series_date"))
    times = {
        name: seconds
        for name in ("start_time", "stop_time", "real_time")
        if (seconds := _seconds(entries.get(name))) is not None
    }
    stamp = None if began is None or "start_time" not in times else began + times["start_time"]
    if entries.get("user_data"):
        times |= plain({"user_data": entries["user_data"]})
    return Image(
        series,
        number,
        _pixels(data[chosen], length),
        stamp,
        times,
        (chosen, *(name for name in channels if name != chosen)),
    )


def _seconds(value: object) -> float | None:
    """Return a ratio of two whole numbers; None for anything else."""
    match value:
        case [int(above), int(below)] if 0 <= above < MAX_NUMBER and 0 < below < MAX_NUMBER:
            return above / below
    return None


def _pixels(array: object, length: int) -> Encoded:
    """Return the pixels of an array in a message of this length."""
    match array:
        case Tagged(tag=tag, value=[dimensions, Tagged(tag=kind, value=content)]) if (
            tag == ROW_MAJOR and kind in TYPES
        ):
            shape, dtype = check_shape(dimensions, TYPES[kind])
        case _:
            raise BadFrame("an image is no array, row after row, of little-endian numbers")
    match content:
        case memoryview():
            blob, codec = content, "none"
        case Tagged(tag=tag, value=[str(codec), int(itemsize), memoryview() as blob]) if (
            tag == COMPRESSED and codec in ("bslz4", "lz4")
        ):
            if codec == "bslz4" and itemsize != dtype.itemsize:
                raise BadFrame(f"bitshuffle of {itemsize} bytes does not fit pixels of {dtype}")
        case _:
            raise BadFrame("the pixels of an image are neither bytes nor bslz4 nor lz4")
    check_size(blob, codec, shape, dtype)
    if 2 * len(blob) < length:
        return Encoded(bytes(blob), shape, dtype, codec)  # or the other channels would stay, too
    return Encoded(blob, shape, dtype, codec)


@source("simplon2+tcp")
class Simplon2Source(ZmqSource):
    """Connects to a detector's stream V2 and drains it.

    `?channel=NAME` chooses a channel, by default the first; `detector=NAME` names
    the detector.
    """

    def __init__(self, url: str) -> None:
        rest, options = split_url(url, {"channel": (), "detector": ()})
        super().__init__(url, zmq_address(url, rest))
        self._options = options

    def reader(self) -> SimplonReader:
        """Return what makes events of the messages, from the first one on."""
        return SimplonReader(decode_simplon2, self._options["detector"], self._options["channel"])
