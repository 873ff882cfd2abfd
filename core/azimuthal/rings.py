"""Rings of pixels: each pixel belongs to the one bin in which its centre lies."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .experiment import Experiment, Floats, Singles, read_only
from .matrix import Range, build_matrix
from .once import built_once
from .units import Unit

Index = NDArray[np.uint16 | np.uint32]


class Rings:
    """The ring of each pixel, and what is the same for all frames. All arrays are read-only.

    Pixels are flat, in C order. The rings are pyFAI's without pixel splitting:
    equidistant between the least and the greatest radius of all pixels that are
    not left out, or over the range.

    Parameters
    ----------
    experiment
        The detector and its corrections.
    unit
        Of the radial axis.
    bins
        Number of rings.
    radial_range
        Least and greatest radius in `unit`; None: all that is on the detector.
    azimuth_range
        Least and greatest azimuth in deg; None: all around.

    Raises
    ------
    ValueError
        In one sentence, if there can be no such rings.
    """

    def __init__(
        self,
        experiment: Experiment,
        unit: Unit,
        bins: int,
        radial_range: Range | None = None,
        azimuth_range: Range | None = None,
    ) -> None:
        matrix = build_matrix(experiment, unit, bins, False, radial_range, azimuth_range)
        self.experiment = experiment
        self.unit = unit
        self.bins = bins
        self.centres: Floats = matrix.centres
        """Middle of each ring in `unit`, (bins,)."""
        self.width = matrix.width
        """Of a ring in `unit`."""
        self.lowest = float(matrix.centres[0]) - self.width / 2
        """Inner edge of the first ring in `unit`."""
        ring = np.full(experiment.mask.size, bins, index_type(bins))
        ring[matrix.pixel] = matrix.bin
        self.ring: Index = read_only(ring)
        """Ring of each pixel, (pixels,); `bins` where it is left out or on none."""
        flat = experiment.normalization
        self.normalization: Singles | None = None if flat is None else flat.ravel()
        """What divides each pixel, (pixels,); None: nothing."""
        self.dark: Singles | None = None if experiment.dark is None else experiment.dark.ravel()
        """What is subtracted from each pixel, (pixels,); None: nothing."""
        weight = None if flat is None else self.normalization
        self.count: NDArray[np.int64] = read_only(self._sum(None).astype(np.int64))
        """Pixels on each ring, (bins,)."""
        self.norm: Floats = read_only(self._sum(weight))
        """Sum of the normalization over each ring, (bins,)."""
        self.norm_squared: Floats = read_only(self._sum(squared(weight)))
        """Sum of its square, (bins,)."""

    @cached_property
    def radius(self) -> Singles:
        """Where the pixel centres lie, in `unit`, (rows, columns); NaN where left out."""
        radius = self.experiment.radius(self.unit).astype(np.float32)
        radius[self.experiment.mask] = np.nan
        return read_only(radius)

    def _sum(self, weight: NDArray[Any] | None) -> Floats:
        sums = np.bincount(self.ring, weight, minlength=self.bins + 1)[: self.bins]
        return sums.astype(np.float64)


def squared(weight: Singles | None) -> Floats | None:
    """Return the square of the normalization in double precision."""
    return None if weight is None else np.square(weight, dtype=np.float64)


def index_type(bins: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smallest type that holds a bin, or `bins` for none."""
    return np.uint16 if bins <= np.iinfo(np.uint16).max else np.uint32


@built_once(maxsize=8)
def rings(
    experiment: Experiment,
    unit: Unit,
    bins: int,
    radial_range: Range | None = None,
    azimuth_range: Range | None = None,
) -> Rings:
    """Return rings; the same ones again for the same settings."""
    return Rings(experiment, unit, bins, radial_range, azimuth_range)
