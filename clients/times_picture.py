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
NARROWEST = 1.2
"""Least ratio of the ends of the axis, for frames that all took the same."""


def draw_times(seconds: Sequence[float], png: Path) -> Figure:
    """Draw what each frame took; return the figure.

    Parameters
    ----------
    seconds
        Of each frame, in order; at least one.
    png
        The picture to write.
    """
    # A clock may find that a frame took no time, which a logarithm cannot show.
    milliseconds = np.maximum(1000 * np.asarray(seconds), 1e-3)
    median, slow = np.percentile(milliseconds, (50, 99))
    low, high = milliseconds.min() / NARROWEST, milliseconds.max() * NARROWEST
    figure = Figure(figsize=SIZE, layout="constrained")
    of_frames, often = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    of_frames.plot(milliseconds, ".", markersize=3, alpha=0.6)
    of_frames.set(xlabel="Frame", ylabel="Map and reduce (ms)", yscale="log", ylim=(low, high))
    of_frames.margins(x=0.01)
    often.hist(milliseconds, np.geomspace(low, high, BINS + 1), orientation="horizontal")
    often.set(xlabel="Frames")
    for axes in (of_frames, often):
        axes.grid(alpha=0.3)
        axes.axhline(median, color="black", linewidth=1, label=f"median {median:.3g} ms")
        axes.axhline(slow, color="tab:red", linewidth=1, label=f"99 % below {slow:.3g} ms")
    of_frames.legend(loc="upper right")
    figure.suptitle(f"{len(seconds)} frames; the first ones load and compile what they need")
    figure.savefig(png, dpi=DPI)
    return figure
