"""Ctrl-C, or a signal to end, in the middle of a run leaves a file with what was done."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.sources.replay import Fault, Replay
from ronda.tests.clients.commands import RONDA, interrupted, started
from ronda.tests.waiting import wait_for

FRAMES = 12


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.ones((FRAMES, 8, 9), np.int32)
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Replay]:
    """A detector that falls silent before its last frame."""
    replay = Replay(f"stins+ipc://{tmp_path}/detector?socket=push")
    replay.inject(Fault.parse(f"stall {FRAMES - 1} 600"))
    yield replay
    replay.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_file_with_what_was_done(
    frames: Path, detector: Replay, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.h5"
    source = f"stins+ipc://{tmp_path}/detector?socket=pull"
    detector.start(f"hdf5:{frames}")
    with started(*RONDA, "run", "pilatus", "--source", source, "--output", out) as process:
        wait_for(out.exists, 60)
        err = interrupted(process, number)
    ledger = re.search(r"(\d+) frames received = (\d+) reduced \+ 0 rejected \+ 0 dropped", err)
    assert ledger, err
    reduced = int(ledger[2])
    assert 0 < reduced == int(ledger[1])
    assert f"written: {out}" in err
    with h5py.File(out) as file:
        assert file["entry/accumulated/sum"].attrs["frames"] == reduced
        assert np.all(file["entry/accumulated/sum"][()] == reduced)
