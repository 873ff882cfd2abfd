"""Programs that end by themselves are started again, but never in a rush."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from ronda.devices import supervision
from ronda.devices.process import Process, ProcessError, left_dead
from ronda.devices.supervision import Supervisor
from ronda.tests.waiting import wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervision, "LONGEST_PAUSE", 0.05)


def program(tmp_path: Path, code: str) -> Process:
    return Process("the program", [sys.executable, "-c", code], tmp_path / "log", {})


def told(supervisor: Supervisor, number: int) -> list[str]:
    """Let the program end so often; return what is told meanwhile."""
    said: list[str] = []

    def look() -> bool:
        said.extend(filter(None, [supervisor.look()]))
        return len(said) >= number

    wait_for(look)
    return said


def pauses(said: list[str]) -> list[float]:
    found = [re.search(r"it is started again in ([\d.]+) s$", sentence) for sentence in said]
    return [float(one[1]) for one in found if one]


def test_a_program_that_ends_at_once_is_started_without_a_pause(tmp_path: Path) -> None:
    supervisor = Supervisor(program(tmp_path, "raise SystemExit('no such detector')"))
    said = told(supervisor, 5)
    assert pauses(said) == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert "the program ended with 1: no such detector" in said[-1]
    assert (tmp_path / "log").read_text().count("no such detector") == 5


def test_a_program_that_ran_well_for_long_waits_as_long_as_one_that_never_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "STEADY", 0.0)
    assert pauses(told(Supervisor(program(tmp_path, "")), 3)) == [0.01, 0.01, 0.01]


def test_an_end_is_told_with_what_was_said_in_an_earlier_life(tmp_path: Path) -> None:
    once = tmp_path / "once"
    code = f"import pathlib; once = pathlib.Path({str(once)!r}); "
    code += "once.exists() or print('first'); once.touch()"
    said = told(Supervisor(program(tmp_path, code)), 2)
    assert "ended with 0: first" in said[0]
    assert "ended with 0: it said nothing" in said[1]


def test_a_program_that_is_gone_ends_the_supervision(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{sys.executable}\nraise SystemExit('here')\n")
    script.chmod(0o700)
    process = Process("the program", [script], tmp_path / "log", {})
    supervisor = Supervisor(process)
    assert "here" in told(supervisor, 1)[0]
    script.rename(tmp_path / "away")
    assert "script cannot be run: No such file or directory; it is" in told(supervisor, 1)[0]
    (tmp_path / "away").rename(script)
    assert "ended with 1: here" in told(supervisor, 1)[0]


def test_an_answer_of_another_program_is_taken_for_that_of_one_that_has_ended(
    tmp_path: Path,
) -> None:
    process = program(tmp_path, "raise SystemExit('it is running already')")
    wait_for(lambda: process.ended)
    with pytest.raises(ProcessError, match="the program ended with 1: it is running already"):
        process.wait_until(lambda: True, 30)


def test_a_signal_while_programs_are_killed_keeps_the_rest_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [program(tmp_path, "import time; time.sleep(600)") for _ in range(3)]

    def interrupted(process: Process) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), left_dead(programs):
        patch.setattr(Process, "kill", interrupted)
        raise KeyboardInterrupt
    assert [process.stop() for process in programs] == 3 * [-9]
