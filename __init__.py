"""Ronda: live reduction of X-ray detector frames as Tango devices."""

__version__ = "0.1.0"
