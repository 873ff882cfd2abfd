"""Tables of events: none is lost, none is invented, and all tables agree about the frames."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series, SeriesEnd, SeriesStart, new_run_id
from ronda.core.parameters import Parameters
from ronda.core.runner import Runner
from ronda.core.sinks import layout, process
from ronda.core.sinks.columns import EventColumns, columns
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sinks.recover import recover
from ronda.core.sinks.seriesfile import SeriesFile
from ronda.core.sources import Event, Source
from ronda.core.stage import Kind, Output, Record, Row, Settings, Stage
from ronda.tests.core.sinks import writing
from ronda.tests.core.sinks.writing import (
    end_values,
    filled,
    flushed_when_killed,
    kill,
    no_room,
    rows_seen,
    stuck,
    tables_of,
)
from ronda.tests.waiting import wait_for
from silx.io import nxdata

Write = Callable[..., NexusWriter]
Photons = dict[str, NDArray[Any]]
COLUMNS = {"frame": "u4", "y": "f4", "x": "f4", "energy": "f4", "flag": "u1"}


def hits(number: int, count: int) -> Photons:
    """Return the events of a frame, each another, with an energy that is no number."""
    order = np.arange(count)
    energy = np.sqrt(order + number)
    energy[:1] = np.nan
    values = (np.full(count, number), order + 0.25, order - number, energy, order % 7)
    return {name: value.astype(COLUMNS[name]) for name, value in zip(COLUMNS, values, strict=True)}


def expected(counts: dict[int, int]) -> Photons:
    """Return the tables of frames with so many events each."""
    frames = [hits(number, count) for number, count in counts.items()]
    return {
        name: np.concatenate([hits(0, 0)[name]] + [f[name] for f in frames]) for name in hits(0, 0)
    }


def _events(name: str, unit: str, group: str = "photons") -> Output:
    path = f"{group}/{name}"
    return Output(
        f"{group}_{name}",
        Kind.SPECTRUM,
        COLUMNS[name],
        unit,
        path=path,
        record=Record.EVENTS,
        live=False,
    )


class PhotonStage(Stage[Parameters, int]):
    """Finds as many photons in a frame as its first pixel says. Nothing outlives a frame."""

    name = "photons"
    title = "Photons"
    Parameters = Parameters
    outputs = (
        Output("frame", Kind.SCALAR, "i8", path="frames/frame", record=Record.FRAME),
        _events("frame", ""),
        _events("y", "px"),
        _events("x", "px"),
        _events("energy", "counts"),
        _events("flag", ""),
        _events("frame", "", "spikes"),
    )
    groups = {"photons": {"NX_class": "NXdata", "signal": "energy"}}  # noqa: RUF012

    def map(self, frame: Frame, parameters: Parameters) -> int:
        return int(frame.data[0, 0])

    def reduce(self, frame: Frame, partial: int, settings: Settings) -> Row:
        found = hits(frame.frame_id, partial)
        spikes = {"spikes_frame": found["frame"][:1]}
        return {"frame": frame.frame_id, **spikes, **{f"photons_{k}": v for k, v in found.items()}}

    def value(self, name: str) -> Any:
        return None


class EventsOnly(PhotonStage):
    """Has no table of frames."""

    outputs = PhotonStage.outputs[1:]


STAGE = PhotonStage


class Line(writing.Line):
    """A series of frames with so many events each."""

    def __init__(self, writer: NexusWriter, filename: str) -> None:
        super().__init__(writer, filename, PhotonStage())
        self.counts: dict[int, int] = {}

    def frames(self, *counts: int) -> None:
        for count in counts:
            self.frame(count)

    def frame(self, count: int, **strange: Any) -> None:
        self.counts[self.count] = count
        self.add(np.full((2, 2), count, np.int32), **strange)


def photons(file: h5py.File) -> Photons:
    return {name: file[f"entry/photons/{name}"][...] for name in COLUMNS}


def assert_holds(path: Path, counts: dict[int, int]) -> None:
    """Check that the tables hold the events of these frames, and no others."""
    with h5py.File(path) as file:
        found = photons(file)
        if "frames" in file["entry"]:
            assert file["entry/frames/frame"][...].tolist() == list(counts)
        spikes = [number for number, count in counts.items() if count]
        assert file["entry/spikes/frame"][...].tolist() == spikes
    for name, values in expected(counts).items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    "counts", [(0,), (1,), (0, 1, 0), (3, 0, 50_000, 1, 0, 0, 20_000), (16_384, 16_384)]
)
def test_frames_of_any_number_of_events_are_kept_in_order(
    write: Write, raw: str, reduced: Path, counts: tuple[int, ...]
) -> None:
    writer = write(PhotonStage())
    line = Line(writer, raw)
    line.frames(*counts)
    line.end()
    assert (writer.problem, writer.rows_lost) == ("", 0)
    assert_holds(reduced, line.counts)
    with h5py.File(reduced) as file:
        table = file["entry/photons/y"]
        assert (table.chunks, table.attrs["units"]) == ((16_384,), "px")
        assert file["entry/photons"].attrs["NX_class"] == "NXdata"


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=4))
def test_where_messages_are_divided_makes_no_difference(batches: list[list[int]]) -> None:
    stage = PhotonStage()
    (book,) = [each for each in columns(stage, {}, np.dtype("i4")) if each.name == "entry/photons"]
    assert isinstance(book, EventColumns)
    counts = dict(enumerate(itertools.chain(*batches)))
    rows = [{f"photons_{k}": v for k, v in hits(*each).items()} for each in counts.items()]
    stacked = []
    for batch in batches:
        stacked.append(book.stack(rows[: len(batch)])[0])
        del rows[: len(batch)]
    for name, values in expected(counts).items():
        parts = [each[f"entry/photons/{name}"] for each in stacked]
        np.testing.assert_array_equal(np.concatenate([values[:0], *parts]), values)


def test_no_event_is_lost_between_flushes(write: Write, raw: str, reduced: Path) -> None:
    writer = write(PhotonStage())
    line = Line(writer, raw)
    for _ in range(3):
        line.frames(7, 0, 2_000)
        wait_for(lambda: rows_seen(reduced) == len(line.counts))
    line.end()
    assert_holds(reduced, line.counts)


def test_reader_that_finds_a_frame_finds_its_events_in_every_table(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(PhotonStage())
    line = Line(writer, raw)
    line.frames(5)
    wait_for(lambda: rows_seen(reduced) == 1)
    flushes: set[int] = set()
    with h5py.File(reduced, "r", swmr=True) as file:

        def follow() -> int:
            for table in ("frames/frame", *(f"photons/{name}" for name in COLUMNS)):
                file["entry"][table].refresh()
                if table == "frames/frame":
                    seen = len(file["entry"][table])
                    wanted = expected({n: line.counts[n] for n in range(seen)})
                else:
                    values = wanted[table.partition("/")[2]]
                    np.testing.assert_array_equal(file["entry"][table][: len(values)], values)
            flushes.add(seen)
            return seen

        while len(flushes) < 3:
            line.frames(0, 3, 700)
            follow()
            time.sleep(0.01)
        wait_for(lambda: follow() == len(line.counts))
        lengths = {len(values) for values in photons(file).values()}
        assert lengths == {sum(line.counts.values())}
    line.finish()


def test_series_without_any_event_is_whole(write: Write, raw: str, reduced: Path) -> None:
    writer = write(PhotonStage())
    line = Line(writer, raw)
    line.frames(0, 0, 0)
    wait_for(lambda: rows_seen(reduced) == 3)
    with h5py.File(reduced, "r", swmr=True) as file:
        assert {values.shape for values in photons(file).values()} == {(0,)}
    line.end()
    assert writer.problem == ""
    assert_holds(reduced, line.counts)
    with h5py.File(reduced) as file:
        plot = nxdata.get_default(file)
        assert plot is None or plot.signal.size == 0


def test_stage_with_events_alone_accounts_for_its_frames(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(EventsOnly())
    line = Line(writer, raw)
    line.frames(2, 0, 3)
    line.end()
    assert (writer.problem, writer.rows_lost) == ("", 0)
    assert_holds(reduced, line.counts)


STRANGE = (
    {"photons_y": np.zeros(4, "f4")},
    {"photons_y": None},
    {"photons_x": np.zeros((3, 1), "f4")},
    {"photons_flag": np.float32(1)},
    {"photons_flag": np.full(3, 256)},
    {"photons_frame": np.full(3, 2.0)},
)


def test_events_that_do_not_fit_are_named_counted_and_left_out_of_every_table(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(PhotonStage())
    line = Line(writer, raw)
    line.frames(2)
    for strange in STRANGE:
        line.frame(3, **strange)
    line.frames(1)
    line.end()
    assert f"events in entry/photons of {len(STRANGE)} frames" in writer.problem
    assert writer.rows_lost == 0
    last = len(STRANGE) + 1
    with h5py.File(reduced) as file:
        assert file["entry/frames/frame"][...].tolist() == list(range(last + 1))
        assert file["entry/spikes/frame"][...].tolist() == list(range(last + 1))
        for name, values in expected({0: 2, last: 1}).items():
            np.testing.assert_array_equal(file[f"entry/photons/{name}"], values)


def test_values_of_another_type_that_fit_and_missing_events_are_no_problem(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(PhotonStage())
    line = Line(writer, raw)
    found = {name: value.astype(value.dtype.kind + "8") for name, value in hits(0, 3).items()}
    line.frame(3, **{f"photons_{name}": value for name, value in found.items()})
    line.frame(0, **{f"photons_{name}": None for name in COLUMNS}, spikes_frame=None)
    line.frame(0, **{f"photons_{name}": np.array([]) for name in COLUMNS})
    line.end()
    assert writer.problem == ""
    assert_holds(reduced, line.counts)


@pytest.mark.parametrize("path", ["photons/{slot}/y", "frames/y"])
def test_tables_of_events_that_could_not_be_even_are_refused_at_once(path: str) -> None:
    class Uneven(PhotonStage):
        outputs = (
            *PhotonStage.outputs,
            Output("odd", Kind.SPECTRUM, "f4", path=path, record=Record.EVENTS),
        )

    with pytest.raises(ValueError, match="output odd records events at"):
        NexusWriter().open(Uneven())


class Script(Source):
    """A series whose frames have so many events."""

    live = False

    def __init__(self, series: Series, counts: tuple[int, ...]) -> None:
        super().__init__("script:")
        self.series, self.counts = series, counts

    def events(self) -> Iterator[Event]:
        yield SeriesStart(self.series)
        for number, count in enumerate(self.counts):
            yield Frame(self.series, number, np.full((2, 2), count, np.int32))
        yield SeriesEnd(self.series)


def test_offline_run_writes_the_same(raw: str, reduced: Path, tmp_path: Path) -> None:
    counts = (3, 0, 1_000, 1)
    offline = tmp_path / "offline.h5"
    for writer in (NexusWriter(), NexusWriter(output_file=offline)):
        runner = Runner(PhotonStage(), Parameters(), [writer], workers=2)
        runner.start(lambda: Script(Series(new_run_id(), "balor", raw), counts))
        runner.wait()
        runner.close()
        assert writer.problem == ""
    for path in (reduced, offline):
        assert_holds(path, dict(enumerate(counts)))


# ------------------------------------------------------------------ what goes wrong


def books(counts: dict[int, int]) -> dict[str, Any]:
    """Return the rows of frames as a message has them."""
    spikes = np.array([number for number, count in counts.items() if count], "u4")
    return {
        "entry/photons": {f"entry/photons/{name}": each for name, each in expected(counts).items()},
        "entry/spikes": {"entry/spikes/frame": spikes},
        "frames": {"entry/frames/frame": np.array(list(counts), "i8")},
    }


def new_file(path: Path) -> SeriesFile:
    tables = tables_of(PhotonStage(), {"frame": 0}, "i4")
    return SeriesFile(path, end_values("entry"), {}, tables, 1)


STEPS = st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["flush", "full", "drop", "change"])))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_tables_agree_about_frames_whatever_is_dropped_and_when(
    tmp_path: Path, steps: list[int | str]
) -> None:
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    file = new_file(path)
    file.flush()
    number = dropped = changes = 0
    kept: dict[int, int] = {}
    waiting: dict[int, int] = {}
    for step in [*steps, "flush"]:
        match step:
            case int(count):
                file.rows(books({number: count}), 1)
                waiting[number] = count
                number += 1
            case "flush":
                file.flush()
                kept |= waiting
                waiting = {}
            case "full":
                with no_room():
                    if waiting:
                        with pytest.raises(OSError, match="No space"):
                            file.flush()
            case "drop":
                assert file.drop_frames() == len(waiting)
                dropped += len(waiting)
                waiting = {}
            case "change":
                row = {"frame": number, "version": 1, "values": "{}"}
                file.rows({"changes": layout.change_columns("entry", row)}, 0)
                changes += 1
        assert file.frames == len(kept)
    assert len(kept) + dropped == number
    file.finish({})
    file.flush()
    assert_holds(path, kept)
    with h5py.File(path) as opened:
        assert len(opened["entry/process/changes/frame"]) == changes


def test_events_are_on_the_disk_before_their_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "x.h5", tmp_path / "copy.h5"
    seen: list[tuple[int, int]] = []
    flush = h5py.File.flush

    def note(opened: h5py.File) -> None:
        flush(opened)
        if opened.filename == str(path) and opened.swmr_mode:
            shutil.copyfile(path, copy)
            recover(copy)
            with h5py.File(copy) as there:
                seen.append((len(there["entry/frames/frame"]), len(there["entry/photons/y"])))

    file = new_file(path)
    file.flush()
    monkeypatch.setattr(h5py.File, "flush", note)
    file.rows(books({0: 3, 1: 2}), 2)
    file.flush()
    assert seen[0] == (0, 5)
    assert seen[-1] == (2, 5)
    file.finish({})
    file.flush()


def test_rows_with_a_column_too_few_are_refused_whole(tmp_path: Path) -> None:
    file = new_file(tmp_path / "x.h5")
    torn = books({1: 2})
    del torn["frames"]["entry/frames/frame"]
    with pytest.raises(KeyError):
        file.rows(torn, 1)
    file.rows(books({2: 3}), 1)
    file.finish({})
    file.flush()
    assert_holds(tmp_path / "x.h5", {2: 3})


def test_full_disk_loses_no_event_once_there_is_room(write: Write, small_disk: Path) -> None:
    reduced = small_disk / "process" / "scan-1_photons.h5"
    writer = write(PhotonStage())
    line = Line(writer, str(small_disk / "raw" / "scan-1.h5"))
    line.frames(10, 0, 20)
    wait_for(lambda: rows_seen(reduced) == 3)
    with filled(small_disk):
        line.frames(*[1_000] * 40)
        wait_for(lambda: "the disk is full" in writer.problem)
        line.frames(*[0, 500] * 10)
        with h5py.File(reduced, "r", swmr=True) as opened:
            assert {len(values) for values in photons(opened).values()} == {30}
    wait_for(lambda: writer.problem == "")
    line.end()
    assert writer.rows_lost == 0
    assert_holds(reduced, line.counts)


def test_writer_that_is_stuck_drops_events_with_their_frames(
    write: Write, raw: str, reduced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "QUEUE_BYTES", 4_000_000)
    writer = write(PhotonStage())
    line = Line(writer, raw)
    line.frames(1)
    wait_for(lambda: rows_seen(reduced) == 1)
    with stuck(writer):
        line.frames(*[50_000] * 20)
        dropped = writer.rows_lost
        assert dropped, "the queue does not count the bytes of events"
    line.end()
    with h5py.File(reduced) as file:
        kept = file["entry/frames/frame"][...].tolist()
        assert file["entry/ledger/missing_rows"][()] == dropped
    assert len(kept) == len(line.counts) - dropped
    assert_holds(reduced, {number: line.counts[number] for number in kept})


def test_killed_writer_leaves_every_event_of_the_frames_in_the_file(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write(PhotonStage(), state_directory=None)
    line = Line(writer, raw)
    line.frames(0, 4, 3_000)
    wait_for(lambda: rows_seen(reduced) == 3)
    kill(writer)
    line.frames(5, 6)
    wait_for(lambda: writer.rows_lost >= 2)
    recover(reduced)
    assert_holds(reduced, {0: 0, 1: 4, 2: 3_000})
    line.finish()


WRITER = """
import sys
from pathlib import Path
from ronda.tests.core.sinks import test_events as events
file = events.new_file(Path(sys.argv[1]))
number = 0
while True:
    file.rows(events.books({n: events.count(n) for n in range(number, number + 10)}), 10)
    number += 10
    file.flush()
    print(number, flush=True)
"""


def count(number: int) -> int:
    """Return how many events a frame has that the killed writer writes."""
    return number * 37 % 400


def test_kill_at_any_moment_keeps_every_flushed_event_and_the_tables_even(tmp_path: Path) -> None:
    chance = random.Random(1)
    for trial in range(4):
        path = tmp_path / f"{trial}.h5"
        flushed = flushed_when_killed(WRITER, chance.randrange(3, 40), str(path))
        recover(path)
        with h5py.File(path) as file:
            found, frames = photons(file), file["entry/frames/frame"][...].tolist()
        assert len(frames) >= flushed
        assert frames == list(range(len(frames)))
        assert len({len(values) for values in found.values()}) == 1
        for name, values in expected({number: count(number) for number in frames}).items():
            np.testing.assert_array_equal(found[name][: len(values)], values)
