"""The source `simplon1+tcp://host:port`: the stream of DECTRIS detectors in several parts.

Each message is several parts of JSON with pixels between them (SIMPLON API,
"stream"; a PUSH socket at port 9999):

    {"htype": "dheader-1.0", "series": 5, "header_detail": "none" | "basic" | "all"}
        [configuration]                                     not with "none"
        [{"htype": "dflatfield-1.0", ...}, table,           with "all"
         {"htype": "dpixelmask-1.0", ...}, table,
         {"htype": "dcountrate_table-1.0", ...}, table]
        [appendix]
    {"htype": "dimage-1.0", "series": 5, "frame": 0, "hash": "..."}
        {"htype": "dimage_d-1.0", "shape": [columns, rows], "type": "uint32",
         "encoding": "bs32-lz4<", "size": ...}
        pixels
        {"htype": "dconfig-1.0", "start_time": ..., "stop_time": ..., "real_time": ...}
        [appendix]
    {"htype": "dseries_end-1.0", "series": 5}

The times are ns since the series began, and when that was is not said: there is no
stamp in them. Only one channel is sent this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..codecs import check_size
from ..frame import BadFrame, Encoded, check_shape
from .base import source
from .parsing import MAX_HEAD, json_object, message_head, split_url
from .simplon import (
    BadSimplon,
    End,
    Image,
    Message,
    SeriesId,
    Start,
    file_named,
    plain,
    whole_number,
)
from .simplon_reader import SimplonReader
from .stins import PIXEL_TYPES, Part
from .zmq_source import ZmqSource, zmq_address

KINDS: Mapping[str, type[Message]] = {
    "dheader-1.0": Start,
    "dimage-1.0": Image,
    "dseries_end-1.0": End,
}
TABLES = {
    "dflatfield-1.0": "flatfield",
    "dpixelmask-1.0": "pixel_mask",
    "dcountrate_table-1.0": "countrate_correction_table",
}
ENCODINGS = {
    "<": ("none", None),
    "lz4<": ("lz4", None),
    "bs8-lz4<": ("bslz4", 1),
    "bs16-lz4<": ("bslz4", 2),
    "bs32-lz4<": ("bslz4", 4),
    "bs64-lz4<": ("bslz4", 8),
}
"""Codec and bytes of a pixel by the names that detectors use; little endian."""


def decode_simplon1(parts: Sequence[Part], channel: str = "") -> Message:
    """Return what a message says; pixels stay as they came.

    Parameters
    ----------
    parts
        The message.
    channel
        Of no effect: there is only one.

    Raises
    ------
    BadSimplon
        In one sentence, if anything in it is not as it must be.
    """
    try:
        head = message_head(parts)
    except ValueError as error:
        raise BadSimplon(str(error)) from None
    name = head.get("htype")
    kind = KINDS.get(name) if isinstance(name, str) else None
    series = number = None
    try:
        if kind is None:
            raise BadFrame(f"unknown kind of message {name!r:.40}")
        series = SeriesId(whole_number(head.get("series"), "series"))
        if kind is Start:
            return _start(series, head.get("header_detail"), parts[1:])
        if kind is End:
            return End(series)
        number = whole_number(head.get("frame"), "frame")
        return _image(series, number, parts[1:])
    except ValueError as error:
        raise BadSimplon(str(error), kind, series, number) from None


def _start(series: SeriesId, detail: object, parts: Sequence[Part]) -> Start:
    """Return the start of a series; what is wrong with the rest of it never costs the series."""
    rest = iter(parts)
    configuration = {} if detail == "none" else _entries(next(rest, b"{}"))
    tables, appendices = [], []
    for part in rest:
        entries = _entries(part)
        table = TABLES.get(str(entries.get("htype")))
        if table:
            tables.append(table)
            next(rest, None)  # the table itself
        else:
            appendices.append(_text(part))
    metadata = plain({**configuration, "appendix": appendices} if appendices else configuration)
    detector = metadata.get("description")
    return Start(
        series,
        detector if isinstance(detector, str) else "",
        file_named(*appendices),
        {"series": series.number, **metadata},
        _images(metadata),
        tables=tuple(tables),
    )


def _entries(part: Part) -> dict[str, Any]:
    """Return the JSON object in a part; none for anything else."""
    try:
        return json_object(part)
    except ValueError:
        return {}


def _text(part: Part) -> str:
    return bytes(part[:MAX_HEAD]).decode("utf-8", "replace")


def _images(configuration: Mapping[str, Any]) -> int:
    """Return how many images a configuration announces: those of one trigger, for each."""
    numbers = [configuration.get(name, 1) for name in ("nimages", "ntrigger")]
    if "nimages" not in configuration or not all(type(number) is int for number in numbers):
        return 0
    return max(int(numbers[0] * numbers[1]), 0)


def _image(series: SeriesId, number: int, parts: Sequence[Part]) -> Image:
    if len(parts) < 2:
        raise BadFrame("an image without its part of pixels")
    form = json_object(parts[0], MAX_HEAD)
    name, encoding, shape = form.get("type"), form.get("encoding"), form.get("shape")
    if not isinstance(name, str) or name not in PIXEL_TYPES:
        raise BadFrame(f"unknown pixel type {name!r:.40}")
    if not isinstance(encoding, str) or encoding not in ENCODINGS:
        raise BadFrame(f"unknown encoding {encoding!r:.40}; known are {', '.join(ENCODINGS)}")
    turned = shape[::-1] if isinstance(shape, list) else shape
    found, dtype = check_shape(turned, PIXEL_TYPES[name])
    codec, itemsize = ENCODINGS[encoding]
    if itemsize not in (None, dtype.itemsize):
        raise BadFrame(f"encoding {encoding} does not fit pixels of {dtype}")
    check_size(parts[1], codec, found, dtype)
    times = plain(_entries(parts[2])) if len(parts) > 2 else {}
    times.pop("htype", None)
    if len(parts) > 3:
        times["appendix"] = _text(parts[3])
    return Image(series, number, Encoded(parts[1], found, dtype, codec), metadata=times)


@source("simplon1+tcp")
class Simplon1Source(ZmqSource):
    """Connects to a detector's stream in the first format and drains it.

    `?detector=NAME` names the detector.
    """

    def __init__(self, url: str) -> None:
        rest, options = split_url(url, {"detector": ()})
        super().__init__(url, zmq_address(url, rest))
        self._detector = options["detector"]

    def reader(self) -> SimplonReader:
        """Return what makes events of the messages, from the first one on."""
        return SimplonReader(decode_simplon1, self._detector)
