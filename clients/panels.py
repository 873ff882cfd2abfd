"""The panels that pictures are made of: an image, a powder pattern, the means of ROIs."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from ..core.azimuthal.integration import Pattern
from .reading import Accumulated, Curve, Rectangles, Rings, with_unit

MOST_PIXELS = 1500
"""An image with a longer side is shrunk until it fits into this many pixels."""
COLORS = "inferno"
MASKED = "0.4"
"""Grey."""
RING = "#7fdbff"
INVERSE_ANGSTROM = "\N{ANGSTROM SIGN}\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}"
OUTLINE = (withStroke(linewidth=2, foreground="black"),)
"""Keeps small text readable on any image."""


def plot_accumulated(axes: Axes, image: Accumulated, rings: Rings) -> None:
    """Plot a sum of frames, logarithmic, masked pixels grey, single pixels enlarged."""
    total = image.valid
    plot_pixels(axes, total, with_unit("sum", image.unit))
    good = total[~np.isnan(total)]
    plural = "" if image.frames == 1 else "s"
    axes.set_title(
        f"Sum of {image.frames} frame{plural}: total {_quantity(good.sum(), image.unit)}, "
        f"highest {_quantity(good.max(initial=0), image.unit)}"
    )
    plot_rings(axes, rings)
    plot_rectangles(axes, image.rois)


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
    """Plot an image [row, column], logarithmic; NaN grey."""
    shown = enlarged(shrunk(pixels, shrinkage(pixels.shape)))
    show_pixels(axes, shown, pixels.shape, label)


def show_pixels(
    axes: Axes, shown: NDArray[np.float64], shape: tuple[int, ...], label: str, lift: float = 2.0
) -> Colorbar:
    """Plot an image of this shape, shrunk already, at -0.5 to n - 0.5; NaN grey.

    The lowest positive pixels have a colour as of `lift` times the darkest.
    """
    shrink = shrinkage(shape)
    scale = _scale(shown, lift)
    if isinstance(scale, LogNorm):  # which has no place for 0: the colour of the lowest
        shown = np.where(shown <= 0, scale.vmin or 0, shown)
    drawn = axes.imshow(
        shown,
        cmap=matplotlib.colormaps[COLORS].with_extremes(bad=MASKED),
        norm=scale,
        extent=(-0.5, shown.shape[1] * shrink - 0.5, shown.shape[0] * shrink - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(shape[0] - 0.5, -0.5)
    axes.set_xlabel("column (px)")
    axes.set_ylabel("row (px)")
    assert axes.figure is not None
    bar = axes.figure.colorbar(drawn, cax=axes.inset_axes((1.01, 0, 0.015, 1)), label=label)
    if isinstance(scale, LogNorm):  # plain numbers, also between the powers of ten
        bar.formatter = bar.minorformatter = LogFormatter(minor_thresholds=(2, 0.5))
    return bar


def plot_rectangles(axes: Axes, rectangles: Rectangles) -> None:
    """Plot the outlines of ROIs over an image, each with its name."""
    for number, (name, (x, y, width, height)) in enumerate(sorted(rectangles.items())):
        edge = f"C{number % 10}"
        corner = (x - 0.5, y - 0.5)
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=1.5))
        axes.annotate(
            name, corner, xytext=(1, 3), textcoords="offset points", annotation_clip=True,
            color="white", fontsize=8, bbox={"facecolor": edge, "linewidth": 0, "pad": 1},
        )  # fmt: skip


def shrinkage(shape: tuple[int, ...]) -> int:
    """Return how many pixels of a side become one where an image of this shape is drawn."""
    return max(1, -(-max(shape) // MOST_PIXELS))


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


def _scale(pixels: NDArray[np.float64], lift: float) -> Normalize:
    """Return a logarithmic scale over what is seen of the positive pixels."""
    positive = pixels[np.isfinite(pixels) & (pixels > 0)]
    if positive.size == 0:
        return Normalize(0, 1)
    low, high = np.percentile(positive, [1, 99.9])
    return LogNorm(low / lift, max(high, 2 * low))  # the lowest is to stand out from nothing


def plot_rings(axes: Axes, rings: Rings) -> None:
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


def _quantity(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip()
