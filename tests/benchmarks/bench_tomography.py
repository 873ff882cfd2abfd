"""How long whole runs take, from files to a file: diffraction tomography and sparsifying.

    python tests/benchmarks/bench_tomography.py [FRAMES [FOLDER]]

pyFAI's DiffMap (bounding boxes, CSR matrix, Cython with a thread for each core) beside
`ronda diff_tomo`, and `pyFAI-sparsify` by OpenCL beside
`ronda sparsify-Bragg`, each in a process of its own, in turn, on the same files of a Pilatus
1M: EDF and CBF one frame a file, and one HDF5 file of bitshuffle-LZ4. There are 16 different
frames; the other files of a series are links to theirs, so all are in the disk's cache.

- `ms/frame`: from the first frame's result to the closed file, over the other frames;
- `start`: from the start of the process to the first frame's result, in s;
- `CPU`: what of this the program took of the processors in ms, all its threads together
  (without the process that writes our file), which other programs disturb less;
- `MB`: most memory that the process took, with the one that writes our file;
- `differ`: largest relative difference of the maps that the two wrote.

FRAMES is 400 if not given. FOLDER keeps the files; else they are removed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
import psutil
from ronda.core.azimuthal.experiment import Setup
from ronda.core.simulation import simulate_eiger

SHAPE, BINS, DIFFERENT = (1043, 981), 1000, 16
ROUNDS = 2
"""Rounds of which the best counts."""
WRITERS = {"edf": fabio.edfimage.EdfImage, "cbf": fabio.cbfimage.CbfImage}
MAP = "entry_0000/pyFAI/result/intensity"
"""Where both keep the patterns, (rotations, translations, bins)."""
PONI = """poni_version: 2.1
Detector: Pilatus1M
Detector_config: {"orientation": 3}
Distance: 0.2
Poni1: 0.0897
Poni2: 0.0843
Rot1: 0
Rot2: 0
Rot3: 0
Wavelength: 1e-10
"""


# ---------------------------------------------------------------------- the files


def make_files(folder: Path, frames: int) -> None:
    """Write the PONI and a series of frames in every form."""
    poni = folder / "bench.poni"
    poni.write_text(PONI)
    mask = Setup(str(poni)).experiment(SHAPE).mask
    fabio.edfimage.EdfImage(data=mask.astype(np.int8)).write(str(folder / "mask.edf"))
    made = simulate_eiger(DIFFERENT, SHAPE)
    with h5py.File(folder / "frames.h5", "w") as file:
        stack = file.create_dataset(
            "entry/data/data", (frames, *SHAPE), np.int32, chunks=(1, *SHAPE),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )  # fmt: skip
        for number in range(min(DIFFERENT, frames)):
            frame = np.where(made.gaps, 0, made.frame(number)).astype(np.int32)
            frame[mask] = -1
            stack[number] = frame
            for form, writer in WRITERS.items():
                writer(data=frame).write(str(_name(folder, form, number)))
        file.flush()
        for number in range(DIFFERENT, frames):
            left_out, chunk = stack.id.read_direct_chunk((number % DIFFERENT, 0, 0))
            stack.id.write_direct_chunk((number, 0, 0), chunk, left_out)
            for form in WRITERS:
                os.link(_name(folder, form, number % DIFFERENT), _name(folder, form, number))


def _name(folder: Path, form: str, number: int) -> Path:
    return folder / f"frame_{number:06d}.{form}"


def inputs(folder: Path, form: str, frames: int) -> list[str]:
    """Return the files of a series."""
    if form == "h5":
        return [str(folder / "frames.h5")]
    return [str(_name(folder, form, number)) for number in range(frames)]


# ----------------------------------------------------------- in a process of its own


class Clock:
    """Tells when the first frame was done, and what the process had taken until then."""

    first = 0.0
    cpu = 0.0

    def done(self, *_: object) -> None:
        """Note that a frame is done."""
        if not self.first:
            self.first, self.cpu = time.perf_counter(), time.process_time()

    def after(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return some work after which a frame is done."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            result = work(*args, **kwargs)
            self.done()
            return result

        return timed


def our_map(files: Sequence[str], folder: Path, output: Path, frames: int, clock: Clock) -> None:
    """Integrate a map by `ronda diff_tomo`, with its two workers."""
    from ronda.clients.cli.main import main
    from ronda.core.tomography.stage import DiffTomoStage

    DiffTomoStage.reduce = clock.after(DiffTomoStage.reduce)  # type: ignore[method-assign]
    places = ("-t", "20", "-r", str(-(-frames // 20)), "-c", str(BINS))
    poni = str(folder / "bench.poni")
    raise SystemExit(main(["diff_tomo", *files, "-o", str(output), "-p", poni, *places]))


def their_map(files: Sequence[str], folder: Path, output: Path, frames: int, clock: Clock) -> None:
    """Integrate a map by pyFAI's DiffMap."""
    from pyFAI.diffmap import DiffMap
    from pyFAI.io.integration_config import WorkerConfig
    from pyFAI.io.ponifile import PoniFile

    work = DiffMap(nbpt_fast=20, nbpt_slow=-(-frames // 20), nbpt_rad=BINS)
    work.inputfiles, work.hdf5 = list(files), str(output)
    work.poni = WorkerConfig(
        poni=PoniFile(str(folder / "bench.poni")), nbpt_rad=BINS, unit="2th_deg",
        method=("bbox", "csr", "cython"), shape=SHAPE,
    )  # fmt: skip
    work.configure_worker(work.poni)
    work.makeHDF5()
    work.init_ai()
    for name in files:
        work.process_one_file(name, clock.done)
    work.nxs.close()


def our_spots(files: Sequence[str], folder: Path, output: Path, frames: int, clock: Clock) -> None:
    """Sparsify by `ronda sparsify-Bragg`, with its two workers and pyFAI's default model."""
    from ronda.clients.cli.main import main
    from ronda.core.bragg.stage import BraggStage

    BraggStage.reduce = clock.after(BraggStage.reduce)  # type: ignore[method-assign]
    arguments = _spot_arguments(files, folder, output)
    raise SystemExit(main(["sparsify-Bragg", *arguments, "--error-model", "poisson-classic"]))


def their_spots(
    files: Sequence[str], folder: Path, output: Path, frames: int, clock: Clock
) -> None:
    """Sparsify by pyFAI's program, with the workgroup that is fastest on processors."""
    from pyFAI.app.sparsify import main
    from pyFAI.opencl.peak_finder import OCL_PeakFinder

    OCL_PeakFinder.sparsify = clock.after(OCL_PeakFinder.sparsify)
    arguments = _spot_arguments(files, folder, output)
    raise SystemExit(main([*arguments, "--error-model", "poisson", "--workgroup", "8"]))


def _spot_arguments(files: Sequence[str], folder: Path, output: Path) -> list[str]:
    poni, mask = str(folder / "bench.poni"), str(folder / "mask.edf")
    return [*files, "-o", str(output), "-p", poni, "-m", mask]


WAYS = {
    "map, ours": our_map,
    "map, pyFAI": their_map,
    "spots, ours": our_spots,
    "spots, pyFAI": their_spots,
}


def measured(way: str, form: str, frames: int, folder: Path, output: Path) -> dict[str, float]:
    """Do one run in this process; return what it took."""
    clock = Clock()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            WAYS[way](inputs(folder, form, frames), folder, output, frames, clock)
        except SystemExit as done:
            if done.code:
                raise
    ended = time.perf_counter()
    return {
        "ms": 1e3 * (ended - clock.first) / (frames - 1),
        "CPU": 1e3 * (time.process_time() - clock.cpu) / (frames - 1),
        "first": clock.first,
    }


# ------------------------------------------------------------------------ the tables


def run(way: str, form: str, frames: int, folder: Path, output: Path) -> dict[str, float]:
    """Do one run in a process of its own; return what it took."""
    output.unlink(missing_ok=True)
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--measure", way, form, str(frames), folder, output]
    with (folder / "said.txt").open("w+") as said, (folder / "wrong.txt").open("w+") as wrong:
        with subprocess.Popen(command, stdout=said, stderr=wrong) as process:
            most = most_memory(process)
        for file in (said, wrong):
            file.seek(0)
        if process.returncode:
            raise RuntimeError(f"{way}, {form}: {wrong.read()[-2000:]}")
        took: dict[str, float] = json.loads(said.read().splitlines()[-1])
    return {**took, "start": took["first"] - begin, "MB": most}


def most_memory(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; return the most MB that it and those that it started took."""
    known, most = psutil.Process(process.pid), 0.0
    while process.poll() is None:
        with suppress(psutil.Error):
            together = (known, *known.children(recursive=True))
            most = max(most, sum(each.memory_info().rss for each in together) / (1 << 20))
        time.sleep(0.1)
    return most


def difference(ours: Path, theirs: Path) -> float:
    """Return the largest relative difference of two maps."""
    with h5py.File(ours) as our, h5py.File(theirs) as their:
        mine, peer = our[MAP][()], their[MAP][()]
    there = peer != 0
    if not (np.isfinite(mine) | ~there).all():
        raise RuntimeError("patterns are missing in our map")
    return float(np.max(np.abs(mine[there] - peer[there]) / np.abs(peer[there])))


def compare(what: str, form: str, frames: int, folder: Path) -> None:
    """Print one line: ours beside pyFAI's."""
    best: dict[str, dict[str, float]] = {}
    outputs = {who: folder / f"{who}.h5" for who in ("ours", "pyFAI")}
    for _ in range(ROUNDS):
        for who, output in outputs.items():
            took = run(f"{what}, {who}", form, frames, folder, output)
            old = best.get(who, took)
            best[who] = {name: min(took[name], old[name]) for name in took}
    ours, theirs = best["ours"], best["pyFAI"]
    differ = f"{difference(*outputs.values()):10.1e}" if what == "map" else f"{'-':>10}"
    print(
        f"  {what + ', ' + form:14}{ours['ms']:9.2f}{theirs['ms']:9.2f}"
        f"{theirs['ms'] / ours['ms']:8.1f}{ours['CPU']:8.2f}{theirs['CPU']:8.2f}"
        f"{ours['start']:8.1f}{theirs['start']:8.1f}"
        f"{ours['MB']:8.0f}{theirs['MB']:8.0f}{differ}",
        flush=True,
    )


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--measure"]:
        way, form, frames, folder, output = sys.argv[2:]
        print(json.dumps(measured(way, form, int(frames), Path(folder), Path(output))))
        return
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    if len(sys.argv) > 2:
        show(frames, Path(sys.argv[2]).resolve())
        return
    with TemporaryDirectory() as folder_name:
        show(frames, Path(folder_name))


def show(frames: int, folder: Path) -> None:
    """Make the files in a folder and print what runs over them take."""
    make_files(folder, frames)
    print(f"{frames} frames of {SHAPE[1]} x {SHAPE[0]} int32, two cores")
    print(
        f"  {'':14}{'ms/frame':>18}{'times':>8}{'CPU':>16}{'start, s':>16}{'MB':>16}{'differ':>10}"
    )
    print(f"  {'':14}" + f"{'ours':>9}{'pyFAI':>9}{'':8}" + 3 * f"{'ours':>8}{'pyFAI':>8}")
    for what, form in (("map", "edf"), ("map", "cbf"), ("map", "h5"), ("spots", "h5")):
        compare(what, form, frames, folder)


if __name__ == "__main__":
    main()
