"""What a runner reads in tests of tomography: events, and things that are done between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ronda.core.frame import Frame, Series, SeriesEnd, SeriesStart, new_run_id
from ronda.core.runner import Runner
from ronda.core.sources import Event, Source
from ronda.tests.core.tomography.phantom import flat


class Script(Source):
    """Events that a runner reads, and things that are done between them."""

    live = False

    def __init__(self, steps: list[Any]) -> None:
        super().__init__("script:")
        self._steps = steps

    def events(self) -> Iterator[Event]:
        for step in self._steps:
            if callable(step):
                step()
            else:
                yield step


def series_of(
    numbers: Any, joined_late: bool = False, filename: str = "scan-5_detector.h5"
) -> list[Any]:
    series = Series(new_run_id(), "detector", filename, {}, joined_late)
    return [
        SeriesStart(series),
        *(Frame(series, n, flat(n + 1)) for n in numbers),
        SeriesEnd(series),
    ]


def run(runner: Runner, steps: list[Any]) -> None:
    runner.start(lambda: Script(steps))
    runner.wait()
    assert not runner.last_error
    assert not runner.health.alarms
