"""ROI curves: how they are shown, and what of them is served and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..frame import MAX_SIDE
from ..mask import MaskParameters
from ..parameters import parameter
from ..stage import Kind, Output, Record
from .roi import STATISTICS, RoiParameters
from .steps import XAxis


class SeriesParameters(RoiParameters, MaskParameters):
    """How ROI values are shown."""

    x_axis: XAxis = parameter(
        XAxis.MOTOR, "Against what ROI values stand; without positions motor is the frame number."
    )
    movable: str = parameter("", "Movable of the scan that is x; empty: the first.")
    frames_per_point: int = parameter(
        1, "Frames of a scan point, where the scan itself does not say it.", ge=1
    )
    history_frames: int = parameter(
        10_000,
        "Newest frames, and newest points, whose ROI values and counts are shown; from the next "
        "series on.",
        ge=1,
        le=MAX_SIDE,
        expert=True,
    )
    ring_bytes: int = parameter(
        512 << 20,
        "Memory for the newest images, looked at again when a ROI is moved.",
        unit="byte",
        ge=0,
        expert=True,
    )


_DOCS = {
    "mean": "Mean of the valid pixels.",
    "sum": "Sum of the valid pixels.",
    "min": "Least valid pixel.",
    "max": "Largest valid pixel.",
    "std": "Standard deviation of the valid pixels (ddof 0).",
    "com_y": "Row of the centre of mass above background.",
    "com_x": "Column of the centre of mass above background.",
    "net": "Sum less the background ROI's mean for every valid pixel.",
}
_ROWS = ("roi", "frame")
_STEPS = ("roi", "point")


def _column(name: str, dtype: Any, unit: str, doc: str) -> Output:
    """Declare a spectrum over the frames that every ROI's table holds too."""
    path = f"rois/{{slot}}/{name}"
    return Output(
        f"roi_{name}", Kind.SPECTRUM, dtype, unit, "", doc, ("frame",), path, Record.FRAME
    )


OUTPUTS = (
    Output("roi_names", Kind.TEXTS, doc="ROIs in the order of the rows of roi_mean and others."),
    _column("time", np.float64, "s", "Unix time of each frame."),
    _column("frame", np.int64, "", "The detector's number of each frame."),
    _column("x", np.float64, "", "Motor position, number or time of each frame; see x_axis."),
    *(
        Output(
            f"roi_{name}",
            Kind.IMAGE,
            np.float64,
            unit="px" if name.startswith("com") else "",
            label=f"ROI {name}",
            doc=f"{_DOCS[name]} NaN where there is none.",
            axes=_ROWS,
            path=f"rois/{{slot}}/{name}",
            record=Record.FRAME,
        )
        for name in STATISTICS
    ),
    Output(
        "roi_version",
        Kind.SCALAR,
        np.int64,
        doc="Number of the present ROIs; every change of a ROI makes the next number.",
        path="rois/{slot}/version",
        record=Record.FRAME,
    ),
    Output("roi_step_point", Kind.SPECTRUM, np.int64, doc="Scan points.", axes=("point",)),
    Output("roi_step_x", Kind.SPECTRUM, doc="Position of each scan point.", axes=("point",)),
    Output("roi_step_mean", Kind.IMAGE, doc="Mean of a point's frame means.", axes=_STEPS),
    Output("roi_step_error", Kind.IMAGE, doc="Its standard error, std / sqrt(n).", axes=_STEPS),
    Output("roi_step_n", Kind.IMAGE, np.int64, doc="Frames of each point so far.", axes=_STEPS),
    Output(
        "roi_step_expected",
        Kind.SPECTRUM,
        np.int64,
        doc="Frames of each point when it is complete; its mean is final then.",
        axes=("point",),
    ),
    Output(
        "roi_steps_incomplete",
        Kind.TEXT,
        doc="Scan points that are over but lack frames; empty: none.",
        path="rois/incomplete",
        record=Record.SERIES,
    ),
    Output(
        "roi_slots",
        Kind.TEXTS,
        doc="Name of the ROI in each slot of the file.",
        path="rois/names",
        record=Record.SERIES,
        live=False,
    ),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "rois": {"NX_class": "NXcollection"},
    "rois/{slot}": {"NX_class": "NXdata", "signal": "mean", "axes": "x"},
}
