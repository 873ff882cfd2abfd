"""Sinks: where reduced data goes, beside the live values."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ..frame import Frame, Series
from ..stage import Document, Forwarded, Row, Settings, Stage, Tree


class Sink:
    """Takes what a runner gives it, in frame order. No method raises; only the last two wait.

    What goes wrong is kept as a sentence in `problem`, which puts the device in
    ALARM; the reduction goes on.
    """

    problem: str = ""
    notes: tuple[str, ...] = ()
    """What else Status shall say, in sentences."""
    file: str = ""
    """Path of the file that is being written, or was completed last; empty if none."""
    file_time: float = 0.0
    """Unix time in s at which something last came to that file on the disk; 0: never."""
    file_complete: bool = False
    """True once that file is closed for good, and plain readers can open it."""
    disk_time_left: float = math.nan
    """Seconds until the disk of that file is full; NaN: unknown, or it does not fill up."""
    rows_lost: int = 0
    """Frames that were reduced and are not known to be in a file that they belong to."""
    takes_images: ClassVar[bool] = False
    """True: `image` is wanted for every frame."""

    def open(self, stage: Stage[Any, Any]) -> None:
        """Get ready to take what this stage makes."""

    def begin(self, series: Series, frame: Frame, settings: Settings) -> None:
        """Begin a series, at its first usable frame; its first row may come later, or never."""

    def adopt(self, frame: Frame, settings: Settings) -> None:
        """Take note that the rows from this frame on come from other parameters."""

    def row(self, frame: Frame, row: Row) -> None:
        """Add one reduced frame."""

    def image(self, frame: Frame, forwarded: Forwarded) -> None:
        """Take the reduced image of one frame."""

    def update(self, series: Series, tree: Tree) -> None:
        """Replace values of the series' file."""

    def finish(self, series: Series, tree: Tree) -> None:
        """End a series with its final values."""

    def save(self, document: Document) -> None:
        """Write a file of its own."""

    def checkpoint(self, tree: Tree) -> None:
        """Keep the stage's state for a restart."""

    def reset(self) -> None:
        """Forget what went wrong and is over; what goes wrong still stays."""

    def settle(self) -> None:
        """Wait a few seconds at most until the files of the series that ended are complete."""

    def close(self) -> None:
        """Finish what is open and release everything; may take seconds."""
