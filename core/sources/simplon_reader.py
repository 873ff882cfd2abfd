"""From SIMPLON messages to events: where series begin and end, what is missing or came twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..frame import (
    Frame,
    FrameEvent,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
    new_run_id,
)
from .gaps import Arrival, GapTracker
from .simplon import BadSimplon, End, Image, Message, SeriesId, Start
from .stins import Part

PAST = 16
"""Series that are remembered after their end, to refuse what comes of them late."""


class SimplonReader:
    """Follows one stream of messages.

    A series begins with its start message, and with an image of a series that has
    none before it (`joined_late`). It ends with its end message, with the next
    beginning, and with a start or end that cannot be read. Images are numbered
    from 0 in every series: those missing are lost, those seen before refused.

    Parameters
    ----------
    decode
        Returns what a message says, given the channel that is wanted.
    detector
        Name of the detector; if empty, how it describes itself.
    channel
        Channel to take; if empty, the first of each series.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[Part], str], Message],
        detector: str = "",
        channel: str = "",
    ) -> None:
        self._decode, self._detector, self._wanted = decode, detector, channel
        self._gaps = GapTracker()
        self._series: Series | None = None
        self._start: Start | None = None
        self._channel = channel
        self._past: deque[SeriesId] = deque(maxlen=PAST)
        self._newest = -1
        self._notices: dict[str, str] = {}
        self._told = ""

    def read(self, parts: Sequence[Part]) -> Iterator[FrameEvent]:
        """Yield the events that one message makes."""
        try:
            message = self._decode(parts, self._channel)
        except BadSimplon as bad:
            yield from self._bad(bad)
            return
        match message:
            case Start():
                if message != self._start or self._newest >= 0:  # else it came twice
                    yield from self._begin(message, 0)
            case Image():
                yield from self._image(message)
            case End():
                yield from self._end(message)

    def interrupted(self) -> None:
        """Take note that the connection broke: the sender may have begun anew."""
        self._gaps.interrupted()
        self._past.clear()

    def end(self, announced: bool = True) -> Iterator[FrameEvent]:
        """Yield the end of the series that is open, if one is."""
        if self._series and self._start:
            yield SeriesEnd(self._series, announced)
            self._past.append(self._start.series)
        self._series = self._start = None

    def _begin(self, start: Start, first: int, late: bool = False) -> Iterator[FrameEvent]:
        """Begin a series whose first image has this number."""
        yield from self.end(announced=False)
        if start.series in self._past:  # of a detector that counts series anew
            self._past.remove(start.series)
        self._gaps.restart(first)
        self._newest = first - 1
        self._channel = self._wanted or (start.channels[0] if start.channels else "")
        self._start = start
        self._series = Series(
            new_run_id(),
            self._detector or start.detector,
            start.filename,
            start.metadata,
            late,
        )
        yield SeriesStart(self._series)
        tables = ", ".join(start.tables)
        yield from self._tell(
            tables=f"not used: {tables} of the start message; the pixels carry what they mark"
            if tables
            else "",
            channels=self._unused(start.channels),
            images="",
        )

    def _unused(self, channels: Sequence[str]) -> str:
        """Return what to say of the channels that are left out."""
        others = [name for name in channels if name != self._channel]
        if not others or len(others) == len(channels):
            return ""
        names = ", ".join(others)
        return f"of {len(channels)} channels only {self._channel} is used, not {names:.200}"

    def _image(self, image: Image) -> Iterator[FrameEvent]:
        if image.series in self._past:
            yield Rejected("an image came after the end of its series", image.number)
            return
        if self._start is None or image.series != self._start.series:
            yield from self._begin(Start(image.series), image.number, late=True)
        if self._is_too_far(image.number):
            yield Rejected("this number is too far from those before it", image.number)
            return
        arrival, lost = self._gaps.see(image.number)
        if arrival is Arrival.FIRST:  # numbered anew: the start of this series was lost
            yield from self._begin(Start(image.series), image.number, late=True)
            self._gaps.see(image.number)
        yield from self._losses(lost)
        if arrival is Arrival.DUPLICATE:
            yield Rejected("this image came twice", image.number)
            return
        self._newest = max(self._newest, image.number)
        self._channel = image.channels[0] if image.channels else ""
        yield from self._tell(channels=self._unused(image.channels))
        assert self._series is not None
        yield Frame(
            self._series,
            image.number,
            image.pixels,
            timestamp=image.timestamp,
            metadata=image.metadata,
        )

    def _is_too_far(self, number: int) -> bool:
        """Tell whether a number is beyond what can have been lost since the newest."""
        return number > self._newest + GapTracker.LONGEST_GAP

    def _end(self, end: End) -> Iterator[FrameEvent]:
        """Take the end of the open series; one of a series that is over says nothing new."""
        if self._start is None or end.series in self._past:
            return
        if end.series != self._start.series:
            yield Rejected(
                f"the end of series {end.series.number} came while "
                f"series {self._start.series.number} is open"
            )
            return
        expected, came = self._start.images, self._newest + 1
        yield from self.end()
        if came < expected:
            yield from self._tell(
                images=f"series {end.series.number} ended after {came} of {expected} images: it "
                "was stopped, or the last of them were lost"
            )

    def _bad(self, bad: BadSimplon) -> Iterator[FrameEvent]:
        known = self._start is not None and bad.series == self._start.series
        if known and bad.number is not None and not self._is_too_far(bad.number):
            _, lost = self._gaps.see(bad.number)
            self._newest = max(self._newest, bad.number)
            yield from self._losses(lost)
        yield Rejected(str(bad), bad.number)
        if bad.kind in (Start, End):
            yield from self.end(announced=bad.kind is End)

    def _losses(self, lost: int) -> Iterator[FrameEvent]:
        """Yield what is missing, and whether somebody else takes it."""
        if lost:
            yield Lost(lost)
        readers = self._gaps.readers
        yield from self._tell(
            readers="another client is reading this stream: only 1 of "
            f"{readers} messages arrives here; stop that client, or let it read a re-publisher"
            if readers > 1
            else ""
        )

    def _tell(self, **notices: str) -> Iterator[FrameEvent]:
        """Yield all that is to be said, if that changes."""
        self._notices |= notices
        text = "; ".join(filter(None, self._notices.values()))
        if text != self._told:
            self._told = text
            yield Notice(text)
