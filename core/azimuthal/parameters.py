"""What can be set of everything that works on rings: the geometry, and what pixels are worth."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from ..parameters import InputFile, ParameterError, Parameters, parameter
from ..poni import read_poni
from .errors import parse_error_model
from .experiment import Setup
from .units import Unit

MOST_FILES = 1000
"""Most dark or flat images that are averaged."""


class AzimuthalParameters(Parameters):
    """Where the detector stands and what its pixels are corrected for."""

    poni_file: InputFile = parameter("", "PONI file of pyFAI: where the detector stands.")
    mask_file: InputFile = parameter(
        "",
        "Image (EDF, TIFF, CBF, NPY, or FILE.h5::/dataset) whose nonzero pixels are left out, in "
        "place of the gaps that the detector named in the PONI file has; empty: those gaps.",
    )
    dark_files: list[InputFile] = parameter(
        [],
        "Dark images, averaged and subtracted: all of each file (EDF, TIFF, CBF, NPY) or "
        "FILE.h5::/dataset.",
        max_length=MOST_FILES,
    )
    flat_files: list[InputFile] = parameter(
        [],
        "Flat-field images, likewise averaged; pixels are divided by it.",
        max_length=MOST_FILES,
    )
    absorption_file: InputFile = parameter(
        "", "Image of the transmission to each pixel, which it is divided by; empty: none."
    )
    unit: Unit = parameter(Unit.TTH_DEG, "Unit of the radial axis.")
    radial_range: list[float] = parameter(
        [], "Least and greatest radius looked at, in the unit; empty: all.", max_length=2
    )
    polarization: float | None = parameter(
        None, "Polarisation factor to correct for: 1 along the rows, -1 across.", ge=-1, le=1
    )
    solid_angle: bool = parameter(True, "Correct for the solid angle of a pixel.")
    dummy: float | None = parameter(
        None, "Value of pixels that are left out in the frame that holds it."
    )
    delta_dummy: float = parameter(0.0, "How near to dummy a pixel is left out.", ge=0)
    detector_marks: bool = parameter(
        True,
        "Leave out what detectors mark: the largest value of unsigned pixels; -1, -2 and the "
        "largest of signed ones; -1, -2 and infinite floats.",
    )
    error_model: str = parameter(
        "none", "none, poisson, poisson-classic, azimuthal, hybrid, or the variance: 5*I+8."
    )

    @field_validator("radial_range")
    @classmethod
    def _range(cls, value: list[float]) -> list[float]:
        if value and (len(value) != 2 or not value[0] < value[1]):
            raise ValueError("a radial range is two numbers, the smaller one first")
        return value

    @field_validator("error_model")
    @classmethod
    def _model(cls, text: str) -> str:
        parse_error_model(text)
        return text

    @property
    def limits(self) -> tuple[float, float] | None:
        """Least and greatest radius in the unit; None: all."""
        return (self.radial_range[0], self.radial_range[1]) if self.radial_range else None

    @property
    def setup(self) -> Setup:
        """The detector in the beam, as the core of the reduction takes it."""
        return Setup(
            poni_file=self.poni_file,
            mask_file=self.mask_file,
            dark_files=tuple(self.dark_files),
            flat_files=tuple(self.flat_files),
            absorption_file=self.absorption_file,
            polarization=self.polarization,
            solid_angle=self.solid_angle,
            dummy=self.dummy,
            delta_dummy=self.delta_dummy,
            marks=self.detector_marks,
        )

    def check(self) -> None:
        """Read the PONI file before it is taken."""
        super().check()
        if self.poni_file:
            try:
                read_poni(Path(self.poni_file), any_place=True)
            except ValueError as error:
                raise ParameterError(f"poni_file: {error}") from None
