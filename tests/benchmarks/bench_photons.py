"""How long dark, threshold and photon finding take a frame, beside memory's floor and peers.

Run it: `python tests/benchmarks/bench_photons.py`. Times are the best and the
median of several frames in ms, one thread. The floor is the bytes that must be
moved, divided by the speed at which NumPy copies a large array here and now:
frame read and result written, sum read and written (and the recorded dark read);
for photons the frame read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage
from bench_images import SERIES, best_and_median, copy_speed
from numpy.typing import NDArray
from ronda.core.frame import Frame
from ronda.core.images.balor import BalorStage
from ronda.core.images.dark import Dark
from ronda.core.images.orientation import Orientation
from ronda.core.images.photon_parameters import BalorParameters
from ronda.core.images.photons import Candidates, Cuts, find_photons
from ronda.core.images.running import RunningSum
from ronda.core.images.threshold import Correction, recorded, uniform
from ronda.core.marks import Pixels, as_pixels
from ronda.core.simulation import simulate_balor

DARK, THRESHOLD, HIT, CUT = 100, 12, 110, 800.0
BALOR = (4104, 4128)
ZYLA = (2048, 2048)


def line(what: str, floor: float | None, *times: tuple[float, float] | float) -> None:
    """Print one line of a table."""
    shown = "        -" if floor is None else f"{floor:9.2f}"
    for time in times:
        shown += "".join(f"{one:10.2f}" for one in (time if isinstance(time, tuple) else (time,)))
    print(f"  {what:44}{shown}")


def bench_threshold(speed: float) -> None:
    """Print how long dark, threshold and accumulation take a Zyla frame."""
    print(f"dark + threshold + accumulate, {ZYLA[1]} x {ZYLA[0]} uint16")
    print(f"  {'':44}{'floor':>9}{'best':>10}{'median':>10}{'x floor':>10}{'NumPy':>10}")
    random = np.random.default_rng(0)
    image = as_pixels(np.clip(random.normal(DARK, 2.2, ZYLA), 0, None).astype(np.uint16))
    image_of_dark = as_pixels(np.full(ZYLA, DARK, np.uint16))
    kinds: dict[str, tuple[Correction, Any, int]] = {
        "uniform dark": (uniform(DARK, THRESHOLD, ZYLA[1], image.dtype), DARK, 20),
        "recorded dark": (
            recorded(Dark(image_of_dark), Orientation.NORMAL, THRESHOLD, None, image.dtype),
            image_of_dark,
            22,
        ),
    }
    for name, (correction, dark, moved) in kinds.items():
        total = RunningSum(ZYLA, np.uint16)

        def ours(correction: Correction = correction, total: RunningSum = total) -> None:
            total.add(correction.subtracted(image), None, SERIES)

        floor = image.size * moved / speed
        times = best_and_median(ours)
        line(name, floor, times, times[0] / floor, best_and_median(_by_numpy(image, dark))[0])


def _by_numpy(image: Pixels, dark: Any) -> Callable[[], object]:
    """Return the same without a kernel."""
    total = np.zeros(image.shape, np.int64)

    def work() -> None:
        above = image.astype(np.int32) - dark
        total[...] += np.where(above >= THRESHOLD, above, 0)

    return work


def bench_photons(speed: float) -> None:
    """Print how long the photons of Balor frames take to find."""
    print(f"photons, {BALOR[1]} x {BALOR[0]} uint16, uniform dark")
    print(
        f"  {'':44}{'floor':>9}{'best':>10}{'median':>10}{'recorded':>10}"
        f"{'whole map':>10}{'scipy':>10}{'Python':>10}"
    )
    region = (0, BALOR[0], 0, BALOR[1])
    floor = 2 * BALOR[0] * BALOR[1] / speed
    dark = Dark(as_pixels(np.full(BALOR, DARK, np.uint16)))
    for photons in (1_000, 10_000, 50_000):
        simulated = simulate_balor(1, BALOR, photons, 0.47, streaks=0.0, hot=0.0)
        image = as_pixels(simulated.frame(0))
        flat = uniform(DARK, HIT, BALOR[1], image.dtype)
        full = recorded(dark, Orientation.NORMAL, HIT, None, image.dtype)

        def ours(correction: Correction = flat, image: Pixels = image) -> Candidates:
            found = find_photons(image, None, correction, region, Cuts(CUT, 1400))
            assert isinstance(found, Candidates)
            return found

        count = int(ours().is_photon.sum())
        by_scipy, by_python = scipy_photons(image), python_photons(image)
        assert count == by_scipy == by_python, (count, by_scipy, by_python)
        line(
            f"{photons} photons a frame ({count} over the cut)",
            floor,
            best_and_median(ours),
            best_and_median(lambda ours=ours, full=full: ours(full))[0],
            bench_map(image),
            best_and_median(lambda image=image: scipy_photons(image), 3)[0],
            best_and_median(lambda image=image: python_photons(image), 3)[0],
        )


def bench_map(image: Pixels) -> float:
    """Return how long the stage's `map` takes in ms: photons found and their clean image made."""
    stage, parameters = BalorStage(), BalorParameters(analysis_roi="0,0,4128,4104")
    frame = Frame(SERIES, 0, image)
    return best_and_median(lambda: stage.map(frame, parameters))[0]


def scipy_photons(image: Pixels) -> int:
    """Find the same photons with scipy.ndimage; return how many."""
    above = image.astype(np.int32) - DARK
    highest = scipy.ndimage.maximum_filter(above, 3, mode="constant", cval=-DARK)
    rows, columns = np.nonzero((above >= HIT) & (above == highest))
    return _sum_and_cut(above, rows, columns)


def _sum_and_cut(above: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any]) -> int:
    """Sum the 3 x 3 pixels of maxima inside the frame; of equal neighbours the first counts."""
    inside = (rows > 0) & (columns > 0) & (rows < BALOR[0] - 1) & (columns < BALOR[1] - 1)
    rows, columns = rows[inside], columns[inside]
    peak, total = above[rows, columns], np.zeros(len(rows))
    first = np.ones(len(rows), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            value = above[rows + dy, columns + dx]
            total += value
            if (dy, dx) < (0, 0):
                first &= value < peak
    return int((first & (total >= CUT)).sum())


def python_photons(image: Pixels) -> int:
    """Find the same photons with a loop over the hit pixels; return how many."""
    above = image.astype(np.int32) - DARK
    photons = 0
    for row, column in zip(*np.nonzero(above >= HIT), strict=True):
        if 0 < row < BALOR[0] - 1 and 0 < column < BALOR[1] - 1:
            around = above[row - 1 : row + 2, column - 1 : column + 2]
            photons += int(np.argmax(around)) == 4 and around.sum() >= CUT
    return photons


def main() -> None:
    """Print the tables."""
    speed = copy_speed()
    print(f"copying moves {speed / 1e6:.1f} GB/s; times in ms a frame, one thread")
    bench_threshold(speed)
    bench_photons(speed)


if __name__ == "__main__":
    main()
