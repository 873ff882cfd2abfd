"""What every image chain declares: what can be set, what is shown, what can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import DTypeLike

from .. import preview
from ..mask import MaskParameters
from ..preview import PreviewParameters
from ..stage import Command, Kind, Output
from . import beam, curves, pattern, roi, sums
from .beam import BeamParameters
from .curves import SeriesParameters
from .orientation import OrientationParameters
from .pattern import PatternParameters
from .sums import AccumulationParameters


class ChainParameters(
    PreviewParameters,
    PatternParameters,
    SeriesParameters,
    AccumulationParameters,
    BeamParameters,
    MaskParameters,
    OrientationParameters,
):
    """What can be set of any image chain."""


INDIFFERENT = frozenset(
    name
    for group in (PreviewParameters, PatternParameters, SeriesParameters, AccumulationParameters)
    for name in group.model_fields.keys() - MaskParameters.model_fields
)
"""Parameters that change nothing about the counts of a frame whose `meaning` is the same."""
COMMANDS: tuple[Command, ...] = (*sums.COMMANDS, *roi.COMMANDS, *pattern.COMMANDS)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    **sums.GROUPS,
    **beam.GROUPS,
    **curves.GROUPS,
    **pattern.GROUPS,
}


def chain_outputs(dtype: DTypeLike) -> tuple[Output, ...]:
    """Declare the outputs of a chain whose newest image is served in a type of pixels."""
    image = Output(
        "image",
        Kind.IMAGE,
        dtype,
        label="Newest image",
        doc="The newest frame after orientation and pre-step.",
        axes=("row", "column"),
    )
    groups = (preview.OUTPUTS, sums.OUTPUTS, beam.OUTPUTS, curves.OUTPUTS, pattern.OUTPUTS)
    return (image, *(output for group in groups for output in group))
