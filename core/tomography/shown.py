"""What is shown of a scan while it is measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from .measurement import Measurement
from .outputs import COUNTS
from .parameters import DiffTomoParameters
from .scan import Place


def shown(name: str, now: Measurement, asked: DiffTomoParameters) -> Any:
    """Return the present value of an output; None for an image before the first frame."""
    if name in COUNTS:
        return now.counts[COUNTS[name]]
    tomogram = now.tomogram
    match name:
        case "progress":
            return 100 * now.measured / now.placing.grid.points
        case "points_measured":
            return now.measured
        case "points_missing":
            return now.missing
        case "time_left":
            return now.seconds_left
        case "frames_waiting":
            return len(now.placing.waiting)
        case "sinogram":
            return tomogram and tomogram.sinogram(asked.sinogram_of)
        case "frame_map":
            return tomogram and tomogram.frame.copy()
    if tomogram is None:
        return np.empty(0)
    match name:
        case "radial":
            return tomogram.radial
        case "azimuthal":
            return np.empty(0) if tomogram.azimuthal is None else tomogram.azimuthal
        case "mean_pattern":
            return tomogram.mean
        case "point_pattern":
            return tomogram.pattern(Place(asked.point_rotation, asked.point_translation))
    raise KeyError(name)
