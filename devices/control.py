"""Starting and stopping a runner from a thread of its own, so that no Tango call waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from tango.utils import PyTangoThread

from ..core.results import Activity
from ..core.runner import Runner
from ..core.sources.base import Source

log = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between looks whether a source has ended."""
DRAIN_TIME = 8.0
"""Seconds that closing waits for queued frames before it drops them."""


class Control:
    """Does what operators ask for, in the order in which they ask.

    Parameters
    ----------
    runner
        What is controlled; nobody else starts or stops it.
    source, positions
        Open what is read; no positions if None.
    prepare
        What is done first, before anything can run.
    changed
        Called, in this thread, when something was done.
    """

    def __init__(
        self,
        runner: Runner,
        source: Callable[[], Source],
        positions: Callable[[], Source] | None,
        prepare: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._runner, self._source, self._positions = runner, source, positions
        self._prepare, self._changed = prepare, changed
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._starts = 0
        self._counting = threading.Lock()
        self.ready = False
        """True when prepared."""
        self.problem = ""
        """What could not be done, in one sentence."""
        self._thread = PyTangoThread(target=self._run, name="ronda-control", daemon=True)
        self._thread.start()

    @property
    def starting(self) -> bool:
        """True while a start has been asked for and is not done yet."""
        return self._starts > 0

    def start(self) -> None:
        """Have the runner started; harmless if it runs."""
        with self._counting:
            self._starts += 1
        self._jobs.put(self._start)

    def stop(self) -> None:
        """Have the runner stopped when everything that has arrived is reduced."""
        self._jobs.put(self._runner.stop)

    def abort(self) -> None:
        """Have the runner stopped, and what is queued dropped and counted."""
        self._jobs.put(lambda: self._runner.stop(drain=False, how="aborted"))
        if self._runner.health.activity is Activity.DRAINING:
            self._runner.drop()

    def close(self) -> None:
        """Stop the runner for good, in bounded time, and close its files."""
        self._jobs.put(None)
        self._thread.join(DRAIN_TIME)
        if self._thread.is_alive():
            if queued := self._runner.ledger.counts.queued:
                log.warning("closing drops %d frames that are still queued", queued)
            self._runner.drop()
            self._thread.join()

    def _start(self) -> None:
        try:
            self._look()
            if self._runner.health.activity is Activity.IDLE:
                self._runner.start(self._source, self._positions)
        finally:
            with self._counting:
                self._starts -= 1

    def _run(self) -> None:
        self._do(self._prepare)
        self.ready = True
        self._changed()
        while True:
            try:
                job = self._jobs.get(timeout=TICK)
            except Empty:
                self._do(self._look)
                continue
            if job is None:
                self._do(self._runner.close)
                return
            self._do(job)
            self._changed()

    def _look(self) -> None:
        """End a run whose source has ended or cannot be read."""
        health = self._runner.health
        if health.activity is Activity.RUNNING and (self._runner.ended or health.failure):
            self._runner.stop()
            self._changed()

    def _do(self, job: Callable[[], None]) -> None:
        """Carry out a job; a defect in it must not end this thread."""
        try:
            job()
        except Exception as error:
            self.problem = f"internal error: {error}"
            log.exception("%s could not be carried out", job)
