"""`BalorPhotonDetector`: the Tango device of a Balor."""

from __future__ import annotations

from typing import Any

from ..core.images.balor import BalorStage
from .trusting import TrustingDevice


class BalorPhotonDetector(TrustingDevice, stage=BalorStage):
    """Finds the single photons in the frames of a Balor ("photon finder").

    It writes them to a table, serves their energy histogram and counts, and goes on
    with a clean image of them, as PilatusAccumulator does with its frames. Without
    analysis_roi frames are thresholded as those of a Zyla.
    """

    def spares_raw(self) -> bool:
        """Tell whether raw frames need not be saved: not where no photons are looked for."""
        parameters: Any = self.runner.settings.parameters
        return super().spares_raw() and bool(parameters.detects)
