"""CBOR (RFC 8949) of messages from the network: read without copies, and nothing is done to it.

Tags stay what they are, pairs of a number and a value: none is looked up, resolved or
built into an object, so that a message can neither refer to itself nor grow. Byte strings
are views into the message. How deep and how many things may be is bounded, and no length
is believed before so many bytes are there.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

MAX_DEPTH = 32
"""Most arrays, maps and tags inside one another."""
MAX_ITEMS = 100_000
"""Most things in a message."""
MAX_TEXT = 16 << 20
"""Most bytes of text in a message."""
SELF_DESCRIBED = 55799
"""Tag that says nothing but that this is CBOR."""

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, OTHER = range(8)
"""The major types."""
BREAK = 0xFF
INDEFINITE = 31
WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
"""Bytes that follow, by what the first byte says."""
SIMPLE = {20: False, 21: True, 22: None, 23: None}
FLOATS = {25: ">e", 26: ">f", 27: ">d"}


class Tagged(NamedTuple):
    """A value under a tag."""

    tag: int
    value: Any


def read_cbor(message: bytes | memoryview) -> Any:
    """Return what a message holds.

    Returns
    -------
    value
        Numbers, texts, lists, maps with texts as keys, None, booleans; byte strings
        as views; `Tagged` values.

    Raises
    ------
    ValueError
        If it is none, or larger than it may be; the sentence goes on after "a message that".
    """
    reader = _Reader(memoryview(message).cast("B").toreadonly())
    value = reader.item(0)
    if reader.left:
        raise ValueError(f"goes on for {reader.left} bytes after its end")
    while isinstance(value, Tagged) and value.tag == SELF_DESCRIBED:
        value = value.value
    return value


class _Reader:
    """Where the reading of one message has come to."""

    def __init__(self, message: memoryview) -> None:
        self._message, self._at, self._items, self._texts = message, 0, 0, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._message) - self._at

    def item(self, depth: int) -> Any:
        """Read one thing and what is in it."""
        self._items += 1
        if self._items > MAX_ITEMS:
            raise ValueError(f"holds more than {MAX_ITEMS} things")
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        first = self._take(1)[0]
        major, info = first >> 5, first & 31
        match major:
            case 0:
                return self._argument(info)
            case 1:
                return -1 - self._argument(info)
            case 2:
                return self._bytes(info)
            case 3:
                return self._text(info)
            case 4:
                return self._list(info, depth)
            case 5:
                return self._map(info, depth)
            case 6:
                return Tagged(self._argument(info), self.item(depth + 1))
            case _:
                return self._other(info)

    def _take(self, length: int) -> memoryview:
        """Return the next bytes."""
        if length > self.left:
            raise ValueError(f"is cut short: {length} bytes should follow where {self.left} do")
        begin = self._at
        self._at += length
        return self._message[begin : self._at]

    def _argument(self, info: int) -> int:
        """Return the number that belongs to the first byte."""
        if info < 24:
            return info
        if info not in WIDTHS:
            raise ValueError("is no CBOR")
        return int.from_bytes(self._take(WIDTHS[info]), "big")

    def _bytes(self, info: int) -> memoryview:
        if info != INDEFINITE:
            return self._take(self._argument(info))
        return memoryview(b"".join(self._chunks(BYTES)))

    def _text(self, info: int) -> str:
        raw = (
            b"".join(self._chunks(TEXT)) if info == INDEFINITE else self._take(self._argument(info))
        )
        self._texts += len(raw)
        if self._texts > MAX_TEXT:
            raise ValueError(f"holds more than {MAX_TEXT} bytes of text")
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise ValueError("holds a text that is no UTF-8") from None

    def _chunks(self, major: int) -> list[memoryview]:
        """Return the pieces of a string of a length that was not known when it was begun."""
        chunks = []
        while not self._ends():
            self._items += 1
            first = self._take(1)[0]
            if first >> 5 != major or self._items > MAX_ITEMS:
                raise ValueError("is no CBOR: a string has a piece that is none")
            chunks.append(self._take(self._argument(first & 31)))
        return chunks

    def _list(self, info: int, depth: int) -> list[Any]:
        if info == INDEFINITE:
            found = []
            while not self._ends():
                found.append(self.item(depth + 1))
            return found
        return [self.item(depth + 1) for _ in range(self._length(info))]

    def _map(self, info: int, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        left = -1 if info == INDEFINITE else self._length(info)
        while left and not (left < 0 and self._ends()):
            key = self.item(depth + 1)
            if not isinstance(key, str) or key in entries:
                raise ValueError(f"holds a map with the key {key!r:.40}, no text or there before")
            entries[key] = self.item(depth + 1)
            left -= 1
        return entries

    def _length(self, info: int) -> int:
        """Return how many things an array or a map says that it holds."""
        length = self._argument(info)
        if length > self.left:
            raise ValueError(f"is cut short: {length} things should follow in {self.left} bytes")
        return length

    def _ends(self) -> bool:
        """Tell whether what was begun without a length ends here."""
        if not self.left:
            raise ValueError("is cut short")
        if self._message[self._at] != BREAK:
            return False
        self._at += 1
        return True

    def _other(self, info: int) -> float | bool | None:
        if info in FLOATS:
            (number,) = struct.unpack(FLOATS[info], self._take(WIDTHS[info]))
            return float(number)
        if info not in SIMPLE:
            raise ValueError("is no CBOR")
        return SIMPLE[info]
