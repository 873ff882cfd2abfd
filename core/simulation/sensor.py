"""An sCMOS sensor: what its pixels say in the dark, and what they make of light.

A pixel has an offset of its own and noise of its own, normal and independent from
frame to frame. The spreads are those of a recorded dark of an Andor Marana (ESRF
ID11, two frames of 2048 x 2048): offset 100.5 counts with 0.58 rms from pixel to
pixel, noise 1.7 counts rms with a tail as of a log-normal spread of 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel

OFFSET = 100.0
"""Mean of a pixel in the dark, in counts."""
OFFSET_SPREAD = 0.6
"""Standard deviation of the pixels' offsets, in counts."""
NOISE_SPREAD = 0.3
"""Standard deviation of the logarithm of the pixels' noise."""
SATURATION = 65535
"""Counts that a pixel of 16 bits does not exceed."""
HOT_SHARE = 1e-4
"""Share of hot pixels; the Marana, which corrects its own, still shows 4e-6."""
HOT_LEAST, HOT_MOST = 20.0, 30_000.0
"""Dark signal of hot pixels in counts a frame: few are very hot."""
HOT_EXPONENT = 0.75
"""Hot pixels above x counts fall off as x to the minus this."""
BLOCK = 64
"""Rows digitised at a time, so that their noise stays in the cache."""


@dataclass(frozen=True, eq=False, slots=True)
class Sensor:
    """The pixels of one sensor; the same for all frames, dark or not."""

    offset: NDArray[np.float32]
    """Mean in the dark, in counts [row, column]; hot pixels included."""
    noise: NDArray[np.float32]
    """Standard deviation in the dark, in counts [row, column]."""
    hot_pixels: NDArray[np.int64]
    """(n, 2): row and column of the hot pixels, in order."""

    @classmethod
    def make(
        cls, shape: tuple[int, int], noise: float, random: np.random.Generator, hot: float
    ) -> Self:
        """Return a new sensor.

        Parameters
        ----------
        shape
            (rows, columns).
        noise
            Root mean square of the noise of all pixels that are not hot, in counts.
        random
            What makes it the one it is.
        hot
            Share of hot pixels. Their dark signal brings its shot noise along,
            at one electron a count.
        """
        offsets = random.standard_normal(shape, np.float32)
        offsets *= OFFSET_SPREAD
        offsets += OFFSET
        spread = random.standard_normal(shape, np.float32)
        spread *= NOISE_SPREAD
        spread -= NOISE_SPREAD**2  # so that the mean of the squares is 1
        np.exp(spread, out=spread)
        spread *= noise
        places = np.sort(random.choice(offsets.size, round(hot * offsets.size), replace=False))
        ladder = 1 - random.random(places.size)
        glow = np.minimum(HOT_LEAST * ladder ** (-1 / HOT_EXPONENT), HOT_MOST)
        offsets.flat[places] += glow
        spread.flat[places] = np.sqrt(spread.flat[places] ** 2 + glow)
        hot_pixels = np.stack(np.unravel_index(places, shape), axis=1)
        return cls(offsets, spread, hot_pixels)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.offset.shape
        return rows, columns

    def expose(
        self, light: NDArray[np.float32] | None, random: np.random.Generator
    ) -> NDArray[np.uint16]:
        """Return a frame [row, column] in counts; it saturates, and never wraps.

        Every pixel of every frame draws its own normal number: nothing is drawn
        once and used again.

        Parameters
        ----------
        light
            Signal in counts [row, column]; None: it is dark.
        random
            Of the frame's noise.
        """
        frame = np.empty(self.shape, np.uint16)
        normal = np.empty((BLOCK, self.shape[1]), np.float32)
        for row in range(0, len(frame), BLOCK):
            block = slice(row, row + BLOCK)
            drawn = normal[: len(frame[block])]
            random.standard_normal(out=drawn, dtype=np.float32)
            drawn *= self.noise[block]
            if light is not None:
                drawn += light[block]
            _digitise(drawn, self.offset[block], frame[block])
        return frame


@kernel
def _digitise(signal: Any, offset: Any, frame: Any) -> None:
    """Write signal and offset as whole counts between 0 and saturation."""
    rows, columns = frame.shape
    for row in range(rows):
        for column in range(columns):
            value = signal[row, column] + offset[row, column] + np.float32(0.5)
            value = min(max(value, np.float32(0)), np.float32(SATURATION))
            frame[row, column] = np.uint16(value)
