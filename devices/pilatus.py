"""`PilatusAccumulator`: the Tango device of a Pilatus."""

from __future__ import annotations

from ..core.images.pilatus import PilatusStage
from .base import StageDevice


class PilatusAccumulator(StageDevice, stage=PilatusStage):
    """Adds up the frames of a Pilatus while they are measured.

    It serves the sum with its powder pattern, and the curves of regions of
    interest against time, frame or motor. The sum outlives series and restarts;
    ClearAccumulation empties it.
    """
