"""A SIMPLON stream from a socket: whole, drained, healed, closed; and played by the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zmq
from numpy.typing import NDArray
from ronda.core.codecs import encode_bslz4
from ronda.core.frame import Away, Frame, Lost, Rejected, Series, SeriesEnd, SeriesStart
from ronda.core.runner import Runner
from ronda.core.simulation import source as _simulated  # noqa: F401  (registers the scheme)
from ronda.core.sources import SourceError, open_source
from ronda.core.sources.replay import Fault, FaultKind, Replay, Sent
from ronda.core.sources.simplon import SeriesId
from ronda.core.sources.simplon2 import decode_simplon2
from ronda.core.sources.simplon_sender import as_bslz4, encode_end, encode_image, encode_start
from ronda.core.sources.wires import Simplon2Wire
from ronda.core.sources.zmq_source import HIGH_WATER
from ronda.tests.core.sources.test_simplon2 import BEGAN
from ronda.tests.core.sources.test_simplon_reader import Version1
from ronda.tests.toy import ToyStage
from ronda.tests.waiting import wait_for

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)
FRAMES = 12
pytestmark = pytest.mark.usefixtures("no_thread_left")


@pytest.fixture
def sender() -> Iterator[Callable[..., tuple[zmq.Socket[bytes], str]]]:
    """Return a function that opens a detector's socket and gives where it is."""
    with zmq.Context() as context, ExitStack() as stack:

        def open_sender(address: str = "tcp://127.0.0.1:0") -> tuple[zmq.Socket[bytes], str]:
            socket = stack.enter_context(context.socket(zmq.PUSH))
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDTIMEO, 20_000)
            wait_for(lambda: bound(socket, address))
            return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)

        yield open_sender


def bound(socket: zmq.Socket[bytes], address: str) -> bool:
    try:
        socket.bind(address)
    except zmq.ZMQError:
        return False
    return True


def series_of(count: int, number: int = 1) -> list[list[bytes]]:
    """Return the messages of a series in both ways of writing it."""
    series = SeriesId(number, f"u{number}")
    images = [[encode_image(series, k, as_bslz4(PIXELS + k), BEGAN, 0.1 * k)] for k in range(count)]
    return [[encode_start(series, as_bslz4(PIXELS), count)], *images, [encode_end(series)]]


@pytest.mark.parametrize("scheme", ["simplon1", "simplon2"])
def test_a_series_does_not_arrive_whole(sender: Any, collect: Any, scheme: str) -> None:
    """More than every high-water mark on the way: the sender must not block."""
    socket, address = sender()
    reader = collect(open_source(f"{scheme}+{address}?detector=mine"))
    count = 10 * HIGH_WATER
    first = [Version1.start(1), *(Version1.image(1, k) for k in range(count)), Version1.end(1)]
    for parts in first if scheme == "simplon1" else series_of(count):
        socket.send_multipart(parts)
    wait_for(lambda: reader.of(SeriesEnd))
    frames = reader.of(Frame)
    assert [frame.frame_id for frame in frames] == list(range(count))
    np.testing.assert_array_equal(frames[0].data, PIXELS)
    assert frames[0].series.detector == "mine"
    assert not reader.of(Rejected, Lost)


def test_a_sender_that_comes_back_is_not_heard(sender: Any, collect: Any) -> None:
    socket, address = sender()
    reader = collect(open_source(f"simplon2+{address}"))
    for parts in series_of(3)[:-1]:
        socket.send_multipart(parts)
    wait_for(lambda: len(reader.of(Frame)) == 3)
    socket.close()
    wait_for(lambda: reader.of(Away))
    again, _ = sender(address)
    for parts in series_of(2, number=2):
        again.send_multipart(parts)
    wait_for(lambda: len(reader.of(SeriesEnd)) == 2)
    assert [frame.frame_id for frame in reader.of(Frame)] == [0, 1, 2, 0, 1]
    waiting = f"nobody sends at {address}; waiting for it"
    assert [away.reason for away in reader.of(Away)] == [waiting, ""]
    assert not reader.of(Rejected, Lost)


@pytest.mark.parametrize("scheme", ["simplon1", "simplon2"])
def test_garbage_between_images_ends_the_reading(sender: Any, collect: Any, scheme: str) -> None:
    socket, address = sender()
    reader = collect(open_source(f"{scheme}+{address}"))
    garbage: list[list[bytes]] = [[b""], [b"", b""], [b"\xff" * 50] * 70, [b"{}"], [b"\xa0"]]
    whole = [Version1.start(1), Version1.image(1, 0), Version1.end(1)]
    for parts in [*garbage, *(whole if scheme == "simplon1" else series_of(1))]:
        socket.send_multipart(parts)
    wait_for(lambda: reader.of(SeriesEnd))
    assert len(reader.of(Rejected)) == len(garbage)
    assert len(reader.of(Frame)) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("simplon2+tcp://127.0.0.1", "not of the form simplon2"),
        ("simplon1+tcp://:9999", "not of the form simplon1"),
        ("simplon2+tcp://host:99999", "not of the form simplon2"),
        ("simplon1+tcp://host:1?channel=a", "unknown option 'channel'; known are detector"),
        ("simplon2+tcp://host:1?socket=sub", "unknown option 'socket'"),
        ("simplon2+ipc://path", "unknown source"),
        ("simplon+tcp://host:1", "unknown source"),
    ],
)
def test_a_wrong_address_is_tried(url: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        open_source(url)


# ------------------------------------------------------------------ played


def frames_file(folder: Path, images: NDArray[Any]) -> str:
    path = folder / "frames.h5"
    with h5py.File(path, "w") as file:
        file["data"] = images
    return f"hdf5:{path}"


@pytest.fixture
def replay() -> Iterator[Replay]:
    """A detector on a free port, as fast as it goes."""
    detector = Replay("simplon2+tcp://127.0.0.1:0")
    detector.rate = 1e6
    yield detector
    detector.close()


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_pixels_change_or_frames_are_lost_from_end_to_end(
    dtype: str, replay: Replay, collect: Any, tmp_path: Path
) -> None:
    top = np.iinfo(dtype).max
    images = np.random.default_rng(3).integers(0, top, (10, 61, 47), dtype, endpoint=True)
    images[3] = top
    images[4] = 0
    source = frames_file(tmp_path, images)
    reader = collect(open_source(f"simplon2+{replay.address}"))
    replay.start(source, series=30, filename="/raw/scan-{series}_sim.h5")
    assert replay.wait(30), replay.problem
    wait_for(lambda: len(reader.of(SeriesEnd)) == 30)
    frames = reader.of(Frame)
    assert [frame.frame_id for frame in frames] == [*range(10)] * 30
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.data, images[number % 10])
        assert frame.dtype == dtype
        assert abs(frame.timestamp - frame.received) < 10
    assert not reader.of(Rejected, Lost)
    started = [start.series for start in reader.of(SeriesStart)]
    assert [series.filename for series in started] == [
        f"/raw/scan-{k}_sim.h5" for k in range(1, 31)
    ]
    assert len({series.metadata["series_unique_id"] for series in started}) == 30
    assert {series.metadata["number_of_images"] for series in started} == {10}
    assert started[0].metadata["image_size_x"] == 47


def test_a_reader_that_is_opened_again_joins_in_the_middle(
    replay: Replay, collect: Any, tmp_path: Path
) -> None:
    source = frames_file(tmp_path, np.zeros((50, 3, 4), "u2"))
    replay.rate = 400.0
    first = collect(open_source(f"simplon2+{replay.address}"))
    replay.start(source, series=4)
    wait_for(lambda: len(first.of(Frame)) > 5)
    first.close()
    second = collect(open_source(f"simplon2+{replay.address}"))
    assert replay.wait(30), replay.problem
    wait_for(lambda: second.of(SeriesEnd))
    wait_for(lambda: second.of(Frame)[-1].frame_id == 49)
    assert second.of(SeriesStart)[0].series.joined_late
    assert not second.of(Rejected)


def receive(replay: Replay, source: str, series: int = 1) -> Runner:
    """Let a runner read everything that a detector sends; return it when it has."""
    replay.sent = Sent()
    runner = Runner(ToyStage())
    runner.start(lambda: open_source(f"simplon2+{replay.address}"))
    replay.start(source, series)
    assert replay.wait(20), replay.problem
    wait_for(lambda: runner.ledger.counts == replay.sent.expected)
    runner.stop()
    return runner


@pytest.mark.parametrize("kind", list(FaultKind))
def test_a_receiver_counts_what_was_done_to_the_frames(
    kind: FaultKind, replay: Replay, tmp_path: Path
) -> None:
    numbers = np.arange(FRAMES, dtype=np.uint16)[:, None, None]
    source = frames_file(tmp_path, np.broadcast_to(numbers, (FRAMES, 6, 5)))
    replay.inject(Fault(kind, 5, seconds=0.05))
    runner = receive(replay, source, series=2)
    assert runner.ledger.counts == replay.sent.expected
    assert runner.ledger.counts.received == replay.sent.images
    assert replay.pending == []


def test_frames_are_compressed_for_every_series(tmp_path: Path, monkeypatch: Any) -> None:
    made: list[int] = []

    def counting(pixels: NDArray[Any], header: bool = True) -> bytes:
        made.append(pixels.size)
        return encode_bslz4(pixels, header)

    monkeypatch.setattr("ronda.core.sources.simplon_sender.encode_bslz4", counting)
    detector = Replay("simplon2+tcp://127.0.0.1:0")
    detector.rate = 1e6
    runner = receive(detector, "simulated:zyla?frames=3&repeats=4&rows=70&columns=90", series=5)
    detector.close()
    assert runner.ledger.counts.reduced == 60
    assert len(made) == 3


def test_numbers_of_a_recording_that_begins_late_make_losses(lab6: Path, replay: Replay) -> None:
    """Images are numbered from 0, whatever their numbers were."""
    runner = receive(replay, f"recording:{lab6 / 'lab6-pilatus.cbors.gz'}")
    assert (runner.ledger.counts.reduced, runner.ledger.counts.lost) == (30, 0)
    assert runner.results.filename.endswith("_pilatus.h5")


def test_what_cannot_be_published_is_refused() -> None:
    for url, reason in {
        "simplon2+tcp://127.0.0.1": "not of the form simplon2",
        "simplon2+tcp://127.0.0.1:0?socket=pub": "unknown option 'socket'",
        "simplon1+tcp://127.0.0.1:0": "not of the form stins",
        "simplon2+ipc://x": "not of the form stins",
    }.items():
        with pytest.raises(SourceError, match=reason):
            Replay(url)


def test_a_series_without_images_has_no_start() -> None:
    wire = Simplon2Wire("simplon2+tcp://127.0.0.1:0")
    (message,) = wire.start(Series(1), None, 0, 10.0)
    found = decode_simplon2([message])
    assert found.series.number == 1
