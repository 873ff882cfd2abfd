"""Series begin and end where they should, and every image is a frame or is counted as bad."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import (
    Frame,
    FrameEvent,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
)
from ronda.core.sources.stins import Part, encode_end, encode_header, encode_image
from ronda.core.sources.stins_reader import StinsReader

IMAGE = np.arange(12, dtype=np.uint16).reshape(3, 4)


def header(number: int, filename: str = "") -> list[bytes]:
    return encode_header(number, filename)


def image(number: int, frame_id: int) -> list[Part]:
    return encode_image(number, frame_id, IMAGE)


def bad_image(number: int, frame_id: int) -> list[Part]:
    return [image(number, frame_id)[0], b"too short"]


def unnumbered(parts: Sequence[Part]) -> list[Part]:
    head = json.loads(bytes(parts[0]))
    del head["msg_number"]
    return [json.dumps(head).encode(), *parts[1:]]


def read(*messages: Sequence[Part], reader: StinsReader | None = None) -> list[FrameEvent]:
    reader = reader or StinsReader()
    return [event for parts in messages for event in reader.read(parts)]


def story(events: Sequence[FrameEvent]) -> str:
    """Return events as a line of text: `start 0 1 end`; `cut`: an end not announced."""
    words = []
    for event in events:
        match event:
            case SeriesStart(series):
                words.append("late" if series.joined_late else "start")
            case SeriesEnd(_, announced):
                words.append("end" if announced else "cut")
            case Frame():
                words.append(str(event.frame_id))
            case Rejected(frame_id=number):
                words.append(f"bad{'' if number is None else number}")
            case Lost(count):
                words.append(f"lost{count:+d}")
            case Notice(text):
                words.append("notice" if text else "over")
    return " ".join(words)


def test_a_series_loses_its_name_or_its_frames() -> None:
    parts = encode_header(7, "/raw/scan-12_x.h5", {"save_raw": True, "detector": "balor"})
    events = read(parts, image(8, 0), image(9, 1), encode_end(10))
    assert story(events) == "start 0 1 end"
    start, first, _, end = events
    assert isinstance(start, SeriesStart) and isinstance(first, Frame)
    assert isinstance(end, SeriesEnd)
    series = start.series
    assert (series.filename, series.detector, series.scan_number) == (
        "/raw/scan-12_x.h5",
        "balor",
        12,
    )
    assert series.metadata == {"save_raw": True, "detector": "balor"}
    assert first.series is series is end.series
    assert first.message_number == 8
    np.testing.assert_array_equal(first.data, IMAGE)


def test_the_detector_of_the_url_is_replaced_by_the_header_s() -> None:
    start = read(encode_header(1, "", {"detector": "b"}), reader=StinsReader("a"))[0]
    assert isinstance(start, SeriesStart)
    assert start.series.detector == "a"


def test_two_series_share_a_run_number() -> None:
    events = read(header(1), image(2, 0), encode_end(3), header(4), image(5, 0))
    assert story(events) == "start 0 end start 0"
    runs = [event.series.run_id for event in events if isinstance(event, SeriesStart)]
    assert runs[0] < runs[1]


def test_a_late_joiner_gets_nothing() -> None:
    events = read(image(66680, 12), image(66681, 13), encode_end(66682), header(66683))
    assert story(events) == "late 12 13 end start"


def test_a_missing_end_leaves_the_series_open() -> None:
    assert story(read(header(1), image(2, 0), header(3), image(4, 0))) == "start 0 cut start 0"


def test_a_missing_header_and_end_join_two_series() -> None:
    events = read(header(1), image(2, 0), image(3, 1), image(6, 0), image(7, 1))
    assert story(events) == "start 0 1 lost+2 cut late 0 1"


def test_an_end_of_nothing_fails() -> None:
    assert story(read(encode_end(1), encode_end(2))) == ""


def test_a_gap_splits_the_series_or_is_not_counted() -> None:
    assert story(read(header(1), image(2, 0), image(5, 3), image(6, 4))) == "start 0 lost+2 3 4"


def test_a_late_frame_is_not_taken_back_from_the_losses() -> None:
    events = read(header(1), image(2, 0), image(4, 2), image(3, 1), image(5, 3))
    assert story(events) == "start 0 lost+1 2 lost-1 1 3"


def test_a_frame_from_before_we_joined_is_refused() -> None:
    assert story(read(image(11, 5), image(10, 4), image(12, 6))) == "late 5 4 6"


@pytest.mark.parametrize("begin", [[], [header(5), image(6, 0)]], ids=["none open", "next open"])
def test_a_frame_that_comes_after_its_end_joins_the_next_series(begin: list[list[Part]]) -> None:
    events = read(header(1), image(2, 0), encode_end(4), *begin, image(3, 1))
    assert story(events).endswith("lost-1 bad1")


def test_a_frame_counts_twice() -> None:
    events = read(header(1), image(2, 0), image(2, 0), image(3, 1))
    assert story(events) == "start 0 bad0 1"
    assert isinstance(events[2], Rejected)
    assert (events[2].reason, events[2].message_number) == ("this message came twice", 2)


def test_header_or_end_that_come_twice_begin_or_end_a_series() -> None:
    end = encode_end(3)
    events = read(header(1), header(1), image(2, 0), end, end, header(4), end, image(5, 0))
    assert story(events) == "start 0 end start 0"


def test_a_late_end_leaves_the_series_open() -> None:
    assert story(read(header(1), image(2, 0), image(4, 2), encode_end(3))).endswith("lost-1 end")


@pytest.mark.parametrize("first", [header(0), image(0, 0)], ids=["header", "image"])
def test_a_restarted_detector_loses_or_repeats_messages(first: list[Part]) -> None:
    events = read(image(9000, 40), image(9001, 41), first, image(1, 1), encode_end(2))
    begun = "start 1" if len(first) == 2 and b"header" in bytes(first[0]) else "late 0 1"
    assert story(events) == f"late 40 41 cut {begun} end"


def test_messages_without_numbers_are_duplicates() -> None:
    events = read(*map(unnumbered, [header(0), image(0, 0), image(0, 1), encode_end(0)]))
    assert story(events) == "start 0 1 end"


def test_a_bad_image_ends_the_series_or_leaves_a_gap() -> None:
    events = read(header(1), image(2, 0), bad_image(3, 1), image(4, 2), encode_end(5))
    assert story(events) == "start 0 bad1 2 end"
    assert isinstance(events[2], Rejected)
    assert events[2].message_number == 3
    assert "9 bytes of pixels where (3, 4) uint16 needs 24" in events[2].reason


def test_a_bad_header_lets_frames_join_the_series_before() -> None:
    bad = [b'{"htype": "header", "msg_number": 3, "filename": 5}']
    assert story(read(header(1), image(2, 0), bad, image(4, 0))) == "start 0 bad cut late 0"


def test_a_bad_end_leaves_the_series_open() -> None:
    bad = [b'{"htype": "series_end", "msg_number": "x"}']
    assert story(read(header(1), image(2, 0), bad)) == "start 0 bad end"


def test_event_number_or_recording_time_get_lost() -> None:
    reader = StinsReader()
    frames = [
        event
        for parts in (image(1, 0), encode_image(2, 1, IMAGE, timestamp=50.0))
        for event in reader.read(parts, event_number=7, timestamp=99.0)
        if isinstance(event, Frame)
    ]
    assert [frame.event_number for frame in frames] == [7, 7]
    assert [frame.timestamp for frame in frames] == [99.0, 50.0]


def test_a_thief_is_not_named_or_never_forgiven() -> None:
    reader = StinsReader()
    events = read(header(0), *(image(2 * k, k) for k in range(1, 31)), reader=reader)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices == [
        "another client is reading this stream: only 1 of 2 messages arrives here; "
        "stop that client, or let it read a re-publisher"
    ]
    assert sum(event.count for event in events if isinstance(event, Lost)) == 30
    events = read(*(image(61 + k, 31 + k) for k in range(20)), reader=reader)
    assert [event.text for event in events if isinstance(event, Notice)] == [""]


def test_the_open_series_of_a_file_has_no_end() -> None:
    reader = StinsReader()
    read(header(1), image(2, 0), reader=reader)
    assert story(list(reader.end())) == "end"
    assert list(reader.end()) == []


MESSAGES = st.one_of(
    st.builds(image, st.integers(0, 30), st.integers(0, 10)),
    st.builds(bad_image, st.integers(0, 30), st.integers(0, 10)),
    st.builds(header, st.integers(0, 30)),
    st.builds(encode_end, st.integers(0, 30)),
    st.lists(st.binary(max_size=40), max_size=3),
    st.builds(lambda parts, cut: [parts[0][:cut]], st.just(image(3, 3)), st.integers(0, 90)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGES, max_size=25))
def test_an_image_is_neither_frame_nor_rejected(messages: list[list[Part]]) -> None:
    reader = StinsReader()
    open_series: Series | None = None
    lost = 0
    for parts in messages:
        events = list(reader.read(parts))
        counted = [event for event in events if isinstance(event, (Frame, Rejected))]
        assert len(counted) <= 1
        if not is_header_or_end(parts):
            assert len(counted) == 1
        for event in events:
            match event:
                case SeriesStart(series):
                    assert open_series is None
                    open_series = series
                case SeriesEnd(series):
                    assert series is open_series
                    open_series = None
                case Frame():
                    assert event.series is open_series
                case Lost(count):
                    lost += count
        assert lost >= 0


def is_header_or_end(parts: Sequence[Part]) -> bool:
    try:
        content: Any = json.loads(bytes(parts[0]))
    except (IndexError, ValueError):
        return False
    return isinstance(content, dict) and content.get("htype") in ("header", "series_end")
