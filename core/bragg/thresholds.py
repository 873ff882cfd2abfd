"""What stands out from the background at a pixel's radius.

A pixel of signal `s` and normalization `w` (see `clipping`) stands out if

    s / w - average > max(noise, D).

The background is interpolated linearly between the middles of rings at the pixel's
radius, and constant beyond the outermost ones. The distance `D` is

    poisson:       sqrt((excess(mu, cutoff) / w)^2 + (cutoff noise)^2)
    other models:  cutoff sqrt(deviation^2 + noise^2)

with `mu = average w + max(dark, 0)` and the excess of Poisson's quantile over its mean
(see `quantile`). Without noise, `poisson` keeps a count exactly if fewer than a
Gaussian's one-sided tail of the cutoff of all counts on that background reach it, also
far below one count per pixel. At many counts the excess is the cutoff times the
deviation and half a count: both rows become the same. `noise`, in units of s / w, adds
in quadrature, and nothing nearer to the background than it stands out. It is meant for
what is no counting statistics, as of readout or of a background that is not round; 0
suits a counting detector.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..azimuthal.limits import is_saturated, is_usable
from ..compute.jit import kernel
from .clipping import Background, Floats, Model
from .layout import dark_at, norm_at
from .quantile import excess, picking_table

MARGIN = 1e-4
"""Share of the distance by which a ring's least threshold is lowered, for rounding."""


class Rule(NamedTuple):
    """When a pixel stands out, as kernels take it."""

    poisson: bool
    cutoff: float
    noise: float
    table: Floats
    """Excess at the cutoff."""


class Profile(NamedTuple):
    """The background on the radial axis, as kernels take it; it has no gaps."""

    average: Any
    deviation: Any
    first: float
    """Middle of the first ring."""
    width: float
    """Of a ring."""


def make_rule(model: Model, cutoff: float, noise: float) -> Rule:
    """Return the rule of an error model, a cutoff in deviations, and a noise."""
    return Rule(model is Model.POISSON, cutoff, noise, picking_table(cutoff))


def make_profile(background: Background, first: float, width: float) -> Profile:
    """Return a background on rings whose first middle and width are given."""
    return Profile(*background.filled(), float(first), float(width))


@kernel
def background_at(profile: Any, radius: float) -> tuple[float, float]:
    """Return average and deviation at a radius."""
    last = profile.average.size - 1
    place = min(max((radius - profile.first) / profile.width, 0.0), float(last))
    ring = int(place)
    if ring >= last:
        return float(profile.average[last]), float(profile.deviation[last])
    share = place - ring
    return (
        profile.average[ring] * (1 - share) + profile.average[ring + 1] * share,
        profile.deviation[ring] * (1 - share) + profile.deviation[ring + 1] * share,
    )


@kernel
def distance(average: float, deviation: float, norm: float, dark: float, rule: Any) -> float:
    """Return how far above the background a pixel stands out, in units of s / w."""
    if rule.poisson:
        mean = max(average, 0.0) * norm + max(dark, 0.0)
        above = excess(rule.table, rule.cutoff, mean) / norm
        lift = rule.cutoff * rule.noise
        return float(max(rule.noise, math.sqrt(above * above + lift * lift)))
    noise = rule.noise
    return float(max(noise, rule.cutoff * math.sqrt(deviation * deviation + noise * noise)))


@kernel
def least_thresholds(profile: Any, largest_norm: Any, rule: Any, least: Any) -> None:
    """Find for each ring what no pixel of it that stands out lies below, in units of s / w.

    A pixel's radius is between the middles of its ring and of one beside it. The
    threshold grows with average, deviation and dark; the excess over the
    normalization falls where that grows.
    """
    bins = profile.average.size
    for ring in range(bins):
        average, deviation = np.inf, np.inf
        for beside in range(max(ring - 1, 0), min(ring + 2, bins)):
            average = min(average, float(profile.average[beside]))
            deviation = min(deviation, float(profile.deviation[beside]))
        norm = largest_norm[ring] if largest_norm[ring] > 0 else 1.0
        far = distance(average, deviation, norm, 0.0, rule)
        least[ring] = average - MARGIN * abs(average) * 0.01 + far * (1 - MARGIN)


# ------------------------------------------------------------------- one pixel


class View(NamedTuple):
    """A frame on its background, as kernels take it."""

    pixels: Any
    ring: Any
    radius: Any
    profile: Any
    limits: Any
    columns: int


@kernel
def deviates(view: Any, norm: Any, dark: Any, pixel: Any, noise: float) -> tuple[float, float]:
    """Return how far a pixel lies above the background, and its error."""
    average, deviation = background_at(view.profile, view.radius[pixel])
    signal = float(view.pixels[pixel]) - dark_at(dark, pixel)
    return signal / norm_at(norm, pixel) - average, np.sqrt(deviation * deviation + noise * noise)


@kernel
def counts(view: Any, pixel: Any) -> bool:
    """Tell whether a pixel is on a ring and usable."""
    on_ring = view.ring[pixel] < view.profile.average.size
    return bool(on_ring and is_usable(view.pixels[pixel], view.limits))


@kernel
def overflows(view: Any, pixel: Any) -> bool:
    """Tell whether a pixel is on a ring and saturated."""
    on_ring = view.ring[pixel] < view.profile.average.size
    return bool(on_ring and is_saturated(view.pixels[pixel], view.limits))
