"""A live stream is drained, survives its sender, and leaves nothing behind when closed."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from ronda.core.frame import Away, Frame, Rejected, SeriesEnd, SeriesStart
from ronda.core.sources import SourceError, open_source
from ronda.core.sources.stins import Part, encode_end, encode_header, encode_image
from ronda.core.sources.zmq_source import HIGH_WATER
from ronda.tests.waiting import wait_for

IMAGE = np.arange(12, dtype=np.uint16).reshape(3, 4)


@pytest.fixture
def sender() -> Iterator[Callable[..., tuple[zmq.Socket[bytes], str]]]:
    """Return a function that opens a detector's socket and gives the URL to read it."""
    with zmq.Context() as context, ExitStack() as stack:

        def open_sender(
            kind: int = zmq.PUSH, address: str = "tcp://127.0.0.1:0"
        ) -> tuple[zmq.Socket[bytes], str]:
            socket = stack.enter_context(context.socket(kind))
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDTIMEO, 20_000)
            bind(socket, address)
            query = "?socket=sub" if kind == zmq.PUB else ""
            return socket, f"stins+{socket.getsockopt_string(zmq.LAST_ENDPOINT)}{query}"

        yield open_sender


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind, once the socket that was there before is gone."""

    def bound() -> bool:
        try:
            socket.bind(address)
        except zmq.ZMQError:
            return False
        return True

    wait_for(bound)


def series_of(count: int, first: int = 0) -> list[Sequence[Part]]:
    images = [encode_image(first + 1 + k, k, IMAGE + k) for k in range(count)]
    return [encode_header(first, "/raw/scan-5_x.h5"), *images, encode_end(first + 1 + count)]


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_series_does_not_arrive_whole(
    sender: Any, collect: Any, tmp_path: Path, transport: str
) -> None:
    address = "tcp://127.0.0.1:0" if transport == "tcp" else f"ipc://{tmp_path}/s"
    socket, url = sender(zmq.PUSH, address)
    reader = collect(open_source(f"{url}?detector=pilatus"))
    for parts in series_of(100):
        socket.send_multipart(parts)
    wait_for(lambda: reader.of(SeriesEnd))
    frames = reader.of(Frame)
    assert [frame.frame_id for frame in frames] == list(range(100))
    np.testing.assert_array_equal(frames[70].data, IMAGE + 70)
    assert frames[0].series.detector == "pilatus"
    assert not frames[0].data.flags.writeable


def test_a_subscriber_hears_nothing(sender: Any, collect: Any) -> None:
    socket, url = sender(zmq.PUB)
    reader = collect(open_source(url))
    number = 0
    while not reader.of(Frame):
        socket.send_multipart(encode_image(number, number, IMAGE))
        number += 1
        reader.thread.join(0.01)
    assert reader.of(SeriesStart)[0].series.joined_late


def test_a_reader_stops_draining_while_nobody_looks(sender: Any, collect: Any) -> None:
    """More than every high-water mark on the way: the sender must not block."""
    socket, url = sender()
    reader = collect(open_source(url))
    for parts in series_of(20 * HIGH_WATER):
        socket.send_multipart(parts)
    wait_for(lambda: len(reader.of(Frame)) == 20 * HIGH_WATER)


def test_a_sender_that_comes_back_is_not_heard(sender: Any, collect: Any) -> None:
    socket, url = sender()
    reader = collect(open_source(url))
    for parts in series_of(3)[:-1]:
        socket.send_multipart(parts)
    wait_for(lambda: len(reader.of(Frame)) == 3)
    socket.close()
    again, _ = sender(zmq.PUSH, url.removeprefix("stins+"))
    for parts in series_of(2):
        again.send_multipart(parts)
    wait_for(lambda: len(reader.of(SeriesEnd)) == 2)
    assert [frame.frame_id for frame in reader.of(Frame)] == [0, 1, 2, 0, 1]


def test_an_absent_sender_is_not_named(sender: Any, collect: Any) -> None:
    socket, url = sender()
    socket.close()
    reader = collect(open_source(url))
    wait_for(lambda: reader.of(Away))
    socket, _ = sender(zmq.PUSH, url.removeprefix("stins+"))
    wait_for(lambda: len(reader.of(Away)) == 2)
    socket.close()
    wait_for(lambda: len(reader.of(Away)) == 3)
    waiting = f"nobody sends at {url.removeprefix('stins+')}; waiting for it"
    assert [away.reason for away in reader.of(Away)] == [waiting, "", waiting]


def test_frames_of_a_sender_that_came_back_without_a_header_are_duplicates(
    sender: Any, collect: Any
) -> None:
    socket, url = sender(zmq.PUB)
    reader = collect(open_source(url))
    number = 500
    while len(reader.of(Frame)) < 20:
        socket.send_multipart(encode_image(number, number, IMAGE))
        number += 1
        reader.thread.join(0.01)
    before = len(reader.of(Frame))
    socket.close()
    again, _ = sender(zmq.PUB, url.removeprefix("stins+").partition("?")[0])
    number = 0
    while len(reader.of(Frame)) < before + 5:
        again.send_multipart(encode_image(number, number, IMAGE))
        number += 1
        reader.thread.join(0.01)
    assert not reader.of(Rejected)
    assert [start.series.joined_late for start in reader.of(SeriesStart)][:2] == [True, True]


def test_garbage_between_frames_ends_the_reading(sender: Any, collect: Any) -> None:
    socket, url = sender()
    reader = collect(open_source(url))
    garbage: list[list[bytes]] = [[b""], [b"", b""], [b"\xff" * 50] * 70, [b"{}"], [b"null", b"x"]]
    for parts in [*garbage, *series_of(1)]:
        socket.send_multipart(parts)
    wait_for(lambda: reader.of(SeriesEnd))
    assert len(reader.of(Rejected)) == len(garbage)
    assert len(reader.of(Frame)) == 1


def test_closing_leaves_threads_or_files() -> None:
    def cycle() -> None:
        source = open_source("stins+tcp://127.0.0.1:9")
        thread = threading.Thread(target=lambda: list(source.events()))
        thread.start()
        source.close()
        thread.join(10)
        assert not thread.is_alive()

    cycle()
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    for _ in range(8):
        cycle()
    gc.collect()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    assert files <= before[0]
    assert threads <= before[1]


def test_a_source_closed_before_it_is_read_waits_for_ever() -> None:
    source = open_source("stins+tcp://127.0.0.1:9")
    source.close()
    assert list(source.events()) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("stins+tcp://127.0.0.1", "not of the form stins"),
        ("stins+tcp://:9999", "not of the form stins"),
        ("stins+tcp://host:port", "not of the form stins"),
        ("stins+tcp://host:99999", "not of the form stins"),
        ("stins+ipc://", "not of the form stins"),
        ("stins+ipc://" + "x" * 200, "at most 100"),
        ("stins+tcp://host:1?socket=req", "socket is 'req', not one of pull, sub"),
        ("stins+tcp://host:1?sockt=sub", "unknown option 'sockt'; known are socket, detector"),
        ("stins+udp://host:1", "unknown source"),
    ],
)
def test_a_wrong_address_is_tried(url: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        open_source(url)


def test_an_address_that_cannot_be_connected_ends_in_a_zmq_error() -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        list(open_source("stins+tcp://bad host name:1").events())
