"""`PilatusAccumulator`: the Tango device of a Pilatus."""

from __future__ import annotations

from ..core.images.pilatus import PilatusStage
from .imaging import ImagingDevice


class PilatusAccumulator(ImagingDevice, stage=PilatusStage):
    """Adds up the frames of a Pilatus while they are measured.

    It serves the sum with its powder pattern, and the curves of regions of
    interest against time, frame or motor. The sum outlives series and restarts;
    ClearAccumulation empties it.
    """
