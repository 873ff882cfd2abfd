"""The beginning of the scan that goes on, kept for a device that is killed in its middle.

Who joins a scan late hears only its records: not what its motors are, nor where they go.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..parameters import save_text
from ..positions import ScanEnd, ScanStart

FILE = "scan.json"
"""Its name, in the folder of the device."""
COLUMNS = "column_desc"
"""Entry of the metadata that says where the motors go."""
MOST_TEXT = 1 << 20
"""Characters of the longest description that is kept."""


def keep_scan(position: ScanStart | ScanEnd, folder: Path) -> None:
    """Keep the beginning of a scan; forget it at its end. What cannot be kept is not."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        if isinstance(position, ScanEnd):
            (folder / FILE).unlink(missing_ok=True)
            return
        described = {
            "serial": position.serial,
            "movables": list(position.movables),
            "title": position.title,
            COLUMNS: position.metadata.get(COLUMNS, []),
        }
        text = json.dumps(described, default=str, skipkeys=True)
        save_text(text if len(text) <= MOST_TEXT else "{}", folder / FILE)


def kept_scan(folder: Path) -> ScanStart | None:
    """Return the beginning of the scan that was not over when the device ended."""
    try:
        with (folder / FILE).open("rb") as file:
            content: Any = json.loads(file.read(MOST_TEXT + 1))
    except (OSError, ValueError, RecursionError):  # none, or none of ours
        return None
    if not isinstance(content, dict):
        return None
    serial, movables, title = (content.get(name) for name in ("serial", "movables", "title"))
    if not isinstance(movables, list) or not all(isinstance(each, str) for each in movables):
        return None
    if not (serial is None or type(serial) is int) or not isinstance(title, str):
        return None
    return ScanStart(serial, tuple(movables), title, None, {COLUMNS: content.get(COLUMNS)})
