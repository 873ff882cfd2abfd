"""The runner: source -> bounded queue -> map in workers -> ordered reduce -> sinks.

It knows nothing of Tango, Qt or any detector. One receiver thread per source,
`workers` map threads, one reducer, one background thread; `lock` guards the
stage's state, and is held for one frame's reduce at most. What the reducer does
is in `reducer`, what all of it shows in `report`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from .admission import Admission
from .background import Background
from .compute.device import CPU, Compute
from .frame import Away, BadFrame, Frame, Lost, Notice, Rejected, SeriesEnd, SeriesStart
from .history import History, difference
from .ledger import Ledger
from .order import OrderedQueue, Ticket
from .parameters import Parameters
from .positions import Position
from .receiver import Receiver
from .reducer import UNANNOUNCED, Reducer
from .report import Report, Shared
from .results import Activity, Health, Results, Way
from .sinks.base import Sink
from .sources.base import Event, Source
from .stage import Connection, Document, Settings, Stage

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
        shared = Shared(stage, self.sinks, self.history)
        self.lock = shared.lock
        self.report = Report(shared)
        self.ledger = self.report.ledger
        self.queue = OrderedQueue(queue_bytes)
        self.configured: Callable[[], None] = _nothing
        """Called after every change of the parameters, whoever made it."""
        self._settings = Settings(0, parameters or stage.Parameters())
        self._configuring = threading.Lock()
        self._stamping = threading.Lock()
        """Held while something is queued with the settings that it came in under."""
        self._activity = Activity.IDLE
        self._receivers: list[Receiver] = []
        self._background = Background(shared, self.report)
        self._reducer = Reducer(shared, self.report, self._background)
        self._admission = Admission()
        self._tally = Ledger()
        stage.connection = Connection(self._save, self.configure, folder, compute)
        stage.adopt(self._settings)
        for sink in self.sinks:
            sink.open(stage)
        self.report.publish_values()

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
        self._receivers = [Receiver("ronda-frames", source, self._accept)]
        if positions:
            self._receivers.append(Receiver("ronda-positions", positions, self._accept_position))
        self._activity = Activity.RUNNING
        self._background.start()
        self._reducer.start(self.queue, self._receivers[0])
        for receiver in self._receivers:
            receiver.thread.start()

    def stop(self, drain: bool = True, how: str = "stopped") -> None:
        """End the run: read no more, reduce what is queued (or drop it), close the files.

        Blocks until that is done; harmless when nothing runs. The file of a series that
        this cuts says how, unless the source had ended by itself.
        """
        if self._activity is Activity.IDLE:
            return
        cut = UNANNOUNCED if self.ended else f"{how} before the end of the series"
        self._activity = Activity.DRAINING
        for receiver in self._receivers:
            receiver.stop()
        if not drain:
            self._drop(None)
        self._end(cut)

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
        self._end(UNANNOUNCED)
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
        return self._reducer.series is not None

    @property
    def total(self) -> int | None:
        """Frames that the source holds, where it knows."""
        return self._receivers[0].total if self._receivers else None

    def close(self) -> None:
        """Stop and release the sinks; the runner is not used again."""
        self.stop(how="closed")
        for sink in self.sinks:
            sink.close()

    def _end(self, cut: str) -> None:
        self._token(partial(self._reducer.finish_series, cut))
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
        """Have the stage carry out a command, and keep what it changed for a restart, at once."""
        self.stage.handle(name, argument)
        self._background.keep_state()
        if self._activity is Activity.IDLE:
            self._background.calculate_soon()

    def reset(self) -> None:
        """Forget alarms and failures; touches no data."""
        self.report.reset()
        for receiver in self._receivers:
            receiver.failure = ""
        for sink in self.sinks:
            sink.reset()

    # ------------------------------------------------------- what it shows

    @property
    def results(self) -> Results:
        """The newest results, scalars and texts only."""
        return self.report.results

    @property
    def last_error(self) -> str:
        """What went wrong last with a frame or command, else with a file; empty if nothing did."""
        return self.report.last_error or next((s.problem for s in self.sinks if s.problem), "")

    def latch(self, names: Collection[str]) -> Results:
        """Return results with these outputs, all of one frame."""
        return self.report.latch(names)

    @property
    def way(self) -> Way:
        """Where frames come from and go to, now."""
        return self.report.way(self._receivers, self.in_series)

    @property
    def health(self) -> Health:
        """How the runner is, now."""
        return self.report.health(
            self._activity, self._receivers, self._background.problem, self._reducer.notes()
        )

    # ------------------------------------------------------------- receiving

    def _accept(self, event: Event) -> None:
        """Take one event of a source; runs in a receiver's thread."""
        match event:
            case Frame():
                self._admit(event)
            case SeriesStart(series):
                self._admission = Admission()
                self._tally = Ledger()
                self.report.begin_series()
                with self._stamping:
                    self._token(
                        partial(self._reducer.begin_series, series, self._tally, self._settings)
                    )
            case SeriesEnd(_, announced):
                cut = "" if announced else UNANNOUNCED
                self._token(partial(self._reducer.finish_series, cut))
            case Rejected(reason, frame_id, message_number):
                self.report.count(self._tally, received=1)
                self.report.reject(self._tally, reason, frame_id, message_number)
            case Lost(count):
                self.report.count(self._tally, lost=count)
            case Notice(text):
                self.report.notices["frames"] = text
            case Away():
                pass  # the receiver itself keeps it
            case _:
                self._token(partial(self.stage.position, event))

    def _accept_position(self, event: Event) -> None:
        """Take one event of the positions' source; frames that it holds besides are not ours."""
        if isinstance(event, Notice):
            self.report.notices["positions"] = event.text
        elif isinstance(event, Position):
            self._token(partial(self.stage.position, event))

    def _admit(self, frame: Frame) -> None:
        self.report.count(self._tally, received=1)
        try:
            self._admission.check(frame)
        except BadFrame as error:
            self.report.reject(self._tally, str(error), frame.frame_id, frame.message_number)
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
                self.report.drop(self._tally, frame)
                return False
        return True

    def _drop(self, most: int | None) -> int:
        """Drop the oldest frames that wait; return how many."""
        tickets = self.queue.drop_frames(most)
        for ticket in tickets:
            self.report.count(ticket.tally, dropped=1)
        return len(tickets)

    def _timed_map(self, frame: Frame, settings: Settings) -> tuple[Any, float]:
        begin = time.perf_counter()
        return self.stage.map(frame, settings.parameters), time.perf_counter() - begin

    def _token(self, work: Callable[[], None]) -> None:
        """Have something done by the reducer, after the frames received so far."""
        ticket = Ticket(self._settings, token=work)
        if self._activity is Activity.IDLE or not self.queue.put(ticket):
            self._reducer.carry_out(work)

    def _save(self, document: Document) -> None:
        for sink in self.sinks:
            sink.save(document)


def _nothing() -> None:
    """Do nothing."""
