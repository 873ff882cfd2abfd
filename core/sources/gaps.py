"""Message numbers: what is missing, late, seen twice, and who else reads the stream."""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum


class Arrival(Enum):
    """How a message number relates to those before it."""

    NEXT = "next"
    """Higher than any so far; those skipped are missing."""
    LATE = "late"
    """Lower, but it was missing (or from before we joined)."""
    DUPLICATE = "duplicate"
    """Seen before."""
    FIRST = "first"
    """The first of a numbering: we joined the stream, or the sender restarted."""


class GapTracker:
    """Follows the message numbers of one stream; its memory is bounded."""

    WINDOW = 1000
    """A message may be that many numbers late; one further back is from a restarted sender."""
    HEADER_WINDOW = 16
    """The same for a header, which begins a new numbering more often than it is late."""
    UNSURE = 32
    """After a break so many messages may still be the old sender's, those that waited here."""
    LONGEST_GAP = 1_000_000
    """A longer jump ahead is a new numbering, not a loss."""
    STEPS, FEWEST_STEPS, REGULAR = 20, 10, 0.8
    """Another reader is suspected when this part of the last `STEPS` steps is one and the same."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._first = 0
        self._missing: set[int] = set()
        self._steps: deque[int] = deque(maxlen=self.STEPS)
        self._unsure = 0

    def interrupted(self) -> None:
        """Take note that the connection broke: a number seen before is a restarted sender's."""
        self._unsure = self.UNSURE

    def restart(self, number: int) -> None:
        """Begin a new numbering, of which `number` comes next; who else reads stays known."""
        self._first = self._next = number
        self._missing.clear()
        self._unsure = 0

    def see(self, number: int, header: bool = False) -> tuple[Arrival, int]:
        """Take note of a message; return how it arrived and by how much `lost` changes."""
        if self._next is None:
            return self._begin(number)
        ahead = number - self._next
        self._unsure = max(self._unsure - 1, 0)
        if ahead >= 0:
            return self._skip(number, ahead)
        if -ahead > (self.HEADER_WINDOW if header else self.WINDOW) or (
            (header or self._unsure) and number not in self._missing
        ):
            return self._begin(number)
        if number in self._missing:
            self._missing.remove(number)
            self._steps.clear()
            return Arrival.LATE, -1
        return (Arrival.LATE if number < self._first else Arrival.DUPLICATE), 0

    @property
    def readers(self) -> int:
        """Number of clients among which the stream seems to be dealt in turn; 1: only we."""
        if len(self._steps) < self.FEWEST_STEPS:
            return 1
        step, times = Counter(self._steps).most_common(1)[0]
        return step if times >= self.REGULAR * len(self._steps) else 1

    def _begin(self, number: int) -> tuple[Arrival, int]:
        self._first, self._next = number, number + 1
        self._missing.clear()
        self._steps.clear()
        self._unsure = 0
        return Arrival.FIRST, 0

    def _skip(self, number: int, skipped: int) -> tuple[Arrival, int]:
        """Go ahead to a number, over `skipped` missing ones."""
        if skipped > self.LONGEST_GAP:
            return self._begin(number)
        self._steps.append(skipped + 1)
        self._missing.update(range(number - min(skipped, self.WINDOW), number))
        if len(self._missing) > self.WINDOW:
            self._missing = {n for n in self._missing if n >= number - self.WINDOW}
        self._next = number + 1
        return Arrival.NEXT, skipped
