"""Files that a device makes and keeps in its folder: the newest of each kind, and that in use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

DIGITS = 20
"""Of the number in a file's name, so that names sort as numbers do."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One kind of file, named `STEM-NUMBER.SUFFIX` by its time (ns since 1970).

    Other names in the folder are somebody else's and stay as they are.
    """

    stem: str
    suffix: str
    """With its dot."""

    def newest(self, folder: Path) -> Path | None:
        """Return the newest file in a folder, or None."""
        return max(folder.glob(self._pattern), default=None)

    def add(self, folder: Path, write: Callable[[BinaryIO], object]) -> Path:
        """Write one more, whole or not at all, that is newer than all the others.

        Raises
        ------
        OSError
            If it cannot be written; the folder is then as it was.
        """
        newest = self.newest(folder)
        # A clock that was set back makes no old file of a new one.
        after = int(newest.stem[-DIGITS:]) + 1 if newest else 0
        path = folder / f"{self.stem}-{max(time.time_ns(), after):0{DIGITS}d}{self.suffix}"
        # One name for all, so that a draft that a kill left is overwritten.
        draft = folder / f"{self.stem}{self.suffix}.new"
        try:
            with draft.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path

    def remove_older(self, folder: Path, in_use: str = "") -> None:
        """Remove all but the newest and the one that a parameter names."""
        spared = {path.resolve() for path in (self.newest(folder), Path(in_use)) if path}
        for path in folder.glob(self._pattern):
            if path.resolve() not in spared:
                path.unlink()

    @property
    def _pattern(self) -> str:
        return f"{self.stem}-{'[0-9]' * DIGITS}{self.suffix}"
