"""How well sparse frames stand for whole ones: real frames of a crystal, and weak simulated ones.

Run it: `python tests/benchmarks/measure_bragg.py [--data FOLDER]`, FOLDER with `thaumatin`
in it. It prints the tables of docs/explanation/azimuthal.md. Every frame goes through the
stage, the file and back. A spot is the sum of 7 x 7 pixels over the mean of a ring about
it (9 to 15 px a side); its error is that of the counts of the whole frame.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.sparse_file import SparseFile, StoredFrame
from ronda.core.compute.device import opencl_devices
from ronda.tests.core.bragg.crystal import write_sparse
from ronda.tests.core.bragg.spots import (
    THAUMATIN,
    Real,
    find_spots,
    integrate,
    thaumatin,
    weak_frame,
    weak_settings,
)
from ronda.tests.core.bragg.test_picking import by_opencl, by_python, jaccard
from scipy.special import ndtr

CLASSES = ((3, 10), (10, 30), (30, 100), (100, np.inf))
"""Spots by their counts over their errors."""
RULES = (("poisson", 0.0, 0), ("poisson", 0.0, 1), ("poisson", 1.0, 0), ("hybrid", 1.0, 0))
WEAK_RULES = (
    ("poisson", 0.0, 0),
    ("poisson", 0.0, 1),
    ("poisson-classic", 0.0, 0),
    ("poisson-classic", 1.0, 0),
)
"""Error models, noises and margins; the last one is pyFAI's default."""
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


def real_spots(frames: dict[str, Real], folder: Path) -> Iterator[str]:
    """Yield the lines of the tables of spots and backgrounds of real frames."""
    spots = {number: find_spots(real.image, real.valid, 5.0) for number, real in frames.items()}
    dense = {
        number: integrate(np.where(real.valid, real.image, 0), spots[number])
        for number, real in frames.items()
    }
    whole, errors = (np.concatenate([each[part] for each in dense.values()]) for part in (0, 1))
    classes = [(whole >= low * errors) & (whole < high * errors) for low, high in CLASSES]
    numbers = ", ".join(str(chosen.sum()) for chosen in classes)
    yield f"\nspots of each class (counts over error): {numbers}"
    yield from head(
        "model", "cutoff", "noise", "margin", "kept (%)",
        *(f"{low}-{high:g}: lost (%) / pull" for low, high in CLASSES),
        "background off", "with noise",
    )  # fmt: skip
    for (model, noise, margin), cutoff in product(RULES, CUTOFFS):
        rebuilt, kept, off, off_noisy = [], [], [], []
        for number, real in frames.items():
            path = folder / f"{model}-{noise}-{margin}-{cutoff}-{number}.h5"
            how = {"error_model": model, "noise": noise, "cutoff_pick": cutoff, "margin": margin}
            write_sparse(path, [real.image], **real.settings, **how)
            densifier, (frame,) = read(path)
            image = densifier.image(frame)
            noisy = densifier.image(frame, 1.0, np.random.default_rng(1))
            rebuilt.append(integrate(np.where(real.valid, image, 0), spots[number])[0])
            kept.append(frame.index.size / real.valid.sum())
            off.append((image.astype(float) - real.image)[real.valid].mean())
            off_noisy.append((noisy.astype(float) - real.image)[real.valid].mean())
        found = np.concatenate(rebuilt)
        cells = [
            f"{100 * (1 - found[c].sum() / whole[c].sum()):.2f} / "
            f"{((found - whole) / errors)[c].mean():+.2f}"
            for c in classes
        ]
        yield (
            f"| {model} | {cutoff:g} | {noise:g} | {margin} | {100 * np.mean(kept):.2f} | "
            + " | ".join(cells)
            + f" | {np.mean(off):+.3f} | {np.mean(off_noisy):+.3f} |"
        )


def weak_spots(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of simulated frames with few counts."""
    settings = weak_settings(folder)
    yield from head(
        "counts", "model", "noise", "margin", "cutoff", "background kept (%)",
        *(f"{low}-{high} photons: found (%)" for low, high in PHOTONS),
        "background off, with noise",
    )  # fmt: skip
    for mean in MEANS:
        weak = [weak_frame(mean, seed) for seed in range(FRAMES)]
        photons = np.concatenate([each.photons for each in weak])
        whole = np.concatenate([integrate(each.image, each.places)[0] for each in weak])
        for cutoff, (model, noise, margin) in product(CUTOFFS, WEAK_RULES):
            path = folder / f"weak-{mean}-{model}-{noise}-{margin}-{cutoff}.h5"
            how = {"error_model": model, "noise": noise, "cutoff_pick": cutoff, "margin": margin}
            write_sparse(path, [each.image for each in weak], **settings, **how)
            densifier, frames = read(path)
            rebuilt, share, off = [], [], []
            for each, frame in zip(weak, frames, strict=True):
                kept = np.zeros(each.image.size, np.bool_)
                kept[frame.index] = True
                share.append(kept.reshape(each.image.shape)[each.free].mean())
                noisy = densifier.image(frame, 1.0, np.random.default_rng(2))
                off.append((noisy.astype(float) - each.image)[each.free].mean())
                rebuilt.append(integrate(densifier.image(frame), each.places)[0])
            found = np.concatenate(rebuilt)
            cells = [f"{_found(found, whole, photons, limits):.1f}" for limits in PHOTONS]
            yield (
                f"| {mean:g} | {model} | {noise:g} | {margin} | {cutoff:g} | "
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
