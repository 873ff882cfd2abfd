"""A writer of files, where they go, and a disk that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.stage import Stage
from ronda.tests.core.sinks.writing import ToyStage


@pytest.fixture
def write(tmp_path: Path, no_thread_left: None) -> Iterator[Callable[..., NexusWriter]]:
    """Return a function that opens a writer; all are closed, and their processes ended."""
    writers: list[NexusWriter] = []

    def opened(stage: Stage[Any, Any] | None = None, **options: Any) -> NexusWriter:
        options.setdefault("state_directory", tmp_path / "state")
        writers.append(NexusWriter(**options))
        writers[-1].open(stage or ToyStage())
        return writers[-1]

    yield opened
    for writer in writers:
        pid = writer.writer_pid
        writer.close()
        assert pid is None or not Path(f"/proc/{pid}").exists(), "the file writer is still there"


@pytest.fixture
def raw(tmp_path: Path) -> str:
    """Name of a raw file in a visit's folder that exists."""
    (tmp_path / "visit" / "raw").mkdir(parents=True)
    return str(tmp_path / "visit" / "raw" / "scan-0001_pilatus.h5")


@pytest.fixture
def reduced(raw: str, request: pytest.FixtureRequest) -> Path:
    """Where its reduced file goes; the test's module names the STAGE unless it is the toy."""
    stage = getattr(request.module, "STAGE", ToyStage)
    return Path(raw.replace("/raw/", "/process/")).with_name(f"scan-0001_pilatus_{stage.name}.h5")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB with a folder `raw`; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here (needs root)")
    (folder / "raw").mkdir()
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
