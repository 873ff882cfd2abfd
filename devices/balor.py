"""`BalorPhotonDetector`: the Tango device of a Balor."""

from __future__ import annotations

from ..core.images.balor import BalorStage
from .imaging import ImagingDevice


class BalorPhotonDetector(ImagingDevice, stage=BalorStage):
    """Finds the single photons in the frames of a Balor ("photon finder").

    It writes them to a table, serves their energy histogram and counts, and goes on
    with a clean image of them, as PilatusAccumulator does with its frames. Without
    analysis_roi frames are thresholded as those of a Zyla.
    """
