"""The chain of a Pilatus: photon counting, or energies where time over threshold was converted."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import model_validator

from ..marks import Pixels, as_pixels, marks
from ..parameters import parameter
from ..stage import registry
from .chain import ImageChain
from .declaration import ChainParameters, chain_outputs
from .pixels import divide


class PilatusParameters(ChainParameters):
    """What can be set of a Pilatus."""

    pixel_size: float = parameter(172e-6, "Side of a square pixel.", unit="m", gt=0)
    energy_to_photons: bool = parameter(
        False, "Divide float frames, which are energies in keV, by the photon energy into photons."
    )

    @property
    def photon_energy_used(self) -> float | None:
        """Photon energy in keV: of the geometry, or as set without one."""
        return self.geometry.photon_energy if self.geometry else self.photon_energy

    @model_validator(mode="after")
    def _energy_is_known(self) -> PilatusParameters:
        if self.energy_to_photons and self.photon_energy_used is None:
            raise ValueError("energy_to_photons needs the photon energy; set photon_energy first")
        return self


@registry.register
class PilatusStage(ImageChain[PilatusParameters]):
    """Accumulates Pilatus frames: integer counts, or floats that are energies in keV.

    What outlives a series and what empties the sum: see `ImageChain`; so does a
    change of energy_to_photons, and of the photon energy while it is on.
    """

    name = "pilatus"
    title = "Pilatus accumulator"
    Parameters = PilatusParameters
    outputs = chain_outputs(np.float32)  # holds the 20 bits of the counters exactly
    pixel_types = (np.float32, np.int32)

    def prepare(self, image: Pixels, parameters: PilatusParameters) -> Pixels:
        """Divide energies into photons, if that is asked for."""
        energy = parameters.photon_energy_used
        if not parameters.energy_to_photons or energy is None or image.dtype.kind != "f":
            return image
        pixels = as_pixels(image)
        photons = np.empty_like(pixels)
        divide(pixels, marks(pixels.dtype), energy, photons)
        return photons

    def meaning(self, parameters: PilatusParameters) -> list[str]:
        """Return the orientation, and what energies are divided by."""
        words = super().meaning(parameters)
        if parameters.energy_to_photons:
            words.append(f"photons of {parameters.photon_energy_used} keV")
        return words

    def photon(self, parameters: PilatusParameters, dtype: np.dtype[Any]) -> float:
        """Return the energy of a photon in keV for energies, else 1."""
        energy = parameters.photon_energy_used
        is_energy = dtype.kind == "f" and not parameters.energy_to_photons
        return energy if is_energy and energy is not None else 1.0
