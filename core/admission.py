"""What is checked before a frame is queued: numbers seen twice, shapes that do not belong."""

from __future__ import annotations

from typing import Any

from .frame import BadFrame, Frame


class FrameNumbers:
    """The frame numbers of one series that have been seen; small whatever its length."""

    MOST_AHEAD = 10_000
    """Numbers remembered beyond the first gap; older gaps are given up."""

    def __init__(self) -> None:
        self._floor = 0
        self._ahead: set[int] = set()

    def add(self, frame_id: int) -> bool:
        """Take note of a number; False if it was seen before (or its gap given up)."""
        if frame_id < self._floor or frame_id in self._ahead:
            return False
        self._ahead.add(frame_id)
        if len(self._ahead) > self.MOST_AHEAD:
            self._floor = min(self._ahead)
        while self._floor in self._ahead:
            self._ahead.remove(self._floor)
            self._floor += 1
        return True


class Admission:
    """Decides which frames of a series are taken.

    A frame number seen twice is refused. So is a frame whose shape or type
    differs from the series' own, unless `PERSISTENT` of them come in a row and
    agree: then the detector was reconfigured, and the new shape is the series' own.
    """

    PERSISTENT = 3

    def __init__(self) -> None:
        self._numbers = FrameNumbers()
        self._form: tuple[Any, ...] | None = None
        self._other: tuple[Any, ...] | None = None
        self._others = 0

    def check(self, frame: Frame) -> None:
        """Take a frame or refuse it.

        Raises
        ------
        BadFrame
            In one sentence, if it is not to be reduced.
        """
        self._check_form(frame)
        if not self._numbers.add(frame.frame_id):
            raise BadFrame(f"frame {frame.frame_id} of this series arrived twice")

    def _check_form(self, frame: Frame) -> None:
        form = (frame.shape, frame.dtype)
        if self._form is None:
            self._form = form
        if form == self._form:
            self._others = 0
            return
        self._others = self._others + 1 if form == self._other else 1
        self._other = form
        if self._others < self.PERSISTENT:
            raise BadFrame(
                f"frame {frame.frame_id} is {frame.shape} {frame.dtype} in a series of "
                f"{self._form[0]} {self._form[1]}"
            )
        self._form, self._others = form, 0
