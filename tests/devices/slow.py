"""A stage that takes its time wherever a test asks for it, and its device server."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ronda.core.frame import Frame
from ronda.core.parameters import Parameters, parameter
from ronda.core.stage import Kind, Output, Record, Row, Settings, Stage, Tree
from ronda.devices.base import StageDevice
from ronda.devices.servers import serve

HOLD = "hold"
"""File in the device's folder: while it is there, the device stays in INIT."""
STATE_SHAPE = (2000, 2000)
"""Of an array that makes a checkpoint take a while: 32 MB."""


class SlowParameters(Parameters):
    delay: float = parameter(0.0, "Seconds that map takes.", ge=0)


class SlowStage(Stage[SlowParameters, int]):
    """Sums the first pixels. The sum outlives series and restarts."""

    name = "slow"
    title = "slow"
    Parameters = SlowParameters
    outputs = (
        Output("value", Kind.SCALAR, np.int64, path="slow/value", record=Record.FRAME),
        Output("total", Kind.SCALAR, np.int64),
        Output("summed", Kind.SCALAR, np.int64),
    )

    def __init__(self) -> None:
        super().__init__()
        self._values = {"value": -1, "total": 0, "summed": 0}
        self._ballast = np.random.default_rng(0).random(STATE_SHAPE)

    def warm_up(self) -> None:
        folder = self.connection.folder
        while folder and (folder / HOLD).exists():
            time.sleep(0.02)

    def map(self, frame: Frame, parameters: SlowParameters) -> int:
        time.sleep(parameters.delay)
        return int(frame.data[0, 0])

    def reduce(self, frame: Frame, partial: int, settings: Settings) -> Row:
        self._values["value"] = partial
        self._values["total"] += partial
        self._values["summed"] += 1
        return {"value": partial}

    def value(self, name: str) -> Any:
        return self._values[name]

    def state(self) -> Tree:
        return {**self._values, "ballast": self._ballast}

    def restore(self, tree: Tree) -> None:
        self._values = {name: int(tree[name]) for name in self._values}


class SlowDevice(StageDevice, stage=SlowStage):
    """Takes its time."""


if __name__ == "__main__":
    serve("SlowDevice", SlowDevice)
