"""Reads a map back from its file, so that a scan goes on whose reduction was stopped or killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..sources.base import SourceError
from ..sources.files import SOURCE_FILES
from ..sources.hdf5_file import DAMAGE, open_hdf5
from ..stage import Tree
from .measurement import KINDS, SERIES_BITS
from .outputs import (
    COUNTS,
    ENTRY,
    MOTOR_GRID,
    PATTERNS,
    PLACES,
    RESULT,
    SCAN,
    STATE,
)
from .parameters import DiffTomoParameters
from .placing import PlaceBy, Placing
from .profiles import Profiles
from .scan import MOST_POINTS, Missed, MotorGrid, Place, Spot
from .tomogram import ENTRIES, Added
from .tree import CONFIGURATION

MOST_TEXT = 1 << 26
"""Bytes of the longest text that is read."""
MOST_CHANGES = 100_000
"""Most changes of parameters that are read."""
POINT = (1 << SERIES_BITS) - 1
"""What of a point's number is not its series'."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoredMap:
    """What a file holds of a map."""

    state: Tree
    """What the stage takes back."""
    run: int
    """Number of the series that the file is of."""
    done: frozenset[int] = frozenset()
    """Numbers of the frames that need not be integrated again."""


def read_map(
    path: Path,
    parameters: DiffTomoParameters,
    made: Profiles,
    files: Sequence[str],
    placing: Placing,
) -> StoredMap:
    """Read a map back that the same files go on with: also from a file whose writer was killed.

    Parameters
    ----------
    parameters
        With which the scan goes on.
    made
        What makes the patterns.
    files
        Absolute names of the files that frames are read from, in order.
    placing
        Knows where the frames belong: of a scan that is placed by motors, all positions.

    Raises
    ------
    OSError
        In one sentence, if the file cannot be read.
    ValueError
        In one sentence, if the map in it cannot go on like this.
    """
    with _opened(path) as entry:
        _check_settings(path, entry, parameters)
        if json.loads(_text(entry, f"{CONFIGURATION}/data")) != json.loads(made.configuration):
            raise ValueError(f"{path} was made with a PONI file or images that changed since")
        if not _begins(_text(entry, "header/data"), files):
            raise ValueError(f"{path} was made of other files, so the frames' numbers do not fit")
        stored = _Stored.read(entry, parameters)
        axes = ((stored.radial, made.radial), (stored.azimuthal, made.azimuthal))
        if any(
            before is not None and now is not None and not np.allclose(before, now, 1e-12, 0)
            for before, now in axes
        ):
            raise ValueError("the map in the file has other axes: the frames differ")
        placing.axes, placing.fixed = stored.grid, stored.grid is not None
        done = stored.keep_whole_points(placing)
        state = {**stored.state(parameters), "radial": made.radial, "origin": made.configuration}
        # Who goes on with these files is in the same series, which the next number is of.
        state |= {"serial": -1, "run": stored.run}
        state["counts"] = _counts(stored, {Missed.SKIPPED: max(parameters.offset, 0)})
        return StoredMap(_prefixed(state), stored.run, done)


def left_map(path: Path, parameters: DiffTomoParameters, run: int) -> StoredMap | None:
    """Read what a device left that was killed; positions that are not as they should be are not.

    Parameters
    ----------
    run
        Number of the oldest series that counts.

    Returns
    -------
    StoredMap or None
        None if the file is of an older series; its `done` is empty.

    Raises
    ------
    OSError, ValueError
        As `read_map`.
    """
    with _opened(path) as entry:
        of = int(_array(entry, "run_id", ())[()])
        if of < run:
            return None
        _check_settings(path, entry, parameters)
        stored = _Stored.read(entry, parameters)
        stored.keep(stored.in_place(parameters))
        known: dict[Missed | Added, int] = {
            kind: int(_array(entry, f"{SCAN}/{name}", ())[()])
            for name, kind in COUNTS.items()
            if isinstance(kind, Missed)
        }
        state = {**stored.state(parameters), "origin": _text(entry, f"{CONFIGURATION}/data")}
        state |= {"serial": stored.serial, "run": of}
        state["counts"] = _counts(stored, known)
        return StoredMap(_prefixed(state), of)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.Group]:
    """Give the entry of a file; what is wrong with it becomes one sentence."""
    with open_hdf5(path) as file:
        try:
            yield file[ENTRY]
        except SourceError:
            raise
        except DAMAGE as error:
            if type(error) is ValueError:
                raise
            raise ValueError(f"{path} holds no map that could go on: {error}") from None


def _prefixed(state: Mapping[str, Any]) -> dict[str, Any]:
    state = {**state, "empty": False, "in_file": True}
    return {f"{STATE}{name}": value for name, value in state.items()}


# ------------------------------------------------------------------- what must be the same


def _check_settings(path: Path, entry: h5py.Group, parameters: DiffTomoParameters) -> None:
    """Object to a map of other parameters."""
    before = _settings(entry)
    names = [
        *parameters.meaning,
        "n_translations",
        "n_rotations",
        "offset",
        "zigzag",
        "fast_axis",
        "slow_axis",
        "place_by",
        "frames_per_point",
    ]
    if parameters.place_by is PlaceBy.MOTORS:
        names += ["rotation_range", "translation_range", "rotation_motor", "translation_motor"]
        names += ["position_tolerance"]
    now = parameters.to_json()
    others = [
        f"{name} was {before.get(name)!r:.80}, not {now[name]!r:.80}"
        for name in names
        if before.get(name) != now[name]
    ]
    if others:
        raise ValueError(f"{path} was made with other parameters: {'; '.join(others)}")


def _settings(entry: h5py.Group) -> dict[str, Any]:
    """Return the parameters with which a file ended."""
    settings = json.loads(_text(entry, "process/configuration/data"))
    changes = entry["process/changes/values"]
    if not isinstance(changes, h5py.Dataset) or changes.size > MOST_CHANGES:
        raise ValueError("the changes of parameters in the file are none")
    for text in changes.asstr()[()]:
        settings |= json.loads(text)
    return dict(settings)


def _begins(header: str, files: Sequence[str]) -> bool:
    """Tell whether a map was made of the first of these files, as far as its header says."""
    now = json.dumps({SOURCE_FILES: list(files)})
    try:
        before = json.loads(header)
    except ValueError:  # so many that the list is cut
        return now.startswith(header)
    before = before.get(SOURCE_FILES) if isinstance(before, dict) else None
    return isinstance(before, list) and len(before) > 0 and before == list(files[: len(before)])


# ------------------------------------------------------------------------ what is there


@dataclass
class _Stored:
    """The arrays of a map in a file, and which of its positions can be used."""

    run: int
    radial: NDArray[Any]
    azimuthal: NDArray[Any] | None
    layers: dict[str, NDArray[Any]]
    """By name in a checkpoint, (rotations, translations, ...)."""
    entries: Numbers
    """As `Tomogram.entries`."""
    grid: MotorGrid | None
    there: NDArray[np.bool_]
    """The positions that can be used."""

    @classmethod
    def read(cls, entry: h5py.Group, parameters: DiffTomoParameters) -> _Stored:
        """Read a map; raises ValueError if it is not of the form that the parameters say."""
        shape, two = parameters.grid.shape, parameters.azimuthal_bins
        bins: tuple[int, ...] = (parameters.n_diffraction,)
        radial = _array(entry, f"{RESULT}/{parameters.unit.quantity}", bins)
        azimuthal = _array(entry, f"{RESULT}/azimuthal", (two,)) if two else None
        layers: dict[str, NDArray[Any]] = {}
        places = {"pattern": (PATTERNS if two else RESULT, bins)}
        if two:
            places["cake"] = RESULT, (two, *bins)
        for name, (group, form) in places.items():
            layers[f"{name}/intensity"] = _array(entry, f"{group}/intensity", (*shape, *form))
            if parameters.errors:
                layers[f"{name}/sigma"] = _array(entry, f"{group}/errors", (*shape, *form))
            numbers = _array(entry, f"{group}/numbers", (*shape, *form))
            if numbers.any():
                layers[f"{name}/numbers"] = numbers
        entries = _array(entry, PLACES, (*shape, len(ENTRIES))).astype(np.int64)
        frame = _array(entry, f"{RESULT}/map_ptr", shape)
        # Where a writer was killed, what tells of a pattern may be there without it.
        there = (frame >= 0) & (entries[..., 0] == frame) & (entries[..., 2] >= 0)
        there &= (entries[..., 3] > 0) & (entries[..., 4:] >= 0).all(axis=-1)
        there &= (entries[..., 3:] <= MOST_POINTS).all(axis=-1) & (frame < 1 << 31)
        for values in layers.values():
            there &= np.isfinite(values).any(axis=tuple(range(2, values.ndim)))
        grid = None
        if parameters.place_by is PlaceBy.MOTORS:
            ends = _array(entry, MOTOR_GRID, (2, 2)).astype(np.float64)
            if np.isfinite(ends).any() or there.any():
                grid = MotorGrid.between(ends, shape, parameters.position_tolerance)
        run = int(_array(entry, "run_id", ())[()])
        return cls(run, radial, azimuthal, layers, entries, grid, there)

    @property
    def frames(self) -> Numbers:
        """Number of the newest frame of each position that can be used."""
        return self.entries[..., 0][self.there]

    @property
    def points(self) -> Numbers:
        """Number of the point of each, in its series."""
        return self.entries[..., 2][self.there] & POINT

    @property
    def serial(self) -> int:
        """Number of the newest series."""
        return int((self.entries[..., 2][self.there] >> SERIES_BITS).max(initial=0))

    @property
    def positions(self) -> list[Place]:
        """The positions that can be used, row after row."""
        return [Place(*where) for where in np.argwhere(self.there).tolist()]

    def keep(self, good: Sequence[bool]) -> None:
        """Of the positions that can be used, keep the good ones."""
        self.there[self.there] = np.array(good, np.bool_)

    def in_place(self, parameters: DiffTomoParameters) -> list[bool]:
        """Tell of each position whether it is that of its point, as far as the number says it."""
        if parameters.place_by is PlaceBy.MOTORS:
            return [True] * len(self.positions)
        grid = parameters.grid
        return [
            point < grid.points and grid.place_of(point) == place
            for point, place in zip(self.points.tolist(), self.positions, strict=True)
        ]

    def keep_whole_points(self, placing: Placing) -> frozenset[int]:
        """Keep the positions of whose points no frame is to come; return the frames that are done.

        Done is what is in the map, what newer frames of it replaced, and what comes before the
        first position.

        Raises
        ------
        ValueError
            If a frame is not where it belongs.
        """
        last = int(self.frames.max(initial=-1)) + 1
        if last > MOST_POINTS or self.serial:
            raise ValueError("the map in the file has frames that no series of these files has")
        numbers = [(number, -1) for number in range(last + 1)]
        spots = [each if isinstance(each, Spot) else None for each in placing.find(numbers)]
        here: dict[Place, tuple[int, int, int]] = {}
        whole = Counter(spot.point for spot in spots if spot is not None)
        good: list[bool] = []
        for place in self.positions:
            frame, _, point, count = self.entries[place][:4].tolist()
            if spots[frame] != Spot(place, point):
                raise ValueError("the map in the file has frames where they do not belong")
            good.append(whole[point] == count)
            if good[-1]:
                here[place] = frame, point, count
        self.keep(good)
        done = {
            number
            for number, spot in enumerate(spots)
            if spot is not None and spot.place in here and number <= here[spot.place][0]
        }
        return frozenset((*done, *range(placing.grid.offset)))

    def state(self, parameters: DiffTomoParameters) -> dict[str, Any]:
        """Return it as a checkpoint has it, but for counts and where it comes from."""
        kept = self.entries[self.there]
        tree: dict[str, Any] = {
            "radial": self.radial,
            "place": np.flatnonzero(self.there),
            "frame": kept[:, 0].astype(np.int32),
            "event": kept[:, 1],
            "point": kept[:, 2],
            "times": kept[:, 3:],
            "highest": int(self.frames.max(initial=-1)),
            "of": parameters.identity,
            **{name: values[self.there] for name, values in self.layers.items()},
        }
        if self.azimuthal is not None:
            tree["azimuthal"] = self.azimuthal
        if self.grid is not None:
            tree["ends"] = self.grid.ends
        return tree


def _counts(stored: _Stored, known: Mapping[Missed | Added, int]) -> Numbers:
    """Return what became of the frames, as a checkpoint has it."""
    kept = stored.entries[stored.there]
    counts: dict[Missed | Added, int] = {
        **known,
        Added.FIRST: len(kept),
        Added.MEAN: int(kept[:, 4].sum()),
        Added.AGAIN: int(kept[:, 5].sum()),
    }
    return np.array([counts.get(kind, 0) for kind in KINDS], np.int64)


def _array(group: h5py.Group, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an array of a known shape that stands in the file itself."""
    above, _, last = name.rpartition("/")
    parent = group[above] if above else group
    if not isinstance(parent, h5py.Group):
        raise ValueError(f"{above} in the file is no group")
    link = parent.get(last, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} in the file is a link")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != shape:
        raise ValueError(f"{name} in the file is not of shape {shape}")
    if dataset.is_virtual or dataset.external or dataset.dtype.kind not in "iuf":
        raise ValueError(f"{name} in the file holds no numbers of its own")
    values: NDArray[Any] = np.asarray(dataset[()])
    return values


def _text(group: h5py.Group, name: str) -> str:
    """Return a text."""
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.nbytes > MOST_TEXT:
        raise ValueError(f"{name} in the file is no text")
    return str(dataset.asstr()[()])
