"""Spots found and integrated as plainly as it can be: whole frames against rebuilt ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabio
import numpy as np
from numpy.typing import NDArray
from ronda.core.geometry import Geometry
from scipy.ndimage import maximum_filter, uniform_filter

Image = NDArray[Any]
Floats = NDArray[np.float64]

BOX, INNER, OUTER = 7, 9, 15
"""Sides in px of the square that a spot is summed in, and of the ring of its background."""
WEAK_SHAPE = (900, 900)
"""(rows, columns) of a simulated frame of few counts."""
THAUMATIN = ("0001", "0004", "0007", "0010", "0013", "0016")
"""Numbers of the real frames."""


@dataclass(frozen=True)
class Real:
    """A frame of a thaumatin crystal on a Pilatus 6M, with what the stage needs."""

    image: Image
    """int32, (rows, columns)."""
    settings: dict[str, Any]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where the detector counted."""
        found: NDArray[np.bool_] = self.image >= 0
        return found


def thaumatin(data: Path, number: str, folder: Path) -> Real | None:
    """Read a frame and write its PONI and mask files; None if it is not among the data."""
    path = data / "thaumatin" / f"thau_3_2_{number}.cbf.bz2"
    if not path.is_file():
        return None
    image = np.ascontiguousarray(fabio.open(path).data)
    place = Geometry(
        photon_energy=12.398419843 / 0.96859, detector_distance=0.351, beam_center_x=1261.61,
        beam_center_y=1306.96, pixel_size=172e-6,
    )  # fmt: skip
    rows, columns = image.shape
    (folder / "thaumatin.poni").write_text(place.to_poni((rows, columns)))
    mask = folder / f"mask-{number}.edf"
    fabio.edfimage.EdfImage((image < 0).astype(np.uint8)).write(str(mask))
    poni = str(folder / "thaumatin.poni")
    return Real(image, {"poni_file": poni, "mask_file": str(mask)})


def box_sum(image: Image, side: int) -> Floats:
    """Return the sum of the square about each pixel."""
    found: Floats = uniform_filter(image.astype(np.float64), side, mode="constant") * side * side
    return found


def clear(valid: NDArray[np.bool_], side: int = OUTER) -> NDArray[np.bool_]:
    """Return where all pixels of the square are valid."""
    found: NDArray[np.bool_] = box_sum(~valid, side) < 0.5
    return found


def find_spots(image: Image, valid: NDArray[np.bool_], least: float) -> NDArray[np.intp]:
    """Return (n, 2) row and column of spots that stand out by `least` errors, each alone.

    The signal is the sum of 3 x 3 pixels over the mean of the ring about them.
    """
    counts = np.where(valid, image, 0)
    around = (box_sum(counts, OUTER) - box_sum(counts, INNER)) / (OUTER**2 - INNER**2)
    total = box_sum(counts, 3)
    with np.errstate(invalid="ignore"):
        significance = (total - 9 * around) / np.sqrt(np.maximum(9 * around, 1))
    significance[~clear(valid)] = -np.inf
    highest = significance == maximum_filter(significance, OUTER)
    return np.argwhere(highest & (significance > least))


def integrate(
    image: Image, places: NDArray[np.intp], side: int = BOX
) -> tuple[Floats, Floats, Floats]:
    """Return the counts of spots over their background, their errors, and those of no spot."""
    y, x = places.T
    total = box_sum(image, side)[y, x]
    pixels = OUTER**2 - INNER**2
    around = (box_sum(image, OUTER) - box_sum(image, INNER))[y, x]
    share = side**2 / pixels
    errors = np.sqrt(np.maximum(total + share**2 * around, 0))
    return total - share * around, errors, np.sqrt(np.maximum(share * around, 1))


@dataclass(frozen=True, eq=False)
class Weak:
    """A simulated frame of weak spots on few counts, and the truth about it."""

    image: Image
    """uint16, (rows, columns)."""
    places: NDArray[np.intp]
    """(n, 2) row and column of the spots."""
    photons: Floats
    """Mean photons of each spot, (n,)."""
    free: NDArray[np.bool_]
    """True where there is no spot."""


def weak_frame(mean: float, seed: int) -> Weak:
    """Return a frame of a mean background, less with the radius, and of spots of 5 to 50 photons.

    Spots are Gaussians of 1 px on a grid of 60 px, displaced by up to half a pixel.
    """
    random = np.random.default_rng(seed)
    y, x = np.indices(WEAK_SHAPE)
    radius = np.hypot(y - WEAK_SHAPE[0] / 2, x - WEAK_SHAPE[1] / 2)
    expected = mean * (1.6 - 1.5 * radius / radius.max())
    expected *= mean / expected.mean()
    places = np.argwhere((y % 60 == 30) & (x % 60 == 30))
    photons = random.uniform(5, 50, len(places))
    free = np.ones(WEAK_SHAPE, np.bool_)
    near = np.arange(-7, 8)
    for (row, column), number in zip(places, photons, strict=True):
        dy, dx = random.uniform(-0.5, 0.5, 2)
        cut = slice(row - 7, row + 8), slice(column - 7, column + 8)
        spot = np.exp(-((near[:, None] - dy) ** 2 + (near - dx) ** 2) / 2)
        expected[cut] += number * spot / spot.sum()
        free[cut] = False
    return Weak(random.poisson(expected).astype(np.uint16), places, photons, free)


def weak_settings(folder: Path) -> dict[str, Any]:
    """Write the PONI file of weak frames; return parameters that fit."""
    place = Geometry(
        photon_energy=12.4, detector_distance=0.1, beam_center_x=WEAK_SHAPE[1] / 2,
        beam_center_y=WEAK_SHAPE[0] / 2, pixel_size=75e-6,
    )  # fmt: skip
    (folder / "weak.poni").write_text(place.to_poni(WEAK_SHAPE))
    return {"poni_file": str(folder / "weak.poni"), "radial_bins": 100}
