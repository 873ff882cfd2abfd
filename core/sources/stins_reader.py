"""From STINS messages to events: where series begin and end, what is missing or came twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from .stins import BadMessage, End, Header, Image, Part, decode_message


class StinsReader:
    """Follows one stream of messages, of a socket or of a recording.

    A series begins with its header; with an image that has none before it
    (`joined_late`); and with an image whose frame number falls back after
    messages were lost, a header among them. It ends with series_end, with the
    next beginning, and with a header or end that cannot be read.

    Parameters
    ----------
    detector
        Name of the detector; if empty, what the header says under `detector`.
    """

    def __init__(self, detector: str = "") -> None:
        self._detector = detector
        self._gaps = GapTracker()
        self._readers = 1
        self._series: Series | None = None
        self._header: Header | None = None
        self._first_number: int | None = None
        self._newest_frame = -1
        self._gap = False

    def read(
        self,
        parts: Sequence[Part],
        event_number: int | None = None,
        timestamp: float | None = None,
    ) -> Iterator[FrameEvent]:
        """Yield the events that one message makes.

        Parameters
        ----------
        parts
            The message.
        event_number
            Number of the trigger event, where it is known.
        timestamp
            Unix time in s at which the message was recorded, for images that
            carry no stamp of their own.
        """
        try:
            message = decode_message(parts)
        except BadMessage as bad:
            yield from self._bad(bad)
            return
        if isinstance(message, Header) and message == self._header and self._newest_frame < 0:
            return  # the same header twice
        arrival, lost = self._arrive(message.number, isinstance(message, Header))
        yield from self._losses(lost)
        match message:
            case Header():
                yield from self._begin(message, message.number)
            case Image():
                yield from self._image(message, arrival, event_number, timestamp)
            case End():
                if arrival in (Arrival.NEXT, Arrival.FIRST) or not self._is_past(message.number):
                    yield from self.end()

    def interrupted(self) -> None:
        """Take note that the connection broke: the sender may have begun anew."""
        self._gaps.interrupted()

    def end(self, announced: bool = True) -> Iterator[FrameEvent]:
        """Yield the end of the series that is open, if one is."""
        if self._series:
            yield SeriesEnd(self._series, announced)
        self._series = self._header = None

    def _arrive(self, number: int | None, header: bool) -> tuple[Arrival, int]:
        if number is None:
            return Arrival.NEXT, 0
        return self._gaps.see(number, header)

    def _losses(self, lost: int) -> Iterator[FrameEvent]:
        """Yield what is missing, and whether somebody else takes it."""
        if lost:
            self._gap |= lost > 0
            yield Lost(lost)
        readers = self._gaps.readers
        if readers != self._readers:
            self._readers = readers
            yield Notice(
                f"another client is reading this stream: only 1 of {readers} messages arrives "
                "here; stop that client, or let it read a re-publisher"
                if readers > 1
                else ""
            )

    def _bad(self, bad: BadMessage) -> Iterator[FrameEvent]:
        _, lost = self._arrive(bad.number, bad.kind == "header")
        yield from self._losses(lost)
        yield Rejected(str(bad), bad.frame_id, bad.number)
        if bad.kind in ("header", "series_end"):
            yield from self.end(announced=bad.kind == "series_end")

    def _begin(
        self, header: Header, first_number: int | None, late: bool = False
    ) -> Iterator[FrameEvent]:
        """Begin a series; messages before `first_number` belong to another one."""
        yield from self.end(announced=False)
        named = header.metadata.get("detector")
        detector = self._detector or (named if isinstance(named, str) else "")
        self._series = Series(new_run_id(), detector, header.filename, header.metadata, late)
        self._header = header
        self._first_number, self._newest_frame, self._gap = first_number, -1, False
        yield SeriesStart(self._series)

    def _is_past(self, number: int | None) -> bool:
        """Tell whether a late message belongs to a series that is over."""
        if self._series is None:
            return True
        return number is not None and self._first_number is not None and number < self._first_number

    def _image(
        self, image: Image, arrival: Arrival, event_number: int | None, timestamp: float | None
    ) -> Iterator[FrameEvent]:
        if arrival is Arrival.DUPLICATE:
            yield Rejected("this message came twice", image.frame_id, image.number)
            return
        if arrival is Arrival.LATE and self._is_past(image.number):
            yield Rejected("a frame came after the end of its series", image.frame_id, image.number)
            return
        fell_back = self._gap and arrival is Arrival.NEXT and image.frame_id <= self._newest_frame
        first = arrival is Arrival.FIRST
        if self._series is None or first or fell_back:
            yield from self._begin(Header(None), None if first else image.number, late=True)
        assert self._series is not None
        self._newest_frame = max(self._newest_frame, image.frame_id)
        self._gap = False
        yield Frame(
            self._series,
            image.frame_id,
            image.pixels,
            image.number,
            event_number,
            timestamp if image.timestamp is None else image.timestamp,
            metadata=image.metadata,
        )
