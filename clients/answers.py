"""What a Tango database and Ronda's devices answer, in bounded time, whoever of them hangs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

START_TIME = 60.0
"""Seconds given to the program that asks until it begins to."""
DATABASE_TIME = 2.0
"""Seconds that the database has to answer."""
DEVICE_TIME = 2.0
"""Seconds that all devices, asked at the same time, have to answer."""


_DEVICE = r"((?:[^/\s]+:\d+/)?[^/\s]+/[^/\s]+/[^/\s]+)"
TANGO_SOURCE = re.compile(rf"tango://{_DEVICE}/[^/\s]+|lima://{_DEVICE}")
"""An attribute of a device, or a Lima camera."""


class DatabaseError(OSError):
    """A Tango database that cannot be asked; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Device:
    """What the database knows of a device."""

    name: str
    class_name: str
    server: str
    """Program and instance, `PilatusAccumulator/femtomax`."""
    exported: bool
    """True if it runs, or ended without a word."""
    has_run: bool
    process: int
    """Number of its process, of now or before."""
    source: str
    """Its property SourceUrl."""
    offers: str
    """Where it sends frames to the next: PublishUrl or RepublishUrl; empty: nowhere."""
    detector: str
    """Its property DetectorDevice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device answered; with neither values nor an error it does not answer."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By name of attribute; None for what is not a number."""
    time: float = 0.0
    """Unix time in s at which it was given, by the clock of the device's computer."""
    error: str = ""
    gone: bool = False
    """True if nothing is there any more that could answer."""


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers of one look."""

    devices: Sequence[Device]
    given: Mapping[str, Answer]
    """By name in small letters; also of the detectors' own devices."""

    def of(self, device: str) -> Answer:
        """Return the answer of a device; an empty one if it does not answer."""
        return self.given.get(device.lower(), Answer())


def source_device(source: str) -> str:
    """Return the Tango device that a SourceUrl names; empty if it names none."""
    found = TANGO_SOURCE.fullmatch(source)
    if not found:
        return ""
    name: str = found[1] or found[2]
    return f"tango://{name}" if name.count("/") == 3 else name


def ask_all(tango_host: str) -> Answers:
    """Ask a Tango database for Ronda's devices, and all of them at once how they are.

    Parameters
    ----------
    tango_host
        The database, `host:port`.

    Raises
    ------
    DatabaseError
        If it does not answer.
    """
    asking = subprocess.Popen(
        [sys.executable, "-m", "ronda.clients.asking"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TANGO_HOST": tango_host},
    )
    with asking:
        try:
            return _listen(asking, tango_host)
        finally:
            asking.kill()


def _listen(asking: subprocess.Popen[str], tango_host: str) -> Answers:
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(asking, lines), daemon=True).start()
    if _next(lines, time.monotonic() + START_TIME) is None:
        assert asking.stderr
        asking.kill()
        raise DatabaseError(f"nothing can be asked: {asking.stderr.read().strip()[-300:]}")
    known = _next(lines, time.monotonic() + DATABASE_TIME)
    if known is None:
        raise DatabaseError(f"the Tango database at {tango_host} hangs: end it and start it again")
    if "refused" in known:
        raise DatabaseError(
            f"no Tango database answers at {tango_host} ({known['refused']}): start it with "
            "ronda up or systemctl start ronda-database, or name another with --tango-host"
        )
    devices = [Device(**entry) for entry in known["registered"]]
    given: dict[str, Answer] = {}
    deadline = time.monotonic() + DEVICE_TIME
    while line := _next(lines, deadline):
        device = line.pop("device")
        given[device.lower()] = Answer(**line)
    return Answers(devices, given)


def _read(asking: subprocess.Popen[str], lines: SimpleQueue[str]) -> None:
    """Hand on what the program prints, and at its end an empty line."""
    assert asking.stdout
    for line in asking.stdout:
        lines.put(line)
    lines.put("")


def _next(lines: SimpleQueue[str], deadline: float) -> dict[str, Any] | None:
    """Return what comes next; None after the deadline and after the end."""
    try:
        line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        return None
    content: dict[str, Any] | None = json.loads(line) if line else None
    return content
