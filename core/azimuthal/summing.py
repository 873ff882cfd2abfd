"""Sums over bins: the passes over the pixels of a frame.

A pass goes through the frame in chunks that fit the first cache. What vectorises is
done for a chunk at a time: whether all its pixels count, and what each adds to
its bins. Adding does not vectorise; it is done without a branch. Bins are kept in
several copies, taken in turn: neighbouring pixels often fall into one bin, and
an addition to what was just stored waits for it.

Arrays of pixels are flat. `bins` holds the bin of each pixel, the last bin (the
spare one) for pixels that are in none; what is added there is never read.
`shares` (0 to 2, pixels) holds the shares of each pixel that fall into the next
bin and the one after it. Sums are (copies, bins + 1, lanes): the k-th lane belongs
k bins further on, and all lanes of a pixel are added at once. With the variance there
are twice as many, its own behind those of the pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel
from ..compute.vectors import add_products, add_products_and_squares
from ..marks import Pixels
from .limits import Limits, is_usable

COPIES = 4
"""Copies of the sums, two where pixels are shared out; the kernels are written for so many."""
MOST_COPIED = 4096
"""Bins from which on there is one copy: more would not stay in the first cache."""
LANES = (1, 2, 4)
"""Sums of a bin by the number of shares: a vector has no three."""
CHUNK = 2048
"""Pixels that are looked at before they are added."""
BLOCK = 128
"""Pixels of a chunk that are looked at one by one if any of them is not plain."""

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Index = NDArray[np.uint16 | np.uint32]
Sums = TypeVar("Sums", Floats, NDArray[np.int64])


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


def new_sums(bins: int, shares: int = 0, variance: bool = False) -> Floats:
    """Return sums of nothing, (copies, bins + 1, lanes); with room for the variance or not."""
    copies = 1 if bins > MOST_COPIED else COPIES if shares == 0 else 2
    return np.zeros((copies, bins + 1, LANES[shares] * (1 + variance)))


def total(sums: Sums) -> Sums:
    """Return the sums in all copies and lanes, (bins,), without the spare bin."""
    each = sums.sum(axis=0)[:-1]
    result = each[:, 0].copy()
    for further in range(1, each.shape[1]):
        result[further:] += each[:-further, further]
    return cast(Sums, result)


@kernel
def _all_plain(values: Pixels, places: Index, spare: Any, limits: Limits) -> bool:
    """Tell of a chunk whether all pixels in bins count and none is negative, if that is plain."""
    odd = False
    for at in range(values.size):
        plain = (values[at] >= limits.plain_low) & (values[at] <= limits.plain_high)
        odd |= (places[at] != spare) & (not plain)
    return not odd


@kernel
def _note(
    values: Pixels, places: Index, spare: Any, first: int, limits: Limits, notes: Notes
) -> bool:
    """Note the pixels of a chunk in bins that do not count; return whether there are any.

    `first` is the chunk's first pixel in the frame.
    """
    found, before = notes.numbers[0], notes.numbers[0]
    below = False
    for begin in range(0, values.size, BLOCK):
        block, lie_in = values[begin : begin + BLOCK], places[begin : begin + BLOCK]
        if _all_plain(block, lie_in, spare, limits):
            continue
        for at in range(block.size):
            if lie_in[at] != spare:
                if is_usable(block[at], limits):
                    below |= block[at] < 0
                else:
                    notes.odd[found] = first + begin + at
                    found += 1
    notes.numbers[0] = found
    notes.numbers[1] |= below
    return bool(found > before)


@kernel
def add_whole(
    pixels: Pixels, bins: Index, limits: Limits, sums: NDArray[np.int64], notes: Notes
) -> None:
    """Add each pixel to its bin as an integer; note those that do not count.

    Parameters
    ----------
    pixels
        The frame: integers of up to 4 bytes.
    bins
        Bin of each pixel.
    limits
        What counts.
    sums
        (copies, bins + 1, 1).
    notes
        Are continued.
    """
    spare = bins.dtype.type(sums.shape[1] - 1)
    chunk = np.empty(CHUNK, pixels.dtype)
    for begin in range(0, pixels.size, CHUNK):
        values, places = pixels[begin : begin + CHUNK], bins[begin : begin + CHUNK]
        odd = not _all_plain(values, places, spare, limits)
        if odd and _note(values, places, spare, begin, limits, notes):
            for at in range(values.size):
                chunk[at] = values[at] if is_usable(values[at], limits) else 0
            _add_whole(chunk, places, sums)
        else:
            _add_whole(values, places, sums)


@kernel
def _add_whole(values: Pixels, places: Index, sums: NDArray[np.int64]) -> None:
    """Add the values of a chunk to their bins."""
    copies = sums.shape[0]
    sums_0, sums_1 = sums[0], sums[1 % copies]
    sums_2, sums_3 = sums[2 % copies], sums[3 % copies]
    fours = places.size // 4
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
    for at in range(4 * fours, places.size):
        sums_0[places[at], 0] += values[at]


@kernel
def add_shared(
    pixels: Pixels,
    variance: Pixels | None,
    floor: float,
    bins: Index,
    shares: Singles,
    limits: Limits,
    sums: Floats,
    notes: Notes,
) -> None:
    """Share each pixel out over its bins, and its variance by the squares of its shares.

    Parameters
    ----------
    pixels, bins, limits, notes
        As in `add_whole`; the pixels are of any type.
    variance
        Of each pixel; None: `sums` have no room for it.
    floor
        The least that a variance is taken for.
    shares
        Of all pixels of the frame.
    sums
        Of the pixels, and of the variance behind them.
    """
    spare = bins.dtype.type(sums.shape[1] - 1)
    chunk, weights = np.empty(CHUNK), np.empty(CHUNK)
    for begin in range(0, pixels.size, CHUNK):
        values, places = pixels[begin : begin + CHUNK], bins[begin : begin + CHUNK]
        odd = not _all_plain(values, places, spare, limits)
        odd = odd and _note(values, places, spare, begin, limits, notes)
        if variance is None:
            if odd:
                _copy(values, values, 0.0, limits, chunk, weights)
                _share_out(chunk, None, 0.0, places, shares, begin, sums)
            else:
                _share_out(values, None, 0.0, places, shares, begin, sums)
        else:
            told = variance[begin : begin + CHUNK]
            if odd:
                _copy(values, told, floor, limits, chunk, weights)
                _share_out(chunk, weights, -np.inf, places, shares, begin, sums)
            else:
                _share_out(values, told, floor, places, shares, begin, sums)


@kernel
def _copy(
    values: Pixels, told: Pixels, floor: float, limits: Limits, chunk: Floats, weights: Floats
) -> None:
    """Copy a chunk and its variance, 0 where pixels do not count."""
    for at in range(values.size):
        counts = is_usable(values[at], limits)
        chunk[at] = values[at] if counts else 0
        weights[at] = max(np.float64(told[at]), floor) if counts else 0


@kernel
def _share_out(
    values: Pixels,
    weights: Pixels | None,
    floor: float,
    places: Index,
    shares: Singles,
    first: int,
    sums: Floats,
) -> None:
    """Add the values of a chunk times their shares; `first` is its first pixel in the frame."""
    columns, copies = shares.shape[0], sums.shape[0]
    sums_0, sums_1 = sums[0].reshape(-1), sums[1 % copies].reshape(-1)
    twos = places.size // 2
    if columns == 0:
        for two in range(twos):
            i = np.uint64(2 * two)
            _add(values, weights, floor, places, (1.0,), i, sums_0)
            i += np.uint64(1)
            _add(values, weights, floor, places, (1.0,), i, sums_1)
    elif columns == 1:
        share = shares[0][first : first + places.size]
        for two in range(twos):
            i = np.uint64(2 * two)
            _add(values, weights, floor, places, _two(share[i]), i, sums_0)
            i += np.uint64(1)
            _add(values, weights, floor, places, _two(share[i]), i, sums_1)
    else:
        share, last = shares[0][first : first + places.size], shares[1][first : first + places.size]
        for two in range(twos):
            i = np.uint64(2 * two)
            _add(values, weights, floor, places, _three(share[i], last[i]), i, sums_0)
            i += np.uint64(1)
            _add(values, weights, floor, places, _three(share[i], last[i]), i, sums_1)
    if places.size % 2:
        i = np.uint64(places.size - 1)
        if columns == 0:
            _add(values, weights, floor, places, (1.0,), i, sums_0)
        elif columns == 1:
            _add(values, weights, floor, places, _two(shares[0, first + i]), i, sums_0)
        else:
            both = _three(shares[0, first + i], shares[1, first + i])
            _add(values, weights, floor, places, both, i, sums_0)


@kernel
def _two(share: float) -> tuple[float, float]:
    further = np.float64(share)
    return 1 - further, further


@kernel
def _three(share: float, last: float) -> tuple[float, float, float, float]:
    further, furthest = np.float64(share), np.float64(last)
    return 1 - further - furthest, further, furthest, 0.0


@kernel
def _add(
    values: Pixels,
    weights: Pixels | None,
    floor: float,
    places: Index,
    shares: Any,
    at: Any,
    sums: Floats,
) -> None:
    """Add one pixel of a chunk to all its lanes."""
    lanes, value = np.uint64(len(shares)), np.float64(values[at])
    if weights is None:
        add_products(sums, places[at] * lanes, value, shares)
    else:
        weight = max(np.float64(weights[at]), floor)
        place = np.uint64(places[at]) * (2 * lanes)
        add_products_and_squares(sums, place, value, weight, shares)


@kernel
def add_to_bins(
    near: Floats, further: Floats, last: Floats, columns: int, places: Index, sums: Floats
) -> None:
    """Add values, one to three for each pixel of a chunk, to their bins."""
    copies = sums.shape[0]
    sums_0, sums_1 = sums[0].reshape(-1), sums[1 % copies].reshape(-1)
    for at in range(places.size):
        place, into = np.uint64(places[at]), sums_1 if at % 2 else sums_0
        if columns == 0:
            add_products(into, place, 1.0, (near[at],))
        elif columns == 1:
            add_products(into, place * np.uint64(2), 1.0, (near[at], further[at]))
        else:
            each = (near[at], further[at], last[at], 0.0)
            add_products(into, place * np.uint64(4), 1.0, each)


@kernel
def add_rest(
    pixels: Pixels,
    variance: Pixels | None,
    floor: float,
    rest: Rest,
    corrections: Corrections,
    limits: Limits,
    sums: Floats,
    lost: Floats,
) -> None:
    """Add the shares of the pixels that lie in many bins, or to `lost` if they do not count.

    Parameters
    ----------
    pixels, variance, floor
        As in `add_shared`.
    sums
        (2, bins): of the pixels, and of the variance.
    lost
        (4, bins + 1): sums of what is missing, as in `lose`.
    """
    dark, normalization = corrections
    for entry in range(rest.pixel.size):
        pixel, place, share = rest.pixel[entry], rest.bin[entry], np.float64(rest.share[entry])
        if is_usable(pixels[pixel], limits):
            sums[0, place] += share * pixels[pixel]
            if variance is not None:
                sums[1, place] += share * share * max(np.float64(variance[pixel]), floor)
        else:
            weight = normalization[pixel * (normalization.size > 1)]
            _lose(lost, place, share, weight, dark[pixel * (dark.size > 1)])


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
