"""Sigma clipping on rings: the background of a frame with Bragg spots, by radius.

A pixel of signal `s` (counts less dark) and normalization `w` (flat, solid angle,
polarisation, absorption) has the value `x = s / w`. Over the pixels of a ring that
are left, `n` of them,

    mean = sum(s) / sum(w),      deviation = sqrt(sum(v) / sum(w^2)),

with a pixel's variance `v` by the error model. In each of at most `cycles` cycles
the pixels outside the ring's band are taken away for good; it ends when none was,
or when none would be left: a ring with one usable pixel or more never ends empty.
The cutoff is Chauvenet's, or the given one where that is greater,

    cut = max(cutoff_clip, sqrt(2 ln(max(n, 3) / sqrt(2 pi)))).

===================  ==============================================  ====================
error model          v, the variance of a pixel                      band
===================  ==============================================  ====================
``poisson``          mean w + max(dark, 0): that of Poisson counts   quantiles of Poisson
                     on the ring's mean, of no pixel's own count
``poisson-classic``  max(counts, 1) of each pixel, as pyFAI          mean +- cut deviation
``azimuthal``        w^2 (x - mean)^2: the scatter in the ring       mean +- cut deviation
``hybrid``           ``azimuthal``; when it has ended, the           mean +- cut deviation
                     deviation told is ``poisson-classic``'s
formula              formula(counts) of each pixel, at least 0       mean +- cut deviation
===================  ==============================================  ====================

The band of ``poisson`` goes from `mean - shortfall(mu, cut) / W` to
`mean + excess(mu, cut) / W` (see `quantile`), where `W = sum(w^2) / sum(w)` is the
ring's normalization and `mu = (deviation W)^2` its mean count, dark included. So it
takes pixels for counts; those of float frames may lie between whole numbers.

pyFAI starts from the mean of all pixels, which one spot can lift off the background
so far that every pixel lies outside the band. Here the first mean and deviation are
those of the pixels in a window about the median `M`, as far below as above,

    |x - M| <= ln(2) / W + 6 max(1.4826 D, sqrt((|M| + ln(2) / W) / W)).

`M` is that of up to 32 pixels spread over the ring (of two in the middle the one
nearer to 0, as half of a ring may be a peak, or counters that wrapped), `D` the median
distance from it: a Poisson mean lies at most ln(2) over its median (Choi 1994). The
window takes no pixel away. If it leaves none out, the start is pyFAI's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.errors import ErrorModel
from ..azimuthal.formula import Formula
from ..compute.jit import kernel
from .quantile import Quantiles, limits_of_clipping

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

ROOT_TWO_PI = math.sqrt(2 * math.pi)
LN_2 = math.log(2)
FEWEST = 3
"""Pixels of a ring that Chauvenet's criterion takes at least."""
WINDOW = 6.0
"""Deviations from the median beyond which a pixel is not in the first mean."""
MAD = 1.4826
"""Standard deviation of a Gaussian in terms of its median absolute deviation."""


class Model(IntEnum):
    """Error models as kernels take them."""

    POISSON = 0
    CLASSIC = 1
    AZIMUTHAL = 2
    HYBRID = 3
    FORMULA = 4


_MODELS = {
    ErrorModel.POISSON: Model.POISSON,
    ErrorModel.POISSON_CLASSIC: Model.CLASSIC,
    ErrorModel.AZIMUTHAL: Model.AZIMUTHAL,
    ErrorModel.HYBRID: Model.HYBRID,
}
POISSON, CLASSIC = int(Model.POISSON), int(Model.CLASSIC)
AZIMUTHAL, HYBRID = int(Model.AZIMUTHAL), int(Model.HYBRID)


def clipping_model(model: ErrorModel | Formula) -> Model:
    """Return what kernels take for an error model.

    Raises
    ------
    ValueError
        If it tells no errors: nothing can be clipped without.
    """
    if isinstance(model, Formula):
        return Model.FORMULA
    if model not in _MODELS:
        raise ValueError(f"error model {model} tells no deviation to clip by")
    return _MODELS[model]


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """The background of a frame by radius; NaN on a ring without a usable pixel."""

    average: Singles
    """Mean of I / normalization of the pixels left, (bins,)."""
    deviation: Singles
    """Standard deviation of a pixel about it, (bins,)."""
    count: NDArray[np.int64]
    """Pixels left after clipping, (bins,)."""
    totals: Floats
    """Sums of I and of normalization over all usable pixels, clipped or not, (2, bins)."""

    def filled(self) -> tuple[Singles, Singles]:
        """Return average and deviation, rings without pixels bridged from those beside them."""
        known = np.isfinite(self.average) & np.isfinite(self.deviation)
        if known.all() or not known.any():
            return self.average, self.deviation
        bins = np.arange(known.size)
        average, deviation = (
            np.interp(bins, bins[known], values[known]).astype(np.float32)
            for values in (self.average, self.deviation)
        )
        return average, deviation


class Sums(NamedTuple):
    """What is known of a set of pixels of a ring."""

    number: int
    signal: float
    norm: float
    norm_squared: float
    variance: float
    """Sum of the pixels' own terms of the variance: see `variance_term`."""
    shifted_norm: float
    """Sum of (s - reference w) w."""
    shifted_squared: float
    """Sum of (s - reference w)^2."""


class Clipping(NamedTuple):
    """Settings of the clipping, as kernels take them."""

    model: int
    cycles: int
    cutoff: float
    tables: Quantiles


class Pixels(NamedTuple):
    """Pixels of one ring that are looked at one by one, (room,) each."""

    value: Floats
    signal: Floats
    norm: Floats
    variance: Floats


class Clipped(NamedTuple):
    """What is left of a ring."""

    average: float
    deviation: float
    number: int
    lowest: float
    """Highest lower end of a band that was used; -infinity if none was."""
    highest: float
    """Lowest upper end."""


@kernel
def chauvenet(count: int, cutoff: float) -> float:
    """Return the cutoff of a ring with that many pixels left."""
    return max(cutoff, math.sqrt(2 * math.log(max(count, FEWEST) / ROOT_TWO_PI)))


@kernel
def deviation_of(sums: Sums, model: int, reference: float) -> float:
    """Return the standard deviation of a pixel's value by an error model."""
    if model in (AZIMUTHAL, HYBRID):
        distance = sums.signal / sums.norm - reference
        total = (
            sums.shifted_squared
            - 2 * distance * sums.shifted_norm
            + distance * distance * sums.norm_squared
        )
    elif model == POISSON:
        total = sums.signal + sums.variance
    else:
        total = sums.variance
    return math.sqrt(max(total, 0.0) / sums.norm_squared)


@kernel
def band_of(sums: Sums, deviation: float, cutoff: float, clipping: Clipping) -> tuple[float, float]:
    """Return the lower and the upper end of the values that stay."""
    mean = sums.signal / sums.norm
    if clipping.model != POISSON:
        return mean - cutoff * deviation, mean + cutoff * deviation
    norm = sums.norm_squared / sums.norm
    scaled = deviation * norm
    below, above = limits_of_clipping(clipping.tables, cutoff, scaled * scaled)
    return mean - below / norm, mean + above / norm


@kernel
def sum_up(base: Sums, pixels: Pixels, left: int, reference: float, window: float) -> Sums:
    """Return the sums of the base and of the first pixels left, of values near the reference."""
    number, signal, norm, norm_squared, variance, shifted, square = base
    for index in range(left):
        if not abs(pixels.value[index] - reference) <= window:
            continue
        weight = pixels.norm[index]
        distance = pixels.signal[index] - reference * weight
        number += 1
        signal += pixels.signal[index]
        norm += weight
        norm_squared += weight * weight
        variance += pixels.variance[index]
        shifted += distance * weight
        square += distance * distance
    return Sums(number, signal, norm, norm_squared, variance, shifted, square)


@kernel
def clip_ring(
    base: Sums, pixels: Pixels, number: int, reference: float, window: float, clipping: Clipping
) -> Clipped:
    """Clip a ring.

    Parameters
    ----------
    base
        Sums of pixels that no band takes away; the caller looks at `lowest` and
        `highest` to see whether that holds. It may be empty.
    pixels
        The others; they are put into another order.
    number
        Of the others.
    reference
        Value near the background: squares are summed about it, to keep their digits.
    window
        Greatest distance from it of a value in the first mean.
    """
    left, lowest, highest = number, -np.inf, np.inf
    if base.number + left == 0:
        return Clipped(np.nan, np.nan, 0, lowest, highest)
    sums = sum_up(base, pixels, left, reference, window)
    if sums.number == 0:
        sums = sum_up(base, pixels, left, reference, np.inf)
    for _ in range(clipping.cycles):
        deviation = deviation_of(sums, clipping.model, reference)
        cut = chauvenet(base.number + left, clipping.cutoff)
        low, high = band_of(sums, deviation, cut, clipping)
        if base.number > 0 and (low > lowest or high < highest):
            lowest, highest = max(low, lowest), min(high, highest)
        stay = 0
        for index in range(left):
            value = pixels.value[index]
            stay += (value >= low) & (value <= high)
        if stay == left or base.number + stay == 0:
            break
        left = take_away(pixels, left, low, high)
        sums = sum_up(base, pixels, left, reference, np.inf)
    sums = sum_up(base, pixels, left, reference, np.inf)
    model = CLASSIC if clipping.model == HYBRID else clipping.model
    average = sums.signal / sums.norm
    return Clipped(average, deviation_of(sums, model, reference), sums.number, lowest, highest)


@kernel
def take_away(pixels: Pixels, left: int, low: float, high: float) -> int:
    """Close up the pixels within a band; return how many they are."""
    stay = 0
    for index in range(left):
        value = pixels.value[index]
        if (value >= low) & (value <= high):
            pixels.value[stay] = value
            pixels.signal[stay] = pixels.signal[index]
            pixels.norm[stay] = pixels.norm[index]
            pixels.variance[stay] = pixels.variance[index]
            stay += 1
    return stay


@kernel
def variance_term(model: int, counts: Any, dark: float, formula: float) -> float:
    """Return what a pixel adds to `Sums.variance`."""
    if model == POISSON:
        return max(dark, 0.0)
    if model in (CLASSIC, HYBRID):
        return max(float(counts), 1.0)
    return formula if formula > 0 else 0.0
