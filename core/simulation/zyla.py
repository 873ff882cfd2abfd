"""A simulated Zyla: a Bragg peak of weak light on an sCMOS sensor, with its true counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .camera import Camera, Purpose, generator
from .sensor import HOT_SHARE, Sensor

SHAPE = (2048, 2048)
"""(rows, columns) of a Zyla 4.2."""
NOISE = 2.2
"""Root mean square of the read noise in counts."""
GAIN = 1.5
"""Counts of one detected photon of the scintillator's light."""
WIDTH = (12.0, 8.0)
"""Standard deviation of the peak along rows' and columns' numbers, in px."""
PEAK = np.dtype([("frame", "u4"), ("y", "f8"), ("x", "f8"), ("counts", "f8")])
"""The peak in one frame: row and column of its centre in px, expected sum of its counts."""


@dataclass(frozen=True, eq=False)
class Zyla(Camera):
    """Frames of a Bragg peak."""

    peaks: NDArray[Any]
    """The peak of every frame, `PEAK`."""

    def shine(self, light: NDArray[np.float32], number: int) -> None:
        """Add the light of a frame's peak; what falls beyond the sensor's edge is lost."""
        peak = self.peaks[number]
        random = generator(self.seed, Purpose.LIGHT, number)
        # Photons dropped one by one are Poisson in every pixel.
        count = random.poisson(peak["counts"] / GAIN)
        places = random.normal((peak["y"], peak["x"]), WIDTH, (count, 2))
        rows, columns = np.floor(places + 0.5).astype(np.int64).T
        inside = (rows >= 0) & (rows < light.shape[0]) & (columns >= 0) & (columns < light.shape[1])
        np.add.at(light, (rows[inside], columns[inside]), GAIN)

    def truth(self) -> Mapping[str, NDArray[Any]]:
        """Return peaks and hot pixels."""
        return {"peaks": self.peaks, "hot_pixels": self.hot_pixels}


def simulate_zyla(
    frames: int = 16,
    shape: tuple[int, int] = SHAPE,
    photons: float = 3000.0,
    drift: float = 0.5,
    jitter: float = 0.1,
    seed: int = 0,
    *,
    noise: float = NOISE,
    hot: float = HOT_SHARE,
) -> Zyla:
    """Return frames of a Bragg peak on a dark of about 100 counts, with its truth.

    Parameters
    ----------
    frames
        Number of frames.
    shape
        (rows, columns) of a frame; the peak begins near its middle.
    photons
        Mean number of photons in a frame's peak, each of `GAIN` counts.
    drift
        How far the peak's centre walks from one frame to the next, rms along each axis, in px.
    jitter
        How much its strength fluctuates: standard deviation of the logarithm.
    seed
        Of all random numbers.
    noise
        Root mean square of the noise in counts.
    hot
        Share of pixels that are hot.
    """
    scene = generator(seed, Purpose.SCENE)
    start = np.array(shape) / 2 + scene.uniform(-10, 10, 2)
    walk = start + np.cumsum(scene.normal(0, drift, (frames, 2)), axis=0)
    peaks = np.empty(frames, PEAK)
    peaks["frame"] = np.arange(frames)
    peaks["y"], peaks["x"] = walk.T
    peaks["counts"] = GAIN * photons * np.exp(scene.normal(-(jitter**2) / 2, jitter, frames))
    sensor = Sensor.make(shape, noise, generator(seed, Purpose.SENSOR), hot)
    return Zyla(sensor, frames, seed, peaks)
