"""The ledger of frames: received = reduced + rejected + dropped + queued, always."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Counts:
    """A consistent reading of the ledger, in frames."""

    received: int = 0
    reduced: int = 0
    rejected: int = 0
    dropped: int = 0
    lost: int = 0
    """Messages missing from the stream; outside the balance."""

    @property
    def queued(self) -> int:
        """Frames waiting or in work."""
        return self.received - self.reduced - self.rejected - self.dropped


class Ledger:
    """Counts frames; readable and writable from any thread."""

    WINDOW = 5.0
    """Seconds over which the input rate is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._arrivals: deque[float] = deque(maxlen=10_000)

    def add(self, **frames: int) -> None:
        """Add to counts by name: `ledger.add(received=1)`."""
        with self._lock:
            old = self._counts
            changes = {name: getattr(old, name) + number for name, number in frames.items()}
            self._counts = replace(old, **changes)
            if frames.get("received"):
                self._arrivals.append(time.monotonic())

    @property
    def counts(self) -> Counts:
        """The counts, all read at one moment."""
        with self._lock:
            return self._counts

    @property
    def input_rate(self) -> float:
        """Frames received per second, over the last `WINDOW` seconds."""
        now = time.monotonic()
        with self._lock:
            while self._arrivals and self._arrivals[0] < now - self.WINDOW:
                self._arrivals.popleft()
            if len(self._arrivals) < 2:
                return 0.0
            span = max(now - self._arrivals[0], 1e-3)
            return (len(self._arrivals) - 1) / span
