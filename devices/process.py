"""A program run beside this one, with its log, and a bounded way to end it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_TIME = 20.0
"""Seconds that a program has to end by itself before it is killed."""
LAST_BYTES = 4096
"""Bytes at the end of a log in which its last line is looked for."""


class ProcessError(OSError):
    """A program that did not start or ended by itself; the message is one sentence."""


class Process:
    """A program that was started, in a session of its own: Ctrl-C reaches it only through us.

    Parameters
    ----------
    name
        What it is called in messages.
    command
        The program and its arguments.
    log
        File that takes all it prints; begun anew.
    environment
        Variables set for it beside ours.
    folder
        Where it runs; None: where we do.

    Raises
    ------
    ProcessError
        If it cannot be run.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self.name, self.command, self.log = name, command, log
        self._environment, self._folder = environment, folder
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self.start()

    def start(self) -> None:
        """Run it, for the first time or again; the log goes on.

        Raises
        ------
        ProcessError
            If it cannot be run.
        """
        with self.log.open("ab") as output:
            self._log_before = output.tell()
            try:
                self._popen = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    cwd=self._folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessError(f"{self.command[0]} cannot be run: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    @property
    def ended(self) -> str:
        """One sentence that it ended and why, by the last line of its log; empty if it runs."""
        code = self._popen.poll()
        if code is None:
            return ""
        return f"{self.name} ended with {code}: {self._last_line():.300} (log: {self.log})"

    def _last_line(self) -> str:
        """Return what it said last since it was started."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_before, size - LAST_BYTES))
            lines = log.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def wait_until(self, answers: Callable[[], bool], seconds: float) -> None:
        """Wait until it answers.

        Raises
        ------
        ProcessError
            If it ends instead, or does not answer in this time.
        """
        deadline = time.monotonic() + seconds
        while True:
            if ended := self.ended:  # looked at first: another one may answer in its place
                raise ProcessError(ended)
            if answers():
                return
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"{self.name} did not answer within {seconds:g} s (log: {self.log})"
                )
            time.sleep(0.05)

    def ask_to_stop(self) -> None:
        """Ask it to end; returns at once."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def kill(self) -> None:
        """End it without asking."""
        self.begin_to_kill()
        self._popen.wait()

    def begin_to_kill(self) -> None:
        """End it without asking; returns at once."""
        self._popen.kill()

    def stop(self, seconds: float = STOP_TIME) -> int:
        """Ask it to end, kill it if it does not; return its exit code."""
        self.ask_to_stop()
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.returncode


@contextmanager
def left_dead(processes: Sequence[Process]) -> Iterator[None]:
    """Have programs end in the context; those that run after it, as Ctrl-C ended it, are killed."""
    try:
        yield
    finally:
        for process in processes:  # all before the first is waited for: another Ctrl-C may come
            process.begin_to_kill()
        for process in processes:
            process.kill()
