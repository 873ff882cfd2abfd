"""What a played detector shows: the events of a file, kept in memory if they fit."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..frame import Encoded, Frame, Series, SeriesEnd, SeriesStart
from .base import Event, open_source
from .wires import Pixels

POOL_BYTES = 1 << 30
"""Bytes of frames kept in memory; a larger source is read again for every series."""


class Pool:
    """The events of a file, with the pixels in the form in which they are sent.

    Parameters
    ----------
    url
        A file source.
    keep
        Returns pixels in that form; done once for pixels that come again and again.
    """

    def __init__(self, url: str, keep: Callable[[Pixels], Pixels]) -> None:
        self._url, self._keep = url, keep
        self._kept: list[Event] | None = None
        self._total: int | None = None
        self._done: dict[int, tuple[weakref.ref[Pixels], Pixels]] = {}

    def images(self, series: Series) -> int:
        """Return how many frames a series has that has begun; 0: unknown."""
        if self._kept is None:
            return self._total or 0
        return sum(isinstance(event, Frame) and event.series is series for event in self._kept)

    def events(self, stopping: threading.Event) -> Iterator[Event]:
        """Yield everything from the beginning; read before the first is yielded, if it fits.

        Then the rate is that of the replay from the first frame on, however slowly
        the source makes them.
        """
        if self._kept is not None:
            yield from self._kept
            return
        read: list[Event] = []
        seen: set[int] = set()
        room = POOL_BYTES
        source = open_source(self._url)
        self._total = source.total
        try:
            coming = map(self._prepared, source.events())
            for event in coming:
                read.append(event)
                if isinstance(event, Frame) and id(event.payload) not in seen:
                    seen.add(id(event.payload))  # pixels that come again take no more room
                    room -= event.payload.nbytes
                if room < 0 or stopping.is_set():
                    break
            else:
                self._kept = read
            yield from read
            yield from coming
        finally:
            self._done.clear()
            source.close()

    def _prepared(self, event: Event) -> Event:
        """Return an event with its pixels, if it has any, as they are sent."""
        if not isinstance(event, Frame):
            return event
        pixels = event.payload
        known = self._done.get(id(pixels))
        if known and known[0]() is pixels:
            return replace(event, payload=known[1])
        made = self._keep(pixels)
        if isinstance(pixels, np.ndarray):
            self._done[id(pixels)] = weakref.ref(pixels), made
        return replace(event, payload=made)


def with_first_frames(events: Iterator[Event]) -> Iterator[tuple[Event, Frame | None]]:
    """Yield events, and beside the start of a series the first of its frames if it has any."""
    waiting: list[Event] = []
    for event in events:
        waiting.append(event)
        if not isinstance(waiting[0], SeriesStart) or isinstance(event, Frame | SeriesEnd):
            yield waiting[0], event if isinstance(event, Frame) else None
            yield from ((one, None) for one in waiting[1:])
            waiting = []
    yield from ((one, None) for one in waiting)


def cut_short(frame: Frame) -> Frame:
    """Return a frame of which the second half of the bytes is missing."""
    pixels = frame.payload
    if isinstance(pixels, Encoded):
        return replace(frame, payload=replace(pixels, blob=pixels.blob[: len(pixels.blob) // 2]))
    rows, columns = pixels.shape
    raw = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    half = raw.tobytes()[: raw.nbytes // 2]
    return replace(frame, payload=Encoded(half, (rows, columns), raw.dtype))
