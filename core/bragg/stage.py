"""The Bragg sparsifier: pixels above the background of their ring, and that background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.decoding import borrow_pixels
from ..azimuthal.experiment import Experiment
from ..azimuthal.rings import Rings, rings
from ..azimuthal.units import Unit
from ..codecs import encode_sparse
from ..compute.device import Compute
from ..frame import BadFrame, Encoded, Frame, Series
from ..geometry import Geometry
from ..growing import Growing
from ..marks import as_pixels, marks
from ..parameters import ParameterError
from ..preview import OUTPUTS as PREVIEW_OUTPUTS
from ..preview import Preview, make_preview, no_preview
from ..stage import Closing, Forwarded, Kind, Output, Row, Settings, Stage, Tree, registry
from . import file_layout as layout
from .boxes import with_boxes
from .clipping import Singles
from .filling import fill_of
from .finders import PeakFinder
from .opencl_sparsifier import opencl_sparsifier
from .parameters import BraggParameters
from .picking import SparseFrame, Sparsifier, sparsifier

PIXEL_TYPES = (np.uint16, np.uint32, np.int32)
"""What detectors send, to be compiled for beforehand."""
HISTORY = 100_000
"""Newest frames of a series that curves over frames are shown of."""


def _curve(name: str, doc: str, unit: str = "", dtype: Any = np.float64) -> Output:
    """Declare a curve over the frames of the series."""
    return Output(name, Kind.SPECTRUM, dtype, unit, doc=doc, axes=("frame",))


def _peak(name: str, doc: str, unit: str = "") -> Output:
    """Declare a number of each peak of the newest frame."""
    return Output(f"peak_{name}", Kind.SPECTRUM, np.float32, unit, doc=doc, axes=("peak",))


def _ring(name: str, doc: str, dtype: Any = np.float32) -> Output:
    """Declare a number of each ring of the newest frame."""
    return Output(f"background_{name}", Kind.SPECTRUM, dtype, doc=doc, axes=("ring",))


OUTPUTS = (
    Output("kept_pixels", Kind.SCALAR, np.int64, doc="Pixels kept of the newest frame."),
    Output(
        "kept_fraction",
        Kind.SCALAR,
        unit="%",
        label="Kept",
        doc="Pixels kept of the newest frame, of those looked at.",
    ),
    Output(
        "compression_ratio",
        Kind.SCALAR,
        label="Compression",
        doc="Bytes of this series' frames, decoded, to bytes kept of them; NaN before the first.",
    ),
    Output("peaks", Kind.SCALAR, np.int64, label="Peaks", doc="Peaks of the newest frame."),
    Output(
        "frames_vetoed",
        Kind.SCALAR,
        np.int64,
        doc="Frames of this series that are not written: they have fewer peaks than min_peaks.",
    ),
    Output(
        "peaks_beyond",
        Kind.SCALAR,
        np.int64,
        doc="Peaks of this series that the file has no room for: more than max_peaks in a frame.",
    ),
    Output(
        "empty_rings",
        Kind.SCALAR,
        np.int64,
        doc="Rings without any valid pixel in the newest frame.",
    ),
    _curve("kept_per_frame", "Pixels kept of each frame of this series.", dtype=np.int64),
    _curve("peaks_per_frame", "Peaks of each frame of this series.", dtype=np.int64),
    _ring("radius", "Middle of each ring, in the parameter unit.", np.float64),
    _ring("average", "Mean of the background; NaN: no valid pixel."),
    _ring("deviation", "Deviation of the background from pixel to pixel; NaN likewise."),
    _peak("x", "Column of each peak; pixel centres are whole.", "px"),
    _peak("y", "Row of each peak.", "px"),
    _peak("intensity", "Counts of each peak over the background."),
    _peak("snr", "Intensity of each peak in its errors."),
    *PREVIEW_OUTPUTS,
    Output(
        "preview_kept",
        Kind.IMAGE,
        np.uint16,
        label="Kept pixels",
        doc="Number of kept pixels under each pixel of the preview.",
        axes=("row", "column"),
    ),
    *layout.FILE_OUTPUTS,
)


@dataclass(frozen=True, slots=True, eq=False)
class BraggPartial:
    """One frame after `map`."""

    sparse: SparseFrame
    fill: Singles
    """Mean of the pixels that are not kept, (bins,)."""
    rings: Rings
    dtype: np.dtype[Any]
    """Of the pixels as sent."""
    parameters: BraggParameters

    @property
    def constants(self) -> layout.Constants:
        """What a file says once for all frames."""
        return layout.Constants(self.parameters, self.rings, self.dtype)

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept of the frame, before the file compresses them."""
        background = self.sparse.background
        arrays = (self.sparse.index, self.sparse.intensity, background.average, self.fill)
        return sum(array.nbytes for array in arrays) + background.deviation.nbytes


@registry.register
class BraggStage(Stage[BraggParameters, BraggPartial]):
    """Keeps the pixels of single crystals' spots, and the background of each ring.

    Each frame is reduced by itself; nothing outlives a series but what the newest
    frame shows. Method: J. Kieffer et al., J. Appl. Cryst. 58 (2025) 138.
    """

    name: ClassVar[str] = "bragg"
    title: ClassVar[str] = "Bragg sparsifier"
    Parameters = BraggParameters
    outputs: ClassVar[tuple[Output, ...]] = OUTPUTS
    groups: ClassVar[Mapping[str, Mapping[str, Any]]] = layout.GROUPS
    entry: ClassVar[str] = layout.ENTRY
    creator: ClassVar[str] = layout.CREATOR

    def __init__(self) -> None:
        super().__init__()
        self._parameters = BraggParameters()
        self._newest: tuple[Frame, BraggPartial] | None = None
        self._preview: Preview | None = None
        self._first: layout.Constants | None = None
        """Of the open series' first frame."""
        self._begin(Series(0))

    # ------------------------------------------------------------------ frames

    def map(self, frame: Frame, parameters: BraggParameters) -> BraggPartial:
        """Find what stands out of the background of a frame."""
        made = engine(frame, parameters, self.connection.compute)
        pixels = borrow_pixels(frame, made.lend)
        try:
            return reduced(made, pixels, frame.dtype, parameters)
        except ValueError as error:
            raise BadFrame(f"frame {frame.frame_id}: {error}") from None

    def reduce(self, frame: Frame, partial: BraggPartial, settings: Settings) -> Row | None:
        """Take note of a frame; return its row, or None where there are too few peaks."""
        sparse, parameters = partial.sparse, settings.parameters
        assert isinstance(parameters, BraggParameters)
        self._first = self._first or partial.constants
        self._first.check_same(partial.constants)
        self._newest, self._preview = (frame, partial), None
        peaks = 0 if sparse.peaks is None else len(sparse.peaks)
        for curve, number in ((self._kept, sparse.index.size), (self._peaks, peaks)):
            curve.append(number)
            curve.keep_last(HISTORY)
        self._raw_bytes += frame.shape[0] * frame.shape[1] * frame.dtype.itemsize
        self._kept_bytes += partial.kept_bytes
        if peaks < parameters.min_peaks:
            self._vetoed += 1
            return None
        average, deviation = sparse.background.filled()
        row: dict[str, Any] = {
            "sparse_index": sparse.index,
            "sparse_intensity": sparse.intensity,
            # readers make numbers of NaN that look like counts
            "sparse_background_avg": np.nan_to_num(average, nan=0.0),
            "sparse_background_std": np.nan_to_num(deviation, nan=0.0),
            "sparse_background_fill": np.nan_to_num(partial.fill, nan=0.0),
            "frames_number": frame.frame_id,
            "frames_time": frame.taken,
            "frames_kept": sparse.index.size,
        }
        if sparse.peaks is not None:
            self._beyond += max(peaks - parameters.max_peaks, 0)
            row.update(layout.peak_row(sparse.peaks, parameters.max_peaks))
        return row

    # ------------------------------------------------------------------ series

    def begin(self, series: Series, settings: Settings) -> None:
        """Begin curves and counts of the series anew."""
        self._begin(series)

    def _begin(self, series: Series) -> None:
        self._series = series
        self._kept, self._peaks = Growing(np.int64), Growing(np.int64)
        self._raw_bytes = self._kept_bytes = self._vetoed = self._beyond = 0
        self._first = None

    def accept(self, parameters: BraggParameters) -> None:
        """Refuse, within a series, what its file says once for all frames."""
        if self._first and (names := self._first.parameters.other_file(parameters)):
            raise ParameterError(
                f"{names[0]}: it is the same for all frames of a series; "
                "stop, or wait for the end of this one"
            )

    def adopt(self, settings: Settings) -> None:
        """Take up new parameters."""
        assert isinstance(settings.parameters, BraggParameters)
        self._parameters, self._preview = settings.parameters, None

    def update(self) -> Tree:
        """Return what the file says once for all frames, as long as there is one frame only."""
        return self._tree() if len(self._kept) == 1 else {}

    def finish(self, series: Series) -> Closing:
        """End a series."""
        self._first, vetoed = None, self._vetoed
        return Closing(tree=lambda: {"frames/vetoed": vetoed})

    def _tree(self) -> Tree:
        if self._first is None or self._newest is None:
            return {}
        parameters, of_rings, dtype = self._first
        image = self._newest[0].data  # of the first frame: there is no other yet
        tree = dict(layout.constant_tree(parameters, of_rings.experiment, of_rings, dtype))
        tree.update(layout.image_tree(parameters, of_rings.experiment, of_rings, image))
        if parameters.save_source:
            tree.update(layout.source_links(self._series))
        return tree

    # ------------------------------------------------------------- what is shown

    def value(self, name: str) -> Any:
        """Return the present value of an output."""
        match name:
            case "frames_vetoed":
                return self._vetoed
            case "peaks_beyond":
                return self._beyond
            case "kept_per_frame":
                return self._kept.values
            case "peaks_per_frame":
                return self._peaks.values
            case "compression_ratio":
                return self._raw_bytes / self._kept_bytes if self._kept_bytes else np.nan
        group, _, what = name.partition("_")
        if name == "preview_kept":
            return self._preview_kept()
        if group == "preview":
            return getattr(self._made_preview(), what or "image")
        return _of_newest(name, self._newest[1] if self._newest else None)

    def _made_preview(self) -> Preview:
        """Return the preview of the newest frame, made once."""
        if self._preview is None:
            self._preview = self._make_preview()
        return self._preview

    def _make_preview(self) -> Preview:
        if self._newest is None:
            return no_preview()
        frame, partial = self._newest
        pixels = as_pixels(frame.data)
        mask, binning = partial.rings.experiment.mask, self._parameters.preview_binning
        return make_preview(pixels, marks(pixels.dtype), mask, binning)

    def _preview_kept(self) -> NDArray[np.uint16]:
        """Return how many kept pixels are under each pixel of the preview."""
        image = self._made_preview().image
        counts = np.zeros(image.shape, np.uint16)
        if self._newest is None:
            return counts
        frame, partial = self._newest
        factor = -(-max(frame.shape) // max(image.shape))
        rows, columns = np.divmod(partial.sparse.index, np.uint32(frame.shape[1]))
        np.add.at(counts, (rows // factor, columns // factor), np.uint16(1))
        return counts

    def forward(self) -> Forwarded | None:
        """Return the newest frame with its kept pixels only."""
        if self._newest is None:
            return None
        frame, partial = self._newest
        sparse = partial.sparse
        rows, columns = frame.shape
        blob = encode_sparse(sparse.index, sparse.intensity)
        image = Encoded(blob, (rows, columns), sparse.intensity.dtype, "sparse")
        return Forwarded(image, {"quantity": "kept pixels"})

    def status(self) -> list[str]:
        """Return what an operator should know."""
        notes = []
        if not self._parameters.poni_file:
            notes.append("frames are rejected: set poni_file to where the detector stands")
        if self._vetoed:
            notes.append(
                f"{self._vetoed} of {len(self._kept)} frames have fewer than "
                f"{self._parameters.min_peaks} peaks and are not written"
            )
        if self._beyond:
            notes.append(f"{self._beyond} peaks did not fit into the file: raise max_peaks")
        if self._newest is not None:
            notes += _emptiness(self._newest[1])
        return notes

    def warm_up(self) -> None:
        """Load pyFAI and compile for the pixels that detectors send, which takes seconds."""
        small = Geometry(
            photon_energy=10, detector_distance=1, beam_center_x=0, beam_center_y=0, pixel_size=1e-3
        )
        of_rings = rings(Experiment.of_geometry(small, (8, 8), False, None), Unit.R_M, 4)
        for finder in PeakFinder:
            values = BraggParameters(spot_size=3, peak_finder=finder)
            made = sparsifier(of_rings, values.sparsifying)
            for dtype in PIXEL_TYPES:
                reduced(made, np.ones((8, 8), dtype), np.dtype(dtype), values)


def _emptiness(partial: BraggPartial) -> list[str]:
    """Say which part of the rings the newest frame has no usable pixel on."""
    empty, rings_there = _of_newest("empty_rings", partial), partial.rings.bins
    if empty == rings_there:
        return ["the newest frame has no usable pixel: look at radial_range, mask, flat and dummy"]
    if empty:
        return [f"{empty} of {rings_there} rings have no usable pixel in the newest frame"]
    return []


def reduced(
    made: Sparsifier, pixels: NDArray[Any], dtype: np.dtype[Any], parameters: BraggParameters
) -> BraggPartial:
    """Return what is kept of a frame, and what stands for the rest."""
    alone, side = made.sparsify(pixels), parameters.spot_size
    sparse = with_boxes(alone, pixels, made.rings, made.settings, side)
    return BraggPartial(sparse, fill_of(sparse, pixels, made.rings), made.rings, dtype, parameters)


def engine(frame: Frame, parameters: BraggParameters, compute: Compute) -> Sparsifier:
    """Return what sparsifies frames of this form; built at the first one.

    Raises
    ------
    BadFrame
        If there can be none.
    """
    if not parameters.poni_file:
        raise BadFrame("set poni_file to where the detector stands")
    try:
        experiment = parameters.setup.experiment(frame.shape)
        of_rings = rings(experiment, parameters.unit, parameters.radial_bins, parameters.limits)
        if compute.opencl:
            return opencl_sparsifier(of_rings, parameters.sparsifying, compute)
        return sparsifier(of_rings, parameters.sparsifying)
    except (OSError, ValueError) as error:
        raise BadFrame(str(error)) from None


def _of_newest(name: str, partial: BraggPartial | None) -> Any:
    """Return a value that only the newest frame has."""
    nothing = np.empty(0, np.float32)
    sparse = partial.sparse if partial else None
    peaks = sparse.peaks if sparse else None
    match name:
        case "kept_pixels":
            return sparse.index.size if sparse else 0
        case "kept_fraction":
            looked_at = int(partial.rings.count.sum()) if partial else 0
            return 100 * sparse.index.size / looked_at if sparse and looked_at else np.nan
        case "peaks":
            return 0 if peaks is None else len(peaks)
        case "empty_rings":
            return int(np.isnan(sparse.background.average).sum()) if sparse else 0
        case "background_radius":
            return partial.rings.centres if partial else nothing.astype(np.float64)
        case "background_average" | "background_deviation":
            return getattr(sparse.background, name.partition("_")[2]) if sparse else nothing
    return nothing if peaks is None else getattr(peaks, name.removeprefix("peak_"))
