"""`BraggSparsifier`: the Tango device that keeps the spots of single crystals."""

from __future__ import annotations

from ..core.bragg.stage import BraggStage
from .base import StageDevice


class BraggSparsifier(StageDevice, stage=BraggStage):
    """Keeps the pixels above the background of their ring, and that background.

    The file is one of pyFAI's sparse files, which `ronda densify` and fabio make
    dense again. With peaks looked for, frames with fewer than `min_peaks` are not
    written. RepublishUrl sends the kept pixels on.
    """
