"""How long the disk that files are written to lasts, from how fast its free space falls."""

from __future__ import annotations

import math
import statistics
from collections import deque

WINDOW = 60.0
"""Seconds over which the fall of the free space is taken."""
LEAST = 10.0
"""Seconds of it that are needed for a first answer."""
RISE = 0.05
"""Part of the free space by which it rises when somebody made room; then all begins anew."""
FULL = 1 << 20
"""Bytes below which a disk counts as full: what a file's every flush asks for."""
NOTED, ALARMING = 3600.0, 300.0
"""Seconds left from which Status tells it, and from which it is an alarm."""


class Room:
    """The free space of one disk over the last minute, whoever writes there."""

    def __init__(self) -> None:
        self._folder, self._disk = "", -1
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, folder: str, disk: int, free: int, moment: float) -> None:
        """Take note of how much room there is.

        Parameters
        ----------
        folder, disk
            Folder that the newest file is in, and the number of the disk that holds it.
        free
            Bytes that may still be written there.
        moment
            Of the measurement in s, on a clock that never goes back.
        """
        made_room = self._seen and free > self._seen[-1][1] * (1 + RISE)
        if disk != self._disk or made_room:
            self._seen.clear()
        self._folder, self._disk = folder, disk
        self._seen.append((moment, free))
        while self._seen[0][0] < moment - WINDOW:
            self._seen.popleft()

    @property
    def time_left(self) -> float:
        """Seconds until the disk is full at this rate; NaN: unknown, or it does not fill up."""
        if not self._seen:
            return math.nan
        moments, free = zip(*self._seen, strict=True)
        if free[-1] < FULL:
            return 0.0
        if moments[-1] - moments[0] < LEAST:
            return math.nan
        rate = -statistics.linear_regression(moments, free).slope
        return float(free[-1] / rate) if rate > 0 else math.nan

    @property
    def sentence(self) -> str:
        """How long it lasts, for people; only where `time_left` is known."""
        left = self.time_left
        if left == 0:
            return f"the disk of {self._folder} is full"
        minutes = left / 60
        time = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{left:.0f} seconds"
        return f"the disk of {self._folder} is full in {time} at this rate"
