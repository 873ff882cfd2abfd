"""Dark and threshold in one pass over a frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel
from ..marks import Marks, Pixels, is_valid, marks
from .dark import Dark, in_type
from .orientation import Orientation


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What is subtracted from the pixels of a frame, and what of them counts.

    Each is (rows, columns), or (1, columns) for all rows alike, in the frames' own type.
    """

    dark: Pixels
    """From 0 on."""
    threshold: Pixels
    """Counts above dark from which on a pixel counts; the type's largest: never."""

    def subtracted(self, image: Pixels) -> Pixels:
        """Return an image less dark, 0 below the threshold; marked pixels keep their mark."""
        result = np.empty_like(image)
        subtract_dark(
            image, marks(image.dtype), self.dark, self.threshold, image.dtype.type(0), result
        )
        return result


@lru_cache(maxsize=4)
def uniform(dark: float, threshold: float, columns: int, dtype: np.dtype[Any]) -> Correction:
    """Return the correction for a dark and threshold that are the same everywhere."""
    return Correction(_dark(np.full((1, columns), dark), dtype), _row(threshold, columns, dtype))


@lru_cache(maxsize=4)
def recorded(
    dark: Dark,
    orientation: Orientation,
    threshold: float,
    sigmas: float | None,
    dtype: np.dtype[Any],
) -> Correction:
    """Return the correction for a recorded dark, turned as the frames are.

    Parameters
    ----------
    dark, orientation
        The dark as the detector sent it, and how it is turned.
    threshold
        Counts above dark from which on a pixel counts.
    sigmas
        Instead: so many times the scatter (rms) of each pixel in the dark, at least 1 count.
    dtype
        Of the frames.
    """
    mean = _dark(orientation.apply(dark.mean), dtype)
    if sigmas is None or dark.rms is None:
        return Correction(mean, _row(threshold, mean.shape[1], dtype))
    above = np.maximum(np.float64(sigmas) * orientation.apply(dark.rms), 1)
    return Correction(mean, _threshold(above, dtype))


def _row(threshold: float, columns: int, dtype: np.dtype[Any]) -> Pixels:
    return _threshold(np.full((1, columns), threshold), dtype)


def _dark(dark: NDArray[Any], dtype: np.dtype[Any]) -> Pixels:
    """Return a dark in the frames' type: integers rounded, from 0 to what is no mark."""
    return np.ascontiguousarray(in_type(np.maximum(dark, 0), dtype))


def _threshold(above: NDArray[np.float64], dtype: np.dtype[Any]) -> Pixels:
    """Return thresholds in the frames' type, integers rounded up; NaN: never reached."""
    if dtype.kind == "f":
        reached = above <= np.finfo(dtype).max
        return np.ascontiguousarray(np.where(reached, above, np.inf), dtype)
    never = np.iinfo(dtype).max
    reached = above < never
    exact = np.ceil(np.where(reached, above, 0)).astype(dtype)
    return np.ascontiguousarray(np.where(reached, exact, never), dtype)


@kernel
def subtract_dark(
    frame: Pixels, marks: Marks, dark: Pixels, threshold: Pixels, zero: Any, result: Pixels
) -> None:
    """Set each valid pixel to its value less dark, or to 0 below the threshold.

    Parameters
    ----------
    frame, result
        (rows, columns).
    marks
        Of the frame's type; marked pixels are copied.
    dark, threshold
        (rows, columns), or (1, columns) for all rows.
    zero
        0 of the frame's type.
    """
    many_darks, many_thresholds = dark.shape[0] > 1, threshold.shape[0] > 1
    for row in range(frame.shape[0]):
        pixels, results = frame[row], result[row]
        darks, thresholds = dark[row * many_darks], threshold[row * many_thresholds]
        for column in range(pixels.size):
            value = pixels[column]
            # In the frame's own type, which vectorises best; what wraps is not taken.
            above = frame.dtype.type(value - darks[column])
            counts = (value >= darks[column]) & (above >= thresholds[column])
            kept = above if counts else zero
            results[column] = kept if is_valid(value, marks) else value
