"""Boxes that stand out: what single pixels of a weak spot do not, its pixels do together.

About every pixel of a frame there is a box of `side` x `side` pixels, cut off at the
frame's edges. Over those of its pixels that count, with the terms of `thresholds`,

    counts = sum(pixel),  expected = sum(average w + dark),  lift^2 = sum((noise w)^2),

and the box stands out if

    counts - expected > max(lift, D)

    poisson:       D = sqrt(excess(expected, cutoff)^2 + (cutoff lift)^2)
    other models:  D = cutoff sqrt(sum((deviation w)^2) + lift^2)

All its pixels that count are then kept, and what is saturated as without boxes. So what
has `cutoff` deviations in a box of the whole frame has the same counts there in the
rebuilt one, to the last of them.

Sums run anew for each box and each row: what is added and taken off again would leave
rounding errors behind, of the strongest pixel passed. Counts are summed apart from what
is expected, exactly up to 2^53. Nearly all boxes are told by a bound of D that needs no
logarithm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.limits import is_saturated, is_usable, pixel_limits
from ..azimuthal.once import built_once
from ..azimuthal.rings import Rings
from ..compute.jit import kernel
from ..marks import as_pixels
from .clipping import Background, Floats, clipping_model
from .layout import layout
from .picking import SparseFrame, Sparsifying, values_of
from .quantile import FINE, LARGEST, excess, means
from .thresholds import Rule, make_rule

SLACK = 1e-3
"""Share by which the bound of D^2 is lowered, for what lies between entries and for rounding."""
COUNTS, EXPECTED, SPREAD, LIFT = range(4)
"""Terms that are summed; the spread is the variance, but of `poisson`, without the noise."""


class Ground(NamedTuple):
    """What the pixels of a frame stand on, as kernels take it."""

    place: Any
    """Of each pixel on the radial axis: ring and share of the way to the next, (pixels,)."""
    norm: Any
    dark: Any
    average: Any
    """(bins + 1,)."""
    deviation: Any
    limits: Any


def with_boxes(
    sparse: SparseFrame, image: NDArray[Any], rings: Rings, settings: Sparsifying, side: int
) -> SparseFrame:
    """Return a frame of which the boxes that stand out are kept as well.

    Parameters
    ----------
    sparse
        What stands out by itself.
    image
        The frame as recorded, (rows, columns).
    rings, settings
        How it was sparsified.
    side
        Of a box in pixels, odd; 1: there are none.
    """
    if side == 1:
        return sparse
    pixels = as_pixels(image).reshape(-1)
    rule = make_rule(clipping_model(settings.error_model), settings.cutoff_pick, settings.noise)
    ground = _ground(rings, sparse.background, pixels.dtype)
    wanted = np.zeros(rings.experiment.shape, np.bool_)
    mark_boxes(pixels.reshape(wanted.shape), ground, rule, bound(rule), side, wanted)
    wanted.reshape(-1)[sparse.index] = True
    marked = np.flatnonzero(wanted)
    index = marked[: leave_out(pixels, ground, marked)].astype(np.uint32)
    return replace(sparse, index=index, intensity=values_of(image, index))


def _ground(rings: Rings, background: Background, kind: np.dtype[Any]) -> Ground:
    of_rings = layout(rings)
    average, deviation = (np.append(each, each[-1:]) for each in background.filled())
    limits = pixel_limits(kind, rings.experiment.setup)
    return Ground(_places(rings), of_rings.norm, of_rings.dark, average, deviation, limits)


@built_once(maxsize=4)
def _places(rings: Rings) -> NDArray[np.float32]:
    """Return each pixel's place on the radial axis; `bins` where it is on no ring."""
    of_rings = layout(rings)
    place = (of_rings.radius - rings.centres[0]) / rings.width
    on_ring = of_rings.ring < rings.bins
    return np.where(on_ring, np.clip(place, 0, rings.bins - 1), rings.bins).astype(np.float32)


def bound(rule: Rule) -> float:
    """Return what D^2 is at least, without noise, in units of the variance."""
    least = rule.cutoff
    if rule.poisson:
        roots: Floats = np.sqrt(means(FINE))
        least = min(float((rule.table / roots).min()), rule.cutoff, LARGEST)
    return float(least * least * (1 - SLACK))


@kernel
def mark_boxes(image: Any, ground: Any, rule: Any, least: float, side: int, wanted: Any) -> None:
    """Mark the boxes that stand out, and all pixels in them; `least` is the `bound`."""
    rows, columns = image.shape
    half = side // 2
    terms, sums = np.zeros((4, side, columns + 2 * half)), np.zeros((4, columns))
    down = np.empty(columns + 2 * half)
    needed = (True, True, not rule.poisson, rule.noise > 0)
    spread = sums[EXPECTED] if rule.poisson else sums[SPREAD]
    counts, expected, lift = sums[COUNTS], sums[EXPECTED], sums[LIFT]
    least_lift = rule.cutoff * rule.cutoff * (1 - SLACK)
    for row in range(rows + half):
        line = terms[:, row % side, half : half + columns]
        if row < rows:
            load_row(image[row], ground, row * columns, rule, line)
        else:
            line[:] = 0
        if row < half:
            continue
        for term in range(4):
            if needed[term]:
                add_boxes(terms[term], down, sums[term])
        for column in range(columns):
            above = counts[column] - expected[column]
            if above * abs(above) <= least * spread[column] + least_lift * lift[column]:
                continue
            if above > box_distance(spread[column], lift[column], rule):
                first, left = max(row - 2 * half, 0), max(column - half, 0)
                wanted[first : row + 1, left : column + half + 1] = True


@kernel
def box_distance(spread: float, lift: float, rule: Any) -> float:
    """Return how far above what is expected a box stands out, in counts."""
    squared = rule.cutoff * rule.cutoff
    if rule.poisson:
        above = excess(rule.table, rule.cutoff, spread)
        return float(np.sqrt(max(above * above + squared * lift, lift)))
    return float(np.sqrt(max(squared * (spread + lift), lift)))


@kernel
def load_row(pixels: Any, ground: Any, first: int, rule: Any, line: Any) -> None:
    """Set the terms of the pixels of a row, 0 where they do not count; (4, columns)."""
    bins = ground.average.size - 1
    places = ground.place[first : first + pixels.size]
    counts, expected, spread, lift = line[COUNTS], line[EXPECTED], line[SPREAD], line[LIFT]
    interpolate(places, ground.average, expected)
    multiply(ground.norm, first, expected)
    add_dark(ground.dark, first, expected)
    for column in range(pixels.size):
        value = pixels[column]
        good = is_usable(value, ground.limits) & (places[column] < bins)
        counts[column] = float(value) if good else 0.0
        expected[column] = expected[column] if good else 0.0
    if not rule.poisson:
        interpolate(places, ground.deviation, spread)
        square(pixels, ground, first, spread)
    if rule.noise > 0:
        lift[:] = rule.noise
        square(pixels, ground, first, lift)


@kernel
def square(pixels: Any, ground: Any, first: int, errors: Any) -> None:
    """Turn errors of I / normalization into variances of counts, 0 where no pixel counts."""
    multiply(ground.norm, first, errors)
    bins = ground.average.size - 1
    places = ground.place[first : first + pixels.size]
    for column in range(pixels.size):
        good = is_usable(pixels[column], ground.limits) & (places[column] < bins)
        errors[column] = errors[column] * errors[column] if good else 0.0


@kernel
def interpolate(places: Any, levels: Any, values: Any) -> None:
    """Set values to what levels are at places, linear in between."""
    last = np.uint32(levels.size - 2)
    for column in range(places.size):
        ring = min(np.uint32(places[column]), last)
        share = places[column] - ring
        values[column] = levels[ring] * (1 - share) + levels[ring + np.uint32(1)] * share


@kernel
def multiply(norm: Any, first: int, values: Any) -> None:
    """Multiply values by the normalization of a row."""
    if norm is not None:
        factors = norm[first : first + values.size]
        for column in range(values.size):
            values[column] *= factors[column]


@kernel
def add_dark(dark: Any, first: int, values: Any) -> None:
    """Add the dark of a row to values."""
    if dark is not None:
        add(dark[first : first + values.size], values)


@kernel
def add_boxes(values: Any, down: Any, total: Any) -> None:
    """Add up rows, and then neighbours: (side, columns + side - 1) becomes (columns,)."""
    down[:] = values[0]
    for row in range(1, values.shape[0]):
        add(values[row], down)
    total[:] = down[: total.size]
    for step in range(1, values.shape[0]):
        add(down[step : step + total.size], total)


@kernel
def add(values: Any, total: Any) -> None:
    """Add numbers to others."""
    for place in range(total.size):
        total[place] += values[place]


@kernel
def leave_out(pixels: Any, ground: Any, marked: Any) -> int:
    """Leave out what neither counts nor is saturated, in place; return the number of the rest."""
    number = 0
    bins = ground.average.size - 1
    for index in range(marked.size):
        pixel = marked[index]
        marked[number] = pixel
        value, limits = pixels[pixel], ground.limits
        wanted = is_usable(value, limits) | is_saturated(value, limits)
        number += wanted & (ground.place[pixel] < bins)
    return number
