"""Profiles of the positions of a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scan import Place

Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Profile:
    """The intensities of one frame, with or without errors."""

    intensity: NDArray[Any]
    """(bins,) or (azimuthal bins, bins); NaN where no pixel counted."""
    sigma: NDArray[Any] | None = None
    """Standard errors, likewise."""


class Layer:
    """Profiles of all positions, float32; NaN where not measured.

    Memory is taken by what is measured: the NaN of a position is written when somebody
    looks there.

    Parameters
    ----------
    shape
        (rotations, translations).
    bins
        Shape of a profile.
    errors
        Whether profiles have errors.
    """

    def __init__(self, shape: tuple[int, int], bins: tuple[int, ...], errors: bool) -> None:
        # Of zeros the system gives pages when they are touched.
        self._intensity: Singles = np.zeros((*shape, *bins), np.float32)
        self._sigma: Singles | None = np.zeros((*shape, *bins), np.float32) if errors else None
        self._written = np.zeros(shape, np.bool_)
        """Positions that hold a profile, or NaN."""
        self.numbers: NDArray[np.uint32] | None = None
        """Of how many frames each value is the mean; 0: of all those of its position. None: all 0,
        as no bin was masked in some frames of a point only."""

    @property
    def intensity(self) -> Singles:
        """Of all positions."""
        return self.arrays()[0]

    @property
    def sigma(self) -> Singles | None:
        """Of all positions; None: no errors."""
        return self.arrays()[1]

    def arrays(self, places: Iterable[Place] | None = None) -> tuple[Singles, Singles | None]:
        """Return intensities and errors, which hold what is at some places; None: at all."""
        if places is None and not self._written.all():
            gaps = ~self._written
            for array in (self._intensity, self._sigma):
                if array is not None:
                    array[gaps] = np.nan
            self._written[:] = True
        for place in places or ():
            self.profile(place)
        return self._intensity, self._sigma

    def set(self, place: Place, profile: Profile) -> None:
        """Replace the profile of a position."""
        self._intensity[place] = profile.intensity
        if self._sigma is not None:
            self._sigma[place] = np.nan if profile.sigma is None else profile.sigma
        self._written[place] = True
        if self.numbers is not None:
            self.numbers[place] = 0

    def average(self, place: Place, profile: Profile, frames: int) -> None:
        """Make the profile of a position, which is of some frames, the mean of it and another's.

        A bin's mean is over the frames in which it had a value.
        """
        before = np.isfinite(self._intensity[place]) * np.uint32(frames)
        if self.numbers is not None:
            before = np.where(self.numbers[place] > 0, self.numbers[place], before)
        there = np.isfinite(profile.intensity)
        after = before + there
        old = np.where(before > 0, self._intensity[place], 0)
        new = np.where(there, profile.intensity, 0)
        with np.errstate(invalid="ignore"):
            self._intensity[place] = (old * before + new) / np.where(after > 0, after, np.nan)
            if self._sigma is not None and profile.sigma is not None:
                spread = np.hypot(
                    np.where(before > 0, self._sigma[place], 0) * before,
                    np.where(there, profile.sigma, 0),
                )
                self._sigma[place] = spread / np.where(after > 0, after, np.nan)
        if self.numbers is None and ((after > 0) & (after <= frames)).any():
            self.numbers = np.zeros(self._intensity.shape, np.uint32)
        if self.numbers is not None:
            self.numbers[place] = after

    def profile(self, place: Place) -> Profile:
        """Return the profile of a position; views."""
        if not self._written[place]:
            self.set(place, Profile(np.array(np.nan)))
        return Profile(self._intensity[place], None if self._sigma is None else self._sigma[place])

    def row(self, number: int, there: NDArray[np.bool_]) -> Singles:
        """Return the intensities at some positions of a row, all of them measured; a copy."""
        row: Singles = self._intensity[number, there]
        return row

    def tree(self, name: str, measured: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Return the measured profiles for a checkpoint; copies."""
        tree: dict[str, NDArray[Any]] = {f"{name}/intensity": self._intensity[measured]}
        if self._sigma is not None:
            tree[f"{name}/sigma"] = self._sigma[measured]
        if self.numbers is not None:
            tree[f"{name}/numbers"] = self.numbers[measured]
        return tree

    def restore(self, name: str, tree: Mapping[str, Any], measured: NDArray[np.bool_]) -> None:
        """Take back what `tree` gave.

        Raises
        ------
        ValueError, KeyError
            If it is of another form.
        """
        self._intensity[measured] = tree[f"{name}/intensity"]
        if self._sigma is not None:
            self._sigma[measured] = tree[f"{name}/sigma"]
        self._written |= measured
        if f"{name}/numbers" in tree and self.numbers is None:
            self.numbers = np.zeros(self._intensity.shape, np.uint32)
        if self.numbers is not None:
            self.numbers[measured] = tree.get(f"{name}/numbers", 0)
