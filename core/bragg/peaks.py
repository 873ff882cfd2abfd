"""Peaks of a frame: which spots there are, where, how strong.

Two ways, both on the background of the rings, `d` being a pixel's distance from it
(I / normalization less background) and `e = sqrt(deviation^2 + noise^2)` its error:

``patch`` (as pyFAI). A peak is a pixel that stands out (see `thresholds`) by
`cutoff` and is the highest of the square of `patch_size` pixels about it, of which
`connected` stand out at least, itself included, and none is left out or beyond the
frame's edge. Of equal pixels the first in the order of rows and columns is the
peak. Intensity, error and place are the sum of d, sqrt(sum e^2) and the centre of
gravity over the pixels of the square with d > 0; the SNR is intensity / error.
Where a square has a saturated pixel, see `overloads`.

``peakfinder8`` (Barty et al. 2014, Cheetah). A peak is `min_pixels` to `max_pixels`
pixels that touch each other, corners included, and each stand out by `min_snr` and
reach `threshold`. From the pixels that do not, in the square of `background_radius`
about the highest, come the local background, mean and standard deviation of d; the
latter is at least `e` of the highest pixel, which also holds where fewer than
`LOCAL` pixels are there. Intensity and place are the sum and the centre of gravity of d less
local background over the peak; the SNR is intensity / local deviation as in Cheetah,
and at least `min_snr`; the error is the local deviation times the root of the number
of pixels. Saturated pixels are in no island: a spot is found by what is about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel
from .layout import dark_at, norm_at
from .overloads import HOT, MOST, SEEN, around, saturated_about
from .thresholds import View, background_at, counts, deviates, distance

LEAST = {
    "patch_size": 3, "connected": 1, "min_pixels": 1, "max_pixels": 1, "background_radius": 1,
}  # fmt: skip
"""Least value of settings that are whole numbers."""
LOCAL = 4
"""Pixels that a local background is taken from at least."""


class PeakMode(Enum):
    """How peaks are looked for."""

    PATCH = "patch"
    PEAKFINDER8 = "peakfinder8"


@dataclass(frozen=True, slots=True)
class PeakSettings:
    """How peaks are looked for; see the module for what each setting does.

    Raises
    ------
    ValueError
        In one sentence, if a setting is out of its range.
    """

    mode: PeakMode = PeakMode.PATCH
    cutoff: float = 3.0
    """Of `patch`: deviations that a pixel stands out by."""
    patch_size: int = 3
    """Of `patch`: side of the square in pixels, odd."""
    connected: int = 2
    min_snr: float = 5.0
    min_pixels: int = 2
    max_pixels: int = 200
    background_radius: int = 3
    """Half the side of the square in pixels, without its middle."""
    threshold: float = 0.0
    """Least counts of a peak's pixel."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} of peaks is {getattr(self, name)}, less than {least}")
        if self.patch_size % 2 == 0:
            raise ValueError(
                f"patch_size of peaks is {self.patch_size}: the side of a patch is odd"
            )
        if not (self.cutoff > 0 and self.min_snr > 0):
            raise ValueError("cutoff and min_snr of peaks must be greater than 0")
        if self.max_pixels < self.min_pixels:
            raise ValueError(
                f"max_pixels of peaks is {self.max_pixels}, less than min_pixels {self.min_pixels}"
            )

    @property
    def stands_out(self) -> float:
        """Deviations that each pixel of a peak stands out by."""
        return self.cutoff if self.mode is PeakMode.PATCH else self.min_snr


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Peaks in the order of the rows and columns of their highest pixels, (n,) each.

    With saturated pixels about it, of `patch`, of its first pixel that stands out.
    """

    intensity: NDArray[np.float32]
    """Above the background, in units of I / normalization."""
    sigma: NDArray[np.float32]
    """Its error."""
    x: NDArray[np.float32]
    """Column of the centre of gravity; pixel c spans c +- 0.5."""
    y: NDArray[np.float32]
    """Row of it."""
    snr: NDArray[np.float32]
    """Infinite where the background has no error."""
    pixels: NDArray[np.int32]
    """Pixels that stand out."""

    def __len__(self) -> int:
        return len(self.intensity)

    def __getitem__(self, chosen: Any) -> Peaks:
        """Return some of them, by index array or slice."""
        return Peaks(
            self.intensity[chosen], self.sigma[chosen], self.x[chosen], self.y[chosen],
            self.snr[chosen], self.pixels[chosen],
        )  # fmt: skip


def find_peaks(
    view: View, norm: Any, dark: Any, hot: Any, label: Any, rule: Any, settings: PeakSettings
) -> Peaks:
    """Find the peaks of a frame.

    Parameters
    ----------
    view
        The frame and its background.
    norm, dark
        Of each pixel, or None.
    hot
        Pixels that stand out by `settings.stands_out`, sorted.
    label
        Of each pixel; all 0 before and after, (pixels,) uint8.
    rule
        What they stand out by.
    settings
        How peaks are looked for.
    """
    table = np.empty((len(hot), 6))
    if settings.mode is PeakMode.PATCH:
        half = settings.patch_size // 2
        members = np.empty(MOST + 2, np.int64)
        number = in_patches(
            view, norm, dark, hot, label, members, rule, half, settings.connected, table
        )
        found = table[:number]
    else:
        place = np.empty(len(hot), np.int64)
        stack = np.empty(len(hot), np.int64)
        high = hot[at_least(view.pixels, hot, settings.threshold)]
        number = in_islands(
            view, norm, dark, high, label, stack, rule.noise, settings.min_snr,
            settings.min_pixels, settings.max_pixels, settings.background_radius, place, table,
        )  # fmt: skip
        found = table[:number][np.argsort(place[:number], kind="stable")]
    with np.errstate(over="ignore"):
        columns = found.T.astype(np.float32)
    intensity, sigma, x, y, snr, _ = columns
    return Peaks(intensity, sigma, x, y, snr, found[:, 5].astype(np.int32))


def at_least(pixels: Any, chosen: Any, threshold: float) -> Any:
    """Return which of the chosen pixels have at least that many counts."""
    return pixels[chosen] >= threshold


# --------------------------------------------------------------------- patches


@kernel
def in_patches(
    view: Any, norm: Any, dark: Any, hot: Any, label: Any, members: Any, rule: Any, half: int,
    connected: int, table: Any,
) -> int:  # fmt: skip
    """Find peaks as pyFAI does, and those with saturated pixels; return their number."""
    number = 0
    rows = view.pixels.size // view.columns
    for index in range(hot.size):
        label[hot[index]] = HOT
    for index in range(hot.size):
        row, column = divmod(np.int64(hot[index]), view.columns)
        inside = half <= row < rows - half and half <= column < view.columns - half
        if inside and patch(view, norm, dark, row, column, rule, half, connected, table[number]):
            number += 1
            continue
        size = saturated_about(view, np.int64(hot[index]), half, label, members)
        if size == 0:
            continue
        first = around(view, norm, dark, label, members, size, rule.noise, half, table[number])
        number += first == hot[index] and table[number, 5] >= connected
    for index in range(hot.size):
        label[hot[index]] = 0
    return number


@kernel
def patch(
    view: Any, norm: Any, dark: Any, row: int, column: int, rule: Any, half: int, connected: int,
    found: Any,
) -> bool:  # fmt: skip
    """Describe the peak about a pixel, unless there is none."""
    middle = row * view.columns + column
    highest, _ = deviates(view, norm, dark, middle, rule.noise)
    total, variance, down, right, active = 0.0, 0.0, 0.0, 0.0, 0
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            pixel = middle + y * view.columns + x
            if not counts(view, pixel):
                return False
            above, error = deviates(view, norm, dark, pixel, rule.noise)
            if above > highest or (above == highest and pixel < middle):
                return False
            if not above > 0:
                continue
            total += above
            variance += error * error
            down += y * above
            right += x * above
            active += stands_out(view, norm, dark, pixel, above, rule)
    if active < connected:
        return False
    sigma = np.sqrt(variance)
    found[0], found[1] = total, sigma
    found[2], found[3] = column + right / total, row + down / total
    found[4], found[5] = total / sigma, active
    return True


@kernel
def stands_out(view: Any, norm: Any, dark: Any, pixel: Any, above: float, rule: Any) -> bool:
    """Tell whether a pixel so far above the background stands out."""
    average, deviation = background_at(view.profile, view.radius[pixel])
    far = distance(average, deviation, norm_at(norm, pixel), dark_at(dark, pixel), rule)
    return bool(above > far)


# --------------------------------------------------------------------- islands


@kernel
def in_islands(
    view: Any, norm: Any, dark: Any, hot: Any, label: Any, stack: Any, noise: float,
    min_snr: float, least: int, most: int, radius: int, place: Any, table: Any,
) -> int:  # fmt: skip
    """Find peaks as Cheetah does; return their number.

    `label` is HOT where a pixel is, SEEN where it was looked at, 0 afterwards.
    """
    number = 0
    for index in range(hot.size):
        label[hot[index]] = HOT
    for index in range(hot.size):
        if label[hot[index]] != HOT:
            continue
        size = island(view, np.int64(hot[index]), label, stack)
        if size < least or size > most:
            continue
        top = describe(view, norm, dark, label, stack, size, noise, radius, table[number])
        if table[number, 4] >= min_snr:
            place[number] = top
            number += 1
    for index in range(hot.size):
        label[hot[index]] = 0
    return number


@kernel
def island(view: Any, first: Any, label: Any, stack: Any) -> int:
    """Gather the hot pixels that hang together with one; return their number."""
    rows = view.pixels.size // view.columns
    stack[0], label[first] = first, SEEN
    done, size = 0, 1
    while done < size:
        row, column = divmod(stack[done], view.columns)
        done += 1
        for y in range(max(row - 1, 0), min(row + 2, rows)):
            for x in range(max(column - 1, 0), min(column + 2, view.columns)):
                pixel = y * view.columns + x
                if label[pixel] == HOT:
                    label[pixel] = SEEN
                    stack[size] = pixel
                    size += 1
    return size


@kernel
def describe(
    view: Any, norm: Any, dark: Any, label: Any, members: Any, size: int, noise: float,
    radius: int, found: Any,
) -> int:  # fmt: skip
    """Describe an island; return its highest pixel."""
    top, highest, deviation = members[0], -np.inf, 0.0
    for index in range(size):
        pixel = members[index]
        above, error = deviates(view, norm, dark, pixel, noise)
        if above > highest or (above == highest and pixel < top):
            top, highest, deviation = pixel, above, error
    offset, scatter = surroundings(view, norm, dark, label, top, noise, radius)
    deviation = max(deviation, scatter)
    total, down, right = 0.0, 0.0, 0.0
    row, column = divmod(top, view.columns)
    for index in range(size):
        above, _ = deviates(view, norm, dark, members[index], noise)
        y, x = divmod(members[index], view.columns)
        total += above - offset
        down += (y - row) * (above - offset)
        right += (x - column) * (above - offset)
    found[0], found[1] = total, deviation * np.sqrt(float(size))
    found[2], found[3] = column + right / total, row + down / total
    found[4], found[5] = total / deviation, size
    return int(top)


@kernel
def surroundings(
    view: Any, norm: Any, dark: Any, label: Any, top: int, noise: float, radius: int
) -> tuple[float, float]:
    """Return mean and standard deviation of the pixels about a peak that are not hot."""
    rows = view.pixels.size // view.columns
    row, column = divmod(top, view.columns)
    number, total, squared = 0, 0.0, 0.0
    for y in range(max(row - radius, 0), min(row + radius + 1, rows)):
        for x in range(max(column - radius, 0), min(column + radius + 1, view.columns)):
            pixel = y * view.columns + x
            if label[pixel] == 0 and counts(view, pixel):
                above, _ = deviates(view, norm, dark, pixel, noise)
                number += 1
                total += above
                squared += above * above
    if number < LOCAL:
        return 0.0, 0.0
    mean = total / number
    return mean, np.sqrt(max(squared / number - mean * mean, 0.0))
