"""What comes out of diffraction tomography, and where it stands in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..stage import Command, Kind, Output, Record
from .scan import Missed
from .sinogram import WHOLE
from .tomogram import ENTRIES, Added

COMMANDS = (
    Command(
        "ClearMap",
        "Empty the map: frames to come begin another, with a place of its own in the open file.",
    ),
)
RESULT = "pyFAI/result"
SINOGRAMS = "pyFAI/sinograms"
RECONSTRUCTION = "pyFAI/reconstruction"
MEAN = "pyFAI/mean"
SCAN = "scan"
ENTRY = "entry_0000"
STATE = "tomogram/"
"""How the entries of a checkpoint begin."""
PATTERNS = "pyFAI/patterns"
"""Where the patterns in one dimension stand, beside those in two."""
PLACES, MOTOR_GRID = f"{SCAN}/places", f"{SCAN}/motor_grid"
ALL_FRAMES = "of all frames of the position (see places)"
_MAP = ("rotation", "translation")


COUNTS: Mapping[str, Missed | Added] = {
    "frames_skipped": Missed.SKIPPED,
    "frames_extra": Missed.EXTRA,
    "frames_off_grid": Missed.OFF_GRID,
    "frames_without_position": Missed.NOT_FOUND,
    "frames_missed": Missed.BEFORE,
    "frames_repeated": Added.AGAIN,
    "frames_averaged": Added.MEAN,
}
"""What became of frames, by name of output."""


def _count(name: str, doc: str) -> Output:
    return Output(name, Kind.SCALAR, np.int64, doc=doc, path=f"{SCAN}/{name}", record=Record.SERIES)


def _cell(name: str, dtype: DTypeLike, path: str, doc: str, label: str = "") -> Output:
    """Return what only the file holds, position by position."""
    kind, record = Kind.IMAGE, Record.CELL
    return Output(name, kind, dtype, label=label, doc=doc, path=path, record=record, live=False)


OUTPUTS = (
    Output("progress", Kind.SCALAR, unit="%", doc="Share of the positions that are measured."),
    _count("points_measured", "Positions that are measured."),
    _count("points_missing", "Positions that are not measured (yet)."),
    Output(
        "time_left",
        Kind.SCALAR,
        unit="s",
        doc="Time that the missing positions take at the pace of the newest; NaN: not known.",
    ),
    _count("frames_skipped", "Frames before the first position."),
    _count("frames_extra", "Frames after the last position; they are not in the map."),
    _count("frames_off_grid", "Frames whose motors were at no position of the map."),
    _count(
        "frames_without_position",
        "Frames given up because too many waited for positions; they are not in the map.",
    ),
    _count(
        "frames_missed",
        "Frames that came before a series was joined late, and are not in the map: it is not known "
        "what became of them.",
    ),
    _count("frames_repeated", "Frames at positions measured before; the newest counts."),
    _count("frames_averaged", "Frames averaged with others of the same point."),
    _count("frames_waiting", "Frames whose positions are not known (yet)."),
    Output(
        "radial",
        Kind.SPECTRUM,
        label="Radial axis",
        doc="Centres of the points of a pattern, in the unit.",
        axes=("bin",),
    ),
    Output(
        "azimuthal", Kind.SPECTRUM, unit="deg", doc="Azimuths, in two dimensions.", axes=("bin",)
    ),
    Output("pattern", Kind.SPECTRUM, np.float32, doc="The newest frame's pattern.", axes=("bin",)),
    Output(
        "point_pattern",
        Kind.SPECTRUM,
        doc="Pattern at point_rotation and point_translation; NaN: not measured.",
        axes=("bin",),
    ),
    Output(
        "mean_pattern",
        Kind.SPECTRUM,
        doc="Mean of all patterns of the map.",
        axes=("bin",),
        path=f"{MEAN}/intensity",
        record=Record.SERIES,
    ),
    Output(
        "rotation_values",
        Kind.SPECTRUM,
        doc="Positions of the rotation (or slow translation); numbers where they are not known.",
        axes=("rotation",),
    ),
    Output(
        "translation_values",
        Kind.SPECTRUM,
        doc="Positions of the translation; numbers where they are not known.",
        axes=("translation",),
    ),
    Output(
        "sinogram",
        Kind.IMAGE,
        doc="Sum over the range sinogram_of at each position; NaN: not measured.",
        axes=_MAP,
    ),
    Output(
        "reconstruction",
        Kind.IMAGE,
        doc="Cross-section by filtered back-projection of sinogram, if reconstruct is on; rows "
        "are y, columns x, along the translation at 0 deg.",
        axes=("y", "x"),
    ),
    Output(
        "frame_map",
        Kind.IMAGE,
        np.int32,
        doc="Number of the newest frame at each position; -1: not measured.",
        axes=_MAP,
        path=f"{RESULT}/map_ptr",
        record=Record.CELL,
    ),
    _cell(
        "intensity",
        np.float32,
        f"{RESULT}/intensity",
        "Patterns of all positions: (rotation, translation, radial), or (rotation, "
        "translation, azimuthal, radial); NaN: not measured.",
        "Intensity",
    ),
    _cell(
        "errors",
        np.float32,
        f"{RESULT}/errors",
        "Standard errors of intensity, if there is an error model.",
        "Standard error",
    ),
    _cell(
        "numbers",
        np.uint32,
        f"{RESULT}/numbers",
        f"Of how many frames each value of intensity is the mean; 0: {ALL_FRAMES}.",
    ),
    _cell(
        "patterns",
        np.float32,
        f"{PATTERNS}/intensity",
        "Beside patterns in two dimensions: those in one, (rotation, translation, radial).",
        "Intensity",
    ),
    _cell(
        "pattern_errors",
        np.float32,
        f"{PATTERNS}/errors",
        "Standard errors of patterns.",
        "Standard error",
    ),
    _cell(
        "pattern_numbers",
        np.uint32,
        f"{PATTERNS}/numbers",
        f"Of how many frames each value of patterns is the mean; 0: {ALL_FRAMES}.",
    ),
    _cell(
        "places",
        np.int64,
        PLACES,
        f"Of each position: {', '.join(ENTRIES)}; frames: how many its pattern is of, "
        "averaged and repeated: how often that was so. A map that goes on is read from here.",
    ),
    _cell(
        "motor_grid",
        float,
        MOTOR_GRID,
        "First and last motor position of rotation and translation; NaN: not known.",
    ),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    RESULT: {"NX_class": "NXdata", "signal": "intensity", "title": "Diffraction tomography"},
    SINOGRAMS: {"NX_class": "NXdata", "signal": WHOLE, "title": "Sinograms"},
    MEAN: {"NX_class": "NXdata", "signal": "intensity", "title": "Mean pattern"},
    SCAN: {"NX_class": "NXcollection"},
}
