"""A picture of how long frames took: in order, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

DPI = 150
SIZE = (12.0, 4.5)
"""In inches."""
BINS = 60


def draw_times(seconds: Sequence[float], png: Path) -> None:
    """Draw what each frame took.

    Parameters
    ----------
    seconds
        Of each frame, in order.
    png
        The picture to write.
    """
    milliseconds = 1000 * np.asarray(seconds)
    median, slow = np.percentile(milliseconds, (50, 99))
    figure = Figure(figsize=SIZE, layout="constrained")
    of_frames, often = figure.subplots(1, 2, width_ratios=(2, 1))
    of_frames.plot(milliseconds, ".", markersize=3)
    of_frames.set(xlabel="Frame", ylabel="Map and reduce (ms)", yscale="log")
    of_frames.set_title(f"{len(seconds)} frames: median {median:.3g} ms, 99 % below {slow:.3g} ms")
    # What is slower than nearly all (the first frames, which load and compile) is in the last bin.
    often.hist(np.minimum(milliseconds, slow), BINS)
    often.axvline(median, color="black", linewidth=1)
    often.set(xlabel="Map and reduce (ms)", ylabel="Frames")
    figure.savefig(png, dpi=DPI)
