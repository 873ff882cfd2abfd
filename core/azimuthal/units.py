"""Units of the radial axis, under pyFAI's names."""

from __future__ import annotations

from enum import StrEnum

_QUANTITY = {"q": "Scattering vector q", "2th": "Scattering angle 2θ", "r": "Radius r"}
_UNITS = {
    "nm^-1": ("1/nm", "nm⁻¹"),
    "A^-1": ("1/angstrom", "Å⁻¹"),
    "deg": ("deg", "°"),
    "rad": ("rad", "rad"),
    "mm": ("mm", "mm"),
    "m": ("m", "m"),
}


class Unit(StrEnum):
    """What rings are equidistant in.

    q = 4 pi sin(theta) / wavelength; 2 theta is the angle to the beam; r is the
    distance from the beam, across it.
    """

    Q_NM = "q_nm^-1"
    Q_A = "q_A^-1"
    TTH_DEG = "2th_deg"
    TTH_RAD = "2th_rad"
    R_MM = "r_mm"
    R_M = "r_m"

    @property
    def quantity(self) -> str:
        """What is measured: `q`, `2th` or `r`."""
        return self.value.partition("_")[0]

    @property
    def units(self) -> str:
        """The unit as NeXus files and pint spell it, such as `1/angstrom`."""
        return _UNITS[self.value.partition("_")[2]][0]

    @property
    def label(self) -> str:
        """What is written at an axis."""
        return f"{_QUANTITY[self.quantity]} ({_UNITS[self.value.partition('_')[2]][1]})"

    @property
    def needs_wavelength(self) -> bool:
        """True if it cannot be had without the wavelength."""
        return self.quantity == "q"
