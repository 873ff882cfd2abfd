"""One frame on its way through an image chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..frame import Encoded, Frame
from ..marks import Mask, Pixels
from .orientation import OrientationParameters

QUANTITY = "quantity"
"""Entry of an image that is sent to another device: what the value of a pixel is."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainPartial:
    """One frame after `map`."""

    image: Pixels
    """(rows, columns) after the pre-step; the frame's own memory where nothing was done."""
    mask: Mask | None
    """True where pixels are left out."""
    rois: NDArray[np.float64]
    """Statistics of each ROI, as `roi.statistics` gives them."""
    quantity: str = ""
    """What the value of a pixel is, in words; empty: what the detector sends."""
    compact: Encoded | None = None
    """The same image in far fewer bytes, where there is such a form."""
    support: NDArray[np.intp] | None = None
    """Pixels, counted row after row, outside of which all are 0; None: any may be something."""

    @property
    def kept(self) -> Pixels | Encoded:
        """The image in the form that takes the fewest bytes."""
        return self.image if self.compact is None else self.compact


def turn(frame: Frame, parameters: OrientationParameters) -> Pixels:
    """Return the pixels of a frame (rows, columns) as the detector is mounted."""
    return np.ascontiguousarray(parameters.orientation.apply(frame.data))
