"""Going on by itself after a crash: what a device notes of whether it is running.

A note in the device's folder says that it is, from Start on; Stop, the end of a
file that is read, and every end that somebody asked for take it away. Who finds it
there follows one that crashed or was killed, and goes on. Once: one that dies again
soon after it went on is not to be started for ever.
"""

from __future__ import annotations

import threading
import time

from ..core.results import Activity
from .keeping import StateFolder

NOTE = "was_running"
"""File of the note."""
STARTED, WENT_ON = "started", "went on by itself"
"""What it says; the second until it has run for `STEADY`."""
STEADY = 30.0
"""Seconds for which a device must run before it may go on by itself once more."""
TOO_SOON = (
    "it does not go on by itself, because it ended without being told to within "
    f"{STEADY:g} s of doing so before: look into its log for why, then Start"
)


class Resumption:
    """Whether a device goes on by itself, at this start and at the next one.

    Parameters
    ----------
    folder
        Where it is noted; None: nowhere, and it never does.
    """

    def __init__(self, folder: StateFolder | None) -> None:
        self._folder = folder
        self._changing = threading.Lock()
        self._noted = folder.read(NOTE).strip() if folder else ""
        self._runs = False
        self._steady: float | None = None
        self.due = self._noted == STARTED
        """True if the process before ended while it was running."""
        self.problem = TOO_SOON if self._noted and not self.due else ""
        """Why it does not go on although it was running, in one sentence."""

    def start(self, by_itself: bool = False) -> None:
        """Note that it is started, before it is."""
        with self._changing:
            self._runs, self._steady, self.problem = True, None, ""
            self._note(WENT_ON if by_itself else STARTED)

    def end(self) -> None:
        """Note that it is not to go on."""
        with self._changing:
            self._runs = False
            self._note("")

    def acknowledge(self) -> None:
        """Forget that it died too soon."""
        if self.problem:
            self.problem = ""
            self.end()

    def look(self, activity: Activity) -> None:
        """Follow what it does: it may have come to its end, or run for long enough."""
        if self._runs and activity is Activity.IDLE:
            self.end()
        elif self._noted == WENT_ON and activity is Activity.RUNNING:
            now = time.monotonic()
            self._steady = self._steady or now + STEADY
            with self._changing:
                if self._runs and now >= self._steady:
                    self._note(STARTED)

    def _note(self, text: str) -> None:
        if self._folder and text != self._noted:
            self._folder.keep({NOTE: text})
        self._noted = text
