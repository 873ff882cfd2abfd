"""Where reduced files go. File names come from the wire: no path leaves its root.

The header names the detector's own file, `.../raw/.../scan-0001_balor.h5`. Its
reduced file is `.../process/.../scan-0001_balor_STAGE.h5`, by these rules:

1. The last folder `raw` becomes `process`.
2. Without such a folder the file goes straight into OutputRoot; without an
   OutputRoot into `process` beside the raw file.
3. With a DataRoot, a folder that is not below it, with all symbolic links
   followed, is mapped below it: `/data/visit/process` becomes
   `DATAROOT/data/visit/process`. Missing folders are made.
4. Without a DataRoot nothing is made outside the visit: the folder that holds
   `raw` (rule 1) or the raw file (rule 2) must exist here.
5. Where that folder, or DataRoot, does not exist (a recording from elsewhere, a
   disk that is not mounted) or cannot be written to, the file goes below
   OutputRoot, keeping the folders after `raw`; without an OutputRoot that is an
   error, and says so.

Relative names are taken as below DataRoot, or else need an OutputRoot. `..` is
resolved in the text before any rule; control characters become `_`; names that
are too long for a file system are cut. What is there is never overwritten: a
second file is called `..._2.h5`, by the writer, which creates it exclusively.

A series without a file name has no file, unless it was joined late (its header
was missed): then it is `late_UTC_STAGE.h5` in OutputRoot, else `process` in
DataRoot, else the state directory.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from ..frame import Series

NAME_BYTES = 240
"""Longest file or folder name; file systems take 255, and `_2` must fit."""
PATH_BYTES = 3500
"""Longest path; systems take 4096."""

PathT = TypeVar("PathT", bound=PurePath)


class PathError(OSError):
    """No place for a file; the message is one sentence with what to do."""


@dataclass(frozen=True, slots=True)
class Roots:
    """The folders that a device is configured with."""

    output: Path | None = None
    """OutputRoot: where files go whose place does not follow from the raw file's."""
    data: Path | None = None
    """DataRoot: nothing named by the stream is written outside it (but below OutputRoot)."""
    state: Path | None = None
    """StateDirectory: the last resort for files without any name."""

    @property
    def default(self) -> Path | None:
        """Folder of files that belong to no raw file, or None."""
        if self.output:
            return self.output
        return self.data / "process" if self.data else self.state


def series_path(series: Series, stage: str, roots: Roots) -> Path | None:
    """Return where a series' reduced file is to be created; None: it has none.

    Parameters
    ----------
    stage
        Short name of the stage, appended to the file's name.

    Raises
    ------
    PathError
        If there is no place for it.
    """
    if not series.filename:
        if not series.joined_late or roots.default is None:
            return None
        moment = datetime.fromtimestamp(series.run_id / 1000, UTC)
        return _checked(roots.default / _name(f"late_{moment:%Y%m%dT%H%M%SZ}", stage))
    raw = _normal(series.filename, roots)
    _checked(raw)
    target = _folder(raw, roots)
    return _checked(target / _name(raw.stem, stage))


def document_path(name: str, beside: Path | None, roots: Roots) -> Path:
    """Return where a document is to be created: beside the series' file if there is one.

    Raises
    ------
    PathError
        If there is no place for it.
    """
    folder = beside or roots.default
    if folder is None:
        raise PathError(f"no folder for {name}: set OutputRoot, DataRoot or StateDirectory")
    return _checked(folder / _name(_component(name.replace("/", "_"))))


def _normal(filename: str, roots: Roots) -> PurePosixPath:
    """Return the raw file's path: absolute, without `..`, every part fit for a file system."""
    if not filename.startswith("/"):
        root = roots.data or roots.output
        if root is None:
            raise PathError(f"raw file name {filename!r:.80} is relative: set DataRoot")
        filename = f"{root.absolute()}/{posixpath.normpath('/' + filename)}"
    parts = PurePosixPath(posixpath.normpath("/" + filename.lstrip("/"))).parts[1:]
    if not parts:
        raise PathError(f"raw file name {filename!r:.80} names no file")
    return PurePosixPath("/", *map(_component, parts))


def _component(text: str) -> str:
    """Return one part of a path, fit for a file system."""
    fit = re.sub(r"[\x00-\x1f\x7f]", "_", text).encode("utf-8", "replace")
    return fit[:NAME_BYTES].decode("utf-8", "ignore") or "_"


def _name(*words: str) -> str:
    """Return a file name of words, the first one cut where it would be too long."""
    rest = "".join(f"_{word}" for word in words[1:]) + ".h5"
    room = NAME_BYTES - len(rest.encode())
    return words[0].encode()[:room].decode("utf-8", "ignore") + rest


def _folder(raw: PurePosixPath, roots: Roots) -> Path:
    """Return the folder of a raw file's reduced file."""
    folders = raw.parent.parts
    marks = [number for number, name in enumerate(folders) if name == "raw"]
    if not marks and roots.output:
        return roots.output
    visit = Path(*folders[: marks[-1]]) if marks else Path(raw.parent)
    below = folders[marks[-1] + 1 :] if marks else ()
    target = visit.joinpath("process", *below)
    if roots.data:
        target = _below(target, roots.data)
    base = roots.data or visit
    if base.is_dir() and _writable(target):
        return target
    if roots.output:
        return _within(roots.output.joinpath(*below), roots.output)
    raise PathError(f"folder {base} does not exist here or cannot be written to: set OutputRoot")


def _below(folder: Path, root: Path) -> Path:
    """Return the folder if it is below the root, else what it is mapped to there."""
    if _is_below(folder, root):
        return folder
    return _within(root.joinpath(*folder.parts[1:]), root)


def _within(folder: Path, root: Path) -> Path:
    if not _is_below(folder, root):
        raise PathError(f"folder {folder} leads out of {root} by a symbolic link")
    return folder


def _is_below(folder: Path, root: Path) -> bool:
    """Tell whether a folder is below a root, with all symbolic links followed."""
    try:
        return folder.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links is the latter, before Python 3.13
        raise PathError(f"folder {str(folder)[:200]} cannot be followed: {error}") from None


def _writable(folder: Path) -> bool:
    """Tell whether a folder can be written to, or made."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _checked(path: PathT) -> PathT:
    if len(os.fsencode(path)) > PATH_BYTES:
        raise PathError(f"path {str(path)[:80]}... is longer than {PATH_BYTES} bytes")
    return path
