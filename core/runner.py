"""The runner: source -> bounded queue -> map in workers -> ordered reduce -> sinks.

It knows nothing of Tango, Qt or any detector. One receiver thread per source,
`workers` map threads, one reducer, one background thread; `lock` guards the
stage's state, and is held for one frame's reduce at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from .admission import Admission
from .background import Background
from .compute.device import CPU, Compute
from .frame import (
    Away,
    BadFrame,
    Frame,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
)
from .history import History, difference
from .latency import latency
from .ledger import Ledger
from .order import OrderedQueue, Ticket
from .parameters import Parameters
from .positions import Position
from .receiver import Receiver
from .results import Activity, Health, Results, Spent, Way
from .sinks.base import Sink
from .sources.base import Event, Source
from .stage import Connection, Document, Kind, Row, Settings, Stage

log = logging.getLogger(__name__)

QUEUE_BYTES = 4 << 30
"""Bytes of frames that may wait (decision 3)."""
READ_AHEAD = 256 << 20
"""Bytes of them from files, which wait themselves."""


class Policy(Enum):
    """What happens to frames of a live source when the queue is full."""

    LOSSLESS = "lossless"
    """The newest is dropped, counted, and an alarm raised."""
    LATEST = "latest"
    """The oldest is dropped and counted: for display."""


class Runner:
    """Runs one stage over sources, as often as wanted; its results outlive a run.

    Parameters
    ----------
    stage
        What is done to the frames.
    parameters
        What is set at first; the stage's defaults if None.
    sinks
        Where reduced data goes.
    workers
        Number of map threads.
    folder
        Where the stage may keep files of its own.
    history
        Takes what is changed and asked for.
    compute
        Where stages compute that can choose.
    """

    def __init__(
        self,
        stage: Stage[Any, Any],
        parameters: Parameters | None = None,
        sinks: Sequence[Sink] = (),
        workers: int = 1,
        queue_bytes: int = QUEUE_BYTES,
        policy: Policy = Policy.LOSSLESS,
        folder: Path | None = None,
        history: History | None = None,
        compute: Compute = CPU,
    ) -> None:
        self.stage, self.sinks, self.workers, self.policy = stage, tuple(sinks), workers, policy
        self.history = history or History()
        self.ledger = Ledger()
        self.lock = threading.Lock()
        self.queue = OrderedQueue(queue_bytes)
        self.results = Results()
        """The newest results, scalars and texts only; replaced whole, never changed."""
        self.spent = Spent()
        self.last_error = ""
        self.configured: Callable[[], None] = _nothing
        """Called after every change of the parameters, whoever made it."""
        self._settings = Settings(0, parameters or stage.Parameters())
        self._configuring = threading.Lock()
        self._stamping = threading.Lock()
        """Held while something is queued with the settings that it came in under."""
        self._activity = Activity.IDLE
        self._alarms: dict[str, str] = {}
        self._notices: dict[str, str] = {}
        self._receivers: list[Receiver] = []
        self._background = Background(stage, self.sinks, self.lock, self.history)
        self._admission = Admission()
        self._tally = Ledger()
        self._series: Series | None = None
        self._series_tally = self._tally
        self._series_has_rows = False
        self._written_version = 0
        self._cheap = [o.name for o in stage.outputs if o.live and o.kind in _CHEAP]
        stage.connection = Connection(self._save, self.configure, folder, compute)
        stage.adopt(self._settings)
        for sink in self.sinks:
            sink.open(stage)
        self._publish_values()

    # ------------------------------------------------------------------ a run

    def start(
        self, source: Callable[[], Source], positions: Callable[[], Source] | None = None
    ) -> None:
        """Begin to read and reduce; returns at once.

        Raises
        ------
        RuntimeError
            If it is running already.
        """
        if self._activity is not Activity.IDLE:
            raise RuntimeError("already running; stop first")
        self.queue = OrderedQueue(self.queue.limit)
        self._admission = Admission()
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ronda-map")
        self._background = Background(self.stage, self.sinks, self.lock, self.history)
        self._reducer = threading.Thread(target=self._reduce_all, name="ronda-reduce", daemon=True)
        self._receivers = [Receiver("ronda-frames", source, self._accept)]
        if positions:
            self._receivers.append(Receiver("ronda-positions", positions, self._accept_position))
        self._activity = Activity.RUNNING
        for thread in (self._background.thread, self._reducer):
            thread.start()
        for receiver in self._receivers:
            receiver.thread.start()

    def stop(self, drain: bool = True) -> None:
        """End the run: read no more, reduce what is queued (or drop it), close the files.

        Blocks until that is done; harmless when nothing runs.
        """
        if self._activity is Activity.IDLE:
            return
        self._activity = Activity.DRAINING
        for receiver in self._receivers:
            receiver.stop()
        if not drain:
            self._drop(None)
        self._end()

    def drop(self) -> None:
        """Drop the frames that wait, counted; lets a draining `stop` end soon."""
        self._drop(None)

    def wait(self) -> None:
        """Block until the sources have ended by themselves and everything is reduced.

        Raises
        ------
        OSError
            If a source could not be read; what was read is reduced and written.
        """
        for receiver in self._receivers:
            receiver.thread.join()
        self._activity = Activity.DRAINING
        self._end()
        for receiver in self._receivers:
            if receiver.failure:
                raise OSError(receiver.failure)

    @property
    def ended(self) -> bool:
        """True when every source has ended by itself (files do)."""
        return all(not receiver.thread.is_alive() for receiver in self._receivers)

    @property
    def in_series(self) -> bool:
        """True from the start of a series until its end, as far as it is reduced."""
        return self._series is not None

    @property
    def total(self) -> int | None:
        """Frames that the source holds, where it knows."""
        return self._receivers[0].total if self._receivers else None

    def close(self) -> None:
        """Stop and release the sinks; the runner is not used again."""
        self.stop()
        for sink in self.sinks:
            sink.close()

    def _end(self) -> None:
        self._token(self._finish_series)
        self.queue.close()
        self._reducer.join()
        self._pool.shutdown()
        self._background.stop()
        for sink in self.sinks:
            sink.settle()
        self._activity = Activity.IDLE

    # ------------------------------------------------- what the operator does

    @property
    def settings(self) -> Settings:
        """The parameters that new frames are stamped with, and their number."""
        return self._settings

    def configure(self, changes: Mapping[str, Any], who: str = "") -> Settings:
        """Change parameters from the next received frame on.

        Parameters
        ----------
        changes
            New values by name.
        who
            Asked for it; empty: the stage itself.

        Raises
        ------
        ParameterError
            In one sentence; nothing is changed then.
        """
        with self._configuring:
            old = self._settings
            parameters = old.parameters.changed(changes)
            with self.lock:
                self.stage.accept(parameters)
            new = Settings(old.version + 1, parameters)
            with self._stamping:
                self._settings = new
                self._token(partial(self.stage.adopt, new))
            if self._activity is Activity.IDLE:
                self._background.calculate_soon()
        changed = difference(old.parameters.to_json(), parameters.to_json())
        self.history.add(who, f"parameters {new.version}: {changed or 'the same values'}")
        self.configured()
        return new

    def command(self, name: str, argument: Any = None, who: str = "") -> None:
        """Carry out a command of the stage, at this place in the order of the frames.

        `who` asked for it.

        Raises
        ------
        ValueError
            If there is no such command, or its argument is refused.
        """
        for command in self.stage.commands:
            if command.name == name:
                break
        else:
            raise ValueError(f"{self.stage.title} has no command {name!r}")
        said = name if argument is None else f"{name} {argument}"
        if command.changes:
            changes = command.changes(self._settings.parameters, argument)
            self.configure(changes, f"{who}, {said}" if who else said)
        else:
            self.history.add(who, said)
        if command.handled or not command.changes:
            self._token(partial(self._handle, name, argument))

    def _handle(self, name: str, argument: Any) -> None:
        """Have the stage carry out a command, and keep what it changed for a restart."""
        self.stage.handle(name, argument)
        if self._activity is not Activity.IDLE:
            self._background.changed()
            return
        self._background.calculate_soon()
        if (state := self.stage.state()) is not None:
            for sink in self.sinks:
                sink.checkpoint(state)

    def reset(self) -> None:
        """Forget alarms and failures; touches no data."""
        self._alarms.clear()
        self.last_error = ""
        for receiver in self._receivers:
            receiver.failure = ""
        for sink in self.sinks:
            sink.reset()

    # ------------------------------------------------------- what it shows

    def latch(self, names: Collection[str]) -> Results:
        """Return results with these outputs, all of one frame."""
        if all(name in self.results.values for name in names):
            return self.results
        with self.lock:
            values = {name: self.stage.value(name) for name in names}
            return replace(self.results, values={**self.results.values, **values})

    @property
    def way(self) -> Way:
        """Where frames come from and go to, now."""
        sink = next((sink for sink in self.sinks if sink.file), Sink())
        return Way(
            last_message_time=self._receivers[0].last_message_time if self._receivers else 0.0,
            in_series=self.in_series,
            file=sink.file,
            file_time=sink.file_time,
            file_complete=sink.file_complete,
            disk_time_left=sink.disk_time_left,
        )

    @property
    def health(self) -> Health:
        """How the runner is, now."""
        failures = [receiver.failure for receiver in self._receivers if receiver.failure]
        lost = [receiver.lost for receiver in self._receivers if receiver.lost]
        problems = [sink.problem for sink in self.sinks if sink.problem]
        kept = [note for sink in self.sinks for note in sink.notes]
        if self._background.problem:
            problems.append(self._background.problem)
        with self.lock:
            notes, alarms = self.stage.status(), self.stage.alarms()
        return Health(
            activity=self._activity,
            failure=failures[0] if failures else "",
            source_lost=lost[0] if lost else "",
            alarms=(*problems, *alarms, *self._alarms.values()),
            notes=(*filter(None, self._notices.values()), *self._on_series(), *kept, *notes),
        )

    def _on_series(self) -> Iterator[str]:
        """Yield what an operator may not expect of the open series."""
        series, has_rows = self._series, self._series_has_rows
        if series and series.joined_late:
            yield (
                "images came without their header, so this series was joined late: what was "
                "before, and its file name, are not known"
            )
        elif series and not has_rows:
            yield f"series {series.filename or series.run_id} has begun; no frame of it is reduced"

    # ------------------------------------------------------------- receiving

    def _accept(self, event: Event) -> None:
        """Take one event of a source; runs in a receiver's thread."""
        match event:
            case Frame():
                self._admit(event)
            case SeriesStart(series):
                self._admission = Admission()
                self._tally = Ledger()
                self._alarms.pop("rejected", None)
                self._alarms.pop("dropped", None)
                with self._stamping:
                    self._token(partial(self._begin_series, series, self._tally, self._settings))
            case SeriesEnd():
                self._token(self._finish_series)
            case Rejected(reason, frame_id, message_number):
                self._count(self._tally, received=1)
                self._reject(self._tally, reason, frame_id, message_number)
            case Lost(count):
                self._count(self._tally, lost=count)
            case Notice(text):
                self._notices["frames"] = text
            case Away():
                pass  # the receiver itself keeps it
            case _:
                self._token(partial(self.stage.position, event))

    def _accept_position(self, event: Event) -> None:
        """Take one event of the positions' source; frames that it holds besides are not ours."""
        if isinstance(event, Notice):
            self._notices["positions"] = event.text
        elif isinstance(event, Position):
            self._token(partial(self.stage.position, event))

    def _admit(self, frame: Frame) -> None:
        self._count(self._tally, received=1)
        try:
            self._admission.check(frame)
        except BadFrame as error:
            self._reject(self._tally, str(error), frame.frame_id, frame.message_number)
            return
        if not self._make_room(frame):
            return
        with self._stamping:
            settings = self._settings
            work = self._pool.submit(self._timed_map, frame, settings)
            self.queue.put(Ticket(settings, frame, self._tally, work))

    def _make_room(self, frame: Frame) -> bool:
        """Wait (files) or drop (live) until the frame fits; False if it was dropped itself."""
        live = self._receivers[0].live
        limit = self.queue.limit if live else min(self.queue.limit, READ_AHEAD)
        while not self.queue.room_for(frame.nbytes, limit):
            if not live:
                if self._activity is not Activity.RUNNING:
                    break
                self.queue.wait_for_room(frame.nbytes, 0.1, limit)
            elif self.policy is Policy.LATEST and self._drop(1):
                continue
            else:
                self._count(self._tally, dropped=1)
                self._alarms["dropped"] = (
                    f"frames dropped: {self.ledger.counts.dropped}, the last {frame.frame_id}; "
                    "reduction is slower than the detector"
                )
                return False
        return True

    def _drop(self, most: int | None) -> int:
        """Drop the oldest frames that wait; return how many."""
        tickets = self.queue.drop_frames(most)
        for ticket in tickets:
            self._count(ticket.tally, dropped=1)
        return len(tickets)

    def _count(self, tally: Ledger | None, **frames: int) -> None:
        """Count frames, for the device and for their series."""
        self.ledger.add(**frames)
        if tally:
            tally.add(**frames)

    def _reject(
        self,
        tally: Ledger | None,
        reason: str,
        frame_id: int | None = None,
        message_number: int | None = None,
    ) -> None:
        self._count(tally, rejected=1)
        names = {"frame": frame_id, "message": message_number}
        known = [f"{name} {number}" for name, number in names.items() if number is not None]
        self.last_error = f"{reason} ({', '.join(known)})" if known else reason
        self._alarms["rejected"] = (
            f"frames rejected: {self.ledger.counts.rejected}, the last because: {self.last_error}"
        )
        log.warning("frame rejected: %s", self.last_error)

    def _timed_map(self, frame: Frame, settings: Settings) -> tuple[Any, float]:
        begin = time.perf_counter()
        return self.stage.map(frame, settings.parameters), time.perf_counter() - begin

    def _token(self, work: Callable[[], None]) -> None:
        """Have something done by the reducer, after the frames received so far."""
        ticket = Ticket(self._settings, token=work)
        if self._activity is Activity.IDLE or not self.queue.put(ticket):
            self._carry_out(work)

    # -------------------------------------------------------------- reducing

    def _reduce_all(self) -> None:
        while not self.queue.finished:
            ticket = self.queue.get(timeout=1.0)
            if ticket is None:
                continue
            if ticket.token is not None:
                self._carry_out(ticket.token)
            elif ticket.frame is not None and ticket.partial is not None:
                self._reduce_safely(ticket.frame, ticket.partial, ticket)

    def _carry_out(self, work: Callable[[], None]) -> None:
        try:
            with self.lock:
                work()
                self._publish_values()
        except ValueError as error:
            self.last_error = str(error)
            self._alarms["command"] = str(error)
        except Exception as error:
            self.last_error = f"internal error: {error}"
            self._alarms["command"] = self.last_error
            log.exception("a token could not be carried out")

    def _reduce_safely(self, frame: Frame, work: Future[Any], ticket: Ticket) -> None:
        try:
            result, seconds = work.result()
            self._reduce(frame, result, seconds, ticket)
        except BadFrame as error:
            self._reject(ticket.tally, str(error), frame.frame_id, frame.message_number)
        except Exception as error:
            reason = f"internal error: {error}"
            self._reject(ticket.tally, reason, frame.frame_id, frame.message_number)
            log.exception("frame %d could not be reduced", frame.frame_id)

    def _reduce(self, frame: Frame, result: Any, seconds: float, ticket: Ticket) -> None:
        begin = time.perf_counter()
        with self.lock:
            row = self.stage.reduce(frame, result, ticket.settings)
            self._count(ticket.tally, reduced=1)
            self._write(frame, row, ticket.settings)
            self._background.touched(frame.series, self._series_tally)
            reduced = time.perf_counter() - begin
            self.spent.add(seconds, reduced)
            self._publish(frame, ticket.settings, seconds + reduced)

    def _write(self, frame: Frame, row: Row | None, settings: Settings) -> None:
        """Give a reduced frame to the sinks, after what begins or changes with it.

        A frame without a row is sent on, but not written.
        """
        for sink in self.sinks:
            if not self._series_has_rows:
                sink.begin(frame.series, frame, settings)
            elif settings.version != self._written_version:
                sink.adopt(frame, settings)
            if row is not None:
                sink.row(frame, row)
        self._series_has_rows, self._written_version = True, settings.version
        takers = [sink for sink in self.sinks if sink.takes_images]
        forwarded = self.stage.forward() if takers else None
        if forwarded is not None:
            for sink in takers:
                sink.image(frame, forwarded)

    def _publish(self, frame: Frame, settings: Settings, seconds: float) -> None:
        age = latency(frame)
        self._notices["clock"] = age.doubt if self._receivers[0].live else ""
        scan = frame.series.scan_number
        self.results = Results(
            run_id=frame.series.run_id,
            frame_id=frame.frame_id,
            timestamp=frame.taken,
            latency=age.seconds,
            latency_from=age.since,
            transport_time=age.transport,
            processing_time=seconds,
            parameters_version=settings.version,
            filename=frame.series.filename,
            scan_number=-1 if scan is None else scan,
            values={name: self.stage.value(name) for name in self._cheap},
        )

    def _publish_values(self) -> None:
        values = {name: self.stage.value(name) for name in self._cheap}
        self.results = replace(self.results, values=values)

    def _begin_series(self, series: Series, tally: Ledger, settings: Settings) -> None:
        self._finish_series()
        self._series, self._series_tally = series, tally
        self._series_has_rows = False
        self.stage.begin(series, settings)

    def _finish_series(self) -> None:
        if self._series is None:
            return
        closing = self.stage.finish(self._series)
        if self._series_has_rows:
            self._background.finish(self._series, closing, self._series_tally)
        self._series = None

    def _save(self, document: Document) -> None:
        for sink in self.sinks:
            sink.save(document)


def _nothing() -> None:
    """Do nothing."""


_CHEAP = (Kind.SCALAR, Kind.TEXT, Kind.TEXTS)
