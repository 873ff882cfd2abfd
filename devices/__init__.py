"""Tango devices: one thin class per stage."""
