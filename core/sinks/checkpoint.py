"""Checkpoints: a stage's state in two files that are written in turn.

A checkpoint is written aside, brought to the disk and renamed, so that each of
the two names always stands for a whole file; the one before stays beside it.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

import h5py

from .reserved import ROOM, abandon, close, create_new
from .tree import Tree, read_tree, write_tree
from .wire import size

log = logging.getLogger(__name__)

FILES = ("checkpoint_a.h5", "checkpoint_b.h5")
SEQUENCE = "ronda_checkpoint"
"""Attribute of the file that holds its number; a larger one is newer."""
MOST_BYTES = 8 << 30
"""Largest state that is read back."""


def write_checkpoint(directory: Path, tree: Tree) -> list[str]:
    """Write a state over the older of the two checkpoints; return what was refused.

    Raises
    ------
    OSError, RuntimeError
        If it cannot be written; both checkpoints are as before.
    """
    directory.mkdir(parents=True, exist_ok=True)
    numbers = [_sequence(directory / name) for name in FILES]
    target = directory / FILES[numbers.index(min(numbers))]
    draft = target.with_name(target.name + ".new")
    draft.unlink(missing_ok=True)
    file = create_new(draft, size(tree) + ROOM)
    try:
        file.attrs[SEQUENCE] = max(numbers) + 1
        refused = write_tree(file, tree)
        file.flush()
    except (OSError, RuntimeError):
        abandon(file)
        raise
    close(file)
    _synchronise(draft)
    draft.replace(target)
    _synchronise(directory)
    return refused


def load_checkpoint(directory: Path) -> Tree | None:
    """Return the newest state that can be read, or None if there is none.

    A torn file, or one that is none of ours, is skipped with a warning. Values
    are as written, except that numbers without axes are Python's.
    """
    paths = [directory / name for name in FILES]
    numbered = [(_sequence(path), path) for path in paths if path.exists()]
    for number, path in numbered:
        if not number:
            log.warning("checkpoint %s is skipped: it is damaged or none of ours", path)
    for _, path in sorted((each for each in numbered if each[0]), reverse=True):
        try:
            with h5py.File(path, "r") as file:
                return read_tree(file, MOST_BYTES)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            log.warning("checkpoint %s is skipped: %s", path, error)
    return None


def _sequence(path: Path) -> int:
    """Return a checkpoint's number, 0 if it is missing or cannot be read."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return 0
        with h5py.File(path, "r") as file:
            number: Any = file.attrs.get(SEQUENCE, 0)
            return max(int(number), 0)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return 0


def _synchronise(path: Path) -> None:
    """Bring a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
