"""Spots whose core is saturated: nobody knows what it counted, but a peak is there.

Saturated pixels whose squares of the patch meet are one spot, unless they are more than
`MOST`. Their squares are taken as a patch is (see `peaks`): `connected` pixels stand out
at least, the saturated ones among them and another, none is left out or beyond the
frame's edge. Intensity, error and place come from those with d > 0 that are not
saturated. The intensity is therefore that of the spot's skirt, a part of the whole; the
place is the spot's. A pixel that is always at the top, and has nothing about it, is no peak.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compute.jit import kernel
from .thresholds import counts, deviates, overflows

MOST = 200
"""Saturated pixels of one spot at most: more are a gap, which some detectors mark so."""
HOT, SEEN = 1, 2
"""Bits of a label."""


@kernel
def saturated_about(view: Any, seed: Any, half: int, label: Any, members: Any) -> int:
    """Gather the saturated pixels near one that is not, and all whose squares meet.

    Returns
    -------
    int
        Their number; 0 if there are none, or more than a spot has.
    """
    rows = view.pixels.size // view.columns
    members[0] = seed
    done, size, reach = 0, 1, half
    while done < size < members.size:
        row, column = divmod(members[done], view.columns)
        for y in range(max(row - reach, 0), min(row + reach + 1, rows)):
            for x in range(max(column - reach, 0), min(column + reach + 1, view.columns)):
                pixel = y * view.columns + x
                if size < members.size and label[pixel] == 0 and overflows(view, pixel):
                    label[pixel] = SEEN
                    members[size] = pixel
                    size += 1
        done, reach = done + 1, 2 * half
    for index in range(1, size):
        label[members[index]] = 0
        members[index - 1] = members[index]
    return 0 if size == members.size else size - 1


@kernel
def around(
    view: Any, norm: Any, dark: Any, label: Any, members: Any, size: int, noise: float, half: int,
    found: Any,
) -> int:  # fmt: skip
    """Describe the peak of saturated pixels by what is not in the squares about them.

    Returns
    -------
    int
        The first pixel of it that stands out; -1 if there is no peak.
    """
    rows, first, whole = view.pixels.size // view.columns, np.int64(-1), True
    total, variance, down, right, active = 0.0, 0.0, 0.0, 0.0, 0
    for index in range(size):
        row, column = divmod(members[index], view.columns)
        for y in range(row - half, row + half + 1):
            for x in range(column - half, column + half + 1):
                pixel = y * view.columns + x
                if not (0 <= y < rows and 0 <= x < view.columns):
                    whole = False
                elif counts(view, pixel):
                    if label[pixel] & SEEN:
                        continue
                    if label[pixel] == HOT:
                        active += 1
                        first = pixel if first < 0 else min(first, pixel)
                    label[pixel] |= SEEN
                    above, error = deviates(view, norm, dark, pixel, noise)
                    if above > 0:
                        total += above
                        variance += error * error
                        down += y * above
                        right += x * above
                elif not overflows(view, pixel):
                    whole = False
    for index in range(size):
        row, column = divmod(members[index], view.columns)
        for y in range(max(row - half, 0), min(row + half + 1, rows)):
            for x in range(max(column - half, 0), min(column + half + 1, view.columns)):
                label[y * view.columns + x] &= HOT
    if not whole or active == 0:
        return -1
    found[0], found[1] = total, np.sqrt(variance)
    found[2], found[3] = right / total, down / total
    found[4], found[5] = total / np.sqrt(variance), active + size
    return int(first)
