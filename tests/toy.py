"""The smallest stage there is: what a new one needs, and what the tests of its faces look for."""

from __future__ import annotations

from typing import Any

from ronda.core.frame import Frame
from ronda.core.parameters import Parameters, parameter
from ronda.core.stage import Kind, Output, Record, Row, Settings, Stage


class ToyParameters(Parameters):
    """What can be set."""

    gain: float = parameter(1.0, "Factor on every pixel.", unit="keV", label="Gain", ge=0, le=1000)


class ToyStage(Stage[ToyParameters, float]):
    """Sums the pixels of each frame. Nothing outlives a frame."""

    name = "toy"
    title = "sum of pixels"
    Parameters = ToyParameters
    outputs = (
        Output(
            "total",
            Kind.SCALAR,
            unit="keV",
            label="Total",
            doc="Sum over the newest frame.",
            axes=("frame",),
            path="toy/total",
            record=Record.FRAME,
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self._total = float("nan")

    def map(self, frame: Frame, parameters: ToyParameters) -> float:
        """Return the frame's sum."""
        return parameters.gain * float(frame.data.sum())

    def reduce(self, frame: Frame, partial: float, settings: Settings) -> Row:
        """Keep the newest sum."""
        self._total = partial
        return {"total": partial}

    def value(self, name: str) -> Any:
        """Return the newest sum."""
        return self._total
