"""The stages that Ronda has: importing this module registers them all."""

from .bragg import stage as bragg
from .images import balor, pilatus, zyla
from .stage import registry
from .tomography import stage as difftomo

__all__ = ["balor", "bragg", "difftomo", "pilatus", "registry", "zyla"]
