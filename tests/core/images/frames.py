"""Frames for tests, and what NumPy makes of them without any kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


def values(dtype: str, largest: float = 1e6) -> st.SearchStrategy[Any]:
    """Return a strategy for pixels, marks and edges of the type among them."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        width = 8 * kind.itemsize
        most = min(largest, 6e4 if width == 16 else largest)
        most = float(np.array(most, kind))
        plain = st.floats(-most, most, width=width, allow_subnormal=False)
        return plain | st.sampled_from([-1.0, -2.0, np.nan, np.inf, -np.inf, 0.0])
    limits = np.iinfo(kind)
    edges = [limits.max, limits.max - 1, limits.min, 0, 1, 2]
    marked = [-1, -2] if kind.kind == "i" else []
    ordinary = st.integers(max(limits.min, -1000), min(limits.max, 70000))
    return ordinary | st.sampled_from(edges + marked)


def images(dtype: str, largest: float = 1e6, side: int = 7) -> st.SearchStrategy[NDArray[Any]]:
    """Return a strategy for small frames."""
    shape = st.tuples(st.integers(1, side), st.integers(1, side))
    return hnp.arrays(dtype, shape, elements=values(dtype, largest))


def valid(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels are measured."""
    if image.dtype.kind == "f":
        return np.isfinite(image) & (image != -1) & (image != -2)
    top = np.iinfo(image.dtype).max
    if image.dtype == np.uint64:
        return image < np.iinfo(np.int64).max
    if image.dtype.kind == "u":
        return image != top
    return (image != -1) & (image != -2) & (image != top)


def overflown(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels are over their range."""
    if image.dtype.kind == "f":
        return np.isinf(image) | (image == -2)
    top = np.iinfo(image.dtype).max
    if image.dtype == np.uint64:
        return image >= np.iinfo(np.int64).max
    return (image == top) | ((image == -2) if image.dtype.kind == "i" else False)


def marked(dtype: str) -> Any:
    """Return the value of a pixel that was not measured."""
    return np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else -1


def forms(image: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the same image in every form in which memory may hold it."""
    yield "plain", image
    frozen = image.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "strided", np.repeat(np.repeat(image, 2, 0), 3, 1)[::2, ::3]
    yield "backwards", image[::-1, ::-1].copy()[::-1, ::-1]
    yield "columns first", np.asfortranarray(image)
    yield "other byte order", image.astype(image.dtype.newbyteorder())
    raw = np.frombuffer(b"x" + image.tobytes(), np.uint8)[1:]
    yield "unaligned", np.ndarray(image.shape, image.dtype, raw.data)
