"""The device's end of the file writer: a bounded queue, a thread, and the process behind it."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..stage import Row
from .wire import Message, send

log = logging.getLogger(__name__)

QUEUE_BYTES = 512 << 20
"""Bytes of rows that may wait for a writer that is stuck, and of everything else."""
BATCH_BYTES = 1 << 20
"""Rows are sent when there are so many bytes of them..."""
BATCH_SECONDS = 0.1
"""...or after so many seconds."""
CLOSE_SECONDS = 30.0
"""Seconds that the writer gets at the end to complete its files."""


class Sheet(Protocol):
    """One series' rows on their way."""

    def pack(self, rows: list[Row]) -> Message | None:
        """Return the message for these rows; called in the sending thread."""

    def sent(self, rows: int) -> None:
        """Take note that rows went to the writer."""

    def lost(self, rows: int) -> None:
        """Take note that rows did not."""


@dataclass(frozen=True, slots=True)
class _RowJob:
    sheet: Sheet
    row: Row
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Job:
    make: Callable[[], Message | None]
    nbytes: int
    starts: bool


class WriterProcess:
    """Sends messages to a file writer that it starts, and starts again after its death.

    Parameters
    ----------
    state_directory
        Given to the writer.
    answered
        Called with each of the writer's answers, and with `died` (text) if it
        ends by itself; from threads of this object.
    """

    def __init__(self, state_directory: Path | None, answered: Callable[[Message], None]) -> None:
        self._state_directory, self._answered = state_directory, answered
        self._jobs: deque[_Job | _RowJob] = deque()
        self._waiting, self._rows_waiting = 0, 0
        self._changed = threading.Condition()
        self._closing, self._sending = False, False
        self.heard = time.monotonic()
        """When the writer last answered, or was started."""
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="ronda-file", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Process number of the writer, None while there is none."""
        process = self._process
        return process.pid if process else None

    def submit(
        self,
        make: Callable[[], Message | None],
        nbytes: int = 0,
        *,
        starts: bool = False,
        must: bool = False,
    ) -> bool:
        """Have a message sent; False if the queue is full. Never waits.

        Parameters
        ----------
        make
            Makes the message, in the sending thread; None: nothing is sent.
        nbytes
            What it takes in the queue.
        starts
            Start a writer for it if there is none.
        must
            Take it even if the queue is full: for what comes once a series.
        """
        return self._put(_Job(make, nbytes, starts), must)

    def submit_row(self, sheet: Sheet, row: Row, nbytes: int) -> bool:
        """Have a row sent, with others of its series; False if the queue is full."""
        return self._put(_RowJob(sheet, row, nbytes))

    def close(self) -> None:
        """Send what waits, let the writer complete its files, and end it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_SECONDS
        self._thread.join(CLOSE_SECONDS)
        process = self._process
        if process:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                log.warning("the file writer did not end within %.0f s", CLOSE_SECONDS)
                process.kill()
        self._thread.join()
        for reader in self._readers:
            reader.join()

    # ------------------------------------------------------------ sending thread

    def _put(self, job: _Job | _RowJob, must: bool = False) -> bool:
        with self._changed:
            waiting = self._rows_waiting if isinstance(job, _RowJob) else self._waiting
            if self._closing or (waiting + job.nbytes > QUEUE_BYTES and not must):
                return False
            self._jobs.append(job)
            self._count(job, job.nbytes)
            self._changed.notify_all()
            return True

    def _count(self, job: _Job | _RowJob, nbytes: int) -> None:
        """Count what waits: images are large, and must not push rows out."""
        if isinstance(job, _RowJob):
            self._rows_waiting += nbytes
        else:
            self._waiting += nbytes

    @property
    def idle(self) -> bool:
        """True if the writer has been sent everything, and keeps it whatever becomes of us."""
        with self._changed:
            return not (self._jobs or self._sending)

    @property
    def full(self) -> bool:
        """True if no more images can wait."""
        return self._waiting > QUEUE_BYTES

    def _run(self) -> None:
        self._start()
        while True:
            jobs = self._next()
            if not jobs:
                break
            if isinstance(jobs[0], _RowJob):
                self._send_rows([job for job in jobs if isinstance(job, _RowJob)])
            else:
                self._send(jobs[0].make, jobs[0].starts)
        process = self._process
        if process and process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _next(self) -> list[_Job | _RowJob]:
        """Wait for a job, or for enough rows of one series; nothing at the end."""
        with self._changed:
            began, self._sending = time.monotonic(), False
            while True:
                rest = began + BATCH_SECONDS - time.monotonic()
                if not self._jobs:
                    if self._closing:
                        return []
                    self._changed.wait()
                    began = time.monotonic()
                elif not isinstance(self._jobs[0], _RowJob):
                    return [self._pop()]
                elif rest <= 0 or self._closing or self._rows_waiting >= BATCH_BYTES:
                    return self._pop_rows(self._jobs[0].sheet)
                else:
                    self._changed.wait(rest)

    def _pop(self) -> _Job | _RowJob:
        job, self._sending = self._jobs.popleft(), True
        self._count(job, -job.nbytes)
        return job

    def _pop_rows(self, sheet: Sheet) -> list[_Job | _RowJob]:
        """Take the rows of a series up to the next other job."""
        rows: list[_Job | _RowJob] = []
        nbytes = 0
        while self._jobs and nbytes < BATCH_BYTES:
            job = self._jobs[0]
            if not isinstance(job, _RowJob) or job.sheet is not sheet:
                break
            nbytes += job.nbytes
            rows.append(self._pop())
        return rows

    def _send_rows(self, jobs: list[_RowJob]) -> None:
        sheet = jobs[0].sheet
        sent = self._send(lambda: sheet.pack([job.row for job in jobs]), starts=False)
        (sheet.sent if sent else sheet.lost)(len(jobs))

    def _send(self, make: Callable[[], Message | None], starts: bool) -> bool:
        """Make and send one message; False if that failed."""
        try:
            message = make()
        except Exception as error:
            log.exception("a message for the file could not be made")
            self._answered({"event": "problem", "about": "message", "text": f"not saved: {error}"})
            return False
        if message is None:
            return True
        for _ in range(2 if starts else 1):
            if self._process is None and starts:
                self._start()
            process = self._process
            if process and process.stdin:
                try:
                    send(process.stdin, message)  # type: ignore[arg-type]
                    return True
                except OSError:
                    self._process = None
        return False

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", f"{__package__}.scribe"]
        if self._state_directory:
            command.append(str(self._state_directory.absolute()))
        try:
            with _undisturbed():
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
                )
        except OSError as error:
            text = f"the file writer cannot be started: {error}"
            self._answered({"event": "died", "text": text})
            return
        self._process, self.heard = process, time.monotonic()
        reader = threading.Thread(
            target=self._read, args=(process,), name="ronda-file-answers", daemon=True
        )
        self._readers.append(reader)
        reader.start()

    # ----------------------------------------------------------- answers' thread

    def _read(self, process: subprocess.Popen[Any]) -> None:
        """Pass the answers of a writer on until it ends."""
        assert process.stdout and process.stdin
        for line in process.stdout:
            self.heard = time.monotonic()
            with contextlib.suppress(ValueError):
                self._answered(json.loads(line))
        code = process.wait()
        process.stdout.close()
        if self._process is process:
            self._process = None
        with contextlib.suppress(OSError):
            process.stdin.close()
        if code or not self._closing:
            how = f"signal {-code}" if code < 0 else f"exit {code}"
            self._answered({"event": "died", "text": f"the file writer died ({how})"})


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Have a program that is started here ignore what ends the device: files are completed first.

    It goes on to do so by itself; this is for its first second.
    """
    ends = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
