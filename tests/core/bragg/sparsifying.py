"""Frames and rings without a detector, and sparsification as plainly as it can be written."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from ronda.core.azimuthal.errors import ErrorModel
from ronda.core.azimuthal.formula import Formula
from ronda.core.azimuthal.limits import pixel_limits, saturated, usable
from ronda.core.azimuthal.rings import Rings
from ronda.core.bragg.clipping import Background
from ronda.core.bragg.layout import SAMPLE
from ronda.core.bragg.picking import SparseFrame, Sparsifying
from ronda.core.bragg.quantile import clipping_tables, excess, limits_of_clipping, picking_table
from ronda.core.marks import as_pixels

MODELS = ("poisson", "poisson-classic", "azimuthal", "hybrid", "2*I+1")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
          "float32", "float64")  # fmt: skip
EACH = [(dtype, "poisson") for dtype in DTYPES]
EACH += [(dtype, model) for dtype in ("int32", "float32") for model in MODELS[1:]]
CORRECTED = [(model, "float32", True, True) for model in MODELS]
CORRECTED += [(model, "int32", True, False) for model in ("poisson", "hybrid")]
CORRECTED += [(model, "uint16", False, True) for model in ("poisson", "poisson-classic")]
"""Error model, pixel type, with a normalization, with a dark: seconds to compile each type."""
SHAPE = (37, 41)
CLOSE = 1e-9


def least(dtype: str) -> float:
    """Return the least that a pixel of a type may be."""
    lowest = {"float16": -6e4, "float32": -1e30, "float64": -1e30}
    return lowest[dtype] if dtype in lowest else int(np.iinfo(dtype).min)


def frame(
    rng: np.random.Generator, dtype: str, mean: float, spots: int, holes: int = 0
) -> NDArray[Any]:
    """Poisson background, some spots, some pixels far below, some marked ones."""
    kind = np.dtype(dtype)
    top = float(np.iinfo(kind).max) if kind.kind in "iu" else 1e4
    image = np.minimum(rng.poisson(mean, SHAPE), top).astype(np.float64)
    place = rng.integers(0, image.size, spots)
    image.flat[place] = np.minimum(rng.choice([8.0, 50.0, 1e3, 1e6], spots), top)
    exact: NDArray[Any] = image.astype(kind)
    place, low = rng.integers(0, image.size, holes), least(dtype)
    exact.flat[place] = rng.choice(np.array([max(low, -30), max(low, -1000), low], kind), holes)
    marked = rng.integers(0, image.size, 5)
    if kind.kind == "u":
        exact.flat[marked] = np.iinfo(kind).max
    else:
        exact.flat[marked] = rng.choice([-1, -2], 5)
        over = np.iinfo(kind).max if kind.kind == "i" else np.inf
        exact.flat[rng.integers(0, image.size, 3)] = over
    return exact


class Setup:
    """What of an experiment's settings says which pixels count."""

    def __init__(self, dummy: float | None, delta_dummy: float | None, marks: bool) -> None:
        self.dummy, self.delta_dummy, self.marks = dummy, delta_dummy, marks


class PlainExperiment:
    """An experiment without a detector."""

    def __init__(self, shape: tuple[int, int], setup: Setup) -> None:
        self.shape, self.setup = shape, setup


class PlainRings:
    """Rings about a point of a frame, in pixels."""

    def __init__(
        self,
        shape: tuple[int, int],
        bins: int,
        *,
        normalization: NDArray[Any] | None = None,
        dark: NDArray[Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
        dummy: float | None = None,
        delta_dummy: float | None = None,
        marks: bool = True,
    ) -> None:
        y, x = np.indices(shape)
        radius = np.hypot(y - 0.45 * shape[0], x - 0.55 * shape[1])
        left_out = np.zeros(shape, np.bool_) if mask is None else mask
        low, high = radius.min(), radius.max() * (1 + 1e-6)
        self.bins, self.width = bins, (high - low) / bins
        self.centres = low + self.width * (np.arange(bins) + 0.5)
        ring = np.minimum((radius - low) / self.width, bins - 1).astype(np.uint16)
        ring[left_out] = bins
        self.ring = ring.ravel()
        self.radius = np.where(left_out, np.nan, radius).astype(np.float32)
        self.normalization = _flat(normalization)
        self.dark = _flat(dark)
        self.experiment = PlainExperiment(shape, Setup(dummy, delta_dummy, marks))

    @property
    def as_rings(self) -> Rings:
        """Itself, for what takes rings."""
        return cast(Rings, self)


def _flat(image: NDArray[Any] | None) -> NDArray[np.float32] | None:
    return None if image is None else image.astype(np.float32).ravel()


def corrected_rings(
    rng: np.random.Generator,
    bins: int,
    with_norm: bool,
    with_dark: bool,
    most_dark: float = 3.0,
    **more: Any,
) -> PlainRings:
    """Return rings of pixels that are corrected; some of them, a column and a row are masked."""
    mask = rng.random(SHAPE) < 0.1
    mask[:, 7] = mask[-1] = True
    return PlainRings(
        SHAPE, bins, normalization=rng.uniform(0.2, 3, SHAPE) if with_norm else None,
        dark=rng.uniform(-1, most_dark, SHAPE) if with_dark else None, mask=mask, **more,
    )  # fmt: skip


def rings_of_few(
    outlier: int, shape: tuple[int, int] = SHAPE, bins: int = 12, most: bool = False
) -> tuple[NDArray[Any], PlainRings]:
    """Return rings of 1, 2... pixels of 2 counts, half of them outliers: just less, or `most`."""
    image, rings = np.full(shape, 2, np.int32), PlainRings(shape, bins)
    order = np.random.default_rng(1).permutation(image.size)
    rings.ring[:] = rings.bins
    for ring in range(rings.bins):
        chosen, order = order[: ring + 1], order[ring + 1 :]
        rings.ring[chosen] = ring
        image.flat[chosen[: (chosen.size + most) // 2]] = outlier
    return image, rings


def kept_of(found: SparseFrame, image: NDArray[Any]) -> NDArray[np.bool_]:
    """Check that kept pixels are those of a frame in their order; return which, flat."""
    assert (np.diff(found.index.astype(np.int64)) > 0).all()
    assert found.index.dtype == np.uint32
    assert found.intensity.dtype == (np.float32 if image.dtype == np.float16 else image.dtype)
    np.testing.assert_array_equal(found.intensity, image.ravel()[found.index])
    kept = np.zeros(image.size, np.bool_)
    kept[found.index] = True
    return kept


class Plain:
    """One frame on rings: everything by its formula, one ring and one pixel after another."""

    def __init__(self, image: NDArray[Any], rings: PlainRings, settings: Sparsifying) -> None:
        self.rings, self.settings = rings, settings
        pixels = as_pixels(image).ravel()
        limits = pixel_limits(pixels.dtype, rings.experiment.setup)
        one, nothing = np.ones(pixels.size), np.zeros(pixels.size)
        self.norm = one if rings.normalization is None else rings.normalization.astype(np.float64)
        self.dark = nothing if rings.dark is None else rings.dark.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            self.usable = (rings.ring < rings.bins) & usable(pixels, limits)
            self.saturated = (rings.ring < rings.bins) & saturated(pixels, limits)
            self.counts = pixels.astype(np.float64)
            self.signal = self.counts - self.dark
            self.value = self.signal / self.norm
        model = settings.error_model
        self.variance = nothing
        if isinstance(model, Formula):
            self.variance = np.maximum(model(np.where(self.usable, self.counts, 1)), 0)
        self.tie = np.zeros(rings.bins, np.bool_)
        """Rings on which a pixel lies on the very end of a band."""

    # ------------------------------------------------------------------ clipping

    def background(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Average, deviation, count of each ring."""
        found = [self._ring(ring) for ring in range(self.rings.bins)]
        average, deviation, count = zip(*found, strict=True)
        return np.array(average), np.array(deviation), np.array(count)

    def _ring(self, ring: int) -> tuple[float, float, int]:
        on_ring = np.flatnonzero(self.rings.ring == ring)
        left = on_ring[self.usable[on_ring]]
        if left.size == 0:
            return math.nan, math.nan, 0
        floor, cap = self._floor_and_cap(on_ring)
        start = left[(self.value[left] >= floor) & (self.value[left] <= cap)]
        start = start if start.size else left
        mean, deviation, weight = self._moments(start, False)
        scale = CLOSE * (1 + np.abs(self.value[start]).max())
        for _ in range(self.settings.cycles):
            cut = math.sqrt(2 * math.log(max(left.size, 3) / math.sqrt(2 * math.pi)))
            low, high = self._band(mean, deviation, weight, max(cut, self.settings.cutoff_clip))
            x = self.value[left]
            self.tie[ring] |= bool(((abs(x - low) < scale) | (abs(x - high) < scale)).any())
            stay = left[(x >= low) & (x <= high)]
            if stay.size in (0, left.size):
                break
            left = stay
            mean, deviation, weight = self._moments(left, False)
            scale = CLOSE * (1 + np.abs(self.value[left]).max())
        mean, deviation, _ = self._moments(left, True)
        return mean, deviation, left.size

    def _floor_and_cap(self, on_ring: NDArray[np.intp]) -> tuple[float, float]:
        number = min(on_ring.size, SAMPLE)
        sample = on_ring[np.arange(number) * on_ring.size // number]
        values = np.sort(self.value[sample[self.usable[sample]]])
        if values.size == 0:
            return -math.inf, math.inf
        middles = values[(values.size - 1) // 2], values[values.size // 2]
        middle = min(middles, key=abs)
        distance = np.sort(abs(values - middle))[(values.size - 1) // 2]
        norm = self.norm[on_ring]
        weight = (norm**2).sum() / norm.sum()
        lift = math.log(2) / weight
        reach = lift + 6 * max(1.4826 * distance, math.sqrt((abs(middle) + lift) / weight))
        return float(middle - reach), float(middle + reach)

    def _moments(self, left: NDArray[np.intp], last: bool) -> tuple[float, float, float]:
        signal, norm = self.signal[left], self.norm[left]
        mean = signal.sum() / norm.sum()
        model = self.settings.error_model
        if isinstance(model, Formula):
            variance = self.variance[left]
        elif model is ErrorModel.POISSON:
            variance = mean * norm + np.maximum(self.dark[left], 0)
        elif model is ErrorModel.POISSON_CLASSIC or (model is ErrorModel.HYBRID and last):
            variance = np.maximum(self.counts[left], 1)
        else:
            variance = norm**2 * (self.value[left] - mean) ** 2
        squared = (norm**2).sum()
        return mean, math.sqrt(max(variance.sum(), 0) / squared), squared / norm.sum()

    def _band(self, mean: float, deviation: float, weight: float, cut: float) -> Any:
        if self.settings.error_model is not ErrorModel.POISSON:
            return mean - cut * deviation, mean + cut * deviation
        tables = clipping_tables(max(cut, 6.0))
        below, above = limits_of_clipping(tables, cut, (deviation * weight) ** 2)
        return mean - below / weight, mean + above / weight

    # ------------------------------------------------------------------- picking

    def kept(
        self, background: Background, cutoff: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which pixels are to be kept, saturated ones too, and which lie on the very threshold."""
        out, tie = self.stands_out(background, cutoff)
        return out | self.saturated, tie

    def stands_out(
        self, background: Background, cutoff: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which pixels stand out, and which lie on the very threshold."""
        average, deviation = background.filled()
        radius = self.rings.radius.astype(np.float64).ravel()
        average = np.interp(radius, self.rings.centres, average.astype(np.float64))
        deviation = np.interp(radius, self.rings.centres, deviation.astype(np.float64))
        noise = self.settings.noise
        if self.settings.error_model is ErrorModel.POISSON:
            table = picking_table(cutoff)
            with np.errstate(invalid="ignore"):
                mean = np.maximum(average, 0) * self.norm + np.maximum(self.dark, 0)
            above = np.array([excess(table, cutoff, each) for each in mean]) / self.norm
            distance = np.hypot(above, cutoff * noise)
        else:
            distance = cutoff * np.hypot(deviation, noise)
        distance = np.maximum(distance, noise)
        with np.errstate(invalid="ignore"):
            over = self.value - average - distance
            tie = abs(over) < 1e-9 * (1 + abs(self.value) + abs(average))
            return self.usable & (over > 0), self.usable & tie
