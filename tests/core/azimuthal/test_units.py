"""Units of the radial axis: pyFAI's names, and what stands in files."""

import pint
import pytest
from pyFAI.units import to_unit
from ronda.core.azimuthal.units import Unit


@pytest.mark.parametrize("unit", list(Unit))
def test_every_unit_is_pyfais(unit):
    assert str(to_unit(unit.value)) == unit == unit.value


@pytest.mark.parametrize("unit", list(Unit))
def test_units_of_files_are_understood(unit):
    sizes = {"q_nm^-1": 1e9, "q_A^-1": 1e10, "2th_deg": 0.017453292519943295, "2th_rad": 1}
    size = {**sizes, "r_mm": 1e-3, "r_m": 1}[unit]
    base = pint.UnitRegistry()(unit.units).to_base_units()
    assert base.magnitude == pytest.approx(size)


def test_label_names_quantity_and_unit():
    assert Unit.Q_A.label == "Scattering vector q (Å⁻¹)"
    assert [unit.quantity for unit in Unit] == ["q", "q", "2th", "2th", "r", "r"]
    assert [unit for unit in Unit if unit.needs_wavelength] == [Unit.Q_NM, Unit.Q_A]
