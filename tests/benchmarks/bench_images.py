"""How long the image chain takes a frame, beside what memory alone would take, and NumPy.

Run it: `python tests/benchmarks/bench_images.py`. Times are the best and the
median of several frames in ms, one thread. The floor is the bytes that must be
moved, divided by the speed at which NumPy copies a large array here and now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series
from ronda.core.images.accumulation import Accumulation
from ronda.core.images.pilatus import PilatusParameters, PilatusStage
from ronda.core.images.roi import Roi, statistics
from ronda.core.marks import as_pixels, marks, sum_type, unmarked
from ronda.core.preview import Binning, make_preview
from ronda.core.stage import Settings

DETECTORS = {
    "Pilatus float32": ((831, 1475), np.float32),
    "Pilatus int32": ((831, 1475), np.int32),
    "Zyla uint16": ((2048, 2048), np.uint16),
    "Balor uint16": ((4104, 4128), np.uint16),
}
SERIES = Series(1, "bench")
REPEATS = 15


def best_and_median(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Return the shortest and the median time of some work in ms, after it was done once."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times), float(np.median(times))


def copy_speed() -> float:
    """Return how fast memory is copied, bytes read and written per ms."""
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    best, _ = best_and_median(lambda: np.copyto(target, source))
    return 2 * source.nbytes / best


def gapped(shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """Return a frame of few counts with the gaps between modules marked."""
    image = np.random.default_rng(0).poisson(2, shape).astype(dtype)
    for gap in range(487, shape[1], 494):
        image[:, gap : gap + 7] = marks(dtype).masked
    return image


def sum_by_numpy(image: NDArray[Any]) -> Callable[[], object]:
    """Return the same accumulation without a kernel."""
    total, missing = np.zeros(image.shape, sum_type(image.dtype)), np.zeros(image.shape, np.uint32)
    special = marks(image.dtype)

    def add() -> None:
        valid = (image != special.masked) & (image != special.overflow) & (image <= special.highest)
        total[valid] += image[valid]
        missing[...] += ~valid

    return add


def show(what: str, moved: float, speed: float, ours: Callable[[], object], numpy: Any) -> None:
    """Print one line of the table."""
    best, median = best_and_median(ours)
    reference = f"{best_and_median(numpy)[0]:9.2f}" if numpy else "        -"
    floor = moved / speed
    print(f"  {what:34}{floor:9.2f}{best:9.2f}{median:9.2f}{best / floor:9.1f}{reference}")


def bench_detector(shape: tuple[int, int], dtype: Any, speed: float) -> None:
    """Print the lines of one detector."""
    image = as_pixels(gapped(shape, dtype))
    total = Accumulation(shape, dtype)
    pixel, wide = image.itemsize, total.sum.itemsize
    # Read the frame and the mask; read and write the sum and the count of missing pixels.
    moved = image.size * (pixel + 1 + 2 * wide + 2 * 4)
    show("accumulate", moved, speed, lambda: total.add(image, None, SERIES), sum_by_numpy(image))
    small = {f"r{n}": Roi(x=40 * n, y=30 * n, width=100, height=100) for n in range(4)}
    whole = {"all": Roi(x=0, y=0, width=shape[1], height=shape[0])}
    for name, rois in (("4 ROIs of 100 x 100", small), ("1 ROI of the whole frame", whole)):
        # Twice: mean first, then what needs it.
        moved = sum(2 * roi.width * roi.height * (pixel + 1) for roi in rois.values())
        show(name, moved, speed, lambda rois=rois: statistics(image, None, rois), None)
    summed, free = total.sum, unmarked(total.sum.dtype)
    moved = summed.size * (wide + 1)
    show(
        "preview of the sum",
        moved,
        speed,
        lambda: make_preview(summed, free, None, Binning.MAXIMUM),
        None,
    )
    bench_stage(image, speed)


def bench_stage(image: NDArray[Any], speed: float) -> None:
    """Print the lines of the stage: what a frame costs a worker, and what the reducer."""
    rois = {f"r{n}": Roi(x=40 * n, y=30 * n, width=100, height=100) for n in range(4)}
    settings = Settings(0, PilatusParameters(rois=rois))
    stage = PilatusStage()
    stage.adopt(settings)
    stage.begin(SERIES, settings)
    frame = Frame(SERIES, 0, image)
    partial = stage.map(frame, settings.parameters)
    moved = image.size * (image.itemsize + 1 + 2 * 8 + 2 * 4)
    read = 4 * 2 * 100 * 100 * (image.itemsize + 1)
    show("stage: map", read, speed, lambda: stage.map(frame, settings.parameters), None)
    show("stage: reduce", moved, speed, lambda: stage.reduce(frame, partial, settings), None)


def main() -> None:
    """Print the table."""
    speed = copy_speed()
    print(f"copying moves {speed / 1e6:.1f} GB/s; times in ms a frame, one thread")
    print(f"  {'':34}{'floor':>9}{'best':>9}{'median':>9}{'x floor':>9}{'NumPy':>9}")
    for name, (shape, dtype) in DETECTORS.items():
        print(f"{name}, {shape[1]} x {shape[0]}")
        bench_detector(shape, dtype, speed)


if __name__ == "__main__":
    main()
