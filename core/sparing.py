"""A log that is not filled by what happens with every frame."""

from __future__ import annotations

import logging
import threading
import time

PAUSE = 10.0
"""Seconds between two lines: at most 360 an hour, at whatever rate frames come."""


class SparingLog:
    """Warns of what repeats: at once, then every `PAUSE` at most, and how often it was since.

    What is held back is there for those who log everything.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._due = 0.0
        self._unsaid = 0

    def warn(self, text: str) -> None:
        """Log a sentence, or only count it."""
        with self._lock:
            now, more = time.monotonic(), self._unsaid
            said = now >= self._due
            self._unsaid = 0 if said else more + 1
            if said:
                self._due = now + PAUSE
        if not said:
            self._log.debug("%s", text)
        elif more:
            self._log.warning("%s; %d more since the last such line", text, more)
        else:
            self._log.warning("%s", text)
