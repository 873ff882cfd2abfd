"""How a detector is mounted: the eight flips and transposes of a frame."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parameters import Parameters, parameter


class Orientation(Enum):
    """How a frame is turned before anything else is done to it.

    Named as what is done to an image with row 0 at the top; turns are
    counter-clockwise.
    """

    NORMAL = "normal"
    ROTATE_90 = "rotate_90"
    ROTATE_180 = "rotate_180"
    ROTATE_270 = "rotate_270"
    FLIP_LEFT_RIGHT = "flip_left_right"
    FLIP_UP_DOWN = "flip_up_down"
    TRANSPOSE = "transpose"
    TRANSVERSE = "transverse"
    """Rows become columns about the other diagonal."""

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the turned image [row, column]; a view, no copy."""
        match self:
            case Orientation.NORMAL:
                return image
            case Orientation.ROTATE_90:
                return np.rot90(image, 1)
            case Orientation.ROTATE_180:
                return np.rot90(image, 2)
            case Orientation.ROTATE_270:
                return np.rot90(image, 3)
            case Orientation.FLIP_LEFT_RIGHT:
                return image[:, ::-1]
            case Orientation.FLIP_UP_DOWN:
                return image[::-1]
            case Orientation.TRANSPOSE:
                return image.T
            case Orientation.TRANSVERSE:
                return np.rot90(image, 2).T

    def turned(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the shape (rows, columns) that a frame of this shape is turned to."""
        rows, columns = self.apply(np.broadcast_to(np.uint8(0), shape)).shape
        return rows, columns


class OrientationParameters(Parameters):
    """How the detector is mounted."""

    orientation: Orientation = parameter(
        Orientation.NORMAL, "Flip or transpose applied to every frame before anything else."
    )
