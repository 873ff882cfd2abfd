"""Sums of frames that count what went into every pixel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..frame import BadFrame, Series, check_shape
from ..marks import (
    Mask,
    Pixels,
    as_mask,
    as_pixels,
    marks,
    measured,
    over_range,
    sum_type,
    valid_pixels,
)
from ..stage import Tree
from .pixels import add_frame

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
        self.frames = 0
        self.overflow_pixels = 0
        """Pixels over their range, in all frames together."""
        self.total: Any = self.sum.dtype.type(0).item()
        """Sum over all pixels: an int (of any size) or a float."""
        self.series: list[Contribution] = []
        self._peak = 0
        """No pixel of an integer sum is further from 0."""
        self._missing: NDArray[np.uint32] | None = None
        self._mask: Mask | None = None
        self._masked = 0
        """Frames whose pixels under the mask are not in `_missing` yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self.sum.shape

    @property
    def missing(self) -> NDArray[np.uint32] | None:
        """How often each pixel was not valid; None as long as every pixel always was."""
        if self._masked:
            self._count_missing(as_mask(self._mask, self.shape) * np.uint32(self._masked))
            self._masked = 0
        return self._missing

    @property
    def valid_count(self) -> NDArray[np.uint32]:
        """How often each pixel was valid, (rows, columns); never changes, may be read-only."""
        missing = self.missing
        if missing is None:
            return np.broadcast_to(np.uint32(self.frames), self.shape)
        return np.uint32(self.frames) - missing

    def add(
        self,
        image: Pixels,
        mask: Mask | None,
        series: Series,
        support: NDArray[np.intp] | None = None,
    ) -> float:
        """Add the valid pixels of one frame; return the sum over them.

        Parameters
        ----------
        image
            (rows, columns).
        mask
            (rows, columns), True where a pixel is not to be used; None: none.
        series
            Whose frame it is.
        support
            Pixels, counted row after row and each once, outside of which the image
            is 0: then only they are looked at. None: all are.

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
        if support is None:
            overflow, added = self._add_all(pixels, masked)
        else:
            overflow, added = self._add_some(pixels, masked, support)
            self._leave_out(mask)
        self.frames += 1
        self.overflow_pixels += overflow
        self.total += added
        self._contribute(Contribution(series.run_id, series.filename, 1))
        return float(added)

    def _add_all(self, pixels: Pixels, mask: Mask) -> tuple[int, Any]:
        """Add all pixels; return how many are over their range, and the sum of the valid."""
        kind, zero, missing = marks(pixels.dtype), self.sum.dtype.type(0), self.missing
        invalid, overflow, added = add_frame(pixels, kind, mask, self.sum, missing, zero)
        if invalid and missing is None:
            self._count_missing((~valid_pixels(pixels, mask)).astype(np.uint32))
        return overflow, added

    def _add_some(self, pixels: Pixels, mask: Mask, support: NDArray[np.intp]) -> tuple[int, Any]:
        """Add some pixels, and count those of them as missing that are marked, not masked."""
        support = support[~mask.ravel()[support]]
        values, kind = pixels.ravel()[support], marks(pixels.dtype)
        valid = measured(values, kind)
        self.sum.reshape(-1)[support[valid]] += values[valid]
        if not valid.all():
            marked = np.zeros(self.shape, np.uint32)
            marked.reshape(-1)[support[~valid]] = 1
            self._count_missing(marked)
        added = values[valid].sum(dtype=self.sum.dtype)
        return int(over_range(values, kind).sum()), added.item()

    def _leave_out(self, mask: Mask | None) -> None:
        """Count the pixels under a mask as missing once more: later, for many frames at once."""
        if mask is not self._mask:
            self._missing, self._mask = self.missing, mask
        self._masked += mask is not None

    def _count_missing(self, times: NDArray[np.uint32]) -> None:
        """Count how often pixels were not valid."""
        self._missing = times if self._missing is None else self._missing + times

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
        self._missing, missing = self.missing, other.missing
        if missing is not None:
            self._count_missing(missing.copy())
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
        new._missing = None if new.missing is None else new.missing.copy()
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
        missing = self.missing
        return tree if missing is None else {**tree, "missing": missing}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Self:
        """Return the accumulation that `tree` gave.

        Raises
        ------
        ValueError
            If something is missing or does not fit.
        """
        try:
            total, missing = np.array(tree["sum"]), tree.get("missing")
            check_shape(total.shape, total.dtype)
            new = cls(total.shape, total.dtype)
            if total.dtype != new.sum.dtype:
                raise ValueError(f"a sum cannot be {total.dtype}")
            if missing is not None and np.shape(missing) != total.shape:
                raise ValueError(f"valid counts of shape {np.shape(missing)}")
            new.sum = total
            new._missing = None if missing is None else np.array(missing, np.uint32)
            new.frames = int(tree["frames"])
            new.overflow_pixels = int(tree["overflow_pixels"])
            new.total = type(new.total)(_text(tree["total"]))
            new.series = [Contribution(**entry) for entry in json.loads(_text(tree["series"]))]
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
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
