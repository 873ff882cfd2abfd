"""Nobody changes anything unseen: the log of changes is bounded, whole and survives."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.history import ENTRIES, FILE_BYTES, LINE, History, difference
from ronda.core.runner import Runner
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sources import open_source
from ronda.tests.toy import ToyStage


def test_it_is_known_after_a_restart(tmp_path: Path) -> None:
    History(tmp_path / "history.log").add("anna", "Start")
    again = History(tmp_path / "history.log")
    again.add("", "started")
    before, after = again.lines
    assert before.endswith("Z anna: Start")
    assert after.endswith("Z the device itself: started")


def test_a_text_with_line_ends_cannot_forge_an_entry(tmp_path: Path) -> None:
    history = History(tmp_path / "history.log")
    history.add("anna", "AddRoi a\n2026-01-01T00:00:00Z bert: Stop")
    assert len(History(tmp_path / "history.log").lines) == len(history.lines) == 1


def test_memory_and_disk_are_bounded(tmp_path: Path) -> None:
    history = History(tmp_path / "history.log")
    for number in range(2 * FILE_BYTES // LINE + ENTRIES):
        history.add("anna", f"{number} {'x' * 10 * LINE}")
    assert len(history.lines) == ENTRIES
    assert max(map(len, history.lines)) == LINE
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < FILE_BYTES + 2 * LINE
    assert len(History(tmp_path / "history.log").lines) > 0


@pytest.mark.parametrize("content", [b"\xff\xfe\x00broken", b"x" * (3 * FILE_BYTES)])
def test_a_damaged_log_does_not_keep_a_device_from_starting(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.log").write_bytes(content)
    history = History(tmp_path / "history.log")
    history.add("anna", "Start")
    assert history.lines[-1].endswith("anna: Start")


def test_a_full_disk_leaves_it_in_memory() -> None:
    history = History(Path("/dev/full/history.log"))
    history.add("anna", "Start")
    assert history.lines[0].endswith("anna: Start")


def test_a_change_tells_the_value_before_and_after() -> None:
    before, after = {"a": 1, "b": [1, 2], "c": "x"}, {"a": 2, "b": [1, 2], "c": None}
    assert difference(before, after) == 'a 1 -> 2, c "x" -> null'


def test_a_file_tells_who_changed_what(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = np.ones((3, 4, 4), np.uint16)
    writer = NexusWriter(output_file=tmp_path / "out.h5")
    runner = Runner(ToyStage(), sinks=[writer])
    runner.configure({"gain": 3}, "anna")
    runner.start(lambda: open_source(f"hdf5:{tmp_path}/frames.h5"))
    runner.wait()
    runner.close()
    with h5py.File(tmp_path / "out.h5") as file:
        lines = file["entry/process/history"].asstr()[()].tolist()
    assert lines == runner.history.lines
    assert "anna: parameters 1: gain" in lines[0]
