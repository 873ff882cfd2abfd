"""Tango devices: one thin class per stage."""

from ..core import simulation as simulation  # makes the scheme simulated: known
from . import lima_source as lima_source  # makes the scheme lima: known
from . import tango_source as tango_source  # makes the scheme tango: known
