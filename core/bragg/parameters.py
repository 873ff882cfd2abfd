"""What can be set of the Bragg sparsifier; the names are those of pyFAI's sparsify-Bragg."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from ..azimuthal.errors import parse_error_model
from ..azimuthal.parameters import AzimuthalParameters
from ..azimuthal.units import Unit
from ..parameters import parameter
from ..preview import Binning
from .finders import PeakFinder
from .peaks import LEAST, PeakMode, PeakSettings
from .picking import Sparsifying

LARGEST_SPOT = 15
"""Largest side of a square that is kept whole, in pixels."""
MOST_PEAKS = 4096
"""Most peaks of a frame that a file has room for."""

ONE_A_SERIES = (
    "poni_file", "mask_file", "dark_files", "flat_files", "absorption_file", "polarization",
    "solid_angle", "unit", "radial_bins", "radial_range", "dummy", "max_peaks", "beamline",
    "save_source",
)  # fmt: skip
"""What a file says once for all of its frames."""


class BraggParameters(AzimuthalParameters):
    """What can be set of the Bragg sparsifier."""

    unit: Unit = parameter(Unit.R_M, "Unit of the radial axis.")
    solid_angle: bool = parameter(False, "Correct for the solid angle of a pixel.")
    error_model: str = parameter(
        "poisson",
        "Where the background's deviation comes from: poisson, poisson-classic, azimuthal, "
        "hybrid, or the variance of a pixel of I counts: 5*I+8.",
    )
    radial_bins: int = parameter(800, "Rings that the background is told on.", ge=1, le=65535)
    cycles: int = parameter(
        5, "Times that outliers are clipped before the background is taken.", ge=0, le=100
    )
    cutoff_clip: float = parameter(
        0.0,
        "Deviations from the background from which on a pixel is clipped; never fewer than "
        "Chauvenet's criterion has for the ring.",
        ge=0,
    )
    cutoff_pick: float = parameter(
        3.0, "Deviations above the background from which on a pixel is kept.", gt=0
    )
    spot_size: int = parameter(
        1,
        "Side of the squares that are kept whole where their pixels together stand out by "
        "cutoff_pick, beside single pixels that do: with 3 weak spots keep their counts, whose "
        "pixels do not stand out one by one. 1: single pixels only.",
        unit="px",
        ge=1,
        le=LARGEST_SPOT,
    )
    noise: float = parameter(
        1.0,
        "Noise of a pixel, added to the deviation in quadrature; nothing nearer to the background "
        "is kept.",
        unit="counts",
        ge=0,
    )
    peak_finder: PeakFinder = parameter(
        PeakFinder.NONE, "How peaks are looked for: not, in patches as pyFAI, or as Cheetah."
    )
    cutoff_peak: float = parameter(
        3.0, "Deviations above the background that a peak's highest pixel has at least.", gt=0
    )
    peak_patch_size: int = parameter(
        3,
        "Side of the square in which a peak is the highest pixel.",
        unit="px",
        ge=LEAST["patch_size"],
        le=31,
    )
    peak_connected: int = parameter(
        2,
        "Pixels of a peak, at least, that are themselves above their threshold.",
        ge=LEAST["connected"],
    )
    min_snr: float = parameter(
        5.0, "peakfinder8: least ratio of a peak's intensity to its error.", gt=0
    )
    min_pixels: int = parameter(2, "peakfinder8: least pixels of a peak.", ge=LEAST["min_pixels"])
    max_pixels: int = parameter(200, "peakfinder8: most pixels of a peak.", ge=LEAST["max_pixels"])
    local_background_radius: int = parameter(
        3,
        "peakfinder8: half the side of the square that the background is taken from.",
        unit="px",
        ge=LEAST["background_radius"],
        le=100,
    )
    peak_threshold: float = parameter(
        0.0, "Least counts of a peak's pixel (the ADC threshold of peakfinder8).", unit="counts"
    )
    min_peaks: int = parameter(
        0, "Frames with fewer peaks are not written (veto), but counted; 0: all are written.", ge=0
    )
    max_peaks: int = parameter(
        1024,
        "Peaks of a frame that the file has room for; of more, the most intense are written.",
        ge=1,
        le=MOST_PEAKS,
        expert=True,
    )
    beamline: str = parameter(
        "beamline", "Name of the instrument in the file.", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
    )
    save_source: bool = parameter(False, "Link the files that the frames were read from.")
    preview_binning: Binning = parameter(
        Binning.MAXIMUM,
        "What a preview pixel shows of the pixels under it; the maximum keeps single spots.",
    )

    @field_validator("spot_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("the side of the squares about pixels is odd")
        return value

    @model_validator(mode="after")
    def _peaks_are_looked_for(self) -> BraggParameters:
        if self.min_peaks and self.peak_finder is PeakFinder.NONE:
            raise ValueError("min_peaks needs peaks to be looked for; set peak_finder first")
        return self

    @model_validator(mode="after")
    def _the_kernels_take_it(self) -> BraggParameters:
        _ = self.sparsifying, self._peaks
        return self

    def other_file(self, other: BraggParameters) -> list[str]:
        """Return the names of what differs so that frames cannot be in one file."""
        names = [name for name in ONE_A_SERIES if getattr(self, name) != getattr(other, name)]
        if (self.peak_finder is PeakFinder.NONE) != (other.peak_finder is PeakFinder.NONE):
            names.append("peak_finder")
        return names

    @property
    def sparsifying(self) -> Sparsifying:
        """What the kernels take."""
        return Sparsifying(
            cycles=self.cycles,
            cutoff_clip=self.cutoff_clip,
            cutoff_pick=self.cutoff_pick,
            noise=self.noise,
            error_model=parse_error_model(self.error_model),
            peaks=None if self.peak_finder is PeakFinder.NONE else self._peaks,
        )

    @property
    def _peaks(self) -> PeakSettings:
        """How peaks are looked for, if they are."""
        islands = self.peak_finder is PeakFinder.PEAKFINDER8
        return PeakSettings(
            mode=PeakMode.PEAKFINDER8 if islands else PeakMode.PATCH,
            cutoff=self.cutoff_peak,
            patch_size=self.peak_patch_size,
            connected=self.peak_connected,
            min_snr=self.min_snr,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            background_radius=self.local_background_radius,
            threshold=self.peak_threshold,
        )
