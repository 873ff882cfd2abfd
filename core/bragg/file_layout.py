"""How sparse frames stand in a file: pyFAI's layout, which fabio's densify reads.

Source: `pyFAI/io/sparse_frame.py` and `fabio/sparseimage.py` for the names. What is added:
`frames` (numbers, times and counts of each frame) and `dark`: kept pixels are as they
were recorded, the background is what stands over the dark, so whole frames need it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ..azimuthal.experiment import Experiment
from ..azimuthal.rings import Rings
from ..frame import BadFrame, Series
from ..marks import as_pixels, marks
from ..sources.files import HDF5_SUFFIXES, SOURCE_FILES
from ..stage import Kind, Output, Record, Row, Tree
from .parameters import BraggParameters
from .peaks import Peaks

ENTRY = "entry_0000"
SPARSE = "sparse_frames"
CREATOR = f"pyFAI-compatible Ronda {__version__}"
"""fabio takes a file for one of sparse frames only if this begins with pyFAI."""
MOST_LINKS = 1000
"""Most source files that are linked."""
RADIUS_BITS, NORMALIZATION_BITS = 10, 16
"""Radii are rounded to this part (2^-n) of a ring, normalizations to this part of 1.

Their last bits are noise to a compressor (an Eiger 4M's radii: 10.9 MB with bslz4 as
they are, 5.7 MB so). Frames were reduced with the exact ones.
"""
SCRIPT = """# Makes dense frames of this file
import fabio
frames = [frame.data for frame in fabio.open({name!r})]
"""


def _frame_column(name: str, dtype: Any, doc: str, unit: str = "") -> Output:
    """Declare a number of each frame."""
    return Output(
        f"frames_{name}",
        Kind.SPECTRUM,
        dtype,
        unit,
        doc=doc,
        axes=("frame",),
        path=f"frames/{name}",
        record=Record.FRAME,
        live=False,
    )


def _sparse(name: str, record: Record, dtype: Any, doc: str) -> Output:
    """Declare a table of the sparse frames; a row of a frame's table is over the rings."""
    return Output(
        f"sparse_{name}",
        Kind.SPECTRUM,
        dtype,
        doc=doc,
        path=f"{SPARSE}/{name}",
        record=record,
        live=False,
        compressed=record is not Record.POINTER,
    )


def _peak(name: str, doc: str, unit: str = "") -> Output:
    """Declare a table of the frames' peaks, under the name that CXI has for it."""
    return Output(
        f"peaks_{name}",
        Kind.SPECTRUM,
        np.float32,
        unit,
        doc=doc,
        path=f"peaks/{name}",
        record=Record.FRAME,
        live=False,
        compressed=True,
        optional=True,
    )


FILE_OUTPUTS = (
    _sparse("frame_ptr", Record.POINTER, np.uint64, "Where each frame's pixels end."),
    _sparse("index", Record.EVENTS, np.uint32, "Kept pixels, counted row after row."),
    _sparse("intensity", Record.EVENTS, None, "What the detector counted in them."),
    _sparse("background_avg", Record.FRAME, np.float32, "Mean of the background on each ring."),
    _sparse("background_std", Record.FRAME, np.float32, "Its deviation from pixel to pixel."),
    _sparse(
        "background_fill",
        Record.FRAME,
        np.float32,
        "Mean of the pixels that are not kept, on each ring.",
    ),
    _frame_column("number", np.int64, "The detector's number of each frame."),
    _frame_column("time", np.float64, "Unix time of each frame.", "s"),
    _frame_column("kept", np.int64, "Pixels kept of each frame."),
    Output(
        "peaks_count",
        Kind.SPECTRUM,
        np.int32,
        doc="Peaks of each frame.",
        path="peaks/nPeaks",
        record=Record.FRAME,
        live=False,
        optional=True,
    ),
    _peak("peakTotalIntensity", "Counts of each peak over the background; 0 beyond nPeaks."),
    _peak("peakXPosRaw", "Column of each peak; pixel centres are whole.", "px"),
    _peak("peakYPosRaw", "Row of each peak.", "px"),
    _peak("peakSNR", "Intensity of each peak in its errors."),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "": {"default": SPARSE, "pyFAI_sparse_frames": f"/{ENTRY}/{SPARSE}"},
    SPARSE: {
        "NX_class": "NXdata",
        "signal": "background_avg",
        "axes": [".", "radius"],
        "title": "Background of sparse frames",
    },
    "frames": {"NX_class": "NXdata", "signal": "kept", "axes": "number"},
}


class Constants(NamedTuple):
    """What a file says once for all of its frames."""

    parameters: BraggParameters
    rings: Rings
    dtype: np.dtype[Any]
    """Of the pixels."""

    def check_same(self, other: Constants) -> None:
        """Object to a frame that cannot be in this file.

        A stage refuses such parameters within a series. They still come if they were set
        before its first frame was reduced, or if a PONI or mask file was replaced.

        Raises
        ------
        BadFrame
            In one sentence, if anything differs.
        """
        names = self.parameters.other_file(other.parameters)
        shape, ours = other.rings.experiment.shape, self.rings.experiment.shape
        if (shape, other.dtype) != (ours, self.dtype):
            names.append(f"form ({shape} {other.dtype})")
        if not names and not _same_rings(self.rings, other.rings):
            names.append("PONI or mask file")
        if names:
            raise BadFrame(
                f"its {', '.join(names)} differs from that of the series' first frame, "
                "and a file has one for all frames"
            )


def _same_rings(one: Rings, other: Rings) -> bool:
    return one is other or (
        np.array_equal(one.centres, other.centres) and np.array_equal(one.ring, other.ring)
    )


def radius_image(rings: Rings, first: NDArray[Any]) -> NDArray[np.float32]:
    """Return the radius of each pixel for the file, NaN where it is left out (rows, columns).

    Parameters
    ----------
    rings
        Where the pixels lie.
    first
        The series' first frame as recorded, (rows, columns). What the detector leaves out
        there without that a mask says so (gaps) is left out of the file as well: it would
        come back as background.
    """
    image = _rounded(rings.radius, math.floor(math.log2(rings.width)) - RADIUS_BITS)
    gaps = _gaps(as_pixels(first), rings.experiment.setup.marks)
    return np.where(gaps, np.float32(np.nan), image)


def _gaps(pixels: NDArray[Any], heeded: bool) -> NDArray[np.bool_]:
    """Return where a frame has -1, -2 or NaN; without `heeded` only NaN.

    Not where it has the top of its type, which is kept as a value.
    """
    left_out: NDArray[np.bool_] = np.isnan(pixels)
    if heeded and pixels.dtype.kind != "u":
        mark = marks(pixels.dtype)
        left_out |= (pixels == mark.masked) | (pixels == mark.overflow)
    return left_out


def _rounded(image: NDArray[np.float32], exponent: int) -> NDArray[np.float32]:
    """Return values rounded to multiples of 2^exponent, which leaves their last bits 0."""
    return np.ldexp(np.round(np.ldexp(image, -exponent)), exponent)


def constant_tree(
    parameters: BraggParameters, experiment: Experiment, rings: Rings, dtype: np.dtype[Any]
) -> Tree:
    """Return what is the same for all frames of a series, but the images."""
    average, deviation, fill = (f"{SPARSE}/background_{name}" for name in ("avg", "std", "fill"))
    peaks = {"peaks@NX_class": "NXdata", "peaks@signal": "nPeaks"}
    return {
        f"{SPARSE}/radius": rings.centres.astype(np.float32),
        **_unit(f"{SPARSE}/radius", parameters),
        f"{SPARSE}/radius@long_name": parameters.unit.label,
        f"{SPARSE}/radius@interpretation": "spectrum",
        f"{average}@interpretation": "spectrum",
        f"{average}@signal": 1,
        f"{average}@long_name": "Average value of background",
        f"{deviation}@interpretation": "spectrum",
        f"{deviation}@long_name": "Standard deviation of background",
        f"{fill}@interpretation": "spectrum",
        f"{fill}@long_name": "Average value of what is not kept",
        f"{SPARSE}/errors>": deviation,
        **(peaks if parameters.sparsifying.peaks else {}),
        f"{SPARSE}/dummy": _dummy(parameters, dtype),
        f"{SPARSE}/script": SCRIPT.format(name="FILE.h5"),
        **_sparsify(parameters, experiment),
        **_instrument(parameters, experiment),
    }


def image_tree(
    parameters: BraggParameters, experiment: Experiment, rings: Rings, first: NDArray[Any]
) -> Tree:
    """Return the large constant images: radius; normalization and dark where there is one.

    `first` is the series' first frame: see `radius_image`.
    """
    place = f"{SPARSE}/mask"
    tree: dict[str, Any] = {
        place: radius_image(rings, first),
        **_unit(place, parameters),
        f"{place}@interpretation": "image",
        f"{place}@long_name": "Radius of each pixel; NaN: left out",
    }
    if experiment.normalization is not None:
        image = _rounded(experiment.normalization, -NORMALIZATION_BITS)
        tree[f"{SPARSE}/normalization"] = image
        tree[f"{SPARSE}/normalization@interpretation"] = "image"
    if experiment.dark is not None:
        tree[f"{SPARSE}/dark"] = experiment.dark
        tree[f"{SPARSE}/dark@interpretation"] = "image"
        tree[f"{SPARSE}/dark@long_name"] = "Counts that the background is told without"
    return tree


def peak_row(peaks: Peaks, most: int) -> Row:
    """Return the peaks of a frame for the file: the most intense where there are too many."""
    if len(peaks) > most:
        strongest = np.argsort(peaks.intensity, kind="stable")[::-1][:most]
        peaks = peaks[np.sort(strongest)]
    row: dict[str, Any] = {"peaks_count": len(peaks)}
    for name, values in (
        ("peakTotalIntensity", peaks.intensity),
        ("peakXPosRaw", peaks.x),
        ("peakYPosRaw", peaks.y),
        ("peakSNR", peaks.snr),
    ):
        row[f"peaks_{name}"] = np.pad(values.astype(np.float32), (0, most - len(peaks)))
    return row


def _unit(place: str, parameters: BraggParameters) -> Tree:
    """Return the unit of a dataset: `unit` is pyFAI's attribute and name, `units` is NeXus'."""
    return {f"{place}@unit": parameters.unit.value, f"{place}@units": parameters.unit.units}


def _dummy(parameters: BraggParameters, dtype: np.dtype[Any]) -> float:
    """Return the value that a dense frame has where pixels are left out."""
    if parameters.dummy is not None:
        return parameters.dummy
    return float("nan") if dtype.kind == "f" else 0.0


def _sparsify(parameters: BraggParameters, experiment: Experiment) -> Tree:
    """Return pyFAI's NXprocess."""
    settings = {"geometry": experiment.configuration, "sparsify": parameters.to_json()}
    return {
        "sparsify@NX_class": "NXprocess",
        "sparsify/program": "ronda",
        "sparsify/version": __version__,
        "sparsify/sequence_index": 1,
        "sparsify/configuration@NX_class": "NXnote",
        "sparsify/configuration/type": "text/json",
        "sparsify/configuration/data": json.dumps(settings),
    }


def _instrument(parameters: BraggParameters, experiment: Experiment) -> Tree:
    """Return the NXinstrument of the beamline; `monchromator` is how pyFAI spells it."""
    place = parameters.beamline
    name = experiment.detector_name.replace("/", "_").replace(" ", "_")
    detector, monochromator = f"{place}/{name}", f"{place}/monchromator"
    (pixel_y, pixel_x), (center_x, center_y) = experiment.pixel_size, experiment.beam_center
    lengths = {
        "distance": (experiment.distance, "m"),
        "x_pixel_size": (pixel_x, "m"),
        "y_pixel_size": (pixel_y, "m"),
        # from the first pixel's outer corner, as Fit2D and pyFAI's files have it
        "beam_center_x": (center_x + 0.5, "pixel"),
        "beam_center_y": (center_y + 0.5, "pixel"),
    }
    tree: dict[str, Any] = {
        f"{place}@NX_class": "NXinstrument",
        f"{detector}@NX_class": "NXdetector",
    }
    for quantity, (value, unit) in lengths.items():
        tree[f"{detector}/{quantity}"] = value
        tree[f"{detector}/{quantity}@units"] = unit
    if math.isnan(experiment.wavelength):
        return tree
    tree[f"{monochromator}@NX_class"] = "NXmonochromator"
    tree[f"{monochromator}/wavelength"] = np.float32(experiment.wavelength * 1e10)
    tree[f"{monochromator}/wavelength@units"] = "angstrom"
    return tree


def source_links(series: Series) -> Tree:
    """Return links to the HDF5 files that frames were read from, and the names of all."""
    names = series.metadata.get(SOURCE_FILES)
    if not isinstance(names, list) or not names:
        return {}
    tree: dict[str, Any] = {"sparsify/source": names, "data@NX_class": "NXdata"}
    parted = [name.partition("::") for name in names]
    hdf5 = [
        (path, dataset or "/")
        for path, separator, dataset in parted
        if separator or Path(path).suffix.lower() in HDF5_SUFFIXES
    ]
    for number, (path, dataset) in enumerate(hdf5[:MOST_LINKS], start=1):
        tree[f"data/data_{number:04d}>"] = f"{path}::{dataset}"
    return tree
