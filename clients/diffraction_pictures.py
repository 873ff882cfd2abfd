"""Pictures of what the Bragg sparsifier and diffraction tomography wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..core.bragg.densify import Densifier
from ..core.bragg.sparse_file import SparseFile
from .panels import plot_pixels, show_pixels
from .reading import with_unit

DPI, WIDTH, LOW, TALL = 150, 12.0, 3.8, 8.5
"""Of pictures; lengths in inches."""
SPARSE, RESULT = "sparse_frames", "pyFAI/result"
PATTERNS = "pyFAI/patterns"
"""Where the patterns in one dimension stand, beside those in two."""
SINOGRAM, MEAN = "pyFAI/sinograms", "pyFAI/mean"
RECONSTRUCTION = "pyFAI/reconstruction/image"
UNITS = {"r_m": "m", "r_mm": "mm", "2th_deg": "deg", "2th_rad": "rad", "q_nm^-1": "1/nm"}
"""How pyFAI's units of the radius are said."""
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
    unit = UNITS.get(file.unit, file.unit)
    axes.set(xlabel=with_unit("radius", unit), ylabel="counts", title="Its background")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def map_figure(path: Path, file: h5py.File) -> Figure:
    """Return a figure of a map: sinograms, cross-section if there is one, all patterns, their mean.

    Of a plain map, which has no rotation, the sums are maps, no sinograms.

    Raises
    ------
    ValueError
        In one sentence, if nothing was measured.
    """
    entry = _entry(file)
    assert entry is not None
    group = entry[RESULT]
    if group["intensity"].ndim == 4 and f"{PATTERNS}/intensity" in entry:
        group = entry[PATTERNS]
    intensity = group["intensity"]
    if intensity.ndim == 4:
        raise ValueError(f"{path} holds patterns in two dimensions, which are not drawn")
    rows, points = intensity.shape[0] * intensity.shape[1], intensity.shape[2]
    step = -(-rows // MOST_LINES)
    patterns = intensity[()].reshape(rows, points)[::step].astype(np.float64)
    if np.isnan(patterns).all():
        raise ValueError(f"{path} holds no measured position")
    upper = _sums(entry, intensity, group)
    if RECONSTRUCTION in entry:
        section = entry[RECONSTRUCTION.rpartition("/")[0]]
        upper.append(_Sum(entry[RECONSTRUCTION][()], "Cross-section", section, ("y", "x")))
    rows_above = -(-len(upper) // 2)
    figure = Figure(figsize=(WIDTH, (2 + rows_above) * LOW), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(1 + rows_above, 2)
    for number, one in enumerate(upper):
        alone = number == len(upper) - 1 and not number % 2
        _plot_sum(figure.add_subplot(grid[number // 2, slice(None) if alone else number % 2]), one)
    _plot_patterns(figure.add_subplot(grid[-1, 0]), patterns, step)
    _plot_mean(figure.add_subplot(grid[-1, 1]), group, patterns)
    return figure


class _Sum(NamedTuple):
    """An image to be drawn, and the group that its axes are in."""

    image: NDArray[Any]
    title: str
    group: h5py.Group
    axes: tuple[str, str]
    """Names of the axes of rows and columns."""


def _sums(entry: h5py.Group, intensity: h5py.Dataset, result: h5py.Group) -> list[_Sum]:
    """Return the sums over the whole pattern and over each range."""
    group = entry.get(SINOGRAM, result)
    rows, columns = (str(name) for name in group.attrs["axes"][:2])
    kind = "Sinogram" if rows == "rotation" else "Map"
    signal = str(group.attrs.get("signal", ""))
    if SINOGRAM not in entry or signal not in group:
        there = np.isfinite(intensity[()]).any(axis=-1)
        sums = np.where(there, np.nansum(intensity[()], axis=-1, dtype=np.float64), np.nan)
        return [_Sum(sums, f"{kind} of the whole pattern", group, (rows, columns))]
    others = [str(name) for name in group.attrs.get("auxiliary_signals", ())]
    titles = {name: f"{kind} of {name}" for name in (signal, *others) if name in group}
    titles[signal] = f"{kind} of the whole pattern"
    return [
        _Sum(np.asarray(group[name][()], np.float64), title, group, (rows, columns))
        for name, title in titles.items()
    ]


def _plot_sum(axes: Axes, one: _Sum) -> None:
    """Plot a small image, linear, over the positions of its rows and columns if these are known."""
    sides = [
        _side(one.group.get(name), name, size)
        for name, size in zip(one.axes, one.image.shape, strict=True)
    ]
    (bottom, top, y), (left, right, x) = sides
    drawn = axes.imshow(
        one.image,
        cmap="inferno",
        interpolation="nearest",
        aspect="auto",
        extent=(left, right, top, bottom),
    )
    assert axes.figure is not None
    label = "intensity" if one.title == "Cross-section" else "summed intensity"
    axes.figure.colorbar(drawn, ax=axes, label=label)
    axes.set(title=one.title, xlabel=x, ylabel=y)
    for axis, label in ((axes.xaxis, x), (axes.yaxis, y)):
        if label.endswith("number"):
            axis.set_major_locator(MaxNLocator(integer=True))


def _side(values: Any, name: str, size: int) -> tuple[float, float, str]:
    """Return where an axis begins and ends, half a step before and after, and its label."""
    if isinstance(values, h5py.Dataset) and values.shape == (size,):
        unit, places = str(values.attrs.get("units", "")), values[()].astype(np.float64)
        if unit and np.isfinite(places).all() and (size == 1 or places[0] != places[-1]):
            step = (places[-1] - places[0]) / (size - 1) if size > 1 else 1.0
            return places[0] - step / 2, places[-1] + step / 2, with_unit(name, unit)
    return -0.5, size - 0.5, f"{name} number"


def _plot_patterns(axes: Axes, patterns: NDArray[np.float64], step: int) -> None:
    """Plot all patterns, one above the other, logarithmic."""
    show_pixels(axes, patterns, patterns.shape, "intensity")
    axes.set_aspect("auto")
    axes.set(xlabel="point of the pattern", ylabel="position number", title="All patterns")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    if step > 1:
        axes.set_title(f"Every {step}th pattern")


def _plot_mean(axes: Axes, group: h5py.Group, patterns: NDArray[np.float64]) -> None:
    """Plot the mean pattern, and between what the patterns lie."""
    names = [str(name) for name in group.attrs["axes"]]
    axis = group[names[-1]]
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
