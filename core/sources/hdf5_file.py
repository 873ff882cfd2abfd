"""HDF5 files that are opened whatever state they are in, and the images found in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - makes bitshuffle and its like readable

from ..frame import BadFrame, check_shape
from .base import SourceError

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
        return checked_images(dataset_at(file, path))
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


def _at(file: h5py.File, path: str) -> h5py.Dataset:
    """Return the dataset at a path, or the signal of the group there."""
    try:
        found = file[path]
    except DAMAGE:
        raise SourceError(f"{file.filename} has nothing to read at {path}") from None
    dataset = signal_of(found) if isinstance(found, h5py.Group) else found
    if not isinstance(dataset, h5py.Dataset):
        raise SourceError(f"{file.filename} has no dataset at {path}")
    return dataset


def _default(file: h5py.File) -> h5py.Dataset:
    """Return the dataset that is meant where no path is given."""
    signal = signal_of(file)
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


def checked_images(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset that holds images of a usable shape and type.

    Raises
    ------
    SourceError
        If it does not.
    """
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


def signal_of(group: h5py.Group) -> h5py.Dataset | None:
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
