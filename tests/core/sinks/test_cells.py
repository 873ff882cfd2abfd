"""Datasets that frames write cells of: the right value at the right place, and only there."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import Frame
from ronda.core.parameters import Parameters
from ronda.core.sinks.grids import MOST_PIECES, Grid, Grids
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sinks.recover import recover
from ronda.core.sinks.seriesfile import SeriesFile
from ronda.core.stage import Kind, Output, Placed, Record, Row, Settings, Stage, Tree
from ronda.tests.core.sinks import writing
from ronda.tests.core.sinks.writing import end_values, filled, flushed_when_killed, kill, no_room
from ronda.tests.waiting import wait_for

Write = Callable[..., NexusWriter]
SLOW, FAST, RADIAL = 5, 6, 700


def pattern(number: int) -> NDArray[np.float32]:
    return np.sqrt(np.arange(RADIAL) + 1000 * number).astype("f4")


def _cell(name: str, kind: Kind, dtype: str, compressed: bool = False) -> Output:
    path = f"result/{name}"
    return Output(name, kind, dtype, "counts", path=path, record=Record.CELL, compressed=compressed)


class MapStage(Stage[Parameters, int]):
    """Puts frame n at place n of a map. The map outlives a series."""

    name = "map"
    title = "Map"
    entry = "entry_0000"
    Parameters = Parameters
    outputs = (
        _cell("intensity", Kind.SPECTRUM, "f4"),
        _cell("errors", Kind.SPECTRUM, "f4", compressed=True),
        _cell("frames", Kind.IMAGE, "i4"),
        _cell("hits", Kind.IMAGE, "u2", compressed=True),
        Output("frame", Kind.SCALAR, "i8", path="numbers/frame", record=Record.FRAME),
    )
    groups: Mapping[str, Mapping[str, Any]] = {  # type: ignore[misc]
        "result": {"NX_class": "NXdata", "signal": "intensity", "axes": ["slow", "fast", "2th"]}
    }

    def __init__(self, shape: tuple[int, int, int] = (SLOW, FAST, RADIAL)) -> None:
        super().__init__()
        self.shape = shape
        self.done: NDArray[Any] | None = None

    def map(self, frame: Frame, parameters: Parameters) -> int:
        return frame.frame_id

    def reduce(self, frame: Frame, partial: int, settings: Settings) -> Row:
        place = divmod(partial, self.shape[1])
        return {
            "intensity": Placed(place, pattern(partial)),
            "errors": [Placed(place, np.sqrt(pattern(partial)))],
            "frames": Placed(place, partial),
            "hits": Placed(place, 1),
            "frame": partial,
        }

    def value(self, name: str) -> Any:
        return None

    def cells(self) -> Mapping[str, Any]:
        return {
            "result/intensity": self.shape if self.done is None else self.done,
            "result/errors": self.shape,
            "result/frames": self.shape[:2],
            "result/hits": self.shape[:2],
        }


STAGE = MapStage


class Line(writing.Line):
    """A series of the map."""

    def __init__(self, writer: NexusWriter, filename: str, stage: MapStage | None = None) -> None:
        super().__init__(writer, filename, stage or MapStage())

    def frames(self, count: int, **strange: Any) -> None:
        for _ in range(count):
            self.add(np.zeros((4, 4), np.int32), **strange)


def expected(count: int) -> NDArray[np.float32]:
    out = np.full((SLOW, FAST, RADIAL), np.nan, "f4")
    for number in range(count):
        out[divmod(number, FAST)] = pattern(number)
    return out


def assert_holds(path: Path, count: int) -> None:
    """Check that the file holds so many frames at their places, and nothing elsewhere."""
    with h5py.File(path) as file:
        result = file["entry_0000/result"]
        np.testing.assert_array_equal(result["intensity"], expected(count))
        np.testing.assert_array_equal(result["errors"], np.sqrt(expected(count)))
        places = np.arange(SLOW * FAST)
        wanted = np.where(places < count, places, -1)
        assert result["frames"][...].ravel().tolist() == wanted.tolist()
        assert result["hits"][...].ravel().tolist() == (places < count).tolist()


def cells_seen(path: Path) -> int:
    """Return the frames that a reader with swmr=True finds in the map, in all that it has of them.

    One flush of HDF5 brings dataset after dataset; a kill may come between two of them.
    """

    def cells(file: h5py.File) -> int:
        result = file["entry_0000/result"]
        there = (np.isfinite(result[name][...]).any(axis=-1) for name in ("intensity", "errors"))
        return min((result["frames"][...] >= 0).sum(), *(each.sum() for each in there))

    return writing.seen(path, cells)


# ------------------------------------------------------------------- what is written


def test_frames_stand_at_their_places_and_nothing_elsewhere(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(MapStage())
    line = Line(writer, raw)
    line.frames(17)
    line.end()
    assert (writer.problem, writer.rows_lost) == ("", 0)
    assert_holds(reduced, 17)
    with h5py.File(reduced) as file:
        intensity = file["entry_0000/result/intensity"]
        assert (intensity.attrs["units"], intensity.attrs["interpretation"]) == (
            "counts",
            "spectrum",
        )
        assert file["entry_0000/result/frames"].attrs["interpretation"] == "image"
        plist = file["entry_0000/result/errors"].id.get_create_plist()
        assert plist.get_filter(0)[0] == 32008


def test_reader_follows_every_kind_of_cells_while_they_come(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(MapStage())
    line = Line(writer, raw)
    line.frames(2)
    wait_for(lambda: cells_seen(reduced) == 2)
    with h5py.File(reduced, "r", swmr=True) as file:
        result = file["entry_0000/result"]

        def followed() -> bool:
            for name in ("intensity", "errors", "frames", "hits"):
                result[name].refresh()
            return (
                np.array_equal(result["intensity"], expected(line.count), equal_nan=True)
                and np.array_equal(result["errors"], np.sqrt(expected(line.count)), equal_nan=True)
                and int(result["hits"][...].sum()) == line.count
                and int(result["frames"][...].max()) == line.count - 1
            )

        for more in (1, 7, 15):
            line.frames(more)
            wait_for(followed)
    line.finish()


def test_only_written_cells_take_room_and_none_is_sent_twice(
    write: Write, raw: str, reduced: Path
) -> None:
    stage = MapStage((200, 200, RADIAL))
    writer = write(stage)
    line = Line(writer, raw, stage)
    line.frames(250)
    line.end()
    assert writer.problem == ""
    with h5py.File(reduced) as file:
        result = file["entry_0000/result"]
        assert result["intensity"].shape == (200, 200, RADIAL)
        assert result["intensity"].id.get_storage_size() < 1.1 * 250 * RADIAL * 4
        np.testing.assert_array_equal(result["intensity"][1, 49], pattern(249))
        assert np.isnan(result["intensity"][1, 50:]).all()
    assert reduced.stat().st_size < 5e6


def test_resumed_map_keeps_what_was_there(write: Write, raw: str, reduced: Path) -> None:
    stage = MapStage()
    stage.done = expected(12)
    writer = write(stage)
    line = Line(writer, raw, stage)
    line.count = 12
    frame = Frame(line.series, 12, np.zeros((4, 4), np.int32))
    writer.begin(line.series, frame, line.settings)
    line.frames(9)
    line.end()
    assert writer.problem == ""
    with h5py.File(reduced) as file:
        np.testing.assert_array_equal(file["entry_0000/result/intensity"], expected(21))


def test_cells_of_trees_are_written_in_place_and_after_those_of_frames(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(MapStage())
    line = Line(writer, raw)
    line.frames(3)
    late = {"result/intensity": [Placed((0, 4), pattern(40)), Placed((0, 1), pattern(41))]}
    writer.update(line.series, {**late, "result/hits": np.full((SLOW, FAST), 3, "u2")})
    line.finish(**{"result/intensity": Placed((4,), np.zeros((FAST, RADIAL)))})
    writer.close()
    assert writer.problem == ""
    wanted = expected(3)
    wanted[0, 4], wanted[0, 1], wanted[4] = pattern(40), pattern(41), 0
    with h5py.File(reduced) as file:
        np.testing.assert_array_equal(file["entry_0000/result/intensity"], wanted)
        assert (file["entry_0000/result/hits"][...] == 3).all()


def test_stage_may_go_on_with_the_array_that_it_gave(write: Write, raw: str, reduced: Path) -> None:
    writer = write(MapStage())
    line = Line(writer, raw)
    scratch = np.ones(RADIAL, "f4")
    line.frames(1, intensity=Placed((0, 0), scratch), errors=[Placed((0, 1), scratch)])
    scratch[:] = 7
    line.end()
    with h5py.File(reduced) as file:
        assert (file["entry_0000/result/intensity"][0, 0] == 1).all()
        assert (file["entry_0000/result/errors"][0, 1] == 1).all()


STRANGE = {
    "before the first": Placed((-1, 0), pattern(0)),
    "behind the last": Placed((0, FAST), pattern(0)),
    "one axis too many": Placed((0, 0, 0, 0), np.float32(1)),
    "too short": Placed((0, 0), pattern(0)[:-1]),
    "broadcast": Placed((0, 0), np.float32(1)),
    "no whole number": Placed((0.5, 0), pattern(0)),  # type: ignore[arg-type]
    "no number": Placed((0, 0), np.full(RADIAL, "a")),
    "complex": Placed((0, 0), pattern(0).astype("c8")),
    "no cell": ["text"],
}


def test_cells_that_do_not_fit_are_counted_and_written_nowhere(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(MapStage())
    line = Line(writer, raw)
    line.frames(2)
    for strange in STRANGE.values():
        line.frames(1, intensity=strange, errors=None, frames=None, hits=Placed((0, 0), 70_000))
    line.end()
    number = len(STRANGE)
    assert f"intensity of {number} frames, hits of {number} frames" in writer.problem
    assert writer.rows_lost == 0
    assert_holds(reduced, 2)


def test_output_without_a_shape_is_counted(write: Write, raw: str, reduced: Path) -> None:
    class Shapeless(MapStage):
        def cells(self) -> Mapping[str, Any]:
            return {}

    writer = write(Shapeless())
    line = Line(writer, raw)
    line.frames(2)
    line.end()
    assert "intensity of 2 frames" in writer.problem
    with h5py.File(reduced) as file:
        assert file["entry_0000/numbers/frame"][...].tolist() == [0, 1]


@pytest.mark.allow_error_log
def test_stage_that_fails_to_tell_its_shapes_still_has_a_file(
    write: Write, raw: str, reduced: Path
) -> None:
    class Broken(MapStage):
        def cells(self) -> Mapping[str, Any]:
            raise ZeroDivisionError("no motor")

    writer = write(Broken())
    line = Line(writer, raw)
    line.frames(2)
    line.end()
    assert "no motor" in writer.problem
    with h5py.File(reduced) as file:
        assert file["entry_0000/numbers/frame"][...].tolist() == [0, 1]


def test_stage_with_cells_alone_accounts_for_its_frames(
    write: Write, raw: str, reduced: Path
) -> None:
    class Alone(MapStage):
        outputs = MapStage.outputs[:4]

    writer = write(Alone())
    line = Line(writer, raw)
    line.frames(4)
    line.frames(1, intensity=None, errors=None, frames=None, hits=None)
    line.end()
    assert (writer.problem, writer.rows_lost) == ("", 0)
    assert_holds(reduced, 4)


# ---------------------------------------------------------------------------- pieces


SHAPES = st.lists(st.integers(0, 3000), max_size=4).map(tuple)


@given(SHAPES, st.sampled_from(["u1", "i2", "f4", "f8"]), st.booleans())
def test_pieces_are_neither_huge_nor_too_many(
    shape: tuple[int, ...], dtype: str, compressed: bool
) -> None:
    grid = Grid(np.dtype(dtype), shape, compressed)
    piece, item = grid.piece, np.dtype(dtype).itemsize
    assert len(piece) == len(shape)
    assert all(1 <= side <= max(length, 1) for side, length in zip(piece, shape, strict=True))
    assert math.prod(piece) * item <= max(8192, grid.nbytes / MOST_PIECES)
    counts = [-(-length // side) for side, length in zip(piece, shape, strict=True)]
    assert math.prod(counts) <= 4 * MOST_PIECES
    # cells of the last axes are not divided where they fit
    if shape and 0 < shape[-1] * item <= 8192:
        assert piece[-1] == shape[-1]


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.data(),
    st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_room_is_asked_for_every_piece_that_is_written(
    tmp_path: Path, shape: list[int], data: st.DataObject, compressed: bool
) -> None:
    grid = Grid(np.dtype("f8"), (*shape, 500), compressed)
    grids = Grids({"x": grid})
    depth = data.draw(st.integers(0, len(shape)))
    index = st.tuples(*(st.integers(0, length - 1) for length in shape[:depth]))
    rng = np.random.default_rng(0)
    for place in data.draw(st.lists(index, min_size=1, max_size=5)):
        grids.take({"x": [(place, rng.random(grid.shape[depth:]))]}, of_frames=True)
    with h5py.File(tmp_path / "x.h5", "w", libver=("v110", "v110")) as file:
        grids.create(file)
        grids.write(file.__getitem__)
        file.flush()
        assert file["x"].id.get_storage_size() <= grids.room()


# ----------------------------------------------------------------- what goes wrong

FORMS = {
    "entry/large": Grid(np.dtype("f4"), (3, 4, 3000)),
    "entry/packed": Grid(np.dtype("i4"), (3, 4, 500), compressed=True),
    "entry/small": Grid(np.dtype("i4"), (3, 4)),
    "entry/small_packed": Grid(np.dtype("u2"), (3, 4), compressed=True),
    "entry/image": Grid(np.dtype("f8"), (300, 200), compressed=True),
    "entry/number": Grid(np.dtype("f8"), ()),
}


def new_file(path: Path) -> SeriesFile:
    return SeriesFile(path, end_values("entry"), {}, {}, 1, grids=FORMS)


def cell(path: str, place: tuple[int, ...], value: int) -> dict[str, Any]:
    """Return a cell as a message has it, made of this number."""
    grid = FORMS[path]
    shape = grid.shape[len(place) :]
    full = (np.arange(math.prod(shape)).reshape(shape) % 9 + value).astype(grid.dtype)
    return {path: [(list(place), full)]}


@st.composite
def writes(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int]:
    path = draw(st.sampled_from(sorted(FORMS)))
    shape = FORMS[path].shape
    depth = draw(st.integers(0, min(2, len(shape))))
    return path, tuple(draw(st.integers(0, n - 1)) for n in shape[:depth]), draw(st.integers(0, 99))


STEPS = st.lists(st.one_of(writes(), st.sampled_from(["flush", "full", "drop"])), max_size=25)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_newest_value_stands_at_every_place_whatever_is_dropped(
    tmp_path: Path, steps: list[Any]
) -> None:
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    file = new_file(path)
    file.flush()
    waiting: list[tuple[str, tuple[int, ...], int]] = []
    wanted = {
        name: np.full(grid.shape, {"f": np.nan, "i": -1, "u": 0}[grid.dtype.kind], grid.dtype)
        for name, grid in FORMS.items()
    }
    frames = 0
    for step in [*steps, "flush"]:
        match step:
            case "flush":
                file.flush()
                for name, place, value in waiting:
                    wanted[name][place] = cell(name, place, value)[name][0][1]
                frames += len(waiting)
                waiting = []
            case "full":
                with no_room(), suppress(OSError):
                    file.flush()
            case "drop":
                assert file.drop_frames() == len(waiting)
                waiting = []
            case write:
                file.rows({}, 1, cell(*write))
                waiting.append(write)
        assert file.frames == frames
    file.finish({})
    file.flush()
    with h5py.File(path) as opened:
        for name, values in wanted.items():
            assert opened[name].dtype == values.dtype
            np.testing.assert_array_equal(opened[name][()], values)


def test_cells_of_an_unknown_dataset_are_refused_whole(tmp_path: Path) -> None:
    file = new_file(tmp_path / "x.h5")
    with pytest.raises(KeyError):
        file.rows({}, 1, {**cell("entry/small", (0, 0), 5), "entry/none": [([], np.zeros(3))]})
    file.finish({})
    file.flush()
    assert file.frames == 0
    with h5py.File(tmp_path / "x.h5") as opened:
        assert (opened["entry/small"][...] == -1).all()


def test_cells_of_updates_outlive_the_frames_that_are_dropped(tmp_path: Path) -> None:
    file = new_file(tmp_path / "x.h5")
    file.update({}, cell("entry/small", (0, 0), 5))
    file.rows({}, 1, cell("entry/small", (0, 1), 6))
    assert file.drop_frames() == 1
    file.finish({}, cell("entry/small", (0, 2), 7))
    file.flush()
    with h5py.File(tmp_path / "x.h5") as opened:
        assert opened["entry/small"][0].tolist() == [5, -1, 7, -1]


WRITER = """
import sys
from pathlib import Path
from ronda.tests.core.sinks import test_cells as cells
file = cells.new_file(Path(sys.argv[1]))
for number, (path, place) in enumerate(cells.tour()):
    file.rows({}, 1, cells.cell(path, place, number + 1))
    file.flush()
    print(number + 1, flush=True)
sys.stdin.read()
"""


def tour() -> list[tuple[str, tuple[int, ...]]]:
    """Return what the killed writer writes, cell after cell."""
    forms = ("entry/large", "entry/packed", "entry/small", "entry/small_packed")
    return [(path, place) for place in itertools.product(range(3), range(4)) for path in forms]


def test_kill_at_any_moment_keeps_every_flushed_cell(tmp_path: Path) -> None:
    chance = random.Random(1)
    for trial in range(5):
        path = tmp_path / f"{trial}.h5"
        flushed = flushed_when_killed(WRITER, chance.randrange(1, 40), str(path))
        assert "unreadable" not in recover(path)
        with h5py.File(path) as file:
            for number, (name, place) in enumerate(tour()[:flushed]):
                wanted = cell(name, place, number + 1)[name][0][1]
                np.testing.assert_array_equal(file[name][place], wanted)
            for name, place in tour()[flushed + 1 :]:
                values = file[name][place]
                blank = (
                    np.isnan(values) if values.dtype.kind == "f" else values == file[name].fillvalue
                )
                assert np.all(blank)


def test_killed_writer_s_map_is_readable_after_recovery(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(MapStage(), state_directory=None)
    line = Line(writer, raw)
    line.frames(13)
    wait_for(lambda: cells_seen(reduced) == 13)
    kill(writer)
    recover(reduced)
    assert_holds(reduced, 13)
    line.finish()


def test_full_disk_loses_no_cell_once_there_is_room(write: Write, small_disk: Path) -> None:
    reduced = small_disk / "process" / "scan-1_map.h5"
    writer = write(MapStage())
    line = Line(writer, str(small_disk / "raw" / "scan-1.h5"))
    line.frames(2)
    wait_for(lambda: cells_seen(reduced) == 2)
    with filled(small_disk):
        line.frames(20)
        wait_for(lambda: "the disk is full" in writer.problem)
        assert cells_seen(reduced) == 2
    wait_for(lambda: writer.problem == "")
    line.end()
    assert writer.rows_lost == 0
    assert_holds(reduced, 22)


class Constant(MapStage):
    """Has an image that never changes."""

    outputs = (*MapStage.outputs, _cell("mask", Kind.IMAGE, "f4", compressed=True))

    def cells(self) -> Mapping[str, Any]:
        return {**super().cells(), "result/mask": np.full((900, 1000), 2.5, "f4")}

    def update(self) -> Tree:
        return {"result/2th": np.linspace(1, 20, RADIAL)}


def test_large_image_that_never_changes_is_there_from_the_beginning(
    write: Write, raw: str, reduced: Path
) -> None:
    stage = Constant()
    writer = write(stage)
    line = Line(writer, raw, stage)
    line.frames(1)
    wait_for(lambda: cells_seen(reduced) == 1)
    with h5py.File(reduced, "r", swmr=True) as file:
        assert (file["entry_0000/result/mask"][...] == 2.5).all()
        assert len(file["entry_0000/result/2th"]) == RADIAL
    line.finish()
