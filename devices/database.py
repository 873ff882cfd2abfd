"""A Tango system of our own: an embedded database and the servers of a set-up, as processes."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import tango

from .process import STOP_TIME, Process, ProcessError
from .registration import Server, placeholders, read_config, register

LOOPBACK = "127.0.0.1"
START_TIME = 60.0
"""Seconds that a database or a server has to answer."""
LISTENING = re.compile(r"Database DS listening on:.*, port=(\d+)\.")


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
        listen = ["--host", LOOPBACK, "--port", str(port), "--print-host-port"]
        self._process = Process(
            "the Tango database",
            [executable("PyDatabaseds"), *listen, "2"],
            directory / "log" / "database.log",
            {"PYTANGO_DATABASE_NAME": str(directory / "tango.db"), "PYTHONUNBUFFERED": "1"},
        )
        try:
            self._process.wait_until(lambda: self._port is not None, START_TIME)
            self.tango_host = f"{LOOPBACK}:{self._port}"
            """What TANGO_HOST must be for its clients."""
            self._process.wait_until(self._answers, START_TIME)
        except BaseException:
            self._process.kill()
            raise

    @property
    def _port(self) -> int | None:
        found = LISTENING.search(self._process.log.read_text(encoding="utf-8", errors="replace"))
        return int(found[1]) if found else None

    def _answers(self) -> bool:
        try:
            open_database(self.tango_host).get_info()
        except tango.DevFailed:
            return False
        return True

    def stop(self) -> None:
        """End it."""
        self._process.stop(5.0)


class System:
    """Device servers that run, with their database.

    Parameters
    ----------
    servers
        What to start, in this order.
    directory
        Folder for logs, and for the database if it is ours.
    tango_host
        An existing database, `host:port`, in which devices known already keep
        their properties; empty: an embedded one.

    Raises
    ------
    ProcessError
        If something does not start; what had started is stopped.
    """

    def __init__(self, servers: list[Server], directory: Path, tango_host: str = "") -> None:
        self._processes: list[Process] = []
        self._database = None if tango_host else EmbeddedDatabase(directory)
        self.tango_host = self._database.tango_host if self._database else tango_host
        """The Tango database, `host:port`."""
        self.devices = [device for server in servers for device in server.devices]
        """Names of the devices."""
        try:
            database = open_database(self.tango_host)
            for server in servers:
                register(database, server, overwrite=self._database is not None)
            for server in servers:
                self._start(server, directory / "log")
            for server, process in zip(servers, self._processes, strict=True):
                process.wait_until(partial(self._answers, server), START_TIME)
        except BaseException:
            self.stop()
            raise

    def proxy(self, device: str) -> tango.DeviceProxy:
        """Return a client of one device."""
        return tango.DeviceProxy(f"tango://{self.tango_host}/{device}")

    @property
    def ended(self) -> list[str]:
        """One sentence for each server that ended by itself."""
        return [process.ended for process in self._processes if process.ended]

    def stop(self) -> None:
        """Stop the servers, all at once, and then the database if it is ours."""
        for process in self._processes:
            process.ask_to_stop()
        deadline = time.monotonic() + STOP_TIME
        for process in self._processes:
            process.stop(max(0.0, deadline - time.monotonic()))
        if self._database:
            self._database.stop()

    def _start(self, server: Server, logs: Path) -> None:
        # our own database is for this machine, and so are its devices
        endpoint = ["-ORBendPoint", f"giop:tcp:{LOOPBACK}:0"] if self._database else []
        self._processes.append(
            Process(
                server.full_name,
                [executable(server.name), server.instance, *endpoint],
                logs / f"{server.name}-{server.instance}.log",
                {"TANGO_HOST": self.tango_host},
            )
        )

    def _answers(self, server: Server) -> bool:
        try:
            for device in server.devices:
                self.proxy(device).ping()
        except tango.DevFailed:
            return False
        return True


@contextmanager
def running(
    config: Path,
    directory: Path,
    values: Mapping[str, str] | None = None,
    tango_host: str | None = None,
) -> Iterator[System]:
    """Run the devices of a set-up while the context lasts.

    Parameters
    ----------
    config
        The set-up, in dsconfig's JSON form. `${OUTPUT}` in a property stands for
        `directory`, every `${..._PORT}` for a free port.
    directory
        Folder for what is written.
    values
        What further placeholders stand for.
    tango_host
        An existing database, `host:port`; empty: an embedded one; None: the one
        that the environment's TANGO_HOST names, else an embedded one.

    Raises
    ------
    ConfigError
        If the set-up cannot be used.
    ProcessError
        If something does not start.
    """
    ports = {name: str(free_port()) for name in placeholders(config) if name.endswith("_PORT")}
    place = {"OUTPUT": str(directory.resolve()), **ports, **(values or {})}
    servers = read_config(config, place)
    host = os.environ.get("TANGO_HOST", "") if tango_host is None else tango_host
    system = System(servers, directory, host)
    try:
        yield system
    finally:
        system.stop()


def open_database(tango_host: str) -> tango.Database:
    """Return a client of a Tango database.

    Raises
    ------
    tango.DevFailed
        If it does not answer.
    """
    host, _, port = tango_host.rpartition(":")
    return tango.Database(host, int(port))


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


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
