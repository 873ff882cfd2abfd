"""Regions of interest: their declaration, the operator's commands, and what is counted in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..frame import MAX_SIDE
from ..marks import Mask, Pixels, Rectangle, as_mask, marks
from ..parameters import ParameterError, Parameters, parameter
from ..stage import SLOTS, Command
from .pixels import Sums, first_moments, mean_level, second_moments

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
STATISTICS = ("mean", "sum", "min", "max", "std", "com_y", "com_x", "net")
"""What is found in a ROI, in the order of the columns of `statistics`."""
MEAN = STATISTICS.index("mean")


class Roi(BaseModel):
    """A rectangle of whole pixels: rows y to y + height, columns x to x + width, half open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: int = Field(ge=0, lt=MAX_SIDE)
    y: int = Field(ge=0, lt=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    height: int = Field(ge=1, le=MAX_SIDE)
    background: str | None = None
    """Name of the ROI whose mean is this one's background."""

    @property
    def rectangle(self) -> Rectangle:
        """First row, end row, first column, end column."""
        return self.y, self.y + self.height, self.x, self.x + self.width

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether the whole rectangle lies on a frame of (rows, columns)."""
        return self.y + self.height <= shape[0] and self.x + self.width <= shape[1]


class RoiParameters(Parameters):
    """Where to look on the frames."""

    rois: dict[str, Roi] = parameter(
        {}, f"Regions of interest by name, at most {SLOTS}: x, y, width, height, background."
    )

    @field_validator("rois")
    @classmethod
    def _consistent(cls, rois: dict[str, Roi]) -> dict[str, Roi]:
        if len(rois) > SLOTS:
            raise ValueError(f"{len(rois)} ROIs, but there is room for {SLOTS}")
        for name, roi in rois.items():
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r:.40} is no name for a ROI: a letter, then at most 31 letters, "
                    "digits, _ or -"
                )
            if roi.background is not None and roi.background not in rois:
                raise ValueError(f"the background {roi.background!r} of ROI {name} does not exist")
            if roi.background == name:
                raise ValueError(f"ROI {name} cannot be its own background")
        return rois


def outside(rois: Mapping[str, Roi], shape: tuple[int, ...]) -> list[str]:
    """Return a sentence for each ROI that is not wholly on a frame of (rows, columns)."""
    return [
        f"ROI {name} (x {roi.x}, y {roi.y}, {roi.width} x {roi.height}) is not wholly on the "
        f"frame of {shape[1]} x {shape[0]} pixels"
        for name, roi in rois.items()
        if not roi.fits(shape)
    ]


def statistics(image: Pixels, mask: Mask | None, rois: Mapping[str, Roi]) -> NDArray[np.float64]:
    """Return the statistics of every ROI over its valid pixels.

    Parameters
    ----------
    image
        (rows, columns), as from `as_pixels`.
    mask
        (rows, columns), True where a pixel is not to be used; None: none.
    rois
        Whatever is not wholly on the image gives NaN.

    Returns
    -------
    (n, 8) float64, the columns as in `STATISTICS`:
    mean, sum, min, max; std with ddof 0; com_y and com_x in px of the frame, the
    centre of mass of what is above the background's mean; net, the sum less the
    background's mean for every valid pixel. Without a background it is 0. All NaN
    where no pixel is valid, in the ROI or (for com and net) in its background.
    """
    result = np.full((len(rois), len(STATISTICS)), np.nan)
    masked = as_mask(mask, image.shape)
    sums = {
        name: first_moments(image, masked, roi.rectangle)
        for name, roi in rois.items()
        if roi.fits(image.shape)
    }
    for row, (name, roi) in zip(result, rois.items(), strict=True):
        own = sums.get(name, _NOTHING)
        ground = _DARK if roi.background is None else sums.get(roi.background, _NOTHING)
        if own.number:
            _set(row, image, masked, roi, own, ground)
    return result


_NOTHING, _DARK = Sums(0, 0, 0, 0), Sums(1, 0, 0, 0)
"""Of no pixel; of one that is 0."""


def _set(
    row: NDArray[np.float64], image: Pixels, mask: Mask, roi: Roi, own: Sums, ground: Sums
) -> None:
    """Set the statistics of one ROI that has valid pixels."""
    mean = mean_level(own, image.dtype)
    background = mean_level(ground, image.dtype) if ground.number else mean
    squares, weight, along_y, along_x = second_moments(
        image, marks(image.dtype), mask, roi.rectangle, mean, background
    )
    row[:4] = own.total / own.number, own.total, own.least, own.most
    row[4] = np.sqrt(squares / own.number)
    if not ground.number:
        return
    if weight > 0:
        row[5:7] = roi.y + along_y / weight, roi.x + along_x / weight
    # Divided last, so that integers that cancel each other are rounded once only.
    row[7] = (own.total * ground.number - ground.total * own.number) / ground.number


def parse_roi(text: str) -> tuple[str, Roi]:
    """Return name and ROI from `NAME=x,y,width,height[;background=OTHER]` or a JSON object.

    The object has the members name, x, y, width, height and perhaps background.

    Raises
    ------
    ParameterError
        If the text says something else.
    """
    values = _from_json(text) if text.lstrip().startswith("{") else _from_short_form(text)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ParameterError(f"{text!r:.80} does not say the name of the ROI")
    try:
        return name, Roi.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ParameterError(f"ROI {name}: {where}: {first['msg']} in {text!r:.80}") from None


def _from_json(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"{text!r:.80} is no JSON ({error})") from None
    return dict(values)


def _from_short_form(text: str) -> dict[str, Any]:
    found = re.fullmatch(
        r"\s*([^=;,\s]+)\s*=\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*"
        r"(?:;\s*background\s*=\s*([^=;,\s]+)\s*)?",
        text,
        re.ASCII,
    )
    if not found:
        raise ParameterError(
            f"{text!r:.80} is not of the form NAME=x,y,width,height[;background=OTHER], "
            "in whole pixels"
        )
    keys = ("name", "x", "y", "width", "height", "background")
    return dict(zip(keys, found.groups(), strict=True))


def add_roi(parameters: RoiParameters, text: str) -> Mapping[str, Any]:
    """Return the changes that add a ROI."""
    name, roi = parse_roi(text)
    if name in parameters.rois:
        raise ParameterError(f"there is a ROI {name} already; use MoveRoi to move it")
    return {"rois": {**parameters.rois, name: roi}}


def move_roi(parameters: RoiParameters, text: str) -> Mapping[str, Any]:
    """Return the changes that move a ROI; its background stays unless one is named."""
    name, roi = parse_roi(text)
    old = _known(parameters, name)
    if roi.background is None:
        roi = roi.model_copy(update={"background": old.background})
    return {"rois": {**parameters.rois, name: roi}}


def rename_roi(parameters: RoiParameters, text: str) -> Mapping[str, Any]:
    """Return the changes that rename a ROI, `OLD=NEW`; it stays the background of others."""
    old, _, new = (part.strip() for part in text.partition("="))
    _known(parameters, old)
    if new in parameters.rois:
        raise ParameterError(f"there is a ROI {new} already")
    return {
        "rois": {
            new if name == old else name: roi.model_copy(update={"background": new})
            if roi.background == old
            else roi
            for name, roi in parameters.rois.items()
        }
    }


def delete_roi(parameters: RoiParameters, name: str) -> Mapping[str, Any]:
    """Return the changes that delete a ROI.

    Raises
    ------
    ParameterError
        If there is none, or another needs it as its background.
    """
    _known(parameters, name)
    users = [other for other, roi in parameters.rois.items() if roi.background == name]
    if users:
        raise ParameterError(f"ROI {name} is the background of {', '.join(users)}")
    return {"rois": {other: roi for other, roi in parameters.rois.items() if other != name}}


def _known(parameters: RoiParameters, name: str) -> Roi:
    if name not in parameters.rois:
        known = ", ".join(parameters.rois) or "none"
        raise ParameterError(f"there is no ROI {name!r:.40}; there are: {known}")
    return parameters.rois[name]


_FORM = "NAME=x,y,width,height[;background=OTHER], or the same as a JSON object."
COMMANDS = (
    Command("AddRoi", "Add a region of interest.", str, _FORM, add_roi),
    Command("MoveRoi", "Move or resize a region of interest.", str, _FORM, move_roi),
    Command("RenameRoi", "Rename a region of interest.", str, "OLD=NEW", rename_roi),
    Command("DeleteRoi", "Delete a region of interest.", str, "Its name.", delete_roi),
)
