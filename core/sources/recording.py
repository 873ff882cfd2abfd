"""The source `recording:FILE[,FILE...]`: files that dranspose's ingesters dumped.

A file is a sequence of CBOR items (RFC 8949), one for a trigger event:

    55799(42877([event_number, {stream: 42878([type, [bytes, ...]])}, created_at]))

`created_at` is absent from older files. Streams of type STINS carry images,
those of type sardana positions (`dranspose`, module `data/serializer`).
"""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from io import BufferedIOBase
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import cbor2

from ..frame import MAX_SIDE, Notice, Rejected
from .base import Event, Source, SourceError, UrlError, source
from .parsing import json_object, split_url
from .sardana import parse_sardana
from .stins import MAX_NUMBER
from .stins_reader import StinsReader

RECORD, STREAM, SELF_DESCRIBED = 42877, 42878, 55799
"""CBOR tags of a record, of one stream in it, and of CBOR itself."""
MAX_BYTES = MAX_SIDE * MAX_SIDE * 8 + (16 << 20)
"""Bytes of the longest record read: one largest frame and some text."""
MAX_ITEMS = 100_000 + MAX_BYTES // 65536
"""Pieces that a record is read in; bounds what its lists and maps may hold."""


@dataclass(frozen=True, slots=True)
class _Tagged:
    """What stood under one of dranspose's tags."""

    tag: int
    value: Any


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream's message in a record."""

    kind: str
    """`STINS`, `sardana` or another of dranspose's types."""
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What happened at one trigger event."""

    event_number: int
    streams: dict[str, Stream]
    """By name of the stream."""
    created: float | None
    """Unix time in s at which it was recorded, if known."""


class _BoundedFile:
    """A file that gives the decoder of one record no more than it may have.

    It cannot seek, so that the decoder reads no further than its record.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.nbytes = self._reads = 0

    def begin_record(self) -> None:
        """Count anew."""
        self.nbytes = self._reads = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; fewer at the end."""
        self._reads += 1
        if size < 0 or self.nbytes + size > MAX_BYTES or self._reads > MAX_ITEMS:
            raise ValueError(f"a record is longer than {MAX_BYTES} bytes or {MAX_ITEMS} pieces")
        data = self._file.read(size)
        self.nbytes += len(data)
        return data

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return True


def _tag_hook(*arguments: object) -> object:
    """Open dranspose's tags; called with (tag, immutable) by cbor2 6, (decoder, tag) by 5."""
    tag = next(argument for argument in arguments if isinstance(argument, cbor2.CBORTag))
    if tag.tag == SELF_DESCRIBED:
        return tag.value
    return _Tagged(tag.tag, tag.value) if tag.tag in (RECORD, STREAM) else tag


def read_records(path: Path) -> Iterator[Record | Rejected]:
    """Yield the records of one file, read as they are needed.

    A record that cannot be used is a `Rejected`; where the file is cut short or
    no more CBOR, a `Rejected` is the last.

    Raises
    ------
    SourceError
        If the file cannot be opened, or does not begin with a record.
    """
    with _open(path) as file:
        bounded = _BoundedFile(file)
        decoder = cbor2.CBORDecoder(bounded, tag_hook=_tag_hook)  # type: ignore[arg-type]
        first = True
        while True:
            bounded.begin_record()
            try:
                item = decoder.decode()
            except Exception as error:  # cbor2, gzip and the file system raise a dozen kinds
                if isinstance(error, cbor2.CBORDecodeEOF) and bounded.nbytes == 0:
                    return
                yield Rejected(f"{path} is damaged or cut short: {error.__cause__ or error}")
                return
            if not (isinstance(item, _Tagged) and item.tag == RECORD):
                if first:
                    raise SourceError(f"{path} is no recording of dranspose")
                yield Rejected(f"{path} is damaged: what follows is no record")
                return
            first = False
            yield _record(item.value, path)


def _open(path: Path) -> BufferedIOBase:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror or error}") from None


def _record(value: Any, path: Path) -> Record | Rejected:
    """Return a record, or why it is none."""
    try:
        event_number, streams, *rest = value
        if not _is_event_number(event_number):
            raise ValueError(f"its event number is {event_number!r:.40}")
        if not isinstance(streams, Mapping):
            raise ValueError("it has no streams")
        content = {_text(name): _stream(stream) for name, stream in streams.items()}
    except (TypeError, ValueError) as error:
        return Rejected(f"a record of {path} cannot be used: {error}")
    return Record(event_number, content, _unix_time(rest[0]) if rest else None)


def _is_event_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER


def _unix_time(value: object) -> float | None:
    return value.timestamp() if isinstance(value, datetime) and value.tzinfo else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no name")
    return value


def _stream(stream: object) -> Stream:
    if not (isinstance(stream, _Tagged) and stream.tag == STREAM):
        raise ValueError("a stream has an unknown form")
    kind, parts = stream.value
    if not all(isinstance(part, bytes) for part in parts):
        raise ValueError("a message has a part that is no bytes")
    return Stream(_text(kind), tuple(parts))


@source("recording")
class RecordingSource(Source):
    """Replays recorded streams, several files side by side in order of the event number.

    `?stream=NAME` picks the image stream; by default it is the first that has a message.
    """

    live: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        rest, options = split_url(url, {"stream": ()})
        self._paths = [Path(name) for name in rest.split(",") if name]
        self._wanted = options["stream"]
        self._reader: StinsReader | None = None
        self._unread: dict[str, str] = {}
        self._holds_images: dict[Path, bool] = {}
        if not self._paths:
            raise UrlError(f"{url}: not of the form recording:FILE[,FILE...]")
        for path in self._paths:
            if {".pkls", ".pkl", ".pickle"} & set(path.suffixes):
                raise SourceError(
                    f"{path} is a pickle, and reading a pickle runs whatever code is in it; "
                    "record with dranspose's dump_prefix, which writes .cbors"
                )
            if not path.is_file():
                raise SourceError(f"there is no file {path}")

    def events(self) -> Iterator[Event]:
        """Yield what was recorded.

        Raises
        ------
        SourceError
            If a file is no recording, or has no stream of the wanted name.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(closing(_numbered(path))) for path in self._paths]
            for _, path, record in heapq.merge(*files, key=itemgetter(0)):
                if self.closed.is_set():
                    return
                if isinstance(record, Record):
                    yield from self._replay(path, record)
                else:
                    yield self._complain(path, record)
        if self._reader:
            yield from self._reader.end(announced=False)
        elif self._wanted:
            known = ", ".join(self._unread) or "none"
            raise SourceError(f"{self.url}: no stream {self._wanted!r} of images; known: {known}")

    def _replay(self, path: Path, record: Record) -> Iterator[Event]:
        """Yield the events of one record, positions first."""
        streams = sorted(record.streams.items(), key=lambda item: item[1].kind != "sardana")
        for name, stream in streams:
            images = stream.kind == "STINS" and name == (self._wanted or name)
            self._holds_images[path] = self._holds_images.get(path, False) or images
            if images:
                self._wanted = name
                self._reader = self._reader or StinsReader(name)
                yield from self._reader.read(stream.parts, record.event_number, record.created)
            elif stream.kind == "sardana":
                yield from _positions(stream, record.event_number)
            elif name not in self._unread:
                self._unread[name] = stream.kind
                yield Notice(self._unread_sentence())

    def _unread_sentence(self) -> str:
        names = ", ".join(f"{name} ({kind})" for name, kind in self._unread.items())
        return f"streams of the recording that are not read: {names:.300}"

    def _complain(self, path: Path, damage: Rejected) -> Event:
        """Return damage as a frame lost, or as a notice where the file holds no images."""
        return damage if self._holds_images.get(path, True) else Notice(damage.reason)


def _numbered(path: Path) -> Generator[tuple[int, Path, Record | Rejected], None, None]:
    """Yield a file's records with the event number that they are sorted by."""
    newest = 0
    for record in read_records(path):
        if isinstance(record, Record):
            newest = record.event_number
        yield newest, path, record


def _positions(stream: Stream, event_number: int) -> Iterator[Event]:
    for document in stream.parts:
        try:
            position = parse_sardana(json_object(document), event_number)
        except ValueError as error:
            yield Notice(f"the position of event {event_number} cannot be used: {error}")
        else:
            if position is not None:
                yield position
