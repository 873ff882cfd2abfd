"""A simulated Eiger: Bragg spots of crystals over solvent scattering, with the truth about each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import Geometry
from .camera import Purpose, generator

SHAPE = (2167, 2070)
"""(rows, columns) of an Eiger 4M."""
MODULE, GAP = (514, 1030), (37, 10)
"""(rows, columns) of a module, and of the gaps between them."""
GEOMETRY = Geometry(
    photon_energy=12.66,
    detector_distance=0.15,
    beam_center_x=1041.3,
    beam_center_y=1087.8,
    pixel_size=75e-6,
)
"""Where the detector stands."""
SOLVENT_RING, SOLVENT_WIDTH = 1.9, 0.35
"""Middle and standard deviation of the ring of water's scattering, in 1/angstrom."""
AIR_RANGE = 0.6
"""In 1/angstrom; air scatters forward, exponentially less with q."""
RESOLUTION = 1.6
"""In 1/angstrom; spots get weaker with q as a Gaussian of this width (temperature factor)."""
SPOT_SIGMA = (0.6, 1.4)
"""Least and greatest standard deviation of a spot, in px."""
REACH = 6
"""Px from a spot's middle up to which it counts."""
HOT_SHARE, HOT_RATE = 2e-5, 200.0
"""Share of pixels that are hot, and their mean counts in a frame."""
SPOT = np.dtype([("frame", "u4"), ("y", "f8"), ("x", "f8"), ("sigma", "f4"), ("energy", "f4")])
"""One spot: its frame, row and column in px, width in px, mean photons (`energy`: counts)."""


@dataclass(frozen=True, eq=False)
class Eiger:
    """Frames of a crystal that is turned or replaced: other spots in each frame."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    """uint16 or uint32; the largest value marks gaps."""
    background: float
    """Mean counts on the ring of water."""
    spots: NDArray[Any]
    """Every spot, `SPOT`, in order of the frames."""
    seed: int

    @property
    def geometry(self) -> Geometry:
        """Where the detector stands; smaller ones look at the same beam in their middle."""
        rows, columns = self.shape
        if self.shape == SHAPE:
            return GEOMETRY
        return Geometry(
            photon_energy=GEOMETRY.photon_energy,
            detector_distance=GEOMETRY.detector_distance * rows / SHAPE[0],
            beam_center_x=columns / 2 + 0.3,
            beam_center_y=rows / 2 - 0.2,
            pixel_size=GEOMETRY.pixel_size,
        )

    @cached_property
    def gaps(self) -> NDArray[np.bool_]:
        """True where there is no pixel (rows, columns)."""
        rows, columns = (
            (np.arange(side) % (module + gap)) >= module
            for side, module, gap in zip(self.shape, MODULE, GAP, strict=True)
        )
        gaps: NDArray[np.bool_] = rows[:, None] | columns
        return gaps

    @cached_property
    def hot(self) -> NDArray[np.float32]:
        """Mean counts of hot pixels, 0 of others (rows, columns)."""
        random = generator(self.seed, Purpose.SENSOR)
        rate = np.zeros(self.shape, np.float32)
        count = round(HOT_SHARE * rate.size)
        rate.flat[random.choice(rate.size, count, replace=False)] = HOT_RATE
        return rate

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """Mean counts without any spot (rows, columns)."""
        q = self.geometry.q_map(self.shape)
        solvent = np.exp(-((q - SOLVENT_RING) ** 2) / (2 * SOLVENT_WIDTH**2))
        scattered = self.background * (0.15 + solvent + 1.5 * np.exp(-q / AIR_RANGE))
        return (scattered * self.geometry.solid_angle(self.shape) + self.hot).astype(np.float32)

    def frame(self, number: int) -> NDArray[Any]:
        """Return the frame of a number, [row, column]: Poisson's counts of what is expected."""
        mean = self.expected.copy()
        first, end = np.searchsorted(self.spots["frame"], (number, number + 1))
        for spot in self.spots[first:end]:
            _add_spot(mean, spot)
        counts = generator(self.seed, Purpose.LIGHT, number).poisson(mean)
        top = np.iinfo(self.dtype).max
        pixels = np.minimum(counts, top - 1).astype(self.dtype)
        pixels[self.gaps] = top
        return pixels


def simulate_eiger(
    frames: int = 16,
    shape: tuple[int, int] = SHAPE,
    spots: float = 400.0,
    background: float = 2.0,
    bits: int = 32,
    seed: int = 0,
) -> Eiger:
    """Return frames of Bragg spots, with their truth.

    Parameters
    ----------
    frames
        Number of frames.
    shape
        (rows, columns) of a frame.
    spots
        Mean number of spots in a frame.
    background
        Mean counts of a pixel on the ring of water.
    bits
        Of a pixel: 16 or 32.
    seed
        Of all random numbers.
    """
    empty = Eiger(shape, np.dtype(f"u{bits // 8}"), background, np.zeros(0, SPOT), seed)
    drawn = _draw_spots(generator(seed, Purpose.SCENE), frames, shape, spots, empty.geometry)
    return Eiger(shape, empty.dtype, background, drawn, seed)


def _draw_spots(
    random: np.random.Generator,
    frames: int,
    shape: tuple[int, int],
    spots: float,
    geometry: Geometry,
) -> NDArray[Any]:
    """Return spots in order of the frames: exponential intensities (Wilson), weaker with q."""
    frame = np.repeat(np.arange(frames), random.poisson(spots, frames))
    drawn = np.zeros(frame.size, SPOT)
    drawn["frame"] = frame
    drawn["y"], drawn["x"] = (random.uniform(-0.5, side - 0.5, frame.size) for side in shape)
    drawn["sigma"] = random.uniform(*SPOT_SIGMA, frame.size)
    fall = np.exp(-((geometry.q_at(drawn["y"], drawn["x"]) / RESOLUTION) ** 2) / 2)
    drawn["energy"] = 2000 * random.exponential(size=frame.size) * fall
    return drawn


def _add_spot(mean: NDArray[np.float32], spot: Any) -> None:
    """Add the mean counts of a spot: a Gaussian, as far as it is on the frame."""
    middle = round(spot["y"]), round(spot["x"])
    rows, columns = (
        np.arange(max(place - REACH, 0), min(place + REACH + 1, side))
        for place, side in zip(middle, mean.shape, strict=True)
    )
    if not rows.size or not columns.size:
        return
    width = 2 * spot["sigma"] ** 2
    profile = np.exp(-((rows - spot["y"]) ** 2) / width)[:, None] * np.exp(
        -((columns - spot["x"]) ** 2) / width
    )
    mean[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += (
        spot["energy"] / (np.pi * width) * profile
    ).astype(np.float32)
