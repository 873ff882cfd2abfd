"""Programs that end by themselves are started again, with growing pauses."""

from __future__ import annotations

import time

from .process import Process, ProcessError

FIRST_PAUSE = 1.0
"""Seconds before the first new start; each further pause is twice as long."""
LONGEST_PAUSE = 60.0
STEADY = 60.0
"""Seconds after which a program counts as well again: its next pause is the first one."""


class Supervisor:
    """Looks after one program.

    Parameters
    ----------
    process
        The program; it runs.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pause = FIRST_PAUSE
        self._started = time.monotonic()
        self._due: float | None = None

    def look(self) -> str:
        """Start the program again if its pause is over; return what there is to tell, once.

        Returns
        -------
        str
            One sentence when it has ended; else nothing.
        """
        now = time.monotonic()
        if self._due is None:
            return self._wait(self._process.ended, now) if self._process.ended else ""
        if now < self._due:
            return ""
        self._due = None
        self._started = now
        try:
            self._process.start()
        except ProcessError as error:
            return self._wait(str(error), now)
        return ""

    def _wait(self, problem: str, now: float) -> str:
        """Begin a pause; return the problem with what is done about it."""
        if now - self._started > STEADY:
            self._pause = FIRST_PAUSE
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        self._due = now + pause
        return f"{problem}; it is started again in {pause:g} s"
