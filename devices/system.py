"""A Tango system of our own: the servers of a set-up and their database, as processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import tango

from .database import (
    LOOPBACK,
    START_TIME,
    EmbeddedDatabase,
    answers,
    executable,
    free_port,
    is_tango_host,
    open_database,
)
from .mariadb import MariaDatabase
from .process import STOP_TIME, Process, ProcessError, left_dead
from .registration import Server, known_devices, placeholders, read_config, register
from .supervision import Supervisor

EMBEDDED, MARIADB = "embedded", "mariadb"


class Database(Protocol):
    """A Tango database that answers."""

    tango_host: str
    """What TANGO_HOST must be for its clients."""

    @property
    def processes(self) -> tuple[Process, ...]:
        """The programs of ours that it consists of."""

    def stop(self) -> None:
        """End what is ours of it."""


class ExistingDatabase:
    """A Tango database that others run.

    Parameters
    ----------
    tango_host
        Where, `host:port`; of several, with commas between, one that answers does.

    Raises
    ------
    ProcessError
        If it does not answer.
    """

    processes: tuple[Process, ...] = ()

    def __init__(self, tango_host: str) -> None:
        self.tango_host = tango_host
        if not any(map(answers, tango_host.split(","))):
            raise ProcessError(
                f"no Tango database answers at {tango_host}: start it, or give "
                f"--database {EMBEDDED} or --database {MARIADB} for one of our own"
            )

    def stop(self) -> None:
        """Leave it alone."""


def start_database(database: str, directory: Path) -> Database:
    """Return a database of this kind when it answers.

    Parameters
    ----------
    database
        `embedded`, `mariadb`, or the `host:port` of one that others run.
    directory
        Where one of ours keeps its data and logs.

    Raises
    ------
    ProcessError
        If there is no such kind, or it does not start or answer.
    """
    if database == EMBEDDED:
        return EmbeddedDatabase(directory)
    if database == MARIADB:
        return MariaDatabase(directory)
    if is_tango_host(database):
        return ExistingDatabase(database)
    raise ProcessError(
        f"there is no database {database:.100}: give {EMBEDDED}, {MARIADB}, "
        "or HOST:PORT of one that runs"
    )


class System:
    """Device servers that run, with their database.

    Parameters
    ----------
    servers
        What to start, in this order.
    directory
        Folder for logs, and for the database if it is ours.
    database
        `embedded`: devices get the properties of the set-up. `mariadb`, or the
        `host:port` of a database that others run: those that it knows already
        keep theirs.

    Raises
    ------
    ProcessError
        If something does not start; what had started is stopped.
    """

    def __init__(self, servers: list[Server], directory: Path, database: str = EMBEDDED) -> None:
        self._processes: list[Process] = []
        self._database = start_database(database, directory)
        self.tango_host = self._database.tango_host
        """The Tango database: what TANGO_HOST must be for clients."""
        self.devices = [device for server in servers for device in server.devices]
        """Names of the devices."""
        try:
            self._register(servers, overwrite=database == EMBEDDED)
            for server in servers:
                self._start(server, directory / "log")
            for server, process in zip(servers, self._processes, strict=True):
                process.wait_until(partial(self._answers, server, process), START_TIME)
        except BaseException:
            self.stop()
            raise
        self._supervisors = [
            Supervisor(process) for process in (*self._database.processes, *self._processes)
        ]

    def proxy(self, device: str) -> tango.DeviceProxy:
        """Return a client of one device."""
        return tango.DeviceProxy(f"tango://{self._place}/{device}")

    @property
    def ended(self) -> list[str]:
        """One sentence for each server that ended by itself."""
        return [process.ended for process in self._processes if process.ended]

    def supervise(self) -> list[str]:
        """Start again what has ended by itself, when it is time; return what there is to tell.

        To be called every second or so. Each end is told once, in one sentence.
        """
        return [said for supervisor in self._supervisors if (said := supervisor.look())]

    def stop(self) -> None:
        """Stop the servers, all at once, and then the database if it is ours."""
        with left_dead((*self._processes, *self._database.processes)):
            for process in self._processes:
                process.ask_to_stop()
            deadline = time.monotonic() + STOP_TIME
            for process in self._processes:
                process.stop(max(0.0, deadline - time.monotonic()))
            self._database.stop()

    @property
    def _place(self) -> str:
        """The `host:port` of the database, or of the first of several that answers."""
        places = self.tango_host.split(",")
        return places[0] if len(places) == 1 else next(filter(answers, places), places[0])

    def _register(self, servers: list[Server], overwrite: bool) -> None:
        """Make the servers' devices known: all of them, or none if one is another server's."""
        try:
            client = open_database(self._place)
            if not overwrite:
                for server in servers:
                    known_devices(client, server)
            for server in servers:
                register(client, server, overwrite)
        except tango.DevFailed as error:
            why = " ".join(f"{error.args[-1].desc}: {error.args[0].desc}".split())
            raise ProcessError(
                f"the devices cannot be registered in the Tango database {self.tango_host}: {why}"
            ) from None

    def _start(self, server: Server, logs: Path) -> None:
        # our own database is for this machine, and so are its devices
        ours = bool(self._database.processes)
        endpoint = ["-ORBendPoint", f"giop:tcp:{LOOPBACK}:0"] if ours else []
        self._processes.append(
            Process(
                server.full_name,
                [executable(server.name), server.instance, *endpoint],
                logs / f"{server.name}-{server.instance}.log",
                {"TANGO_HOST": self.tango_host},
            )
        )

    def _answers(self, server: Server, process: Process) -> bool:
        """Tell whether all devices answer, and from this process: others may run the server."""
        try:
            admin = open_database(self._place).get_device_info(f"dserver/{server.full_name}")
            if admin.pid != process.pid:
                return False
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
    database: str = EMBEDDED,
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
    database
        `embedded`, `mariadb`, or the `host:port` of one that others run.

    Raises
    ------
    ConfigError
        If the set-up cannot be used.
    ProcessError
        If something does not start.
    """
    ports = {name: str(free_port()) for name in placeholders(config) if name.endswith("_PORT")}
    place = {"OUTPUT": str(directory.resolve()), **ports, **(values or {})}
    system = System(read_config(config, place), directory, database)
    try:
        yield system
    finally:
        system.stop()
