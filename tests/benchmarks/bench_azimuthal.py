"""How long integration and sparsifying take a frame, beside pyFAI on the same frames.

Run it: `python tests/benchmarks/bench_azimuthal.py`. Times are ms a frame: the
best of several rounds, ours and pyFAI's in turn, as the speed of shared machines
changes. One thread, and two threads with a frame each. pyFAI's engines are its
fastest here: the compressed-column matrix for integration, which takes a frame a
thread; OpenCL for sparsifying (with both cores, whatever the column says), if
there is any. `raw` is from decoded frames, `bslz4` from compressed ones (pyFAI's
decoded by hdf5plugin's or dectris' library as ours are). The floor is the frame,
and the ring of each pixel, read once at the speed of NumPy's copy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dectris.compression
import numpy as np
from bench_images import copy_speed
from numpy.typing import NDArray
from ronda.core.azimuthal.decoding import borrow_pixels
from ronda.core.azimuthal.errors import ErrorModel
from ronda.core.azimuthal.experiment import Experiment, Setup
from ronda.core.azimuthal.integration import Integrator
from ronda.core.azimuthal.rings import rings
from ronda.core.azimuthal.splitting import Split
from ronda.core.azimuthal.units import Unit
from ronda.core.bragg.picking import Sparsifier, Sparsifying
from ronda.core.codecs import encode_bslz4
from ronda.core.frame import Encoded, Frame, Series
from ronda.core.simulation import simulate_eiger

BINS, RINGS = 1000, 800
ROUNDS, FRAMES = 7, 8
"""Rounds of which the best counts, and distinct frames of a round."""
KINDS = {
    "Pilatus 1M int32": ((1043, 981), np.dtype(np.int32)),
    "Eiger 4M uint16": ((2167, 2070), np.dtype(np.uint16)),
    "Eiger 4M uint32": ((2167, 2070), np.dtype(np.uint32)),
    "Pilatus 6M int32": ((2527, 2463), np.dtype(np.int32)),
}
Work = Callable[[Any], object]


@dataclass
class Case:
    """Frames of one detector."""

    name: str
    experiment: Experiment
    frames: list[NDArray[Any]]
    encoded: list[Frame]

    @classmethod
    def make(cls, name: str, folder: Path) -> Case:
        """Simulate the frames of a detector, gaps and spots included."""
        shape, dtype = KINDS[name]
        made = simulate_eiger(FRAMES, shape, bits=16 if dtype.itemsize == 2 else 32)
        poni = folder / "bench.poni"
        poni.write_text(made.geometry.to_poni(shape))
        frames = []
        for number in range(FRAMES):
            frame = made.frame(number)
            frames.append(
                np.where(made.gaps, -1, frame).astype(dtype) if dtype.kind == "i" else frame
            )
        series = Series(1)
        encoded = [
            Frame(series, number, Encoded(encode_bslz4(frame), shape, dtype, "bslz4"))
            for number, frame in enumerate(frames)
        ]
        experiment = Setup(str(poni)).experiment(shape)
        return cls(name, experiment, frames, encoded)


def best(works: Sequence[tuple[Work, Sequence[Any]]], threads: int) -> list[float]:
    """Return the shortest time of each work in ms a frame; they take turns."""
    times = [np.inf] * len(works)
    with ThreadPoolExecutor(threads) as pool:
        for round_number in range(ROUNDS + 1):
            for number, (work, frames) in enumerate(works):
                begin = time.perf_counter()
                list(pool.map(work, frames))
                took = 1e3 * (time.perf_counter() - begin) / len(frames)
                if round_number:  # the first compiles
                    times[number] = min(times[number], took)
    return times


def decoded_by_them(frame: Frame) -> NDArray[Any]:
    """Return the pixels of a compressed frame as pyFAI's user would get them."""
    payload = frame.payload
    assert isinstance(payload, Encoded)
    size = payload.dtype.itemsize
    raw = dectris.compression.decompress(payload.blob, "bslz4", elem_size=size)
    return np.frombuffer(raw, payload.dtype).reshape(payload.shape)


def head(title: str) -> None:
    """Print the head of a table."""
    print(title)
    columns = "".join(f"{name:>11}" for name in ("ours", "pyFAI", "times", "x floor"))
    print(f"  {'':40}{columns}")


def line(what: str, ours: float, theirs: float | None, floor: float) -> None:
    """Print a line of a table."""
    peer = f"{theirs:11.2f}{theirs / ours:11.1f}" if theirs else f"{'-':>11}{'-':>11}"
    print(f"  {what:40}{ours:11.2f}{peer}{ours / floor:11.1f}", flush=True)


def bench_integration(case: Case, split: Split, speed: float) -> None:
    """Print how long integration takes."""
    integrator = Integrator(case.experiment, BINS, Unit.Q_NM, split=split)
    theirs = their_integration(case.experiment, "no" if split is Split.NO else "bbox")
    floor = case.frames[0].size * (case.frames[0].itemsize + 2) / speed
    for threads in (1, 2):
        raw = best(((integrator.integrate, case.frames), (theirs, case.frames)), threads)
        both = best(
            (
                (lambda frame: integrator.integrate(borrow_pixels(frame)), case.encoded),
                (lambda frame: theirs(decoded_by_them(frame)), case.encoded),
            ),
            threads,
        )
        line(f"{case.name}, {split.value}, raw, {threads} threads", *raw, floor / threads)
        line(f"{case.name}, {split.value}, bslz4, {threads} threads", *both, floor / threads)


def their_integration(experiment: Experiment, split: str) -> Work:
    """Return pyFAI's integration by its compressed-column engine, one thread a frame."""
    integrator = experiment.integrator
    shape, dummy = experiment.shape, np.zeros(experiment.shape, np.int32)
    method = (split, "csc", "cython")
    integrator.integrate1d_ng(dummy, BINS, unit="q_nm^-1", method=method, mask=experiment.mask)
    engine = next(
        found.engine for name, found in integrator.engines.items()
        if name.algo_lower == "csc" and name.split_lower == split
    )  # fmt: skip
    solid_angle = integrator.solidAngleArray(shape)
    return lambda frame: engine.integrate_ng(frame, solidangle=solid_angle)


def bench_sparsify(case: Case, speed: float) -> None:
    """Print how long sparsifying takes."""
    theirs = their_sparsify(case.experiment)
    of_rings = rings(case.experiment, Unit.R_M, RINGS)
    floor = case.frames[0].size * (case.frames[0].itemsize + 2) / speed
    for model in (ErrorModel.POISSON, ErrorModel.POISSON_CLASSIC, ErrorModel.HYBRID):
        ours = Sparsifier(of_rings, Sparsifying(error_model=model))
        peer = None
        if theirs and model is not ErrorModel.POISSON:
            name = "poisson" if model is ErrorModel.POISSON_CLASSIC else "hybrid"
            peer = best(((lambda frame, name=name: theirs(frame, name), case.frames[:3]),), 1)[0]
        for threads in (1, 2):
            raw = best(((ours.sparsify, case.frames),), threads)[0]
            line(f"{case.name}, {model}, raw, {threads} threads", raw, peer, floor / threads)
        packed = best(
            ((lambda frame, ours=ours: ours.sparsify(borrow_pixels(frame)), case.encoded),), 2
        )[0]
        line(f"{case.name}, {model}, bslz4, 2 threads", packed, peer, floor / 2)


def their_sparsify(experiment: Experiment) -> Callable[[NDArray[Any], str], object] | None:
    """Return pyFAI's sparsifying by OpenCL; None without OpenCL."""
    try:
        from pyFAI.opencl.peak_finder import OCL_PeakFinder
        from pyFAI.units import to_unit

        unit, integrator = to_unit("r_m"), experiment.integrator
        matrix = integrator.setup_sparse_integrator(
            experiment.shape, RINGS, mask=experiment.mask, unit=unit, split="no", algo="CSR",
            scale=False,
        )  # fmt: skip
        finder = OCL_PeakFinder(
            matrix.lut,
            image_size=experiment.mask.size,
            unit=unit,
            bin_centers=matrix.bin_centers,
            radius=integrator.array_from_unit(typ="center", unit=unit, scale=False),
            mask=experiment.mask,
        )
    except Exception as error:
        print(f"  (pyFAI's OpenCL cannot be had: {str(error)[:100]})")
        return None
    settings = {"safe": False, "cutoff_clip": 0.0, "cycle": 5, "noise": 1.0, "cutoff_pick": 3.0}
    return lambda frame, model: finder.sparsify(frame, error_model=model, **settings)


def main() -> None:
    """Print the tables, of all detectors or of those whose names hold an argument."""
    speed = copy_speed()
    print(f"memory: {speed / 1e6:.1f} GB/s copied")
    wanted = [name for name in KINDS if not sys.argv[1:] or any(a in name for a in sys.argv[1:])]
    with TemporaryDirectory() as folder:
        cases = [Case.make(name, Path(folder)) for name in wanted]
        head(f"integration, {BINS} bins, ms a frame")
        for case in cases:
            for split in (Split.NO, Split.BBOX):
                bench_integration(case, split, speed)
        head(f"sparsify, {RINGS} rings, 5 cycles, ms a frame")
        for case in cases:
            bench_sparsify(case, speed)


if __name__ == "__main__":
    main()
