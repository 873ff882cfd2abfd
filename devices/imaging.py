"""`ImagingDevice`: what the devices of all image chains have beside their declaration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tango import AttrWriteType
from tango.server import attribute

from ..core.frame import MAX_SIDE
from ..core.kept import Kept
from .base import StageDevice
from .client import calling
from .served import refusing

MASKS = Kept("mask", ".npy")
"""Masks that were written into a device's folder."""


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
            mask, folder = np.asarray(pixels, np.uint8), self._folder.path
            path = MASKS.add(folder, lambda file: np.save(file, mask, allow_pickle=False))
            try:
                self.runner.configure({"mask_file": str(path)}, calling(self))
            except ValueError:
                path.unlink()
                raise
            MASKS.remove_older(folder)
