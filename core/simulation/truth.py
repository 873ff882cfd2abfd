"""The truth about simulated frames, as an HDF5 file beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

GROUP = "truth"
UNITS = {
    **dict.fromkeys(("y", "x", "y0", "x0", "y1", "x1", "sigma"), "px"),
    **dict.fromkeys(("energy", "counts"), "counts"),
    "q": "1/angstrom",
}
"""Of the columns that have one."""


def write_truth(
    path: Path, tables: Mapping[str, NDArray[Any]], options: Mapping[str, object]
) -> None:
    """Write tables and options to a file, whole or not at all.

    A table is a group of its columns, a plain array a dataset; the options are
    attributes of the group `/truth`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    draft = path.with_name(path.name + ".new")
    with h5py.File(draft, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        truth = _collection(file, GROUP)
        truth.attrs.update(options)
        for name, table in tables.items():
            if table.dtype.names is None:
                truth[name] = table
                continue
            group = _collection(truth, name)
            for column in table.dtype.names:
                group[column] = np.ascontiguousarray(table[column])
                if column in UNITS:
                    group[column].attrs["units"] = UNITS[column]
    draft.replace(path)


def may_be_written(path: Path) -> bool:
    """Tell whether there is nothing at a path, or an older truth: no other file is replaced."""
    if not path.exists():
        return True
    try:
        with h5py.File(path, "r") as file:
            return list(file) == [GROUP]
    except OSError:
        return False


def _collection(parent: h5py.Group, name: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = "NXcollection"
    return group
