"""Files of frames, their events and a pointer between them: consistent whatever happens."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series
from ronda.core.parameters import Parameters
from ronda.core.sinks.columns import columns
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sinks.recover import recover
from ronda.core.sinks.seriesfile import SeriesFile
from ronda.core.stage import Kind, Output, Record, Row, Settings, Stage, Tree
from ronda.tests.core.sinks import writing
from ronda.tests.core.sinks.writing import (
    end_values,
    filled,
    flushed_when_killed,
    kill,
    no_room,
    tables_of,
)
from ronda.tests.waiting import wait_for

Write = Callable[..., NexusWriter]
SHAPE, BINS = (60, 80), 30
PLACE = "entry_0000/sparse_frames"
RADIUS = np.linspace(0, 60, BINS, dtype="f4")


def mask() -> NDArray[np.float32]:
    """Return the radius of each pixel, NaN in a corner that is left out."""
    y, x = np.indices(SHAPE)
    radius = np.hypot(y - 30.5, x - 41.25).astype("f4")
    radius[:3, :4] = np.nan
    return radius


USABLE = np.flatnonzero(np.isfinite(mask()))


def kept(number: int, count: int, dtype: str = "u2") -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pixels that a frame keeps, and what they hold."""
    rng = np.random.default_rng(number)
    index = np.sort(rng.choice(USABLE, count, replace=False)).astype("u4")
    return index, rng.integers(1, 60_000, count).astype(dtype)


def background(number: int) -> NDArray[np.float32]:
    return np.linspace(20 + number, 3, BINS, dtype="f4")


def _output(
    name: str, dtype: Any, record: Record, group: str = "sparse_frames", *, compressed: bool = True
) -> Output:
    kind = Kind.IMAGE if name == "mask" else Kind.SPECTRUM
    return Output(name, kind, dtype, path=f"{group}/{name}", record=record, compressed=compressed)


class SparseStage(Stage[Parameters, int]):
    """Keeps as many pixels of a frame as its first pixel says. Nothing outlives a frame."""

    name = "sparse"
    title = "Sparse"
    entry = "entry_0000"
    creator = "pyFAI-compatible Ronda 0"
    Parameters = Parameters
    outputs = (
        _output("frame_ptr", "u8", Record.POINTER, compressed=False),
        _output("index", "u4", Record.EVENTS),
        _output("intensity", None, Record.EVENTS),
        _output("background_avg", "f4", Record.FRAME),
        _output("background_std", "f4", Record.FRAME),
        Output("frame", Kind.SCALAR, "i8", path="numbers/frame", record=Record.FRAME),
        _output("mask", "f4", Record.CELL),
    )
    groups: Mapping[str, Mapping[str, Any]] = {  # type: ignore[misc]
        "": {"pyFAI_sparse_frames": "/entry_0000/sparse_frames"},
        "sparse_frames": {
            "NX_class": "NXdata",
            "signal": "background_avg",
            "axes": [".", "radius"],
        },
    }

    def map(self, frame: Frame, parameters: Parameters) -> int:
        return int(frame.data[0, 0])

    def reduce(self, frame: Frame, partial: int, settings: Settings) -> Row:
        index, intensity = kept(frame.frame_id, partial, frame.dtype.str)
        return {
            "index": index,
            "intensity": intensity,
            "background_avg": background(frame.frame_id),
            "background_std": np.sqrt(background(frame.frame_id)),
            "frame": frame.frame_id,
        }

    def value(self, name: str) -> Any:
        return None

    def update(self) -> Tree:
        return {
            "sparse_frames/radius": RADIUS,
            "sparse_frames/dummy": 7.0,
            "sparse_frames/errors>": "sparse_frames/background_std",
            "sparse_frames/background_avg@signal": 1,
            "sparsify/configuration/data": '{"sparsify": {"cutoff_pick": 3.0}}',
        }

    def cells(self) -> Mapping[str, Any]:
        return {"sparse_frames/mask": mask()}


STAGE = SparseStage


class Line(writing.Line):
    """A series of frames that keep so many pixels each; one of which None is known is vetoed."""

    def __init__(self, writer: NexusWriter, filename: str, dtype: str = "u2") -> None:
        super().__init__(writer, filename, SparseStage())
        self.dtype = dtype
        self.counts: dict[int, int | None] = {}

    def frames(self, *counts: int | None) -> None:
        for count in counts:
            self.frame(count)

    def frame(self, count: int | None, **strange: Any) -> None:
        self.counts[self.count] = count
        self.add(np.full(SHAPE, count or 0, self.dtype), count is not None, **strange)


def assert_holds(path: Path, counts: Mapping[int, int | None], dtype: str = "u2") -> None:
    """Check that the file holds these frames with so many events each, and nothing else."""
    known = {number: count for number, count in counts.items() if count is not None}
    pixels = [kept(number, count, dtype) for number, count in known.items()]
    with h5py.File(path) as file:
        data = file[PLACE]
        pointer = data["frame_ptr"]
        assert pointer.dtype == np.uint64
        assert pointer[...].tolist() == [0, *itertools.accumulate(known.values())]
        assert file["entry_0000/numbers/frame"][...].tolist() == list(known)
        for n, (name, type_) in enumerate({"index": "u4", "intensity": dtype}.items()):
            wanted = np.concatenate([np.empty(0, type_), *(pixel[n] for pixel in pixels)])
            assert data[name].dtype == wanted.dtype
            np.testing.assert_array_equal(data[name], wanted)
        average = data["background_avg"][...].reshape(-1, BINS)
        np.testing.assert_array_equal(average, [background(n) for n in known] or average)
        assert len(data["background_std"]) == len(average) == len(known)


def frames_seen(path: Path) -> int:
    """Return the frames that a reader with swmr=True finds; 0 while there is no file."""
    return writing.seen(path, lambda file: len(file[PLACE]["frame_ptr"]) - 1)


# ------------------------------------------------------------------- what is written


@pytest.mark.parametrize("counts", [(0,), (1,), (0, 1, 0), (3, 0, 4_000, 1, 0, 4_788)])
def test_frames_of_any_number_of_pixels_are_found_by_the_pointer(
    write: Write, raw: str, reduced: Path, counts: tuple[int, ...]
) -> None:
    writer = write(SparseStage())
    line = Line(writer, raw)
    line.frames(*counts)
    line.end()
    assert (writer.problem, writer.rows_lost) == ("", 0)
    assert_holds(reduced, line.counts)


def test_everything_stands_under_the_entry_that_the_stage_names(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(SparseStage())
    line = Line(writer, raw)
    line.frames(3)
    line.settings = Settings(2, Parameters())
    writer.adopt(Frame(line.series, 1, np.zeros(SHAPE, "u2")), line.settings)
    line.frames(2)
    line.end()
    with h5py.File(reduced) as file:
        assert list(file) == ["entry_0000"]
        assert (file.attrs["default"], file.attrs["creator"]) == (
            "entry_0000",
            "pyFAI-compatible Ronda 0",
        )
        entry = file["entry_0000"]
        assert entry.attrs["default"] == "sparse_frames"
        assert entry.attrs["pyFAI_sparse_frames"] == "/entry_0000/sparse_frames"
        assert entry["end_note"].asstr()[()] == "complete"
        assert entry["process/stage"].asstr()[()] == "sparse"
        assert entry["process/changes/frame"][...].tolist() == [1]
        assert entry["ledger/missing_rows"][()] == 0
        assert entry.get("raw", getlink=True).filename == "../raw/scan-0001_pilatus.h5"
        assert entry["sparse_frames/errors"] == entry["sparse_frames/background_std"]
        assert entry["sparse_frames/background_avg"].attrs["signal"] == 1


def test_tables_are_compressed_as_pyfai_does(write: Write, raw: str, reduced: Path) -> None:
    writer = write(SparseStage())
    line = Line(writer, raw)
    line.frames(*[4_000] * 20)
    line.end()
    with h5py.File(reduced) as file:
        for name in ("index", "intensity", "background_avg", "background_std", "mask"):
            table = file[PLACE][name]
            plist = table.id.get_create_plist()
            assert [plist.get_filter(n)[0] for n in range(plist.get_nfilters())] == [32008], name
            assert np.prod(table.chunks) * table.dtype.itemsize <= 8192, name
        assert file[PLACE]["index"].id.get_storage_size() < 0.6 * file[PLACE]["index"].nbytes
        assert file[PLACE]["frame_ptr"].id.get_create_plist().get_nfilters() == 0
        np.testing.assert_array_equal(file[PLACE]["mask"], mask())


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "f4"])
def test_fabio_opens_the_file_as_sparse_and_finds_every_frame(
    write: Write, raw: str, reduced: Path, dtype: str
) -> None:
    writer = write(SparseStage())
    line = Line(writer, raw, dtype)
    line.frames(5, 0, 200)
    line.end()
    assert writer.problem == ""
    radius = mask()
    with fabio.open(reduced) as image:
        assert type(image).__name__ == "SparseImage"
        assert image.nframes == 3
        assert image.cutoff == 3.0
        for number, count in line.counts.items():
            dense = np.interp(radius, RADIUS, background(number).astype(float)).ravel()
            if dtype != "f4":
                dense = np.floor(dense + 0.5)
            index, intensity = kept(number, count or 0, dtype)
            dense[index] = intensity
            there = np.isfinite(radius)
            found = image.getframe(number).data
            assert found.dtype == np.dtype(dtype)
            np.testing.assert_allclose(found[there], dense.reshape(SHAPE)[there], rtol=1e-6)
            assert (found[~there] == 7).all()


class TestTypeOfTheFirstFrame:
    def test_it_is_that_of_the_first_array_even_if_it_is_empty(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write(SparseStage())
        line = Line(writer, raw, "u4")
        line.frames(None, 0, 7)
        line.end()
        assert writer.problem == ""
        assert_holds(reduced, line.counts, "u4")

    def test_largest_numbers_are_exact(self, write: Write, raw: str, reduced: Path) -> None:
        writer = write(SparseStage())
        line = Line(writer, raw, "u4")
        most = np.array([2**32 - 1, 2**31, 2**24 + 1], "u4")
        line.frame(3, intensity=most)
        line.end()
        with h5py.File(reduced) as file:
            np.testing.assert_array_equal(file[PLACE]["intensity"], most)

    def test_another_type_is_counted_and_neither_wraps_nor_is_rounded(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write(SparseStage())
        line = Line(writer, raw)
        line.frames(2)
        for dtype in ("u4", "i2", "f4", "u8", "bool"):
            line.frame(3, intensity=np.ones(3, dtype))
        line.frame(0, intensity=np.empty(0, "f8"))
        line.frame(4, intensity=kept(7, 4)[1].astype(">u2"))
        line.end()
        assert "events in entry_0000/sparse_frames of 5 frames" in writer.problem
        with h5py.File(reduced) as file:
            assert file[PLACE]["frame_ptr"][...].tolist() == [0, 2, 2, 2, 2, 2, 2, 2, 6]
            wanted = np.concatenate([kept(0, 2)[1], kept(7, 4)[1]])
            np.testing.assert_array_equal(file[PLACE]["intensity"], wanted)
            assert len(file[PLACE]["background_avg"]) == 8


class TestFramesWithoutRow:
    def test_series_of_vetoed_frames_has_a_whole_file(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write(SparseStage())
        line = Line(writer, raw, "i4")
        line.frames(None, None)
        line.end()
        assert (writer.problem, writer.rows_lost) == ("", 0)
        assert writer.file == str(reduced)
        assert writer.file_complete
        assert_holds(reduced, line.counts, "i4")
        with h5py.File(reduced) as file:
            assert file["entry_0000/end_note"].asstr()[()] == "complete"
            np.testing.assert_array_equal(file[PLACE]["mask"], mask())
            np.testing.assert_array_equal(file[PLACE]["radius"], RADIUS)

    def test_values_are_those_of_its_own_series(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        """The runner closes a file when its stage may be at the next series already."""

        class Counting(SparseStage):
            series = 0

            def update(self) -> Tree:
                return {**super().update(), "sparse_frames/dummy": float(self.series)}

        stage = Counting()
        writer = write(stage)
        line = Line(writer, raw)
        line.frames(None)
        stage.series = 1
        line.end()
        with h5py.File(reduced) as file:
            assert file[PLACE]["dummy"][()] == 0.0

    def test_rows_that_come_late_or_seldom_are_all_there(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write(SparseStage())
        line = Line(writer, raw)
        line.frames(None, None, 4, None, 0)
        wait_for(lambda: frames_seen(reduced) == 2)
        line.frames(None, 9, None)
        line.end()
        assert writer.rows_lost == 0
        assert_holds(reduced, line.counts)


def _with(*more: Output, without: tuple[str, ...] = ()) -> Stage[Any, Any]:
    class Other(SparseStage):
        outputs = (*(o for o in SparseStage.outputs if o.name not in without), *more)

    return Other()


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        (_with(without=("frame_ptr",)), "tables of frames only with one pointer"),
        (_with(_output("second", "u8", Record.POINTER)), "only with one pointer"),
        (_with(_output("p", "u8", Record.POINTER, "numbers")), "its group has no events"),
        (
            _with(
                _output("p", "u8", Record.POINTER, "r/{slot}"),
                _output("e", "f4", Record.EVENTS, "r/{slot}"),
            ),
            "no slots",
        ),
        (_with(_output("c", "f4", Record.CELL, "r/{slot}")), "they have no slots"),
        (_with(_output("t", None, Record.FRAME)), "output t has no type"),
        (_with(_output("t", None, Record.CELL)), "output t has no type"),
    ],
)
def test_what_could_not_be_consistent_is_refused_at_once(stage: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NexusWriter().open(stage)


def test_reader_never_finds_a_pointer_beyond_the_events(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(SparseStage())
    line = Line(writer, raw)
    line.frames(5)
    wait_for(lambda: frames_seen(reduced) == 1)
    seen: set[int] = set()
    with h5py.File(reduced, "r", swmr=True) as file:
        data = file[PLACE]

        def follow() -> int:
            data["frame_ptr"].refresh()
            pointer = data["frame_ptr"][...]
            for name in ("index", "intensity"):
                data[name].refresh()
                assert pointer[-1] <= len(data[name])
            frames = {number: line.counts[number] or 0 for number in range(len(pointer) - 1)}
            assert pointer.tolist() == [0, *itertools.accumulate(frames.values())]
            for number, count in frames.items():
                piece = slice(int(pointer[number]), int(pointer[number + 1]))
                np.testing.assert_array_equal(data["index"][piece], kept(number, count)[0])
                np.testing.assert_array_equal(data["intensity"][piece], kept(number, count)[1])
            seen.add(len(frames))
            return len(frames)

        while len(seen) < 3:
            line.frames(0, 3, 900)
            follow()
        wait_for(lambda: follow() == len(line.counts))
    line.finish()


# ----------------------------------------------------------------- what goes wrong


def books(counts: Mapping[int, int]) -> dict[str, Any]:
    """Return the rows of frames as a message has them."""
    stage, out = SparseStage(), {}
    series = Series(1)
    image, given = np.zeros(SHAPE, U2), Settings(1, Parameters())
    rows = [stage.reduce(Frame(series, n, image), k, given) for n, k in counts.items()]
    for book in columns(stage, {"background_avg": RADIUS, "background_std": RADIUS}, U2):
        out[book.name], misfits = book.stack(rows)
        assert not misfits
    return out


U2 = np.dtype("u2")


def new_file(path: Path) -> SeriesFile:
    tree = {"@default": SparseStage.entry, **end_values(SparseStage.entry)}
    tables = tables_of(SparseStage(), {"background_avg": RADIUS, "background_std": RADIUS}, "u2")
    return SeriesFile(path, tree, {}, tables, 1)


STEPS = st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["flush", "full", "drop"])))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_pointer_is_right_whatever_is_dropped_and_when(
    tmp_path: Path, steps: list[int | str]
) -> None:
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    file = new_file(path)
    file.flush()
    number = 0
    there: dict[int, int] = {}
    waiting: dict[int, int] = {}
    for step in [*steps, "flush"]:
        match step:
            case int(count):
                file.rows(books({number: count}), 1)
                waiting[number] = count
                number += 1
            case "flush":
                file.flush()
                there |= waiting
                waiting = {}
            case "full":
                with no_room(), suppress(OSError):
                    file.flush()
            case "drop":
                assert file.drop_frames() == len(waiting)
                waiting = {}
        assert file.frames == len(there)
    file.finish({})
    file.flush()
    assert_holds(path, there)


def test_at_every_flush_the_file_is_consistent_once_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "x.h5", tmp_path / "copy.h5"
    seen: list[int] = []
    flush = h5py.File.flush

    def note(opened: h5py.File) -> None:
        flush(opened)
        if opened.filename == str(path) and opened.swmr_mode:
            shutil.copyfile(path, copy)
            recover(copy)
            assert_holds(copy, dict(enumerate([3, 2, 0, 1][: frames_seen(copy)])))
            seen.append(frames_seen(copy))

    file = new_file(path)
    file.flush()
    monkeypatch.setattr(h5py.File, "flush", note)
    for rows in ({0: 3, 1: 2}, {2: 0, 3: 1}):
        file.rows(books(rows), 2)
        file.flush()
    assert sorted(set(seen)) == [0, 2, 4]
    file.finish({})
    file.flush()


TORN = """
import os, sys, h5py, hdf5plugin
import numpy as np
file = h5py.File(sys.argv[1], "r+", libver=("v110", "v110"))
file["entry_0000/end_note"][()] = np.bytes_(b"")
file.swmr_mode = True
data = file["entry_0000/sparse_frames"]
for name, more in eval(sys.argv[2]).items():
    data[name].resize(len(data[name]) + more, axis=0)
file.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("torn", "left"),
    [
        ({"index": 7, "intensity": 7}, 3),
        ({"index": 7}, 3),
        ({"frame_ptr": 2}, 3),
        ({"background_avg": 2}, 3),
        ({"frame_ptr": 1, "background_avg": 2, "background_std": 1, "index": 9}, 3),
        ({"background_std": -1}, 2),
        ({"frame_ptr": -2, "intensity": 1}, 1),
        ({"intensity": -1}, 2),
        ({"index": -10}, 0),
    ],
)
def test_what_the_kill_left_uneven_is_cut_to_whole_frames(
    tmp_path: Path, torn: dict[str, int], left: int
) -> None:
    path, counts = tmp_path / "x.h5", {0: 3, 1: 2, 2: 5}
    file = new_file(path)
    file.rows(books(counts), 3)
    file.finish({})
    file.flush()
    subprocess.run([sys.executable, "-c", TORN, str(path), str(torn)], check=True)
    assert "recovered" in recover(path)
    with h5py.File(path, "r+") as opened:
        assert opened["entry_0000/end_note"].asstr()[()].startswith("recovered")
        opened["entry_0000/numbers/frame"].resize(left, axis=0)  # of another group: not cut
    assert_holds(path, {number: counts[number] for number in range(left)})


WRITER = """
import sys
from pathlib import Path
from ronda.tests.core.sinks import test_sparse as sparse
file = sparse.new_file(Path(sys.argv[1]))
messages = [(sparse.books({n: sparse.count(n) for n in range(k, k + 10)}), k + 10)
            for k in range(0, 600, 10)]
for rows, number in messages:
    file.rows(rows, 10)
    file.flush()
    print(number, flush=True)
sys.stdin.read()
"""


def count(number: int) -> int:
    """Return how many events a frame has that the killed writer writes."""
    return number * 37 % 400


def test_kill_at_any_moment_keeps_every_flushed_frame_and_a_right_pointer(tmp_path: Path) -> None:
    chance = random.Random(1)
    for trial in range(6):
        path = tmp_path / f"{trial}.h5"
        flushed = flushed_when_killed(WRITER, chance.randrange(1, 50), str(path))
        recover(path)
        frames = frames_seen(path)
        assert frames >= flushed
        with h5py.File(path, "r+") as opened:
            opened["entry_0000/numbers/frame"].resize(frames, axis=0)  # of another group
        assert_holds(path, {number: count(number) for number in range(frames)})


def test_killed_writer_s_file_is_opened_by_fabio_after_recovery(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(SparseStage(), state_directory=None)
    line = Line(writer, raw)
    line.frames(0, 4, 3_000)
    wait_for(lambda: frames_seen(reduced) == 3)
    kill(writer)
    recover(reduced)
    assert_holds(reduced, line.counts)
    with fabio.open(reduced) as image:
        assert (type(image).__name__, image.nframes) == ("SparseImage", 3)
    line.finish()


def test_full_disk_loses_no_pixel_once_there_is_room(write: Write, small_disk: Path) -> None:
    reduced = small_disk / "process" / "scan-1_sparse.h5"
    writer = write(SparseStage())
    line = Line(writer, str(small_disk / "raw" / "scan-1.h5"))
    line.frames(10, 0, 20)
    wait_for(lambda: frames_seen(reduced) == 3)
    with filled(small_disk):
        line.frames(*[1_000] * 40)
        wait_for(lambda: "the disk is full" in writer.problem)
        line.frames(*[None, 0, 500] * 10)
        assert frames_seen(reduced) == 3
    wait_for(lambda: writer.problem == "")
    line.end()
    assert writer.rows_lost == 0
    assert_holds(reduced, line.counts)
