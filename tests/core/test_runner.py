"""The runner keeps its ledger, its order and its threads, whatever the source and the stage do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from ronda.core.frame import (
    Away,
    BadFrame,
    Frame,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
    new_run_id,
)
from ronda.core.parameters import ParameterError, Parameters, parameter
from ronda.core.results import Activity
from ronda.core.runner import Policy, Runner
from ronda.core.sinks.base import Sink
from ronda.core.sources.base import Event, Source, SourceError
from ronda.core.stage import Closing, Command, Kind, Output, Settings, Stage
from ronda.tests.waiting import wait_for


class ListSource(Source):
    """A source that yields what it is given; callables are called instead."""

    live = False

    def __init__(self, *events: Event | Callable[[], object]) -> None:
        super().__init__("list:")
        self._events = events

    def events(self) -> Iterator[Event]:
        for event in self._events:
            if callable(event):
                event()
            else:
                yield event


class LiveListSource(ListSource):
    """The same, but one that cannot wait; it stays open until closed."""

    live = True

    def events(self) -> Iterator[Event]:
        yield from super().events()
        self.closed.wait()


class SumParameters(Parameters):
    gain: float = parameter(1.0, "Factor on every frame.", ge=0)


class SumStage(Stage[SumParameters, float]):
    """Adds up frames; odd behaviour is asked for by negative pixels."""

    name = "sum"
    title = "sum"
    Parameters = SumParameters
    outputs = (
        Output("total", Kind.SCALAR, doc="Sum of everything."),
        Output("order", Kind.SPECTRUM, int, axes=("frame",), doc="Frame numbers as reduced."),
    )
    commands = (
        Command("Clear", "Empty the sum."),
        Command("Double", "Double the gain.", changes=lambda p, _: {"gain": 2 * p.gain}),
    )
    gate: ClassVar[threading.Event] = threading.Event()

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0
        self.order: list[int] = []
        self.finished: list[int] = []
        self.gate.set()

    def map(self, frame: Frame, parameters: SumParameters) -> float:
        self.gate.wait(10)
        if frame.data[0, 0] == -7:
            raise BadFrame("seven")
        if frame.data[0, 0] == -8:
            raise ZeroDivisionError("eight")
        return parameters.gain * float(frame.data.sum())

    def reduce(self, frame: Frame, partial: float, settings: Settings) -> Mapping[str, Any]:
        self.total += partial
        self.order.append(frame.frame_id)
        return {"total": self.total}

    def finish(self, series: Series) -> Closing:
        self.finished.append(series.run_id)
        return Closing(tree=lambda: {"end": self.total})

    def handle(self, command: str, argument: Any) -> None:
        assert command == "Clear"
        self.total = 0.0

    def state(self) -> Mapping[str, Any]:
        return {"total": self.total}

    def value(self, name: str) -> Any:
        return self.total if name == "total" else np.array(self.order)


class MemorySink(Sink):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.adopted: list[tuple[int, int]] = []
        self.rows: list[tuple[int, int]] = []
        self.finished: dict[int, Mapping[str, Any]] = {}
        self.states: list[Mapping[str, Any]] = []

    def begin(self, series: Series, frame: Frame, settings: Settings) -> None:
        self.begun.append(series.run_id)

    def adopt(self, frame: Frame, settings: Settings) -> None:
        self.adopted.append((frame.frame_id, settings.version))

    def row(self, frame: Frame, row: Mapping[str, Any]) -> None:
        self.rows.append((frame.series.run_id, frame.frame_id))

    def finish(self, series: Series, tree: Mapping[str, Any]) -> None:
        self.finished[series.run_id] = tree

    def checkpoint(self, tree: Mapping[str, Any]) -> None:
        self.states.append(tree)


def frames(series: Series, numbers: Sequence[int], value: float = 1, side: int = 2) -> list[Frame]:
    return [Frame(series, n, np.full((side, side), value, np.float32)) for n in numbers]


def a_series(number: int = 1, filename: str = "") -> Series:
    return Series(new_run_id(), "test", filename)


def run(*events: Event | Callable[[], object], workers: int = 2, **options: Any) -> Runner:
    runner = Runner(SumStage(), workers=workers, **options)
    runner.start(lambda: ListSource(*events))
    runner.wait()
    return runner


def assert_balanced(runner: Runner) -> None:
    counts = runner.ledger.counts
    assert counts.received == counts.reduced + counts.rejected + counts.dropped
    assert counts.queued == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_frames_are_reduced_in_order_by_any_number_of_workers(workers: int) -> None:
    series = a_series()
    runner = run(
        SeriesStart(series), *frames(series, range(200)), SeriesEnd(series), workers=workers
    )
    assert runner.stage.order == list(range(200))
    assert runner.results.values["total"] == 800
    assert runner.results.frame_id == 199
    assert runner.ledger.counts.reduced == 200
    assert_balanced(runner)


@pytest.mark.allow_error_log
def test_bad_frames_between_good_ones_are_counted_and_named() -> None:
    series = a_series()
    bad = frames(series, [3], value=-7) + frames(series, [4], value=-8)
    runner = run(
        SeriesStart(series),
        *frames(series, [0, 1]),
        Rejected("truncated", frame_id=2, message_number=12),
        *bad,
        *frames(series, [5], side=3),
        *frames(series, [1]),
        *frames(series, [6]),
        SeriesEnd(series),
    )
    counts = runner.ledger.counts
    assert (counts.received, counts.reduced, counts.rejected) == (8, 3, 5)
    assert runner.stage.order == [0, 1, 6]
    assert "frame 4" in runner.last_error or "frame 1" in runner.last_error
    assert any("frames rejected: 5" in alarm for alarm in runner.health.alarms)
    assert_balanced(runner)


def test_a_shape_that_persists_is_taken_as_the_new_one() -> None:
    series = a_series()
    runner = run(
        SeriesStart(series), *frames(series, [0, 1]), *frames(series, [2, 3, 4, 5], side=3)
    )
    assert runner.stage.order == [0, 1, 4, 5]
    assert runner.ledger.counts.rejected == 2


def test_two_series_give_two_ends_and_a_series_without_end_is_finished() -> None:
    first, second = a_series(), a_series()
    sink = MemorySink()
    runner = run(
        SeriesStart(first),
        *frames(first, [0]),
        SeriesStart(second),
        *frames(second, [0, 1]),
        sinks=[sink],
    )
    assert runner.stage.finished == [first.run_id, second.run_id]
    assert sink.begun == [first.run_id, second.run_id]
    assert sink.finished[first.run_id]["ledger/reduced"] == 1
    assert sink.finished[second.run_id]["ledger/reduced"] == 2
    assert sink.finished[second.run_id]["end"] == 12


def test_a_header_without_frames_makes_no_file() -> None:
    sink = MemorySink()
    series = a_series()
    run(SeriesStart(series), SeriesEnd(series), sinks=[sink])
    assert sink.begun == [] and sink.finished == {}


def test_a_parameter_change_takes_effect_at_a_frame_boundary() -> None:
    series = a_series()
    sink = MemorySink()
    runner = Runner(SumStage(), sinks=[sink])
    runner.start(
        lambda: ListSource(
            SeriesStart(series),
            *frames(series, [0]),
            lambda: runner.configure({"gain": 10}),
            *frames(series, [1]),
            lambda: runner.command("Double"),
            *frames(series, [2]),
        )
    )
    runner.wait()
    assert runner.stage.total == 4 + 40 + 80
    assert runner.settings.version == 2
    assert runner.results.parameters_version == 2
    assert sink.adopted == [(1, 1), (2, 2)]


def test_a_refused_parameter_changes_nothing_and_says_why() -> None:
    runner = Runner(SumStage())
    for changes, said in (({"gain": -1}, "gain"), ({"gian": 1}, "unknown parameter 'gian'")):
        with pytest.raises(ParameterError, match=said):
            runner.configure(changes)
    assert runner.settings.version == 0


def test_a_command_stands_at_its_place_in_the_order_of_frames() -> None:
    series = a_series()
    runner = Runner(SumStage())
    runner.start(
        lambda: ListSource(
            SeriesStart(series),
            *frames(series, range(5)),
            lambda: runner.command("Clear"),
            *frames(series, [5]),
        )
    )
    runner.wait()
    assert runner.stage.total == 4
    runner.command("Clear")
    assert runner.results.values["total"] == 0
    with pytest.raises(ValueError, match="no command 'Explode'"):
        runner.command("Explode")


def test_what_was_cleared_does_not_come_back_after_a_restart() -> None:
    series, sink = a_series(), MemorySink()
    runner = run(SeriesStart(series), *frames(series, [0]), sinks=[sink])
    assert sink.states[-1] == {"total": 4}
    runner.command("Clear")
    assert sink.states[-1] == {"total": 0}
    before = len(sink.states)
    runner.start(lambda: ListSource(lambda: runner.command("Clear")))
    runner.wait()
    assert sink.states[before:] == [{"total": 0}]


def test_a_kill_in_a_run_brings_back_what_was_cleared_before() -> None:
    series, sink = a_series(), MemorySink()
    runner = Runner(SumStage(), sinks=[sink])
    before, after = frames(series, range(2))
    runner.start(
        lambda: LiveListSource(SeriesStart(series), before, lambda: runner.command("Clear"), after)
    )
    wait_for(lambda: runner.ledger.counts.reduced == 2)
    assert sink.states == [{"total": 0}]
    runner.stop()


class SquareStage(SumStage):
    """Finds the square of the gain, slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = self.square = 1.0
        self.found = threading.Event()

    def adopt(self, settings: Settings) -> None:
        self.gain = settings.parameters.gain

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        gain = self.gain
        return None if self.square == gain**2 else lambda: lambda: self.store(gain**2)

    def store(self, square: float) -> None:
        self.square = square
        self.found.set()


def test_slow_work_is_done_after_a_change_while_nothing_runs() -> None:
    stage = SquareStage()
    Runner(stage).configure({"gain": 3})
    assert stage.found.wait(10)
    assert stage.square == 9


class LateStage(SumStage):
    """Changes what it shows with no frame: at once, and when slow work is done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        self.total = 1
        return self.work

    def work(self) -> Callable[[], None]:
        assert self.seen.wait(10)
        return self.store

    def store(self) -> None:
        self.total = 2


def test_what_changes_beside_the_frames_is_shown_with_the_next_one_only() -> None:
    stage = LateStage()
    runner = Runner(stage)
    runner.configure({"gain": 3})
    wait_for(lambda: runner.results.values["total"] == 1)
    stage.seen.set()
    wait_for(lambda: runner.results.values["total"] == 2)


def hold() -> None:
    SumStage.gate.clear()


def test_a_live_source_drops_and_counts_what_does_not_fit() -> None:
    series = a_series()
    done = threading.Event()
    runner = Runner(SumStage(), queue_bytes=3 * 16)
    runner.start(
        lambda: LiveListSource(hold, SeriesStart(series), *frames(series, range(20)), done.set)
    )
    assert done.wait(10)
    dropped = runner.ledger.counts.dropped
    SumStage.gate.set()
    runner.stop()
    assert 15 <= dropped <= 17
    assert runner.stage.order == list(range(20 - dropped))
    assert "slower than the detector" in runner.health.alarms[0]
    assert_balanced(runner)


def test_latest_keeps_the_newest() -> None:
    series = a_series()
    done = threading.Event()
    runner = Runner(SumStage(), queue_bytes=3 * 16, policy=Policy.LATEST)
    runner.start(
        lambda: LiveListSource(hold, SeriesStart(series), *frames(series, range(20)), done.set)
    )
    assert done.wait(10)
    SumStage.gate.set()
    runner.stop()
    assert runner.stage.order[-3:] == [17, 18, 19]
    assert_balanced(runner)


def test_a_file_waits_and_drops_nothing() -> None:
    series = a_series()
    runner = run(SeriesStart(series), *frames(series, range(100)), queue_bytes=32)
    assert runner.stage.order == list(range(100))


def test_abort_drops_what_is_queued_and_counts_it() -> None:
    series = a_series()
    done = threading.Event()
    runner = Runner(SumStage())
    runner.start(
        lambda: LiveListSource(hold, SeriesStart(series), *frames(series, range(50)), done.set)
    )
    assert done.wait(10)
    stopper = threading.Thread(target=runner.stop, kwargs={"drain": False})
    stopper.start()
    while runner.ledger.counts.dropped < 49:
        pass
    SumStage.gate.set()
    stopper.join()
    counts = runner.ledger.counts
    assert counts.dropped >= 49 and counts.reduced <= 1
    assert_balanced(runner)


def test_a_lost_source_is_opened_again() -> None:
    class Flaky(LiveListSource):
        def events(self) -> Iterator[Event]:
            yield from ListSource.events(self)
            raise SourceError("cable out")

    first, second = a_series(), a_series()
    done = threading.Event()
    sources = [
        Flaky(SeriesStart(first), *frames(first, [0])),
        LiveListSource(SeriesStart(second), *frames(second, [0, 1]), done.set),
    ]
    runner = Runner(SumStage())
    runner.start(lambda: sources.pop(0))
    assert done.wait(10)
    runner.stop()
    assert runner.ledger.counts.reduced == 3
    assert runner.health.source_lost == ""


def test_a_sender_that_is_away_is_not_told_or_not_forgotten() -> None:
    series = a_series()
    told: list[str] = []

    def look() -> None:
        told.append(runner.health.source_lost)

    runner = Runner(SumStage())
    events = (SeriesStart(series), Away("cable out"), look, Away(""), look, Away("again"))
    runner.start(lambda: ListSource(*events, *frames(series, [0]), look))
    runner.wait()
    assert told == ["cable out", "", ""]
    assert runner.ledger.counts.reduced == 1


def test_an_unreadable_file_is_a_failure_and_what_came_before_is_reduced() -> None:
    series = a_series()

    def fail() -> None:
        raise SourceError("file ends in the middle")

    runner = Runner(SumStage())
    runner.start(lambda: ListSource(SeriesStart(series), *frames(series, [0]), fail))
    with pytest.raises(OSError, match="ends in the middle"):
        runner.wait()
    assert runner.ledger.counts.reduced == 1
    assert runner.health.failure == "file ends in the middle"
    runner.reset()
    assert runner.health.failure == ""


def test_lost_messages_and_notices_are_shown() -> None:
    series = a_series()
    runner = run(
        SeriesStart(series), Lost(3), Lost(-1), Notice("somebody else"), *frames(series, [0])
    )
    assert runner.ledger.counts.lost == 2
    assert "somebody else" in runner.health.notes


def test_latency_says_where_its_stamp_is_from() -> None:
    series = a_series()
    [frame] = frames(series, [0])
    assert run(SeriesStart(series), frame).results.latency_from == "receipt"
    stamped = Frame(series, 0, frame.data, timestamp=frame.received - 100)
    results = run(SeriesStart(series), stamped).results
    assert results.latency_from == "detector"
    assert results.latency > 99


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_detector_s_clock_that_is_an_hour_off_makes_a_latency_of_an_hour(ahead: float) -> None:
    series, done = a_series(), threading.Event()
    [frame] = frames(series, [0])
    stamped = Frame(series, 0, frame.data, timestamp=frame.received + ahead)
    runner = Runner(SumStage())
    runner.start(lambda: LiveListSource(SeriesStart(series), stamped, done.set))
    assert done.wait(10)
    runner.stop()
    assert runner.results.latency_from == "receipt"
    assert 0 <= runner.results.latency < 60
    assert runner.results.timestamp == stamped.timestamp
    [note] = [note for note in runner.health.notes if "clock" in note]
    assert ("3600 s ahead of" if ahead > 0 else "3600 s behind") in note


def test_latency_takes_part_in_a_step_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    series = a_series()
    [frame] = frames(series, [0])
    stamped = Frame(series, 0, frame.data, timestamp=frame.received - 2)
    now = time.time()
    for step in (3600.0, -3600.0):
        monkeypatch.setattr(time, "time", lambda step=step: now + step)
        for one, least in ((frame, 0), (stamped, 2)):
            assert least <= run(SeriesStart(series), one).results.latency < least + 60


def test_values_latched_together_belong_to_one_frame() -> None:
    series = a_series()
    runner = Runner(SumStage())
    runner.start(lambda: ListSource(SeriesStart(series), *frames(series, range(3000))))
    torn = 0
    while not runner.ended:
        results = runner.latch(["total", "order"])
        torn += results.values["total"] != 4 * len(results.values["order"])
        torn += results.frame_id != len(results.values["order"]) - 1
    runner.wait()
    assert torn == 0


def test_start_stop_cycles_leave_no_thread_behind() -> None:
    series = a_series()
    runner = Runner(SumStage(), workers=4)
    before = threading.active_count()
    for number in range(200):
        runner.start(lambda n=number: LiveListSource(SeriesStart(series), *frames(series, [n])))
        runner.stop()
    assert threading.active_count() == before
    assert runner.health.activity is Activity.IDLE


def test_start_twice_is_refused() -> None:
    runner = Runner(SumStage())
    runner.start(LiveListSource)
    with pytest.raises(RuntimeError, match="already running"):
        runner.start(LiveListSource)
    runner.stop()


class GatedStage(SumStage):
    """Waits with its first frame; notes under which parameters series began."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.begun: list[int] = []

    def map(self, frame: Frame, parameters: SumParameters) -> float:
        assert self.opened.wait(10)
        return super().map(frame, parameters)

    def begin(self, series: Series, settings: Settings) -> None:
        self.begun.append(settings.version)
        super().begin(series, settings)


def test_a_series_begins_under_the_parameters_of_its_time_however_late_that_is() -> None:
    stage = GatedStage()
    runner = Runner(stage)
    first, second = Series(new_run_id()), Series(new_run_id())
    source = ListSource(
        SeriesStart(first),
        Frame(first, 0, np.ones((2, 2))),
        SeriesStart(second),
        lambda: runner.configure({"gain": 2.0}),
        Frame(second, 0, np.ones((2, 2))),
        stage.opened.set,
        SeriesEnd(second),
    )
    runner.start(lambda: source)
    runner.wait()
    assert runner.ledger.counts.reduced == 2
    assert stage.begun == [0, 0]
