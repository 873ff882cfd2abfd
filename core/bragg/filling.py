"""What stands for the pixels that are not kept: their own mean on each ring.

The background that pixels stand out of is the mean of what clipping leaves, kept pixels
among them: those that chance lifted, more of them the lower the cutoff. What is not kept
has less. In the place of pixels that are not kept, the mean of just these

    fill = sum(s) / sum(w)

(see `clipping`) leaves each ring the counts that it has in the whole frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.limits import is_usable, pixel_limits
from ..azimuthal.rings import Rings
from ..compute.jit import kernel
from ..marks import as_pixels
from .clipping import Singles
from .layout import dark_at, layout, norm_at
from .picking import SparseFrame


def fill_of(sparse: SparseFrame, image: NDArray[Any], rings: Rings) -> Singles:
    """Return the mean of I / normalization of the pixels that are not kept, (bins,).

    On a ring that has none it is the background.

    Parameters
    ----------
    image
        The frame as recorded, (rows, columns).
    """
    of_rings, pixels = layout(rings), as_pixels(image).reshape(-1)
    ring, norm, dark = of_rings.ring, of_rings.norm, of_rings.dark
    limits = pixel_limits(pixels.dtype, rings.experiment.setup)
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize < 8:
        signal, weight = sparse.background.totals.copy()
        take_off(pixels, ring, norm, dark, limits, sparse.index, signal, weight)
    else:
        # What was added of a pixel of 1e300 and taken off again would leave nothing else.
        signal, weight = np.zeros((2, rings.bins + 1))
        kept = np.zeros(pixels.size, np.bool_)
        kept[sparse.index] = True
        add_rest(pixels, ring, norm, dark, limits, kept, signal, weight)
        signal, weight = signal[:-1], weight[:-1]
    average, _ = sparse.background.filled()
    fill = average.copy()
    rest = weight > np.finfo(np.float32).eps * of_rings.norm_sum
    fill[rest] = signal[rest] / weight[rest]
    return fill


@kernel
def take_off(
    pixels: Any, ring: Any, norm: Any, dark: Any, limits: Any, index: Any, signal: Any,
    weight: Any,
) -> None:  # fmt: skip
    """Take what is kept off the sums over all usable pixels; what is saturated is not in them."""
    for place in range(index.size):
        pixel = index[place]
        if not is_usable(pixels[pixel], limits):
            continue
        home = ring[pixel]
        signal[home] -= float(pixels[pixel]) - dark_at(dark, pixel)
        weight[home] -= norm_at(norm, pixel)


@kernel
def add_rest(
    pixels: Any, ring: Any, norm: Any, dark: Any, limits: Any, kept: Any, signal: Any, weight: Any
) -> None:
    """Add up what is not kept on each ring; one ring more is for pixels on none."""
    for pixel in range(pixels.size):
        if is_usable(pixels[pixel], limits) and not kept[pixel]:
            home = ring[pixel]
            signal[home] += float(pixels[pixel]) - dark_at(dark, pixel)
            weight[home] += norm_at(norm, pixel)
