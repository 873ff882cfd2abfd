"""A camera's stage on a bench: as the runner runs it, without threads; and whole runs by script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ronda.core import simulation  # noqa: F401  (makes the scheme simulated: known)
from ronda.core.frame import Frame, Series, SeriesStart, new_run_id
from ronda.core.runner import Runner
from ronda.core.sinks.base import Sink
from ronda.core.sources import Event, Source, open_source
from ronda.core.stage import Connection, Document, Kind, Row, Settings, Stage

NOTHING_YET = ("image", "accumulated_image", "valid_count", "fallback_image", "dark", "dark_noise")
"""Images that are not there before a frame or a dark is."""


class Bench:
    """Runs a stage without threads; what it changes itself is taken as an operator's."""

    def __init__(
        self,
        stage: Stage[Any, Any],
        folder: Path | None = None,
        begun: bool = True,
        **values: Any,
    ) -> None:
        self.stage = stage
        self.saved: list[Document] = []
        self.stage.connection = Connection(self.saved.append, self._configure, folder)
        self.settings = Settings(0, stage.Parameters().changed(values))
        self.stage.adopt(self.settings)
        self.series, self.number = Series(0), 0
        if begun:
            self.begin()

    @property
    def parameters(self) -> Any:
        return self.settings.parameters

    def begin(self, run_id: int = 1, filename: str = "", **metadata: Any) -> None:
        self.series, self.number = Series(run_id, self.stage.name, filename, metadata), 0
        self.stage.begin(self.series, self.settings)

    def change(self, **values: Any) -> None:
        self._configure(values)

    def _configure(self, changes: Mapping[str, Any]) -> None:
        new = self.parameters.changed(changes)
        self.stage.accept(new)
        self.settings = Settings(self.settings.version + 1, new)
        self.stage.adopt(self.settings)

    def frame(self, image: Any, dtype: str = "u2", **metadata: Any) -> Row:
        frame = Frame(self.series, self.number, np.asarray(image, dtype), metadata=metadata)
        self.number += 1
        partial = self.stage.map(frame, self.parameters)
        return self.stage.reduce(frame, partial, self.settings)

    def command(self, name: str, argument: Any = None) -> None:
        command = next(command for command in self.stage.commands if command.name == name)
        if command.changes:
            self._configure(command.changes(self.parameters, argument))
        if command.handled or not command.changes:
            self.stage.handle(name, argument)

    def work(self) -> None:
        work = self.stage.deferred()
        if work is not None:
            work()()

    def value(self, name: str) -> Any:
        return self.stage.value(name)

    def sum(self) -> Any:
        return self.value("accumulated_image").tolist()

    def status(self) -> str:
        return "\n".join(self.stage.status())

    def alarms(self) -> str:
        return "\n".join(self.stage.alarms())

    def check_values(self, before: bool) -> None:
        """Check that every output has a value of the kind that was declared."""
        kinds = {Kind.SCALAR: (), Kind.TEXT: str, Kind.TEXTS: list, Kind.SPECTRUM: 1, Kind.IMAGE: 2}
        for output in self.stage.outputs:
            if not output.live:
                continue
            value, kind = self.value(output.name), kinds[output.kind]
            if isinstance(kind, type):
                assert isinstance(value, kind), output.name
            elif value is None:
                assert output.name in NOTHING_YET and (before or output.name not in NOTHING_YET[:3])
            else:
                assert np.ndim(value) == (kind or 0), output.name
                assert np.can_cast(np.asarray(value).dtype, output.dtype, "same_kind"), output.name


Step = Event | Callable[[], object]


class Script(Source):
    """Events, and things to be done between them by whoever reads."""

    live = False

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__("script:")
        self._steps = steps

    def events(self) -> Iterator[Event]:
        for step in self._steps:
            if callable(step):
                step()
            else:
                yield step


class Camera:
    """Frames of one series, numbered as they are asked for."""

    def __init__(self, filename: str = "scan-1_camera.h5", **metadata: Any) -> None:
        self.series = Series(new_run_id(), "camera", filename, metadata)
        self.start = SeriesStart(self.series)
        self._number = 0

    def frames(self, *images: NDArray[Any], **metadata: Any) -> list[Frame]:
        taken = []
        for image in images:
            taken.append(Frame(self.series, self._number, image, metadata=metadata))
            self._number += 1
        return taken


def make_runner(
    stage: Stage[Any, Any],
    folder: Path | None = None,
    sinks: Sequence[Sink] = (),
    workers: int = 2,
    **values: Any,
) -> Runner:
    """Return a runner of a stage with some parameters set."""
    return Runner(stage, stage.Parameters().changed(values), sinks, workers, folder=folder)


def run(runner: Runner, *steps: Step) -> None:
    """Run a script to its end; every frame of it must be reduced."""
    before = runner.ledger.counts
    runner.start(lambda: Script(steps))
    runner.wait()
    counts = runner.ledger.counts
    frames = sum(isinstance(step, Frame) for step in steps)
    assert counts.received - before.received == frames
    assert counts.reduced - before.reduced == frames, runner.last_error
    assert (counts.rejected, counts.dropped, counts.queued) == (0, 0, 0)


def images(url: str) -> NDArray[Any]:
    """Return all frames of a source, [frame, row, column]."""
    return np.array([event.data for event in open_source(url).events() if isinstance(event, Frame)])
