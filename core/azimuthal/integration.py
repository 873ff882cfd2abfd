"""Azimuthal integration: the mean of a frame's pixels against radius.

The bins are pyFAI's (its matrix is built once); every frame is summed by our own
passes. With the share c of a pixel in a bin, its value v, dark d and
normalization w (flat times solid angle times polarisation times absorption), and
S over the pixels that count::

    intensity = S c (v - d) / S c w
    sigma     = sqrt(S c^2 variance) / S c w

Source: Kieffer, Wright, J. Appl. Cryst. 53 (2020), and pyFAI's integrate1d_ng.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compute.device import CPU, Compute
from ..geometry import Geometry
from ..marks import Pixels, as_pixels
from .decoding import Lend
from .errors import ErrorModel
from .experiment import Experiment
from .formula import Formula
from .limits import Limits, pixel_limits, usable
from .matrix import Range
from .splitting import Split, Splitting, Sums, splitting
from .units import Unit

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pattern1D:
    """A frame against radius. Arrays of (bins,), float64; NaN where no pixel counted."""

    radial: Floats
    """Middle of each bin."""
    intensity: Floats
    """Mean of the pixels, per unit of normalization."""
    sigma: Floats | None
    """Standard error of the intensity; None without an error model."""
    sum_signal: Floats
    """Sum of the pixels less dark, 0 where none counted, as the other sums."""
    sum_variance: Floats | None
    """Sum of their variance; None without an error model."""
    sum_normalization: Floats
    sum_norm_squared: Floats
    count: Floats
    """Number of pixels that counted; parts of pixels where they are split."""


class Summation:
    """What turns frames into sums over bins. Any number of threads may use it at once.

    Parameters
    ----------
    experiment
        The detector and what of a frame counts.
    splitting
        Its bins.
    error_model
        Where the variance comes from.
    """

    def __init__(
        self, experiment: Experiment, splitting: Splitting, error_model: ErrorModel | Formula
    ) -> None:
        self._experiment = experiment
        self._bins = splitting
        self._error_model = error_model
        self.lend: Lend | None = None
        """What frames are best decoded into; None: anything."""

    def sums(self, frame: Pixels) -> tuple[Sums, Floats | None]:
        """Return the sums over a frame, and those of the variance; None without an error model.

        Parameters
        ----------
        frame
            (rows, columns) or flat, of any kind of number.

        Raises
        ------
        ValueError
            If it has another shape, or holds no numbers.
        """
        pixels = self._flat(frame)
        limits = pixel_limits(pixels.dtype, self._experiment.setup)
        if isinstance(self._error_model, Formula):
            return self._by_formula(pixels, limits, self._error_model)
        floor = self._error_model.floor
        if floor is None or (floor == 0 and not self._bins.split):
            sums, negative = self._bins.sums(pixels, limits)
            if self._error_model is ErrorModel.AZIMUTHAL:
                return sums, self._bins.scatter(pixels, sums, limits)
            if floor is None:
                return sums, None
            if not negative:
                # The variance of each pixel is the pixel: it is summed already.
                return sums, sums.raw
        return self._bins.sums_and_variance(pixels, pixels, floor, limits)

    def sums_of(self, frames: Sequence[Pixels]) -> list[tuple[Sums, Floats | None]]:
        """Return what `sums` does, of frames of one type."""
        return [self.sums(frame) for frame in frames]

    def _by_formula(
        self, pixels: Pixels, limits: Limits, formula: Formula
    ) -> tuple[Sums, Floats | None]:
        """Return the sums where a formula tells the variance; where it tells none, none counts."""
        variance = formula(pixels)
        told = np.isfinite(variance)
        if not told.all():
            pixels = np.where(told & usable(pixels, limits), pixels, np.nan)
            limits = _FINITE
        return self._bins.sums_and_variance(pixels, variance, 0.0, limits)

    def _flat(self, frame: Pixels) -> Pixels:
        shape = self._experiment.shape
        if frame.shape not in (shape, (shape[0] * shape[1],)):
            raise ValueError(f"the frame has shape {frame.shape}, the experiment's have {shape}")
        if frame.dtype.kind not in "biuf" or frame.dtype.itemsize > 8:
            raise ValueError(f"the frame holds {frame.dtype}, no numbers of up to 8 bytes")
        return as_pixels(frame.view(np.uint8) if frame.dtype.kind == "b" else frame).reshape(-1)


class _Nothing(NamedTuple):
    dummy: None = None
    delta_dummy: None = None
    marks: bool = False


_FINITE = pixel_limits(np.float64, _Nothing())
"""Every number counts but NaN and infinities."""


def summation(
    experiment: Experiment,
    splitting: Splitting,
    error_model: ErrorModel | Formula,
    compute: Compute,
) -> Summation:
    """Return what turns frames into sums over bins where they are to be computed."""
    if not compute.opencl:
        return Summation(experiment, splitting, error_model)
    from .opencl_integration import OpenClSummation

    return OpenClSummation(experiment, splitting, error_model, compute)


class Integrator:
    """Integrates frames over azimuth. Any number of threads may use it at once.

    What is costly is built now, or taken from where it was built for the same settings.

    Parameters
    ----------
    experiment
        The detector and its corrections.
    bins
        Points of the pattern.
    unit
        Of the radial axis.
    radial_range
        Least and greatest radius in `unit`; None: all that is on the detector.
    azimuth_range
        Sector in deg, from its beginning to its end in the sense of pyFAI's chi;
        None: all around.
    split
        How pixels are shared out over bins.
    error_model
        Where sigma comes from.
    compute
        Where the frames are summed.

    Raises
    ------
    ValueError
        In one sentence, if there can be no such bins, or the device cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        bins: int,
        unit: Unit,
        radial_range: Range | None = None,
        azimuth_range: Range | None = None,
        split: Split = Split.NO,
        error_model: ErrorModel | Formula = ErrorModel.NONE,
        compute: Compute = CPU,
    ) -> None:
        self.unit = unit
        self.splitting, self.radial, _ = splitting(
            experiment, unit, bins, split, radial_range, azimuth_range
        )
        self._summation = summation(experiment, self.splitting, error_model, compute)
        self.lend = self._summation.lend
        """What frames are best decoded into; None: anything."""

    def integrate(self, pixels: Pixels) -> Pattern1D:
        """Return the pattern of a frame, (rows, columns) or flat, of any kind of number.

        Raises
        ------
        ValueError
            If it has another shape, or holds no numbers.
        """
        return self._pattern(*self._summation.sums(pixels))

    def integrate_batch(self, frames: Sequence[Pixels]) -> list[Pattern1D]:
        """Return the patterns of frames of one type; faster on a device than one by one."""
        return [self._pattern(*sums) for sums in self._summation.sums_of(frames)]

    def _pattern(self, sums: Sums, variance: Floats | None) -> Pattern1D:
        return Pattern1D(
            self.radial,
            *quotients(sums, variance),
            sums.signal,
            variance,
            sums.norm,
            sums.norm_squared,
            sums.count,
        )


def quotients(sums: Sums, variance: Floats | None) -> tuple[Floats, Floats | None]:
    """Return intensity and standard error; NaN where nothing counted."""
    norm = np.where(sums.norm != 0, sums.norm, np.nan)
    return sums.signal / norm, None if variance is None else np.sqrt(variance) / norm


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

    Pixels are split over bins by their bounding box, because the bins (1000 over the
    frame) are narrower than a pixel and unsplit ones beat against the pixel grid.
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
        bins, radial = self._bins
        counted = (valid_count > 0) & np.isfinite(total)
        signal = np.where(counted, total, 0).astype(np.float64).ravel()
        weight = np.where(counted, valid_count, 0).ravel() * bins.corrections.normalization
        norms, _ = bins.sums(weight.astype(np.float64), _FINITE)
        norm = np.where(norms.signal > 0, norms.signal, np.nan)
        sums, variance = bins.sums_and_variance(signal, signal, 0.0, _FINITE)
        return Pattern(radial, sums.signal / norm, np.sqrt(variance_gain * variance) / norm)

    @cached_property
    def _bins(self) -> tuple[Splitting, Floats]:
        """The bins and their middles."""
        experiment = Experiment.of_geometry(
            self.geometry, self.shape, self.solid_angle, self.polarization
        )
        built, radial, _ = splitting(experiment, Unit.Q_A, self.bins, Split.BBOX)
        return built, radial
