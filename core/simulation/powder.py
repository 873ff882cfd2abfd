"""A simulated powder on a Pilatus: what the demo and the tests measure where no recording is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import Geometry

LAB6_LATTICE = 4.15682
"""Lattice parameter of LaB6 in angstrom (NIST SRM 660c certificate, 22.5 degrees C)."""
MASKED = -1.0
"""What a Pilatus writes where it has no pixel."""
OVERFLOW = -2.0
"""What a Pilatus writes for a pixel that counted beyond its range."""

MODULE = (195, 487)
"""(rows, columns) of a Pilatus module, seams between its chips included."""
PITCH = (212, 494)
"""(rows, columns) from one module to the next."""
CHIP = (98, 61)
"""(rows, columns) from one chip to the next; the last of them is a seam without pixels."""

LINE_WIDTH = 0.016
"""Standard deviation of a ring's width in 1/angstrom."""
ENERGY_WIDTH = 0.11
"""Standard deviation of a photon's measured energy, relative (time over threshold)."""

FEMTOMAX = Geometry(
    photon_energy=13.5,
    detector_distance=0.131,
    beam_center_x=210.0,
    beam_center_y=373.0,
    pixel_size=172e-6,
)
"""The Pilatus of FemtoMAX as it stood for the LaB6 recording of November 2024."""


@dataclass(frozen=True, slots=True)
class Powder:
    """Simulated frames with the truth about them."""

    frames: NDArray[np.float32]
    """Pixels in keV [frame, row, column]; -1 where there is none, -2 for an overflow."""
    geometry: Geometry
    q: NDArray[np.float64]
    """Where the rings are, in 1/angstrom; `geometry.rings(q, shape)` draws them."""


def lab6_lines(q_max: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return q in 1/angstrom and multiplicity of LaB6's lines (primitive cubic) up to `q_max`."""
    order = max(1, math.ceil(q_max * LAB6_LATTICE / (2 * math.pi)))
    index = np.arange(-order, order + 1)
    squares = index[:, None, None] ** 2 + index[:, None] ** 2 + index**2
    numbers, multiplicity = np.unique(squares, return_counts=True)
    q = 2 * np.pi * np.sqrt(numbers) / LAB6_LATTICE
    kept = (q > 0) & (q <= q_max)
    return q[kept], multiplicity[kept].astype(np.float64)


def simulate_powder(
    frames: int = 30,
    shape: tuple[int, int] = (831, 1475),
    geometry: Geometry = FEMTOMAX,
    seed: int = 0,
    overflow_pixels: int = 5,
) -> Powder:
    """Return frames of LaB6 rings as single photons in keV, the same for the same `seed`.

    The numbers follow the recording of FemtoMAX: some 4000 photons a frame of a
    megapixel, a few per pixel at most. A pixel's value is its photons' energy,
    each smeared by `ENERGY_WIDTH`, to 0.1 keV.

    Parameters
    ----------
    frames
        Number of frames.
    shape
        (rows, columns) of a frame; the Pilatus modules are laid out from its first pixel.
    geometry
        Where the detector stands.
    seed
        Of the random numbers.
    overflow_pixels
        Number of pixels that overflow in every frame.
    """
    random = np.random.default_rng(seed)
    q_map = geometry.q_map(shape)
    lines, multiplicity = lab6_lines(float(q_map.max()) - 3 * LINE_WIDTH)
    rate = geometry.solid_angle(shape) * _photons_per_pixel(q_map, lines, multiplicity)
    seams = pilatus_seams(shape)
    hot = random.choice(np.flatnonzero(~seams), overflow_pixels, replace=False)
    pixels = np.empty((frames, *shape), np.float32)
    # Photons dropped one by one are Poisson in every pixel, and few: faster than pixel by pixel.
    ladder = np.cumsum(rate)
    for frame in pixels:
        places = np.searchsorted(ladder, ladder[-1] * random.random(random.poisson(ladder[-1])))
        energies = geometry.photon_energy * random.normal(1, ENERGY_WIDTH, places.size)
        energy = np.bincount(places, np.maximum(energies, 0), minlength=rate.size)
        frame[...] = np.round(energy, 1).reshape(shape)
        frame[seams] = MASKED
        frame.flat[hot] = OVERFLOW
    return Powder(pixels, geometry, lines)


def pilatus_seams(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where a Pilatus has no pixels: between modules, and between a module's chips."""
    masks = []
    for length, module, pitch, chip in zip(shape, MODULE, PITCH, CHIP, strict=True):
        place = np.arange(length) % pitch
        masks.append((place >= module) | (place % chip == chip - 1))
    rows, columns = masks
    return np.asarray(rows[:, None] | columns)


def _photons_per_pixel(
    q_map: NDArray[np.float64], lines: NDArray[np.float64], multiplicity: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a frame's mean photons in pixels at normal incidence: rings on a background."""
    q = np.linspace(0, float(q_map.max()), 4096)
    background = 0.0025 + 0.02 * np.exp(-((q / 1.5) ** 2))
    # A ring's photons spread over its length, and the atoms' form factors fall off.
    strength = 0.005 * multiplicity / lines * np.exp(-((lines / 7) ** 2))
    shape = np.exp(-(((q[:, None] - lines) / LINE_WIDTH) ** 2) / 2)
    return np.asarray(np.interp(q_map, q, background + shape @ strength))
