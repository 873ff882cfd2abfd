"""Integration into a cake: the mean of a frame's pixels against radius and azimuth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compute.device import CPU, Compute
from ..marks import Pixels
from .errors import ErrorModel
from .experiment import Experiment
from .formula import Formula
from .integration import quotients, summation
from .matrix import Range
from .splitting import Split, splitting
from .units import Unit

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cake:
    """A frame against azimuth and radius. Float64; images are (azimuthal, radial)."""

    radial: Floats
    """Middle of each radial bin."""
    azimuthal: Floats
    """Middle of each azimuthal bin in deg."""
    intensity: Floats
    """Mean of the pixels, per unit of normalization; NaN where none counted."""
    sigma: Floats | None
    """Standard error of the intensity, NaN likewise; None without an error model."""
    count: Floats
    """Number of pixels that counted; parts of pixels where they are split."""


class CakeIntegrator:
    """Integrates frames into cakes. Any number of threads may use it at once.

    What is costly is built now, or taken from where it was built for the same settings.

    Parameters
    ----------
    radial_bins, azimuthal_bins
        Bins of the two axes.

    The others are those of `Integrator`, and so is what is raised; without
    `azimuth_range` the cake reaches over the azimuths that are on the detector.
    """

    def __init__(
        self,
        experiment: Experiment,
        radial_bins: int,
        azimuthal_bins: int,
        unit: Unit,
        radial_range: Range | None = None,
        azimuth_range: Range | None = None,
        split: Split = Split.NO,
        error_model: ErrorModel | Formula = ErrorModel.NONE,
        compute: Compute = CPU,
    ) -> None:
        self.unit = unit
        self._shape = radial_bins, azimuthal_bins
        built, self.radial, self.azimuthal = splitting(
            experiment, unit, self._shape, split, radial_range, azimuth_range
        )
        self._summation = summation(experiment, built, error_model, compute)

    def integrate(self, pixels: Pixels) -> Cake:
        """Return the cake of a frame, (rows, columns) or flat, of any kind of number.

        Raises
        ------
        ValueError
            If it has another shape, or holds no numbers.
        """
        sums, variance = self._summation.sums(pixels)
        intensity, sigma = quotients(sums, variance)
        return Cake(
            self.radial,
            self.azimuthal,
            self._image(intensity),
            None if sigma is None else self._image(sigma),
            self._image(sums.count),
        )

    def _image(self, flat: Floats) -> Floats:
        return np.ascontiguousarray(flat.reshape(self._shape).T)
