"""A long replay neither grows nor loses count: a minute in `make test`, longer in `make soak`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from ronda.core.images.pilatus import PilatusStage
from ronda.core.runner import Runner
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sources import open_source
from ronda.core.sources.replay import Replay
from ronda.tests.waiting import wait_for

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
FRAMES, SHAPE, RATE = 1000, (128, 128), 200.0
GROWTH = 64 << 20
"""Bytes that memory may grow by after the first third: 1 kB a frame would show in ten minutes."""


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Replay]:
    """A detector that sends series after series."""
    frames = tmp_path / "frames.h5"
    with h5py.File(frames, "w") as file:
        file["data"] = np.random.default_rng(0).poisson(1, (FRAMES, *SHAPE)).astype(np.int32)
    replay = Replay(f"stins+ipc://{tmp_path}/detector?socket=push")
    replay.rate = RATE
    replay.start(f"hdf5:{frames}", 0, "/nowhere/scan-{series}_pilatus.h5")
    yield replay
    replay.close()


class Watch:
    """What the process takes, now and at its most since the first third."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.memory, self.files, self.threads = self.now()

    def now(self) -> tuple[int, int, int]:
        """Return bytes of memory, open files, threads."""
        memory = self._process.memory_info().rss
        return memory, self._process.num_fds(), threading.active_count()

    def grown(self) -> tuple[int, int, int]:
        """Return how much more they are than at the beginning of the watch."""
        memory, files, threads = self.now()
        return memory - self.memory, files - self.files, threads - self.threads


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 120)
def test_a_long_replay_neither_grows_nor_loses_count(detector: Replay, tmp_path: Path) -> None:
    roi = {"x": 10, "y": 10, "width": 20, "height": 20}
    parameters = PilatusStage.Parameters(rois={"a": roi}, ring_bytes=8 << 20, history_frames=FRAMES)
    writer = NexusWriter(output_root=tmp_path, state_directory=tmp_path / "state")
    runner = Runner(PilatusStage(), parameters, [writer], workers=2)
    end = time.monotonic() + SECONDS
    runner.start(lambda: open_source(f"stins+ipc://{tmp_path}/detector?socket=pull"))
    wait_for(lambda: time.monotonic() > end - SECONDS * 2 / 3, SECONDS)
    watch = Watch()
    wait_for(lambda: time.monotonic() > end, SECONDS)
    memory, files, threads = watch.grown()
    detector.stop()
    detector.wait()
    wait_for(lambda: runner.ledger.counts.received == detector.sent.images)
    runner.close()
    counts = runner.ledger.counts
    sys.stderr.write(
        f"\n{SECONDS:.0f} s: {counts.reduced} frames in {detector.sent.series} series; "
        f"grown by {memory / 1e6:.1f} MB, {files} open files, {threads} threads\n"
    )
    assert counts.reduced == counts.received == detector.sent.images
    assert counts.lost == 0
    assert runner.stage.value("accumulated_frames") == counts.reduced
    assert writer.problem == ""
    assert len(list(tmp_path.glob("scan-*.h5"))) == detector.sent.series
    assert memory < GROWTH
    assert files <= 4, "files or sockets are left open"
    assert threads <= 1, "threads are left behind"
