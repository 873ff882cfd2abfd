"""A small simulated Eiger for the Bragg stage, and its sparse files as the runner writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.sparse_file import SparseFile
from ronda.core.bragg.stage import BraggStage
from ronda.core.frame import SeriesEnd
from ronda.core.runner import Runner
from ronda.core.simulation.eiger import simulate_eiger
from ronda.core.sinks.nexus import NexusWriter
from ronda.tests.core.images.bench import Bench, Camera, make_runner, run

SHAPE, RINGS = (150, 130), 60


@dataclass(frozen=True, eq=False)
class Crystal:
    """Frames, and where the detector stood."""

    frames: list[NDArray[Any]]
    """uint32, (rows, columns) each; the detector marks two columns."""
    poni: str
    other_poni: str
    """Of a detector of another shape."""

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters that fit."""
        return {"poni_file": self.poni, "radial_bins": RINGS}


def make_crystal(folder: Path, count: int = 8) -> Crystal:
    """Simulate frames; write their PONI files."""
    made = simulate_eiger(count, SHAPE, spots=12.0, background=3.0, seed=7)
    frames = [made.frame(number) for number in range(count)]
    for frame in frames:
        frame[:, 40:42] = np.iinfo(np.uint32).max
    poni, other = folder / "eiger.poni", folder / "other.poni"
    poni.write_text(made.geometry.to_poni(SHAPE))
    other.write_text(_pilatus())
    return Crystal(frames, str(poni), str(other))


def _pilatus() -> str:
    """Return the PONI file of a detector whose shape is known by its name."""
    return (
        "poni_version: 2.1\nDetector: Pilatus100k\nDetector_config: {}\nDistance: 0.1\n"
        "Poni1: 0.01\nPoni2: 0.02\nRot1: 0\nRot2: 0\nRot3: 0\nWavelength: 1e-10\n"
    )


def write_sparse(
    path: Path,
    frames: list[NDArray[Any]],
    workers: int = 2,
    metadata: dict[str, Any] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Have a runner write frames to a sparse file; return the live outputs at its end."""
    camera = Camera(**(metadata or {}))
    with writing(path, workers, **values) as runner:
        run(runner, camera.start, *camera.frames(*frames), SeriesEnd(camera.series))
        return dict(runner.latch([one.name for one in BraggStage.outputs if one.live]).values)


@contextmanager
def writing(path: Path, workers: int = 2, **values: Any) -> Iterator[Runner]:
    """Lend a runner that writes a sparse file."""
    writer = NexusWriter(output_file=path)
    runner = make_runner(BraggStage(), sinks=[writer], workers=workers, **values)
    yield runner
    assert not writer.problem
    assert not writer.rows_lost
    runner.close()


def dense(path: Path) -> list[NDArray[Any]]:
    """Return all frames of a sparse file, rebuilt without noise."""
    with SparseFile(path) as file:
        made = Densifier(file)
        return [made.image(frame) for frame in file.frames(range(file.count))]


def bench(crystal: Crystal, **values: Any) -> Bench:
    """Return a stage without threads for these frames."""
    return Bench(BraggStage(), **{**crystal.settings, **values})
