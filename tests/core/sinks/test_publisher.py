"""What is published arrives; what cannot be sent is counted, and nobody ever waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from ronda.core.frame import Encoded, Frame, Lost, Series, SeriesEnd, SeriesStart, new_run_id
from ronda.core.images.photon_parameters import BalorParameters
from ronda.core.sinks.publisher import HIGH_WATER, Publisher, PublishError
from ronda.core.sources import open_source
from ronda.core.stage import Forwarded, Settings
from ronda.tests.waiting import wait_for

IMAGE = np.arange(12, dtype=np.float32).reshape(3, 4)
SETTINGS = Settings(0, BalorParameters())


@pytest.fixture
def publish() -> Iterator[Callable[..., Publisher]]:
    """Return a function that opens a publisher; all are closed at the end."""
    publishers: list[Publisher] = []

    def opened(url: str = "stins+tcp://127.0.0.1:0?socket=push") -> Publisher:
        publishers.append(Publisher(url))
        return publishers[-1]

    yield opened
    for publisher in publishers:
        publisher.close()


def reader_url(publisher: Publisher) -> str:
    return publisher.url.replace("socket=push", "socket=pull").replace("socket=pub", "socket=sub")


def new_series() -> Series:
    return Series(new_run_id(), "balor", "/raw/scan-8_balor.h5", {"energy": 8})


def publish_series(publisher: Publisher, count: int) -> Series:
    series = new_series()
    for number in range(count):
        frame = Frame(series, number, IMAGE, timestamp=1e9 + number, metadata={"discard": 0})
        if number == 0:
            publisher.begin(series, frame, SETTINGS)
        publisher.image(frame, Forwarded(IMAGE * number))
    publisher.finish(series, {})
    return series


def wait_for_reader(publisher: Publisher, reader: Any) -> None:
    """Publish until somebody takes it, and has taken everything."""
    series = new_series()

    def taken() -> bool:
        publisher.image(Frame(series, 0, IMAGE), Forwarded(IMAGE))
        return bool(reader.of(Frame))

    wait_for(taken)
    publisher.finish(series, {})
    wait_for(lambda: reader.of(SeriesEnd))


@pytest.mark.parametrize("url", ["tcp-push", "tcp-pub", "ipc-push", "ipc-pub"])
def test_the_next_device_gets_something_else(
    publish: Any, collect: Any, tmp_path: Path, url: str
) -> None:
    transport, kind = url.split("-")
    place = "127.0.0.1:0" if transport == "tcp" else f"{tmp_path}/p"
    publisher = publish(f"stins+{transport}://{place}?socket={kind}")
    reader = collect(open_source(reader_url(publisher)))
    wait_for_reader(publisher, reader)
    series = publish_series(publisher, 20)
    wait_for(lambda: len(reader.of(SeriesEnd)) == 2)
    started = reader.of(SeriesStart)[-1].series
    frames = [frame for frame in reader.of(Frame) if frame.series is started]
    assert [frame.frame_id for frame in frames] == list(range(20))
    np.testing.assert_array_equal(frames[7].data, IMAGE * 7)
    assert frames[7].timestamp == 1e9 + 7
    assert frames[7].metadata == {"discard": 0}
    assert (started.detector, started.filename) == (series.detector, series.filename)
    assert started.metadata == {"energy": 8, "detector": "balor", "pixel_size": 12e-6}
    numbers = [frame.message_number for frame in frames]
    assert np.all(np.diff(numbers) == 1)
    assert publisher.problem == ""


def test_without_a_reader_it_waits(publish: Any) -> None:
    publisher = publish()
    publish_series(publisher, 50)
    assert (publisher.sent, publisher.dropped) == (0, 52)
    assert publisher.problem == ""


def test_a_series_that_was_joined_late_goes_on_as_one_that_is_not_to_be_saved(
    publish: Any, collect: Any
) -> None:
    publisher = publish()
    reader = collect(open_source(reader_url(publisher)))
    wait_for_reader(publisher, reader)
    late = Series(new_run_id(), joined_late=True)
    publisher.begin(late, Frame(late, 7, IMAGE), SETTINGS)
    publisher.image(Frame(late, 7, IMAGE), Forwarded(IMAGE))
    publisher.finish(late, {})
    wait_for(lambda: len(reader.of(SeriesEnd)) == 2)
    assert reader.of(SeriesStart)[-1].series.joined_late
    assert not reader.of(Lost)


def test_what_was_dropped_is_said_until_reset(publish: Any) -> None:
    publisher = publish()
    assert publisher.notes == ()
    publish_series(publisher, 3)
    assert publisher.notes[0].startswith("5 messages for the next device were dropped at stins+tcp")
    publisher.reset()
    assert (publisher.notes, publisher.dropped) == ((), 5)


def test_drops_show_neither_here_nor_at_the_reader(publish: Any, collect: Any) -> None:
    publisher = publish()
    dropped_before = 40
    publish_series(publisher, dropped_before - 2)
    reader = collect(open_source(reader_url(publisher)))
    wait_for_reader(publisher, reader)
    sent, dropped = publisher.sent, publisher.dropped
    assert dropped >= dropped_before
    publish_series(publisher, 10)
    wait_for(lambda: len(reader.of(SeriesEnd)) == 2)
    assert (publisher.sent, publisher.dropped) == (sent + 12, dropped)
    assert not reader.of(Lost)


def test_a_slow_reader_stops_the_sender(publish: Any) -> None:
    """A reader that connects and never reads: the rest is dropped, not waited for."""
    publisher = publish()
    with zmq.Context() as context, context.socket(zmq.PULL) as slow:
        slow.setsockopt(zmq.RCVHWM, 1)
        slow.connect(publisher.url.removeprefix("stins+").partition("?")[0])
        large = np.zeros((1000, 1000), np.uint16)
        series = new_series()
        count = 0
        while publisher.dropped == 0 or publisher.sent < HIGH_WATER:
            publisher.image(Frame(series, count, large), Forwarded(large))
            count += 1
            assert count < 100_000
        assert publisher.sent + publisher.dropped == count + 1


def test_a_series_without_end_runs_into_the_next(publish: Any, collect: Any) -> None:
    publisher = publish()
    reader = collect(open_source(reader_url(publisher)))
    wait_for_reader(publisher, reader)
    first, second = new_series(), new_series()
    sent = publisher.sent
    publisher.image(Frame(first, 0, IMAGE), Forwarded(IMAGE))
    publisher.image(Frame(second, 0, IMAGE), Forwarded(IMAGE))
    publisher.finish(first, {})
    publisher.image(Frame(second, 1, IMAGE), Forwarded(IMAGE))
    publisher.finish(second, {})
    publisher.finish(second, {})
    wait_for(lambda: len(reader.of(SeriesEnd)) == 3)
    assert [frame.frame_id for frame in reader.of(Frame)][-3:] == [0, 0, 1]
    assert publisher.sent - sent == 3 + 2 * 2


def test_raw_bytes_are_decoded_on_the_way(publish: Any, collect: Any) -> None:
    publisher = publish()
    reader = collect(open_source(reader_url(publisher)))
    wait_for_reader(publisher, reader)
    payload = Encoded(b"x" * 13, (3, 4), np.dtype("u2"), "bslz4")
    frame = Frame(new_series(), 5, payload)
    publisher.image(frame, Forwarded(payload))
    wait_for(lambda: reader.of(Frame)[-1].frame_id == 5)
    assert reader.of(Frame)[-1].payload.codec == "bslz4"


def test_the_image_changes_after_it_was_sent(publish: Any, collect: Any) -> None:
    """A stage may use its buffer again at once."""
    publisher = publish()
    reader = collect(open_source(reader_url(publisher)))
    wait_for_reader(publisher, reader)
    buffer = np.zeros((600, 700))
    series = new_series()
    for number in range(1, 20):
        buffer[:] = number
        publisher.image(Frame(series, number, buffer), Forwarded(buffer))
    buffer[:] = 0
    wait_for(lambda: reader.of(Frame)[-1].frame_id == 19)
    for frame in reader.of(Frame):
        if frame.shape == buffer.shape:
            assert np.all(frame.data == frame.frame_id)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("stins+tcp://127.0.0.1:0?socket=pull", "socket is 'pull', not one of push, pub"),
        ("stins+tcp://127.0.0.1", "not of the form"),
        ("stins+ipc:///no/such/folder/x", "cannot be published at"),
    ],
)
def test_a_wrong_address_is_published_at(url: str, reason: str) -> None:
    with pytest.raises(PublishError, match=reason):
        Publisher(url)


def test_an_address_is_used_twice(publish: Any) -> None:
    publisher = publish()
    with pytest.raises(PublishError, match="Address already in use"):
        Publisher(publisher.url)


def test_what_cannot_be_sent_raises(publish: Any) -> None:
    publisher = publish()
    publisher.image(Frame(new_series(), 0, IMAGE, metadata={(1, 2): 3}), Forwarded(IMAGE))
    assert "a message cannot be published at stins+tcp" in publisher.problem
    assert (publisher.sent, publisher.dropped) == (0, 2)
    publisher.close()
    publisher.image(Frame(new_series(), 0, IMAGE), Forwarded(IMAGE))
    assert publisher.dropped == 5


def test_closing_twice_fails(publish: Any) -> None:
    publisher = publish()
    publisher.image(Frame(new_series(), 0, IMAGE), Forwarded(IMAGE))
    publisher.close()
    publisher.close()
    assert publisher.sent + publisher.dropped == 3
