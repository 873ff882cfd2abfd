"""A small image for screens, in which single photons do not vanish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .compute.jit import kernel
from .marks import Marks, Mask, Pixels, as_mask, as_pixels, is_valid
from .parameters import Parameters, parameter
from .stage import Kind, Output

LONGEST_SIDE = 1024
"""Pixels of a preview's longer side, at most."""
BINS = 256
"""Bins of a preview's histogram."""
LEVELS = (0.0, 1.0, 5.0, 50.0, 95.0, 99.0, 99.9, 100.0)
"""Percentiles that come with a preview."""
UPPER = LEVELS.index(99.9)
PIECE = 8
"""Rows of a preview that are made together."""


class Binning(Enum):
    """What stands for several pixels."""

    MAXIMUM = "maximum"
    MEAN = "mean"


class PreviewSource(Enum):
    """Which image a preview shows."""

    ACCUMULATED = "accumulated"
    IMAGE = "image"


class PreviewParameters(Parameters):
    """What the preview shows."""

    preview_source: PreviewSource = parameter(
        PreviewSource.ACCUMULATED, "The image that the preview shows: the sum, or the newest."
    )
    preview_binning: Binning = parameter(
        Binning.MAXIMUM,
        "What a preview pixel shows of the pixels under it; the maximum keeps single photons.",
    )


OUTPUTS = (
    Output(
        "preview",
        Kind.IMAGE,
        np.float32,
        label="Preview",
        doc=f"The chosen image, binned to {LONGEST_SIDE} pixels a side; NaN: no valid pixel.",
        axes=("row", "column"),
    ),
    Output(
        "preview_histogram",
        Kind.SPECTRUM,
        np.int64,
        doc=f"Preview pixels in {BINS} equal bins from percentile 0 to 99.9; higher in the last.",
        axes=("bin",),
    ),
    Output(
        "preview_percentiles",
        Kind.SPECTRUM,
        np.float64,
        doc=f"Percentiles {', '.join(f'{level:g}' for level in LEVELS)} of the preview's pixels.",
        axes=("percentile",),
    ),
)


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview and what a screen needs to choose its colours."""

    image: NDArray[np.float32]
    """(rows, columns); NaN where no pixel is valid."""
    histogram: NDArray[np.int64]
    """(BINS,) pixels, in bins from percentile 0 to 99.9; what is higher is in the last."""
    percentiles: NDArray[np.float64]
    """(len(LEVELS),); NaN if no pixel is valid."""


def no_preview() -> Preview:
    """Return the preview where there is no image."""
    nothing = np.empty(0, np.float32)
    return Preview(nothing.reshape(0, 0), _histogram(nothing, 0, 0), _percentiles(nothing))


def make_preview(
    image: Pixels | Sequence[Pixels], marks: Marks, mask: Mask | None, binning: Binning
) -> Preview:
    """Return the preview of an image (rows, columns).

    Parameters
    ----------
    image
        Of any real type; several of one type and shape stand for their sum.
    marks
        What tells valid pixels, for the type that `as_pixels` gives the image.
    mask
        True where a pixel is not shown; None: none.
    binning
        What stands for several pixels.
    """
    parts = [as_pixels(part) for part in ([image] if isinstance(image, np.ndarray) else image)]
    shape = parts[0].shape
    factor = max(1, -(-max(shape) // LONGEST_SIDE))
    rows, columns = (-(-side // factor) for side in shape)
    bin_piece = bin_maximum if binning is Binning.MAXIMUM else bin_mean
    binned, masked = np.empty((rows, columns), np.float32), as_mask(mask, shape)
    # In pieces, so that sums of parts stay in the cache.
    for first in range(0, rows, PIECE):
        piece = slice(first * factor, (first + PIECE) * factor)
        pixels = as_pixels(sum((part[piece] for part in parts[1:]), parts[0][piece]))
        bin_piece(pixels, marks, masked[piece], factor, binned[first : first + PIECE])
    ordered = np.sort(binned[~np.isnan(binned)])
    percentiles = _percentiles(ordered)
    return Preview(binned, _histogram(ordered, percentiles[0], percentiles[UPPER]), percentiles)


def _percentiles(ordered: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the percentiles of sorted values, interpolated linearly."""
    if not ordered.size:
        return np.full(len(LEVELS), np.nan)
    places = np.array(LEVELS) / 100 * (ordered.size - 1)
    below = places.astype(np.intp)
    above = np.minimum(below + 1, ordered.size - 1)
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    percentiles: NDArray[np.float64] = low + (high - low) * (places - below)
    return percentiles


def _histogram(ordered: NDArray[np.float32], low: float, high: float) -> NDArray[np.int64]:
    """Return how many of the sorted values lie in each bin."""
    if not ordered.size:
        return np.zeros(BINS, np.int64)
    edges = np.linspace(low, high, BINS + 1)[1:-1]
    below = np.searchsorted(ordered, edges, side="left")
    return np.diff(below, prepend=0, append=ordered.size).astype(np.int64)


@kernel
def bin_maximum(
    image: Pixels, marks: Marks, mask: Mask, factor: int, binned: NDArray[np.float32]
) -> None:
    """Fill `binned` with the maximum of the valid pixels of squares of an image.

    A square is `factor` pixels a side, less at the last row and column; NaN where
    it holds no valid pixel.
    """
    rows, columns = image.shape
    line = np.empty(columns)
    for row in range(binned.shape[0]):
        # First rows into one line, as they lie in memory; then columns.
        line[:] = -np.inf
        for y in range(row * factor, min((row + 1) * factor, rows)):
            pixels, masked = image[y], mask[y]
            for x in range(pixels.size):
                valid = is_valid(pixels[x], marks) & (not masked[x])
                value = np.float64(pixels[x]) if valid else -np.inf
                line[x] = value if value > line[x] else line[x]
        squares = binned[row]
        for column in range(squares.size):
            most = -np.inf
            for x in range(column * factor, min((column + 1) * factor, columns)):
                most = line[x] if line[x] > most else most
            squares[column] = most if most > -np.inf else np.nan


@kernel
def bin_mean(
    image: Pixels, marks: Marks, mask: Mask, factor: int, binned: NDArray[np.float32]
) -> None:
    """Fill `binned` with the mean of the valid pixels of squares; as `bin_maximum` otherwise."""
    rows, columns = image.shape
    line, counts = np.empty(columns), np.empty(columns)
    for row in range(binned.shape[0]):
        line[:], counts[:] = 0.0, 0.0
        for y in range(row * factor, min((row + 1) * factor, rows)):
            pixels, masked = image[y], mask[y]
            for x in range(pixels.size):
                valid = is_valid(pixels[x], marks) & (not masked[x])
                line[x] += np.float64(pixels[x]) if valid else 0.0
                counts[x] += valid
        squares = binned[row]
        for column in range(squares.size):
            total, number = 0.0, 0.0
            for x in range(column * factor, min((column + 1) * factor, columns)):
                total += line[x]
                number += counts[x]
            squares[column] = total / number if number > 0 else np.nan
