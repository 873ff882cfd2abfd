"""Slow work beside the reduction: deferred calculations, closing of files, checkpoints."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .frame import Series
from .ledger import Ledger
from .report import Report, Shared
from .stage import Closing

log = logging.getLogger(__name__)

DEFERRED_INTERVAL = 1.0
"""Seconds between deferred calculations."""
CHECKPOINT_INTERVAL, AFTER_SERIES = 30.0, 5.0
"""Seconds between checkpoints, and between those of series that end: short ones share one."""
GRACE = 5.0
"""Seconds that a series' file waits for late positions."""


@dataclass(slots=True)
class _Ending:
    series: Series
    closing: Closing
    tally: Ledger
    cut: str
    deadline: float


class Background:
    """Does what must not hold up frames, in a thread of its own in each run."""

    def __init__(self, shared: Shared, report: Report) -> None:
        self._stage, self._sinks, self._lock = shared.stage, shared.sinks, shared.lock
        self._history, self._report = shared.history, report
        self._endings: list[_Ending] = []
        self._open: tuple[Series, Ledger] | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._dirty = False
        self.problem = ""
        """What went wrong here last; empty if nothing did."""

    def start(self) -> None:
        """Begin a run; returns at once."""
        self._open, self._stopping, self.problem = None, False, ""
        self._thread = threading.Thread(target=self._run, name="ronda-background", daemon=True)
        self._thread.start()

    def touched(self, series: Series, tally: Ledger) -> None:
        """Note that a frame of this series was reduced."""
        self._open = (series, tally)
        self._dirty = True

    def keep_state(self) -> None:
        """Write a checkpoint; call it under the lock, so that none overtakes a newer one."""
        if (state := self._stage.state()) is not None:
            for sink in self._sinks:
                sink.checkpoint(state)

    def finish(self, series: Series, closing: Closing, tally: Ledger, cut: str) -> None:
        """Have a series' file closed as soon as nothing more can change; what cut it is noted."""
        self._open = None
        self._endings.append(_Ending(series, closing, tally, cut, time.monotonic() + GRACE))
        self._wake.set()

    def calculate_soon(self) -> None:
        """Do the calculation that is due beside the caller, while no run does it."""
        work = threading.Thread(
            target=self._guard, args=(self._calculate,), name="ronda-background", daemon=True
        )
        work.start()

    def stop(self) -> None:
        """Close what is still to be closed, and wait for the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        deferred = time.monotonic()
        checkpoint, ended = deferred - AFTER_SERIES, False
        while True:
            stopping = self._stopping
            now = time.monotonic()
            if now >= deferred + DEFERRED_INTERVAL or stopping:
                deferred = now
                self._guard(self._calculate)
                self._guard(self._write_late)
            ended |= self._close_settled(force=stopping)
            wait = AFTER_SERIES if ended else CHECKPOINT_INTERVAL
            if now >= checkpoint + wait or stopping:
                checkpoint, ended = now, False
                self._guard(self._checkpoint)
            if stopping:
                return
            self._wake.wait(0.1)
            self._wake.clear()

    def _calculate(self) -> None:
        """Do what is due; what it changed is shown though no frame came."""
        with self._lock:
            work = self._stage.deferred()
            self._report.publish_values()
        if work is None:
            return
        store = work()
        with self._lock:
            store()
            self._report.publish_values()

    def _write_late(self) -> None:
        """Write what belongs to frames of the open file that are reduced already."""
        with self._lock:
            opened = self._open
            late = self._stage.late() if opened else {}
        if opened and late:
            for sink in self._sinks:
                sink.update(opened[0], late)

    def _close_settled(self, force: bool) -> bool:
        """Close the files of series that are ready; True if there were any."""
        now = time.monotonic()
        with self._lock:
            ready = [e for e in self._endings if force or now > e.deadline or e.closing.settled()]
        for ending in ready:
            self._endings.remove(ending)
            self._close(ending)
        return bool(ready)

    def _close(self, ending: _Ending) -> None:
        """Write the last values of a series; its file is closed even if there are none."""
        tree: dict[str, Any] = {}
        self._guard(lambda: tree.update(ending.closing.tree()))
        tree.update(self._account(ending.tally))
        if ending.cut:
            tree["end_note"] = ending.cut
        for sink in self._sinks:
            sink.finish(ending.series, tree)

    def _checkpoint(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        with self._lock:
            self.keep_state()
            update, opened = self._stage.update(), self._open
        if opened is None:
            return
        series, tally = opened
        for sink in self._sinks:
            sink.update(series, {**update, **self._account(tally)})

    def _account(self, tally: Ledger) -> dict[str, Any]:
        """Return a series' counts and who changed what, as they stand in its file."""
        lines = self._history.lines
        return {**_ledger_tree(tally), **({"process/history": lines} if lines else {})}

    def _guard(self, work: Callable[[], object]) -> None:
        """Run some work; a defect in it must not end this thread."""
        try:
            work()
            self.problem = ""
        except Exception as error:
            self.problem = f"background work failed: {error}"
            log.exception("background work failed")


def _ledger_tree(tally: Ledger) -> dict[str, int]:
    """Return the counts of a series as they stand in its file."""
    counts = tally.counts
    return {
        "ledger/received": counts.received,
        "ledger/reduced": counts.reduced,
        "ledger/rejected": counts.rejected,
        "ledger/dropped": counts.dropped,
        "ledger/lost": counts.lost,
    }
