"""Pictures of what Ronda measured, as PNG: images, patterns, the ROI means, photons.

Everything can be drawn from a file that Ronda wrote, also while it is being
written, or from arrays. Other NeXus files are drawn by their default plot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.azimuthal.integration import Pattern
from .diffraction_pictures import is_map, is_sparse, map_figure, sparse_figure
from .panels import plot_accumulated, plot_curves, plot_pattern, plot_pixels
from .photon_panels import densest, plot_found, plot_histogram, plot_outline, plot_photons
from .photon_truth import Truth, compare, read_truth
from .reading import (
    Accumulated,
    Curve,
    Histogram,
    Plot,
    Rings,
    open_file,
    read_accumulated,
    read_curves,
    read_default,
    read_histogram,
    read_pattern,
    read_photons,
)

DPI = 150
WIDTH = 12.0
"""Of a picture in inches."""
LOW = 4.5
"""Height of a picture of curves in inches."""

Thing = TypeVar("Thing", Accumulated, Pattern, Histogram, list[Curve])


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


def draw_histogram(source: Path | Histogram, png: Path, truth: Truth | Path | None = None) -> None:
    """Draw the energy histogram of the photon candidates with the cuts and what they divide.

    Parameters
    ----------
    source
        A file of Ronda's, or the histogram itself.
    png
        The picture to write.
    truth
        True photons to set beside it: of a file those in its frames and its analysis
        ROI, else all.

    Raises
    ------
    ValueError
        If a file cannot be read or holds no histogram, or no true photons.
    """
    histogram, true = _given(source, read_histogram, "energy histogram"), _truth(truth)
    if true is not None and isinstance(source, Path):
        with open_file(source) as file:
            photons = read_photons(file)
        true = true if photons is None else true.chosen(true.looked_at(photons))
    figure, axes = _one_panel(LOW)
    plot_histogram(axes, histogram, true)
    _save(figure, png)


def draw_photons(source: Path, png: Path, truth: Truth | Path | None = None) -> None:
    """Draw the clean image; with the truth also which photons were found where.

    Parameters
    ----------
    source
        A file of Ronda's.
    png
        The picture to write.
    truth
        True photons of the same frames, which must not have been turned.

    Raises
    ------
    ValueError
        If a file cannot be read or holds no clean image and photons, or no true photons.
    """
    true = _truth(truth)
    with open_file(source) as file:
        image = read_accumulated(file) if "entry/photons" in file else None
        photons = None if true is None else read_photons(file)
    if image is None or (photons is None and true is not None):
        raise ValueError(f"{source} holds no clean image of photons")
    height = _height(image.total.shape)
    if true is None or photons is None:
        figure, axes = _one_panel(height)
        plot_photons(axes, image)
    else:
        figure = Figure(figsize=(1.55 * WIDTH, max(height, 7.5)), dpi=DPI, layout="constrained")
        axes, beside = figure.subplots(1, 2, width_ratios=(1, 0.5))
        comparison = compare(photons, true, ~np.isnan(image.valid))
        plot_photons(axes, image)
        part = densest(true.chosen(true.looked_at(photons)), image.total.shape)
        plot_outline(axes, part, "", "white")
        plot_found(beside, photons, true, comparison, part)
        figure.suptitle(str(comparison))
    _save(figure, png)


def draw_file(path: Path, png: Path) -> None:
    """Draw all that a file holds in one picture; any other NeXus file by its default plot.

    Raises
    ------
    ValueError
        If the file cannot be read or holds nothing that can be drawn.
    """
    figure = _of_diffraction(path)
    if figure is not None:
        figure.suptitle(path.name, fontsize="medium", color="0.4")
        _save(figure, png)
        return
    with open_file(path) as file:
        image, pattern, curves = read_accumulated(file), read_pattern(file), read_curves(file)
        histogram = read_histogram(file)
        if histogram is not None and not histogram.counts.any():
            histogram = None
        ours = bool(image or pattern or curves or histogram)
        default = None if ours else read_default(file)
    if ours:
        figure = _overview(image, histogram, pattern, curves)
    elif default:
        figure = _default_figure(default)
    else:
        raise ValueError(
            f"{path} holds nothing that can be drawn: no accumulated image, pattern or ROI of "
            "Ronda's, and no default plot"
        )
    figure.suptitle(path.name, fontsize="medium", color="0.4")
    _save(figure, png)


def _of_diffraction(path: Path) -> Figure | None:
    """Return the figure of sparse frames or a map; None if the file holds something else."""
    with open_file(path) as file:
        if is_map(file):
            return map_figure(path, file)
        sparse = is_sparse(file)
    return sparse_figure(path) if sparse else None


def _overview(
    image: Accumulated | None,
    histogram: Histogram | None,
    pattern: Pattern | None,
    curves: list[Curve],
) -> Figure:
    """Return a figure of the image above, the rest side by side below it."""
    unit = image.unit if image else ""
    lower: list[Callable[[Axes], None]] = []
    if histogram is not None:
        lower.append(partial(plot_histogram, histogram=histogram))
    if pattern is not None:
        lines = list(image.rings) if image else []
        lower.append(partial(plot_pattern, pattern=pattern, lines=lines, unit=unit))
    if curves:
        lower.append(partial(plot_curves, curves=curves))
    heights = ([_height(image.total.shape)] if image else []) + ([LOW - 0.5] if lower else [])
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), max(len(lower), 1), height_ratios=heights)
    if image and image.analysis:
        plot_photons(figure.add_subplot(grid[0, :]), image)
    elif image:
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


def _truth(truth: Truth | Path | None) -> Truth | None:
    return read_truth(truth) if isinstance(truth, Path) else truth


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
