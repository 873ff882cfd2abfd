"""The panels of a photon detector: its energy histogram, its clean image, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, StrMethodFormatter
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..core.images.photons import DOUBLE, SHARING
from ..core.simulation.photons import PhotonKind
from .panels import OUTLINE, enlarged, plot_rectangles, plot_rings, show_pixels, shrinkage
from .photon_truth import Comparison, Truth
from .reading import Accumulated, Histogram, Photons, with_unit
from .reading import Rectangle as Sides

SPARSE = 0.05
"""Share of pixels with a photon up to which each is enlarged."""
LIFT = 4.0
"""By so much the lowest stands out from nothing, on the logarithmic scale of colours."""
ZOOM = 60
"""Pixels of a side of the part that is shown with the truth."""
STEP = 5
"""Pixels by which that part is shifted in search of the densest."""
CROWD = 60
"""True photons that can be told apart there."""
CLASSES = {"below": "0.6", "single": "C0", "double": "C3", "all": "C0"}
"""Colours."""
ANALYSIS = "#7fff7f"
HALO = (withStroke(linewidth=3, foreground="white"),)
"""Keeps small text readable on a curve."""


def plot_histogram(axes: Axes, histogram: Histogram, truth: Truth | None = None) -> None:
    """Plot the energies of all candidates, logarithmic, with the cuts; the true ones beside."""
    edges = _edges(histogram.energy)
    numbers = _classes(histogram)
    for name, (low, high, number) in numbers.items():
        inside = np.clip(edges, low, high)
        axes.stairs(
            np.where(np.diff(inside) > 0, histogram.counts, 0), inside, fill=True, alpha=0.5,
            color=CLASSES[name], label=f"{name}: {number}",
        )  # fmt: skip
    axes.stairs(histogram.counts, edges, color="black", linewidth=0.5)
    highest = histogram.counts.max(initial=0)
    if truth is not None:
        true, _ = np.histogram(truth.energy, edges)
        label = f"true, all of the charge: {len(truth.energy)}"
        axes.stairs(true, edges, color="C1", linewidth=1.2, label=label)
        highest = max(highest, true.max(initial=0))
    axes.set_ylim(0.7, 0.7 * (max(highest, 10) / 0.7) ** 1.65)  # room for the names of the cuts
    axes.set_yscale("log")
    axes.set_xlim(0, _seen(histogram, edges))
    if beyond := histogram.counts[-1]:
        _write_upright(axes, f"{beyond} beyond {edges[-2]:g}", axes.get_xlim()[1], 0.45)
    _plot_cuts(axes, histogram)
    axes.set_title(_histogram_title(numbers))
    axes.set_xlabel(with_unit("energy of 3 x 3 pixels", histogram.unit))
    axes.set_ylabel(with_unit(f"candidates per {edges[1] - edges[0]:g}", histogram.unit))
    axes.legend(fontsize="small", loc="upper right")
    axes.grid(alpha=0.3)


def plot_photons(axes: Axes, image: Accumulated) -> None:
    """Plot a clean image with its analysis ROI: every photon is seen, those of one pixel add up."""
    total = image.valid
    shrink = shrinkage(total.shape)
    shown = summed(total, shrink)
    seen = shown[~np.isnan(shown)]
    if np.count_nonzero(seen) <= SPARSE * seen.size:
        shown = enlarged(shown)
    place = "pixel" if shrink == 1 else f"{shrink} x {shrink} pixels"
    bar = show_pixels(axes, shown, total.shape, f"{image.unit or 'sum'} per {place}", LIFT)
    if isinstance(bar.norm, LogNorm) and bar.norm.vmax:
        ticks = np.asarray(LogLocator(subs=(1, 2, 5)).tick_values(1, bar.norm.vmax))
        bar.formatter = StrMethodFormatter("{x:g}")
        bar.set_ticks(ticks[(ticks >= 1) & (ticks <= bar.norm.vmax)].tolist())
        bar.minorticks_off()
    plural = "" if image.frames == 1 else "s"
    number = f"{np.nansum(total):.10g} {image.unit}".rstrip()
    axes.set_title(f"Clean image of {image.frames} frame{plural}: {number}")
    plot_rings(axes, image.rings)
    plot_rectangles(axes, image.rois)
    if image.analysis is not None:
        plot_outline(axes, image.analysis, "analysis ROI", ANALYSIS)


def plot_outline(axes: Axes, sides: Sides, name: str, color: str) -> None:
    """Plot the outline of a part of the frames, its name inside."""
    x, y, width, height = sides
    corner = (x - 0.5, y - 0.5)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linestyle="--"))
    axes.annotate(
        name, corner, xytext=(3, -3), textcoords="offset points", va="top",
        annotation_clip=True, color=color, fontsize=8, path_effects=OUTLINE,
    )  # fmt: skip


def plot_found(
    axes: Axes, photons: Photons, truth: Truth, comparison: Comparison, part: Sides
) -> None:
    """Plot found photons over true ones in a part of the frames, of as many as stay readable."""
    true, found = _within(truth, part), _within(photons, part)
    if photons.frames is not None:
        true &= np.isin(truth.frame, photons.frames)
    last = _last_of_few(truth.frame[true])
    true, found = true & (truth.frame <= last), found & (photons.frame <= last)
    double, sharing = (photons.flag & bit > 0 for bit in (DOUBLE, SHARING))
    full = truth.kind == PhotonKind.FULL
    expected, missed, extra = comparison.expected, comparison.missed, comparison.extra
    circle: dict[str, Any] = {"marker": "o", "facecolor": "none", "s": 150}
    ring = circle | {"edgecolor": "C3", "linewidth": 2, "s": 250}
    for label, chosen, table, style in (
        ("true, isolated", true & expected, truth, circle | {"edgecolor": "black"}),
        ("true, close to another", true & full & ~expected, truth, circle | {"edgecolor": "0.6"}),
        ("true, partial or faint", true & ~full, truth, circle | {"edgecolor": "0.8"}),
        ("found", found & ~double & ~sharing, photons, {"color": "C0", "s": 18}),
        ("found, sharing pixels", found & ~double & sharing, photons, {"color": "C1", "s": 18}),
        ("found, double", found & double, photons, {"color": "C3", "s": 18}),
        ("missed", true & missed, truth, ring),
        ("extra", found & extra, photons, {"marker": "x", "color": "C3", "s": 90}),
    ):
        number = f"{label}: {np.count_nonzero(chosen)}"
        axes.scatter(table.x[chosen], table.y[chosen], label=number, **style)
    hot = truth.hot_pixels
    axes.scatter(hot[:, 1], hot[:, 0], marker="s", s=25, color="0.8", label="hot pixel", zorder=0)
    x, y, width, height = part
    axes.set_xlim(x - 0.5, x + width - 0.5)
    axes.set_ylim(y + height - 0.5, y - 0.5)
    axes.set_aspect("equal", anchor="N")
    axes.set_title(f"Where photons are densest, frames up to {last}")
    axes.set_xlabel("column (px)")
    axes.set_ylabel("row (px)")
    axes.grid(alpha=0.3)
    axes.legend(
        fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, labelspacing=1
    )


def summed(pixels: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Return the sum of each factor x factor block; NaN where all of it is."""
    rows, columns = (-(-length // factor) for length in pixels.shape)
    full = np.full((rows * factor, columns * factor), np.nan)
    full[: pixels.shape[0], : pixels.shape[1]] = pixels
    blocks = full.reshape(rows, factor, columns, factor)
    return np.where(np.isnan(blocks).all(axis=(1, 3)), np.nan, np.nansum(blocks, axis=(1, 3)))


def densest(photons: Photons | Truth, shape: tuple[int, ...]) -> Sides:
    """Return the part of an image of this shape, at most `ZOOM` pixels wide, with most photons."""
    rows, columns = (-(-length // STEP) for length in shape)
    inside = [(-0.5, rows * STEP - 0.5), (-0.5, columns * STEP - 0.5)]
    counts, _, _ = np.histogram2d(photons.y, photons.x, (rows, columns), inside)
    height, width = (min(ZOOM // STEP, cells) for cells in counts.shape)
    windows = sliding_window_view(counts, (height, width)).sum(axis=(2, 3))
    row, column = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(column) * STEP, int(row) * STEP, width * STEP, height * STEP


def _last_of_few(frames: NDArray[Any]) -> int:
    """Return the last frame up to which there are no more than `CROWD`; the first at least."""
    number, count = np.unique(frames, return_counts=True)
    if not len(number):
        return 0
    few = int(np.searchsorted(np.cumsum(count), CROWD, side="right"))
    return int(number[max(few, 1) - 1])


def _within(photons: Photons | Truth, part: Sides) -> NDArray[np.bool_]:
    """Tell which photons lie in a part of the frames."""
    x, y, width, height = part
    across: NDArray[np.bool_] = (x - 0.5 <= photons.x) & (photons.x < x + width - 0.5)
    along: NDArray[np.bool_] = (y - 0.5 <= photons.y) & (photons.y < y + height - 0.5)
    return across & along


def _edges(middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of bins of the same width."""
    width = middle[1] - middle[0]
    edges: NDArray[np.float64] = np.append(middle, middle[-1] + width) - width / 2
    return edges


def _classes(histogram: Histogram) -> Mapping[str, tuple[float, float, int]]:
    """Return the classes that are known: their limits, and their number, by the bins' middle."""
    least, most = histogram.least, histogram.most
    if least is None or most is None:
        limits = {"all": (0.0, np.inf)}
    else:
        limits = {"below": (0.0, least), "single": (least, most), "double": (most, np.inf)}
    found = {}
    for name, (low, high) in limits.items():
        inside = (histogram.energy >= low) & (histogram.energy < high)
        found[name] = (low, high, int(histogram.counts[inside].sum()))
    return found


def _histogram_title(numbers: Mapping[str, tuple[float, float, int]]) -> str:
    if "double" not in numbers:
        return f"{numbers['all'][2]} candidates"
    double = numbers["double"][2]
    photons = numbers["single"][2] + double
    return f"{photons} photons, {100 * double / max(photons, 1):.3g} % of them double"


def _seen(histogram: Histogram, edges: NDArray[np.float64]) -> float:
    """Return the energy up to which the histogram is shown."""
    filled = np.flatnonzero(histogram.counts[:-1])  # the last one holds all beyond
    cuts = [cut for cut in (histogram.least, histogram.view, histogram.most) if cut is not None]
    highest = edges[filled[-1] + 1] if len(filled) else edges[1]
    return float(min(1.05 * max([highest, *cuts]), edges[-1]))


def _plot_cuts(axes: Axes, histogram: Histogram) -> None:
    """Plot the cuts as lines with their names, those of one value together."""
    cuts: dict[float, list[str]] = {}
    for name, cut in (
        ("photon_sum_min", histogram.least),
        ("view_sum_min", histogram.view),
        ("photon_sum_max", histogram.most),
    ):
        if cut is not None:
            cuts.setdefault(cut, []).append(name)
    for cut, names in sorted(cuts.items()):
        axes.axvline(cut, color="black", linestyle="--", linewidth=0.8)
        _write_upright(axes, f"{' = '.join(names)}  {cut:g}", cut, 1.0)


def _write_upright(axes: Axes, text: str, x: float, top: float) -> None:
    """Write upwards, left of an energy, down from a share of the panel's height."""
    axes.annotate(
        text, (x, top), xycoords=("data", "axes fraction"), xytext=(-2, -4), va="top", ha="right",
        textcoords="offset points", rotation=90, fontsize=8, path_effects=HALO,
    )  # fmt: skip
