"""The source `images:GLOB`: frames in files of any form, one series in order of their numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os.path import abspath
from pathlib import Path
from typing import ClassVar

from ..frame import Frame, Lost, Notice, Rejected, Series, SeriesEnd, SeriesStart, new_run_id
from .base import Event, Source, SourceError, source
from .hdf5 import Hdf5Source
from .hdf5_file import DAMAGE
from .hdf5_parts import Part
from .images import count_images, read_images
from .numbering import Gaps, find_gaps, usual_size

SOURCE_FILES = "source_files"
"""Entry of a series' metadata: the files that its frames are read from, in order."""
HDF5_SUFFIXES = {".h5", ".hdf5", ".nxs", ".nx5", ".hdf", ".cxi"}
MOST_FILES = 1_000_000
"""Most files of a series."""


LOOKED_AT = 5
"""Files after a damaged one whose frames are counted to know how many it held."""
MOST_SAID = 5
"""Most sentences for the operator."""


class FilesSource(Source):
    """Reads files one after the other as one series: HDF5, CBF, EDF, TIFF and what fabio knows.

    Each file gives the frames that it holds itself, once, and every frame keeps its place
    in the numbering: a damaged file stands for as many frames as the files of its form
    before and after it hold, which are rejected, and ends the series where these differ;
    a file of one frame that is missing by its number (`find_gaps`) stands for one, which is lost.

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
        self._sizes: dict[str, set[int]] = defaultdict(set)
        """Frames in the files read so far that are whole, by their suffix."""
        self._said: list[str] = []

    def count(self, most: int | None = None) -> int:
        """Return how many frames there are, as far as that shows without reading them all.

        A file that cannot be read counts for one, and so does one that is missing by its number.

        Parameters
        ----------
        most
            Where to stop counting; None: all are counted.
        """
        found = sum(find_gaps(self._names).before.values())
        for name in self._names:
            if most is not None and found >= most:
                break
            size = _count(name)
            found += 1 if size is None else size
        return found

    def parts(self) -> list[Part]:
        """Return the datasets of HDF5 files that hold the frames, in their order.

        What is damaged or missing has its place there too, with a file that is not there: who
        joins the datasets to a virtual one, which HDF5 reads, finds zeros and no error.
        Nothing if not all are HDF5 files, or if none of them can be read.
        """
        self._sizes.clear()
        gaps = find_gaps(self._names)
        found: list[Part | tuple[Path, int]] = []
        for number, name in enumerate(self._names):
            file, path = _opened(name), Path(name.partition("::")[0])
            if file is None:
                return []
            if number in gaps.before and self._empty(gaps):
                found.append((path, gaps.before[number]))
            if isinstance(file, Hdf5Source):
                found += file.parts
                self._sizes[_suffix(name)].add(file.total or 0)
                continue
            size = self._usual(number)
            if size is None:
                break  # as `events`
            found.append((path, size))
        like = next((part for part in found if isinstance(part, Part)), None)
        return [] if like is None else [_standing(part, like) for part in found]

    def events(self) -> Iterator[Event]:
        """Yield one series with every frame of every file.

        Raises
        ------
        SourceError
            If a file is damaged, and it is not known how many frames it stands for.
        """
        files = [_absolute(name) for name in self._names]
        series = Series(
            new_run_id(), filename=files[0].partition("::")[0], metadata={SOURCE_FILES: files}
        )
        self._sizes.clear()
        self._said.clear()
        yield SeriesStart(series)
        gaps = find_gaps(self._names)
        first = 0
        for number in range(len(self._names)):
            left = len(self._names) - number - 1
            for event in self._gap(gaps, number):
                first += _frames_of(event)
                yield event
            begin = first
            for event in self._of_file(number, begin):
                if self.closed.is_set():
                    return
                first += _frames_of(event)
                yield self._placed(event, series, begin)
                self.total = max(self.total, first + left)
            self.total = first + left
        yield SeriesEnd(series)

    def _gap(self, gaps: Gaps, number: int) -> Iterator[Event]:
        """Yield what stands for the files that are missing before one."""
        missing, empty = gaps.before.get(number, 0), self._empty(gaps)
        if missing and number == min(gaps.before):
            what = "their places stay empty" if empty else "the others follow without a gap"
            yield self._notice(f"{gaps.sentence}; {what}")
        if missing and empty:
            yield Lost(missing)

    def _empty(self, gaps: Gaps) -> bool:
        """Tell whether files that are missing stand for a frame each, as those before do."""
        return gaps.even and set().union(*self._sizes.values()) <= {1}

    def _placed(self, event: Event, series: Series, begin: int) -> Event:
        """Return an event of a file as one of the series, where the file's frames begin there."""
        if isinstance(event, Frame):
            return replace(event, frame_id=begin + event.frame_id, series=series)
        if isinstance(event, Rejected):
            return replace(event, frame_id=begin + (event.frame_id or 0))
        return self._notice(event.text) if isinstance(event, Notice) else event

    def _notice(self, text: str) -> Notice:
        """Return a notice that says what was said before, too: it takes its place."""
        if len(self._said) < MOST_SAID:
            self._said.append(text)
        return Notice("; ".join(self._said))

    def _of_file(self, number: int, first: int) -> Iterator[Event]:
        """Yield the frames of one file, counted from 0, and those that it stands for besides."""
        name = self._names[number]
        file = _opened(name)
        if isinstance(file, Hdf5Source):
            self.total = first + (file.total or 0) + len(self._names) - number - 1
        frames, reason = 0, ""
        for event in _events(name, file):
            if isinstance(event, Frame | Rejected | Lost):
                frames += _frames_of(event)
                reason = event.reason if isinstance(event, Rejected) else ""
            yield event
        if reason and not isinstance(file, Hdf5Source):
            yield from self._rest(number, frames, reason)
            return
        before = self._sizes[_suffix(name)]
        if len(before) == 1 and frames not in before and number + 1 < len(self._names):
            yield Notice(f"{name} holds {frames} frames, other than the files before it")
        before.add(frames)

    def _rest(self, number: int, frames: int, reason: str) -> Iterator[Event]:
        """Yield what the end of a damaged file stands for, which does not say how much it held."""
        size = self._usual(number)
        if size is None or size < frames:
            if number + 1 == len(self._names):
                return
            raise SourceError(
                f"{reason}; how many frames it held is not known, as files of its form before "
                "and after it do not hold equally many, so that the frames of those after it "
                "cannot be numbered: mend it, or leave it out"
            )
        self._sizes[_suffix(self._names[number])].add(size)
        for frame_id in range(frames, size):
            yield Rejected(reason, frame_id)

    def _usual(self, number: int) -> int | None:
        """Return how many frames the files around a damaged one hold; None: not equally many."""
        suffix, end = _suffix(self._names[number]), len(self._names) - 1
        sizes, last = set(self._sizes[suffix]), None
        for at in range(number + 1, min(number + 1 + LOOKED_AT, end + 1)):
            size = _count(self._names[at]) if _suffix(self._names[at]) == suffix else None
            if at == end:
                last = size
            elif size is not None:
                sizes.add(size)
        return usual_size(sizes, last)


def _standing(part: Part | tuple[Path, int], like: Part) -> Part:
    """Return a dataset; for one that cannot be read one as another, in a file that is not there."""
    if isinstance(part, Part):
        return part if not part.problem else _standing((part.file, part.frames), part)
    file, frames = part
    missing, shape = file.with_name(f"{file.name}.missing"), (frames, *like.shape[-2:])
    return replace(like, file=missing, shape=shape, problem=f"{file} cannot be read")


def _frames_of(event: Event) -> int:
    """Return how many frames an event stands for."""
    return event.count if isinstance(event, Lost) else int(isinstance(event, Frame | Rejected))


def _suffix(name: str) -> str:
    return Path(name.partition("::")[0]).suffix.lower()


def _opened(name: str) -> Hdf5Source | str | None:
    """Return an HDF5 file, or why it cannot be read; None if fabio reads it."""
    if not _is_hdf5(name):
        return None
    try:
        return Hdf5Source(f"hdf5:{name}")
    except (SourceError, *DAMAGE) as error:
        return str(error) if name.partition("::")[0] in str(error) else f"{name}: {error}"


def _count(name: str) -> int | None:
    """Return how many frames a file holds; None if it cannot be read."""
    file = _opened(name)
    if isinstance(file, Hdf5Source):
        return file.total
    return count_images(Path(name)) if file is None else None


def _events(name: str, file: Hdf5Source | str | None) -> Iterator[Event]:
    """Yield the frames of a file, counted from 0, and what is to be said of it."""
    if file is None:
        yield from _images(name)
    elif isinstance(file, str):
        yield Rejected(file, 0)
    else:
        yield from _stored(name, file)


def _stored(name: str, file: Hdf5Source) -> Iterator[Event]:
    """Yield the frames of an HDF5 file: as many as it says, whatever comes in between."""
    frames, total = 0, file.total or 0
    try:
        for event in file.events():
            if isinstance(event, Rejected):
                yield replace(event, reason=f"{name}: {event.reason}")
            elif isinstance(event, Frame | Lost | Notice):
                yield event
            frames += _frames_of(event)
    except (SourceError, *DAMAGE) as error:
        for frame_id in range(frames, total):
            yield Rejected(f"{name}: {error}", frame_id)


def _images(name: str) -> Iterator[Event]:
    """Yield the frames of a file that fabio reads."""
    series = Series(0)
    for number, image in enumerate(read_images(Path(name))):
        if isinstance(image, str):
            yield Rejected(f"{name} cannot be read: {image}", number)
        else:
            yield Frame(series, number, image)


def matching(patterns: Sequence[str]) -> list[str]:
    """Return the files that patterns name, each once, in the natural order of their numbers.

    A file that is named in several ways, as by its folder from here and from the root, is one.

    Parameters
    ----------
    patterns
        Names or globs, those of HDF5 files with `::/dataset` where wanted.

    Raises
    ------
    SourceError
        If a pattern cannot be one, or nothing fits it, or there are too many files.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        name, separator, dataset = pattern.partition("::")
        paths = [str(path) for path in _fitting(Path(name))]
        if not paths:
            raise SourceError(f"{pattern}: there is no such file")
        for path in paths:
            place = abspath(path)  # noqa: PTH100 - links that are followed would be one file
            found.setdefault(f"{place}{separator}{dataset}", f"{path}{separator}{dataset}")
    if len(found) > MOST_FILES:
        raise SourceError(f"{len(found)} files fit; {MOST_FILES} at most are read")
    return [found[place] for place in sorted(found, key=_natural)]


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
