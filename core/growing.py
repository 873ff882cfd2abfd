"""Arrays that grow by rows, for curves over the frames of a series."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Growing:
    """Rows of one form that grow in number; what was looked at never changes by growing.

    Parameters
    ----------
    dtype
        Of a value.
    row
        Shape of one row; () for single values.
    """

    def __init__(self, dtype: DTypeLike, row: tuple[int, ...] = ()) -> None:
        self._room: NDArray[Any] = np.empty((64, *row), dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> NDArray[Any]:
        """The rows, (n, *row); a view."""
        return self._room[: self._size]

    def append(self, row: Any) -> None:
        """Add one row."""
        self.extend(row, 1)

    def extend(self, row: Any, times: int) -> None:
        """Add the same row several times."""
        size = self._size + times
        if size > len(self._room):
            rows = max(size, 2 * len(self._room))
            room = np.empty((rows, *self._room.shape[1:]), self._room.dtype)
            room[: self._size] = self.values
            self._room = room
        self._room[self._size : size] = row
        self._size = size

    def keep_last(self, rows: int) -> None:
        """Forget all but the last rows, once there are twice as many."""
        if self._size >= 2 * rows:
            kept = self.values[self._size - rows :].copy()
            self._room, self._size = kept, rows
