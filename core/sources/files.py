"""The source `images:GLOB`: frames in files of any form, one series in order of their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ..frame import Frame, Lost, Notice, Rejected, Series, SeriesEnd, SeriesStart, new_run_id
from .base import Event, Source, SourceError, source
from .hdf5 import Hdf5Source
from .hdf5_file import DAMAGE
from .images import read_images

SOURCE_FILES = "source_files"
"""Entry of a series' metadata: the files that its frames are read from, in order."""
HDF5_SUFFIXES = {".h5", ".hdf5", ".nxs", ".nx5", ".hdf", ".cxi"}
MOST_FILES = 1_000_000
"""Most files of a series."""


class FilesSource(Source):
    """Reads files one after the other as one series: HDF5, CBF, EDF, TIFF and what fabio knows.

    Each file gives the frames that it holds itself, once. A file or frame that
    cannot be read, or that fabio finds damaged, is rejected and keeps its place
    in the numbering.

    Parameters
    ----------
    names
        The files, as `matching` gives them: `FILE`, or `FILE::/dataset` of an HDF5 file.

    Raises
    ------
    SourceError
        If there is none.
    """

    live: ClassVar[bool] = False

    def __init__(self, names: Sequence[str], url: str = "") -> None:
        super().__init__(url)
        if not names:
            raise SourceError(f"{url or 'images'}: no file fits")
        self._names = list(names)
        self.total: int = len(self._names)

    def count(self) -> int:
        """Return how many frames there are, as far as that shows without reading them all.

        A file that is not HDF5 counts for one, and so does one that cannot be read.
        """
        return sum(_frames(name) if _is_hdf5(name) else 1 for name in self._names)

    def events(self) -> Iterator[Event]:
        """Yield one series with every frame of every file."""
        files = [_absolute(name) for name in self._names]
        series = Series(
            new_run_id(), filename=files[0].partition("::")[0], metadata={SOURCE_FILES: files}
        )
        yield SeriesStart(series)
        first = 0
        for number, name in enumerate(self._names):
            left = len(self._names) - number - 1
            for event in self._of_file(name, series, first, left):
                if self.closed.is_set():
                    return
                yield event
            first = self.total - left
        yield SeriesEnd(series)

    def _of_file(self, name: str, series: Series, first: int, left: int) -> Iterator[Event]:
        """Yield the frames of one file, counted from `first`; afterwards `total` counts them."""
        events = self._hdf5(name, first, left) if _is_hdf5(name) else _images(name, series)
        frames = 0
        for event in events:
            if isinstance(event, Frame | Rejected | Lost):
                frames += event.count if isinstance(event, Lost) else 1
            if isinstance(event, Rejected) and event.frame_id is not None:
                event = replace(event, frame_id=first + event.frame_id)
            elif isinstance(event, Frame):
                event = replace(event, frame_id=first + event.frame_id, series=series)
            yield event
            self.total = max(self.total, first + frames + left)
        self.total = first + frames + left

    def _hdf5(self, name: str, first: int, left: int) -> Iterator[Event]:
        """Yield the frames of an HDF5 file; a file without any is rejected as one frame."""
        try:
            file = Hdf5Source(f"hdf5:{name}")
            self.total = first + (file.total or 0) + left
            for event in file.events():
                if isinstance(event, Rejected):
                    yield replace(event, reason=f"{name}: {event.reason}")
                elif isinstance(event, Frame | Lost | Notice):
                    yield event
        except (SourceError, *DAMAGE) as error:
            yield Rejected(str(error), 0)


def _frames(name: str) -> int:
    """Return the number of frames in an HDF5 file; 1 if it cannot be read."""
    try:
        return Hdf5Source(f"hdf5:{name}").total or 0
    except (SourceError, *DAMAGE):
        return 1


def _images(name: str, series: Series) -> Iterator[Event]:
    """Yield the frames of a file that fabio reads."""
    for number, image in enumerate(read_images(Path(name))):
        if isinstance(image, str):
            yield Rejected(f"{name} cannot be read: {image}", number)
        else:
            yield Frame(series, number, image)


def matching(patterns: Sequence[str]) -> list[str]:
    """Return the files that patterns name, each once, in the natural order of their numbers.

    Parameters
    ----------
    patterns
        Names or globs, those of HDF5 files with `::/dataset` where wanted.

    Raises
    ------
    SourceError
        If a pattern cannot be one, or nothing fits it, or there are too many files.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        name, separator, dataset = pattern.partition("::")
        paths = sorted(map(str, _fitting(Path(name))), key=_natural)
        if not paths:
            raise SourceError(f"{pattern}: there is no such file")
        found.update(dict.fromkeys(f"{path}{separator}{dataset}" for path in paths))
    if len(found) > MOST_FILES:
        raise SourceError(f"{len(found)} files fit; {MOST_FILES} at most are read")
    return sorted(found, key=_natural)


@source("images")
def _open(url: str) -> FilesSource:
    pattern = url.partition(":")[2]
    try:
        names = matching([pattern])
    except SourceError as error:
        raise SourceError(f"{url}: no file fits ({error})") from None
    return FilesSource(names, url)


def _fitting(pattern: Path) -> list[Path]:
    """Return the files that fit a pattern."""
    if pattern.is_file():
        return [pattern]
    if not pattern.name:
        return []
    try:
        found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        return [path for path in found if path.is_file()]
    except ValueError as error:
        raise SourceError(f"images:{pattern} is no pattern: {error}") from None


def _natural(name: str) -> list[str | int]:
    """Return a key that sorts `a_9` before `a_10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _is_hdf5(name: str) -> bool:
    """Tell whether a file is named as one of HDF5, which says so itself too late if damaged."""
    return "::" in name or Path(name).suffix.lower() in HDF5_SUFFIXES


def _absolute(name: str) -> str:
    path, separator, dataset = name.partition("::")
    return f"{Path(path).absolute()}{separator}{dataset}"
