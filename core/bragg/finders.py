"""Ways to look for peaks, by their names alone: `--help` does not wait for NumPy."""

from __future__ import annotations

from enum import Enum


class PeakFinder(Enum):
    """How peaks are looked for among the kept pixels."""

    NONE = "none"
    PATCH = "patch"
    PEAKFINDER8 = "peakfinder8"
