"""Single X-ray photons in a silicon sensor: how many, where, and the charge that each leaves.

The numbers are those of the Balor at FemtoMAX, fitted to its published histogram of
the hottest pixel, the 3x3 and the 5x5 sums of single photons: the 3x3 sums peak 60
counts below the 5x5 sums, which takes a faint halo around the charge cloud, and
between 200 and 1000 there is a plateau of photons whose charge was not all collected.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel

ENERGY, ENERGY_WIDTH = 1275.0, 36.0
"""Counts of a photon whose charge was all collected: mean and standard deviation."""
LOW_ENERGY = (40.0, 90.0, 200.0)
"""Counts of the faint ones: least, most frequent, most."""
PARTIAL_SHARE, LOW_SHARE = 0.385, 0.105
"""Shares of photons of incomplete charge, and of faint ones."""
HALO_SHARE, HALO_SIGMA = 0.13, 1.0
"""Share of the charge in the halo, and the halo's standard deviation in px."""
SIGMA = (0.3, 0.6)
"""Least and largest standard deviation of a charge cloud in px; all between are as frequent."""
REACH = 5
"""Pixels beyond a cloud's own that its charge reaches: five times the widest one's sigma."""


class PhotonKind(IntEnum):
    """What became of a photon's charge."""

    FULL = 0
    """All of it was collected."""
    PARTIAL = 1
    """A part of it was collected, any from none to all alike."""
    LOW = 2
    """It was faint: fluorescence, or the edge of another process."""


PHOTON = np.dtype(
    [("frame", "u4"), ("y", "f8"), ("x", "f8"), ("energy", "f4"), ("kind", "u1"), ("sigma", "f4")]
)
"""One photon: its frame, the row and column of its cloud's centre in px (the centre of pixel
(r, c) is at (r, c)), its collected charge in counts, its `PhotonKind`, its cloud's width in px."""


def draw_photons(
    random: np.random.Generator,
    frames: int,
    shape: tuple[int, int],
    photons: float,
    sigma: float | tuple[float, float] = SIGMA,
    density: NDArray[np.floating[Any]] | None = None,
) -> NDArray[Any]:
    """Return the photons of a number of frames as an array of `PHOTON`, frame by frame.

    Parameters
    ----------
    random
        Where the numbers come from.
    frames
        Number of frames.
    shape
        (rows, columns) of a frame.
    photons
        Mean number in a frame, all kinds together; every frame's is Poisson.
    sigma
        Standard deviation of the charge clouds in px, or the least and the largest.
    density
        Relative density of photons [row, column], not negative; None: the same everywhere.

    Raises
    ------
    ValueError
        If the density has another shape or cannot be one.
    """
    frame = np.repeat(np.arange(frames), random.poisson(photons, frames))
    drawn = np.empty(frame.size, PHOTON)
    drawn["frame"] = frame
    drawn["y"], drawn["x"] = _places(random, frame.size, shape, density)
    kind = random.choice(
        len(PhotonKind), frame.size, p=[1 - PARTIAL_SHARE - LOW_SHARE, PARTIAL_SHARE, LOW_SHARE]
    )
    energy = np.maximum(random.normal(ENERGY, ENERGY_WIDTH, frame.size), 0)
    energy = np.where(kind == PhotonKind.PARTIAL, energy * random.random(frame.size), energy)
    low = random.triangular(*LOW_ENERGY, frame.size)
    drawn["energy"] = np.where(kind == PhotonKind.LOW, low, energy)
    drawn["kind"] = kind
    least, largest = np.broadcast_to(sigma, 2)
    drawn["sigma"] = random.uniform(least, largest, frame.size)
    return drawn


def _places(
    random: np.random.Generator,
    count: int,
    shape: tuple[int, int],
    density: NDArray[np.floating[Any]] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows and columns; inside a pixel all places are alike."""
    within = random.random((2, count)) - 0.5
    if density is None:
        pixels = random.integers(math.prod(shape), size=count)
    else:
        if density.shape != shape or not (density >= 0).all():
            raise ValueError(f"a density of {density.shape} with values from 0 must fit {shape}")
        ladder = np.cumsum(density, dtype=np.float64)
        pixels = np.searchsorted(ladder, ladder[-1] * random.random(count), side="right")
    rows, columns = np.unravel_index(pixels, shape)
    return rows + within[0], columns + within[1]


def add_clouds(light: NDArray[np.float32], photons: NDArray[Any], halo: float = HALO_SHARE) -> None:
    """Add the charge of photons to an image [row, column] in counts.

    A cloud is a Gaussian, integrated over each pixel, and `halo` of its charge
    lies in a wider one around it. What falls beyond the sensor's edge is lost.
    """
    y, x, energy, sigma = (photons[name].copy() for name in ("y", "x", "energy", "sigma"))
    _add_clouds(light, y, x, energy, sigma, halo)


@kernel
def _add_clouds(light: Any, y: Any, x: Any, energy: Any, sigma: Any, halo: float) -> None:
    rows, columns = light.shape
    width = 2 * REACH + 1
    cloud, around = np.empty((2, width)), np.empty((2, width))
    for n in range(y.size):
        row, column = math.floor(y[n] + 0.5), math.floor(x[n] + 0.5)
        for axis, offset in enumerate((y[n] - row, x[n] - column)):
            _profile(offset, sigma[n], cloud[axis])
            _profile(offset, HALO_SIGMA, around[axis])
        for i in range(max(0, REACH - row), min(width, rows + REACH - row)):
            for j in range(max(0, REACH - column), min(width, columns + REACH - column)):
                share = (1 - halo) * cloud[0, i] * cloud[1, j] + halo * around[0, i] * around[1, j]
                light[row - REACH + i, column - REACH + j] += energy[n] * share


@kernel
def _profile(centre: float, sigma: float, shares: Any) -> None:
    """Write the shares of a Gaussian in a line of pixels, the middle one at 0."""
    scale = 1 / (math.sqrt(2) * sigma)
    before = math.erf((-REACH - 0.5 - centre) * scale)
    for i in range(shares.size):
        after = math.erf((i - REACH + 0.5 - centre) * scale)
        shares[i] = (after - before) / 2
        before = after
