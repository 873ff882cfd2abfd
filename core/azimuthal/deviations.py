"""Sums over bins of the pixels' scatter about the means of bins; arrays as in summing.py."""

from __future__ import annotations

import numpy as np

from ..compute.jit import kernel
from ..marks import Pixels
from .limits import Limits, is_usable
from .summing import CHUNK, Corrections, Floats, Index, Rest, Singles, add_to_bins


@kernel
def add_scatter(
    pixels: Pixels,
    mean: Floats,
    corrections: Corrections,
    bins: Index,
    shares: Singles,
    limits: Limits,
    sums: Floats,
) -> None:
    """Add the square of each pixel's distance from its bins' means, times that of its shares.

    Parameters
    ----------
    mean
        (bins + 3,), per unit of normalization.
    pixels, bins, shares, limits, sums
        As in `add_shared`.
    """
    columns = shares.shape[0]
    two = np.float64(columns == 2)
    value, weight, products = np.empty(CHUNK), np.empty(CHUNK), np.empty((3, CHUNK))
    near, further, last = products[0], products[1], products[2]
    for begin in range(0, pixels.size, CHUNK):
        values, places = pixels[begin : begin + CHUNK], bins[begin : begin + CHUNK]
        _correct(values, begin, corrections, limits, value, weight)
        if columns == 0:
            for at in range(values.size):
                distance = value[at] - weight[at] * mean[places[at]]
                near[at] = distance * distance
        else:
            share_1 = shares[0][begin : begin + values.size]
            share_2 = shares[columns - 1][begin : begin + values.size]
            for at in range(values.size):
                part_1, part_2, place = np.float64(share_1[at]), two * share_2[at], places[at]
                left = (1 - part_1 - part_2) * (value[at] - weight[at] * mean[place])
                part_1 *= value[at] - weight[at] * mean[place + 1]
                part_2 *= value[at] - weight[at] * mean[place + 2]
                near[at], further[at], last[at] = left * left, part_1 * part_1, part_2 * part_2
        add_to_bins(near, further, last, columns, places, sums)


@kernel
def _correct(
    pixels: Pixels,
    first: int,
    corrections: Corrections,
    limits: Limits,
    value: Floats,
    weight: Floats,
) -> None:
    """Set the values of a chunk less dark and their normalization, 0 where they do not count."""
    value[:], weight[:] = -corrections.dark[0], corrections.normalization[0]
    if corrections.dark.size > 1:
        dark = corrections.dark[first : first + pixels.size]
        for at in range(pixels.size):
            value[at] = -dark[at]
    if corrections.normalization.size > 1:
        normalization = corrections.normalization[first : first + pixels.size]
        for at in range(pixels.size):
            weight[at] = normalization[at]
    for at in range(pixels.size):
        counts = is_usable(pixels[at], limits)
        value[at] = value[at] + pixels[at] if counts else 0
        weight[at] = weight[at] if counts else 0


@kernel
def add_rest_scatter(
    pixels: Pixels,
    mean: Floats,
    corrections: Corrections,
    rest: Rest,
    limits: Limits,
    sums: Floats,
) -> None:
    """Add the scatter of the pixels that lie in many bins to (bins,); else as `add_scatter`."""
    dark, normalization = corrections
    for entry in range(rest.pixel.size):
        pixel, place = rest.pixel[entry], rest.bin[entry]
        if is_usable(pixels[pixel], limits):
            value = np.float64(pixels[pixel]) - dark[pixel * (dark.size > 1)]
            weight = np.float64(normalization[pixel * (normalization.size > 1)])
            distance = np.float64(rest.share[entry]) * (value - weight * mean[place])
            sums[place] += distance * distance
