"""Reads a map back from its file, so that a scan goes on whose reduction was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..sources.base import SourceError
from ..sources.files import SOURCE_FILES
from ..sources.hdf5 import DAMAGE, open_hdf5
from ..stage import Tree
from .measurement import KINDS
from .parameters import RESULT, DiffTomoParameters
from .placing import PlaceBy
from .profiles import Profiles
from .scan import Missed
from .stage import STATE, DiffTomoStage
from .tomogram import Added
from .tree import CONFIGURATION

MOST_TEXT = 1 << 26
"""Bytes of the longest text that is read."""


@dataclass(frozen=True, slots=True)
class StoredMap:
    """What a file holds of a map."""

    done: frozenset[int]
    """Numbers of the frames that are in it, or before the first position."""
    state: Tree
    """What the stage takes back."""


def read_map(
    path: Path, parameters: DiffTomoParameters, made: Profiles, files: Sequence[str]
) -> StoredMap:
    """Read a map back: also from a file whose writer was killed.

    Parameters
    ----------
    parameters
        With which the scan goes on; frames are placed by their numbers.
    made
        What makes the patterns.
    files
        Absolute names of the files that frames are read from, in order.

    Raises
    ------
    OSError
        In one sentence, if the file cannot be read.
    ValueError
        In one sentence, if the map in it cannot go on like this.
    """
    if parameters.place_by is not PlaceBy.FRAME_NUMBER:
        raise ValueError("only a map whose frames are placed by their numbers can go on")
    if parameters.azimuthal_bins:
        raise ValueError("only a map in one dimension can go on: leave out azimuthal_bins")
    with open_hdf5(path) as file:
        try:
            entry = file[DiffTomoStage.entry]
            _check(path, entry, parameters, made, files)
            return _stored(entry[RESULT], parameters, made)
        except SourceError:
            raise
        except DAMAGE as error:
            if isinstance(error, ValueError):
                raise
            raise ValueError(f"{path} holds no map that could go on: {error}") from None


def _check(
    path: Path,
    entry: h5py.Group,
    parameters: DiffTomoParameters,
    made: Profiles,
    files: Sequence[str],
) -> None:
    """Object to a map of other parameters, another geometry or other files."""
    before = json.loads(_text(entry, "process/configuration/data"))
    names = (
        *parameters.meaning,
        "n_translations",
        "n_rotations",
        "offset",
        "zigzag",
        "fast_axis",
        "slow_axis",
        "place_by",
        "frames_per_point",
    )
    now = parameters.to_json()
    others = [
        f"{name} was {before.get(name)!r:.80}, not {now[name]!r:.80}"
        for name in names
        if before.get(name) != now[name]
    ]
    if others:
        raise ValueError(f"{path} was made with other parameters: {'; '.join(others)}")
    if json.loads(_text(entry, f"{CONFIGURATION}/data")) != json.loads(made.configuration):
        raise ValueError(f"{path} was made with a PONI file or images that changed since")
    if not _begins(_text(entry, "header/data"), files):
        raise ValueError(f"{path} was made of other files, so the frames' numbers do not fit")


def _begins(header: str, files: Sequence[str]) -> bool:
    """Tell whether a map was made of the first of these files, as far as its header says."""
    now = json.dumps({SOURCE_FILES: list(files)})
    try:
        before = json.loads(header).get(SOURCE_FILES)
    except ValueError:  # so many that the list is cut
        return now.startswith(header)
    return isinstance(before, list) and len(before) > 0 and before == list(files[: len(before)])


def _stored(result: h5py.Group, parameters: DiffTomoParameters, made: Profiles) -> StoredMap:
    """Return what the group of a map holds."""
    shape = parameters.grid.shape
    frame = _array(result, "map_ptr", shape)
    intensity = _array(result, "intensity", (*shape, made.radial.size))
    errors = _array(result, "errors", intensity.shape) if parameters.errors else None
    radial = _array(result, parameters.unit.quantity, made.radial.shape)
    if not np.allclose(radial, made.radial, rtol=1e-12, atol=0):
        raise ValueError("the map in the file has another radial axis: the frames differ")
    # Where a writer was killed, a frame's number may be there without its pattern.
    there = (frame >= 0) & np.isfinite(intensity).any(axis=-1)
    if errors is not None:
        there &= np.isfinite(errors).any(axis=-1)
    frames = frame[there].astype(np.int32)
    points = [parameters.grid.point(number) for number in frames.tolist()]
    places = [p if isinstance(p, Missed) else parameters.grid.place_of(p) for p in points]
    if places != list(zip(*map(np.ndarray.tolist, np.nonzero(there)), strict=True)):
        raise ValueError("the map in the file has frames where they do not belong")
    counts = {Added.FIRST: len(frames), Missed.SKIPPED: max(parameters.offset, 0)}
    tree: dict[str, Any] = {
        "radial": made.radial,
        "origin": made.configuration,
        "place": np.flatnonzero(there),
        "frame": frames,
        "event": np.full(frames.shape, -1, np.int64),
        "point": np.array(points, np.int64),
        "pattern/intensity": intensity[there],
        "counts": np.array([counts.get(kind, 0) for kind in KINDS], np.int64),
        "highest": int(frames.max(initial=-1)),
        "serial": 0,
        "of": parameters.identity,
    }
    if errors is not None:
        tree["pattern/sigma"] = errors[there]
    done = frozenset((*frames.tolist(), *range(parameters.offset)))
    return StoredMap(done, {f"{STATE}{name}": value for name, value in tree.items()})


def _array(group: h5py.Group, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array of a known shape."""
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != shape:
        raise ValueError(f"{name} in the file is not of shape {shape}")
    values: NDArray[Any] = dataset[()]
    return values


def _text(group: h5py.Group, name: str) -> str:
    """Return a text."""
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.nbytes > MOST_TEXT:
        raise ValueError(f"{name} in the file is no text")
    return str(dataset.asstr()[()])
