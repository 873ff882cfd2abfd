"""How well photons are found: simulated frames against their truth, and the noise of a camera.

Run it: `python tests/benchmarks/measure_photons.py [--dark marana-dark.h5]`. It prints
the tables of docs/explanation/photons.md. Frames are full ones of a Balor with a uniform
dark of 100 counts; cuts are the defaults. An isolated photon has none other within
3 px and lies 2 px or more from the edge; it is found if a photon lies within 2.5 px.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from ronda.core.images.dark import Dark
from ronda.core.images.orientation import Orientation
from ronda.core.images.photon_parameters import BalorParameters
from ronda.core.images.photons import DOUBLE, Candidates, Cuts, find_photons
from ronda.core.images.threshold import Correction, recorded, uniform
from ronda.core.marks import as_pixels
from ronda.core.simulation import PhotonKind, simulate_balor
from ronda.core.simulation.balor import SHAPE, Balor
from ronda.core.simulation.photons import ENERGY, ENERGY_WIDTH, SIGMA
from scipy.spatial import KDTree

DEFAULTS = BalorParameters()
CUTS = Cuts(DEFAULTS.photon_sum_min or 0.0, DEFAULTS.photon_sum_max)
SIGMAS = (0.35, 0.45, 0.5, 0.55)
PHOTONS = {1_000: 10, 10_000: 3, 50_000: 1}
"""Photons of a frame, and how many frames are looked at."""
DENSE = (10_000, 50_000, 100_000, 150_000, 200_000, 300_000)
ALONE, NEAR, EDGE = 3.0, 2.5, 2.0
"""Px: none other within; found within; at least from the edge."""
QUIET = 30
"""Counts between two dark frames up to which a pixel tells of the read noise."""
MARANA = "entry_0000/ESRF-ID11/marana/data"


def full_photons(
    frames: int,
    shape: tuple[int, int],
    photons: float,
    sigma: float | tuple[float, float],
    seed: int,
) -> Balor:
    """Return simulated frames of photons whose charge is all collected, and of nothing else."""
    balor = simulate_balor(frames, shape, photons, sigma, seed, streaks=0, hot=0)
    random = np.random.default_rng((seed, 1))
    balor.photons["energy"] = random.normal(ENERGY, ENERGY_WIDTH, balor.photons.size)
    balor.photons["kind"] = PhotonKind.FULL
    return balor


def find(image: NDArray[Any], correction: Correction) -> Candidates:
    """Return the candidates of a whole frame, however dense."""
    rows, columns = image.shape
    found = find_photons(as_pixels(image), None, correction, (0, rows, 0, columns), CUTS)
    assert isinstance(found, Candidates)
    return found


@dataclass
class Score:
    """What became of the photons of some frames."""

    isolated: int = 0
    missed: int = 0
    twice: int = 0
    false: int = 0
    """Photons found where there is none within 3 px."""
    photons: int = 0
    doubles: int = 0
    density: float = 0.0
    """Hit pixels of the last frame, in percent."""
    energy: list[NDArray[np.float64]] = field(default_factory=list)
    """Of isolated photons: found less all of the charge, in counts."""
    within: list[NDArray[np.float64]] = field(default_factory=list)
    """Of isolated photons: found less the charge in the 3 x 3 pixels, in counts."""
    place: list[NDArray[np.float64]] = field(default_factory=list)
    """Of isolated photons: found less true, (n, 2) y, x in px."""
    offset: list[NDArray[np.float64]] = field(default_factory=list)
    """Of isolated photons: true less the middle of the hottest pixel, (n, 2) y, x in px."""

    @classmethod
    def of(cls, balor: Balor) -> Self:
        """Return that of simulated frames."""
        score = cls()
        correction = uniform(100, DEFAULTS.hit_threshold or 0.0, balor.sensor.shape[1], U2)
        for number in range(balor.count):
            light = np.zeros(balor.sensor.shape, np.float32)
            balor.shine(light, number)
            truth = balor.photons[balor.photons["frame"] == number]
            score.add(truth, light, find(balor.frame(number), correction))
        return score

    def add(self, truth: NDArray[Any], light: NDArray[np.float32], found: Candidates) -> None:
        """Add one frame: its true photons, its charge in counts, what was found."""
        true = np.stack([truth["y"], truth["x"]], axis=1)
        chosen = found.is_photon
        place, energy, pixel = found.place[chosen], found.energy[chosen], found.pixel[chosen]
        tree, finds = KDTree(true), KDTree(place)
        inside = ((true >= EDGE) & (true <= np.array(light.shape) - 1 - EDGE)).all(axis=1)
        alone = inside & (tree.query_ball_point(true, ALONE, return_length=True) == 1)
        near = finds.query_ball_point(true[alone], NEAR)
        number = np.array([len(each) for each in near], int)
        self.isolated += number.size
        self.missed += int((number == 0).sum())
        self.twice += int((number > 1).sum())
        self.photons += len(place)
        self.density = 100 * found.density
        self.doubles += int(((found.flag[chosen] & DOUBLE) > 0).sum())
        self.false += int((tree.query(place)[0] > ALONE).sum()) if len(place) else 0
        once = np.flatnonzero(alone)[number == 1]
        match = np.array([each[0] for each in near if len(each) == 1], int)
        self.energy.append(energy[match] - truth["energy"][once].astype(np.float64))
        self.within.append(energy[match] - sum_around(light, pixel[match]))
        self.place.append(place[match] - true[once])
        self.offset.append(true[once] - pixel[match])

    @property
    def recall(self) -> float:
        """Share of the isolated photons that were found, in percent."""
        return 100 * (1 - self.missed / max(self.isolated, 1))

    @property
    def pull(self) -> float:
        """By how much places are drawn to the middle of the pixel, in percent of the distance."""
        offset, place = (np.concatenate(parts).ravel() for parts in (self.offset, self.place))
        return float(-100 * (offset @ place) / (offset @ offset))


U2 = np.dtype(np.uint16)


def sum_around(image: NDArray[Any], pixel: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the sum of an image over the 3 x 3 pixels around each pixel (n, 2)."""
    total = np.zeros(len(pixel))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            total += image[pixel[:, 0] + dy, pixel[:, 1] + dx]
    return total


def bias_and_rms(parts: list[NDArray[np.float64]], digits: int) -> str:
    """Return mean and standard deviation as text."""
    values = np.concatenate(parts)
    return f"{values.mean():+.{digits}f} / {values.std():.{digits}f}"


def head(*columns: str) -> Iterator[str]:
    """Yield the head of a table."""
    yield "\n| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---:" for _ in columns) + " |"


def accuracy() -> Iterator[str]:
    """Yield the lines of the table of isolated photons."""
    yield from head(
        "sigma (px)", "photons", "isolated", "recall (%)", "twice", "energy less all",
        "energy less 3 x 3", "y", "x", "drawn in (%)", "doubles a frame", "false a frame",
    )  # fmt: skip
    for sigma in SIGMAS:
        for photons, frames in PHOTONS.items():
            score = Score.of(full_photons(frames, SHAPE, photons, sigma, seed=photons))
            y, x = (bias_and_rms([part[:, axis] for part in score.place], 3) for axis in (0, 1))
            yield (
                f"| {sigma} | {photons} | {score.isolated} | {score.recall:.3f} | {score.twice} | "
                f"{bias_and_rms(score.energy, 1)} | {bias_and_rms(score.within, 1)} | {y} | {x} | "
                f"{score.pull:.1f} | {score.doubles / frames:.1f} | {score.false / frames:g} |"
            )


def density() -> Iterator[str]:
    """Yield the lines of the table of dense frames: clouds of all widths, full charge."""
    yield from head(
        "photons", "hits (%)", "found of all (%)", "doubles (%)", "recall, isolated (%)"
    )
    for photons in DENSE:
        balor = full_photons(1, SHAPE, photons, SIGMA, seed=photons)
        score = Score.of(balor)
        of_all = 100 * score.photons / balor.photons.size
        yield (
            f"| {photons} | {score.density:.2f} | {of_all:.1f} | "
            f"{100 * score.doubles / score.photons:.1f} | {score.recall:.3f} |"
        )


def noise(path: Path) -> Iterator[str]:
    """Yield the lines of the table of a camera's dark frames."""
    with h5py.File(path) as file:
        first, second = (np.asarray(file[MARANA][number]) for number in range(2))
    dark, level = Dark(as_pixels(first)), float(np.median(first))
    change = second.astype(float) - first
    spread = change[np.abs(change) < QUIET].std() / np.sqrt(2)
    yield f"\nread noise: {spread:.2f} counts rms"
    yield from head(
        "hit threshold",
        "dark",
        "hits",
        "candidates",
        "in both",
        "one hit",
        "photons",
        "largest sum",
    )
    for limit in (12.0, 20.0, 50.0, DEFAULTS.hit_threshold or 0.0):
        for name, correction in (
            (f"uniform, {level:g}", uniform(level, limit, first.shape[1], U2)),
            ("the other frame", recorded(dark, Orientation.NORMAL, limit, None, U2)),
        ):
            found = find(second, correction)
            both = int((first[tuple(found.pixel.T)] >= level + limit).sum())
            lone = int((sum_around(correction.subtracted(second) > 0, found.pixel) == 1).sum())
            photons, most = int(found.is_photon.sum()), found.energy.max()
            yield (
                f"| {limit:g} | {name} | {found.hits} | {len(found.energy)} | {both} | {lone} | "
                f"{photons} | {most:.0f} |"
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Print how well photons are found.")
    parser.add_argument("--dark", type=Path, help="two dark frames of the Marana (HDF5)")
    dark = parser.parse_args().dark
    print("bias / rms; energies in counts, places in px", flush=True)
    parts = [accuracy(), density()]
    if dark is not None and dark.is_file():
        parts.append(noise(dark))
    for line in chain.from_iterable(parts):
        print(line, flush=True)
    if len(parts) == 2:
        print("\nThe dark frames of a real camera are left out: --dark names no file.")


if __name__ == "__main__":
    main()
