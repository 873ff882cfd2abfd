"""Where the detector of a sparse file stood, as pyFAI records it in NeXus groups."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ANGSTROM = 1e-10
LENGTHS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "angstrom": ANGSTROM, "Å": ANGSTROM, "A": ANGSTROM}
"""Units of lengths, in m."""
CONFIGURATION = "sparsify/configuration/data"
"""JSON text of how a sparse file was made; its `geometry` is a PONI file's."""
MOST_TEXT = 1 << 20
"""Longest such text that is read."""


@dataclass(frozen=True, eq=False, slots=True)
class Plane:
    """Where the pixels lie, in m: z along the beam, y up, x to the left as the sample sees it.

    These are the axes of CrystFEL, of CXI and (McStas) of NeXus, from the sample.
    """

    corner: Floats
    """The first pixel's outer corner, (3,)."""
    fast: Floats
    """From one column to the next, (3,)."""
    slow: Floats
    """From one row to the next, (3,)."""

    @property
    def distance(self) -> float:
        """How far from the sample the beam meets it; if it never does, the corner's z."""
        normal = np.cross(self.fast, self.slow)
        if abs(normal[2]) <= 1e-9 * float(np.linalg.norm(normal)):
            return float(self.corner[2])
        return float(self.corner @ normal / normal[2])


@dataclass(frozen=True, slots=True)
class Instrument:
    """Where the detector stood; None where it is not known."""

    name: str = "detector"
    distance: float | None = None
    """From the sample, in m."""
    x_pixel_size: float | None = None
    y_pixel_size: float | None = None
    """In m."""
    beam_center_x: float | None = None
    beam_center_y: float | None = None
    """Where the beam would hit, in px from the first pixel's outer corner."""
    wavelength: float | None = None
    """In m."""
    tilted: Plane | None = None
    """Where exactly it stood; None: only what is said above is known."""

    @property
    def plane(self) -> Plane | None:
        """Where the pixels lie; None if that is not known.

        Unless `tilted` tells: upright on the beam and, as the sample sees it, with the
        first pixel at the top left, as NeXus and DECTRIS have it.
        """
        if self.tilted is not None:
            return self.tilted
        width, height, z = self.x_pixel_size, self.y_pixel_size, self.distance
        x, y = self.beam_center_x, self.beam_center_y
        if x is None or y is None or z is None or width is None or height is None:
            return None
        corner = np.array([x * width, y * height, z])
        return Plane(corner, np.array([-width, 0.0, 0.0]), np.array([0.0, -height, 0.0]))


def read_instrument(entry: h5py.Group, shape: tuple[int, int]) -> Instrument:
    """Return where the detector stood, as far as the file tells it.

    Parameters
    ----------
    shape
        (rows, columns) of the images.
    """
    found: dict[str, Any] = {}
    for instrument in _children(entry, "NXinstrument"):
        for detector in _children(instrument, "NXdetector"):
            if (distance := _positive(_length(detector, "distance", "m"))) is None:
                continue  # Ronda's own one, which says how the frames came
            found |= {"name": Path(detector.name).name, "distance": distance}
            for name in ("x_pixel_size", "y_pixel_size"):
                found[name] = _positive(_length(detector, name, "m"))
            for name in ("beam_center_x", "beam_center_y"):
                found[name] = stored_number(detector, name)
        for monochromator in _children(instrument, "NXmonochromator"):
            found["wavelength"] = _positive(_length(monochromator, "wavelength", "angstrom"))
    size = found.get("y_pixel_size"), found.get("x_pixel_size")
    if None not in size and (geometry := _configured_geometry(entry)):
        found["tilted"] = _plane(geometry, shape, size)
    return Instrument(**found)


def _configured_geometry(entry: h5py.Group) -> Mapping[str, Any]:
    """Return the `geometry` of the text that tells how the file was made; empty if none."""
    stored = entry.get(CONFIGURATION)
    if not isinstance(stored, h5py.Dataset) or stored.shape != () or stored.dtype.kind not in "OS":
        return {}
    text = attribute_text(stored[()])
    if not text or len(text) > MOST_TEXT:
        return {}
    try:
        geometry = json.loads(text)["geometry"]
        # Ronda has what was set beside it, pyFAI has it alone.
        geometry = geometry.get("geometry", geometry)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}
    return geometry if isinstance(geometry, dict) else {}


def _plane(geometry: Mapping[str, Any], shape: tuple[int, int], size: Any) -> Plane | None:
    """Return where pixels lie by pyFAI's terms; None if they do not tell.

    pyFAI counts axis 1 upwards, axis 2 to the right as the sample sees it, axis 3 along
    the beam, and turns the detector about 1, 2 and 3 in this order (left, left, right;
    `rotation_matrix` in pyFAI/geometry/core.py). Its orientations 1, 2 and 4 say in which
    corner the first pixel is, and are believed. 3 is what stands where nobody chose one:
    it would be at the bottom left, but detectors store the top left first (pyFAI's own
    note on those of DECTRIS). So axis 1, with all turns, is taken to run downwards there.

    Parameters
    ----------
    size
        Of a pixel (y, x), in m.
    """
    names = ("dist", "poni1", "poni2", "rot1", "rot2", "rot3")
    try:
        distance, poni_1, poni_2, *angles = (float(geometry[name]) for name in names)
        orientation = int(geometry.get("detector_config", {}).get("orientation", 3))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    if not all(map(math.isfinite, (distance, poni_1, poni_2, *angles))) or distance <= 0:
        return None
    if orientation not in (1, 2, 3, 4):
        return None
    (rows, columns), (height, width) = shape, size
    # Orientations 1 and 2 count rows, 1 and 4 columns from the other side.
    first_1, step_1 = (rows * height, -height) if orientation in (1, 2) else (0.0, height)
    first_2, step_2 = (columns * width, -width) if orientation in (1, 4) else (0.0, width)
    turned = _rotation(*angles)
    upwards = -1.0 if orientation == 3 else 1.0
    # x is against axis 2, y along axis 1, z along axis 3.
    turned = np.array([-turned[1], upwards * turned[0], turned[2]])
    corner = turned @ np.array([first_1 - poni_1, first_2 - poni_2, distance])
    return Plane(corner, turned[:, 1] * step_2, turned[:, 0] * step_1)


def _rotation(rot1: float, rot2: float, rot3: float) -> Floats:
    """Return pyFAI's rotation of the detector, in rad, from its axes (1, 2, 3) to the sample's."""
    (cos1, cos2, cos3), (sin1, sin2, sin3) = (
        [turn(angle) for angle in (rot1, rot2, rot3)] for turn in (math.cos, math.sin)
    )
    about_1 = np.array([[1, 0, 0], [0, cos1, sin1], [0, -sin1, cos1]])
    about_2 = np.array([[cos2, 0, -sin2], [0, 1, 0], [sin2, 0, cos2]])
    about_3 = np.array([[cos3, -sin3, 0], [sin3, cos3, 0], [0, 0, 1]])
    rotation: Floats = about_3 @ about_2 @ about_1
    return rotation


def _children(group: h5py.Group, nx_class: str) -> Iterator[h5py.Group]:
    """Yield the groups of a NeXus class in a group; broken links are passed over."""
    for name in group:
        child = group.get(name)
        if not isinstance(child, h5py.Group):
            continue
        if attribute_text(child.attrs.get("NX_class")) == nx_class:
            yield child


def stored_number(group: h5py.Group, name: str) -> float | None:
    """Return a stored number; None if there is none or it is not finite."""
    found = group.get(name)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "uif" or found.size != 1:
        return None
    value = found[()].item()
    return value if math.isfinite(value) else None


def _length(group: h5py.Group, name: str, unit: str) -> float | None:
    """Return a stored length in m; `unit` is what it is in if the file does not say."""
    value = stored_number(group, name)
    if value is None:
        return None
    stored = attribute_text(group[name].attrs.get("units"))
    return float(value * LENGTHS.get(stored, LENGTHS[unit]))


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def attribute_text(value: Any) -> str:
    """Return an attribute's text, "" if it is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
