"""The stages that Ronda has: importing this module registers them all."""

from .images import balor, pilatus, zyla
from .stage import registry

__all__ = ["balor", "pilatus", "registry", "zyla"]
