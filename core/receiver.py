"""One thread that reads one source, and opens it again when it is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .sources.base import Event, Source, SourceError

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between attempts to reopen a lost source: doubled from one to the other."""


class Receiver:
    """Reads a source in its own thread and hands every event to `accept`.

    Parameters
    ----------
    name
        Of the thread.
    opener
        Opens the source; called again after a live source was lost.
    accept
        Takes an event; called in this receiver's thread only.
    """

    def __init__(
        self, name: str, opener: Callable[[], Source], accept: Callable[[Event], None]
    ) -> None:
        self._opener = opener
        self._accept = accept
        self._source: Source | None = None
        self._stopping = threading.Event()
        self.lost = ""
        """Why the source is gone; empty while it is there."""
        self.failure = ""
        """Why it cannot be read at all; empty if it can."""
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def total(self) -> int | None:
        """Frames to come, where the source knows it."""
        return self._source.total if self._source else None

    @property
    def live(self) -> bool:
        """True if the source cannot wait for us."""
        return self._source is None or self._source.live

    def stop(self) -> None:
        """Stop reading and wait for the thread."""
        self._stopping.set()
        if self._source:
            self._source.close()
        self.thread.join()

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            try:
                if self._read():
                    return
                wait = FIRST_WAIT
            except OSError as error:
                if not (self._source and self._source.live):
                    self.failure = str(error)
                    log.warning("source cannot be read: %s", error)
                    return
                self.lost = f"source lost ({error}); opening it again"
                log.warning("%s in %.1f s", self.lost, wait)
            self._stopping.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _read(self) -> bool:
        """Read the source to its end; True if that is the end of the work."""
        source = self._opener()
        self._source = source
        if self._stopping.is_set():
            return True
        try:
            for event in source.events():
                self.lost = ""
                self._accept(event)
                if self._stopping.is_set():
                    break
        finally:
            source.close()
        if source.live and not self._stopping.is_set():
            raise SourceError("it ended")
        return True
