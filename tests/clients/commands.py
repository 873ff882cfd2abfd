"""The `ronda` command in tests, and the images that it is given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import typer
from numpy.typing import NDArray
from ronda.clients.cli.main import app

Said = Callable[..., tuple[int, str, str]]
"""Carries out a command line within the test's process: status, stdout, stderr."""
RONDA = (sys.executable, "-m", "ronda.clients.cli.main")
"""The command, for a process of its own."""


def refusal(said: Said, *arguments: object) -> str:
    """Return the one sentence with which a command line is refused; it changes no file here."""
    before = _changes()
    status, out, err = said(*arguments)
    assert (status, out) == (2, ""), err
    assert err.startswith("ronda: ")
    assert len(err.splitlines()) == 1, err
    assert _changes() == before
    return err


def _changes() -> dict[Path, int]:
    """Return when each file in this folder was changed."""
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}


def started(*line: object) -> subprocess.Popen[str]:
    """Start a program in a session of its own: a signal reaches all of it, as a terminal's does."""
    return subprocess.Popen(
        [str(word) for word in line], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Interrupt what was started, which says so by its status; return what it said."""
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    return err


def carried_out(*line: object) -> str:
    """Return what a program says that does not fail."""
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def offered(typed: str) -> set[str]:
    """Return what the shell offers after TAB, behind these words."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    environment = {**os.environ, **words, "_RONDA_COMPLETE": "complete_bash"}
    done = subprocess.run(RONDA, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def options_of(command: str) -> set[str]:
    """Return the options of a command."""
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    context = found.make_context(command, [], resilient_parsing=True)
    return {name for each in found.get_params(context) for name in each.opts}


def write_many(path: Path, count: int, image: Callable[[int], NDArray[Any]]) -> Path:
    """Write frames by number into an HDF5 file, one by one, each in a chunk of its own."""
    first = image(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", (count, *first.shape), first.dtype, chunks=(1, *first.shape)
        )
        for number in range(count):
            data[number] = image(number)
    return path
