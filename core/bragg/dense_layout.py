"""What stands beside the images in dense files of Eiger and Lima style, as trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ... import __version__
from .cxi import DataLink
from .instrument import ANGSTROM, Instrument

LIMA_IMAGES = "entry_0000/instrument/detector/data"
EIGER_IMAGES = "entry/data/data"
"""Where the images are."""


@dataclass(frozen=True, eq=False)
class Stack:
    """What all images of a stack have in common."""

    count: int
    """Images that are expected."""
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    mask: NDArray[np.bool_]
    """(rows, columns), True where a pixel is masked."""
    instrument: Instrument = field(default_factory=Instrument)
    start_time: str = ""
    """When the measurement began, ISO 8601; "": not known."""
    process: Mapping[str, Any] = field(default_factory=dict)
    """What made the images: names and values, recorded with them."""
    peaks: bool = False
    """Whether each image comes with a list of its peaks."""


def _root(path: Path, creator: str, default: str) -> dict[str, Any]:
    """Return the attributes of a file's root."""
    return {
        "@NX_class": "NXroot",
        "@default": default,
        "@creator": creator,
        "@file_name": path.name,
        "@file_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "@HDF5_Version": h5py.version.hdf5_version,
    }


def _process(entry: str, stack: Stack) -> dict[str, Any]:
    """Return what made the images."""
    tree = {
        f"{entry}/densify@NX_class": "NXprocess",
        f"{entry}/densify/program": "ronda",
        f"{entry}/densify/version": __version__,
    }
    tree |= {f"{entry}/densify/{name}": value for name, value in stack.process.items()}
    if stack.start_time:
        tree[f"{entry}/start_time"] = stack.start_time
    return tree


def _detector(group: str, instrument: Instrument) -> dict[str, Any]:
    """Return where a detector stood, in a group of class NXdetector."""
    tree: dict[str, Any] = {f"{group}@NX_class": "NXdetector"}
    tree[f"{group}/description"] = instrument.name
    for name in ("distance", "x_pixel_size", "y_pixel_size", "beam_center_x", "beam_center_y"):
        if (value := getattr(instrument, name)) is not None:
            tree[f"{group}/{name}"] = np.float64(value)
            tree[f"{group}/{name}@units"] = "pixel" if name.startswith("beam") else "m"
    return tree


def lima_tree(stack: Stack, count: int, path: Path) -> dict[str, Any]:
    """Return what a Lima file holds beside its images, as LimaCCDs names it."""
    entry = "entry_0000"
    detector = f"{entry}/instrument/detector"
    rows, columns = stack.shape
    size = {"xsize": np.int32(columns), "ysize": np.int32(rows)}
    groups: dict[str, dict[str, Any]] = {
        f"{detector}/detector_information/max_image_size": size,
        f"{detector}/image_operation/dimension": size,
        f"{detector}/image_operation/region_of_interest": {
            "xstart": np.int32(0),
            "ystart": np.int32(0),
            **size,
        },
        f"{detector}/image_operation/binning": {"x": np.int32(1), "y": np.int32(1)},
        f"{detector}/image_operation/flipping": {"x": np.uint8(0), "y": np.uint8(0)},
    }
    tree = {f"{group}/{name}": value for group, of in groups.items() for name, value in of.items()}
    for group in (f"{entry}/measurement", f"{detector}/acquisition", *groups, *_above(groups)):
        tree[f"{group}@NX_class"] = "NXcollection"
    bits = 8 * stack.dtype.itemsize
    tree |= _root(path, f"LIMA layout, written by Ronda {__version__}", entry)
    tree |= _detector(detector, stack.instrument) | _process(entry, stack)
    tree |= {
        f"{entry}@NX_class": "NXentry",
        f"{entry}@default": "instrument/detector/plot",
        f"{entry}/title": "Lima 2D detector acquisition",
        f"{entry}/instrument@NX_class": "NXinstrument",
        f"{entry}/measurement/data>": LIMA_IMAGES,
        f"{detector}/plot@NX_class": "NXdata",
        f"{detector}/plot@signal": "data",
        f"{detector}/plot/data>": LIMA_IMAGES,
        f"{detector}/acquisition/nb_frames": np.int32(count),
        f"{detector}/detector_information/image_lima_type": (
            f"Bpp{bits}{'F' if stack.dtype.kind == 'f' else 'S' * (stack.dtype.kind == 'i')}"
        ),
        f"{detector}/image_operation/rotation": "Rotation_0",
    }
    wavelength = stack.instrument.wavelength
    return tree | (_beam(f"{entry}/instrument", wavelength) if wavelength else {})


def _above(groups: Iterable[str]) -> set[str]:
    return {group.rpartition("/")[0] for group in groups}


def _beam(instrument: str, wavelength: float) -> dict[str, Any]:
    return {
        f"{instrument}/beam@NX_class": "NXbeam",
        f"{instrument}/beam/incident_wavelength": np.float64(wavelength / ANGSTROM),
        f"{instrument}/beam/incident_wavelength@units": "angstrom",
    }


def eiger_data_tree(path: Path) -> dict[str, Any]:
    """Return what a data file holds beside its images."""
    return _root(path, f"Ronda {__version__}", "entry") | {
        "entry@NX_class": "NXentry",
        "entry@default": "data",
        "entry/data@NX_class": "NXdata",
        "entry/data@signal": "data",
    }


def master_tree(stack: Stack, count: int, links: Sequence[DataLink], path: Path) -> dict[str, Any]:
    """Return what a master file holds, but for the mask."""
    detector = "entry/instrument/detector"
    specific, bits = f"{detector}/detectorSpecific", np.uint32(8 * stack.dtype.itemsize)
    tree = _root(path, f"Ronda {__version__}", "entry")
    tree |= _detector(detector, stack.instrument) | _process("entry", stack)
    tree |= {
        "entry@NX_class": "NXentry",
        "entry@default": "data",
        "entry/definition": "NXmx",
        "entry/definition@version": "1.0",
        "entry/data@NX_class": "NXdata",
        "entry/data@signal": "data_000001",
        "entry/sample@NX_class": "NXsample",
        "entry/sample/depends_on": ".",
        "entry/instrument@NX_class": "NXinstrument",
        f"{detector}/bit_depth_image": bits,
        f"{detector}/bit_depth_readout": bits,
        f"{detector}/pixel_mask_applied": np.int32(1),
        f"{specific}@NX_class": "NXcollection",
        f"{specific}/nimages": np.uint32(count),
        f"{specific}/ntrigger": np.uint32(1),
        f"{specific}/x_pixels_in_detector": np.uint32(stack.shape[1]),
        f"{specific}/y_pixels_in_detector": np.uint32(stack.shape[0]),
    }
    for number, link in enumerate(links, 1):
        tree[f"entry/data/data_{number:06d}>"] = f"{link.file.name}::{link.dataset}"
    wavelength = stack.instrument.wavelength
    tree |= _beam("entry/instrument", wavelength) if wavelength else {}
    return tree | _module(detector, stack)


def _module(detector: str, stack: Stack) -> dict[str, Any]:
    """Return where the pixels lie, as NXmx has it; nothing if that is not known."""
    plane = stack.instrument.plane
    if plane is None:
        return {}
    distance, along_z = plane.distance, np.array([0.0, 0, 1])
    width, height = float(np.linalg.norm(plane.fast)), float(np.linalg.norm(plane.slow))
    module, away = f"{detector}/module", f"{detector}/transformations/translation"
    values = {
        away: (distance, along_z, "."),
        f"{module}/module_offset": (0.0, along_z, f"/{away}"),
        f"{module}/fast_pixel_direction": (width, plane.fast / width, f"/{module}/module_offset"),
        f"{module}/slow_pixel_direction": (height, plane.slow / height, f"/{module}/module_offset"),
    }
    tree: dict[str, Any] = {
        f"{detector}/depends_on": f"/{away}",
        f"{detector}/transformations@NX_class": "NXtransformations",
        f"{module}@NX_class": "NXdetector_module",
        f"{module}/data_origin": np.zeros(2, np.int32),
        f"{module}/data_size": np.array(stack.shape, np.int32),
    }
    for name, (value, vector, depends_on) in values.items():
        tree |= {
            name: np.float64(value),
            f"{name}@units": "m",
            f"{name}@transformation_type": "translation",
            f"{name}@vector": vector,
            f"{name}@offset": np.zeros(3),
            f"{name}@offset_units": "m",
            f"{name}@depends_on": depends_on,
        }
    tree[f"{module}/module_offset@offset"] = plane.corner - distance * along_z
    return tree
