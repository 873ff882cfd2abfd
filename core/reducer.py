"""The reducer: takes what the workers mapped in the order of the frames, and feeds the sinks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from .background import Background
from .frame import BadFrame, Frame, Series
from .ledger import Ledger
from .order import OrderedQueue, Ticket
from .receiver import Receiver
from .report import Report, Shared
from .stage import Row, Settings

log = logging.getLogger(__name__)

UNANNOUNCED = "its end was not announced"
"""How a series came to its end that another one followed, or nothing more."""


class Reducer:
    """Carries out tickets one after the other, run after run."""

    def __init__(self, shared: Shared, report: Report, background: Background) -> None:
        self._stage, self._sinks, self._lock = shared.stage, shared.sinks, shared.lock
        self._report, self._background = report, background
        self.series: Series | None = None
        """The series that is open, as far as it is reduced."""
        self._tally = Ledger()
        self._has_rows = False
        self._written_version = 0

    def start(self, queue: OrderedQueue, receiver: Receiver) -> None:
        """Begin to take what `receiver` has put into a queue; returns at once."""
        self._thread = threading.Thread(
            target=self._run, args=(queue, receiver), name="ronda-reduce", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """Wait until the queue, which is closed, is empty."""
        self._thread.join()

    def carry_out(self, work: Callable[[], None]) -> None:
        """Do something else with the stage than reduce a frame, now."""
        try:
            with self._lock:
                work()
                self._report.publish_values()
        except ValueError as error:
            self._report.refuse(str(error))
        except Exception as error:
            self._report.refuse(f"internal error: {error}")
            log.exception("a token could not be carried out")

    # -------------------------------------------------------------- series

    def begin_series(self, series: Series, tally: Ledger, settings: Settings) -> None:
        """Begin a series, whose frames are counted in `tally`; to be carried out."""
        self.finish_series(UNANNOUNCED)
        self.series, self._tally = series, tally
        self._has_rows = False
        self._stage.begin(series, settings)

    def finish_series(self, cut: str = "") -> None:
        """End the series that is open, if one is; to be carried out.

        If its end was not announced, `cut` tells for its file how it came to it.
        """
        if self.series is None:
            return
        closing = self._stage.finish(self.series)
        if self._has_rows:
            self._background.finish(self.series, closing, self._tally, cut)
        self.series = None

    def notes(self) -> Iterator[str]:
        """Yield what an operator may not expect of the open series."""
        series, has_rows = self.series, self._has_rows
        if series and series.joined_late:
            yield (
                "images came without their header, so this series was joined late: what was "
                "before, and its file name, are not known"
            )
        elif series and not has_rows:
            yield f"series {series.filename or series.run_id} has begun; no frame of it is reduced"

    # -------------------------------------------------------------- frames

    def _run(self, queue: OrderedQueue, receiver: Receiver) -> None:
        while not queue.finished:
            ticket = queue.get(timeout=1.0)
            if ticket is None:
                continue
            if ticket.token is not None:
                self.carry_out(ticket.token)
            elif ticket.frame is not None and ticket.partial is not None:
                self._reduce_safely(ticket.frame, ticket.partial, ticket, receiver)

    def _reduce_safely(
        self, frame: Frame, work: Future[Any], ticket: Ticket, receiver: Receiver
    ) -> None:
        try:
            result, seconds = work.result()
            self._reduce(frame, result, seconds, ticket, receiver)
        except BadFrame as error:
            self._report.reject(ticket.tally, str(error), frame.frame_id, frame.message_number)
        except Exception as error:
            reason = f"internal error: {error}"
            self._report.reject(ticket.tally, reason, frame.frame_id, frame.message_number)
            log.exception("frame %d could not be reduced", frame.frame_id)

    def _reduce(
        self, frame: Frame, result: Any, seconds: float, ticket: Ticket, receiver: Receiver
    ) -> None:
        begin = time.perf_counter()
        with self._lock:
            row = self._stage.reduce(frame, result, ticket.settings)
            self._report.count(ticket.tally, reduced=1)
            self._write(frame, row, ticket.settings)
            self._background.touched(frame.series, self._tally)
            reduced = time.perf_counter() - begin
            self._report.spent.add(seconds, reduced)
            self._report.publish(frame, ticket.settings, seconds + reduced, receiver.live)

    def _write(self, frame: Frame, row: Row | None, settings: Settings) -> None:
        """Give a reduced frame to the sinks, after what begins or changes with it.

        A frame without a row is sent on, but not written.
        """
        for sink in self._sinks:
            if not self._has_rows:
                sink.begin(frame.series, frame, settings)
            elif settings.version != self._written_version:
                sink.adopt(frame, settings)
            if row is not None:
                sink.row(frame, row)
        self._has_rows, self._written_version = True, settings.version
        takers = [sink for sink in self._sinks if sink.takes_images]
        forwarded = self._stage.forward() if takers else None
        if forwarded is not None:
            for sink in takers:
                sink.image(frame, forwarded)
