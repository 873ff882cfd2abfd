"""The source `hdf5:FILE[::/path]`: frames in an HDF5 or NeXus file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from ..frame import Frame, Lost, Notice, Rejected, Series, SeriesEnd, SeriesStart, new_run_id
from .base import Event, Source, SourceError, source
from .hdf5_file import DAMAGE, find_images, open_hdf5
from .hdf5_frames import StoredFrames
from .hdf5_parts import Part, find_parts
from .hdf5_virtual import Index


@source("hdf5")
class Hdf5Source(Source):
    """Reads a dataset with frames along its first axes, as one series.

    Shapes (rows, columns), (n, rows, columns) and (..., rows, columns) are
    taken, through virtual datasets and links too. Without a path it is the
    default NXdata signal, or the only dataset that looks like images; in a master file
    of DECTRIS it is all of `data_000001`, `data_000002`... in their order. A frame
    that cannot be read is rejected, and so are those of a data file that is missing or
    damaged; one that was never written, or whose raw file is gone, is lost (HDF5 itself
    would fill in zeros, which would count).
    Frames that are chunks of bitshuffle-LZ4 come compressed: who needs the pixels
    decodes them, in parallel, and finds damage. Chunks of several frames are decoded once.
    """

    live: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        name, _, self._path = url.partition(":")[2].partition("::")
        self._name = Path(name)
        if not self._name.is_file():
            raise SourceError(f"there is no file {self._name}")
        with open_hdf5(self._name) as file:
            self.parts = find_parts(file, self._path)
        self.total = sum(part.frames for part in self.parts)

    def events(self) -> Iterator[Event]:
        """Yield one series with every frame of the dataset, or of all that belong together.

        Raises
        ------
        SourceError
            If the file or the dataset is gone.
        """
        series = Series(new_run_id(), filename=str(self._name.absolute()))
        with open_hdf5(self._name) as file:
            parts = find_parts(file, self._path)
            absent, first = 0, 0
            yield SeriesStart(series)
            for part in parts:
                for event in _of_part(file, part, series, first):
                    if self.closed.is_set():
                        return
                    absent += isinstance(event, Lost)
                    yield event
                first += part.frames
        if absent:
            yield Notice(f"{absent} frames of {self._name} were never written or are gone")
        yield SeriesEnd(series)


def _of_part(file: h5py.File, part: Part, series: Series, first: int) -> Iterator[Event]:
    """Yield the frames of one dataset, counted from `first`."""
    problem = part.problem
    with ExitStack() as stack:
        try:
            frames = None if problem else StoredFrames(find_images(file, part.path))
        except DAMAGE as error:
            frames, problem = None, f"{part.file}::{part.dataset} cannot be read: {error}"
        if frames is not None:
            stack.enter_context(closing(frames))
            if frames.missing_files:
                names = ", ".join(frames.missing_files)
                yield Notice(f"raw files of the virtual dataset are missing: {names:.300}")
        for frame_id, index in enumerate(np.ndindex(part.shape[:-2]), first):
            if frames is None:
                yield Rejected(problem, frame_id)
            else:
                yield _read(frames, index, series, frame_id)


def _read(frames: StoredFrames, index: Index, series: Series, frame_id: int) -> Event:
    try:
        payload = frames.read(index)
    except (SourceError, *DAMAGE) as error:
        return Rejected(f"it cannot be read: {error}", frame_id)
    return Lost(1) if payload is None else Frame(series, frame_id, payload)
