"""`DiffTomoIntegrator`: the Tango device of diffraction tomography."""

from __future__ import annotations

from ..core.tomography.stage import DiffTomoStage
from .base import StageDevice


class DiffTomoIntegrator(StageDevice, stage=DiffTomoStage):
    """Integrates the frames of a scan and puts each pattern to its place in the map.

    It serves the sinogram of a radial range, patterns and a quick reconstruction
    while the scan runs.
    """
