"""How long integration and sparsifying take a frame, beside pyFAI on the same frames.

    python tests/benchmarks/bench_azimuthal.py [WORD...]

With words, only what holds one of them in its name is measured ("1M", "6M"...).
Times are ms a frame: the best of several rounds, ours and pyFAI's in turn, as the speed
of shared machines changes. One thread, and two threads with a frame each.

pyFAI's engines are its fastest here: the compressed-column matrix for integration,
which takes a frame a thread; OpenCL for sparsifying with a workgroup of 8, the fastest on
processors, which takes both cores whatever the line says. `poisson` is ours alone;
`poisson-classic` is what pyFAI calls poisson. `raw` is from decoded frames, `bslz4` from
compressed ones (pyFAI's decoded by dectris' library, as its users do).

The floor is what must be read, once and no more, at the speed at which memory is read
here: the frame, the bin of each pixel and, with bounding boxes, its shares.
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
from numpy.typing import NDArray
from ronda.core.azimuthal.decoding import borrow_pixels
from ronda.core.azimuthal.errors import ErrorModel, parse_error_model
from ronda.core.azimuthal.experiment import Experiment, Setup
from ronda.core.azimuthal.integration import Integrator
from ronda.core.azimuthal.rings import rings
from ronda.core.azimuthal.splitting import Split
from ronda.core.azimuthal.units import Unit
from ronda.core.bragg.picking import Sparsifier, Sparsifying
from ronda.core.codecs import encode_bslz4
from ronda.core.frame import Encoded, Frame, Series
from ronda.core.simulation import simulate_eiger
from ronda.core.sources.imagefile import read_image

BINS, RINGS = 1000, 800
ROUNDS, FRAMES, SLOW_FRAMES = 4, 4, 2
"""Rounds of which the best counts, distinct frames of a round, and those of pyFAI's OpenCL."""
POLARIZATION = 0.95
THAUMATIN = Path(__file__).parents[3] / "shared/data/thaumatin"
"""Real frames of a Pilatus 6M, where they are."""
THEIR_NAMES = {"poisson-classic": "poisson", "azimuthal": "azimuthal", "hybrid": "hybrid"}
MODELS = ("poisson", "poisson-classic", "azimuthal", "hybrid", "5*I+8")
Work = Callable[[Any], object]


@dataclass(frozen=True)
class Detector:
    """A detector and its pixels."""

    name: str
    shape: tuple[int, int]
    dtype: str
    beam: tuple[float, float]
    """Row and column."""
    size: float
    """Of a pixel in m."""
    distance: float = 0.2

    @property
    def poni(self) -> str:
        """What a PONI file says of it."""
        y, x = ((place + 0.5) * self.size for place in self.beam)
        return (
            f'poni_version: 2.1\nDetector: {self.name}\nDetector_config: {{"orientation": 3}}\n'
            f"Distance: {self.distance}\nPoni1: {y}\nPoni2: {x}\nRot1: 0\nRot2: 0\nRot3: 0\n"
            "Wavelength: 1e-10\n"
        )


DETECTORS = {
    "Pilatus 1M int32": Detector("Pilatus1M", (1043, 981), "i4", (521.6, 490.2), 172e-6),
    "Eiger 4M uint16": Detector("Eiger4M", (2167, 2070), "u2", (1087.8, 1041.3), 75e-6),
    "Eiger 4M uint32": Detector("Eiger4M", (2167, 2070), "u4", (1087.8, 1041.3), 75e-6),
    "Pilatus 6M int32": Detector("Pilatus6M", (2527, 2463), "i4", (1306.96, 1261.61), 172e-6),
}


@dataclass
class Case:
    """Frames of one detector."""

    name: str
    experiment: Experiment
    frames: list[NDArray[Any]]
    encoded: list[Frame]

    @classmethod
    def make(cls, name: str, folder: Path) -> Case:
        """Return frames whose gaps are in the mask, and marked besides."""
        detector = DETECTORS[name]
        poni, mask = folder / "bench.poni", folder / f"{name}.npy"
        poni.write_text(detector.poni)
        images = real_frames(detector) or simulated_frames(detector)
        own = Setup(str(poni)).experiment(detector.shape).mask
        first, kind = images[0], np.iinfo(images[0].dtype)
        np.save(mask, own | (first < 0) | (first == kind.max))
        setup = Setup(str(poni), str(mask), polarization=POLARIZATION)
        series = Series(1)
        encoded = [
            Frame(
                series, number, Encoded(encode_bslz4(image), detector.shape, image.dtype, "bslz4")
            )
            for number, image in enumerate(images)
        ]
        return cls(name, setup.experiment(detector.shape), images, encoded)


def real_frames(detector: Detector) -> list[NDArray[Any]]:
    """Return real frames, none if there are none."""
    found = sorted(THAUMATIN.glob("*.cbf.bz2"))[:FRAMES] if detector.name == "Pilatus6M" else []
    return [read_image(str(path)) for path in found]


def simulated_frames(detector: Detector) -> list[NDArray[Any]]:
    """Return frames of spots over solvent scattering."""
    dtype = np.dtype(detector.dtype)
    made = simulate_eiger(FRAMES, detector.shape, bits=8 * dtype.itemsize)
    frames = [made.frame(number) for number in range(FRAMES)]
    if dtype.kind == "u":
        return frames
    return [np.where(made.gaps, -1, frame.astype(np.int64)).astype(dtype) for frame in frames]


def read_speed() -> float:
    """Return how fast memory is read, bytes per ms."""
    source = np.ones(1 << 25, np.int64)
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        source.max()
        times.append(1e3 * (time.perf_counter() - begin))
    return source.nbytes / min(times)


def best(threads: int, *works: tuple[Work, Sequence[Any]]) -> list[float]:
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
    columns = "".join(f"{name:>9}" for name in ("ours", "pyFAI", "times", "floor", "x floor"))
    print(f"  {'':46}{columns}")


def line(what: str, ours: float, theirs: float | None, floor: float) -> None:
    """Print a line of a table."""
    peer = f"{theirs:9.2f}{theirs / ours:9.1f}" if theirs else f"{'-':>9}{'-':>9}"
    print(f"  {what:46}{ours:9.2f}{peer}{floor:9.2f}{ours / floor:9.1f}", flush=True)


def bench_integration(case: Case, split: Split, speed: float) -> None:
    """Print how long integration takes."""
    engine = their_integration(case.experiment, split)
    for model in (ErrorModel.NONE, ErrorModel.POISSON):
        ours = Integrator(case.experiment, BINS, Unit.Q_NM, split=split, error_model=model)
        theirs = engine("no" if model is ErrorModel.NONE else "poisson")
        columns = len(ours.splitting.shares)
        size = ours.splitting.bin.itemsize + 4 * columns
        floor = case.frames[0].size * (case.frames[0].itemsize + size) / speed

        def from_bslz4(frame: Frame, ours: Integrator = ours) -> object:
            return ours.integrate(borrow_pixels(frame))

        def their_bslz4(frame: Frame, theirs: Work = theirs) -> object:
            return theirs(decoded_by_them(frame))

        for threads in (1, 2):
            found = best(
                threads,
                (ours.integrate, case.frames),
                (theirs, case.frames),
                (from_bslz4, case.encoded),
                (their_bslz4, case.encoded),
            )
            what = f"{case.name}, {split.value}, {model},"
            line(f"{what} raw, {threads} threads", *found[:2], floor / threads)
            line(f"{what} bslz4, {threads} threads", *found[2:], floor / threads)


def their_integration(experiment: Experiment, split: Split) -> Callable[[str], Work]:
    """Return pyFAI's integration by its compressed-column engine, one thread a frame."""
    from pyFAI.containers import ErrorModel as TheirModel

    integrator = experiment.new_integrator()
    engine = integrator.setup_sparse_integrator(
        experiment.shape, BINS, mask=experiment.mask.astype(np.int8), unit="q_nm^-1",
        split=split.value, algo="CSC",
    )  # fmt: skip
    corrections = {
        "solidangle": integrator.solidAngleArray(experiment.shape),
        "polarization": integrator.polarization(experiment.shape, POLARIZATION),
    }

    def of(model: str) -> Work:
        parsed = TheirModel.parse(model)
        return lambda frame: engine.integrate_ng(frame, error_model=parsed, **corrections)

    return of


def bench_sparsify(case: Case, speed: float) -> None:
    """Print how long sparsifying takes."""
    theirs = their_sparsify(case.experiment)
    of_rings = rings(case.experiment, Unit.R_M, RINGS)
    floor = case.frames[0].size * (case.frames[0].itemsize + of_rings.ring.itemsize) / speed
    for model in MODELS:
        ours = Sparsifier(of_rings, Sparsifying(error_model=parse_error_model(model)))
        works: list[tuple[Work, Sequence[Any]]] = [(ours.sparsify, case.frames)]
        if theirs and model != "poisson":
            works.append((theirs(model), case.frames[:SLOW_FRAMES]))
        alone, *peer = best(1, *works)

        def from_bslz4(frame: Frame, ours: Sparsifier = ours) -> object:
            return ours.sparsify(borrow_pixels(frame))

        both, packed = best(2, (ours.sparsify, case.frames), (from_bslz4, case.encoded))
        found = (("raw, 1 threads", alone), ("raw, 2 threads", both), ("bslz4, 2 threads", packed))
        for (how, took), threads in zip(found, (1, 2, 2), strict=True):
            line(f"{case.name}, {model}, {how}", took, *peer or (None,), floor / threads)


def their_sparsify(experiment: Experiment) -> Callable[[str], Work] | None:
    """Return pyFAI's sparsifying by OpenCL, by error model; None without OpenCL."""
    try:
        from pyFAI.opencl.peak_finder import OCL_PeakFinder
        from pyFAI.units import to_unit

        unit, integrator = to_unit("r_m"), experiment.new_integrator()
        matrix = integrator.setup_sparse_integrator(
            experiment.shape, RINGS, mask=experiment.mask.astype(np.int8), unit=unit,
            split="no", algo="CSR", scale=False,
        )  # fmt: skip
        finder = OCL_PeakFinder(
            matrix.lut,
            image_size=experiment.mask.size,
            unit=unit,
            bin_centers=matrix.bin_centers,
            radius=integrator.array_from_unit(typ="center", unit=unit, scale=False),
            mask=experiment.mask.astype(np.int8),
            block_size=8,
        )
        # Under the names that pyFAI's own program gives them: then it copies them only once.
        angle, angle_sum = integrator.solidAngleArray(with_checksum=True)
        factor, factor_sum = integrator.polarization(factor=POLARIZATION, with_checksum=True)
    except Exception as error:
        print(f"  (pyFAI's OpenCL cannot be had: {str(error)[:100]})")
        return None
    settings = {
        "safe": False, "cutoff_clip": 0.0, "cycle": 5, "noise": 1.0, "cutoff_pick": 3.0,
        "solidangle": angle, "solidangle_checksum": angle_sum,
        "polarization": factor, "polarization_checksum": factor_sum,
    }  # fmt: skip

    def of(model: str) -> Work:
        if model in THEIR_NAMES:
            return lambda frame: finder.sparsify(frame, error_model=THEIR_NAMES[model], **settings)
        formula = parse_error_model(model)
        return lambda frame: finder.sparsify(
            frame, variance=formula(frame).astype(np.float32), **settings
        )

    return of


def main() -> None:
    """Print the tables, of all detectors or of those whose names hold an argument."""
    speed = read_speed()
    print(f"memory is read at {speed / 1e6:.1f} GB/s; times are ms a frame")
    words = sys.argv[1:] or [""]
    wanted = [name for name in DETECTORS if any(word in name for word in words)]
    with TemporaryDirectory() as folder:
        cases = [Case.make(name, Path(folder)) for name in wanted]
        head(f"integration, {BINS} bins")
        for case in cases:
            for split in Split:
                bench_integration(case, split, speed)
        head(f"sparsify, {RINGS} rings, 5 cycles")
        for case in cases:
            bench_sparsify(case, speed)


if __name__ == "__main__":
    main()
