"""A stage with every form of output, series that are written, and writers that are disturbed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series, new_run_id
from ronda.core.parameters import Parameters, parameter
from ronda.core.sinks import layout, seriesfile
from ronda.core.sinks.columns import columns
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sinks.seriesfile import END_NOTE, END_TIME
from ronda.core.sinks.tables import Table
from ronda.core.sinks.wire import fixed_text
from ronda.core.stage import SLOTS, Kind, Output, Record, Row, Settings, Stage, Tree
from ronda.tests.waiting import wait_for

ROIS = ("peak", "background")


class ToyParameters(Parameters):
    threshold: float = parameter(12.0, "Threshold.", unit="counts")
    pixel_size: float = parameter(172e-6, "Pixel size.", unit="m")
    rois: dict[str, list[int]] = parameter({"peak": [1, 2, 3, 4]}, "Regions.")
    mask: str | None = parameter(None, "Mask file.")
    weights: list[float] = parameter([1.0, 2.0], "Weights.")


class ToyStage(Stage[ToyParameters, Any]):
    """Sums frames, and gives two ROIs and a spectrum per frame."""

    name = "toy"
    title = "Toy"
    Parameters = ToyParameters
    outputs = (
        Output("sum", Kind.IMAGE, "i8", "counts", path="accumulated/sum", record=Record.SERIES),
        Output("q", Kind.SPECTRUM, "f8", "1/nm", path="azimuthal/q", record=Record.SERIES),
        Output("intensity", Kind.SPECTRUM, "f8", path="azimuthal/intensity", record=Record.SERIES),
        Output("summed", Kind.SCALAR, "i8", path="accumulated/n", record=Record.SERIES),
        Output("roi_names", Kind.TEXTS, path="rois/names", record=Record.SERIES),
        Output("frame", Kind.SCALAR, "i8", path="frames/frame", record=Record.FRAME),
        Output("total", Kind.SCALAR, "f8", "counts", path="frames/total", record=Record.FRAME),
        Output("profile", Kind.SPECTRUM, "f4", path="frames/profile", record=Record.FRAME),
        Output("roi_time", Kind.SPECTRUM, "f8", "s", path="rois/{slot}/time", record=Record.FRAME),
        Output("roi_mean", Kind.SPECTRUM, "f8", path="rois/{slot}/mean", record=Record.FRAME),
        Output("roi_n", Kind.SPECTRUM, "u4", path="rois/{slot}/n", record=Record.FRAME),
    )
    groups: Mapping[str, Mapping[str, Any]] = {  # type: ignore[misc]
        "accumulated": {"NX_class": "NXdata", "signal": "sum", "frames": 0},
        "azimuthal": {"NX_class": "NXdata", "signal": "intensity", "axes": ["q"]},
        "rois/{slot}": {"NX_class": "NXdata", "signal": "mean", "axes": ["time"]},
    }

    def __init__(self, shape: tuple[int, int] = (40, 50)) -> None:
        super().__init__()
        self.sum = np.zeros(shape, np.int64)
        self.summed = 0

    def map(self, frame: Frame, parameters: ToyParameters) -> Any:
        return frame.data

    def reduce(self, frame: Frame, partial: Any, settings: Settings) -> Row:
        self.sum += partial
        self.summed += 1
        mean = np.full(SLOTS, np.nan)
        mean[: len(ROIS)] = frame.frame_id, np.nan
        return {
            "frame": frame.frame_id,
            "total": float(partial.sum()),
            "profile": partial.sum(axis=0, dtype="f4"),
            "roi_time": frame.received,
            "roi_mean": mean,
            "roi_n": np.where(np.isnan(mean), 0, 7),
        }

    def value(self, name: str) -> Any:
        return {"summed": self.summed}[name]

    def update(self) -> Tree:
        return {
            "accumulated/sum": self.sum.copy(),
            "accumulated/n": self.summed,
            "accumulated@frames": self.summed,
            "azimuthal/q": np.linspace(1, 6, 20),
            "azimuthal/intensity": np.full(20, np.nan),
            "rois/names": list(ROIS),
        }


class Line:
    """Plays the runner for one series: reduces frames and hands the rows to a writer."""

    def __init__(self, writer: NexusWriter, filename: str, stage: Stage[Any, Any]) -> None:
        self.writer, self.stage = writer, stage
        self.series = Series(new_run_id(), "pilatus", filename, {"exposure": 0.1, "note": "a\0b"})
        self.settings = Settings(1, stage.Parameters())
        self.count = 0

    def add(self, image: NDArray[Any], written: bool = True, **strange: Any) -> None:
        """Reduce a frame; `strange` takes the place of values of its row."""
        frame = Frame(self.series, self.count, image, received=1e9 + self.count)
        partial = self.stage.map(frame, self.settings.parameters)
        row = {**(self.stage.reduce(frame, partial, self.settings) or {}), **strange}
        if self.count == 0:
            self.writer.begin(self.series, frame, self.settings)
        if written:
            self.writer.row(frame, row)
        self.count += 1

    def finish(self, **tree: Any) -> None:
        self.writer.finish(self.series, tree)

    def end(self, **tree: Any) -> None:
        """Finish the series, and close the writer."""
        self.finish(**tree)
        self.writer.close()


class Drive(Line):
    """A series of the toy stage."""

    def __init__(self, writer: NexusWriter, filename: str, stage: ToyStage | None = None) -> None:
        super().__init__(writer, filename, stage or ToyStage())

    def frames(self, count: int) -> None:
        for _ in range(count):
            self.add(np.full(self.stage.sum.shape, self.count, np.uint16))

    def adopt(self, **changes: Any) -> None:
        changed = self.settings.parameters.changed(changes)
        self.settings = Settings(self.settings.version + 1, changed)
        image: NDArray[Any] = np.zeros(self.stage.sum.shape)
        self.writer.adopt(Frame(self.series, self.count, image), self.settings)

    def update(self) -> None:
        self.writer.update(self.series, self.stage.update())

    def finish(self, **tree: Any) -> None:
        ledger = {"ledger/received": self.count, "ledger/reduced": self.count}
        super().finish(**{**self.stage.update(), **ledger, **tree})


# ------------------------------------------------------------------- what readers see


def seen(path: Path, count: Callable[[h5py.File], int]) -> int:
    """Return how much a reader with swmr=True finds; 0 while there is no file."""
    with suppress(OSError, KeyError), h5py.File(path, "r", swmr=True) as file:
        return int(count(file))
    return 0


def rows_seen(path: Path) -> int:
    """Return the rows that a reader finds in the table of frames."""
    return seen(path, lambda file: len(file["entry/frames/frame"]))


# ------------------------------------------------------- files without a writer's process


def end_values(entry: str) -> dict[str, Any]:
    """Return what stands in a series' file from the beginning, to be filled in at its end."""
    return {f"{entry}/{END_TIME}": fixed_text("", 32), f"{entry}/{END_NOTE}": fixed_text("", 64)}


def tables_of(stage: Stage[Any, Any], row: Row, pixels: str) -> dict[str, dict[str, Table]]:
    """Return the tables of a series' file by book and path."""
    declared = layout.books(stage.entry, columns(stage, row, np.dtype(pixels)))
    return {
        book: {name: Table(np.dtype(dtype), *more) for name, (dtype, *more) in each.items()}
        for book, each in declared.items()
    }


@contextmanager
def no_room() -> Iterator[None]:
    """Have the disk be full when a series' file asks for room."""

    def full(handle: int, room: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seriesfile, "reserve", full)
        yield


# ------------------------------------------------------------------- what goes wrong


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no room on a disk, until the end."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bavail * 4096 - 4096)
    yield
    ballast.unlink()


@contextmanager
def stuck(writer: NexusWriter) -> Iterator[None]:
    """Have a writer's process stand still, until the end."""
    assert writer.writer_pid
    os.kill(writer.writer_pid, signal.SIGSTOP)
    yield
    os.kill(writer.writer_pid, signal.SIGCONT)


def kill(writer: NexusWriter) -> None:
    """Kill a writer's process, and wait until that is known."""
    assert writer.writer_pid
    os.kill(writer.writer_pid, signal.SIGKILL)
    wait_for(lambda: "died (signal 9)" in writer.problem)


def flushed_when_killed(program: str, lines: int, *arguments: str) -> int:
    """Run a program that prints how much it flushed, kill it after so many lines.

    Return the number that it printed last.
    """
    command, pipe = [sys.executable, "-c", program, *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as writer:
        assert writer.stdout
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.read().splitlines(keepends=True)
    return int([line for line in said if line.endswith("\n")][-1])
