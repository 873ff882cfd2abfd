"""The source `hdf5:FILE[::/path]`: frames in an HDF5 or NeXus file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..frame import Frame, Lost, Notice, Rejected, Series, SeriesEnd, SeriesStart, new_run_id
from .base import Event, Source, SourceError, source
from .hdf5_file import DAMAGE, find_images, open_hdf5
from .hdf5_frames import StoredFrames
from .hdf5_virtual import Index


@source("hdf5")
class Hdf5Source(Source):
    """Reads a dataset with frames along its first axes, as one series.

    Shapes (rows, columns), (n, rows, columns) and (..., rows, columns) are
    taken, through virtual datasets and links too. Without a path it is the
    default NXdata signal, or the only dataset that looks like images. A frame
    that cannot be read is rejected; one that was never written, or whose raw
    file is gone, is lost (HDF5 itself would fill in zeros, which would count).
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
            self.total = math.prod(find_images(file, self._path).shape[:-2])

    def events(self) -> Iterator[Event]:
        """Yield one series with every frame of the dataset.

        Raises
        ------
        SourceError
            If the file or the dataset is gone.
        """
        series = Series(new_run_id(), filename=str(self._name.absolute()))
        with open_hdf5(self._name) as file:
            dataset = find_images(file, self._path)
            absent = 0
            yield SeriesStart(series)
            with closing(StoredFrames(dataset)) as frames:
                if frames.missing_files:
                    names = ", ".join(frames.missing_files)
                    yield Notice(f"raw files of the virtual dataset are missing: {names:.300}")
                for frame_id, index in enumerate(np.ndindex(dataset.shape[:-2])):
                    if self.closed.is_set():
                        return
                    event = _read(frames, index, series, frame_id)
                    absent += isinstance(event, Lost)
                    yield event
        if absent:
            yield Notice(f"{absent} frames of {self._name} were never written or are gone")
        yield SeriesEnd(series)


def _read(frames: StoredFrames, index: Index, series: Series, frame_id: int) -> Event:
    try:
        payload = frames.read(index)
    except (SourceError, *DAMAGE) as error:
        return Rejected(f"it cannot be read: {error}", frame_id)
    return Lost(1) if payload is None else Frame(series, frame_id, payload)
