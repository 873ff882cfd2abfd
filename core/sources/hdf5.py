"""The source `hdf5:FILE[::/path]`: frames in an HDF5 or NeXus file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import hdf5plugin  # noqa: F401  (makes bitshuffle and its like readable)
import numpy as np
from numpy.typing import NDArray

from ..frame import (
    BadFrame,
    Frame,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
    check_shape,
    new_run_id,
)
from .base import Event, Source, SourceError, source

CHUNK_CACHE = 64 << 20
"""Bytes of decoded chunks kept, so that a chunk of several frames is decoded once."""
MAX_CHUNK = 4 << 30
"""Bytes of the largest chunk read: it is decoded whole."""
MAX_FRAMES = 100_000_000
"""Most frames taken; a file of a few bytes can claim any number."""
MAX_DEPTH = 8
"""Deepest group searched for images."""
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises where a file is not as it should be."""
WAYS: tuple[dict[str, bool], ...] = ({}, {"locking": False}, {"swmr": True, "locking": False})
"""How a file is opened, in turn: plainly; where locks do not work; while it is
written, or after its writer was killed."""


@source("hdf5")
class Hdf5Source(Source):
    """Reads a dataset with frames along its first axes, as one series.

    Shapes (rows, columns), (n, rows, columns) and (..., rows, columns) are
    taken, through virtual datasets and links too. Without a path it is the
    default NXdata signal, or the only dataset that looks like images. A frame
    that cannot be read is rejected; one that was never written, or whose raw
    file is gone, is lost (HDF5 itself would fill in zeros, which would count).
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
            missing, names = missing_frames(dataset)
            absent = 0
            yield SeriesStart(series)
            if names:
                yield Notice(f"raw files of the virtual dataset are missing: {names:.300}")
            for frame_id, index in enumerate(np.ndindex(dataset.shape[:-2])):
                if self.closed.is_set():
                    return
                if missing[index[:1]].any() or not _was_written(dataset, index):
                    absent += 1
                    yield Lost(1)
                else:
                    yield _read(dataset, index, series, frame_id)
        if absent:
            yield Notice(f"{absent} frames of {self._name} were never written or are gone")
        yield SeriesEnd(series)


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading, also one that is being written or whose writer was killed.

    Raises
    ------
    SourceError
        If it is no HDF5 file or cannot be read.
    """
    reason = ""
    for way in WAYS:
        try:
            return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE, **way)
        except DAMAGE as error:
            reason = reason or str(error)
    raise SourceError(f"{path} cannot be read: {reason}")


def find_images(file: h5py.File, path: str = "") -> h5py.Dataset:
    """Return the dataset of images at a path, or the one that is meant without a path.

    Raises
    ------
    SourceError
        If there is none, it holds no images, or several may be meant: then
        their paths are listed.
    """
    try:
        return _checked(dataset_at(file, path))
    except SourceError:
        raise
    except DAMAGE as error:
        raise SourceError(f"{file.filename} is damaged: {error}") from None


def dataset_at(file: h5py.File, path: str = "") -> h5py.Dataset:
    """Return the dataset at a path, or the one that is meant without a path, whatever it holds.

    Raises
    ------
    SourceError
        If there is none, or several may be meant.
    """
    return _at(file, path) if path else _default(file)


def missing_frames(dataset: h5py.Dataset) -> tuple[NDArray[np.bool_], str]:
    """Return which frames of a virtual dataset have no raw file, and the missing files' names.

    The first array has the length of the dataset's first axis.
    """
    folder = Path(dataset.file.filename).parent
    missing = np.zeros(dataset.shape[0], bool)
    names: list[str] = []
    for part in dataset.virtual_sources() if dataset.is_virtual else ():
        if part.file_name == "." or "%" in part.file_name or (folder / part.file_name).exists():
            continue
        first, last = part.vspace.get_select_bounds()
        missing[first[0] : last[0] + 1] = True
        names.append(part.file_name)
    return missing, ", ".join(names)


def _read(dataset: h5py.Dataset, index: tuple[int, ...], series: Series, frame_id: int) -> Event:
    try:
        data = dataset[index]
    except DAMAGE as error:
        return Rejected(f"it cannot be read: {error}", frame_id)
    return Frame(series, frame_id, np.ascontiguousarray(data, data.dtype.newbyteorder("=")))


def _was_written(dataset: h5py.Dataset, index: tuple[int, ...]) -> bool:
    """Tell whether a frame is there, and not left out by an aborted scan."""
    if dataset.chunks is None:
        return True
    try:
        return dataset.id.get_chunk_info_by_coord((*index, 0, 0)).byte_offset is not None
    except DAMAGE:
        return True  # what is wrong with it is found when it is read


def _at(file: h5py.File, path: str) -> h5py.Dataset:
    """Return the dataset at a path, or the signal of the group there."""
    try:
        found = file[path]
    except DAMAGE:
        raise SourceError(f"{file.filename} has nothing to read at {path}") from None
    dataset = _signal(found) if isinstance(found, h5py.Group) else found
    if not isinstance(dataset, h5py.Dataset):
        raise SourceError(f"{file.filename} has no dataset at {path}")
    return dataset


def _default(file: h5py.File) -> h5py.Dataset:
    """Return the dataset that is meant where no path is given."""
    signal = _signal(file)
    if signal is not None:
        return signal
    candidates = list(_candidates(file, "", set()))
    if not candidates:
        raise SourceError(f"{file.filename} has no dataset of images")
    if len(candidates) > 1:
        raise SourceError(
            f"{file.filename} has several datasets of images; choose one with ::PATH: "
            f"{', '.join(candidates[:20])}"
        )
    return file[candidates[0]]


def _checked(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset that holds images of a usable shape and type."""
    if len(dataset.shape or ()) < 2:
        raise SourceError(f"{dataset.file.filename}::{dataset.name} is no image or stack of images")
    try:
        check_shape(dataset.shape[-2:], dataset.dtype)
    except BadFrame as error:
        raise SourceError(f"{dataset.file.filename}::{dataset.name}: {error}") from None
    if math.prod(dataset.shape[:-2]) > MAX_FRAMES:
        raise SourceError(
            f"{dataset.file.filename}::{dataset.name} claims {dataset.shape}, "
            f"more than {MAX_FRAMES} frames"
        )
    if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > MAX_CHUNK:
        raise SourceError(
            f"{dataset.file.filename}::{dataset.name} has chunks {dataset.chunks}, "
            f"more than {MAX_CHUNK} bytes each"
        )
    return dataset


def _signal(group: h5py.Group) -> h5py.Dataset | None:
    """Return the signal of a group's default NXdata (NeXus: attributes default, signal)."""
    found: Any = group
    for _ in range(MAX_DEPTH):
        if not isinstance(found, h5py.Group):
            break
        name = found.attrs.get("signal", found.attrs.get("default"))
        found = found.get(name) if isinstance(name, str) else None
    return found if isinstance(found, h5py.Dataset) and len(found.shape or ()) >= 2 else None


def _candidates(group: h5py.Group, path: str, seen: set[Any]) -> Iterator[str]:
    """Yield the paths of numeric datasets with three axes or more, each dataset once."""
    for name in group:
        try:
            item = group[name]
        except DAMAGE:
            continue  # a broken link
        where = f"{path}/{name}"
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, h5py.Group) and where.count("/") < MAX_DEPTH:
            yield from _candidates(item, where, seen)
        elif isinstance(item, h5py.Dataset) and item.ndim >= 3 and item.dtype.kind in "uif":
            yield where
