"""Which pixels of a frame count: neither marked by the detector nor the dummy value."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike

from ..compute.jit import kernel
from ..marks import marks


class DynamicMask(Protocol):
    """What of the settings says which pixels of a frame are left out."""

    @property
    def dummy(self) -> float | None:
        """Value of pixels that are left out; None: there is none."""

    @property
    def delta_dummy(self) -> float | None:
        """Pixels at most so far from `dummy` are left out as well."""

    @property
    def marks(self) -> bool:
        """True if what the detector marks is left out."""


class Limits(NamedTuple):
    """What tells a pixel that counts from one that does not, in the pixels' own type.

    It counts if it lies from `lowest` to `highest` and in none of the three
    ranges, ends included; a range whose ends are swapped is empty. NaN never counts.
    """

    lowest: Any
    highest: Any
    masked_low: Any
    masked_high: Any
    overflow_low: Any
    overflow_high: Any
    dummy_low: Any
    dummy_high: Any
    plain_low: Any
    """Pixels from here to `plain_high` all count and are not negative: the quick look."""
    plain_high: Any


def pixel_limits(dtype: DTypeLike, setup: DynamicMask) -> Limits:
    """Return the limits for pixels as `as_pixels` gives them.

    Parameters
    ----------
    dtype
        Native integers of 1 to 8 bytes (not unsigned of 8), float32, float64.
    setup
        Dummy value and whether the detector's marks are heeded.
    """
    kind = np.dtype(dtype)
    nothing = (kind.type(1), kind.type(0))
    if kind.kind == "f":
        lowest, highest = -np.finfo(kind).max, np.finfo(kind).max
    else:
        lowest, highest = kind.type(np.iinfo(kind).min), kind.type(np.iinfo(kind).max)
    masked = overflow = nothing
    if setup.marks:
        marked = marks(kind)
        highest = marked.highest
        if kind.kind != "u":
            masked, overflow = (marked.masked,) * 2, (marked.overflow,) * 2
    dummy = _dummy(kind, setup.dummy, setup.delta_dummy or 0.0) or nothing
    plain = _plain(kind.type(0), highest, *dummy)
    return Limits(lowest, highest, *masked, *overflow, *dummy, *plain)


def _plain(low: Any, high: Any, dummy_low: Any, dummy_high: Any) -> tuple[Any, Any]:
    """Return the part of a range, from 0, that no dummy value is in; the lower one of two."""
    if dummy_low > dummy_high or dummy_high < low or dummy_low > high:
        return low, high
    if dummy_low > low:
        return low, _beside(dummy_low, -1)
    return (_beside(dummy_high, 1), high) if dummy_high < high else (high, low)


def _beside(value: Any, step: int) -> Any:
    """Return the number of a type that is next to one."""
    if isinstance(value, np.floating):
        return np.nextafter(value, value.dtype.type(step * math.inf))
    return value.dtype.type(int(value) + step)


def _dummy(kind: np.dtype[Any], dummy: float | None, delta: float) -> tuple[Any, Any] | None:
    """Return the range of dummy values in a pixel type; None if it holds none."""
    if dummy is None or math.isnan(dummy):
        return None
    if kind.kind == "f":
        # In the pixels' precision: 0.1 in a file of float32 is to be found.
        if delta == 0:
            return kind.type(dummy), kind.type(dummy)
        with np.errstate(over="ignore"):
            return kind.type(dummy - delta), kind.type(dummy + delta)
    bounds = np.iinfo(kind)
    if dummy + delta < bounds.min or dummy - delta > float(bounds.max):
        return None
    # Whole numbers from here on: a double does not hold the largest of 8 bytes.
    low, high = max(dummy - delta, float(bounds.min)), min(dummy + delta, float(bounds.max))
    first, last = min(math.ceil(low), int(bounds.max)), min(math.floor(high), int(bounds.max))
    return (kind.type(first), kind.type(last)) if first <= last else None


def usable(value: Any, limits: Limits) -> Any:
    """Tell whether a pixel, or each of many, counts."""
    return (
        (value >= limits.lowest)
        & (value <= limits.highest)
        & ((value < limits.masked_low) | (value > limits.masked_high))
        & ((value < limits.overflow_low) | (value > limits.overflow_high))
        & ((value < limits.dummy_low) | (value > limits.dummy_high))
    )


def saturated(value: Any, limits: Limits) -> Any:
    """Tell whether a pixel, or each of many, is over its range: at the top of its type, say."""
    return (value > limits.highest) & ((value < limits.dummy_low) | (value > limits.dummy_high))


is_usable, is_saturated = kernel(usable), kernel(saturated)
