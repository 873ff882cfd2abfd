"""Images of one series in several datasets: the data files that a master file links to.

DECTRIS's detectors write `/entry/data/data_000001`, `data_000002`... as links to files with
equally many images, the last with the rest (SIMPLON API, section on the HDF5 file format).
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .base import SourceError
from .hdf5_file import (
    DAMAGE,
    MAX_DEPTH,
    MAX_FRAMES,
    checked_images,
    find_images,
    signal_of,
)
from .numbering import usual_size

NUMBERED = re.compile(r"data_(\d{6})")
"""What the datasets are called."""
PLACE = "entry/data"
"""Where they are if nothing else is said."""
MOST_PARTS = 10_000
"""Most datasets of one series."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images one after the other in one dataset."""

    path: str
    """In the file that was opened, where `find_images` finds it; empty: it is meant without."""
    file: Path
    """The file that holds the dataset, or should."""
    dataset: str
    """Its path there."""
    shape: tuple[int, ...]
    """(..., rows, columns); as the others' where there is a problem."""
    dtype: np.dtype[Any]
    elsewhere: bool = False
    """True if the dataset itself takes its pixels from other files."""
    begins: int | None = None
    """Number of its first frame, from 0, where the file says so."""
    problem: str = ""
    """Why it cannot be read, in a sentence; then its frames are rejected."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return math.prod(self.shape[:-2])


def find_parts(file: h5py.File, path: str = "") -> list[Part]:
    """Return the datasets of images at a path, or those that are meant without one, in order.

    That is the one dataset as `find_images` finds it, or all numbered ones of a master
    file, if the path leads to their group. Of these one that is missing or damaged stands
    for as many frames as the others have.

    Raises
    ------
    SourceError
        As from `find_images`; or if it is not known how many frames are missing before others.
    """
    return numbered_parts(file, path) or [_part(find_images(file, path), path)]


def numbered_parts(file: h5py.File, path: str = "") -> list[Part]:
    """Return the numbered datasets of a master file; none if no such are meant.

    Raises
    ------
    SourceError
        As from `find_parts`.
    """
    try:
        group = _group(file, path)
        names = [] if group is None else _names(group)
        parts = [_opened(group, name) for name in names]
    except SourceError:
        raise
    except DAMAGE as error:
        raise SourceError(f"{file.filename} is damaged: {error}") from None
    if not any(isinstance(part, Part) for part in parts):
        return []
    filled = _filled(parts)
    if sum(part.frames for part in filled) > MAX_FRAMES:
        raise SourceError(f"{file.filename} claims more than {MAX_FRAMES} frames")
    return filled


def _group(file: h5py.File, path: str) -> h5py.Group | None:
    """Return the group of numbered datasets that a path means; None: it means something else."""
    start = None
    with suppress(*DAMAGE):
        start = file[path or "/"]
    if not isinstance(start, h5py.Group):
        return None
    group, name = start, None
    for _ in range(MAX_DEPTH):
        name = group.attrs.get("signal")
        default = group.attrs.get("default")
        below = group.get(default) if name is None and isinstance(default, str) else None
        if not isinstance(below, h5py.Group):
            break
        group = below
    if not (isinstance(name, str) and NUMBERED.fullmatch(name)) and signal_of(start) is not None:
        return None
    places = [group] if path else [group, file.get(PLACE)]
    return next(
        (place for place in places if isinstance(place, h5py.Group) and _names(place)), None
    )


def _names(group: h5py.Group) -> list[str]:
    """Return the names of numbered datasets from the first to the last, also those not there."""
    found = [NUMBERED.fullmatch(name) for name in group]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return []
    first, last = min(numbers), max(numbers)
    if last - first >= MOST_PARTS:
        raise SourceError(f"{group.file.filename} names more than {MOST_PARTS} data files")
    return [f"data_{number:06d}" for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Missing:
    """A dataset that cannot be read."""

    path: str
    file: Path
    dataset: str
    problem: str


def _part(dataset: h5py.Dataset, path: str) -> Part:
    """Return what is known of a dataset of images."""
    begins = None
    with suppress(*DAMAGE):
        begins = int(dataset.attrs["image_nr_low"]) - 1  # DECTRIS counts from 1
    return Part(
        path,
        Path(dataset.file.filename),
        dataset.name,
        dataset.shape,
        dataset.dtype,
        bool(dataset.is_virtual or dataset.external),
        begins,
    )


def _opened(group: h5py.Group, name: str) -> Part | _Missing:
    """Return one of the numbered datasets, or what is wrong with it."""
    path, here = f"{group.name}/{name}", Path(group.file.filename)
    try:
        item = group[name]
        if not isinstance(item, h5py.Dataset):
            raise SourceError("it is no dataset")
        return _part(checked_images(item), path)
    except DAMAGE as error:
        reason = str(error)
    link = None
    with suppress(*DAMAGE):
        link = group.get(name, getlink=True)
    if link is None:
        return _Missing(path, here, path, f"{here} has no {path}")
    if not isinstance(link, h5py.ExternalLink):
        return _Missing(path, here, path, f"{here}::{path} cannot be read: {reason}")
    file = here.parent / link.filename
    problem = f"{file} cannot be read: {reason}" if file.exists() else f"there is no file {file}"
    return _Missing(path, file, link.path, problem)


def _filled(parts: list[Part | _Missing]) -> list[Part]:
    """Return all parts, with the usual number of frames for those that cannot be read."""
    whole = [part for part in parts if isinstance(part, Part)]
    last = parts[-1].frames if isinstance(parts[-1], Part) else None
    usual = usual_size([part.frames for part in parts[:-1] if isinstance(part, Part)], last)
    filled: list[Part] = []
    number = 0
    for at, part in enumerate(parts):
        if isinstance(part, _Missing):
            size, end = usual, at + 1 == len(parts)
            after = None if end else parts[at + 1]
            begins = after.begins if isinstance(after, Part) else None
            if size is None and begins is not None and number <= begins <= MAX_FRAMES:
                size = begins - number
            if size is None and not end:
                raise SourceError(
                    f"{part.problem}; how many frames it has is not known, so that those of "
                    "the data files after it cannot be numbered"
                )
            part = replace(
                whole[0],
                path=part.path,
                file=part.file,
                dataset=part.dataset,
                shape=(1 if size is None else size, *whole[0].shape[-2:]),
                begins=None,
                problem=part.problem,
            )
        filled.append(part)
        number += part.frames
    return filled
