"""Quantiles of Poisson's law as smooth functions of its mean.

A count `k` on a mean of `mu` lies above the cutoff `c` if fewer than a Gaussian's
one-sided tail of all counts reach it,

    P(X >= k | mu) < alpha(c),      alpha(c) = (1 - erf(c / sqrt(2))) / 2,

and below it if P(X <= k | mu) < alpha(c). With the regularized incomplete gamma
functions P and Q these probabilities are P(k, mu) and Q(k + 1, mu), which are
smooth in k. So there is a real `k` where each is just alpha: the limits

    upper(mu, c) = mu + excess(mu, c),      lower(mu, c) = mu - shortfall(mu, c).

A whole count is above (below) the cutoff exactly if it is greater (less) than its
limit; the gamma function continues this to what is no whole number. The limits lie
in tables, linear in between in log2(mu) and in c, and beyond `MOST` counts follow
the expansion of Cornish and Fisher (1938) up to 1/sqrt(mu),

    c sqrt(mu) +- (c^2 - 1) / 6 + 1/2 + (c - c^3) / (72 sqrt(mu)),

which goes over into a Gaussian's c sqrt(mu). Half a count is what whole numbers
add. Cutoffs over `LARGEST` reckon as that (alpha is no normal number beyond).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincc, ndtr

from ..compute.jit import kernel

Floats = NDArray[np.float64]

LARGEST = 37.0
"""Greatest cutoff."""
MOST = 2.0**20
"""Mean from which on the expansion is used, in counts."""
HIGHEST = 20
"""Its binary logarithm."""
LOWEST = -30
"""Binary logarithm of the least mean of the table; smaller ones reckon as that."""
FINE, COARSE = 128, 8
"""Entries to a factor of two of the mean: for picking, for clipping."""
CUT_STEP = 0.25
"""From one cutoff of the table for clipping to the next."""


class Quantiles(NamedTuple):
    """Tables of both limits for many cutoffs: 0, CUT_STEP, 2 CUT_STEP and so on."""

    excess: Floats
    """Upper limit less the mean, (cutoffs, means) in counts."""
    shortfall: Floats
    """The mean less the lower limit, (cutoffs, means) in counts."""


def means(steps: int) -> Floats:
    """Return the means of a table with that many entries to a factor of two, in counts."""
    return np.exp2(np.arange(LOWEST * steps, HIGHEST * steps + 1) / steps)


def solve(tail: Any, mean: Floats, upper: bool) -> Floats:
    """Return the excess or the shortfall of means at a tail's probability, by bisection."""
    most = mean + 40 * np.sqrt(mean) + 1500
    low, high = np.full(mean.shape, 0.0 if upper else -1.0), (most if upper else mean.copy())
    for _ in range(64):
        middle = (low + high) / 2
        beyond = gammainc(middle, mean) < tail if upper else gammaincc(middle + 1, mean) > tail
        high = np.where(beyond, middle, high)
        low = np.where(beyond, low, middle)
    return high - mean if upper else mean - low


@lru_cache(maxsize=32)
def picking_table(cutoff: float) -> Floats:
    """Return the excess at one cutoff, (means,) with `FINE` steps."""
    return _frozen(np.maximum(solve(ndtr(-min(cutoff, LARGEST)), means(FINE), True), 0))


def clipping_tables(largest: float) -> Quantiles:
    """Return tables for cutoffs from 0 to at least the largest, with `COARSE` steps."""
    return _tables_of(math.ceil(min(largest, LARGEST) / CUT_STEP) + 2)


@lru_cache(maxsize=8)
def _tables_of(count: int) -> Quantiles:
    upper, lower = zip(*map(_row, range(count)), strict=True)
    # Close to a cutoff of 0 and a mean of 0 the median may lie beyond the mean.
    return Quantiles(_frozen(np.maximum(upper, 0)), _frozen(np.maximum(lower, 0)))


@lru_cache(maxsize=256)
def _row(number: int) -> tuple[Floats, Floats]:
    """Return excess and shortfall at a cutoff; tables of every size have the same first rows."""
    tail = ndtr(-CUT_STEP * number)
    return solve(tail, means(COARSE), True), solve(tail, means(COARSE), False)


def _frozen(table: Floats) -> Floats:
    table = np.ascontiguousarray(table)
    table.flags.writeable = False
    return table


@kernel
def expansion(mean: float, cutoff: float, side: float) -> float:
    """Return the excess (side 1) or the shortfall (side -1) at a large mean."""
    root = math.sqrt(mean)
    skew = side * (cutoff * cutoff - 1) / 6
    return cutoff * root + skew + 0.5 + (cutoff - cutoff * cutoff * cutoff) / (72 * root)


@kernel
def excess(table: Floats, cutoff: float, mean: float) -> float:
    """Return how far above the mean the upper limit lies, in counts; `table` is for the cutoff."""
    if mean >= MOST:
        return float(expansion(mean, min(cutoff, LARGEST), 1.0))
    if not mean > 0:
        return float(table[0])
    place = (math.log2(mean) - LOWEST) * FINE
    if place <= 0:
        return float(table[0])
    first = min(int(place), table.size - 2)
    share = place - first
    return float(table[first] * (1 - share) + table[first + 1] * share)


@kernel
def limits_of_clipping(tables: Quantiles, cutoff: float, mean: float) -> tuple[float, float]:
    """Return the shortfall and the excess at any cutoff, in counts."""
    cutoff = min(cutoff, LARGEST)
    if mean >= MOST:
        return expansion(mean, cutoff, -1.0), expansion(mean, cutoff, 1.0)
    place = 0.0
    if mean > 0:
        place = max((math.log2(mean) - LOWEST) * COARSE, 0.0)
    column = min(int(place), tables.excess.shape[1] - 2)
    row = min(int(cutoff / CUT_STEP), tables.excess.shape[0] - 2)
    along, across = place - column, cutoff / CUT_STEP - row
    return (
        _bilinear(tables.shortfall, row, column, across, along),
        _bilinear(tables.excess, row, column, across, along),
    )


@kernel
def _bilinear(table: Floats, row: int, column: int, across: float, along: float) -> float:
    near = table[row, column] * (1 - along) + table[row, column + 1] * along
    far = table[row + 1, column] * (1 - along) + table[row + 1, column + 1] * along
    return float(near * (1 - across) + far * across)
