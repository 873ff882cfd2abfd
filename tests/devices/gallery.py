"""A stage with a parameter, an output and a command of every kind, and its device server."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
from pydantic import BaseModel
from ronda.core.frame import BadFrame, Frame
from ronda.core.parameters import ParameterError, Parameters, parameter
from ronda.core.stage import Command, Kind, Output, Row, Settings, Stage
from ronda.devices.base import StageDevice
from ronda.devices.servers import serve

PIXELS = ("row", "column")


class Flip(Enum):
    NONE = "none"
    ROWS = "rows"
    COLUMNS = "columns"


class Box(BaseModel):
    x: int = 0
    y: int = 0


class GalleryParameters(Parameters):
    gain: float = parameter(1.0, "Factor.", unit="keV", label="The gain", ge=0, le=1000)
    skip: int = parameter(0, "Frames skipped.", ge=0, expert=True)
    flip: Flip = parameter(Flip.NONE, "Orientation.")
    active: bool = parameter(True, "Whether.")
    title: str = parameter("untitled", "Some text.")
    note: str | None = parameter(None, "Optional text.")
    threshold: float | None = parameter(None, "Lower limit.", unit="keV", gt=0)
    count: int | None = parameter(3, "Optional count.", ge=1)
    weights: list[float] = parameter([1.0, 2.0], "Weights.")
    corners: tuple[int, int] | None = parameter(None, "Two corners.")
    names: list[str] = parameter([], "Names.")
    boxes: dict[str, Box] = parameter({}, "Boxes by name.")
    delay: float = parameter(0.0, "Seconds that map takes.", ge=0)


def _grown(parameters: GalleryParameters, argument: str) -> Mapping[str, Any]:
    if argument in parameters.boxes:
        raise ParameterError(f"box {argument} exists already")
    return {"boxes": {**parameters.boxes, argument: Box()}}


class GalleryStage(Stage[GalleryParameters, float]):
    """Sums frames. The sum is emptied by Clear only."""

    name = "gallery"
    title = "gallery"
    Parameters = GalleryParameters
    outputs = (
        Output("newest", Kind.SCALAR, unit="keV", doc="First pixel of the newest frame."),
        Output("total", Kind.SCALAR, np.int64, doc="Sum of all."),
        Output("recent", Kind.SPECTRUM, np.int32, doc="Numbers of the frames."),
        Output("image", Kind.IMAGE, np.uint16, doc="Newest frame.", axes=PIXELS),
        Output("preview", Kind.IMAGE, np.float32, doc="Newest frame, small.", axes=PIXELS),
        Output("says", Kind.TEXT, doc="A text."),
        Output("lines", Kind.TEXTS, doc="Some texts."),
        Output("hidden", Kind.SCALAR, doc="Only for files.", live=False),
    )
    commands = (
        Command("Clear", "Empty the sum."),
        Command("Grow", "Add a box.", str, "Name of the box.", changes=_grown),
        Command("Complain", "Fail, as asked.", float, "A number."),
    )

    def __init__(self) -> None:
        super().__init__()
        self.newest = float("nan")
        self.total = 0
        self.history: list[int] = []
        self.image: Any = None
        self.previews = 0

    def map(self, frame: Frame, parameters: GalleryParameters) -> float:
        if parameters.delay:
            _nap(parameters.delay)
        first = frame.data[0, 0]
        if first == 9999:
            raise BadFrame("a frame full of nines")
        return parameters.gain * float(first)

    def reduce(self, frame: Frame, partial: float, settings: Settings) -> Row:
        self.newest = partial
        self.total += int(frame.data.sum(dtype=np.int64))
        self.history = [*self.history[-99:], frame.frame_id]
        self.image = frame.data
        return {}

    def handle(self, command: str, argument: Any) -> None:
        if command == "Complain":
            raise ValueError(f"{argument:g} is not to my taste")
        self.total = 0

    def value(self, name: str) -> Any:
        if name == "lines":
            return [f"{len(self.history)} frames"]
        if name == "says":
            return "nothing" if self.image is None else "something"
        if name == "preview":
            return self.image
        return np.array(self.history) if name == "recent" else getattr(self, name)

    def status(self) -> list[str]:
        return ["the gallery is open"]


def _nap(seconds: float) -> None:
    import time

    time.sleep(seconds)


class GalleryDevice(StageDevice, stage=GalleryStage):
    """Shows one of everything."""


if __name__ == "__main__":
    serve("GalleryDevice", GalleryDevice)
