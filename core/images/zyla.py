"""The chain of an X-ray Zyla: dark and threshold, then sums, ROIs and pattern."""

from __future__ import annotations

import numpy as np

from ..stage import registry
from .cmos import CmosChain, CmosParameters, camera_outputs


@registry.register
class ZylaStage(CmosChain[CmosParameters]):
    """Thresholds Zyla frames: what is below dark and threshold is 0, the rest is less dark.

    Images keep the shape and type of the frames. What outlives a series and what
    empties the sum: see `ImageChain`; about the dark see `CmosChain`.
    """

    name = "zyla"
    title = "Zyla thresholder"
    Parameters = CmosParameters
    outputs = camera_outputs(np.uint16)
    pixel_types = (np.uint16,)
