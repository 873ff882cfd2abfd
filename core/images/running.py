"""The sum that survives series, beside the present series' own, each exact."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..frame import Series
from ..marks import Mask, Pixels, as_mask, as_pixels
from ..stage import Tree
from .accumulation import Accumulation, Contribution, room_for


class RunningSum:
    """Two sums for the work of one: of everything, and of the present series.

    A frame is added once, to `_current`. The running sum is that and what earlier
    series left since it was last cleared; the series' own sum is that and what
    the series had before it was cleared. Nothing is ever subtracted, so sums of
    floats are as exact as if each were kept alone.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._earlier: Accumulation | None = None
        self._before_clear: Accumulation | None = None
        self._current = Accumulation(shape, dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self._current.shape

    @property
    def frames(self) -> int:
        """Frames in the running sum."""
        return sum(part.frames for part in self._running())

    @property
    def overflow_pixels(self) -> int:
        """Pixels over their range, in all frames of the running sum together."""
        return sum(part.overflow_pixels for part in self._running())

    @property
    def valid_count(self) -> NDArray[np.uint32]:
        """How often each pixel was valid, (rows, columns); never changes, may be read-only."""
        first, *rest = [part.valid_count for part in self._running()]
        return sum(rest, first)

    @property
    def total(self) -> Any:
        """The running sum over all pixels: int or float."""
        return sum(part.total for part in self._running())

    @property
    def series(self) -> list[Contribution]:
        """The series in the running sum."""
        return list(chain.from_iterable(part.series for part in self._running()))

    def add(
        self,
        image: Pixels,
        mask: Mask | None,
        series: Series,
        support: NDArray[np.intp] | None = None,
    ) -> float:
        """Add one frame of the present series, as `Accumulation.add` does.

        Raises
        ------
        BadFrame
            If integers are too large for an exact sum; nothing is changed then.
        """
        parts = (self._earlier, self._before_clear, self._current)
        room_for(
            as_pixels(image),
            as_mask(mask, image.shape),
            [part for part in parts if part is not None],
        )
        return self._current.add(image, mask, series, support)

    def begin(self) -> None:
        """Begin another series."""
        if self._current.frames:
            self._earlier = _joined(self._running())
            self._current = Accumulation(self.shape, self._current.sum.dtype)
        self._before_clear = None

    def clear(self) -> None:
        """Empty the running sum; the series' own goes on."""
        if self._current.frames:
            self._before_clear = _joined(self._own())
            self._current = Accumulation(self.shape, self._current.sum.dtype)
        self._earlier = None

    def running(self) -> Accumulation:
        """Return the sum of everything since it was last cleared; a copy."""
        return _joined(self._running(), copy=True)

    def both(self) -> tuple[Accumulation, Accumulation]:
        """Return the sum of everything and that of the present series; copies, or one of both."""
        running = self.running()
        same = self._earlier is None and self._before_clear is None
        return running, running if same else _joined(self._own(), copy=True)

    def shown(self) -> tuple[list[Pixels], Mask | None]:
        """Return the parts of the running sum, to look at only, and where no pixel was ever valid.

        None: every pixel was valid at least once.
        """
        total = [part.sum for part in self._running()]
        if all(part.missing is None for part in self._running()):
            return total, None
        return total, self.valid_count == 0

    def tree(self) -> Tree:
        """Return the running sum for a checkpoint."""
        return self.running().tree()

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> RunningSum:
        """Return a running sum that goes on from a checkpoint.

        Raises
        ------
        ValueError
            If the checkpoint does not fit.
        """
        earlier = Accumulation.from_tree(tree)
        new = cls(earlier.shape, earlier.sum.dtype)
        new._earlier = earlier
        return new

    def _running(self) -> list[Accumulation]:
        return [part for part in (self._earlier, self._current) if part is not None]

    def _own(self) -> list[Accumulation]:
        return [part for part in (self._before_clear, self._current) if part is not None]


def _joined(parts: list[Accumulation], copy: bool = False) -> Accumulation:
    """Return the sum of parts: merged into the first of them, or into a copy of it."""
    first, *rest = parts
    joined = first.copy() if copy else first
    for part in rest:
        joined.merge(part)
    return joined
