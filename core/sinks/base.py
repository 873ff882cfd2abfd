"""Sinks: where reduced data goes, beside the live values."""

from __future__ import annotations

from typing import Any, ClassVar

from ..frame import Frame, Series
from ..stage import Document, Forwarded, Row, Settings, Stage, Tree


class Sink:
    """Takes what a runner gives it, in frame order. No method blocks or raises.

    What goes wrong is kept as a sentence in `problem`, which puts the device in
    ALARM; the reduction goes on.
    """

    problem: str = ""
    takes_images: ClassVar[bool] = False
    """True: `image` is wanted for every frame."""

    def open(self, stage: Stage[Any, Any]) -> None:
        """Get ready to take what this stage makes."""

    def begin(self, series: Series, frame: Frame, settings: Settings) -> None:
        """Begin a series, at its first usable frame."""

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

    def close(self) -> None:
        """Finish what is open and release everything; may take seconds."""
