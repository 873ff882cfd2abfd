"""What a Lima camera's counters tell: how far an acquisition is, and when another begins.

The number of the last image that is ready begins again at -1 with every
acquisition. It comes by two ways: in events, which are late but leave out no
beginning, and where we look, which is of now but may miss one. Each way is in
order in itself; so each counts the beginnings that it shows, and the one that
is ahead is right.
"""

from __future__ import annotations

RUNNING = "Running"
"""Status while images are taken or saved; anything else is at rest, with all images ready."""


class LimaCounters:
    """Follows one camera; the first look is to be from before the first event."""

    def __init__(self) -> None:
        self.acquisition = 0
        """Number of the acquisition, the one that we came upon being 0."""
        self.ready = -1
        """Number of its last image that is ready; -1: none."""
        self.before = -1
        """The same of the acquisition before, as far as it was known."""
        self.late = 0
        """Images of the acquisition before that became known when it was over; the reader's
        to count, and to set to 0."""
        self.total = 0
        """Images that it is to have, as the reader found; 0: not known, or without end."""
        self.running = False
        """True if it went on when we last looked."""
        self.finished = False
        """True if nothing more will come of it: it was at rest with all images, or twice."""
        self._at_rest = False
        self._looked = -1
        self._first: int | None = None
        self._told: int | None = None
        """What the last event told; before the first, the first look counts."""
        self._told_of = 0
        """The acquisition of which events tell."""

    @property
    def complete(self) -> bool:
        """True if it has all its images."""
        return 0 < self.total <= self.ready + 1

    def looked(self, status: str, ready: int, quiet: bool) -> None:
        """Take note of what the camera said when it was asked.

        Parameters
        ----------
        status
            `acq_status`, read before `ready`.
        ready
            `last_image_ready`.
        quiet
            True if no event came for so long that none can be on its way.
        """
        running = status == RUNNING
        overtaken = self._at_rest and self.complete and (running or ready > self.ready)
        if ready < self._looked or overtaken:
            self.overtaken()
        twice = self._at_rest and ready <= self.ready
        self._looked = ready
        if self._first is None:
            self._first = ready
        self._advance(ready)
        self.running, self._at_rest = running, not running
        self.finished = not running and (twice or self.complete)
        if quiet:
            self._told, self._told_of = self.ready, self.acquisition

    def told(self, ready: int) -> None:
        """Take note of an event of `last_image_ready`."""
        if self._told is None:  # the first may be of an image from before the first look
            self._told = ready if ready >= 0 else self._first
        if self._told is not None and ready < self._told:
            self._told_of += 1
        self._told = ready
        if self._told_of > self.acquisition:
            self.overtaken()
        if self._told_of == self.acquisition:
            self._advance(ready)
        elif self._told_of == self.acquisition - 1 and ready > self.before:
            self.late += ready - self.before
            self.before = ready

    def overtaken(self) -> None:
        """Take note that another acquisition began, of which events may still tell."""
        self.acquisition += 1
        self.before, self.ready, self.total = self.ready, -1, 0
        self.running = self.finished = self._at_rest = False
        self._looked = -1

    def restarted(self) -> None:
        """Take note that the camera's server was started anew."""
        self.overtaken()
        self._told, self._told_of = -1, self.acquisition

    def _advance(self, ready: int) -> None:
        if ready > self.ready:
            self.ready = ready
            self._at_rest = self.finished = False
