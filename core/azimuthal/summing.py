"""Sums over bins: the passes over the pixels of a frame.

A pass goes through the frame in chunks that fit the first cache. What vectorises is
done for a chunk at a time: whether all its pixels count, and what each adds to
its bins. Adding does not vectorise; it is done without a branch. Bins are kept in
several copies, taken in turn: neighbouring pixels often fall into one bin, and
an addition to what was just stored waits for it.

Arrays of pixels are flat. `bins` holds the bin of each pixel, the last bin (the
spare one) for pixels that are in none; what is added there is never read.
`shares` (0 to 2, pixels) holds the shares of each pixel that fall into the next
bin and the one after it. Sums are (copies, bins + 1, 1 + number of shares): the
k-th of the last axis belongs k bins further on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel
from ..marks import Pixels
from .limits import Limits, is_usable

COPIES = 4
"""Copies of the sums; the kernels are written for so many."""
MOST_COPIED = 4096
"""Bins from which on there is one copy: more would not stay in the first cache."""
CHUNK = 512
"""Pixels that are looked at before they are added."""

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Index = NDArray[np.uint16 | np.uint32]


class Corrections(NamedTuple):
    """What is the same for all frames: (pixels,), or (1,) where all pixels are alike."""

    dark: Singles
    normalization: Singles


class Rest(NamedTuple):
    """Shares of pixels that lie in three bins or more, or partly in none. Of one length."""

    pixel: NDArray[np.uint32]
    bin: NDArray[np.uint32]
    share: Singles


class Notes(NamedTuple):
    """What passes over a frame find beside the sums."""

    numbers: NDArray[np.int64]
    """How many pixels do not count; whether a pixel that counts is negative."""
    odd: NDArray[np.uint32]
    """Pixels that do not count though they lie in a bin; the first `numbers[0]` are set."""


def new_notes(pixels: int) -> Notes:
    """Return notes for a frame of so many pixels; the list takes no memory until written."""
    return Notes(np.zeros(2, np.int64), np.empty(pixels, np.uint32))


def new_sums(bins: int, shares: int = 0, kind: Any = np.float64) -> NDArray[Any]:
    """Return sums of nothing, (copies, bins + 1, 1 + shares)."""
    copies = 1 if bins > MOST_COPIED else COPIES
    return np.zeros((copies, bins + 1, 1 + shares), kind)


def total(sums: NDArray[Any]) -> NDArray[Any]:
    """Return the sums in all copies, (bins,), without the spare bin."""
    each = sums.sum(axis=0)[:-1]
    result: NDArray[Any] = each[:, 0].copy()
    for further in range(1, each.shape[1]):
        result[further:] += each[:-further, further]
    return result


@kernel
def add_whole(
    pixels: Pixels, first: int, bins: Index, limits: Limits, sums: NDArray[Any], notes: Notes
) -> None:
    """Add each pixel to its bin as an integer; note those that do not count.

    Parameters
    ----------
    pixels
        A part of the frame, or all of it: integers of up to 4 bytes.
    first
        Number of its first pixel in the frame.
    bins
        Bin of each pixel of the frame.
    limits
        What counts.
    sums
        (copies, bins + 1, 1), int64.
    notes
        Are continued.
    """
    copies = sums.shape[0]
    sums_0, sums_1 = sums[0], sums[1 % copies]
    sums_2, sums_3 = sums[2 % copies], sums[3 % copies]
    spare = bins.dtype.type(sums.shape[1] - 1)
    for begin in range(0, pixels.size, CHUNK):
        values = pixels[begin : begin + CHUNK]
        places = bins[first + begin : first + begin + values.size]
        odd, below = False, False
        for at in range(values.size):
            inside, counts = places[at] != spare, is_usable(values[at], limits)
            odd |= inside & (not counts)
            below |= inside & counts & (values[at] < 0)
        notes.numbers[1] |= below
        fours = 0 if odd else values.size // 4
        for four in range(fours):
            # Unsigned: no negative number to be looked for from the end.
            i = np.uint64(4 * four)
            sums_0[places[i], 0] += values[i]
            i += np.uint64(1)
            sums_1[places[i], 0] += values[i]
            i += np.uint64(1)
            sums_2[places[i], 0] += values[i]
            i += np.uint64(1)
            sums_3[places[i], 0] += values[i]
        for at in range(4 * fours, values.size):
            if is_usable(values[at], limits):
                sums_0[places[at], 0] += values[at]
        if odd:
            _note(values, places, spare, first + begin, limits, notes)


@kernel
def _note(
    values: Pixels, places: Index, spare: Any, first: int, limits: Limits, notes: Notes
) -> None:
    """Note the pixels of a chunk that do not count."""
    found = notes.numbers[0]
    for at in range(values.size):
        if (places[at] != spare) & (not is_usable(values[at], limits)):
            notes.odd[found] = first + at
            found += 1
    notes.numbers[0] = found


@kernel
def add_signal(
    pixels: Pixels,
    first: int,
    bins: Index,
    shares: Singles,
    limits: Limits,
    sums: Floats,
    notes: Notes,
) -> None:
    """Share each pixel out over its bins; note those that do not count.

    Parameters
    ----------
    pixels, first, bins, limits, notes
        As in `add_whole`; the pixels are of any type.
    shares
        Of all pixels of the frame.
    sums
        Of float64.
    """
    spare = bins.dtype.type(sums.shape[1] - 1)
    chunk = np.empty(CHUNK)
    for begin in range(0, pixels.size, CHUNK):
        values = pixels[begin : begin + CHUNK]
        places = bins[first + begin : first + begin + values.size]
        odd = False
        for at in range(values.size):
            odd |= (places[at] != spare) & (not is_usable(values[at], limits))
        if not len(shares):
            below = False
            for at in range(values.size):
                inside, counts = places[at] != spare, is_usable(values[at], limits)
                below |= inside & counts & (values[at] < 0)
            notes.numbers[1] |= below
        if not odd:
            share_out(values, False, places, shares, first + begin, sums)
            continue
        for at in range(values.size):
            chunk[at] = values[at] if is_usable(values[at], limits) else 0
        _note(values, places, spare, first + begin, limits, notes)
        share_out(chunk, False, places, shares, first + begin, sums)


@kernel
def share_out(
    values: Pixels, squared: bool, places: Index, shares: Singles, first: int, sums: Floats
) -> None:
    """Add the values of a chunk times their shares, or the squares of these, to their bins.

    `first` is the chunk's first pixel in the frame.
    """
    columns, copies = shares.shape[0], sums.shape[0]
    sums_0, sums_1 = sums[0], sums[1 % copies]
    if columns == 0:
        for two in range(places.size // 2):
            i = np.uint64(2 * two)
            j = i + np.uint64(1)
            sums_0[places[i], 0] += values[i]
            sums_1[places[j], 0] += values[j]
    elif columns == 1:
        share_1 = shares[0][first : first + places.size]
        for two in range(places.size // 2):
            i = np.uint64(2 * two)
            _share(values[i], np.float64(share_1[i]), 0.0, 1, squared, places[i], sums_0)
            i += np.uint64(1)
            _share(values[i], np.float64(share_1[i]), 0.0, 1, squared, places[i], sums_1)
    else:
        share_1 = shares[0][first : first + places.size]
        share_2 = shares[1][first : first + places.size]
        for two in range(places.size // 2):
            i = np.uint64(2 * two)
            part, last = np.float64(share_1[i]), np.float64(share_2[i])
            _share(values[i], part, last, 2, squared, places[i], sums_0)
            i += np.uint64(1)
            part, last = np.float64(share_1[i]), np.float64(share_2[i])
            _share(values[i], part, last, 2, squared, places[i], sums_1)
    if places.size % 2:
        i = np.uint64(places.size - 1)
        odd_part = np.float64(shares[0, first + i] if columns > 0 else 0)
        odd_last = np.float64(shares[1, first + i] if columns > 1 else 0)
        _share(values[i], odd_part, odd_last, columns, squared, places[i], sums_0)


@kernel
def _share(
    value: Any, part: float, last: float, columns: int, squared: bool, place: Any, sums: Floats
) -> None:
    """Add a value times its shares, of which `part` and `last` are those of the next bins."""
    left = 1 - part - last
    if squared:
        part, last, left = part * part, last * last, left * left
    sums[place, 0] += value * left
    if columns > 0:
        sums[place, 1] += value * part
    if columns > 1:
        sums[place, 2] += value * last


@kernel
def add_to_bins(
    near: Floats, further: Floats, last: Floats, columns: int, places: Index, sums: Floats
) -> None:
    """Add values, one to three for each pixel of a chunk, to their bins."""
    copies = sums.shape[0]
    sums_0, sums_1 = sums[0], sums[1 % copies]
    for two in range(places.size // 2):
        i = np.uint64(2 * two)
        j = i + np.uint64(1)
        sums_0[places[i], 0] += near[i]
        sums_1[places[j], 0] += near[j]
        if columns > 1:
            sums_0[places[i], 1] += further[i]
            sums_1[places[j], 1] += further[j]
        if columns > 2:
            sums_0[places[i], 2] += last[i]
            sums_1[places[j], 2] += last[j]
    if places.size % 2:
        i = np.uint64(places.size - 1)
        sums_0[places[i], 0] += near[i]
        if columns > 1:
            sums_0[places[i], 1] += further[i]
        if columns > 2:
            sums_0[places[i], 2] += last[i]


@kernel
def add_rest(
    pixels: Pixels, rest: Rest, corrections: Corrections, limits: Limits, sums: Floats, lost: Floats
) -> None:
    """Add the shares of the pixels that lie in many bins, or to `lost` if they do not count.

    Parameters
    ----------
    pixels
        The whole frame.
    sums
        (copies, bins + 1, at least 1), of the pixels.
    lost
        (4, bins + 1): sums of what is missing, as in `lose`.
    """
    dark, normalization = corrections
    copies = sums.shape[0]
    for entry in range(rest.pixel.size):
        pixel, share = rest.pixel[entry], np.float64(rest.share[entry])
        if is_usable(pixels[pixel], limits):
            sums[pixel % copies, rest.bin[entry], 0] += share * pixels[pixel]
        else:
            weight = normalization[pixel * (normalization.size > 1)]
            _lose(lost, rest.bin[entry], share, weight, dark[pixel * (dark.size > 1)])


@kernel
def lose(
    odd: NDArray[np.uint32], bins: Index, shares: Singles, corrections: Corrections, lost: Floats
) -> None:
    """Sum up what is missing because pixels do not count.

    Parameters
    ----------
    odd
        Those pixels.
    bins, shares
        As in `add_signal`.
    lost
        (4, bins + 1): sums of the share, of the share times normalization, of the
        square of that, and of the share times dark.
    """
    dark, normalization = corrections
    for pixel in odd:
        place, left = int(bins[pixel]), 1.0
        weight = normalization[pixel * (normalization.size > 1)]
        below = dark[pixel * (dark.size > 1)]
        for column in range(shares.shape[0]):
            share = np.float64(shares[column, pixel])
            left -= share
            if share:
                _lose(lost, place + column + 1, share, weight, below)
        _lose(lost, place, left, weight, below)


@kernel
def _lose(lost: Floats, place: int, share: float, weight: float, dark: float) -> None:
    lost[0, place] += share
    lost[1, place] += share * weight
    lost[2, place] += (share * weight) ** 2
    lost[3, place] += share * dark
