"""What `ronda diff_tomo` does: the files of a scan to one map of powder patterns."""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from ...core.compute.device import Compute
from ...core.frame import Frame
from ...core.positions import Position, ScanBooks
from ...core.sources import Event, Source, open_source
from ...core.sources.files import SOURCE_FILES, FilesSource, matching
from ...core.sources.imagefile import HDF5_SCHEME
from ...core.stage import Row
from ...core.tomography.map_file import StoredMap, read_map
from ...core.tomography.parameters import DiffTomoParameters
from ...core.tomography.placing import Placing
from ...core.tomography.profiles import profiles
from ...core.tomography.sinogram import without_bins
from ...core.tomography.stage import DiffTomoStage
from .reducing import (
    Passing,
    Work,
    check_output,
    draft_of,
    first_frame,
    queue_of,
    reduce_to_file,
)

WAIT = 10.0
"""Seconds that the writer of a run that was killed gets to complete its file."""


@dataclass(frozen=True)
class Integration:
    """One call of `ronda diff_tomo`."""

    images: Sequence[str]
    prefix: str
    extension: str
    output: Path
    changes: Mapping[str, Any]
    """Of the parameters' defaults, but darks and flats."""
    darks: Sequence[str]
    flats: Sequence[str]
    positions: str | None
    """URL of motor positions; None: frames are placed by their numbers."""
    compute: Compute
    workers: int
    force: bool
    resume: bool
    verbose: bool
    stats: bool

    def run(self) -> int:
        """Do it; return the exit status, as `reduce_to_file` does; 1 if the map is empty.

        Raises
        ------
        OSError, ValueError
            In one sentence: what the user can mend.
        """
        changes = {
            **self.changes,
            "dark_files": _listed(self.darks),
            "flat_files": _listed(self.flats),
        }
        parameters = DiffTomoParameters().changed(changes)
        names = self.names()
        if self.resume and self.force:
            raise ValueError("--resume and --force do not go together: leave out one")
        check_output(self.output, self.force or self.resume, names)
        if self.stats:
            check_output(self.picture, True, names)
        self._check_length(parameters, names)
        if self.positions:
            _check_positions(self.positions)
        frame = first_frame(FilesSource(names))
        stored = self._stored(parameters, frame)
        stage = DiffTomoStage()
        work = Work(
            stage=stage,
            parameters=parameters
            if stored is None
            else parameters.changed({"continue_scan": True}),
            source=partial(_left, names, stored),
            output=self.output,
            said=f"ronda diff_tomo: {json.dumps(changes, default=str)}",
            positions=partial(open_source, self.positions) if self.positions else None,
            workers=self.workers,
            force=self.force,
            quiet=not self.verbose,
            compute=self.compute,
            verbosity=logging.INFO if self.verbose else logging.WARNING,
            tell=_tell,
            queue_bytes=queue_of(frame, self.workers),
            state=None if stored is None else stored.state,
            picture=self.picture if self.stats else None,
        )
        return reduce_to_file(work) or int(not stage.value("points_measured"))

    @property
    def picture(self) -> Path:
        """Where the statistics are drawn."""
        return self.output.with_name(f"{self.output.stem}_stats.png")

    def _stored(self, parameters: DiffTomoParameters, first: Frame) -> StoredMap | None:
        """Return the map to go on with; None: it begins.

        What a run that was killed wrote beside the output, and holds more, takes its
        place first.
        """
        experiment = parameters.setup.experiment(first.shape)
        made = profiles(experiment, parameters.bins, self.compute)
        if empty := without_bins(parameters.ranges, made.radial):
            raise ValueError(f"--roi: {empty[0]}")
        if not self.resume:
            return None
        files, books = first.series.metadata[SOURCE_FILES], self._books()

        def read(path: Path) -> StoredMap:
            order = parameters.grid, parameters.place_by, parameters.motors
            placing = Placing(*order, first.series, books)
            return read_map(path, parameters, made, files, placing)

        draft = draft_of(self.output)
        for path in (self.output, draft):
            _await_writer(path)
        stored = None
        if self.output.exists():
            try:
                stored = read(self.output)
            except (OSError, ValueError) as error:
                raise ValueError(f"{error}; --force begins anew") from None
        if draft.exists():
            with suppress(OSError, ValueError):
                newer = read(draft)
                if stored is None or len(newer.done) > len(stored.done):
                    draft.replace(self.output)
                    return newer
        return stored

    def _books(self) -> ScanBooks:
        """Return all positions."""
        books = ScanBooks()
        if self.positions:
            with closing(open_source(self.positions)) as source:
                for event in source.events():
                    if isinstance(event, Position):
                        books.add(event)
        return books

    def names(self) -> list[str]:
        """Return the files to read.

        Raises
        ------
        SourceError
            If there is none.
        """
        suffix = f".{self.extension.lstrip('.')}" if self.extension else ""
        if not self.images:
            if not (self.prefix or suffix):
                raise ValueError("no images: name files, folders or patterns in quotes")
            return matching([f"{escape(self.prefix)}*{escape(suffix)}"])
        patterns = [self._pattern(image, suffix) for image in self.images]
        names = matching(patterns)
        fitting = [name for name in names if name.partition("::")[0].endswith(suffix)]
        if not fitting:
            raise ValueError(f"none of the {len(names)} files ends in {suffix}")
        return fitting

    def _pattern(self, image: str, suffix: str) -> str:
        """Return the pattern of an argument: of a folder, what prefix and extension choose."""
        if not Path(image).is_dir():
            return image
        return f"{escape(image)}/{escape(self.prefix)}*{escape(suffix)}"

    def _check_length(self, parameters: DiffTomoParameters, names: Sequence[str]) -> None:
        """Refuse an offset that leaves out every frame, or every position."""
        points = parameters.grid.points
        if self.positions is None and -parameters.offset >= points:
            raise ValueError(
                f"the offset of {parameters.offset} leaves nothing of {points} positions; "
                "set one nearer to 0"
            )
        if self.positions is None:
            parameters.grid.check_length(FilesSource(names).count(parameters.grid.offset + 1))


def _check_positions(url: str) -> None:
    """Refuse positions that cannot be read, or that never end."""
    with closing(open_source(url)) as source:
        if source.live:
            raise ValueError(f"{url} does not end: --positions needs a recording")


def _left(names: Sequence[str], stored: StoredMap | None) -> Source:
    """Return the source of the frames that are left to be done."""
    source = FilesSource(names)
    if stored is None:
        return source
    done = stored.done

    def left(events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if not (isinstance(event, Frame) and event.frame_id in done):
                yield event

    return Passing(source, left, len(done))


def _await_writer(path: Path) -> None:
    """Wait until the writer of a run that was killed has completed its file, as it does."""
    deadline = time.monotonic() + WAIT
    with suppress(FileNotFoundError), path.open("rb") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # no locks here
                return
            else:
                return


def _tell(row: Row) -> str:
    """Say where a frame, or those whose places became known with it, was put."""
    places = [
        f"rotation {place.index[0]}, translation {place.index[1]} (frame {place.value})"
        for place in row.get("frame_map", ())
    ]
    return "; ".join(places) or "no place in the map (yet)"


def _listed(texts: Iterable[str]) -> list[str]:
    """Return the files, or datasets of files, that lists with commas and patterns name."""
    names: dict[str, None] = {}
    for name in (name.strip() for text in texts for name in text.split(",")):
        scheme = HDF5_SCHEME if name.startswith(HDF5_SCHEME) else ""
        if name:
            found = matching([name.removeprefix(scheme)])
            names.update(dict.fromkeys(scheme + each for each in found))
    return list(names)
