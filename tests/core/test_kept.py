"""The newest kept file is found, older ones go, and nothing else is touched or half written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from ronda.core.kept import Kept

KILLED = """
import os, signal, sys
from pathlib import Path
from ronda.core.kept import Kept
def write(file):
    file.write(b"x" * 100_000)
    os.kill(os.getpid(), signal.SIGKILL)
Kept("list", ".csv").add(Path(sys.argv[1]), write)
"""
LISTS = Kept("list", ".csv")


def holding(text: str) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(text.encode())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_wrong_files_are_removed(tmp_path: Path) -> None:
    folder, link = tmp_path / "state", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    others = ["list-mine.csv", "list-2026.csv", f"list-{1:020d}.npz", f"lists-{1:020d}.csv"]
    for name in others:
        (folder / name).write_text("somebody's")
    assert LISTS.newest(folder) is None
    first, second, third = (LISTS.add(folder, holding(text)) for text in "abc")
    assert LISTS.newest(folder) == third
    LISTS.remove_older(folder, in_use=str(link / first.name))
    assert names(folder) == sorted([*others, first.name, third.name])
    assert not second.exists() and third.read_text() == "c"
    LISTS.remove_older(folder)
    assert names(folder) == sorted([*others, third.name])
    LISTS.remove_older(folder, in_use=str(third))
    assert third.exists()


def test_a_clock_that_was_set_back_makes_the_new_file_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LISTS.add(tmp_path, holding("a"))
    monkeypatch.setattr(time, "time_ns", lambda: 12345)
    second = LISTS.add(tmp_path, holding("b"))
    assert LISTS.newest(tmp_path) == second != first
    assert second.read_text() == "b"


def test_a_file_that_could_not_be_written_leaves_a_part_or_takes_the_old_one(
    tmp_path: Path,
) -> None:
    kept = LISTS.add(tmp_path, holding("whole"))

    def fails_halfway(file: BinaryIO) -> None:
        file.write(b"par")
        raise ValueError("cannot be written")

    with pytest.raises(ValueError, match="cannot be written"):
        LISTS.add(tmp_path, fails_halfway)
    assert names(tmp_path) == [kept.name] and kept.read_text() == "whole"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_noticed_only_after_the_old_file_is_gone(tmp_path: Path) -> None:
    kept = LISTS.add(tmp_path, holding("whole"))
    (tmp_path / "list.csv.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        LISTS.add(tmp_path, holding("more"))
    assert names(tmp_path) == [kept.name] and kept.read_text() == "whole"


def test_a_draft_that_a_kill_left_stays_for_ever_or_is_taken_for_a_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["list.csv.new"] and LISTS.newest(tmp_path) is None
    kept = LISTS.add(tmp_path, holding("whole"))
    assert names(tmp_path) == [kept.name] and kept.read_text() == "whole"
