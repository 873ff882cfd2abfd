"""The list of files that a file writer has open, kept on disk for whoever comes after a crash."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

NEWEST = "newest_file.json"
"""File, beside the lists, that names the file which was begun last."""
WAIT = 10.0
"""Seconds that a writer whose device died gets to complete its files, which takes it one."""
MAX_BYTES = 1 << 20
"""Longest list that is read: a writer has few files open."""


class Journal:
    """Open files of one writer process, in `open_files_PID.json` of its state directory.

    The writer holds a lock on its list as long as it lives; a list without a
    lock was left by one that died.

    Parameters
    ----------
    directory
        The state directory; None: nothing is kept.
    """

    def __init__(self, directory: Path | None) -> None:
        self._paths: list[str] = []
        self._file: BinaryIO | None = None
        self._directory = directory
        self._size = 0
        if directory:
            self._path = directory / f"open_files_{os.getpid()}.json"

    def add(self, path: Path) -> None:
        """Note that a file was begun; raises OSError if the list cannot be kept."""
        self._paths.append(str(path))
        self._save()
        if self._directory:
            draft = self._directory / f"{NEWEST}.new"
            draft.write_text(json.dumps(str(path)))
            draft.replace(self._directory / NEWEST)

    def remove(self, path: Path) -> None:
        """Note that a file is complete; raises OSError if the list cannot be kept."""
        self._paths.remove(str(path))
        self._save()

    def left_behind(self) -> list[Path]:
        """Return files that dead writers left open, and forget their lists.

        Each is returned once only: one that crashes its reader does so once.

        Raises
        ------
        OSError
            If the directory cannot be read.
        """
        paths: list[Path] = []
        for journal in sorted(self._directory.glob("open_files_*.json")) if self._directory else []:
            with journal.open("rb") as file:
                if _lock(file):
                    paths += _read(file)
                    journal.unlink()
        return paths

    def close(self) -> None:
        """Release the list; it is removed if nothing is open."""
        if self._file:
            if not self._paths:
                self._path.unlink()
            self._file.close()

    def _save(self) -> None:
        if not self._directory:
            return
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
            _lock(self._file)
        text = json.dumps(self._paths).encode()
        self._size = max(self._size, len(text))
        os.pwrite(self._file.fileno(), text.ljust(self._size), 0)


def newest_file(directory: Path) -> Path | None:
    """Return the file that writers of a run before began last, None if there is none.

    Waits for a writer that is still at it.
    """
    deadline = time.monotonic() + WAIT
    while _any_alive(directory) and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        with (directory / NEWEST).open("rb") as file:
            name = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):  # none, or none of ours
        return None
    if not isinstance(name, str) or "\0" in name:
        return None
    return path if (path := Path(name)).is_file() else None


def forget_newest_file(directory: Path) -> None:
    """Have `newest_file` return none until another file is begun."""
    with suppress(OSError):
        (directory / NEWEST).unlink(missing_ok=True)


def _any_alive(directory: Path) -> bool:
    """Tell whether a writer lives that has files open."""
    for journal in directory.glob("open_files_*.json"):
        try:
            with journal.open("rb") as file:
                if not _lock(file):
                    return True
        except OSError:  # it has just gone
            continue
    return False


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(file: BinaryIO) -> list[Path]:
    try:
        content = json.loads(file.read(MAX_BYTES))
    except (ValueError, RecursionError):  # torn, or none of ours
        content = []
    names = content if isinstance(content, list) else []
    return [Path(name) for name in names if isinstance(name, str) and "\0" not in name]
