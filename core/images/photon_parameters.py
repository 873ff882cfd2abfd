"""What can be set of a Balor."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import field_validator, model_validator

from ..marks import Rectangle
from ..parameters import parameter
from .cmos import CmosParameters
from .detection import BINS
from .hot import HotPixelParameters
from .roi import Roi


class CleanImage(Enum):
    """What a pixel of the clean image holds."""

    COUNTS = "counts"
    """The number of photons, as uint16."""
    ENERGY = "energy"
    """The sum of their energies, as float32."""


class BalorParameters(HotPixelParameters, CmosParameters):
    """What can be set of a Balor."""

    pixel_size: float = parameter(12e-6, "Side of a square pixel.", unit="m", gt=0)
    hit_threshold: float | None = parameter(
        110.0,
        "Counts above dark from which on a pixel may belong to a photon.",
        unit="counts",
        gt=0,
    )
    noise_sigmas: float | None = parameter(
        None,
        "In place of hit_threshold: so many times the noise that each pixel has in the recorded "
        "dark, at least 1 count (for cameras whose signal is close to the noise).",
        gt=0,
    )
    photon_sum_min: float | None = parameter(
        800.0, "Sum of 3 x 3 pixels from which on a candidate is a photon.", unit="counts", gt=0
    )
    photon_sum_max: float = parameter(
        1400.0, "Sum over which there are two photons or more.", unit="counts", gt=0
    )
    view_sum_min: float = parameter(
        1100.0, "Sum from which on a photon is in the clean image.", unit="counts", gt=0
    )
    gain: float = parameter(
        1.0,
        "The camera's own counts for each count of hit_threshold, the photon sums and the "
        "energies: 1 for those of a Balor; its counts per keV give energies in keV.",
        gt=0,
    )
    analysis_roi: str = parameter(
        "", "Where photons are looked for: x,y,width,height; empty: nowhere."
    )
    hit_density_limit: float = parameter(
        2.0,
        "Share of hit pixels over which photons cannot be told apart: the frame is thresholded.",
        unit="%",
        gt=0,
        le=100,
    )
    double_fraction_limit: float = parameter(
        5.0, "Share of double photons over which there is an alarm.", unit="%", gt=0, le=100
    )
    histogram_width: float = parameter(
        10.0,
        f"Width of each of the {BINS} bins of the energy histogram; a change begins "
        "another histogram.",
        unit="counts",
        gt=0,
        expert=True,
    )
    clean_image: CleanImage = parameter(
        CleanImage.COUNTS, "What a pixel of the clean image holds: photons, or their energy."
    )
    republish_photons: bool = parameter(
        True, "Re-publish clean images as lists of photons; off: as full images.", expert=True
    )
    trusted: bool = parameter(
        False, "The photons are trusted, so that the raw frames need not be saved."
    )
    save_raw: bool = parameter(
        True, "The detector saves raw frames; off (only if trusted): it does not while all is well."
    )

    @property
    def analysis(self) -> Rectangle | None:
        """First row, end row, first column, end column of the analysis ROI; None: there is none."""
        return _region(self.analysis_roi).rectangle if self.analysis_roi else None

    @property
    def detects(self) -> bool:
        """True if photons are looked for."""
        return not self.unset

    @property
    def unset(self) -> list[str]:
        """What must be set for that."""
        needed = {
            "hit_threshold": self.hit_threshold or self.noise_sigmas,
            "photon_sum_min": self.photon_sum_min,
            "analysis_roi": self.analysis_roi,
        }
        return [name for name, value in needed.items() if not value]

    @field_validator("analysis_roi", mode="before")
    @classmethod
    def _region_is_one(cls, value: Any) -> Any:
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        if isinstance(text, str) and text.strip():
            region = _region(text)
            return f"{region.x},{region.y},{region.width},{region.height}"
        return text.strip() if isinstance(text, str) else text or ""

    @model_validator(mode="after")
    def _possible(self) -> BalorParameters:
        if not (self.save_raw or self.trusted):
            raise ValueError("save_raw can only be switched off while trusted is on")
        if self.noise_sigmas is not None and not self.dark_file:
            raise ValueError("noise_sigmas needs a recorded dark: set dark_file first")
        return self


def _region(text: str) -> Roi:
    """Return the rectangle `x,y,width,height`.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        x, y, width, height = (int(number) for number in text.split(","))
        return Roi(x=x, y=y, width=width, height=height)
    except ValueError:
        raise ValueError("it is not x,y,width,height in whole pixels") from None
