"""What both streams of DECTRIS detectors say, whichever way it is written.

A series is armed (a start message), its images are numbered from 0, and it is
disarmed (an end message); there are no other numbers. SIMPLON names the first
way of writing it "stream", the second "stream V2": `simplon1`, `simplon2`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ..frame import BadFrame, Encoded
from .cbor import Tagged
from .stins import MAX_FILENAME, MAX_NUMBER

DATE = 0
"""CBOR's tag of a text that is date and time."""
MAX_METADATA = 1 << 16
"""Most that is kept of a message's free entries: characters, and 8 for every value."""
MAX_LIST = 1000
"""Longest list kept."""
MAX_TEXT = 1 << 16
"""Longest text of user data that is read, in characters."""


class SeriesId(NamedTuple):
    """What tells a series from others."""

    number: int
    """Counted by the detector, from 1 again when it restarts."""
    unique: str = ""
    """Never repeated; empty in the first way of writing."""


@dataclass(frozen=True, slots=True)
class Start:
    """A series begins."""

    series: SeriesId
    detector: str = ""
    filename: str = ""
    """The raw file that somebody named in the user data; empty: nothing is to be saved."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Small plain values only."""
    images: int = 0
    """Images to come; 0: unknown."""
    channels: tuple[str, ...] = ()
    """Names of the images in each image message."""
    tables: tuple[str, ...] = ()
    """Names of the arrays that came along, which are not kept."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one channel, not yet decoded."""

    series: SeriesId
    number: int
    pixels: Encoded
    timestamp: float | None = None
    """Unix time in s at which it began, where the detector tells."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    """Names of all channels of the message, that of the image first."""


@dataclass(frozen=True, slots=True)
class End:
    """A series ended."""

    series: SeriesId


Message = Start | Image | End


class BadSimplon(BadFrame):
    """A message that cannot be used, with what is known of it."""

    def __init__(
        self,
        reason: str,
        kind: type[Message] | None = None,
        series: SeriesId | None = None,
        number: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind, self.series, self.number = kind, series, number


def whole_number(value: object, name: str) -> int:
    """Return a number from 0.

    Raises
    ------
    BadFrame
        If it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        raise BadFrame(f"{name} is {type(value).__name__} {value!r:.40}, not a number from 0")
    return value


def file_named(*user_data: object) -> str:
    """Return the file name in the first user data that has one, as a map or as JSON text.

    Whatever else users send is no reason to lose a series: then it is empty.
    """
    for content in user_data:
        entries = content
        if isinstance(content, str) and len(content) <= MAX_TEXT:
            try:
                entries = json.loads(content)
            except (ValueError, RecursionError):
                continue
        name = entries.get("filename") if isinstance(entries, dict) else None
        if isinstance(name, str) and len(name) <= MAX_FILENAME and name.isprintable():
            return name
    return ""


def plain(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of free entries can be kept: numbers, texts, dates, lists and maps of them.

    Arrays, bytes, what is not finite, and everything beyond `MAX_METADATA` are left out.
    """
    sieve = _Sieve()
    kept = sieve.keep(dict(entries))
    return kept if isinstance(kept, dict) else {}


_LEFT_OUT = object()


class _Sieve:
    """Keeps plain values while there is room."""

    def __init__(self) -> None:
        self._room = MAX_METADATA

    def keep(self, value: object) -> Any:
        """Return a value, what can be kept of it, or `_LEFT_OUT`."""
        self._room -= 8 + (len(value) if isinstance(value, str) else 0)
        if self._room < 0:
            return _LEFT_OUT
        match value:
            case None | bool():
                return value
            case int():
                return value if abs(value) < MAX_NUMBER else _LEFT_OUT
            case float():
                return value if math.isfinite(value) else _LEFT_OUT
            case str():
                return value if _is_unicode(value) else _LEFT_OUT
            case Tagged(tag=int(tag), value=str(text)) if tag == DATE:
                return self.keep(text)
            case list() if len(value) <= MAX_LIST:
                kept = [self.keep(one) for one in value]
                return _LEFT_OUT if any(one is _LEFT_OUT for one in kept) else kept
            case dict():
                pairs = ((name, self.keep(one)) for name, one in value.items() if self._fits(name))
                return {name: one for name, one in pairs if one is not _LEFT_OUT}
            case _:
                return _LEFT_OUT

    def _fits(self, name: object) -> bool:
        return isinstance(name, str) and self.keep(name) is not _LEFT_OUT


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written to a file: JSON knows halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unix_time(date: object) -> float | None:
    """Return the Unix time in s of a date with its time zone; None for anything else."""
    if not (isinstance(date, Tagged) and date.tag == DATE and isinstance(date.value, str)):
        return None
    try:
        moment = datetime.fromisoformat(date.value[:64])
        return moment.timestamp() if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
