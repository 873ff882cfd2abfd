"""Photons on an integrating detector: what is one, and how all of a frame are found.

A photon's charge spreads over some pixels. A pixel over the hit threshold that is
the maximum of its 3 x 3 neighbourhood is a *candidate*; of equal pixels the first
in the order of rows and columns is. So every blob of pixels that share their
hottest pixel gives one candidate, and none is counted twice. Its energy is the sum
of the 3 x 3 pixels less dark, its place their centre of gravity; nothing is clipped.
A candidate whose energy reaches the cut is a *photon*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codecs import PHOTON
from ..compute.jit import kernel
from ..marks import Marks, Mask, Pixels, Rectangle, as_mask, is_valid, marks
from .threshold import Correction

DOUBLE, SHARING = 1, 2
"""Bits of a photon's flag: too much energy for one; shares pixels with another candidate."""
BLOCK = 64
"""Pixels of a row that are looked at together before any of them alone: a bit each."""
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
"""Its products with powers of two differ in their highest 6 bits (Leiserson et al. 1998)."""
ONE, REST = np.uint64(1), np.uint64(58)
PLACE = np.zeros(64, np.int64)
"""Number of the one bit that is set, by those bits."""
for _bit in range(64):
    PLACE[((1 << _bit) * int(DE_BRUIJN) % (1 << 64)) >> 58] = _bit


class Cuts(NamedTuple):
    """Limits of a candidate's energy, in counts."""

    least: float
    """From here on it is a photon."""
    most: float
    """Above it there are two."""


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """How many pixels of a frame are hit."""

    hits: int
    """Pixels over the hit threshold."""
    pixels: int
    """Pixels that were looked at: in the region and not masked."""

    @property
    def density(self) -> float:
        """Share of the pixels that are hit; 0 where there is no pixel."""
        return self.hits / self.pixels if self.pixels else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Candidates(Hits):
    """All candidates of one frame, in the order of rows and columns."""

    pixel: NDArray[np.int32]
    """(n, 2): row and column of the hottest pixel."""
    place: NDArray[np.float32]
    """(n, 2): centre of gravity y, x in px; the pixel's own centre where that is not within
    the 3 x 3 pixels, some of which are far below dark."""
    energy: NDArray[np.float32]
    """(n,) in counts, or in what the gain makes of them."""
    flag: NDArray[np.uint8]
    """(n,): `DOUBLE`, `SHARING`."""
    touching: int
    """Maxima next to a masked or marked pixel or the frame's edge: no candidates."""
    cuts: Cuts

    @property
    def is_photon(self) -> NDArray[np.bool_]:
        """(n,) True where a candidate is a photon."""
        chosen: NDArray[np.bool_] = self.energy >= self.cuts.least
        return chosen

    def photons(self, least: float) -> NDArray[np.void]:
        """Return the candidates of at least this energy as `codecs.PHOTON` records."""
        chosen = self.energy >= least
        records = np.empty(int(chosen.sum()), PHOTON)
        records["y"], records["x"] = self.place[chosen].T
        records["energy"] = self.energy[chosen]
        return records


def find_photons(
    image: Pixels,
    mask: Mask | None,
    correction: Correction,
    region: Rectangle,
    cuts: Cuts,
    gain: float = 1.0,
    densest: float = 1.0,
) -> Candidates | Hits:
    """Return the candidates of a frame.

    Parameters
    ----------
    image
        (rows, columns) raw, as from `as_pixels`.
    mask
        (rows, columns), True where a pixel is not to be used; None: none.
    correction
        Dark, and hit threshold above it in the detector's counts.
    region
        Where candidates' own pixels may lie; their neighbours may lie outside.
    cuts
        In units of the energy.
    gain
        The detector's counts for each count of energy.
    densest
        Share of hit pixels up to which photons are looked for.

    Returns
    -------
    Only the number of hits if there are too many to tell photons apart.
    """
    special, masked = marks(image.dtype), as_mask(mask, image.shape)
    dark, threshold = correction.dark, correction.threshold
    top, bottom, left, right = region
    left_out = 0 if mask is None else int(np.count_nonzero(mask[top:bottom, left:right]))
    pixels = (bottom - top) * (right - left) - left_out
    most = int(densest * pixels)
    # Of 2 x 2 pixels, one at most is the maximum of its neighbourhood.
    room = min(most, ((bottom - top + 1) // 2) * ((right - left + 1) // 2))
    found, values = np.empty((room, 2), np.int32), np.empty((room, 3))
    hits, number, touching = find_candidates(
        image, special, masked, dark, threshold, region, most, found, values
    )
    if hits > most:
        hits = count_hits(image, special, masked, dark, threshold, region)
        return Hits(hits, pixels)
    found, values = found[:number].copy(), values[:number]
    flag = np.zeros(number, np.uint8)
    flag_sharing(found, flag)
    energy = (values[:, 0] / gain).astype(np.float32)
    flag[energy > cuts.most] |= DOUBLE
    place = (found + values[:, 1:]).astype(np.float32)
    return Candidates(hits, pixels, found, place, energy, flag, touching, cuts)


@kernel
def find_candidates(
    frame: Pixels,
    marks: Marks,
    mask: Mask,
    dark: Pixels,
    threshold: Pixels,
    region: Rectangle,
    most_hits: int,
    found: NDArray[np.int32],
    values: NDArray[np.float64],
) -> tuple[int, int, int]:
    """Find hit pixels that are the maximum of their neighbourhood, reading the frame once.

    Parameters
    ----------
    frame, marks, mask
        As for `add_frame`.
    dark, threshold
        As for `subtract_dark`.
    region
        Where to look.
    most_hits
        Look for no more maxima when there are more hit pixels than that.
    found, values
        Filled, with room for all maxima: (n, 2) row and column; (n, 3) sum of the 3 x 3
        pixels less dark in counts, and the distance y, x of their centre of gravity
        from the pixel in px, 0 where it is not within the 3 x 3 pixels: the sum is
        not positive, or some of them are far below dark.

    Returns
    -------
    Number of hit pixels (more than `most_hits` and no longer exact: too many), of
    maxima, and of those that touch a pixel that is not valid, or the edge.
    """
    hits, number, touching = 0, 0, 0
    top, bottom, left, right = region
    many_darks, many_thresholds = dark.shape[0] > 1, threshold.shape[0] > 1
    words = np.zeros((2, -(-(right - left) // BLOCK)), np.uint64)
    # A row ahead, so that the row below a hit is in the cache when it is looked at.
    for ahead in range(top, bottom + 1):
        if ahead < bottom:
            darks = dark[ahead * many_darks, left:right]
            thresholds = threshold[ahead * many_thresholds, left:right]
            mark_hits(frame[ahead, left:right], darks, thresholds, words[ahead % 2])
        if ahead == top:
            continue
        row = ahead - 1
        for block in range(words.shape[1]):
            bits = words[row % 2, block]
            while bits:
                lowest = bits & (~bits + ONE)
                bits ^= lowest
                column = left + block * BLOCK + PLACE[(lowest * DE_BRUIJN) >> REST]
                if mask[row, column] or not is_valid(frame[row, column], marks):
                    continue
                hits += 1
                if hits > most_hits:
                    return hits, number, touching
                whole, beaten, total, along_y, along_x = look_around(
                    frame, marks, mask, dark, row, column
                )
                if not whole:
                    touching += is_maximum(frame, marks, mask, dark, row, column)
                    continue
                if beaten:
                    continue
                found[number, 0], found[number, 1] = row, column
                values[number, 0] = total
                within = (total > 0) & (abs(along_y) <= total) & (abs(along_x) <= total)
                values[number, 1] = along_y / total if within else 0.0
                values[number, 2] = along_x / total if within else 0.0
                number += 1
    return hits, number, touching


@kernel
def mark_hits(pixels: Pixels, darks: Pixels, thresholds: Pixels, words: NDArray[np.uint64]) -> None:
    """Set a bit for each pixel of a row that reaches its threshold above dark, the others to 0.

    It vectorises, so that the many pixels without a hit cost no more than being read.
    """
    for number in range(words.size):
        part = slice(number * BLOCK, min((number + 1) * BLOCK, pixels.size))
        words[number] = hit_bits(pixels[part], darks[part], thresholds[part])


@kernel
def hit_bits(pixels: Pixels, darks: Pixels, thresholds: Pixels) -> np.uint64:
    """Return which of at most 64 pixels reach their threshold above dark, a bit each."""
    bits = np.uint64(0)
    for i in range(pixels.size):
        above = pixels.dtype.type(pixels[i] - darks[i])
        hit = (pixels[i] >= darks[i]) & (above >= thresholds[i])
        bits |= np.uint64(hit) << np.uint64(i)
    return bits


@kernel
def look_around(
    frame: Pixels, marks: Marks, mask: Mask, dark: Pixels, row: int, column: int
) -> tuple[bool, bool, float, float, float]:
    """Look at the 3 x 3 pixels around one, without a branch.

    Returns
    -------
    Whether all of them are there and valid; if so, whether any but itself is larger
    less dark, or equal and before it; and the sum less dark, and that times the
    distance in y and in x.
    """
    rows, columns = frame.shape
    many_darks = dark.shape[0] > 1
    whole, beaten = True, False
    total, along_y, along_x = 0.0, 0.0, 0.0
    if (row < 1) | (column < 1) | (row + 1 >= rows) | (column + 1 >= columns):
        return False, False, 0.0, 0.0, 0.0
    own = np.float64(frame[row, column]) - np.float64(dark[row * many_darks, column])
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            y, x = row + dy, column + dx
            whole &= is_valid(frame[y, x], marks) & (not mask[y, x])
            value = np.float64(frame[y, x]) - np.float64(dark[y * many_darks, x])
            first = (dy < 0) | ((dy == 0) & (dx < 0))
            beaten |= (value > own) | (first & (value == own))
            total += value
            along_y += dy * value
            along_x += dx * value
    return whole, beaten, total, along_y, along_x


@kernel
def is_maximum(
    frame: Pixels, marks: Marks, mask: Mask, dark: Pixels, row: int, column: int
) -> bool:
    """Tell whether a pixel less dark is the maximum of the valid ones around it.

    Of equal ones the first in the order of rows and columns is.
    """
    rows, columns = frame.shape
    many_darks = dark.shape[0] > 1
    own = np.float64(frame[row, column]) - np.float64(dark[row * many_darks, column])
    for y in range(max(row - 1, 0), min(row + 2, rows)):
        for x in range(max(column - 1, 0), min(column + 2, columns)):
            value = np.float64(frame[y, x]) - np.float64(dark[y * many_darks, x])
            first = (y < row) | ((y == row) & (x < column))
            beats = (value > own) | (first & (value == own))
            # Rarely looked at, hence last: is it a pixel at all?
            if beats and is_valid(frame[y, x], marks) and not mask[y, x]:
                return False
    return True


@kernel
def count_hits(
    frame: Pixels, marks: Marks, mask: Mask, dark: Pixels, threshold: Pixels, region: Rectangle
) -> int:
    """Return the number of hit pixels of a region, as `find_candidates` counts them."""
    hits = 0
    top, bottom, left, right = region
    many_darks, many_thresholds = dark.shape[0] > 1, threshold.shape[0] > 1
    for row in range(top, bottom):
        pixels, darks = frame[row, left:right], dark[row * many_darks, left:right]
        thresholds, masked = threshold[row * many_thresholds, left:right], mask[row, left:right]
        for column in range(pixels.size):
            value = pixels[column]
            above = frame.dtype.type(value - darks[column])
            hit = (value >= darks[column]) & (above >= thresholds[column])
            hits += hit & is_valid(value, marks) & (not masked[column])
    return hits


@kernel
def flag_sharing(found: NDArray[np.int32], flag: NDArray[np.uint8]) -> None:
    """Flag maxima [row, column], in their order, that lie at most two pixels apart.

    Three places go along with each maximum: the first in its own row and in the two
    rows above that is not too far to the left. They only ever move on.
    """
    first = np.zeros(3, np.int64)
    for later in range(found.shape[0]):
        row, column = found[later]
        for up in range(3):
            i = first[up]
            while found[i, 0] < row - up or (found[i, 0] == row - up and found[i, 1] < column - 2):
                i += 1
            first[up] = i
            while i < later and found[i, 0] == row - up and found[i, 1] <= column + 2:
                flag[i] |= SHARING
                flag[later] |= SHARING
                i += 1
