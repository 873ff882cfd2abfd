"""Datasets that frames write cells of: as a stage declares them, and as messages have them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stage import Placed, Record, Row, Stage, Tree
from .grids import Grid
from .tables import fitted
from .wire import size

_Cell = tuple[list[int], NDArray[Any]]
Cells = dict[str, list[_Cell]]
"""By path from the file's root: places and what goes there."""


@dataclass(frozen=True, slots=True)
class Places:
    """The datasets of one file that cells are written to."""

    entry: str = ""
    grids: Mapping[str, Grid] = field(default_factory=dict)
    """By path below the entry."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """By name of output."""

    @property
    def layout(self) -> dict[str, Any]:
        """What a `begin` message says about them."""
        return {
            f"{self.entry}/{path}": (grid.dtype.str, grid.shape, grid.compressed)
            for path, grid in self.grids.items()
        }

    def of_rows(self, rows: Iterable[Row]) -> tuple[Cells, Counter[str]]:
        """Return the cells that frames write, and of what how many did not fit."""
        cells: Cells = {}
        misfits: Counter[str] = Counter()
        for row in rows:
            for name, path in self.paths.items():
                misfits[name] += self._add(cells, path, row.get(name))
        return cells, +misfits

    def of_tree(self, tree: Tree) -> tuple[dict[str, Any], Cells, Counter[str]]:
        """Return a tree without its cells, the cells, and of what how many did not fit."""
        cells: Cells = {}
        misfits: Counter[str] = Counter()
        rest = dict(tree)
        for name, path in self.paths.items():
            misfits[name] += self._add(cells, path, rest.pop(path, None))
        return rest, cells, +misfits

    def _add(self, cells: Cells, path: str, given: Any) -> int:
        """Add what is given for a dataset; return how much of it does not fit."""
        found = [_cell(self.grids.get(path), each) for each in _placed(given)]
        fit = [cell for cell in found if cell is not None]
        if fit:
            cells.setdefault(f"{self.entry}/{path}", []).extend(fit)
        return len(found) - len(fit)


def places(stage: Stage[Any, Any], shapes: Mapping[str, Any]) -> tuple[Places, dict[str, Any]]:
    """Return a stage's datasets of cells, and the values that some begin with.

    Parameters
    ----------
    shapes
        What `Stage.cells` gave.
    """
    outputs = [each for each in stage.outputs if each.record is Record.CELL and each.path]
    grids = {
        each.path: Grid(
            np.dtype(each.dtype),
            tuple(map(int, getattr(shapes[each.path], "shape", shapes[each.path]))),
            each.compressed,
        )
        for each in outputs
        if each.path in shapes
    }
    arrays = {path: shapes[path] for path in grids if isinstance(shapes[path], np.ndarray)}
    return Places(stage.entry, grids, {each.name: each.path for each in outputs}), arrays


def kept(value: Any) -> Any:
    """Return a row's value that the stage cannot change any more."""
    if isinstance(value, Placed):
        return Placed(value.index, np.array(value.value))
    if isinstance(value, list | tuple):
        return [kept(each) for each in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def row_size(row: Row) -> int:
    """Return roughly how many bytes a row takes in a queue."""
    several = (value if isinstance(value, list) else [value] for value in row.values())
    cells = [each for values in several for each in values if isinstance(each, Placed)]
    return size(row) + sum(64 + np.asarray(each.value).nbytes for each in cells)


def _placed(given: Any) -> list[Placed]:
    """Return what is given for a dataset as values with their places."""
    if isinstance(given, Placed):
        return [given]
    if isinstance(given, np.ndarray):
        return [Placed((), given)]
    return list(given) if isinstance(given, list | tuple) else []


def _cell(grid: Grid | None, placed: Placed) -> _Cell | None:
    """Return a cell as a message has it; None if it is no place of the dataset, or does not fit."""
    if grid is None:
        return None
    try:
        place = [operator.index(number) for number in placed.index]
        value = fitted(np.asarray(placed.value), grid.dtype)
    except (AttributeError, TypeError, ValueError):
        return None
    inside = len(place) <= len(grid.shape) and all(
        0 <= number < length for number, length in zip(place, grid.shape, strict=False)
    )
    if value is None or not inside or value.shape != grid.shape[len(place) :]:
        return None
    return place, value
