"""`ImagingDevice`: what the devices of all image chains have beside their declaration."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tango import AttrWriteType
from tango.server import attribute

from ..core.frame import MAX_SIDE
from .base import StageDevice
from .served import refusing

MASKS = "mask-*.npy"


class ImagingDevice(StageDevice):
    """An image chain as a Tango device."""

    mask = attribute(
        dtype=((np.uint8,),),
        max_dim_x=MAX_SIDE,
        max_dim_y=MAX_SIDE,
        access=AttrWriteType.READ_WRITE,
        doc="Pixels that are left out: 1, others 0; [row, column] of the turned frame. What is "
        "written is kept in the device's folder, and mask_file names it. Empty: no mask.",
    )

    def read_mask(self) -> NDArray[np.uint8]:
        """Return the mask in use."""
        parameters: Any = self.runner.settings.parameters
        if parameters.mask is None:
            return np.empty((0, 0), np.uint8)
        return np.asarray(parameters.mask, np.uint8)

    def write_mask(self, pixels: NDArray[np.uint8]) -> None:
        """Keep a mask as a file, and use it; one that does not fit changes nothing."""
        with refusing("mask"):
            if self._folder is None:
                raise ValueError("mask: StateDirectory cannot be used, so no mask can be kept")
            path: Path = self._folder.path / f"mask-{time.time_ns()}.npy"
            np.save(path, np.asarray(pixels, np.uint8), allow_pickle=False)
            try:
                self.runner.configure({"mask_file": str(path)})
            except ValueError:
                path.unlink()
                raise
            for older in set(self._folder.path.glob(MASKS)) - {path}:
                older.unlink()
