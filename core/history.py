"""Who changed what, and when: kept in memory, in the device's folder and in every file."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ENTRIES = 1000
"""Changes kept in memory, and in a file."""
LINE = 1000
"""Characters of one entry; a longer one is cut."""
VALUE = 120
"""Characters of one value."""
FILE_BYTES = 1 << 20
"""Bytes of the log file, which is then begun anew beside the one before."""
ITSELF = "the device itself"


class History:
    """What was changed or asked for, a line each, oldest first; usable from any thread.

    Parameters
    ----------
    path
        Log file, which outlives the process; None: memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._lock = path, threading.Lock()
        self.lines = _last_lines(path)
        """Such as `2026-11-21T15:33:05Z anna@localhost (process 12): Start`; replaced whole, never
        changed."""

    def add(self, who: str, what: str) -> None:
        """Add what somebody did, now."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = _cut(f"{now} {who or ITSELF}: {what}", LINE)
        with self._lock:
            self.lines = [*self.lines[1 - ENTRIES :], line]
            if self._path:
                # a full disk: the parameters, kept beside it, complain of it
                with contextlib.suppress(OSError):
                    _append(self._path, line)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return what parameters have other values, as `threshold 10 -> 12, q_max 5 -> 6`."""
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    return ", ".join(
        f"{name} {_text(before.get(name))} -> {_text(value)}" for name, value in changed.items()
    )


def _text(value: Any) -> str:
    return _cut(json.dumps(value, default=str), VALUE)


def _cut(text: str, length: int) -> str:
    """Return a text as one line that is not longer than this."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _last_lines(path: Path | None) -> list[str]:
    """Return the end of a log file; none if there is none that can be read."""
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - FILE_BYTES))
            return file.read(FILE_BYTES).decode("utf-8", "replace").splitlines()[-ENTRIES:]
    except OSError:
        return []


def _append(path: Path, line: str) -> None:
    """Add a line to a log file; a long one is put aside first."""
    if path.exists() and path.stat().st_size > FILE_BYTES:
        path.replace(path.with_suffix(".old.log"))
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
