"""PONI files: pyFAI's text form of a detector's place, read without evaluating anything.

What is refused is named, never shown: any file can be called a PONI file.

The format is described in pyFAI's `pyFAI/io/ponifile.py`: `Key: value` lines, `#`
for comments, the last line of a key counts. Version 1 names the pixel size in
lines of their own, versions 2, 2.1 and 3 in a JSON line `Detector_config`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 65536
"""A PONI file is some hundred bytes; more than this is something else."""
WRITTEN_BY = "# Written by Ronda"
"""How the files begin that are written here."""
NEWEST_VERSION = 3.0
AS_STORED = 3
"""pyFAI's number for pixels counted from the first stored one, as everywhere here."""


@dataclass(frozen=True, slots=True)
class Poni:
    """Where a flat detector stands, in pyFAI's terms.

    Axis 1 runs along the rows' number, axis 2 along the columns', both from the
    outer corner of the first pixel; the point of normal incidence (PONI) is the
    foot of the perpendicular from the sample on the detector.
    """

    distance: float
    """Length of the perpendicular in m."""
    poni1: float
    """In m."""
    poni2: float
    """In m."""
    rot1: float
    """In rad."""
    rot2: float
    """In rad."""
    rot3: float
    """In rad."""
    wavelength: float
    """In m; NaN where the file does not tell (`any_place` only)."""
    pixel_size: float
    """Side of a square pixel in m."""
    shape: tuple[int, int] | None = None
    """(rows, columns) of the detector, where the file tells."""
    detector: str = "Detector"
    """Name of the detector in pyFAI's table, where the file tells."""
    orientation: int = AS_STORED
    """pyFAI's number (1 to 4) for the corner from which pixels are counted."""


def read_poni(source: str | Path, *, any_place: bool = False) -> Poni:
    """Return what a PONI file says.

    Parameters
    ----------
    source
        Path of the file, or its text (a `str` of several lines).
    any_place
        Take also what `Geometry` cannot describe: no wavelength, another orientation.

    Raises
    ------
    ValueError
        In one sentence, if it cannot be read or says something that cannot be
        had here: pixels that are not square; no wavelength, another orientation.
    """
    is_text = isinstance(source, str) and "\n" in source
    name = "PONI text" if is_text else f"PONI file {source}"
    try:
        return _parse(str(source) if is_text else _load(Path(source)), any_place)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def format_poni(poni: Poni, shape: tuple[int, int] | None) -> str:
    """Return the text of a PONI file of version 2.1.

    Parameters
    ----------
    poni
        The geometry.
    shape
        (rows, columns) of the frames; None: not known.
    """
    detector = {
        "pixel1": poni.pixel_size,
        "pixel2": poni.pixel_size,
        "max_shape": None if shape is None else [int(side) for side in shape],
        "orientation": AS_STORED,
    }
    lines = [
        f"{WRITTEN_BY}. 1 is the axis of the rows (y), 2 that of the columns (x)",
        "poni_version: 2.1",
        "Detector: Detector",
        f"Detector_config: {json.dumps(detector)}",
        f"Distance: {poni.distance!r}",
        f"Poni1: {poni.poni1!r}",
        f"Poni2: {poni.poni2!r}",
        f"Rot1: {poni.rot1!r}",
        f"Rot2: {poni.rot2!r}",
        f"Rot3: {poni.rot3!r}",
        f"Wavelength: {poni.wavelength!r}",
    ]
    return "\n".join(lines) + "\n"


def _load(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ValueError(f"is no PONI file: it is longer than {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is no PONI file: it is not text") from None


def _parse(text: str, any_place: bool) -> Poni:
    entries = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not key.lstrip().startswith("#"):
            entries[key.strip().lower()] = value.strip()
    version = _number(entries, "poni_version", default=1.0)
    if version > NEWEST_VERSION:
        raise ValueError(f"is of version {version:g}; known are 1 to {NEWEST_VERSION:g}")
    if entries.get("parallax", "false").lower() == "true":
        raise ValueError("asks for the parallax correction, which is not available here")
    pixel_size, shape, orientation = _detector(entries)
    if orientation != AS_STORED and not any_place:
        raise ValueError(
            f"is for another orientation of the detector than {AS_STORED} (pixels counted as they "
            "are stored), which alone can be had here"
        )
    distance = _number(entries, "distance")
    wavelength = _number(entries, "wavelength", default=math.nan if any_place else None)
    for name, length in (("Distance", distance), ("Wavelength", wavelength)):
        if length <= 0:  # NaN, where there is none, is not
            raise ValueError(f"has a {name} of {length:g} m; it must be positive")
    return Poni(
        distance=distance,
        poni1=_number(entries, "poni1"),
        poni2=_number(entries, "poni2"),
        rot1=_number(entries, "rot1"),
        rot2=_number(entries, "rot2"),
        rot3=_number(entries, "rot3"),
        wavelength=wavelength,
        pixel_size=pixel_size,
        shape=shape,
        detector=entries.get("detector", "Detector"),
        orientation=orientation,
    )


def _number(entries: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return the number in a line, refusing everything that is none."""
    name = key.capitalize()
    if key not in entries:
        if default is None:
            raise ValueError(f"has no line `{name}: ...`")
        return default
    try:
        value = float(entries[key])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"has a {name} which is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"has a {name} which is not finite")
    return value


def _detector(entries: Mapping[str, str]) -> tuple[float, tuple[int, int] | None, int]:
    """Return the pixel size in m, the shape and the orientation, from the lines of any version."""
    if entries.get("splinefile", "none").lower() not in ("none", ""):
        raise ValueError("names a spline file of distortion, which is not available here")
    if "detector_config" in entries:
        return _configured(entries.get("detector", "Detector"), entries["detector_config"])
    if "pixelsize1" in entries or "pixelsize2" in entries:
        pixel_size = _square(_number(entries, "pixelsize1"), _number(entries, "pixelsize2"))
        return pixel_size, None, AS_STORED
    return *_registered(entries.get("detector", "Detector")), AS_STORED


def _configured(name: str, text: str) -> tuple[float, tuple[int, int] | None, int]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError("has a Detector_config that is no JSON object")
    orientation = config.get("orientation") or AS_STORED
    if type(orientation) is not int or not 1 <= orientation <= 4:
        raise ValueError("has an orientation of the detector that is none of 1 to 4")
    for key, value in config.items():
        if "file" in key.lower() and value is not None:
            raise ValueError("names a file for the detector, which is not available here")
    if "pixel1" not in config and "pixel2" not in config:
        return *_registered(name), orientation
    shape = config.get("max_shape")
    if shape is not None and not _is_shape(shape):
        raise ValueError("has a max_shape which is not [rows, columns]")
    pixel_size = _square(_number(config, "pixel1"), _number(config, "pixel2"))
    return pixel_size, None if shape is None else (shape[0], shape[1]), orientation


def _is_shape(shape: object) -> bool:
    sides = shape if isinstance(shape, list) else []
    return len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)


def _registered(name: str) -> tuple[float, tuple[int, int] | None]:
    """Return what pyFAI's table knows of a detector; its files are never opened."""
    from pyFAI.detectors import ALL_DETECTORS

    kind = ALL_DETECTORS.get(name.lower())
    if name.lower() == "detector" or kind is None:
        raise ValueError("says no pixel size, and its Detector is not known")
    detector = kind()
    if not (kind.IS_FLAT and kind.uniform_pixel) or detector.pixel1 is None:
        raise ValueError(f"is for {name}, whose pixels are not all alike on a plane")
    shape = detector.max_shape
    return _square(detector.pixel1, detector.pixel2), (int(shape[0]), int(shape[1]))


def _square(pixel1: float, pixel2: float) -> float:
    if pixel1 <= 0 or pixel2 <= 0:
        raise ValueError(f"has pixels of {pixel1:g} m x {pixel2:g} m; they must be positive")
    if not math.isclose(pixel1, pixel2, rel_tol=1e-9):
        raise ValueError(
            f"has pixels of {pixel1:g} m x {pixel2:g} m; only square pixels can be had here"
        )
    return pixel1
