"""A stage with every form of output, a writer of its files, and ways to wait and to kill."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series, new_run_id
from ronda.core.parameters import Parameters, parameter
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.stage import SLOTS, Kind, Output, Record, Row, Settings, Stage, Tree

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


class Drive:
    """Plays the runner for one series: reduces frames and hands the rows to a writer."""

    def __init__(self, writer: NexusWriter, filename: str, stage: ToyStage | None = None) -> None:
        self.writer, self.stage = writer, stage or ToyStage()
        self.series = Series(new_run_id(), "pilatus", filename, {"exposure": 0.1, "note": "a\0b"})
        self.settings = Settings(1, ToyParameters())
        self.count = 0

    def frames(self, count: int) -> None:
        for _ in range(count):
            image = np.full(self.stage.sum.shape, self.count, np.uint16)
            frame = Frame(self.series, self.count, image, received=1e9 + self.count)
            row = self.stage.reduce(frame, self.stage.map(frame, ToyParameters()), self.settings)
            if self.count == 0:
                self.writer.begin(self.series, frame, self.settings)
            self.writer.row(frame, row)
            self.count += 1

    def adopt(self, **changes: Any) -> None:
        self.settings = Settings(
            self.settings.version + 1, self.settings.parameters.changed(changes)
        )
        image: NDArray[Any] = np.zeros(self.stage.sum.shape)
        self.writer.adopt(Frame(self.series, self.count, image), self.settings)

    def update(self) -> None:
        self.writer.update(self.series, self.stage.update())

    def finish(self, **tree: Any) -> None:
        ledger = {"ledger/received": self.count, "ledger/reduced": self.count}
        self.writer.finish(self.series, {**self.stage.update(), **ledger, **tree})


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until a condition holds and return its value; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)
    return value


def rows_on_disk(path: Path) -> int:
    """Return the rows that a reader with swmr=True sees; 0 while there is no file."""
    try:
        with h5py.File(path, "r", swmr=True) as file:
            return len(file["entry/frames/frame"])
    except OSError:
        return 0


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


@pytest.fixture(scope="session")
def drive() -> type[Drive]:
    return Drive


@pytest.fixture(scope="session")
def toy_stage() -> type[ToyStage]:
    return ToyStage


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until


@pytest.fixture
def rows_seen() -> Callable[[Path], int]:
    return rows_on_disk


@pytest.fixture
def raw(tmp_path: Path) -> str:
    """Name of a raw file in a visit's folder that exists."""
    (tmp_path / "visit" / "raw").mkdir(parents=True)
    return str(tmp_path / "visit" / "raw" / "scan-0001_pilatus.h5")


@pytest.fixture
def reduced(raw: str) -> Path:
    """Where its reduced file goes."""
    return Path(raw.replace("/raw/", "/process/")).with_name("scan-0001_pilatus_toy.h5")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
