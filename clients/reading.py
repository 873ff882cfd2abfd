"""What is in a file that Ronda wrote, or in any NeXus file, read to be shown.

The names are those of the files' reference: /entry/accumulated, /entry/azimuthal,
/entry/rois, /entry/geometry/poni, /entry/process/parameters, and of photons
/entry/photons, /entry/histogram, /entry/detection. A file may still be in the making:
its tables grow, and its ROIs stand in numbered slots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters that files may be compressed with)
import numpy as np
from numpy.typing import NDArray

from ..core.azimuthal.integration import Pattern
from ..core.geometry import Geometry

Rings = Mapping[float, NDArray[np.float64]]
"""Lines on the image by their q in 1/angstrom: points [row, column] in px, NaN between pieces."""
Rectangle = tuple[float, float, float, float]
"""x, y, width, height in px."""
Rectangles = Mapping[str, Rectangle]
"""ROIs by name."""


@dataclass(frozen=True)
class Accumulated:
    """A sum of frames [row, column], and what is marked on it."""

    total: NDArray[Any]
    valid_count: NDArray[Any] | None
    """Frames that each pixel counted in; None: all."""
    frames: int
    unit: str = ""
    rings: Rings = field(default_factory=dict)
    rois: Rectangles = field(default_factory=dict)
    analysis: Rectangle | None = None
    """Where photons were looked for, if it is the sum of their clean images."""

    @property
    def valid(self) -> NDArray[np.float64]:
        """The sum, NaN in pixels that never were valid."""
        total = np.asarray(self.total, float)
        valid = np.isfinite(total)
        if self.valid_count is not None:
            valid &= self.valid_count > 0
        return np.where(valid, total, np.nan)


@dataclass(frozen=True)
class Curve:
    """The mean of one ROI against x."""

    name: str
    x: NDArray[Any]
    mean: NDArray[Any]
    error: NDArray[Any] | None = None
    """Standard error of each mean, where it is one of several frames."""
    x_label: str = "x"
    unit: str = ""


@dataclass(frozen=True)
class Histogram:
    """Energies of all photon candidates, and the cuts that divide them; None: not known."""

    energy: NDArray[np.float64]
    """Middle of each bin."""
    counts: NDArray[Any]
    least: float | None = None
    """photon_sum_min: from here on a candidate is a photon."""
    view: float | None = None
    """view_sum_min: from here on a photon is in the clean image."""
    most: float | None = None
    """photon_sum_max: above it there are two photons or more."""
    unit: str = "counts"


@dataclass(frozen=True)
class Photons:
    """The photons that were found, and in what they were looked for."""

    frame: NDArray[Any]
    y: NDArray[Any]
    """Centre of gravity in px, as x; the centre of pixel (r, c) is at (r, c)."""
    x: NDArray[Any]
    energy: NDArray[Any]
    flag: NDArray[Any]
    """Bits as in `core.images.photons`."""
    analysis: Rectangle | None = None
    """None: the whole frame."""
    frames: NDArray[Any] | None = None
    """Numbers of the frames; None: all."""


@dataclass(frozen=True)
class Plot:
    """The default plot of a NeXus file: a line, or the newest image of a stack."""

    label: str
    values: NDArray[Any]
    axis: NDArray[Any] | None = None
    axis_label: str = "index"


def open_file(path: Path) -> h5py.File:
    """Open a file to read, also one that is being written.

    Raises
    ------
    ValueError
        In one sentence, if it cannot be opened.
    """
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except OSError:
        pass  # it may be open for writing
    try:
        return h5py.File(path, "r", swmr=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}") from None


def read_accumulated(file: h5py.File) -> Accumulated | None:
    """Return the accumulated image with its rings and ROIs, or None if there is none."""
    group = _group(file, "entry/accumulated")
    if group is None or not isinstance(total := group.get("sum"), h5py.Dataset) or total.ndim != 2:
        return None
    analysis = _read_analysis(file)
    counted = analysis is not None and _parameter(file, "clean_image") != "energy"
    return Accumulated(
        total=total[()],
        valid_count=group["valid_count"][()] if "valid_count" in group else None,
        frames=int(group.attrs.get("frames", 0)),
        unit=_attribute(total, "units") or ("photons" if counted else ""),
        rings=_read_rings(file, total.shape),
        rois=_read_rectangles(file),
        analysis=analysis,
    )


def read_pattern(file: h5py.File) -> Pattern | None:
    """Return the azimuthal pattern, or None if there is none with a value."""
    group = _group(file, "entry/azimuthal")
    names = ("q", "intensity", "sigma")
    if group is None or not all(name in group for name in names):
        return None
    q, intensity, sigma = (np.asarray(group[name], float) for name in names)
    return Pattern(q, intensity, sigma) if np.isfinite(intensity).any() else None


def read_curves(file: h5py.File) -> list[Curve]:
    """Return the ROIs' means: of motor steps where they are, of frames otherwise."""
    rois = _group(file, "entry/rois")
    if rois is None:
        return []
    places = {name: name for name in rois if not name.startswith("slot_")}
    if "names" in rois:  # while the file is written, slots are not linked under their names
        texts = rois["names"].asstr()[()]
        places |= {name: f"slot_{n:02d}" for n, name in enumerate(texts) if name}
    groups = {name: _group(rois, place) for name, place in places.items()}
    curves = [_read_curve(name, group) for name, group in groups.items() if group]
    return [curve for curve in curves if curve is not None]


def read_histogram(file: h5py.File) -> Histogram | None:
    """Return the energy histogram of the photon candidates, or None if there is none."""
    group = _group(file, "entry/histogram")
    columns = _columns(group, ("energy", "counts"))
    if group is None or columns is None or len(columns[0]) != len(columns[1]):
        return None
    energy, counts = columns[0].astype(float), columns[1]
    if len(energy) < 2 or not (np.diff(energy) > 0).all():
        return None
    return Histogram(
        energy,
        counts,
        least=_number(_parameter(file, "photon_sum_min")),
        view=_number(_parameter(file, "view_sum_min")),
        most=_number(_parameter(file, "photon_sum_max")),
        unit=_attribute(group["energy"], "units") or "counts",
    )


def read_photons(file: h5py.File) -> Photons | None:
    """Return the photons that were found, or None if none were looked for."""
    names = ("frame", "y", "x", "energy", "flag")
    columns = _columns(_group(file, "entry/photons"), names)
    if columns is None:
        return None
    rows = min(map(len, columns))  # a column may have grown since another was read
    looked = _columns(_group(file, "entry/detection"), ("frame", "photons_per_frame"))
    frames = None
    if looked is not None:
        both = min(map(len, looked))
        frames = looked[0][:both][looked[1][:both] >= 0]  # -1: too many hits to look for any
    table = {name: column[:rows] for name, column in zip(names, columns, strict=True)}
    return Photons(**table, analysis=_read_analysis(file), frames=frames)


def read_default(file: h5py.File) -> Plot | None:
    """Return the plot that a NeXus file names as its default, or None.

    The chain of `default` attributes is followed from the root to the group with
    a `signal` (NeXus manual, "Find the plottable data").
    """
    group = file
    for _ in range(8):
        following = _group(group, _attribute(group, "default") or "?")
        if following is None:
            break
        group = following
    name = _attribute(group, "signal")
    signal = group.get(name or "?")
    if not isinstance(signal, h5py.Dataset) or not signal.ndim or not signal.size:
        return None
    label = with_unit(_attribute(signal, "long_name") or name, _attribute(signal, "units"))
    if signal.ndim > 1:
        newest = (*(length - 1 for length in signal.shape[:-2]), ...)
        return Plot(label, np.asarray(signal[newest], float))
    axis_name = _text(np.ravel(group.attrs.get("axes", ""))[0])
    axis = group.get(axis_name or "?")
    if not isinstance(axis, h5py.Dataset) or axis.shape != signal.shape:
        return Plot(label, signal[()])
    return Plot(label, signal[()], axis[()], with_unit(axis_name, _attribute(axis, "units")))


def with_unit(text: str, unit: str) -> str:
    """Return a label with its unit in brackets."""
    return f"{text} ({unit})" if unit else text


def _read_curve(name: str, group: h5py.Group) -> Curve | None:
    steps = _group(group, "steps")
    table = steps if steps and "mean" in steps and len(steps["mean"]) else group
    if "mean" not in table:
        return None
    mean = np.asarray(table["mean"], float)
    x, label = np.arange(len(mean), dtype=float), "frame"
    for axis in ("x", "frame", "point"):
        if axis in table and np.isfinite(values := np.asarray(table[axis], float)).any():
            x, label = values, _attribute(table[axis], "long_name") or axis
            break
    error = np.asarray(table["error"], float) if "error" in table else None
    rows = min(len(mean), len(x))  # a table may have grown since the other was read
    unit = _attribute(table["mean"], "units")
    error = None if error is None else error[:rows]
    return Curve(name, x[:rows], mean[:rows], error, label, unit) if rows else None


def _read_rings(file: h5py.File, shape: tuple[int, int]) -> Rings:
    """Return the rings that the file's parameters ask for; none without a geometry."""
    poni, wanted = file.get("entry/geometry/poni"), file.get("entry/process/parameters/q_rings")
    if not isinstance(poni, h5py.Dataset) or not isinstance(wanted, h5py.Dataset):
        return {}
    try:
        values = [float(q) for q in np.ravel(wanted[()])]
        rings = Geometry.from_poni(_text(poni[()]) + "\n").rings(values, shape)
    except (TypeError, ValueError):
        return {}
    return dict(zip(values, rings, strict=True))


def _read_rectangles(file: h5py.File) -> Rectangles:
    """Return the newest of the sets of ROIs that the file tells of."""
    versions = file.get("entry/rois/versions")
    if not isinstance(versions, h5py.Dataset):
        return {}
    sides = ("x", "y", "width", "height")
    try:
        sets = json.loads(_text(versions[()]))
        newest = sets[max(sets, key=int)]
        found = {name: [float(roi[side]) for side in sides] for name, roi in newest.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {name: (x, y, width, height) for name, (x, y, width, height) in found.items()}


def _read_analysis(file: h5py.File) -> Rectangle | None:
    """Return where photons were looked for, or None if they were not."""
    if "" in (_parameter(file, "photon_sum_min"), _parameter(file, "hit_threshold")):
        return None
    try:
        x, y, width, height = map(int, (_parameter(file, "analysis_roi") or "").split(","))
    except ValueError:
        return None
    return x, y, width, height


def _parameter(file: h5py.File, name: str) -> str | None:
    """Return the text of a parameter; empty if it was not set, None if it is not there."""
    found = file.get(f"entry/process/parameters/{name}")
    return _text(found[()]) if isinstance(found, h5py.Dataset) else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _group(parent: h5py.Group, path: str) -> h5py.Group | None:
    found = parent.get(path)
    return found if isinstance(found, h5py.Group) else None


def _columns(group: h5py.Group | None, names: Sequence[str]) -> list[NDArray[Any]] | None:
    """Return the columns of a table, or None if it has not all of them."""
    found = [group.get(name) for name in names] if group else []
    columns = [item[()] for item in found if isinstance(item, h5py.Dataset) and item.ndim == 1]
    return columns if len(columns) == len(names) else None


def _attribute(item: h5py.Group | h5py.Dataset, name: str) -> str:
    return _text(item.attrs.get(name, ""))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
