"""Simulated detectors with the truth about them; importing this makes `simulated:` known."""

from . import source
from .balor import Balor, simulate_balor
from .eiger import Eiger, simulate_eiger
from .photons import PhotonKind
from .powder import (
    FEMTOMAX,
    Powder,
    lab6_lines,
    pilatus_seams,
    simulate_powder,
)
from .zyla import Zyla, simulate_zyla

__all__ = [
    "FEMTOMAX",
    "Balor",
    "Eiger",
    "PhotonKind",
    "Powder",
    "Zyla",
    "lab6_lines",
    "pilatus_seams",
    "simulate_balor",
    "simulate_eiger",
    "simulate_powder",
    "simulate_zyla",
    "source",
]
