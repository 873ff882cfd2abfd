"""Sums of frames that count what went into every pixel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..frame import BadFrame, Series
from ..stage import Tree
from .pixels import (
    Mask,
    Pixels,
    add_frame,
    as_mask,
    as_pixels,
    marks,
    sum_type,
    valid_pixels,
)

MOST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Contribution:
    """How many frames of a series are in a sum."""

    run_id: int
    filename: str
    frames: int

    def __str__(self) -> str:
        return f"{self.run_id} {self.filename or '(no file)'}: {self.frames} frames"


class Accumulation:
    """The sum of frames over their valid pixels.

    Parameters
    ----------
    shape
        (rows, columns).
    dtype
        Type of the frames; integers are summed in int64 and never wrap, floats in
        float64.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.sum: Pixels = np.zeros(shape, sum_type(dtype))
        self.missing: NDArray[np.uint32] | None = None
        """How often a pixel was not valid; None as long as every pixel always was."""
        self.frames = 0
        self.overflow_pixels = 0
        """Pixels over their range, in all frames together."""
        self.total: Any = self.sum.dtype.type(0).item()
        """Sum over all pixels: an int (of any size) or a float."""
        self.series: list[Contribution] = []
        self._peak = 0
        """No pixel of an integer sum is further from 0."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self.sum.shape

    @property
    def valid_count(self) -> NDArray[np.uint32]:
        """How often each pixel was valid, (rows, columns); never changes, may be read-only."""
        if self.missing is None:
            return np.broadcast_to(np.uint32(self.frames), self.shape)
        return np.uint32(self.frames) - self.missing

    def add(self, image: Pixels, mask: Mask | None, series: Series) -> None:
        """Add the valid pixels of one frame.

        Raises
        ------
        BadFrame
            If the frame has another shape or kind (integer or float), or integers
            too large for an exact sum; nothing is changed then.
        """
        if (image.shape, sum_type(image.dtype)) != (self.shape, self.sum.dtype):
            raise BadFrame(
                f"a frame of {image.shape} {image.dtype} cannot be added to a sum of "
                f"{self.shape} {self.sum.dtype}"
            )
        pixels, masked = as_pixels(image), as_mask(mask, image.shape)
        self._peak = room_for(pixels, masked, [self])
        invalid, overflow, added = add_frame(
            pixels, marks(pixels.dtype), masked, self.sum, self.missing, self.sum.dtype.type(0)
        )
        if invalid and self.missing is None:
            self.missing = (~valid_pixels(pixels, masked)).astype(np.uint32)
        self.frames += 1
        self.overflow_pixels += overflow
        self.total += added
        self._contribute(Contribution(series.run_id, series.filename, 1))

    def merge(self, other: Accumulation) -> None:
        """Add what another accumulation of the same shape and kind holds.

        Raises
        ------
        ValueError
            If the shapes or kinds differ, or the sums together are too large.
        """
        if (self.shape, self.sum.dtype) != (other.shape, other.sum.dtype):
            raise ValueError(
                f"a sum of {other.shape} {other.sum.dtype} cannot be added to one of "
                f"{self.shape} {self.sum.dtype}"
            )
        peak = _joint_peak([self, other])
        if peak > MOST:
            raise ValueError("the two sums together do not fit into 64 bits")
        self._peak = peak
        self.sum += other.sum
        if other.missing is not None and self.missing is not None:
            self.missing += other.missing
        elif other.missing is not None:
            self.missing = other.missing.copy()
        self.frames += other.frames
        self.overflow_pixels += other.overflow_pixels
        self.total += other.total
        for contribution in other.series:
            self._contribute(contribution)

    def copy(self) -> Self:
        """Return an independent copy."""
        new = self.__class__.__new__(self.__class__)
        new.__dict__.update(self.__dict__)
        new.sum = self.sum.copy()
        new.missing = None if self.missing is None else self.missing.copy()
        new.series = self.series.copy()
        return new

    def tree(self) -> Tree:
        """Return everything, for `from_tree`; the arrays are not copied."""
        tree = {
            "sum": self.sum,
            "frames": self.frames,
            "overflow_pixels": self.overflow_pixels,
            "total": str(self.total),
            "series": json.dumps([asdict(contribution) for contribution in self.series]),
        }
        return tree if self.missing is None else {**tree, "missing": self.missing}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Self:
        """Return the accumulation that `tree` gave.

        Raises
        ------
        ValueError
            If something is missing or does not fit.
        """
        try:
            total = np.array(tree["sum"])
            new = cls(total.shape, total.dtype)
            missing = tree.get("missing")
            if total.dtype != new.sum.dtype or total.ndim != 2:
                raise ValueError(f"a sum cannot be {total.dtype} of shape {total.shape}")
            if missing is not None and np.shape(missing) != total.shape:
                raise ValueError(f"valid counts of shape {np.shape(missing)}")
            new.sum = total
            new.missing = None if missing is None else np.array(missing, np.uint32)
            new.frames = int(tree["frames"])
            new.overflow_pixels = int(tree["overflow_pixels"])
            new.total = type(new.total)(_text(tree["total"]))
            new.series = [Contribution(**entry) for entry in json.loads(_text(tree["series"]))]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no accumulated sum: {error!r}") from None
        new._peak = new.exact_peak()
        return new

    def exact_peak(self) -> int:
        """Return how far the farthest pixel of an integer sum is from 0; 0 for floats."""
        if self.sum.dtype.kind == "f":
            return 0
        return max(int(self.sum.max()), -int(self.sum.min()))

    @property
    def peak(self) -> int:
        """A limit, quickly told, for `exact_peak`."""
        return self._peak

    def _contribute(self, new: Contribution) -> None:
        """Count the frames of a series, joined with those before if they are its own."""
        last = self.series[-1] if self.series else None
        if last and (last.run_id, last.filename) == (new.run_id, new.filename):
            self.series[-1] = replace(last, frames=last.frames + new.frames)
        else:
            self.series.append(new)


def room_for(pixels: Pixels, mask: Mask, sums: list[Accumulation]) -> int:
    """Return a limit for the largest pixel once a frame is added to sums taken together.

    Raises
    ------
    BadFrame
        If that does not fit into 64 bits, or the sum over the frame does not.
    """
    if pixels.dtype.kind == "f":
        return 0
    limits = np.iinfo(pixels.dtype)
    largest = max(limits.max, -limits.min)
    if pixels.dtype.itemsize == 8:
        values = pixels[valid_pixels(pixels, mask)]
        largest = max(int(values.max()), -int(values.min())) if values.size else 0
    peak = _joint_peak(sums, largest)
    if max(peak, largest * pixels.size) > MOST:
        raise BadFrame(
            f"{pixels.size} pixels up to {largest} cannot be summed exactly in 64 bits, beside "
            f"sums of up to {peak - largest}; save the sum and clear it"
        )
    return peak


def _joint_peak(sums: list[Accumulation], more: int = 0) -> int:
    """Return a limit for the largest pixel of sums together, found exactly where it matters."""
    peak = sum(part.peak for part in sums) + more
    return peak if peak <= MOST else sum(part.exact_peak() for part in sums) + more


def _text(value: Any) -> str:
    """Return text read from a file, where it may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
