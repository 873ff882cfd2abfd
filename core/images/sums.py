"""The accumulated sum of a chain: what is served and written of it, and when it begins anew."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frame import Series
from ..marks import Mask, Pixels
from ..parameters import Parameters, parameter
from ..stage import Command, Document, Kind, Output, Record, Tree
from .accumulation import Accumulation
from .running import RunningSum

LISTED = 100
"""Newest series that are listed on a screen."""
STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class AccumulationParameters(Parameters):
    """Whether frames are summed."""

    accumulate: bool = parameter(
        True, "Add frames to the sum; off: the newest frame is shown, the sum waits as it is."
    )


_IMAGE = ("row", "column")
OUTPUTS = (
    Output(
        "accumulated_image",
        Kind.IMAGE,
        label="Accumulated image",
        doc="Sum of the frames over their valid pixels; the newest frame while accumulate is off.",
        axes=_IMAGE,
        path="accumulated/sum",
        record=Record.SERIES,
    ),
    Output(
        "valid_count",
        Kind.IMAGE,
        np.uint32,
        label="Valid frames",
        doc="How many of the accumulated frames each pixel was valid in.",
        axes=_IMAGE,
        path="accumulated/valid_count",
        record=Record.SERIES,
    ),
    Output(
        "scan_sum",
        Kind.IMAGE,
        label="Sum of this series",
        doc="The same of this series' frames alone.",
        axes=_IMAGE,
        path="scan/sum",
        record=Record.SERIES,
        live=False,
    ),
    Output(
        "scan_valid_count",
        Kind.IMAGE,
        np.uint32,
        label="Valid frames of this series",
        doc="How many of this series' frames each pixel was valid in.",
        axes=_IMAGE,
        path="scan/valid_count",
        record=Record.SERIES,
        live=False,
    ),
    Output("accumulated_frames", Kind.SCALAR, np.int64, doc="Frames in the accumulated sum."),
    Output("accumulated_total", Kind.SCALAR, doc="Accumulated sum over all pixels."),
    Output(
        "overflow_pixels",
        Kind.SCALAR,
        np.int64,
        doc="Pixels over their range or saturated, in all accumulated frames together; not summed.",
    ),
    Output(
        "accumulated_series",
        Kind.TEXTS,
        doc=f"Series in the accumulated sum (the newest {LISTED}): run, file, frames.",
    ),
    Output(
        "accumulation_resets",
        Kind.SCALAR,
        np.int64,
        doc="How often the sum was saved and begun anew because frames were of another form.",
    ),
)
COMMANDS = (
    Command("ClearAccumulation", "Empty the accumulated sum."),
    Command(
        "SaveAccumulated",
        "Write the accumulated sum to a file of its own.",
        str,
        "Name of the file without folder and suffix; empty: by date and time.",
    ),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "accumulated": {
        "NX_class": "NXdata",
        "signal": "sum",
        "auxiliary_signals": ["valid_count"],
        "title": "Accumulated frames",
    },
    "scan": {
        "NX_class": "NXdata",
        "signal": "sum",
        "auxiliary_signals": ["valid_count"],
        "title": "Accumulated frames of this series",
    },
}


class FrameSum:
    """The accumulated sum, of frames of one form.

    The form is the shape, integer or float, and whatever else says what a pixel's
    value means. Frames of another form begin a new sum.
    """

    def __init__(self) -> None:
        self.resets = 0
        """How often a sum that was not empty gave way to one of another form."""
        self.note = ""
        """Why it did last, in a sentence."""
        self.newest = math.nan
        """Sum over the valid pixels of the frame that was added last."""
        self._form = ""
        self._sum: RunningSum | None = None

    @property
    def empty(self) -> bool:
        """True if no frame is in the sum."""
        return self._sum is None or not self._sum.frames

    def add(
        self,
        image: Pixels,
        mask: Mask | None,
        series: Series,
        meaning: list[str],
        support: NDArray[np.intp] | None = None,
    ) -> Accumulation | None:
        """Add a frame of a series; return the sum that had to give way, if there is one.

        Parameters
        ----------
        image, mask, series, support
            As for `Accumulation.add`.
        meaning
            What the value of a pixel depends on besides the detector, in words.

        Raises
        ------
        BadFrame
            If integers are too large for an exact sum; nothing is changed then.
        """
        kind = "floats" if image.dtype.kind == "f" else "integers"
        form = ", ".join([f"{image.shape[1]} x {image.shape[0]} {kind}", *meaning])
        if self._sum is not None and form == self._form:
            self.newest = self._sum.add(image, mask, series, support)
            return None
        new = RunningSum(image.shape, image.dtype)
        self.newest = new.add(image, mask, series, support)
        old = None if self._sum is None or self.empty else self._sum.running()
        if old is not None:
            self.resets += 1
            self.note = (
                f"the sum of {old.frames} frames ({self._form}) was saved and begun anew, "
                f"because frames are now {form}"
            )
        self._sum, self._form = new, form
        return old

    def begin(self) -> None:
        """Begin another series; the sum goes on."""
        if self._sum is not None:
            self._sum.begin()

    def clear(self) -> None:
        """Empty the sum."""
        self.note = ""
        if self._sum is not None:
            self._sum.clear()

    def running(self) -> Accumulation | None:
        """Return a copy of the sum, or None if there never was a frame."""
        return None if self._sum is None else self._sum.running()

    def both(self) -> tuple[Accumulation, Accumulation] | None:
        """Return copies of the sum and of the present series' own; None: no frame yet."""
        return None if self._sum is None else self._sum.both()

    def shown(self) -> tuple[list[Pixels], Mask | None] | None:
        """Return the sum in parts, and where no pixel was ever valid; None: no frame yet."""
        return None if self._sum is None else self._sum.shown()

    def value(self, name: str) -> Any:
        """Return the present value of one of `OUTPUTS`; None for an image that is not there."""
        if name == "accumulation_resets":
            return self.resets
        if self._sum is None:
            nothing = {"accumulated_series": [], "accumulated_total": 0.0}
            return nothing.get(name, None if "image" in name or "valid" in name else 0)
        match name:
            case "accumulated_image":
                return self._sum.running().sum
            case "valid_count":
                return self._sum.valid_count
            case "accumulated_frames":
                return self._sum.frames
            case "accumulated_total":
                return float(self._sum.total)
            case "overflow_pixels":
                return self._sum.overflow_pixels
            case "accumulated_series":
                return [str(series) for series in self._sum.series[-LISTED:]]
        raise KeyError(name)

    def state(self) -> Tree | None:
        """Return the sum for a checkpoint, or None if there never was a frame."""
        if self._sum is None:
            return None
        tree = {f"accumulation/{name}": value for name, value in self._sum.tree().items()}
        return {**tree, "accumulation/form": self._form, "accumulation/resets": self.resets}

    def restore(self, tree: Tree) -> None:
        """Go on with a sum from a checkpoint.

        Raises
        ------
        ValueError
            If the checkpoint does not fit.
        """
        place = "accumulation/"
        entries = {key.removeprefix(place): tree[key] for key in tree if key.startswith(place)}
        restored = RunningSum.from_tree(entries)
        try:
            self.resets, self._form = int(entries["resets"]), str(entries["form"])
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no accumulated sum: {error!r}") from None
        self._sum = restored


def sum_tree(group: str, total: Accumulation) -> Tree:
    """Return a sum as it stands in a file, below a group."""
    names = ("", "/sum", "/valid_count")
    return {
        f"{group}/sum": total.sum,
        f"{group}/valid_count": total.valid_count,
        f"{group}/overflow_pixels": total.overflow_pixels,
        f"{group}/series": [str(series) for series in total.series],
        **{f"{group}{name}@frames": total.frames for name in names},
    }


def series_tree(both: tuple[Accumulation, Accumulation] | None) -> Tree:
    """Return the running sum and the series' own as they stand in the series' file."""
    if both is None:
        return {}
    return {**sum_tree("accumulated", both[0]), **sum_tree("scan", both[1])}


def sum_document(name: str, total: Accumulation, extra: Tree) -> Document:
    """Return a document of a sum.

    Raises
    ------
    ValueError
        If the name is none for a file; an empty one stands for date and time.
    """
    stem = name or f"accumulated_{datetime.now(UTC):%Y%m%dT%H%M%S}"
    if not STEM.fullmatch(stem):
        raise ValueError(
            f"{name!r:.120} is no name for a file: letters, digits, dots, _ and - only, at most 100"
        )
    return Document(stem, {**sum_tree("accumulated", total), **extra})
