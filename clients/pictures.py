"""Pictures of what Ronda measured, as PNG: the accumulated image, the pattern, the ROI means.

Everything can be drawn from a file that Ronda wrote, also while it is being
written, or from arrays. Other NeXus files are drawn by their default plot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import h5py
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from ..core.azimuthal.integration import Pattern
from .reading import (
    Accumulated,
    Curve,
    Plot,
    Rings,
    open_file,
    read_accumulated,
    read_curves,
    read_default,
    read_pattern,
    with_unit,
)

DPI = 150
WIDTH = 12.0
"""Of a picture in inches."""
LOW = 4.5
"""Height of a picture of curves in inches."""
MOST_PIXELS = 1500
"""An image with a longer side is shrunk until it fits into this many pixels."""
COLORS = "inferno"
MASKED = "0.4"
"""Grey."""
RING = "#7fdbff"
INVERSE_ANGSTROM = "\N{ANGSTROM SIGN}\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}"
OUTLINE = (withStroke(linewidth=2, foreground="black"),)
"""Keeps small text readable on any image."""

Thing = TypeVar("Thing", Accumulated, Pattern, list[Curve])


def draw_accumulated(source: Path | Accumulated, png: Path, rings: Rings | None = None) -> None:
    """Draw an accumulated image with rings of equal q and ROIs.

    Parameters
    ----------
    source
        A file of Ronda's, or the image itself.
    png
        The picture to write.
    rings
        Other rings than those that come with the image.

    Raises
    ------
    ValueError
        If the file cannot be read or holds no accumulated image.
    """
    image = _given(source, read_accumulated, "accumulated image")
    figure, axes = _one_panel(_height(image.total.shape))
    plot_accumulated(axes, image, image.rings if rings is None else rings)
    _save(figure, png)


def draw_azimuthal(
    source: Path | Pattern, png: Path, lines: Sequence[float] = (), unit: str = ""
) -> None:
    """Draw a powder pattern.

    Parameters
    ----------
    source
        A file of Ronda's, or the pattern itself.
    png
        The picture to write.
    lines
        Values of q in 1/angstrom where lines are expected, marked.
    unit
        Of the intensity.

    Raises
    ------
    ValueError
        If the file cannot be read or holds no pattern.
    """
    pattern = _given(source, read_pattern, "azimuthal pattern")
    figure, axes = _one_panel(LOW)
    plot_pattern(axes, pattern, lines, unit)
    _save(figure, png)


def draw_rois(source: Path | list[Curve], png: Path) -> None:
    """Draw the means of ROIs against the motor (or the frame) with their errors.

    Raises
    ------
    ValueError
        If the file cannot be read or holds no ROI.
    """
    curves = _given(source, read_curves, "ROI")
    figure, axes = _one_panel(LOW)
    plot_curves(axes, curves)
    _save(figure, png)


def draw_file(path: Path, png: Path) -> None:
    """Draw all that a file holds in one picture; any other NeXus file by its default plot.

    Raises
    ------
    ValueError
        If the file cannot be read or holds nothing that can be drawn.
    """
    with open_file(path) as file:
        image, pattern, curves = read_accumulated(file), read_pattern(file), read_curves(file)
        ours = bool(image or pattern or curves)
        default = None if ours else read_default(file)
    if ours:
        figure = _overview(image, pattern, curves)
    elif default:
        figure = _default_figure(default)
    else:
        raise ValueError(
            f"{path} holds nothing that can be drawn: no accumulated image, pattern or ROI of "
            "Ronda's, and no default plot"
        )
    figure.suptitle(path.name, fontsize="medium", color="0.4")
    _save(figure, png)


def plot_accumulated(axes: Axes, image: Accumulated, rings: Rings) -> None:
    """Plot a sum of frames, logarithmic, masked pixels grey, single pixels enlarged."""
    total = np.asarray(image.total, float)
    masked = ~np.isfinite(total)
    if image.valid_count is not None:
        masked |= image.valid_count == 0
    plot_pixels(axes, np.where(masked, np.nan, total), with_unit("sum", image.unit))
    good = total[~masked]
    plural = "" if image.frames == 1 else "s"
    axes.set_title(
        f"Sum of {image.frames} frame{plural}: total {_quantity(good.sum(), image.unit)}, "
        f"highest {_quantity(good.max(initial=0), image.unit)}"
    )
    _plot_rings(axes, rings)
    for number, (name, (x, y, width, height)) in enumerate(sorted(image.rois.items())):
        edge = f"C{number % 10}"
        corner = (x - 0.5, y - 0.5)
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=1.5))
        axes.annotate(
            name, corner, xytext=(1, 3), textcoords="offset points", annotation_clip=True,
            color="white", fontsize=8, bbox={"facecolor": edge, "linewidth": 0, "pad": 1},
        )  # fmt: skip


def plot_pattern(axes: Axes, pattern: Pattern, lines: Sequence[float] = (), unit: str = "") -> None:
    """Plot intensity against q with its standard error."""
    for line in lines:
        axes.axvline(line, color="C0", alpha=0.35, linewidth=0.8)
    low, high = pattern.intensity - pattern.sigma, pattern.intensity + pattern.sigma
    axes.fill_between(pattern.q, low, high, color="C1", alpha=0.4, linewidth=0)
    axes.plot(pattern.q, pattern.intensity, color="C3", linewidth=1)
    axes.set_title("Azimuthal pattern")
    axes.set_xlabel(f"q ({INVERSE_ANGSTROM})")
    axes.set_ylabel(with_unit("mean per pixel and frame", unit))
    axes.set_xlim(0, pattern.q[-1])
    # The foot of the direct beam would hide everything else.
    beyond = high[(pattern.q > 0.1 * pattern.q[-1]) & np.isfinite(high)]
    if beyond.size and beyond.max() > 0:
        axes.set_ylim(0, 1.1 * beyond.max())
    axes.grid(alpha=0.3)


def plot_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Plot the means of ROIs against x with their standard errors, coloured as their frames."""
    for number, curve in enumerate(sorted(curves, key=lambda curve: curve.name)):
        axes.errorbar(
            curve.x, curve.mean, yerr=curve.error, label=curve.name, color=f"C{number % 10}",
            fmt=".-" if curve.error is None else "o-", markersize=5, linewidth=1, capsize=3,
        )  # fmt: skip
    axes.set_title("ROI means")
    axes.set_xlabel(curves[0].x_label)
    axes.set_ylabel(with_unit("mean per pixel", curves[0].unit))
    axes.legend(fontsize="small", ncols=1 + len(curves) // 9)
    axes.grid(alpha=0.3)


def plot_pixels(axes: Axes, pixels: NDArray[np.float64], label: str) -> None:
    """Plot an image [row, column] at -0.5 to n - 0.5, logarithmic; NaN grey."""
    shrink = max(1, -(-max(pixels.shape) // MOST_PIXELS))
    shown = enlarged(shrunk(pixels, shrink))
    scale = _scale(shown)
    if isinstance(scale, LogNorm):  # which has no place for 0: the colour of the lowest
        shown = np.where(shown <= 0, scale.vmin or 0, shown)
    drawn = axes.imshow(
        shown,
        cmap=matplotlib.colormaps[COLORS].with_extremes(bad=MASKED),
        norm=scale,
        extent=(-0.5, shown.shape[1] * shrink - 0.5, shown.shape[0] * shrink - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set_xlim(-0.5, pixels.shape[1] - 0.5)
    axes.set_ylim(pixels.shape[0] - 0.5, -0.5)
    axes.set_xlabel("column (px)")
    axes.set_ylabel("row (px)")
    assert axes.figure is not None
    bar = axes.figure.colorbar(drawn, cax=axes.inset_axes((1.01, 0, 0.015, 1)), label=label)
    if isinstance(scale, LogNorm):  # plain numbers, also between the powers of ten
        bar.formatter = bar.minorformatter = LogFormatter(minor_thresholds=(2, 0.5))


def enlarged(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the maximum over 3 x 3 pixels, so that single photons do not vanish when drawn.

    NaN (masked) pixels stay as they are and spread nowhere.
    """
    masked = np.isnan(pixels)
    padded = np.pad(np.where(masked, -np.inf, pixels), 1, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.where(masked, np.nan, windows.max(axis=(2, 3)))


def shrunk(pixels: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Return the maximum of each factor x factor block; NaN where all of it is."""
    rows, columns = (-(-length // factor) for length in pixels.shape)
    full = np.full((rows * factor, columns * factor), -np.inf)
    full[: pixels.shape[0], : pixels.shape[1]] = np.where(np.isnan(pixels), -np.inf, pixels)
    highest = full.reshape(rows, factor, columns, factor).max(axis=(1, 3))
    return np.where(np.isneginf(highest), np.nan, highest)


def _scale(pixels: NDArray[np.float64]) -> Normalize:
    """Return a logarithmic scale over what is seen of the positive pixels."""
    positive = pixels[np.isfinite(pixels) & (pixels > 0)]
    if positive.size == 0:
        return Normalize(0, 1)
    low, high = np.percentile(positive, [1, 99.9])
    return LogNorm(low / 2, max(high, 2 * low))  # the lowest is to stand out from nothing


def _plot_rings(axes: Axes, rings: Rings) -> None:
    """Plot rings over an image, each with its q towards its upper right."""
    for q, points in rings.items():
        if len(points) == 0:
            continue
        axes.plot(points[:, 1], points[:, 0], color=RING, linewidth=0.7, alpha=0.7)
        row, column = points[np.nanargmax(points[:, 1] - 0.2 * points[:, 0])]
        axes.annotate(
            f"{q:.2f}", (column, row), xytext=(2, 0), textcoords="offset points", va="center",
            annotation_clip=True, color=RING, fontsize=8, path_effects=OUTLINE,
        )  # fmt: skip


def _overview(image: Accumulated | None, pattern: Pattern | None, curves: list[Curve]) -> Figure:
    """Return a figure of the image above, pattern and ROIs side by side below it."""
    unit = image.unit if image else ""
    lower: list[Callable[[Axes], None]] = []
    if pattern is not None:
        lines = list(image.rings) if image else []
        lower.append(partial(plot_pattern, pattern=pattern, lines=lines, unit=unit))
    if curves:
        lower.append(partial(plot_curves, curves=curves))
    heights = ([_height(image.total.shape)] if image else []) + ([LOW - 0.5] if lower else [])
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), max(len(lower), 1), height_ratios=heights)
    if image:
        plot_accumulated(figure.add_subplot(grid[0, :]), image, image.rings)
    for number, plot in enumerate(lower):
        plot(figure.add_subplot(grid[-1, number]))
    return figure


def _default_figure(plot: Plot) -> Figure:
    """Return a figure of the default plot of any NeXus file; marks below 0 are grey."""
    if plot.values.ndim > 1:
        figure, axes = _one_panel(_height(plot.values.shape))
        plot_pixels(axes, np.where(plot.values < 0, np.nan, plot.values), plot.label)
        return figure
    figure, axes = _one_panel(LOW)
    x = np.arange(len(plot.values)) if plot.axis is None else plot.axis
    axes.plot(x, plot.values, color="C3", linewidth=1)
    axes.set_xlabel(plot.axis_label)
    axes.set_ylabel(plot.label)
    axes.grid(alpha=0.3)
    return figure


def _quantity(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip()


def _height(shape: tuple[int, ...]) -> float:
    """Return the height in inches that an image needs at the full width."""
    return float(np.clip(0.86 * WIDTH * shape[0] / shape[1] + 1.0, 3.5, 11))


def _one_panel(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Figure, png: Path) -> None:
    # "tight": the layout does not see the whole of a colour bar's label.
    figure.savefig(png, bbox_inches="tight", pad_inches=0.1)


def _given(source: Path | Thing, read: Callable[[h5py.File], Thing | None], name: str) -> Thing:
    """Return what is to be drawn: as given, or read from a file."""
    if not isinstance(source, Path):
        found: Thing | None = source
    else:
        with open_file(source) as file:
            found = read(file)
    if not found:
        raise ValueError(f"{source if isinstance(source, Path) else 'this'} holds no {name}")
    return found
