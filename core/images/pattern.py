"""Where the detector stands, and what follows: rings of equal q and the powder pattern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.integration import Integration, Pattern
from ..geometry import Geometry
from ..parameters import InputFile, ParameterError, Parameters, parameter
from ..stage import Command, Kind, Output, Record, Tree
from .accumulation import Accumulation

MOST_RINGS = 256


class GeometryParameters(Parameters):
    """Where the detector stands; a PONI file, where one is named, says it all."""

    photon_energy: float | None = parameter(
        None, "Photon energy.", unit="keV", label="Photon energy", gt=0
    )
    detector_distance: float | None = parameter(
        None, "Distance from the sample to the detector along the beam.", unit="m", gt=0
    )
    beam_center_x: float | None = parameter(
        None, "Column where the beam meets the detector; pixel centres are whole.", unit="px"
    )
    beam_center_y: float | None = parameter(
        None, "Row where the beam meets the detector; pixel centres are whole.", unit="px"
    )
    tilt: float = parameter(
        0.0, "Angle of the detector's normal to the beam, as pyFAI's.", unit="deg", gt=-90, lt=90
    )
    tilt_plane_rotation: float = parameter(
        0.0, "Direction of the tilt, from the columns' axis towards the rows'.", unit="deg"
    )
    pixel_size: float = parameter(172e-6, "Side of a square pixel.", unit="m", gt=0)
    poni_file: InputFile = parameter(
        "", "PONI file of pyFAI that replaces the values of the geometry; empty: none."
    )

    @property
    def geometry(self) -> Geometry | None:
        """The geometry; None if there is no PONI file, and energy, distance or centre are missing.

        Also None if there is a problem.
        """
        return self._found[0]

    @property
    def geometry_problem(self) -> str:
        """Why the PONI file cannot be used, in a sentence; empty if it can."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Geometry | None, str]:
        """Geometry and problem, found once for each set of parameters."""
        needed = ("photon_energy", "detector_distance", "beam_center_x", "beam_center_y")
        others = ("tilt", "tilt_plane_rotation", "pixel_size")
        try:
            if self.poni_file:
                return Geometry.from_poni(Path(self.poni_file)), ""
            if any(getattr(self, name) is None for name in needed):
                return None, ""
            return Geometry(**{name: getattr(self, name) for name in needed + others}), ""
        except ValueError as error:
            return None, f"geometry: {error}"

    def check(self) -> None:
        """Read the PONI file before it is taken."""
        super().check()
        if self.geometry_problem:
            raise ParameterError(self.geometry_problem)

    def check_shape(self, shape: tuple[int, int]) -> None:
        """Compare the PONI file with the frames' shape (rows, columns).

        Raises
        ------
        ParameterError
            If it is for another.
        """
        if not self.poni_file:
            return
        try:
            Geometry.from_poni(Path(self.poni_file), shape)
        except ValueError as error:
            raise ParameterError(f"poni_file: {error}") from None


class PatternParameters(GeometryParameters):
    """What is made of the geometry."""

    q_rings: list[float] = parameter(
        [], "Values of q whose rings are drawn.", unit="1/angstrom", max_length=MOST_RINGS
    )
    azimuthal_bins: int = parameter(
        1000, "Points of the powder pattern, over all q on the detector.", ge=1, le=100_000
    )
    solid_angle: bool = parameter(True, "Correct the pattern for the solid angle of a pixel.")
    polarization: float | None = parameter(
        None,
        "Polarisation factor to correct the pattern for: 1 along the rows, -1 across.",
        ge=-1,
        le=1,
    )

    def integration(self, shape: tuple[int, int]) -> Integration | None:
        """Return the integration for frames of (rows, columns), or None without a geometry."""
        if self.geometry is None:
            return None
        return _integration(
            self.geometry, shape, self.azimuthal_bins, self.solid_angle, self.polarization
        )


@lru_cache(maxsize=4)
def _integration(
    geometry: Geometry, shape: tuple[int, int], bins: int, solid_angle: bool, factor: float | None
) -> Integration:
    """Return an integration; the same one again for the same settings, as its matrix is dear."""
    return Integration(geometry, shape, bins, solid_angle, factor)


def clear_geometry(_: GeometryParameters, __: None) -> Mapping[str, Any]:
    """Return the changes that forget the detector's place; the beam's energy stays."""
    return {
        "detector_distance": None,
        "beam_center_x": None,
        "beam_center_y": None,
        "tilt": 0.0,
        "tilt_plane_rotation": 0.0,
        "poni_file": "",
    }


COMMANDS = (
    Command(
        "ClearGeometry",
        "Forget distance, beam centre, tilt and PONI file; energy and pixel size stay.",
        changes=clear_geometry,
    ),
)
_BIN = ("q",)
OUTPUTS = (
    Output(
        "geometry_valid",
        Kind.SCALAR,
        np.bool_,
        doc="True if energy, distance and beam centre are set, or a PONI file is.",
    ),
    Output(
        "poni",
        Kind.TEXT,
        doc="The geometry as text of a PONI file; empty without geometry or frames.",
        path="geometry/poni",
        record=Record.SERIES,
    ),
    Output(
        "q_ring_lines",
        Kind.SPECTRUM,
        unit="px",
        doc="Lines of equal q on the frame: row, column, row, column, ...; NaN, NaN between lines.",
        axes=("point",),
    ),
    Output(
        "azimuthal_q",
        Kind.SPECTRUM,
        unit="1/angstrom",
        label="q",
        doc="Bin centres of the powder pattern; NaN without geometry.",
        axes=_BIN,
        path="azimuthal/q",
        record=Record.SERIES,
    ),
    Output(
        "azimuthal_intensity",
        Kind.SPECTRUM,
        label="Intensity per pixel and frame",
        doc="Powder pattern of the accumulated sum: mean per pixel and frame.",
        axes=_BIN,
        path="azimuthal/intensity",
        record=Record.SERIES,
    ),
    Output(
        "azimuthal_sigma",
        Kind.SPECTRUM,
        label="Standard error",
        doc="Standard error of azimuthal_intensity, from the photons' Poisson statistics.",
        axes=_BIN,
        path="azimuthal/sigma",
        record=Record.SERIES,
    ),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "azimuthal": {
        "NX_class": "NXdata",
        "signal": "intensity",
        "axes": "q",
        "title": "Powder pattern of the accumulated frames",
    },
}


def no_pattern(bins: int) -> Pattern:
    """Return the pattern where there is none: NaN."""
    nothing = np.full(bins, np.nan)
    return Pattern(q=nothing, intensity=nothing, sigma=nothing)


def integrate(parameters: PatternParameters, total: Accumulation | None, photon: float) -> Pattern:
    """Return the powder pattern of a sum; NaN without geometry or frames.

    `photon` is what one photon adds to a pixel.
    """
    if total is None or not total.frames:
        return no_pattern(parameters.azimuthal_bins)
    rows, columns = total.shape
    integration = parameters.integration((rows, columns))
    if integration is None:
        return no_pattern(parameters.azimuthal_bins)
    count = None if total.missing is None else total.valid_count
    return integration.integrate(total.sum, count, total.frames, photon)


class PowderPattern:
    """The pattern as last calculated, and whether it is due again."""

    def __init__(self, bins: int) -> None:
        self.pattern = no_pattern(bins)
        self.stale = False
        """True if the sum or the settings changed since."""

    def adopt(self, parameters: PatternParameters) -> None:
        """Take up new parameters; a pattern of another length is no longer shown."""
        self.stale = True
        if self.pattern.q.size != parameters.azimuthal_bins:
            self.pattern = no_pattern(parameters.azimuthal_bins)

    def due(
        self, parameters: PatternParameters, total: Callable[[], Accumulation | None], photon: float
    ) -> Callable[[], Callable[[], None]] | None:
        """Return the calculation that is due, or None; `total` gives a copy of the sum."""
        if not self.stale:
            return None
        self.stale = False
        snapshot = total() if parameters.geometry is not None else None

        def work() -> Callable[[], None]:
            pattern = integrate(parameters, snapshot, photon)
            return lambda: self._store(pattern)

        return work

    def _store(self, pattern: Pattern) -> None:
        self.pattern = pattern

    def tree(self) -> Tree:
        """Return the pattern for the open file."""
        return pattern_tree(self.pattern)


def pattern_tree(pattern: Pattern) -> Tree:
    """Return a pattern as it stands in a file."""
    return {
        "azimuthal/q": pattern.q,
        "azimuthal/intensity": pattern.intensity,
        "azimuthal/sigma": pattern.sigma,
    }


def final_tree(pattern: Pattern) -> Tree:
    """Return a pattern as it stands in a complete file.

    Its errors stand there twice: readers of NXdata look for them under that name.
    """
    return {**pattern_tree(pattern), "azimuthal/intensity_errors": pattern.sigma}


def ring_lines(
    geometry: Geometry | None, q_values: list[float], shape: tuple[int, int] | None
) -> NDArray[np.float64]:
    """Return the lines of rings as row, column, row, ...; NaN, NaN between lines."""
    if geometry is None or shape is None:
        return np.empty(0)
    lines = [line for line in geometry.rings(q_values, shape) if line.size]
    gap = np.full((1, 2), np.nan)
    pieces = [piece for line in lines for piece in (line, gap)][:-1]
    return np.concatenate(pieces).ravel() if pieces else np.empty(0)


def warm_up() -> None:
    """Integrate a small image: pyFAI takes seconds to load, during which nothing else runs."""
    place = Geometry(
        photon_energy=10, detector_distance=1, beam_center_x=0, beam_center_y=0, pixel_size=1e-3
    )
    Integration(place, (4, 4), bins=2).integrate(np.ones((4, 4)), None, 1)
