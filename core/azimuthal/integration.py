"""Azimuthal integration of accumulated frames into a powder pattern, by pyFAI behind our interface.

Method: pixels are split over bins by their bounding box and summed by a
one-thread compressed-column matrix (pyFAI's `bbox`, `csc`, `cython`). Split,
because the bins (1000 over the frame) are narrower than a pixel and unsplit ones
beat against the pixel grid; a matrix, because it is built once and then takes one
pass a pattern; one thread, because the others are for the frames. OpenCL is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import Geometry

METHOD = ("bbox", "csc", "cython")
UNIT = "q_A^-1"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A powder pattern: the mean of a frame's pixel on each ring. Arrays of (bins,), float64."""

    q: Floats
    """Centres of the bins in 1/angstrom."""
    intensity: Floats
    """Mean per pixel and frame, in the unit of the pixels; NaN where no pixel counted."""
    sigma: Floats
    """Standard error of the intensity from the photons' Poisson statistics; NaN likewise."""


@dataclass(frozen=True)
class Integration:
    """Turns sums of frames into powder patterns, for one geometry and shape of frame.

    Equal settings compare equal. What is costly (pyFAI's import, some seconds; the
    matrix, about one for a megapixel) is done by the first `integrate` and kept.

    Raises
    ------
    ValueError
        If there is no bin, or the polarisation factor lies outside -1 to 1.
    """

    geometry: Geometry
    shape: tuple[int, int]
    """(rows, columns) of the frames."""
    bins: int = 1000
    """Number of points of the pattern, over all q on the frame."""
    solid_angle: bool = True
    """Divide by the solid angle of a pixel, relative to one at normal incidence."""
    polarization: float | None = None
    """Divide by the polarisation: 1 along the rows (horizontal), -1 across; None: do not."""

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins is {self.bins}; a pattern has at least one")
        if self.polarization is not None and not -1 <= self.polarization <= 1:
            raise ValueError(f"polarization is {self.polarization:g}; it lies between -1 and 1")

    def integrate(
        self,
        total: NDArray[Any],
        valid_count: NDArray[Any] | None,
        frames: int,
        variance_gain: float = 1.0,
    ) -> Pattern:
        """Return the pattern of a sum of frames.

        The intensity of a ring is the sum of `total` over its pixels, divided by the
        sum of `valid_count` times solid angle and polarisation. The variance of
        that sum is taken as `variance_gain` times the sum itself.

        Parameters
        ----------
        total
            Sum of the frames' valid pixels, shape (rows, columns).
        valid_count
            How many frames each pixel counted in, same shape; a pixel with 0 never
            counts, whatever `total` holds there. None: all counted in all frames.
        frames
            Number of frames in the sum.
        variance_gain
            What one photon adds to `total`: 1 for photons, the photon energy for keV.

        Raises
        ------
        ValueError
            If `total` or `valid_count` does not have this shape.
        """
        if valid_count is None:
            valid_count = np.full(self.shape, frames, np.uint32)
        for name, image in (("total", total), ("valid_count", valid_count)):
            if image.shape != self.shape:
                raise ValueError(f"{name} has shape {image.shape}; these frames have {self.shape}")
        counted = np.where(valid_count > 0, total, 0)
        result = self._integrator.integrate1d_ng(
            counted,
            self.bins,
            variance=np.maximum(counted, 0) * variance_gain,
            flat=valid_count,
            correctSolidAngle=self.solid_angle,
            polarization_factor=self.polarization,
            method=METHOD,
            unit=UNIT,
        )
        weight = np.asarray(result.sum_normalization, np.float64)
        weight = np.where(weight > 0, weight, np.nan)
        return Pattern(
            q=np.asarray(result.radial, np.float64),
            intensity=np.asarray(result.sum_signal, np.float64) / weight,
            sigma=np.sqrt(np.asarray(result.sum_variance, np.float64)) / weight,
        )

    @cached_property
    def _integrator(self) -> Any:
        """The integrator of pyFAI, imported here: nobody else need wait the seconds that takes."""
        from pyFAI.detectors import Detector
        from pyFAI.integrator.azimuthal import AzimuthalIntegrator

        poni = self.geometry.poni()
        return AzimuthalIntegrator(
            dist=poni.distance,
            poni1=poni.poni1,
            poni2=poni.poni2,
            rot1=poni.rot1,
            rot2=poni.rot2,
            rot3=poni.rot3,
            detector=Detector(poni.pixel_size, poni.pixel_size, max_shape=self.shape),
            wavelength=poni.wavelength,
        )
