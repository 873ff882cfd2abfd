"""What can be set of diffraction tomography."""

from __future__ import annotations

import json
from enum import Enum
from functools import cached_property
from typing import Any

from pydantic import field_validator, model_validator

from ..azimuthal.errors import ErrorModel, parse_error_model
from ..azimuthal.parameters import AzimuthalParameters
from ..azimuthal.splitting import Split
from ..compute.device import Compute
from ..frame import BadFrame
from ..parameters import parameter
from .placing import Motors, PlaceBy
from .profiles import Bins, Profiles, profiles
from .reconstruction import Filter
from .scan import FastAxis, Grid
from .sinogram import MOST_RANGES, WHOLE, RadialRange, parse_ranges
from .tomogram import MOST_BYTES, map_bytes

MOST_SIDE = 16384
NO_PONI = "poni_file is not set: frames cannot be integrated"


class SlowAxis(Enum):
    """What the first axis of the map is."""

    ROTATION = "rotation"
    TRANSLATION = "translation"


class DiffTomoParameters(AzimuthalParameters):
    """What can be set of diffraction tomography."""

    n_translations: int = parameter(1, "Positions along the translation.", ge=1, le=MOST_SIDE)
    n_rotations: int = parameter(1, "Positions of the rotation.", ge=1, le=MOST_SIDE)
    n_diffraction: int = parameter(1000, "Points of a diffraction pattern.", ge=1, le=100_000)
    azimuthal_bins: int = parameter(
        0,
        "Points around the beam, for patterns in two dimensions; 0: one dimension.",
        ge=0,
        le=3600,
    )
    azimuth_range: list[float] = parameter(
        [],
        "Azimuths where the sector that is looked at begins and ends; empty: all.",
        unit="deg",
        max_length=2,
    )
    split: Split = parameter(
        Split.BBOX, "How a pixel is shared by the bins that it touches: no, or bbox.", expert=True
    )
    place_by: PlaceBy = parameter(
        PlaceBy.FRAME_NUMBER, "What tells where a frame belongs: its number, or motor positions."
    )
    offset: int = parameter(
        0,
        "Frames before the first position, which are left out; negative: so many positions are "
        "not measured at the beginning.",
        ge=-(1 << 31),
        lt=1 << 31,
    )
    zigzag: bool = parameter(False, "Every second line of the fast axis runs backwards.")
    fast_axis: FastAxis = parameter(
        FastAxis.TRANSLATION, "Axis that runs through all positions at each one of the other."
    )
    slow_axis: SlowAxis = parameter(
        SlowAxis.ROTATION,
        "What n_rotations counts: rotations, or positions of a second translation (plain maps).",
    )
    frames_per_point: int = parameter(
        1, "Frames of each position, which are averaged; a scan's own number goes first.", ge=1
    )
    continue_scan: bool = parameter(
        False, "Another series goes on in the same map; off: it begins with an empty one."
    )
    rotation_range: list[float] = parameter(
        [],
        "First and last position of the rotation; empty: what the scan says, or half a turn "
        "whose end is not measured again. Falling angles turn the other way.",
        unit="deg",
        max_length=2,
    )
    translation_range: list[float] = parameter(
        [],
        "First and last position of the translation; empty: what the scan says, or numbers.",
        max_length=2,
    )
    translation_unit: str = parameter("mm", "Unit of translations.", max_length=32)
    rotation_motor: str = parameter("", "Column of the scan; empty: its slow movable.")
    translation_motor: str = parameter("", "Column of the scan; empty: its fast movable.")
    position_tolerance: float = parameter(
        0.3, "Share of a step by which a motor may be beside a position.", gt=0, le=0.5
    )
    radial_ranges: list[str] = parameter(
        [],
        f"Radial ranges that sinograms are made of, at most {MOST_RANGES}: name=low,high in the "
        "unit.",
        max_length=MOST_RANGES,
    )
    sinogram_of: str = parameter(
        WHOLE, f"Name of the range whose sinogram is shown; {WHOLE}: the whole pattern."
    )
    subtract_background: bool = parameter(
        False,
        "Subtract from each range a straight line through what is beside it, half as wide as "
        "the range.",
    )
    point_rotation: int = parameter(0, "Rotation number of the pattern at a point.", ge=0)
    point_translation: int = parameter(0, "Translation number of the pattern at a point.", ge=0)
    reconstruct: bool = parameter(
        False, "Reconstruct the cross-section from the sinogram shown, at most once a second."
    )
    reconstruction_filter: Filter = parameter(
        Filter.RAMP, "Window of the reconstruction; the later ones smooth more."
    )
    rotation_centre: float | None = parameter(
        None, "Translation number at which the rotation axis is; not enabled: the middle.", ge=0
    )

    @field_validator("azimuth_range", "rotation_range", "translation_range")
    @classmethod
    def _two_ends(cls, value: list[float]) -> list[float]:
        if value and (len(value) != 2 or value[0] == value[1]):
            raise ValueError("a range is two different numbers")
        return value

    @field_validator("azimuth_range")
    @classmethod
    def _sector(cls, value: list[float]) -> list[float]:
        if not value:
            return value
        begin, width = value[0], value[1] - value[0]
        if not 0 < width <= 360:
            raise ValueError("it goes from an azimuth to a greater one, at most 360 deg further")
        # Azimuths jump at 180 deg, or else at 0: one of both must be outside.
        if all((begin - jump) % 360 + width > 360 for jump in (-180, 0)):
            raise ValueError("it cannot reach over both 0 and 180 deg")
        return value

    @field_validator("radial_ranges")
    @classmethod
    def _ranges(cls, texts: list[str]) -> list[str]:
        parse_ranges(texts)
        return texts

    @model_validator(mode="after")
    def _fits(self) -> DiffTomoParameters:
        if self.reconstruct and self.slow_axis is not SlowAxis.ROTATION:
            raise ValueError("reconstruct: there is no cross-section without a rotation")
        if self.sinogram_of not in (WHOLE, *(each.name for each in self.ranges)):
            raise ValueError(f"sinogram_of: there is no range named {self.sinogram_of}")
        points = self.grid.points
        nbytes = map_bytes(points, self.n_diffraction, self.azimuthal_bins, self.errors)
        if nbytes > MOST_BYTES:
            raise ValueError(
                f"a map of {points} positions and so many points takes {nbytes / 1e9:.1f} GB, "
                f"more than {MOST_BYTES / 1e9:.1f} GB"
            )
        return self

    @property
    def grid(self) -> Grid:
        """The order of the positions."""
        return Grid(
            translations=self.n_translations,
            rotations=self.n_rotations,
            offset=self.offset,
            zigzag=self.zigzag,
            fast=self.fast_axis,
            frames_per_point=self.frames_per_point,
        )

    @property
    def motors(self) -> Motors:
        """The motors of both axes."""
        return Motors(
            rotation=self.rotation_motor,
            translation=self.translation_motor,
            rotation_range=_ends(self.rotation_range),
            translation_range=_ends(self.translation_range),
            tolerance=self.position_tolerance,
        )

    @property
    def ranges(self) -> tuple[RadialRange, ...]:
        """The radial ranges."""
        return parse_ranges(self.radial_ranges)

    @property
    def errors(self) -> bool:
        """Whether patterns have errors."""
        return parse_error_model(self.error_model) is not ErrorModel.NONE

    @property
    def azimuths(self) -> tuple[float, float] | None:
        """First and last azimuth in deg; None: all."""
        return _ends(self.azimuth_range)

    @property
    def bins(self) -> Bins:
        """What patterns are made of."""
        return Bins(
            unit=self.unit,
            radial=self.n_diffraction,
            azimuthal=self.azimuthal_bins,
            radial_range=self.limits,
            azimuth_range=self.azimuths,
            split=self.split,
            error_model=self.error_model,
        )

    @cached_property
    def known_profiles(self) -> dict[tuple[int, ...], Profiles]:
        """What `profiles` found, once for each set of parameters."""
        return {}

    def profiles(self, shape: tuple[int, ...], compute: Compute) -> Profiles:
        """Return what makes patterns of frames of this shape.

        Raises
        ------
        BadFrame
            If the files named here do not fit, or there are none.
        """
        if not self.poni_file:
            raise BadFrame(NO_PONI)
        known = self.known_profiles
        if shape not in known:
            try:
                known[shape] = profiles(self.setup.experiment(shape), self.bins, compute)
            except ValueError as error:
                raise BadFrame(str(error)) from None
        return known[shape]

    @property
    def arrangement(self) -> tuple[Any, ...]:
        """What the place of a frame depends on."""
        return self.grid, self.place_by, self.motors

    @property
    def identity(self) -> str:
        """What a map depends on, as text: the same for the same map."""
        return json.dumps([self.meaning, repr(self.arrangement)], default=str)

    @property
    def meaning(self) -> dict[str, Any]:
        """What the patterns of the map depend on, by name."""
        names = (
            *AzimuthalParameters.model_fields,
            "n_diffraction",
            "azimuthal_bins",
            "azimuth_range",
            "split",
        )
        values = self.to_json()
        return {name: values[name] for name in names}


def _ends(values: list[float]) -> tuple[float, float] | None:
    return (values[0], values[1]) if values else None
