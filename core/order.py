"""The queue between receiving and reducing: ordered, and bounded in bytes and in number."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .frame import Frame
from .ledger import Ledger
from .stage import Settings

MOST_WAITING = 100_000
"""Frames that may wait, however small: each takes some memory besides its pixels."""


@dataclass(slots=True)
class Ticket:
    """A place in the order: a frame whose partial is being made, or a token to carry out."""

    settings: Settings
    frame: Frame | None = None
    tally: Ledger | None = None
    """Counts of the frame's series."""
    partial: Future[Any] | None = None
    token: Callable[[], None] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that wait here."""
        return self.frame.nbytes if self.frame else 0


class OrderedQueue:
    """Tickets in the order they were put; frames bounded in bytes, tokens always taken.

    Parameters
    ----------
    limit
        Most bytes of frames that may wait; one frame is always taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tickets: deque[Ticket] = deque()
        self._nbytes = 0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def fill(self) -> float:
        """Part of the limit that is taken, 0 to 1 and above."""
        return self._nbytes / self.limit

    def put(self, ticket: Ticket) -> bool:
        """Add a ticket at the end, whatever the limit; False if closed."""
        with self._changed:
            if self._closed:
                return False
            self._tickets.append(ticket)
            self._nbytes += ticket.nbytes
            self._changed.notify_all()
            return True

    def room_for(self, nbytes: int, limit: int | None = None) -> bool:
        """Tell whether so many bytes fit now; below another limit than the queue's, if given."""
        if self._nbytes == 0:
            return True
        most = self.limit if limit is None else limit
        return self._nbytes + nbytes <= most and len(self._tickets) < MOST_WAITING

    def wait_for_room(self, nbytes: int, timeout: float, limit: int | None = None) -> bool:
        """Wait until so many bytes fit; False if they still do not."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or self.room_for(nbytes, limit), timeout
            )

    def get(self, timeout: float) -> Ticket | None:
        """Take the first ticket; None after `timeout` s, or at once if closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._tickets or self._closed, timeout)
            if not self._tickets:
                return None
            ticket = self._tickets.popleft()
            self._nbytes -= ticket.nbytes
            self._changed.notify_all()
            return ticket

    def drop_frames(self, most: int | None = None) -> list[Ticket]:
        """Take out and return the oldest `most` frames (None: all), leaving the tokens."""
        with self._changed:
            frames = [ticket for ticket in self._tickets if ticket.frame][:most]
            gone = {id(ticket) for ticket in frames}
            self._tickets = deque(ticket for ticket in self._tickets if id(ticket) not in gone)
            self._nbytes -= sum(ticket.nbytes for ticket in frames)
            self._changed.notify_all()
        for ticket in frames:
            if ticket.partial:
                ticket.partial.cancel()
        return frames

    def close(self) -> None:
        """Let waiting calls return; what is queued can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """True when closed and empty."""
        with self._changed:
            return self._closed and not self._tickets
