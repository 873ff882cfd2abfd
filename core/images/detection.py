"""What is told of a series' photons: counts by class, the energy histogram, the photon table."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frame import Frame
from ..stage import Kind, Output, Record, Row, Tree
from .photons import DOUBLE, SHARING, Candidates, Hits

BINS = 400
"""Bins of the energy histogram."""


def _frame_column(name: str, dtype: Any, doc: str, unit: str = "") -> Output:
    """Declare a number of each frame."""
    path = f"detection/{name.removeprefix('detection_')}"
    return Output(
        name, Kind.SPECTRUM, dtype, unit, doc=doc, axes=("frame",), path=path, record=Record.FRAME,
        live=name == "photons_per_frame",
    )  # fmt: skip


def _photon_column(name: str, dtype: Any, doc: str, unit: str = "") -> Output:
    """Declare a column of the photon table."""
    return Output(
        f"photons_{name}", Kind.SPECTRUM, dtype, unit, doc=doc, axes=("photon",),
        path=f"photons/{name}", record=Record.EVENTS, live=False,
    )  # fmt: skip


OUTPUTS = (
    Output("photons", Kind.SCALAR, np.int64, label="Photons", doc="Photons in the newest frame."),
    Output(
        "hit_density",
        Kind.SCALAR,
        unit="%",
        label="Hit density",
        doc="Pixels over the hit threshold, of those looked at in the newest frame.",
    ),
    Output(
        "candidates_below",
        Kind.SCALAR,
        np.int64,
        doc="Candidates of this series below photon_sum_min.",
    ),
    Output(
        "photons_single",
        Kind.SCALAR,
        np.int64,
        doc="Photons of this series up to photon_sum_max.",
    ),
    Output(
        "photons_double",
        Kind.SCALAR,
        np.int64,
        doc="Photons of this series over photon_sum_max: two or more that hit close by.",
    ),
    Output(
        "photons_sharing",
        Kind.SCALAR,
        np.int64,
        doc="Photons of this series that share pixels with a candidate two pixels away.",
    ),
    Output(
        "candidates_at_edge",
        Kind.SCALAR,
        np.int64,
        doc="Maxima of this series that touch a masked, hot or saturated pixel or the frame's "
        "edge; they are no candidates.",
    ),
    Output(
        "double_fraction",
        Kind.SCALAR,
        unit="%",
        label="Double fraction",
        doc="photons_double of all photons of this series; NaN before the first.",
    ),
    Output(
        "fallback_frames",
        Kind.SCALAR,
        np.int64,
        doc="Frames of this series with too many hits to tell photons apart: thresholded only.",
    ),
    Output(
        "histogram_energy",
        Kind.SPECTRUM,
        np.float64,
        "counts",
        label="Energy",
        doc="Middle of each bin of the energy histogram.",
        axes=("bin",),
        path="histogram/energy",
        record=Record.SERIES,
    ),
    Output(
        "histogram_counts",
        Kind.SPECTRUM,
        np.int64,
        label="Candidates",
        doc="Candidates of this series by energy; the first and the last bin hold all beyond.",
        axes=("bin",),
        path="histogram/counts",
        record=Record.SERIES,
    ),
    _frame_column("detection_frame", np.int64, "The detector's number of each frame."),
    _frame_column("photons_per_frame", np.int64, "Photons of each frame; -1: not looked for."),
    _frame_column("detection_below", np.int64, "Candidates below photon_sum_min."),
    _frame_column("detection_double", np.int64, "Photons over photon_sum_max."),
    _frame_column("detection_sharing", np.int64, "Photons that share pixels with a candidate."),
    _frame_column("detection_at_edge", np.int64, "Maxima that touch a pixel left out."),
    _frame_column("detection_hit_density", np.float64, "Hit pixels of those looked at.", "%"),
    _frame_column("detection_fallback", np.uint8, "1: too many hits, thresholded only."),
    _photon_column("frame", np.uint32, "The detector's number of the frame."),
    _photon_column("y", np.float32, "Row of the centre of gravity; pixel r spans r +- 0.5.", "px"),
    _photon_column("x", np.float32, "Column of the centre of gravity.", "px"),
    _photon_column("energy", np.float32, "Sum of the 3 x 3 pixels less dark.", "counts"),
    _photon_column("flag", np.uint8, "1: over photon_sum_max; 2: shares pixels with another."),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "histogram": {
        "NX_class": "NXdata",
        "signal": "counts",
        "axes": "energy",
        "title": "Energy of the photon candidates",
    },
    "detection": {"NX_class": "NXdata", "signal": "photons_per_frame", "axes": "frame"},
    "photons": {"NX_class": "NXcollection"},
}


class Detection:
    """The photons of the present series, or of the last one until the next begins."""

    def __init__(self, width: float, history: int) -> None:
        self._newest: Candidates | None = None
        self._density = np.nan
        self._per_frame: deque[int] = deque(maxlen=history)
        self._numbers: dict[str, int] = dict.fromkeys(
            ("below", "single", "double", "sharing", "at_edge", "fallback"), 0
        )
        self.width = width
        """Of a bin in counts."""
        self._histogram = np.zeros(BINS, np.int64)

    def rebin(self, width: float) -> None:
        """Begin another histogram if its bins are to have another width."""
        if width != self.width:
            self.width = width
            self._histogram[:] = 0

    # ------------------------------------------------------------ frame by frame

    def add(self, frame: Frame, found: Candidates) -> Row:
        """Add one frame; return its row, and its photons, for the tables."""
        photon, flag = found.is_photon, found.flag[found.is_photon]
        numbers = {
            "below": int((~photon).sum()),
            "double": int(((flag & DOUBLE) > 0).sum()),
            "sharing": int(((flag & SHARING) > 0).sum()),
            "at_edge": found.touching,
        }
        total = len(flag)
        for name, number in {**numbers, "single": total - numbers["double"]}.items():
            self._numbers[name] += number
        bins = np.clip(found.energy / self.width, 0, BINS - 1).astype(np.intp)
        self._histogram += np.bincount(bins, minlength=BINS)
        self._newest = found
        row = self._row(frame, total, 100 * found.density)
        place = found.place[photon]
        return {
            **row,
            **{f"detection_{name}": number for name, number in numbers.items()},
            "photons_frame": np.full(total, frame.frame_id, np.uint32),
            "photons_y": place[:, 0],
            "photons_x": place[:, 1],
            "photons_energy": found.energy[photon],
            "photons_flag": flag,
        }

    def add_fallback(self, frame: Frame, hits: Hits) -> Row:
        """Add one frame with too many hits; return its row."""
        self._newest = None
        self._numbers["fallback"] += 1
        return {**self._row(frame, -1, 100 * hits.density), "detection_fallback": 1}

    def _row(self, frame: Frame, photons: int, density: float) -> Row:
        self._density = density
        self._per_frame.append(photons)
        return {
            "detection_frame": frame.frame_id,
            "photons_per_frame": photons,
            "detection_hit_density": density,
            "detection_fallback": 0,
        }

    # ------------------------------------------------------------- what is shown

    @property
    def photons(self) -> int:
        """Photons of the series."""
        return self._numbers["single"] + self._numbers["double"]

    @property
    def double_fraction(self) -> float:
        """Share of them that are two or more, in percent; NaN before the first."""
        return 100 * self._numbers["double"] / self.photons if self.photons else np.nan

    @property
    def energies(self) -> NDArray[np.float64]:
        """Middle of each bin of the histogram in counts, (BINS,)."""
        return np.arange(BINS, dtype=np.float64) * self.width + self.width / 2

    def value(self, name: str) -> Any:
        """Return the present value of one of `OUTPUTS` that is served."""
        match name:
            case "photons":
                return 0 if self._newest is None else int(self._newest.is_photon.sum())
            case "hit_density":
                return self._density
            case "double_fraction":
                return self.double_fraction
            case "histogram_energy":
                return self.energies
            case "histogram_counts":
                return self._histogram.copy()
            case "photons_per_frame":
                return np.array(self._per_frame, np.int64)
            case "fallback_frames":
                return self._numbers["fallback"]
        return self._numbers[name.partition("_")[2]]

    def tree(self) -> Tree:
        """Return the histogram for the file."""
        return {
            "histogram/energy": self.energies,
            "histogram/counts": self._histogram.copy(),
            "histogram/energy@units": "counts",
        }
