"""Pixels beside those that stand out: the skirts of spots lie under every threshold.

Without them the background takes the place of the skirts, and spots integrated on
rebuilt frames lack what was in them (`tests/benchmarks/measure_bragg.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.limits import pixel_limits, usable
from ..azimuthal.rings import Rings
from ..compute.jit import kernel
from ..marks import as_pixels
from .picking import SparseFrame


def with_margin(sparse: SparseFrame, image: NDArray[Any], rings: Rings, margin: int) -> SparseFrame:
    """Return a frame of which the pixels around the kept ones are kept as well.

    Parameters
    ----------
    image
        The frame as recorded, (rows, columns).
    margin
        Rows and columns on each side of a kept pixel. Pixels that are left out stay so.
    """
    wanted = np.zeros(rings.experiment.shape, np.bool_)
    spread(sparse.index, margin, wanted)
    index = np.flatnonzero(wanted.ravel() & (rings.ring < rings.bins))
    pixels = as_pixels(image).ravel()
    index = index[usable(pixels[index], pixel_limits(pixels.dtype, rings.experiment.setup))]
    values = np.take(image, index).astype(image.dtype.newbyteorder("="), copy=False)
    return replace(sparse, index=index.astype(np.uint32), intensity=values)


@kernel
def spread(index: Any, margin: int, wanted: Any) -> None:
    """Mark the squares about pixels, as far as they are on the frame."""
    rows, columns = wanted.shape
    for place in range(index.size):
        row, column = int(index[place]) // columns, int(index[place]) % columns
        for y in range(max(row - margin, 0), min(row + margin + 1, rows)):
            for x in range(max(column - margin, 0), min(column + margin + 1, columns)):
                wanted[y, x] = True
