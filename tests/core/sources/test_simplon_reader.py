"""SIMPLON series begin and end where they should; every image is a frame, or counted as bad."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import cbor2
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
from ronda.core.sources.gaps import GapTracker
from ronda.core.sources.simplon1 import decode_simplon1
from ronda.core.sources.simplon2 import decode_simplon2
from ronda.core.sources.simplon_reader import SimplonReader

Parts = list[bytes]
PIXELS = np.arange(12, dtype="<u2").reshape(3, 4)


class Version1:
    """Writes messages in the first way."""

    decode = staticmethod(decode_simplon1)

    @staticmethod
    def start(series: int, images: int = 0, description: str = "") -> Parts:
        head = {"htype": "dheader-1.0", "series": series, "header_detail": "basic"}
        settings = {"nimages": images, "description": description}
        return [json.dumps(head).encode(), json.dumps(settings).encode()]

    @staticmethod
    def image(series: int, number: int, length: int = 24) -> Parts:
        head = {"htype": "dimage-1.0", "series": series, "frame": number}
        form = {"shape": [4, 3], "type": "uint16", "encoding": "<"}
        return [json.dumps(head).encode(), json.dumps(form).encode(), PIXELS.tobytes()[:length]]

    @staticmethod
    def end(series: int) -> Parts:
        return [json.dumps({"htype": "dseries_end-1.0", "series": series}).encode()]


class Version2:
    """Writes messages in the second way."""

    decode = staticmethod(decode_simplon2)

    @staticmethod
    def _message(kind: str, series: int, **entries: Any) -> Parts:
        names = {"series_id": series, "series_unique_id": f"u{series}"}
        return [cbor2.dumps({"type": kind, **names, **entries})]

    @classmethod
    def start(cls, series: int, images: int = 0, description: str = "", **more: Any) -> Parts:
        said = {"number_of_images": images, "detector_description": description}
        return cls._message("start", series, **said, **more)

    @classmethod
    def image(
        cls, series: int, number: int, length: int = 24, channels: Sequence[str] = ("t1",)
    ) -> Parts:
        pixels = cbor2.CBORTag(40, [[3, 4], cbor2.CBORTag(69, PIXELS.tobytes()[:length])])
        data = dict.fromkeys(channels, pixels)
        return cls._message("image", series, image_id=number, data=data)

    @classmethod
    def end(cls, series: int) -> Parts:
        return cls._message("end", series)


Version = type[Version1] | type[Version2]


@pytest.fixture(params=[Version1, Version2])
def wire(request: pytest.FixtureRequest) -> Version:
    version: Version = request.param
    return version


def read(wire: Version, *messages: Parts, reader: SimplonReader | None = None) -> list[FrameEvent]:
    reader = reader or SimplonReader(wire.decode)
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


def test_a_series_loses_its_name_or_its_frames(wire: Version) -> None:
    w = wire
    events = read(
        w, w.start(5, 2, "Eiger"), w.image(5, 0), w.image(5, 1), w.end(5), w.start(6), w.end(6)
    )
    assert story(events) == "start 0 1 end start end"
    start, first, _, end, *_ = events
    assert isinstance(start, SeriesStart) and isinstance(first, Frame)
    assert isinstance(end, SeriesEnd)
    assert first.series is start.series is end.series
    assert (start.series.detector, start.series.filename) == ("Eiger", "")
    assert first.message_number is None
    np.testing.assert_array_equal(first.data, PIXELS)
    runs = [event.series.run_id for event in events if isinstance(event, SeriesStart)]
    assert runs[0] < runs[1]


def test_the_detector_of_the_url_is_replaced_by_its_own_name(wire: Version) -> None:
    reader = SimplonReader(wire.decode, "mine")
    (start,) = read(wire, wire.start(5, 0, "Eiger"), reader=reader)
    assert isinstance(start, SeriesStart)
    assert start.series.detector == "mine"


def test_images_that_are_missing_are_not_counted(wire: Version) -> None:
    w = wire
    events = read(w, w.start(5), w.image(5, 2), w.image(5, 3), w.image(5, 6), w.image(5, 4))
    assert story(events) == "start lost+2 2 3 lost+2 6 lost-1 4"


def test_the_numbers_of_the_series_before_make_losses(wire: Version) -> None:
    w = wire
    first = [w.start(5), *(w.image(5, k) for k in range(2000)), w.end(5)]
    events = read(w, *first, w.start(6), w.image(6, 0), w.image(6, 1))
    assert story(events).endswith("1999 end start 0 1")
    assert not any(isinstance(event, Lost) for event in events)


def test_a_late_joiner_gets_nothing_or_counts_losses(wire: Version) -> None:
    w = wire
    events = read(w, w.image(5, 12), w.image(5, 13), w.image(5, 11), w.end(5), w.start(6))
    assert story(events) == "late 12 13 11 end start"


def test_images_of_a_series_whose_start_was_lost_join_the_one_before(wire: Version) -> None:
    w = wire
    events = read(w, w.start(5), w.image(5, 0), w.image(6, 3), w.image(6, 4), w.end(6))
    assert story(events) == "start 0 cut late 3 4 end"


def test_a_frame_counts_twice(wire: Version) -> None:
    w = wire
    events = read(w, w.start(5), w.image(5, 0), w.image(5, 0), w.image(5, 1))
    assert story(events) == "start 0 bad0 1"


def test_start_or_end_that_come_twice_begin_or_end_a_series(wire: Version) -> None:
    w = wire
    end = w.end(5)
    events = read(w, w.start(5), w.start(5), w.image(5, 0), end, end, w.start(6), end, w.end(7))
    assert story(events) == "start 0 end start bad"


def test_the_end_of_another_series_ends_this_one(wire: Version) -> None:
    w = wire
    events = read(w, w.start(5), w.image(5, 0), w.end(9), w.image(5, 1), w.end(5))
    assert story(events) == "start 0 bad 1 end"
    assert isinstance(events[2], Rejected)
    assert events[2].reason == "the end of series 9 came while series 5 is open"


def test_an_end_of_nothing_fails(wire: Version) -> None:
    assert story(read(wire, wire.end(1), wire.end(2))) == ""


def test_an_image_that_comes_after_its_end_joins_the_next_series(wire: Version) -> None:
    w = wire
    events = read(w, w.start(5), w.image(5, 0), w.end(5), w.image(5, 1), w.start(6), w.image(5, 2))
    assert story(events) == "start 0 end bad1 start bad2"


def test_a_bad_image_ends_the_series_or_leaves_a_gap(wire: Version) -> None:
    w = wire
    bad = w.image(5, 1, 23)
    events = read(w, w.start(5), w.image(5, 0), bad, w.image(5, 2), w.image(4, 9, 23), w.end(5))
    assert story(events) == "start 0 bad1 2 bad9 end"
    events = read(w, w.start(5), w.image(5, 3, 23), w.image(5, 4), w.image(5, 3))
    assert story(events) == "start lost+3 bad3 4 bad3"


def test_a_number_that_is_too_high_loses_a_million_or_splits_the_series(wire: Version) -> None:
    w = wire
    far = GapTracker.LONGEST_GAP + 5
    events = read(w, w.start(5), w.image(5, 0), w.image(5, far), w.image(5, far, 23), w.image(5, 1))
    assert story(events) == f"start 0 bad{far} bad{far} 1"


def test_a_detector_that_was_restarted_repeats_images() -> None:
    """One that begins to count series and images anew; its start message is lost, too."""
    w = Version1
    reader = SimplonReader(w.decode)
    events = read(w, w.start(1), *(w.image(1, k) for k in range(40)), reader=reader)
    reader.interrupted()
    events += read(w, w.image(1, 0), w.image(1, 1), w.end(1), reader=reader)
    assert story(events).endswith("39 cut late 0 1 end")
    events = read(w, w.start(1), w.image(1, 0), w.end(1), w.start(1), w.image(1, 0), reader=reader)
    assert story(events) == "start 0 end start 0"


def test_a_connection_that_breaks_hides_losses_or_ends_the_series(wire: Version) -> None:
    w = wire
    reader = SimplonReader(w.decode)
    events = read(w, w.start(5), w.image(5, 0), reader=reader)
    reader.interrupted()
    events += read(w, w.image(5, 4), w.image(5, 5), w.end(5), reader=reader)
    assert story(events) == "start 0 lost+3 4 5 end"


def test_an_end_that_cannot_be_read_leaves_the_series_open() -> None:
    bad = [b'{"htype": "dseries_end-1.0", "series": "x"}']
    w = Version1
    assert story(read(w, w.start(5), w.image(5, 0), bad)) == "start 0 bad end"
    bad = [b'{"htype": "dheader-1.0"}']
    assert story(read(w, w.start(5), w.image(5, 0), bad, w.image(6, 0))) == "start 0 bad cut late 0"


def test_a_series_that_ends_early_is_not_told(wire: Version) -> None:
    w = wire
    events = read(w, w.start(5, 10), w.image(5, 0), w.end(5), w.start(6, 1), w.image(6, 0))
    assert story(events) == "start 0 end notice start over 0"
    assert isinstance(events[3], Notice)
    assert events[3].text == (
        "series 5 ended after 1 of 10 images: it was stopped, or the last of them were lost"
    )
    assert story(read(w, w.start(5, 1), w.image(5, 0), w.end(5))) == "start 0 end"


def test_a_thief_is_not_named_or_never_forgiven(wire: Version) -> None:
    """Also not if series are so short that one alone tells nothing."""
    w = wire
    reader = SimplonReader(w.decode)
    messages = []
    for series in range(1, 9):
        messages += [w.start(series), *(w.image(series, k) for k in range(1, 10, 2))]
    events = read(w, *messages, reader=reader)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices == [
        "another client is reading this stream: only 1 of 2 messages arrives here; "
        "stop that client, or let it read a re-publisher"
    ]
    assert sum(event.count for event in events if isinstance(event, Lost)) == 8 * 5
    events = read(w, w.start(9), *(w.image(9, k) for k in range(20)), reader=reader)
    assert [event.text for event in events if isinstance(event, Notice)] == [""]


def test_channels_are_mixed_or_their_choice_is_not_told() -> None:
    w = Version2
    both = ["t1", "t2"]
    start, images = w.start(5, channels=both), [w.image(5, k, channels=both) for k in range(3)]
    events = read(w, start, *images, w.start(6, channels=both), w.start(7, channels=["t1"]))
    assert story(events) == "start notice 0 1 2 cut start cut start over"
    assert isinstance(events[1], Notice)
    assert events[1].text == "of 2 channels only t1 is used, not t2"
    reader = SimplonReader(w.decode, channel="t2")
    events = read(w, start, *images, w.image(5, 3), reader=reader)
    assert story(events) == "start notice 0 1 2 bad3"
    assert isinstance(events[1], Notice) and isinstance(events[-1], Rejected)
    assert events[1].text == "of 2 channels only t2 is used, not t1"
    assert events[-1].reason == "an image has no channel 't2'; it has t1"


def test_a_late_joiner_changes_its_channel() -> None:
    w = Version2
    events = read(
        w,
        w.image(5, 0, channels=["t2", "t1"]),
        w.image(5, 1, channels=["t1", "t2"]),
        w.image(5, 2, channels=["t1"]),
    )
    assert story(events) == "late notice 0 1 bad2"
    assert isinstance(events[1], Notice)
    assert events[1].text == "of 2 channels only t2 is used, not t1"


def test_a_mask_that_is_not_used_is_not_told() -> None:
    w = Version2
    mask = {"t1": cbor2.CBORTag(40, [[3, 4], cbor2.CBORTag(70, bytes(48))])}
    events = read(w, w.start(5, pixel_mask=mask), w.start(6, pixel_mask=mask), w.start(7))
    assert story(events) == "start notice cut start cut start over"
    assert isinstance(events[1], Notice)
    assert events[1].text == (
        "not used: pixel_mask of the start message; the pixels carry what they mark"
    )


def messages(wire: Version) -> st.SearchStrategy[Parts]:
    series, numbers = st.integers(1, 3), st.integers(0, 8)
    return st.one_of(
        st.builds(wire.image, series, numbers),
        st.builds(wire.image, series, numbers, st.just(5)),
        st.builds(wire.image, series, st.sampled_from([500, 5000, 10**7])),
        st.builds(wire.start, series, numbers),
        st.builds(wire.end, series),
        st.lists(st.binary(max_size=40), max_size=3),
        st.just([]),
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data(), version=st.sampled_from([Version1, Version2]))
def test_an_image_is_neither_frame_nor_rejected(data: st.DataObject, version: Version) -> None:
    reader = SimplonReader(version.decode)
    open_series: Series | None = None
    lost = 0
    for parts in data.draw(st.lists(messages(version), max_size=30)):
        if data.draw(st.integers(0, 9)) == 0:
            reader.interrupted()
        events = list(reader.read(parts))
        counted = [event for event in events if isinstance(event, (Frame, Rejected))]
        assert len(counted) <= 1
        if not any(word in part for part in parts for word in (b"start", b"header", b"end")):
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
