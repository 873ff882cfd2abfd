"""The simulated detector counts exactly what it sent, whatever it did to the frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame
from ronda.core.positions import Position, ScanEnd, ScanPoint, ScanStart
from ronda.core.runner import Runner
from ronda.core.sources import hdf5, sardana, stins_socket  # noqa: F401  (registers the schemes)
from ronda.core.sources.base import SourceError, open_source
from ronda.core.sources.replay import Fault, FaultKind, Replay, Sent, sardana_document
from ronda.core.sources.sardana import parse_sardana
from ronda.tests.toy import ToyStage
from ronda.tests.waiting import wait_for

FRAMES = 12
pytestmark = pytest.mark.usefixtures("no_thread_left")


@pytest.fixture
def frames_file(tmp_path: Path) -> Path:
    """A file of frames whose pixels are all their frame number."""
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        numbers = np.arange(FRAMES, dtype=np.uint16)
        file["data"] = np.broadcast_to(numbers[:, None, None], (FRAMES, 6, 5))
    return path


@pytest.fixture
def replay() -> Iterator[Replay]:
    """A detector on a free port, as fast as it goes."""
    detector = Replay("stins+tcp://127.0.0.1:0")
    detector.rate = 1e6
    yield detector
    detector.close()


class RecordingStage(ToyStage):
    """Notes the numbers of the frames it reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def reduce(self, frame: Frame, partial: float, settings: Any) -> Any:
        self.seen.append(frame.frame_id)
        return super().reduce(frame, partial, settings)


def receive(replay: Replay, source: str, series: int = 1, **options: Any) -> Runner:
    """Let a runner read everything that a detector sends; return it when it has."""
    replay.sent = Sent()
    runner = Runner(RecordingStage())
    runner.start(lambda: open_source(f"stins+{replay.address}"))
    replay.start(source, series, **options)
    assert replay.wait(20), replay.problem
    wanted = replay.sent.expected
    wait_for(lambda: runner.ledger.counts == wanted)
    runner.stop()
    return runner


@pytest.mark.parametrize("kind", list(FaultKind))
def test_a_receiver_counts_what_was_done_to_the_frames(
    kind: FaultKind, replay: Replay, frames_file: Path
) -> None:
    replay.inject(Fault(kind, 5, seconds=0.05))
    runner = receive(replay, f"hdf5:{frames_file}", series=2)
    assert runner.ledger.counts == replay.sent.expected
    assert replay.sent.images == 2 * FRAMES + {FaultKind.DROP: -1, FaultKind.DUPLICATE: 1}.get(
        kind, 0
    )
    assert replay.pending == []
    whole = list(range(FRAMES))
    once = {
        FaultKind.REORDER: [*whole[:5], 6, 5, *whole[7:]],
        FaultKind.DUPLICATE: whole,
        FaultKind.STALL: whole,
    }.get(kind, [*whole[:5], *whole[6:]])
    assert runner.stage.seen == once + whole


def test_all_faults_at_once_leave_the_ledger_balanced(replay: Replay, frames_file: Path) -> None:
    for frame, kind in enumerate(FaultKind, start=2):
        replay.inject(Fault(kind, frame, seconds=0.01))
    runner = receive(replay, f"hdf5:{frames_file}", series=3)
    sent = replay.sent
    assert sent.series == 3
    assert (sent.dropped, sent.duplicated, sent.truncated, sent.misshapen) == (1, 1, 1, 1)
    assert (sent.reordered, sent.stalls) == (1, 1)
    assert runner.ledger.counts == sent.expected


def test_the_last_frame_held_back_is_not_forgotten(replay: Replay, frames_file: Path) -> None:
    replay.inject(Fault(FaultKind.REORDER, FRAMES - 1))
    assert receive(replay, f"hdf5:{frames_file}").ledger.counts.reduced == FRAMES


def test_headers_carry_the_name_that_was_asked_for(replay: Replay, frames_file: Path) -> None:
    runner = receive(replay, f"hdf5:{frames_file}", series=2, filename="/raw/scan-{series}_sim.h5")
    assert runner.results.filename == "/raw/scan-2_sim.h5"
    assert runner.results.scan_number == 2
    assert receive(replay, f"hdf5:{frames_file}", filename="").results.filename == ""
    assert receive(replay, f"hdf5:{frames_file}").results.filename == str(frames_file)
    assert runner.results.latency_from == "detector"


def test_a_series_that_is_aborted_has_no_end_and_the_next_one_is_whole(
    replay: Replay, frames_file: Path
) -> None:
    runner = Runner(RecordingStage())
    runner.start(lambda: open_source(f"stins+{replay.address}"))
    replay.rate = 50.0
    replay.start(f"hdf5:{frames_file}", series=0)
    wait_for(lambda: runner.ledger.counts.reduced >= 3)
    replay.stop(end=False)
    assert replay.wait(10)
    cut = replay.sent.images
    replay.rate = 1e6
    replay.start(f"hdf5:{frames_file}")
    replay.wait()
    wait_for(lambda: runner.ledger.counts == replay.sent.expected)
    runner.stop()
    assert runner.stage.seen[cut:] == list(range(FRAMES))


def test_without_a_reader_it_waits_and_can_be_stopped(replay: Replay, frames_file: Path) -> None:
    replay.start(f"hdf5:{frames_file}")
    assert not replay.wait(0.2)
    replay.stop()
    assert replay.wait(10)
    assert replay.sent.images == 0


def test_scan_records_are_posted_as_sardana_does() -> None:
    positions: tuple[Position, ...] = (
        ScanStart(7, ("mot",), "ascan", metadata={"counters": ["c"]}),
        ScanPoint(2, {"mot": 1.0}),
        ScanPoint(3, {"mot": 1.5, "nb_frames": 6.0}, frames=6),
        ScanEnd(),
    )
    for position in positions:
        path, document = sardana_document(position)
        kind = sardana.KINDS[path]
        assert parse_sardana(document, kind=kind) == position


def test_positions_of_a_recording_arrive_with_its_frames(lab6: Path) -> None:
    server = open_source("sardana+http://127.0.0.1:0")
    detector = Replay("stins+tcp://127.0.0.1:0", f"sardana+http://127.0.0.1:{server.port}")
    detector.rate = 1e6
    names = ("lab6-pilatus.cbors.gz", "lab6-sardana.cbors")
    runner = receive(detector, "recording:" + ",".join(str(lab6 / name) for name in names))
    detector.close()
    assert detector.problem == ""
    assert runner.ledger.counts.reduced == 30
    events = server.events()
    posted = [next(events) for _ in range(7)]
    server.close()
    points = [event for event in posted if isinstance(event, ScanPoint)]
    assert [point.values["dummy_mot_01"] for point in points] == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert {point.frames for point in points} == {6}
    assert detector.sent.positions == 7


def test_a_receiver_of_positions_that_is_not_there_is_told_and_frames_go_on(
    lab6: Path, free_port: int
) -> None:
    detector = Replay("stins+tcp://127.0.0.1:0", f"sardana+http://127.0.0.1:{free_port}")
    detector.rate = 1e6
    names = ("lab6-pilatus.cbors.gz", "lab6-sardana.cbors")
    runner = receive(detector, "recording:" + ",".join(str(lab6 / name) for name in names))
    detector.close()
    assert runner.ledger.counts.reduced == 30
    assert "could not be posted" in detector.problem


@pytest.mark.parametrize("text", ["", "drop", "drop x", "drop -1", "explode 3", "stall 3 x 4"])
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no fault: write one of drop, duplicate"):
        Fault.parse(text)


def test_faults_are_read_from_text() -> None:
    assert Fault.parse("drop 5") == Fault(FaultKind.DROP, 5)
    assert Fault.parse("stall 0 2.5") == Fault(FaultKind.STALL, 0, 2.5)
    assert str(Fault.parse("shape 7")) == "shape 7"


def test_what_cannot_be_replayed_or_published_is_refused(replay: Replay, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        replay.start(f"hdf5:{tmp_path / 'nothing.h5'}")
    with pytest.raises(SourceError, match="only files can be replayed"):
        replay.start("stins+tcp://127.0.0.1:1")
    with pytest.raises(SourceError, match="cannot be published at"):
        Replay(f"stins+{replay.address}")
    with pytest.raises(SourceError, match="not of the form sardana"):
        Replay("stins+tcp://127.0.0.1:0", "http://127.0.0.1:1")
