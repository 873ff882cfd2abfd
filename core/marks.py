"""What detectors mark instead of measuring, and how kernels take images.

A marked pixel is never summed:

========================  ==============  =======================
pixel type                masked          overflow (counted)
========================  ==============  =======================
unsigned integers                         the type's largest value
signed integers           -1              -2, the type's largest value
floats                    -1, NaN         -2, infinities
========================  ==============  =======================

(Pilatus and Eiger write -1 in gaps and -2 where a counter overflowed; see the
STINS notes of streaming-receiver. The largest value means saturation.)
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .compute.jit import kernel

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]
Rectangle = tuple[int, int, int, int]
"""First row, end row, first column, end column."""


class Marks(NamedTuple):
    """What tells a measured pixel from a marked one, in the pixels' own type.

    A pixel is valid if it lies between `lowest` and `highest` and is none of the
    other two. NaN lies nowhere, so it is no overflow either.
    """

    lowest: Any
    highest: Any
    masked: Any
    overflow: Any


@cache
def marks(dtype: DTypeLike) -> Marks:
    """Return the marks of a native pixel type (integers of 1 to 8 bytes, float32, float64)."""
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.kind == "f":
        most = np.finfo(kind).max
        return Marks(-most, most, kind.type(-1), kind.type(-2))
    limits = np.iinfo(kind)
    below_top, top = kind.type(limits.max - 1), kind.type(limits.max)
    if kind.kind == "u":
        return Marks(kind.type(0), below_top, top, top)
    return Marks(kind.type(limits.min), below_top, kind.type(-1), kind.type(-2))


def unmarked(dtype: DTypeLike) -> Marks:
    """Return marks that leave every pixel valid but NaN, infinities and int64's least."""
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.kind == "f":
        most, never = np.finfo(kind).max, kind.type(np.nan)
        return Marks(-most, most, never, never)
    limits = np.iinfo(kind)
    least = kind.type(limits.min)
    return Marks(least, kind.type(limits.max), least, least)


def as_pixels(image: Pixels) -> Pixels:
    """Return an image as kernels take it: native, aligned, contiguous, read-only.

    It is copied only where it must be. Half precision becomes single. Unsigned
    integers of 8 bytes become signed, and what is too large for that saturates.
    """
    kind = image.dtype.newbyteorder("=")
    if kind == np.float16:
        kind = np.dtype(np.float32)
    elif kind == np.uint64:
        kind = np.dtype(np.int64)
        image = np.minimum(image, np.iinfo(kind).max)
    pixels = np.require(image, kind, ["C", "A"]).view()
    pixels.flags.writeable = False
    return pixels


def as_mask(mask: Mask | None, shape: tuple[int, ...]) -> Mask:
    """Return a mask as kernels take it: contiguous and read-only; None leaves nothing out.

    Raises
    ------
    ValueError
        If it has another shape than the frame: kernels do not look where they reach.
    """
    if mask is None:
        return _nothing_masked(shape)
    if mask.shape != shape:
        raise ValueError(f"a mask of {mask.shape} does not fit a frame of {shape}")
    mask = np.require(mask, np.bool_, ["C"]).view()
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=4)
def _nothing_masked(shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask.flags.writeable = False
    return mask


def valid_pixels(pixels: Pixels, mask: Mask) -> Mask:
    """Return where pixels, as from `as_pixels`, are measured and not masked."""
    valid: Mask = measured(pixels, marks(pixels.dtype)) & ~mask
    return valid


def sum_type(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type in which pixels are summed: int64 for integers, else float64."""
    return np.dtype(np.float64 if np.dtype(dtype).kind == "f" else np.int64)


def measured(value: Any, marks: Marks) -> Any:
    """Tell whether a pixel, or each of many, was measured."""
    return (
        (value >= marks.lowest)
        & (value <= marks.highest)
        & (value != marks.masked)
        & (value != marks.overflow)
    )


def over_range(value: Any, marks: Marks) -> Any:
    """Tell whether a pixel, or each of many, is marked as over its range."""
    return (value < marks.lowest) | (value > marks.highest) | (value == marks.overflow)


is_valid, is_overflow = kernel(measured), kernel(over_range)
