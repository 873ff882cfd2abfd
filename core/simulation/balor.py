"""A simulated Balor: single photons on an sCMOS sensor, with the truth about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .camera import Camera, Purpose, generator
from .photons import PHOTON, SIGMA, add_clouds, draw_photons
from .sensor import HOT_SHARE, Sensor

SHAPE = (4104, 4128)
"""(rows, columns) of a Balor 17F-12."""
NOISE = 2.9
"""Root mean square of the read noise in counts: the data sheet's electrons, one a count."""

STREAK_LENGTH = 15.0
"""Mean length of a streak in px; lengths are exponential."""
STREAK_CHARGE, STREAK_SPREAD = 300.0, 0.5
"""Counts a px of a streak: median, and standard deviation of the logarithm."""
STREAK_SIGMA = 0.4
"""Standard deviation of a streak's width in px."""
STREAK_STEP = 0.5
"""Px of a streak that leave one lump of charge: its brightness fluctuates along it."""
STREAK = np.dtype(
    [("frame", "u4"), ("y0", "f8"), ("x0", "f8"), ("y1", "f8"), ("x1", "f8"), ("energy", "f4")]
)
"""One streak: its frame, row and column of its two ends in px, its charge in counts."""


@dataclass(frozen=True, eq=False)
class Balor(Camera):
    """Frames of single photons and streaks."""

    photons: NDArray[Any]
    """Every photon, `PHOTON`, in order of the frames."""
    streaks: NDArray[Any]
    """Every streak as of a cosmic particle, `STREAK`, in order of the frames."""

    def shine(self, light: NDArray[np.float32], number: int) -> None:
        """Add the charge of a frame's photons and streaks."""
        add_clouds(light, _of(self.photons, number))
        random = generator(self.seed, Purpose.LIGHT, number)
        for streak in _of(self.streaks, number):
            add_clouds(light, _lumps(streak, random), halo=0.0)

    def truth(self) -> Mapping[str, NDArray[Any]]:
        """Return photons, hot pixels and streaks."""
        return {"photons": self.photons, "hot_pixels": self.hot_pixels, "streaks": self.streaks}


def simulate_balor(
    frames: int = 16,
    shape: tuple[int, int] = SHAPE,
    photons: float = 2000.0,
    sigma: float | tuple[float, float] = SIGMA,
    seed: int = 0,
    *,
    density: NDArray[np.floating[Any]] | None = None,
    noise: float = NOISE,
    streaks: float = 5.0,
    hot: float = HOT_SHARE,
) -> Balor:
    """Return frames of single photons on a dark of about 100 counts, with their truth.

    The sensor depends on the seed, the shape, the noise and the share of hot pixels
    only, so that darks of one simulation fit the frames of another.

    Parameters
    ----------
    frames
        Number of frames.
    shape
        (rows, columns) of a frame.
    photons
        Mean number of photons in a frame, of all kinds together.
    sigma
        Standard deviation of the charge clouds in px, or the least and the largest.
    seed
        Of all random numbers.
    density
        Relative density of photons [row, column]; None: the same everywhere.
    noise
        Root mean square of the noise in counts.
    streaks
        Mean number of streaks in a frame.
    hot
        Share of pixels that are hot.
    """
    scene = generator(seed, Purpose.SCENE)
    return Balor(
        Sensor.make(shape, noise, generator(seed, Purpose.SENSOR), hot),
        frames,
        seed,
        draw_photons(scene, frames, shape, photons, sigma, density),
        _draw_streaks(scene, frames, shape, streaks),
    )


def _draw_streaks(
    random: np.random.Generator, frames: int, shape: tuple[int, int], streaks: float
) -> NDArray[Any]:
    """Return the streaks of a number of frames; those at the edge may end beyond it."""
    frame = np.repeat(np.arange(frames), random.poisson(streaks, frames))
    drawn = np.empty(frame.size, STREAK)
    length = random.exponential(STREAK_LENGTH, frame.size)
    angle = random.uniform(0, 2 * np.pi, frame.size)
    drawn["frame"] = frame
    drawn["y0"], drawn["x0"] = (random.uniform(-0.5, side - 0.5, frame.size) for side in shape)
    drawn["y1"] = drawn["y0"] + length * np.sin(angle)
    drawn["x1"] = drawn["x0"] + length * np.cos(angle)
    charge = STREAK_CHARGE * np.exp(random.normal(0, STREAK_SPREAD, frame.size))
    drawn["energy"] = charge * np.maximum(length, 1)
    return drawn


def _lumps(streak: Any, random: np.random.Generator) -> NDArray[Any]:
    """Return the charge along a streak as `PHOTON`s, which together have its energy."""
    length = np.hypot(streak["y1"] - streak["y0"], streak["x1"] - streak["x0"])
    count = max(1, round(length / STREAK_STEP))
    along = (np.arange(count) + 0.5) / count
    shares = random.exponential(size=count)
    lumps = np.zeros(count, PHOTON)
    lumps["y"] = streak["y0"] + along * (streak["y1"] - streak["y0"])
    lumps["x"] = streak["x0"] + along * (streak["x1"] - streak["x0"])
    lumps["energy"] = streak["energy"] * shares / shares.sum()
    lumps["sigma"] = STREAK_SIGMA
    return lumps


def _of(table: NDArray[Any], number: int) -> NDArray[Any]:
    """Return a frame's rows of a table in order of the frames."""
    first, end = np.searchsorted(table["frame"], (number, number + 1))
    return table[first:end]
