"""A small detector, and scans of a phantom: discs of powders, seen through by a thin beam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series
from ronda.core.stage import Settings
from ronda.core.tomography.stage import DiffTomoStage

Floats = NDArray[np.float64]
SIDE, PIXEL, DISTANCE = 40, 1e-3, 0.08
"""Pixels a side, their size and the distance in m; the beam meets the first pixel's corner."""


def write_poni(folder: Path, side: int = SIDE, distance: float = DISTANCE) -> str:
    """Write where the detector stands; return the file's name."""
    path = folder / "detector.poni"
    path.write_text(
        "poni_version: 2.1\nDetector: Detector\n"
        f'Detector_config: {{"pixel1": {PIXEL}, "pixel2": {PIXEL}, '
        f'"max_shape": [{side}, {side}], "orientation": 3}}\n'
        f"Distance: {distance}\nPoni1: 0\nPoni2: 0\nRot1: 0\nRot2: 0\nRot3: 0\n"
        "Wavelength: 1e-10\n"
    )
    return str(path)


def angles_of_pixels() -> Floats:
    """2 theta of the pixel centres in deg, (SIDE, SIDE)."""
    place = (np.arange(SIDE) + 0.5) * PIXEL
    return np.rad2deg(np.arctan2(np.hypot(place[:, None], place[None, :]), DISTANCE))


@dataclass(frozen=True)
class Disc:
    """A disc of powder; lengths in steps of the translation, from the rotation axis."""

    x: float
    y: float
    radius: float
    rings: tuple[float, ...]
    """2 theta in deg."""

    def path(self, angle: float, translation: float) -> float:
        """How much of it a beam goes through."""
        theta = np.deg2rad(angle)
        away = translation - self.x * np.cos(theta) - self.y * np.sin(theta)
        return 2 * float(np.sqrt(max(self.radius**2 - away**2, 0)))

    @property
    def image(self) -> Floats:
        """What it scatters on the detector, for each step of path."""
        tth = angles_of_pixels()
        return sum(np.exp(-0.5 * ((tth - ring) / 0.5) ** 2) for ring in self.rings)


PHANTOM = (
    Disc(6.0, -7.0, 3.5, (10.0, 22.0)),
    Disc(-8.0, 2.0, 2.5, (14.0, 26.0)),
    Disc(1.0, 8.5, 3.0, (18.0, 30.0)),
)
RANGES = ("first=8.5,11.5", "second=12.5,15.5", "third=16.5,19.5")


def phantom_frame(angle: float, translation: float, random: np.random.Generator) -> Any:
    """One frame at a position: (SIDE, SIDE) int32."""
    light = 0.5 + sum(20 * disc.path(angle, translation) * disc.image for disc in PHANTOM)
    return random.poisson(light).astype(np.int32)


def flat(value: float, dtype: str = "i4") -> NDArray[Any]:
    """A frame of one value, so that its pattern is this value everywhere."""
    return np.full((SIDE, SIDE), value, dtype)


class Scanner:
    """Runs the stage without threads, frame by frame."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.stage = DiffTomoStage()
        asked = {
            "poni_file": write_poni(folder),
            "n_diffraction": 50,
            "solid_angle": False,
            **values,
        }
        self.settings = Settings(0, self.stage.Parameters().changed(asked))
        self.stage.adopt(self.settings)
        self.begin()

    def begin(self, run_id: int = 1, joined_late: bool = False) -> None:
        self.series = Series(run_id, "detector", "", {}, joined_late)
        self.stage.begin(self.series, self.settings)

    def change(self, **values: Any) -> None:
        new = self.settings.parameters.changed(values)
        self.stage.accept(new)
        self.settings = Settings(self.settings.version + 1, new)
        self.stage.adopt(self.settings)

    def frame(self, number: int, image: Any = None, event: int | None = None) -> Any:
        pixels = flat(number + 1) if image is None else image
        frame = Frame(self.series, number, pixels, event_number=event)
        partial = self.stage.map(frame, self.settings.parameters)
        return self.stage.reduce(frame, partial, self.settings)

    def frames(self, *numbers: int) -> None:
        for number in numbers:
            self.frame(number)

    def value(self, name: str) -> Any:
        return self.stage.value(name)

    @property
    def frame_map(self) -> list[list[int]]:
        return self.value("frame_map").tolist()

    @property
    def shown(self) -> list[list[float]]:
        """Frame number by the pattern at each position, for frames of one value; NaN: none."""
        bins = self.settings.parameters.n_diffraction
        return (self.value("sinogram") / bins - 1).round(3).tolist()

    def status(self) -> str:
        return "\n".join(self.stage.status())
