"""Sources: where frames and positions come from, opened by URL."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from ..frame import FrameEvent
from ..positions import Position

Event = FrameEvent | Position


class SourceError(OSError):
    """A source that cannot be opened or read; the message is one sentence."""


class UrlError(SourceError):
    """A URL that is none, and will not become one: it has to be corrected."""


class Source(ABC):
    """One open source. `close` may be called from any thread and ends `events`."""

    live: ClassVar[bool] = True
    """True: cannot wait for us, is drained always and reopened when lost.
    False: a file, read as fast as the reduction takes it."""
    total: int | None = None
    """Number of frames to come, where it is known (for progress bars)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.closed = threading.Event()

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """Yield what comes, until the source ends or is closed.

        A message that cannot be used is yielded as `Rejected`, never raised.

        Raises
        ------
        SourceError
            If the source as a whole is lost.
        """

    def close(self) -> None:
        """End `events` within a fraction of a second."""
        self.closed.set()


_openers: dict[str, Callable[[str], Source]] = {}


def source(*schemes: str) -> Callable[[Callable[[str], Source]], Callable[[str], Source]]:
    """Register a source class or function for URL schemes (`stins+tcp`, `hdf5`)."""

    def register(opener: Callable[[str], Source]) -> Callable[[str], Source]:
        for scheme in schemes:
            _openers[scheme] = opener
        return opener

    return register


def open_source(url: str) -> Source:
    """Open a source by its URL, `scheme:...` or `scheme://...`.

    Raises
    ------
    UrlError
        If the scheme is unknown, or the URL has another form than the scheme's.
    SourceError
        If the source cannot be opened.
    """
    scheme = url.partition(":")[0]
    if scheme not in _openers:
        known = ", ".join(sorted(_openers))
        raise UrlError(f"unknown source {url!r}: it begins with none of {known}")
    return _openers[scheme](url)
