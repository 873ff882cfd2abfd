"""Where the detector of a sparse file stood, as pyFAI records it in NeXus groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

ANGSTROM = 1e-10
LENGTHS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "angstrom": ANGSTROM, "Å": ANGSTROM, "A": ANGSTROM}
"""Units of lengths, in m."""


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


def read_instrument(entry: h5py.Group) -> Instrument:
    """Return where the detector stood, as far as the file tells it."""
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
    return Instrument(**found)


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
