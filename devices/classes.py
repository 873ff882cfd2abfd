"""Every class of device that Ronda has."""

from __future__ import annotations

from typing import Any

from .balor import BalorPhotonDetector
from .bragg import BraggSparsifier
from .difftomo import DiffTomoIntegrator
from .pilatus import PilatusAccumulator
from .simulator import DetectorSimulator
from .zyla import ZylaThresholder

CLASSES: tuple[Any, ...] = (
    PilatusAccumulator,
    ZylaThresholder,
    BalorPhotonDetector,
    BraggSparsifier,
    DiffTomoIntegrator,
    DetectorSimulator,
)
