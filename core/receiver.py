"""One thread that reads one source, and opens it again when it is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .frame import Away, Notice
from .sources.base import Event, Source, SourceError, UrlError

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
        self.lasting = False
        """True if that stays so however often it is tried: its address has to be corrected."""
        self.last_message_time = 0.0
        """Unix time in s at which something last came: header, frame, end; 0: nothing yet."""
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
                self._read()
                return
            except OSError as error:
                self.lasting = isinstance(error, UrlError)
                if self.lasting or not (self._source and self._source.live):
                    self.failure = str(error)
                    log.warning("source cannot be read: %s", error)
                    return
                if not self.lost:  # it was there meanwhile
                    wait = FIRST_WAIT
                self.lost = f"source lost ({error}); opening it again"
                log.warning("%s in %.1f s", self.lost, wait)
            except Exception as error:  # a defect, or no memory: nobody else would tell of it
                self.failure = f"internal error while reading: {_sentence(error)}"
                log.exception("reading has ended")
                return
            self._stopping.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _read(self) -> None:
        """Read the source to its end.

        Raises
        ------
        OSError
            If it is lost, or cannot be opened.
        """
        source = self._opener()
        self._source = source
        if self._stopping.is_set():
            return
        try:
            for event in source.events():
                if isinstance(event, Away):
                    self._find_away(event.reason)
                    continue
                self.lost = ""
                if not isinstance(event, Notice):
                    self.last_message_time = time.time()
                self._accept(event)
                if self._stopping.is_set():
                    break
        finally:
            source.close()
        if source.live and not self._stopping.is_set():
            raise SourceError("it ended")

    def _find_away(self, reason: str) -> None:
        """Keep why the sender is not there, or that it is."""
        self.lost = reason
        if reason:
            log.warning("%s", reason)
        else:
            log.info("the source is there again")


def _sentence(error: Exception) -> str:
    """Return what an error says, on one line; some, as those of memory, have only a name."""
    name, said = type(error).__name__, " ".join(str(error).split())
    return f"{name}: {said}" if said else name
