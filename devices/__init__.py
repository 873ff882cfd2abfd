"""Tango devices: one thin class per stage."""

from . import tango_source as tango_source  # makes the scheme tango: known
