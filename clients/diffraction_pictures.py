"""Pictures of what the Bragg sparsifier and diffraction tomography wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..core.bragg.densify import Densifier
from ..core.bragg.sparse_file import SparseFile
from .panels import plot_pixels, show_pixels
from .reading import with_unit

DPI, WIDTH, LOW, TALL = 150, 12.0, 3.8, 8.5
"""Of pictures; lengths in inches."""
SPARSE, RESULT = "sparse_frames", "pyFAI/result"
SINOGRAM, MEAN = "pyFAI/sinograms", "pyFAI/mean"
RECONSTRUCTION = "pyFAI/reconstruction/image"
MOST_LINES = 2000
"""Most patterns in the picture of all of them."""


def is_sparse(file: h5py.File) -> bool:
    """Tell whether a file holds sparse frames."""
    entry = _entry(file)
    return entry is not None and SPARSE in entry


def is_map(file: h5py.File) -> bool:
    """Tell whether a file holds a map of powder patterns."""
    entry = _entry(file)
    return entry is not None and f"{RESULT}/intensity" in entry


def sparse_figure(path: Path) -> Figure:
    """Return a figure of sparse frames: the one with most pixels, its background, all frames.

    Raises
    ------
    OSError, ValueError
        In one sentence, if the file cannot be read or holds no frame.
    """
    with SparseFile(path) as file:
        if not file.count:
            raise ValueError(f"{path} holds no frame")
        kept = np.array([file.frame(number).index.size for number in range(file.count)])
        number = int(kept.argmax())
        densifier, frame = Densifier(file), file.frame(number)
        image = densifier.image(frame).astype(np.float64)
        image[densifier.mask] = np.nan
        figure = Figure(figsize=(WIDTH, TALL + LOW), dpi=DPI, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(TALL, LOW))
        axes = figure.add_subplot(grid[0, :])
        plot_pixels(axes, image, "counts")
        axes.set_title(f"Frame {number} of {file.count}: background and {kept[number]} kept pixels")
        if file.has_peaks:
            peaks = file.peaks(number)
            axes.plot(peaks["x"], peaks["y"], "o", mfc="none", mec="#7fdbff", ms=5, mew=0.6)
        if frame.average is not None and file.radius is not None:
            _plot_background(figure.add_subplot(grid[1, 0]), file, frame)
        counts = figure.add_subplot(grid[1, 1])
        counts.plot(kept, "C3.-", linewidth=0.8, markersize=3)
        counts.set(xlabel="frame", ylabel="kept pixels", title="All frames")
        counts.set_ylim(bottom=0)
        counts.grid(alpha=0.3)
    return figure


def _plot_background(axes: Axes, file: SparseFile, frame: Any) -> None:
    """Plot the background of a frame and its deviation against the radius."""
    radius, average = file.radius, frame.average
    if frame.deviation is not None:
        low, high = average - frame.deviation, average + frame.deviation
        axes.fill_between(radius, low, high, color="C1", alpha=0.4, linewidth=0)
    axes.plot(radius, average, color="C3", linewidth=1)
    axes.set(xlabel=with_unit("radius", file.unit), ylabel="counts", title="Its background")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def map_figure(path: Path, file: h5py.File) -> Figure:
    """Return a figure of a map: sinogram, cross-section if there is one, all patterns, their mean.

    Raises
    ------
    ValueError
        In one sentence, if nothing was measured.
    """
    entry = _entry(file)
    assert entry is not None
    intensity = entry[f"{RESULT}/intensity"]
    if intensity.ndim == 4:
        raise ValueError(f"{path} holds patterns in two dimensions, which are not drawn")
    rows, points = intensity.shape[0] * intensity.shape[1], intensity.shape[2]
    step = -(-rows // MOST_LINES)
    patterns = intensity[()].reshape(rows, points)[::step].astype(np.float64)
    if np.isnan(patterns).all():
        raise ValueError(f"{path} holds no measured position")
    sinogram = _sinogram(entry, intensity)
    upper: list[tuple[NDArray[Any], str]] = [(sinogram, "Sinogram of the whole pattern")]
    if RECONSTRUCTION in entry:
        upper.append((entry[RECONSTRUCTION][()], "Cross-section"))
    figure = Figure(figsize=(WIDTH, 3 * LOW), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2)
    for column, (image, title) in enumerate(upper):
        place = grid[0, column] if len(upper) > 1 else grid[0, :]
        _plot_image(figure.add_subplot(place), image, title)
    _plot_patterns(figure.add_subplot(grid[1, 0]), patterns, step)
    _plot_mean(figure.add_subplot(grid[1, 1]), entry, patterns)
    return figure


def _sinogram(entry: h5py.Group, intensity: h5py.Dataset) -> NDArray[np.float64]:
    signal = entry[SINOGRAM].attrs.get("signal", "") if SINOGRAM in entry else ""
    if signal and signal in entry[SINOGRAM]:
        return np.asarray(entry[SINOGRAM][signal][()], np.float64)
    return np.asarray(np.nansum(intensity[()], axis=-1), np.float64)


def _plot_image(axes: Axes, image: NDArray[Any], title: str) -> None:
    """Plot a small image, linear, square pixels as far as they fit."""
    drawn = axes.imshow(image, cmap="inferno", interpolation="nearest", aspect="auto")
    assert axes.figure is not None
    axes.figure.colorbar(drawn, ax=axes)
    across = ("translation", "rotation") if "Sinogram" in title else ("x", "y")
    axes.set(title=title, xlabel=f"{across[0]} number", ylabel=f"{across[1]} number")


def _plot_patterns(axes: Axes, patterns: NDArray[np.float64], step: int) -> None:
    """Plot all patterns, one above the other, logarithmic."""
    show_pixels(axes, patterns, patterns.shape, "intensity")
    axes.set_aspect("auto")
    axes.set(xlabel="point of the pattern", ylabel="position", title="All patterns")
    if step > 1:
        axes.set_title(f"Every {step}th pattern")


def _plot_mean(axes: Axes, entry: h5py.Group, patterns: NDArray[np.float64]) -> None:
    """Plot the mean pattern, and between what the patterns lie."""
    names = [str(name) for name in entry[RESULT].attrs["axes"]]
    axis = entry[f"{RESULT}/{names[-1]}"]
    seen = ~np.isnan(patterns).all(axis=0)  # some points have no pixel
    x, known = axis[()][seen], patterns[:, seen]
    low, high = np.nanpercentile(known, (1, 99), axis=0)
    axes.fill_between(x, low, high, color="C1", alpha=0.4, linewidth=0)
    axes.plot(x, np.nanmean(known, axis=0), color="C3", linewidth=1)
    axes.set(title="Mean pattern, and where 98 % of them lie", ylabel="intensity")
    axes.set_xlabel(with_unit(names[-1], str(axis.attrs.get("units", ""))))
    axes.grid(alpha=0.3)


def _entry(file: h5py.File) -> h5py.Group | None:
    """Return the default entry of a file."""
    name = file.attrs.get("default", "")
    found = file.get(name) if isinstance(name, str) and name else None
    return found if isinstance(found, h5py.Group) else None
