"""From a frame to the patterns of the map: in one dimension, and in two where that is wanted."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.cake import Cake, CakeIntegrator
from ..azimuthal.decoding import borrow_pixels
from ..azimuthal.errors import ErrorModel, parse_error_model
from ..azimuthal.experiment import Experiment
from ..azimuthal.integration import Integrator, Pattern1D
from ..azimuthal.once import built_once
from ..azimuthal.splitting import Split
from ..azimuthal.units import Unit
from ..compute.device import CPU, Compute
from ..frame import BadFrame, Frame
from ..geometry import Geometry
from ..marks import as_pixels
from .layer import Profile
from .tomogram import Reduced

Ends = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Bins:
    """What patterns are made of."""

    unit: Unit
    radial: int
    azimuthal: int
    """0: one dimension only."""
    radial_range: Ends
    azimuth_range: Ends
    split: Split
    error_model: str


class Profiles:
    """Makes patterns of frames; any thread may.

    In two dimensions there are both: the pattern is integrated by itself, as it is
    no plain mean of the other.
    """

    def __init__(self, experiment: Experiment, bins: Bins, compute: Compute = CPU) -> None:
        model = parse_error_model(bins.error_model)
        self.configuration = json.dumps(experiment.configuration)
        """Geometry and corrections, as JSON."""
        self._pattern = Integrator(
            experiment,
            bins.radial,
            bins.unit,
            bins.radial_range,
            bins.azimuth_range,
            bins.split,
            model,
            compute,
        )
        self._cake: CakeIntegrator | None = None
        self.radial: NDArray[np.float64] = self._pattern.radial
        self.azimuthal: NDArray[np.float64] | None = None
        if bins.azimuthal:
            self._cake = CakeIntegrator(
                experiment,
                bins.radial,
                bins.azimuthal,
                bins.unit,
                bins.radial_range,
                bins.azimuth_range,
                bins.split,
                model,
                compute,
            )
            self.azimuthal = self._cake.azimuthal

    def reduce(self, frame: Frame) -> Reduced:
        """Return the patterns of a frame.

        Raises
        ------
        BadFrame
            If its pixels cannot be used.
        """
        pixels = as_pixels(borrow_pixels(frame, self._pattern.lend))
        try:
            pattern = _profile(self._pattern.integrate(pixels))
            cake = None if self._cake is None else _profile(self._cake.integrate(pixels))
        except ValueError as error:
            raise BadFrame(f"frame {frame.frame_id}: {error}") from None
        return Reduced(pattern, cake)


def _profile(found: Pattern1D | Cake) -> Profile:
    """Return a pattern or cake as the map keeps it."""
    sigma = None if found.sigma is None else found.sigma.astype(np.float32)
    return Profile(found.intensity.astype(np.float32), sigma)


@built_once(maxsize=4)
def profiles(experiment: Experiment, bins: Bins, compute: Compute = CPU) -> Profiles:
    """Return what makes patterns; the same again for the same experiment, bins and device."""
    return Profiles(experiment, bins, compute)


def warm_up() -> None:
    """Integrate small frames of the commonest pixels."""
    place = Geometry(
        photon_energy=10, detector_distance=1, beam_center_x=0, beam_center_y=0, pixel_size=1e-3
    )
    experiment = Experiment.of_geometry(place, (4, 4), solid_angle=True, polarization=None)
    for model in (ErrorModel.NONE, ErrorModel.POISSON):
        integrator = Integrator(experiment, 2, Unit.TTH_DEG, split=Split.BBOX, error_model=model)
        for dtype in (np.uint16, np.uint32, np.int32):
            integrator.integrate(np.ones((4, 4), dtype))
