"""Images rebuilt from sparse frames: background by radius, and the kept pixels as they were.

    image = interpolate(radius of the pixel; radius, background) * normalization + dark
    image[masked] = dummy
    image[index] = intensity

Between bins the background is linear, beyond the ends constant (as in fabio's
`densify`, whose images these are within its rounding; but its compiled one has 0
nearer to the beam than the first bin's centre). Where a file tells the mean of what was
not kept, as ours do, it takes the place of the background: that is what chance left below
the threshold, and a frame keeps its counts (see `filling`). Integers are rounded, half away from
0, and stay within their type; the pixels that were kept are never turned into floats.

With noise, counts are drawn around the background. Where it is `GAUSSIAN` standard
deviations or more, they follow the normal law. Where it is less, a normal law would
be cut off at 0, as fabio does, which raises its mean (by 0.05 to 0.13 counts on weak
frames; from 0.05 to 0.42 where the deviation is floored at 1 count): there they
follow Poisson's law of the background's mean, which is the law of counts. Both keep
the mean. Where the background is not positive there is no noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtr

from ..compute.jit import kernel
from .sparse_file import SparseFile, StoredFrame

GAUSSIAN = 3.0
"""Deviations above 0 from which on a normal law serves: 1 draw in 1000 is below 0, which
raises the mean by less than 1/2000 of the deviation."""
FEW = 20
"""Mean counts up to which Poisson's law is taken from a table, which is quickest."""
STEPS = 32
"""Means in the table for each count."""
MOST = 99
"""Most counts in the table: fewer than 1 draw in 10^30 has more."""
BLOCK = 1 << 20
"""Pixels of which the bins are searched at a time."""


class Densifier:
    """Rebuilds the images of one sparse file; any number of threads may use it.

    Parameters
    ----------
    file
        Says where each pixel lies; it is not read later.
    dummy
        What masked pixels are set to; by default what the file says.

    Raises
    ------
    ValueError
        If the pixels cannot hold the dummy.
    """

    def __init__(self, file: SparseFile, dummy: float | None = None) -> None:
        self.shape, self.dtype = file.shape, file.dtype
        self._dummy = file.dummy if dummy is None else _in_type(dummy, file.dtype)
        # Without a background there is one of 0 in a single ring.
        radius = np.zeros(1) if file.radius is None else file.radius
        self._bins = len(radius)
        self._ring, self._fraction = _places(file.pixel_radius.reshape(-1), radius)
        scale = file.normalization
        self._scale = np.empty(0, np.float32) if scale is None else scale.reshape(-1)
        self._dark = np.empty(0, np.float32) if file.dark is None else file.dark.reshape(-1)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(rows, columns), True where a pixel is masked."""
        masked: NDArray[np.bool_] = self._ring == self._masked
        return masked.reshape(self.shape)

    @property
    def _masked(self) -> int:
        """The ring of masked pixels, whose background is NaN: it follows the last."""
        return max(self._bins, 2)

    def image(
        self,
        frame: StoredFrame,
        noise: float = 0.0,
        random: np.random.Generator | None = None,
    ) -> NDArray[Any]:
        """Return the image of a frame: (rows, columns), in the type of its pixels.

        Parameters
        ----------
        frame
            Of the file that this was made for.
        noise
            From 0, none, to 1, as much as was measured.
        random
            Where the noise comes from; no two threads may share one.

        Raises
        ------
        ValueError
            If there is to be noise and nothing says how much, or `random` is missing.
        """
        image = np.empty(self.shape[0] * self.shape[1], self.dtype)
        levels = self._levels(frame.average if frame.fill is None else frame.fill)
        places = self._ring, self._fraction, self._scale, self._dark
        limits = _limits(self.dtype)
        if noise == 0 or frame.average is None:
            _fill(*places, levels, limits, self._dummy, image)
        elif frame.deviation is None or random is None:
            raise ValueError("there is no noise without a deviation and a source of chance")
        else:
            law = noise, _poisson_table(), random
            deviations = self._levels(frame.deviation)
            _fill_noisy(*places, levels, deviations, *law, limits, self._dummy, image)
        _put(frame.index, frame.intensity, image)
        return image.reshape(self.shape)

    def _levels(self, background: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Return a background by ring, with one more pair of rings for what is masked.

        Rings where nothing was measured take it from their neighbours.
        """
        levels = np.full(self._masked + 2, np.nan)
        if background is None:
            background = np.zeros(self._bins)
        known = np.flatnonzero(np.isfinite(background))
        if 0 < len(known) < len(background):
            background = np.interp(np.arange(len(background)), known, background[known])
        levels[: self._masked] = background  # a single bin serves as both ends
        return levels


def dense_frames(
    file: SparseFile,
    densifier: Densifier,
    numbers: range,
    workers: int = 2,
    noise: float = 0.0,
    seed: int = 0,
) -> Iterator[NDArray[Any]]:
    """Yield images in order, each rebuilt by one of the workers.

    Memory holds two images for each worker, whatever the number of frames. The noise
    of a frame follows from the seed and its number alone.

    Raises
    ------
    ValueError
        In one sentence, if the file is damaged.
    """
    waiting: deque[Future[NDArray[Any]]] = deque()
    pool = ThreadPoolExecutor(workers, "densify")
    try:
        for number, frame in zip(numbers, file.frames(numbers), strict=True):
            random = np.random.default_rng((seed, number)) if noise else None
            waiting.append(pool.submit(densifier.image, frame, noise, random))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_type(dummy: float, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return dtype.type(dummy)
    limits = np.iinfo(dtype)
    if not (limits.min <= dummy <= limits.max and dummy == int(dummy)):
        raise ValueError(f"pixels of type {dtype} cannot be set to the dummy {dummy}")
    return dtype.type(int(dummy))


def _places(
    pixel_radius: NDArray[Any], radius: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return each pixel's lower bin, and how far it lies from there to the next, 0 to 1."""
    if len(radius) == 1:
        radius = np.array([radius[0], np.inf])
    masked = len(radius)
    ring = np.empty(pixel_radius.size, np.uint16 if masked < 1 << 16 else np.uint32)
    fraction = np.empty(pixel_radius.size, np.float32)
    for start in range(0, pixel_radius.size, BLOCK):
        block = slice(start, start + BLOCK)
        values = pixel_radius[block].astype(np.float64)
        valid = np.isfinite(values)
        clipped = np.clip(np.where(valid, values, radius[0]), radius[0], radius[-1])
        lower = np.searchsorted(radius[1:-1], clipped, "right")
        width = radius[lower + 1] - radius[lower]
        fraction[block] = (clipped - radius[lower]) / width
        ring[block] = np.where(valid, lower, masked)
    return ring, fraction


def _limits(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the least and largest value of a type, the same as floats, and if it is integer."""
    if dtype.kind == "f":
        return dtype.type(0), dtype.type(0), 0.0, 0.0, False
    limits = np.iinfo(dtype)
    least, largest = dtype.type(limits.min), dtype.type(limits.max)
    return least, largest, float(limits.min), float(limits.max), True


@kernel
def _fill(
    ring: Any,
    fraction: Any,
    scale: Any,
    dark: Any,
    levels: Any,
    limits: Any,
    dummy: Any,
    image: Any,
) -> None:
    """Set each pixel to its background, or to the dummy where that is NaN."""
    scaled = scale.size > 0
    for pixel in range(image.size):
        below, above = levels[ring[pixel]], levels[ring[pixel] + 1]
        value = below + fraction[pixel] * (above - below)
        if scaled:
            value *= scale[pixel]
        if dark.size > 0:
            value += dark[pixel]
        image[pixel] = _stored(value, limits, dummy)


@kernel
def _stored(value: float, limits: Any, dummy: Any) -> Any:
    """Return a value as an image holds it: integers rounded and within their type."""
    least, largest, lowest, highest, integer = limits
    if np.isnan(value):
        return dummy
    if integer:
        value += np.copysign(0.5, value)  # the cast cuts off towards 0
        if value >= highest:
            return largest
        if value <= lowest:
            return least
    return type(dummy)(value)


@cache
def _poisson_table() -> NDArray[np.float32]:
    """Return Poisson's cumulated law, (means, counts): row i is for a mean of i / STEPS."""
    means = np.arange(FEW * STEPS + 2) / STEPS
    table = np.asarray(pdtr(np.arange(MOST + 1), means[:, None]), np.float32)
    table[:, MOST] = 2  # more than any chance: here each search ends
    return table


@kernel
def _counts(mean: float, law: Any, random: Any) -> float:
    """Return a draw from Poisson's law for a mean up to FEW.

    Of the two means in the table that lie beside it, one is taken by chance, so that
    the draws have this mean exactly (and 1 / 4 STEPS^2 more variance at most).
    """
    row = int(mean * STEPS + random.random())
    chance = random.random()
    counts = 0
    while chance >= law[row, counts]:
        counts += 1
    return float(counts)


@kernel
def _fill_noisy(
    ring: Any,
    fraction: Any,
    scale: Any,
    dark: Any,
    levels: Any,
    deviations: Any,
    noise: float,
    law: Any,
    random: Any,
    limits: Any,
    dummy: Any,
    image: Any,
) -> None:
    """Set each pixel to a draw around its background, or to the dummy where that is NaN."""
    scaled = scale.size > 0
    for pixel in range(image.size):
        lower = ring[pixel]
        part = fraction[pixel]
        value = levels[lower] + part * (levels[lower + 1] - levels[lower])
        deviation = deviations[lower] + part * (deviations[lower + 1] - deviations[lower])
        if scaled:
            value *= scale[pixel]
            deviation *= abs(scale[pixel])
        if dark.size > 0:
            value += dark[pixel]
        if value > 0 and deviation > 0:
            if value < GAUSSIAN * deviation:
                few = value < FEW
                drawn = _counts(value, law, random) if few else float(random.poisson(value))
            else:
                drawn = max(random.normal(value, deviation), 0.0)
            value += noise * (drawn - value)
        image[pixel] = _stored(value, limits, dummy)


@kernel
def _put(index: Any, intensity: Any, image: Any) -> None:
    """Set the pixels that were kept; of masked ones, those that were not masked in their frame."""
    for kept in range(index.size):
        image[index[kept]] = intensity[kept]
