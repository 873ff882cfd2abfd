"""The stages that Ronda has: importing this module registers them all."""

from .images import pilatus
from .stage import registry

__all__ = ["pilatus", "registry"]
