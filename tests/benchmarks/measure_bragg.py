"""How well sparse frames stand for whole ones: real frames of a crystal, and weak simulated ones.

Run it: `python tests/benchmarks/measure_bragg.py [--data FOLDER]`, FOLDER with `thaumatin`
in it. It prints the tables of docs/explanation/azimuthal.md. Every frame goes through the
stage, the file and back. A spot is the sum of 7 x 7 pixels over the mean of a ring about
it (9 to 15 px a side); its error is that of the counts of the whole frame. A second table
has the very squares that frames are sparsified by, 3 x 3 pixels, over the same ring; their
significance is counted in errors of the background alone.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.sparse_file import SparseFile, StoredFrame
from ronda.core.compute.device import opencl_devices
from ronda.tests.core.bragg.crystal import write_sparse
from ronda.tests.core.bragg.pyfai_peers import by_opencl, by_python, jaccard
from ronda.tests.core.bragg.spots import (
    BOX,
    THAUMATIN,
    Real,
    find_spots,
    integrate,
    thaumatin,
    weak_frame,
    weak_settings,
)
from scipy.special import ndtr

CLASSES = ((3, 10), (10, 30), (30, 100), (100, np.inf))
"""Spots by their counts over their errors."""
BOX_CLASSES = ((2, 3), (3, 5), (5, 10), (10, np.inf))
"""Squares of 3 x 3 pixels by their counts over the errors of their background."""
RULES = (
    ("poisson", 0.0, 1),
    ("poisson", 0.0, 3),
    ("poisson", 0.0, 5),
    ("poisson", 1.0, 1),
    ("poisson", 1.0, 3),
    ("hybrid", 1.0, 1),
    ("hybrid", 1.0, 3),
)
WEAK_RULES = (
    ("poisson", 0.0, 1),
    ("poisson", 0.0, 3),
    ("poisson", 0.0, 5),
    ("poisson-classic", 0.0, 1),
    ("poisson-classic", 1.0, 1),
)
"""Error models, noises and spot sizes; the last one is pyFAI's default."""
CUTOFFS = (2.0, 3.0)
MEANS = (0.02, 0.1, 0.5)
PHOTONS = ((5, 15), (15, 30), (30, 50))
FRAMES = 8
"""Simulated frames of each mean."""


def head(*columns: str) -> Iterator[str]:
    """Yield the head of a table."""
    yield "\n| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---:" for _ in columns) + " |"


def read(path: Path) -> tuple[Densifier, list[StoredFrame]]:
    """Return what rebuilds the frames of a file, and them."""
    with SparseFile(path) as file:
        return Densifier(file), list(file.frames(range(file.count)))


def agreement(frames: dict[str, Real], folder: Path) -> Iterator[str]:
    """Yield the lines of the table of kept pixels beside pyFAI's."""
    from ronda.core.azimuthal.rings import rings
    from ronda.core.bragg.parameters import BraggParameters

    peer = by_opencl if opencl_devices() else by_python
    yield f"\npyFAI by {peer.__name__.removeprefix('by_')}; hybrid, cutoff 3, noise 1"
    yield from head(
        "frame", "kept", "pyFAI's", "Jaccard", "over 6 deviations", "of these not kept",
        "pyFAI's empty rings (poisson)", "ours (any model)",
    )  # fmt: skip
    for number, real in frames.items():
        path = folder / f"hybrid-{number}.h5"
        shown = write_sparse(path, [real.image], **real.settings, error_model="hybrid")
        _, (frame,) = read(path)
        values = BraggParameters().changed(real.settings)
        made = rings(values.setup.experiment(real.image.shape), values.unit, values.radial_bins)
        theirs, average, deviation = peer(real.image, made, "hybrid")  # type: ignore[arg-type]
        _, _, classic = peer(real.image, made, "poisson")  # type: ignore[arg-type]
        radius = made.radius.astype(np.float64).ravel()
        level, spread = (np.interp(radius, made.centres, each) for each in (average, deviation))
        with np.errstate(invalid="ignore"):
            strong = np.flatnonzero(real.image.ravel() - level > 6 * np.hypot(spread, 1))
        empty = [int(shown["empty_rings"])]
        for model in ("poisson", "poisson-classic", "azimuthal"):
            shown = write_sparse(
                folder / f"{model}-{number}.h5", [real.image], **real.settings, error_model=model
            )
            empty.append(int(shown["empty_rings"]))
        missing = np.setdiff1d(strong, np.intersect1d(frame.index, theirs)).size
        yield (
            f"| {number} | {frame.index.size} | {theirs.size} | "
            f"{jaccard(frame.index.astype(np.uint32), theirs):.3f} | {strong.size} | {missing} | "
            f"{int((classic[made.count > 0] <= 0).sum())} | {max(empty)} |"
        )


class Spots:
    """The spots of some real frames."""

    def __init__(
        self, frames: dict[str, Real], least: float, side: int, classes: tuple[Any, ...]
    ) -> None:
        self.side = side
        self.places = {
            key: find_spots(real.image, real.valid, least) for key, real in frames.items()
        }
        dense = [
            integrate(np.where(real.valid, real.image, 0), self.places[key], side)
            for key, real in frames.items()
        ]
        self.whole, self.errors, floor = (np.concatenate(each) for each in zip(*dense, strict=True))
        unit = self.errors if side == BOX else floor
        self.classes = [
            (self.whole >= low * unit) & (self.whole < high * unit) for low, high in classes
        ]

    @property
    def numbers(self) -> str:
        """How many there are of each class."""
        return ", ".join(str(chosen.sum()) for chosen in self.classes)

    def integrate(self, key: str, real: Real, image: NDArray[Any]) -> NDArray[Any]:
        """Return the counts of the spots of a frame on an image rebuilt of it."""
        return integrate(np.where(real.valid, image, 0), self.places[key], self.side)[0]

    def cells(self, rebuilt: list[NDArray[Any]]) -> list[str]:
        """Return what is lost of each class in percent, and the mean difference in errors."""
        found = np.concatenate(rebuilt)
        return [
            f"{100 * (1 - found[c].sum() / self.whole[c].sum()):.2f} / "
            f"{((found - self.whole) / self.errors)[c].mean():+.2f}"
            for c in self.classes
        ]


def real_spots(frames: dict[str, Real], folder: Path) -> Iterator[str]:
    """Yield the lines of the table of spots and backgrounds of real frames."""
    wide = Spots(frames, 5.0, BOX, CLASSES)
    boxes = Spots(frames, BOX_CLASSES[0][0], 3, BOX_CLASSES)
    yield f"\nspots of each class (counts over error): {wide.numbers}; 3 x 3: {boxes.numbers}"
    yield from head(
        "model", "cutoff", "noise", "spot size", "kept (%)",
        *(f"{low}-{high:g}: lost (%) / pull" for low, high in CLASSES),
        *(f"3 x 3, {low}-{high:g}" for low, high in BOX_CLASSES),
        "background off", "with noise", "without fill",
    )  # fmt: skip
    for (model, noise, size), cutoff in product(RULES, CUTOFFS):
        rebuilt, rebuilt_boxes, kept, off = [], [], [], []
        for number, real in frames.items():
            path = folder / f"{model}-{noise}-{size}-{cutoff}-{number}.h5"
            how = {"error_model": model, "noise": noise, "cutoff_pick": cutoff, "spot_size": size}
            write_sparse(path, [real.image], **real.settings, **how)
            densifier, (frame,) = read(path)
            image = densifier.image(frame)
            noisy = densifier.image(frame, 1.0, np.random.default_rng(1))
            plain = densifier.image(replace(frame, fill=None))
            rebuilt.append(wide.integrate(number, real, image))
            rebuilt_boxes.append(boxes.integrate(number, real, image))
            kept.append(frame.index.size / real.valid.sum())
            counts = real.image.astype(float)
            off.append([(each - counts)[real.valid].mean() for each in (image, noisy, plain)])
        yield (
            f"| {model} | {cutoff:g} | {noise:g} | {size} | {100 * np.mean(kept):.2f} | "
            + " | ".join(wide.cells(rebuilt) + boxes.cells(rebuilt_boxes))
            + " | "
            + " | ".join(f"{each:+.3f}" for each in np.mean(off, axis=0))
            + " |"
        )


def weak_spots(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of simulated frames with few counts."""
    settings = weak_settings(folder)
    yield from head(
        "counts", "model", "noise", "spot size", "cutoff", "background kept (%)",
        *(f"{low}-{high} photons: found (%)" for low, high in PHOTONS),
        "background off, with noise",
    )  # fmt: skip
    for mean in MEANS:
        weak = [weak_frame(mean, seed) for seed in range(FRAMES)]
        photons = np.concatenate([each.photons for each in weak])
        whole = np.concatenate([integrate(each.image, each.places)[0] for each in weak])
        for cutoff, (model, noise, size) in product(CUTOFFS, WEAK_RULES):
            path = folder / f"weak-{mean}-{model}-{noise}-{size}-{cutoff}.h5"
            how = {"error_model": model, "noise": noise, "cutoff_pick": cutoff, "spot_size": size}
            write_sparse(path, [each.image for each in weak], **settings, **how)
            densifier, frames = read(path)
            rebuilt, share, off = [], [], []
            for each, frame in zip(weak, frames, strict=True):
                kept = np.zeros(each.image.size, np.bool_)
                kept[frame.index] = True
                share.append(kept.reshape(each.image.shape)[each.free].mean())
                noisy = densifier.image(frame, 1.0, np.random.default_rng(2))
                off.append((noisy.astype(float) - each.image)[each.free].mean())
                # without noise integers round these backgrounds to 0
                rebuilt.append(integrate(noisy, each.places)[0])
            found = np.concatenate(rebuilt)
            cells = [f"{_found(found, whole, photons, limits):.1f}" for limits in PHOTONS]
            yield (
                f"| {mean:g} | {model} | {noise:g} | {size} | {cutoff:g} | "
                f"{100 * np.mean(share):.3f} of {100 * ndtr(-cutoff):.2f} | "
                + " | ".join(cells)
                + f" | {np.mean(off):+.4f} |"
            )


def _found(
    found: NDArray[Any], whole: NDArray[Any], photons: NDArray[Any], limits: tuple[int, int]
) -> float:
    """Return what is found of the counts of spots of so many photons, in percent."""
    chosen = (photons >= limits[0]) & (photons < limits[1])
    return float(100 * found[chosen].sum() / whole[chosen].sum())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Print how well sparse frames stand for whole.")
    parser.add_argument("--data", type=Path, help="folder with thaumatin/thau_3_2_*.cbf.bz2")
    data = parser.parse_args().data
    warnings.simplefilter("ignore")  # pyFAI's own
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = [weak_spots(folder)]
        frames = {}
        for number in THAUMATIN if data else ():
            if (real := thaumatin(data, number, folder)) is not None:
                frames[number] = real
        if frames:
            parts = [agreement(frames, folder), real_spots(frames, folder), *parts]
        for line in chain.from_iterable(parts):
            print(line, flush=True)
    if not frames:
        print("\nThe real frames are left out: --data names no folder with them.")


if __name__ == "__main__":
    main()
