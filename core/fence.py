"""What a device may be told to read: files below its folders, in whatever form they are named.

Any client may write the name of a mask or a dark, and the server opens it with
the rights of its own user. So names are looked at before anything is opened:
which parameters name files says their type (`parameters.InputFile`). Offline
there is no fence: `ronda run` has the rights of whoever starts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from .sources.base import SourceError
from .sources.hdf5_file import dataset_at, open_hdf5
from .sources.hdf5_parts import numbered_parts
from .sources.imagefile import hdf5_place
from .sources.parsing import split_url

SCHEME = re.compile("[a-z][a-z0-9+]+:")
"""How the URL of a source begins, as opposed to the path of a file."""
WILD = re.compile(r"[*?\[]")
"""What makes a part of a path stand for many."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The folders below which files may be read; called with what is to be read."""

    roots: tuple[Path, ...]

    def __call__(self, name: str) -> None:
        """Do nothing if everything that is named may be read.

        Parameters
        ----------
        name
            A path, or the URL of a source of frames that is a file (`hdf5:`, `images:`,
            `recording:`) or simulated.

        Raises
        ------
        ValueError
            If a file is outside, with all symbolic links followed, or the source is no file.
        """
        if not name.isprintable() or ".." in re.split("[/,]", name):
            raise ValueError("write the whole path, without .. and control characters")
        try:
            inside = all(self._holds(path) for path in _files(name))
        except SourceError as error:
            raise ValueError(str(error)) from None
        except (OSError, RuntimeError):  # a loop of links is the latter
            inside = False
        if not inside:
            folders = " or ".join(map(str, self.roots)) or "no folder"
            raise ValueError(
                f"only files below {folders} are read here (property InputRoots of the device)"
            )

    def _holds(self, path: Path) -> bool:
        place = path.resolve()
        return any(place.is_relative_to(root.resolve()) for root in self.roots)


def _files(name: str) -> Iterator[Path]:
    """Yield every file that reading a name would open, and the folder that is searched.

    Raises
    ------
    ValueError
        If it is a source that is no file, or one that writes.
    """
    found = SCHEME.match(name)
    scheme, rest = (found[0], name[found.end() :]) if found else ("", name)
    match scheme:
        case "" | "hdf5:":
            yield from _behind(name)
        case "images:":
            pattern, separator, inside = rest.partition("::")
            for path in _matching(Path(pattern)):
                yield path
                if path.is_file():
                    yield from _behind(f"{path}{separator}{inside}")
        case "recording:":
            yield from map(Path, split_url(name, {"stream": ()})[0].split(","))
        case "simulated:":
            query = rest.partition("?")[2]
            if any(option == "truth" for option, _ in parse_qsl(query, keep_blank_values=True)):
                raise ValueError("a device simulates no truth, which would be written to a file")
        case _:
            raise ValueError("only files and simulated: are read here, and no stream is connected")


def _behind(name: str) -> Iterator[Path]:
    """Yield a file of images and, of HDF5, those that the datasets are in, behind all links.

    Raises
    ------
    ValueError
        If the pixels of a dataset are in others, of which HDF5 would read any.
    """
    place = hdf5_place(name)
    if place is None:
        yield Path(name)
        return
    yield place[0]
    with open_hdf5(place[0]) as opened:
        parts = numbered_parts(opened, place[1])
        for part in parts:
            yield part.file
            if part.problem:
                raise ValueError(part.problem)
        elsewhere = any(part.elsewhere for part in parts)
        try:
            dataset = dataset_at(opened, place[1])
        except SourceError:
            if not parts:
                raise
        else:
            yield Path(dataset.file.filename)
            elsewhere = elsewhere or dataset.is_virtual or bool(dataset.external)
    if elsewhere:
        raise ValueError("the pixels of this dataset are in other files: copy it into one")


def _matching(pattern: Path) -> Iterator[Path]:
    """Yield the folder that a pattern begins with, and all files that fit the pattern."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) :]:
        if WILD.search(part):
            break
        fixed /= part
    yield pattern if pattern.is_file() else fixed
    if fixed != pattern and not pattern.is_file():
        yield from Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
