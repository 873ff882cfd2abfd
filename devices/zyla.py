"""`ZylaThresholder`: the Tango device of an X-ray Zyla."""

from __future__ import annotations

from ..core.images.zyla import ZylaStage
from .imaging import ImagingDevice


class ZylaThresholder(ImagingDevice, stage=ZylaStage):
    """Subtracts the dark from the frames of a Zyla, sets what is below the threshold to 0.

    The images keep their shape. It serves their sum and the curves of regions of
    interest, as PilatusAccumulator does. The dark is a uniform level, or one that
    RecordDark recorded and UseDark put in use.
    """
