"""A program run beside this one, with its log, and a bounded way to end it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_TIME = 20.0
"""Seconds that a program has to end by itself before it is killed."""


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
        File that takes all it prints.
    environment
        Variables set for it beside ours.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            try:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessError(f"{command[0]} cannot be run: {error.strerror}") from None

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
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{self.name} ended with {code}: {last:.300} (log: {self.log})"

    def wait_until(self, answers: Callable[[], bool], seconds: float) -> None:
        """Wait until it answers.

        Raises
        ------
        ProcessError
            If it ends instead, or does not answer in this time.
        """
        deadline = time.monotonic() + seconds
        while not answers():
            if self.ended:
                raise ProcessError(self.ended)
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
        self._popen.kill()
        self._popen.wait()

    def stop(self, seconds: float = STOP_TIME) -> int:
        """Ask it to end, kill it if it does not; return its exit code."""
        self.ask_to_stop()
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.returncode
