"""Tango databases: one of our own in an SQLite file, and how any of them is reached."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import tango

from .process import Process, ProcessError, left_dead

LOOPBACK = "127.0.0.1"
PLACE = re.compile(r"[A-Za-z0-9_.-]{1,253}:([0-9]{1,5})")
"""One `host:port`."""
START_TIME = 60.0
"""Seconds that a database or a server has to answer."""
STOP_TIME = 5.0
"""Seconds that a database has to end by itself before it is killed."""


class EmbeddedDatabase:
    """A Tango database in one SQLite file, served on loopback by a process of its own.

    Parameters
    ----------
    directory
        Folder of the file and the log; what was registered there before is known.
    port
        Where it listens; 0: a free one.

    Raises
    ------
    ProcessError
        If it does not start.
    """

    def __init__(self, directory: Path, port: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._port = reserve_port(port)
        port = self._port.getsockname()[1]
        self.tango_host = f"{LOOPBACK}:{port}"
        """What TANGO_HOST must be for its clients."""
        self._process = Process(
            "the Tango database",
            [executable("PyDatabaseds"), "--host", LOOPBACK, "--port", str(port), "2"],
            directory / "log" / "database.log",
            {"PYTANGO_DATABASE_NAME": str(directory / "tango.db"), "PYTHONUNBUFFERED": "1"},
        )
        try:
            self._process.wait_until(lambda: answers(self.tango_host), START_TIME)
        except BaseException:
            self.stop()
            raise

    @property
    def processes(self) -> tuple[Process, ...]:
        """The programs that it consists of."""
        return (self._process,)

    def stop(self) -> None:
        """End it."""
        with left_dead(self.processes):
            self._process.stop(STOP_TIME)
        self._port.close()


def is_tango_host(text: str) -> bool:
    """Tell whether a text is a TANGO_HOST: `host:port`, or several with commas between."""
    places = [PLACE.fullmatch(place) for place in text.split(",")]
    return all(place and 0 < int(place[1]) < 65536 for place in places)


def open_database(tango_host: str) -> tango.Database:
    """Return a client of the Tango database at one `host:port`.

    Raises
    ------
    tango.DevFailed
        If it does not answer.
    """
    host, _, port = tango_host.rpartition(":")
    return tango.Database(host, int(port))


def answers(tango_host: str) -> bool:
    """Tell whether the Tango database at one `host:port` answers."""
    try:
        open_database(tango_host).get_info()
    except tango.DevFailed:
        return False
    return True


def executable(name: str) -> Path:
    """Return the program of this name that was installed with this Python.

    Raises
    ------
    ProcessError
        If there is none.
    """
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise ProcessError(f"there is no program {path}: is Ronda installed completely?")
    return path


def reserve_port(port: int = 0) -> socket.socket:
    """Return a socket that keeps a TCP port of loopback for a program that listens there.

    While it is open nobody else is given the port, not even between the end of
    the program and its next start. 0: any free port.

    Raises
    ------
    OSError
        If somebody listens there already.
    """
    reserved = socket.socket()
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((LOOPBACK, port))
    except BaseException:
        reserved.close()
        raise
    return reserved


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
