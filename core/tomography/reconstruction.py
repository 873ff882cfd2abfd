"""Cross-sections from sinograms: filtered back-projection of parallel beams.

Coordinates: x and y are fixed to the sample, with the rotation axis at their
origin. At a rotation of theta the beam at the translation t goes through all
points with

    x cos(theta) + y sin(theta) = t - centre.

So x is the direction of growing translation at 0 deg, y at 90 deg. In the image
x grows with the column and y with the row. A stage that turns the other way has
falling angles. If the translation is counted the other way, x and y both are:
the image is turned by 180 deg, never mirrored.

Method: A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging
(IEEE Press 1988), chapter 3.3; the ramp is band-limited in space (their eq. 61),
which keeps the mean level right.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel

Floats = NDArray[np.float64]
LARGEST_GAP = 4
"""Angles missing over more than so many steps are not made up for by their neighbours."""


class Filter(Enum):
    """Window over the frequencies of a projection; the later ones smooth more."""

    RAMP = "ramp"
    SHEPP_LOGAN = "shepp-logan"
    COSINE = "cosine"
    HAMMING = "hamming"
    HANN = "hann"


def reconstruct(
    sinogram: Floats, angles: Floats, centre: float | None = None, window: Filter = Filter.RAMP
) -> Floats:
    """Return the cross-section that a sinogram shows.

    Parameters
    ----------
    sinogram
        (rotations, translations); NaN where not measured. A row without any value
        is left out; other gaps are filled along the rotation (see `filled`).
    angles
        Of the rows, in deg, (rotations,), in any order.
    centre
        Translation index at which the rotation axis is; None: in the middle.
    window
        Window over the frequencies.

    Returns
    -------
    (translations, translations)
        Indexed [y, x], with the rotation axis in the middle, in values of the
        sinogram per step of the translation; NaN where the beam did not pass at all
        angles, everywhere if nothing was measured or the axis is not among the
        translations.
    """
    width = sinogram.shape[1]
    middle = (width - 1) / 2
    axis = middle if centre is None else centre
    image = np.full((width, width), np.nan)
    reach = min(axis, width - 1 - axis) + 0.5
    there = np.isfinite(sinogram).any(axis=1)
    if reach <= 0 or not there.any():
        return image
    rows, theta = filled(sinogram[there]), np.deg2rad(angles[there])
    projections = np.ascontiguousarray(_filtered(rows, window) * angle_weights(theta)[:, None])
    _back_project(projections, np.cos(theta), np.sin(theta), axis, reach, image)
    return image


def filled(sinogram: Floats) -> Floats:
    """Return a sinogram without gaps.

    A gap is interpolated along the rotation, at the first and last angle from the
    nearest one; a translation that was never measured from its neighbours.

    Parameters
    ----------
    sinogram
        (rotations, translations); each row has a value.
    """
    out = sinogram.copy()
    known = np.isfinite(sinogram)
    for column in np.flatnonzero(known.any(axis=0) & ~known.all(axis=0)):
        out[:, column] = _interpolated(out[:, column], known[:, column])
    columns = np.isfinite(sinogram).any(axis=0)
    if not np.all(columns):
        for row in out:
            row[:] = _interpolated(row, columns)
    return out


def _interpolated(values: Floats, known: Any) -> Floats:
    place = np.arange(values.size)
    return np.asarray(np.interp(place, place[known], values[known]))


def angle_weights(theta: Floats) -> Floats:
    """Return the part of the half-circle that each angle stands for, in rad.

    Half the way to the next angle on both sides, directions being the same after
    half a turn: angles measured twice count half, those beside a missing row more.

    Parameters
    ----------
    theta
        In rad, (n,).
    """
    direction = np.mod(theta, np.pi)
    order = np.argsort(direction, kind="stable")
    gaps = np.diff(direction[order], append=direction[order[0]] + np.pi)
    real = gaps[gaps > 1e-6]
    step = float(np.median(real))
    gaps = np.where(gaps > (LARGEST_GAP + 0.5) * step, step, gaps)
    weights = np.empty_like(gaps)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def _filtered(rows: Floats, window: Filter) -> Floats:
    """Return projections, (rotations, translations), filtered for back-projection."""
    width = rows.shape[1]
    size = max(64, 1 << (2 * width - 1).bit_length())
    response = _response(size, window)
    return np.asarray(
        np.fft.irfft(np.fft.rfft(rows, size, axis=1) * response, size, axis=1)[:, :width]
    )


def _response(size: int, window: Filter) -> Floats:
    """Return the filter at the frequencies of `numpy.fft.rfft`, (size // 2 + 1,)."""
    place = np.arange(size)
    away = np.minimum(place, size - place)
    kernel_in_space = np.zeros(size)
    kernel_in_space[0] = 0.25
    odd = away % 2 == 1
    kernel_in_space[odd] = -1 / (np.pi * away[odd]) ** 2
    ramp: Floats = np.fft.rfft(kernel_in_space).real
    frequency = np.arange(size // 2 + 1) / size
    return ramp * _window(frequency, window)


def _window(frequency: Floats, window: Filter) -> Floats:
    """Return a window at frequencies in cycles per step, 0 to 0.5."""
    match window:
        case Filter.RAMP:
            return np.ones_like(frequency)
        case Filter.SHEPP_LOGAN:
            return np.sinc(frequency)
        case Filter.COSINE:
            return np.cos(np.pi * frequency)
        case Filter.HAMMING:
            return 0.54 + 0.46 * np.cos(2 * np.pi * frequency)
        case Filter.HANN:
            return 0.5 + 0.5 * np.cos(2 * np.pi * frequency)


@kernel
def _back_project(
    projections: Floats, cosine: Floats, sine: Floats, centre: float, reach: float, image: Floats
) -> None:
    """Set each pixel within reach of the axis to the sum of the projections at its place."""
    count, width = projections.shape
    middle = (image.shape[0] - 1) / 2
    for row in range(image.shape[0]):
        y = row - middle
        for column in range(image.shape[1]):
            x = column - middle
            if x * x + y * y > reach * reach:
                continue
            total = 0.0
            for number in range(count):
                place = centre + x * cosine[number] + y * sine[number]
                place = min(max(place, 0.0), width - 1.0)
                below = min(int(place), max(width - 2, 0))
                share = place - below
                above = min(below + 1, width - 1)
                total += (1 - share) * projections[number, below] + share * projections[
                    number, above
                ]
            image[row, column] = total
