"""Integration and sparsification on an OpenCL device, beside pyFAI's OpenCL engines.

Frames of int32 with 1, 4 and 6 million pixels: solvent scattering with some hundred spots,
0.5 % of the pixels kept. Prints ms per frame, transfers to the device and back included:

* of frames in ordinary memory and in page-locked memory, 1 to 16 in flight (threads, as
  the runner has them), and of a batch from one thread;
* of pyFAI's engines in the same run, in the same bins (they take one frame at a time);
* of the copy alone, and the floor: the bytes at the speed of page-locked copies;
* of each kernel and copy apart, ours and pyFAI's, as the device's own clock tells.

    python tests/benchmarks/bench_opencl.py [gpu | opencl | opencl:PLATFORM,DEVICE]
        [--seconds 0.5] [--pixels 1 4 6]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ronda.core.azimuthal.errors import ErrorModel
from ronda.core.azimuthal.experiment import Experiment, Setup
from ronda.core.azimuthal.integration import Integrator
from ronda.core.azimuthal.rings import Rings
from ronda.core.azimuthal.splitting import Split
from ronda.core.azimuthal.units import Unit
from ronda.core.bragg.opencl_sparsifier import OpenClSparsifier
from ronda.core.bragg.picking import Sparsifying
from ronda.core.compute.device import Compute, opencl_devices
from ronda.core.compute.opencl import Accelerator, accelerator

SHAPES = {1: (1043, 981), 4: (2167, 2070), 6: (2527, 2463)}
"""Pilatus 1M, Eiger 4M, Pilatus 6M; by millions of pixels."""
IN_FLIGHT = (1, 4, 8, 16)
FRAMES = 4
"""Different frames that are taken in turn."""
BINS = 1000
RINGS = 800
"""What sparsify-Bragg has by default."""
Pixels = NDArray[Any]


def best(
    work: Callable[[Pixels], Any], frames: list[Pixels], threads: int, seconds: float
) -> float:
    """Return ms per frame where so many threads work at a time, warm: the best of three times."""
    begin, stop = threading.Barrier(threads + 1), threading.Event()
    done: list[list[float]] = [[] for _ in range(threads)]
    failures: list[Exception] = []

    def loop(number: int) -> None:
        try:
            for frame in frames[:2]:
                work(frame)
        except Exception as error:
            failures.append(error)
        begin.wait()
        while not stop.is_set() and not failures:
            work(frames[(number + len(done[number])) % len(frames)])
            done[number].append(time.perf_counter())

    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    ends = np.sort(np.concatenate(done)) - started
    if ends.size < 30 * threads:
        return float(1e3 * ends[-1] / ends.size)
    parts = np.array_split(ends, 3)
    return float(1e3 * min((part[-1] - part[0]) / (part.size - 1) for part in parts))


def make_frames(shape: tuple[int, int]) -> list[Pixels]:
    """Return different frames."""
    random = np.random.default_rng(1)
    y, x = np.indices(shape)
    radius = np.hypot(y - shape[0] / 2, x - shape[1] / 2) / shape[0]
    mean = 12 * np.exp(-((radius / 0.4) ** 2)) + 0.3
    frames = []
    for _ in range(FRAMES):
        frame = random.poisson(mean).astype(np.int32)
        for _ in range(frame.size // 8000):
            row, column = (int(random.integers(3, side - 10)) for side in shape)
            frame[row : row + 6, column : column + 7] += random.poisson(60, (6, 7)).astype(np.int32)
        frames.append(frame)
    return frames


def make_experiment(shape: tuple[int, int], folder: Path) -> Experiment:
    """Return the experiment of a detector of this shape, without gaps."""
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    pixel = 75e-6
    detector = Detector(pixel, pixel, max_shape=shape)
    middle = (pixel * side / 2 for side in shape)
    name = folder / f"{shape[0]}.poni"
    name.unlink(missing_ok=True)
    AzimuthalIntegrator(0.2, *middle, detector=detector, wavelength=1e-10).save(str(name))
    return Setup(str(name), solid_angle=False).experiment(shape)


# ------------------------------------------------------------------------ tables


def locked(device: Accelerator, frames: list[Pixels]) -> list[Pixels]:
    """Return the frames in page-locked memory."""
    copies = []
    for frame in frames:
        copy = device.lane().locked(frame.shape, frame.dtype)
        copy[:] = frame
        copies.append(copy)
    return copies


def copies(device: Accelerator, frame: Pixels, fixed: Pixels, seconds: float) -> float:
    """Print what the copy of a frame takes; return the floor in ms."""
    cl, lane = device.library, device.lane()
    buffer = device.room(frame.nbytes)
    found = {}
    for name, source in (("ordinary memory", frame), ("page-locked memory", fixed)):

        def copy(image: Pixels) -> None:
            cl.enqueue_copy(lane.queue, buffer, image.reshape(-1), is_blocking=True)

        # One queue: from this thread only.
        copy(source)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() < begin + seconds:
            copy(source)
            count += 1
        found[name] = 1e3 * (time.perf_counter() - begin) / count
        speed = frame.nbytes / found[name] / 1e6
        print(f"  copy from {name:<22}{found[name]:9.3f} ms {speed:7.1f} GB/s")
    return found["page-locked memory"]


def compare(
    name: str, ours: Callable[[Pixels], Any], theirs: Theirs | None,
    frames: list[Pixels], fixed: list[Pixels], floor: float, seconds: float,
) -> None:  # fmt: skip
    """Print a table: ms per frame by frames in flight."""
    print(f"  {name:<28}" + "".join(f"{number:>9}" for number in IN_FLIGHT) + "  in flight")
    best_of_ours = np.inf
    for label, images in (("ordinary memory", frames), ("page-locked memory", fixed)):
        each = [best(ours, images, number, seconds) for number in IN_FLIGHT]
        best_of_ours = min(best_of_ours, *each)
        print(f"    {label:<26}" + "".join(f"{took:9.3f}" for took in each) + "  ms")
    line = f"    {best_of_ours / floor:.2f} times the floor of {floor:.3f} ms"
    if theirs is not None:
        try:
            took = best(theirs.run, frames, 1, seconds)
            line += f"; pyFAI {took:.3f} ms: {took / best_of_ours:.1f} times faster"
        except Exception as error:
            line += f"; pyFAI failed: {error!r:.200}"
    print(line, flush=True)


def batched(ours: Integrator, batch: list[Pixels], seconds: float) -> None:
    """Print what a frame of a batch takes."""
    took = best(lambda _: ours.integrate_batch(batch), batch, 1, seconds) / len(batch)
    print(f"    a batch of {len(batch)}, page-locked, one thread{took:9.3f} ms")


def kernels(
    compute: Compute, work: Callable[[Compute], Callable[[Pixels], Any]], frames: list[Pixels]
) -> None:
    """Print what each kernel takes."""
    timed = replace(compute, profile=True)
    run, device = work(timed), accelerator(timed)
    run(frames[0])
    device.spent()
    turns = 10
    for turn in range(turns):
        run(frames[turn % len(frames)])
    for name, spent in sorted(device.spent().items()):
        print(f"      {name:<24}{1e3 * spent.seconds / turns:9.3f} ms a frame", flush=True)


def their_kernels(make: Callable[[bool], Theirs | None], frames: list[Pixels]) -> None:
    """Print what each of pyFAI's kernels takes, and all of them."""
    theirs = make(True)
    if theirs is None:
        return
    theirs.run(frames[0])
    theirs.engine.reset_log()
    turns, spent = 10, Counter[str]()
    for turn in range(turns):
        theirs.run(frames[turn % len(frames)])
    for event in theirs.engine.events:  # in ns
        spent[event.name] += event.stop - event.start
    for name, nanoseconds in sorted(spent.items()):
        print(f"      pyFAI {name:<24}{1e-6 * nanoseconds / turns:9.3f} ms a frame", flush=True)


# ------------------------------------------------------------------------- pyFAI


class Theirs(NamedTuple):
    """An engine of pyFAI, and how it takes a frame."""

    engine: Any
    run: Callable[[Pixels], Any]


def their_integrator(
    experiment: Experiment, split: str, context: Any, profile: bool
) -> Theirs | None:
    """Return pyFAI's integration on the same device; None: it has none."""
    try:
        from pyFAI.opencl.azim_csr import OCL_CSR_Integrator

        built = experiment.integrator.setup_sparse_integrator(
            experiment.shape, BINS, unit="2th_deg", split=split, algo="CSR", scale=False
        )
        engine = OCL_CSR_Integrator(
            built.lut, experiment.mask.size, bin_centers=built.bin_centers, ctx=context,
            profile=profile,
        )  # fmt: skip
    except Exception as error:
        print(f"  pyFAI's integrator cannot be set up: {error!r:.200}")
        return None
    return Theirs(engine, engine.integrate_ng)


def their_sparsifier(experiment: Experiment, context: Any, profile: bool) -> Theirs | None:
    """Return pyFAI's sparsification on the same device; None: it has none."""
    try:
        from pyFAI.opencl.peak_finder import OCL_PeakFinder
        from pyFAI.units import to_unit

        built = experiment.integrator.setup_sparse_integrator(
            experiment.shape, RINGS, unit="r_m", split="no", algo="CSR", scale=False
        )
        radius = experiment.integrator.array_from_unit(
            experiment.shape, "center", to_unit("r_m"), scale=False
        )
        engine = OCL_PeakFinder(
            built.lut, experiment.mask.size, unit=to_unit("r_m"), bin_centers=built.bin_centers,
            radius=radius, mask=experiment.mask.astype(np.int8), ctx=context, profile=profile,
        )  # fmt: skip
    except Exception as error:
        print(f"  pyFAI's sparsifier cannot be set up: {error!r:.200}")
        return None
    how = {
        "error_model": "hybrid",
        "cycle": 5,
        "cutoff_clip": 0.0,
        "cutoff_pick": 3.0,
        "noise": 1.0,
    }
    return Theirs(engine, lambda image: engine.sparsify(image, **how))


# -------------------------------------------------------------------------- all


def measure(compute: Compute, millions: int, seconds: float) -> None:
    """Print everything for one size."""
    shape, device = SHAPES[millions], accelerator(compute)
    frames = make_frames(shape)
    fixed = locked(device, frames)
    print(f"{shape[0]} x {shape[1]} int32, {frames[0].nbytes / 1e6:.1f} MB")
    floor = copies(device, frames[0], fixed[0], seconds)
    with tempfile.TemporaryDirectory() as folder:
        experiment = make_experiment(shape, Path(folder))
        for split in Split:

            def integrator(compute: Compute, split: Split = split) -> Integrator:
                return Integrator(experiment, BINS, Unit.TTH_DEG, split=split, compute=compute)

            def pyfai_integrator(profile: bool, split: Split = split) -> Theirs | None:
                return their_integrator(experiment, split.value, device.context, profile)

            ours = integrator(compute)
            compare(
                f"integration, split {split.value}", ours.integrate, pyfai_integrator(False),
                frames, fixed, floor, seconds,
            )  # fmt: skip
            batched(ours, fixed * 4, seconds)
            kernels(compute, lambda each, make=integrator: make(each).integrate, frames)
            their_kernels(pyfai_integrator, frames)
        of = Rings(experiment, Unit.R_M, RINGS)

        def pyfai_sparsifier(profile: bool) -> Theirs | None:
            return their_sparsifier(experiment, device.context, profile)

        for model in (ErrorModel.POISSON, ErrorModel.HYBRID):
            how = Sparsifying(error_model=model)

            def sparsify(compute: Compute, how: Sparsifying = how) -> Callable[[Pixels], Any]:
                return OpenClSparsifier(of, how, compute).sparsify

            run, theirs = sparsify(compute), None
            if model is ErrorModel.HYBRID:  # what both have
                theirs = pyfai_sparsifier(False)
            compare(f"sparsify, {model}", run, theirs, frames, fixed, floor, seconds)
            kept = run(frames[0]).index.size / frames[0].size
            print(f"    {100 * kept:.2f} % of the pixels are kept")
            kernels(compute, sparsify, frames)
            if theirs is not None:
                their_kernels(pyfai_sparsifier, frames)


def main() -> None:
    """Measure on the chosen device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", nargs="?", default="opencl")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    parser.add_argument("--pixels", type=int, nargs="*", default=list(SHAPES), choices=SHAPES)
    options = parser.parse_args()
    if not opencl_devices():
        print("OpenCL has no device here: nothing to measure")
        return
    compute = Compute.parse(options.device)
    device = accelerator(compute).device
    print(f"{device.name.strip()}, {device.platform.name}, {device.version}")
    for millions in options.pixels:
        measure(compute, millions, options.seconds)


if __name__ == "__main__":
    main()
