"""A Tango database in MariaDB: a private instance of what Debian's packages install.

Nothing of the system's own services or settings is used or changed. Tables,
socket and settings are in one folder that only its owner may enter; MariaDB
opens no TCP port, and no rights of root are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .database import LOOPBACK, START_TIME, STOP_TIME, answers, reserve_port
from .process import Process, ProcessError, left_dead

PACKAGES = "mariadb-server-core mariadb-client-core dbconfig-no-thanks tango-db"
"""The programs alone: with mariadb-server there would be a service, too."""
FOLDERS = ("/usr/sbin", "/usr/lib/tango")
"""Where Debian has programs that are not on everybody's PATH."""
SCHEMA = Path("/usr/share/dbconfig-common/data/tango-db/install/mysql")
"""Makes Tango's tables; of the package tango-db."""
SOCKET = "socket"
"""In the folder, where all programs run: a long path would be too long for a socket."""
PID_FILE = "pid"
ENGINE = ("--skip-innodb", "--default-storage-engine=Aria")
"""Small, and its tables outlive a kill."""
SETTINGS = f"""[client]
socket={SOCKET}
user=root
reconnect=1
"""
"""For clients. Without reconnect, DataBaseds would be lost after a restart of MariaDB."""
ACCOUNT = {
    "MYSQL_HOST": "localhost",
    "MYSQL_USER": "root",
    "MYSQL_PASSWORD": "",
    "MYSQL_DATABASE": "tango",
}
"""For DataBaseds; no password, because only the folder's owner comes to the socket."""


class MariaDatabase:
    """A Tango database in MariaDB, served on loopback by DataBaseds.

    Parameters
    ----------
    directory
        Folder of the tables and logs; what was registered there before is known.
    port
        Where it listens; 0: a free one.

    Raises
    ------
    ProcessError
        If a package is missing, or something does not start.
    """

    def __init__(self, directory: Path, port: int = 0) -> None:
        databaseds = find("DataBaseds")
        folder, self._logs = directory.resolve() / "mariadb", directory / "log"
        if not folder.exists():
            self._create(folder)
        self._port = reserve_port(port)
        self.tango_host = f"{LOOPBACK}:{self._port.getsockname()[1]}"
        """What TANGO_HOST must be for its clients."""
        self._processes: list[Process] = []
        try:
            self._processes.append(self._start_server(folder))
            self._processes.append(
                Process(
                    "the Tango database",
                    [databaseds, "2", "-ORBendPoint", f"giop:tcp:{self.tango_host}"],
                    self._logs / "database.log",
                    {**ACCOUNT, "HOME": str(folder), "TANGO_HOST": self.tango_host},
                    folder,
                )
            )
            self._processes[-1].wait_until(lambda: answers(self.tango_host), START_TIME)
        except BaseException:
            self.stop()
            raise

    @property
    def processes(self) -> tuple[Process, ...]:
        """The programs that it consists of."""
        return tuple(self._processes)

    def stop(self) -> None:
        """End it, MariaDB last."""
        with left_dead(self._processes):
            for process in reversed(self._processes):
                process.stop(STOP_TIME)
        self._port.close()

    def _create(self, folder: Path) -> None:
        """Make the folder, with Tango's empty tables: all of it or nothing."""
        unfinished = folder.with_name("mariadb.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        (unfinished / ".my.cnf").write_text(SETTINGS, encoding="utf-8")
        access = "--auth-root-authentication-method=normal"
        options = ["--no-defaults", *_user(), *ENGINE, access, "--skip-test-db"]
        options += ["--skip-name-resolve", "--datadir=."]  # it cannot take a path with a space
        _run([find("mariadb-install-db"), *options], unfinished)
        server = self._start_server(unfinished)
        try:
            _query("CREATE DATABASE tango", unfinished)
            _query(f"USE tango\nsource {SCHEMA}\n", unfinished)
        finally:
            server.stop(STOP_TIME)
        unfinished.rename(folder)

    def _start_server(self, folder: Path) -> Process:
        """Run MariaDB on this folder; return it when it answers."""
        if _answers(folder):  # ours would end at once, and its clients would ask that one
            number = (folder / PID_FILE).read_text(encoding="utf-8").strip()
            raise ProcessError(
                f"MariaDB runs in {folder} already (process {number}), left behind by a ronda up "
                f"that was killed: end what it left, MariaDB with kill {number}"
            )
        # The schema asks for MyISAM, whose tables have to be repaired after a kill.
        options = [*ENGINE, "--enforce-storage-engine=Aria", "--sql-mode=STRICT_TRANS_TABLES"]
        places = [f"--datadir={folder}", f"--socket={SOCKET}", f"--pid-file={PID_FILE}"]
        server = Process(
            "MariaDB",
            [find("mariadbd"), "--no-defaults", *_user(), "--skip-networking", *places, *options],
            self._logs / "mariadb.log",
            {},
            folder,
        )
        try:
            server.wait_until(lambda: _answers(folder), START_TIME)
        except BaseException:
            server.stop(STOP_TIME)
            raise
        return server


def find(name: str) -> Path:
    """Return one of the programs that Debian's packages install.

    Raises
    ------
    ProcessError
        If it is not there; the message says how to get it.
    """
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))
    if found is None or not SCHEMA.exists():
        raise ProcessError(
            f"there is no program {name}: to install what --database mariadb needs, run "
            f"sudo apt-get install --no-install-recommends {PACKAGES}"
        )
    return Path(found)


def _user() -> list[str]:
    """Return the option without which MariaDB refuses to run as root."""
    return ["--user=root"] if os.geteuid() == 0 else []


def _answers(folder: Path) -> bool:
    try:
        _query("SELECT 1", folder)
    except ProcessError:
        return False
    return True


def _query(statements: str, folder: Path) -> None:
    """Have MariaDB carry out statements, or commands of its client."""
    _run([find("mariadb"), f"--defaults-file={folder / '.my.cnf'}"], folder, statements)


def _run(command: Sequence[str | Path], folder: Path, given: str = "") -> None:
    """Run a program to its end.

    Raises
    ------
    ProcessError
        If it fails; with the last line of what it says.
    """
    try:
        subprocess.run(
            command,
            cwd=folder,
            input=given,
            check=True,
            timeout=START_TIME,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{command[0]} did not end within {START_TIME:g} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise ProcessError(f"{command[0]} ended with {error.returncode}: {said:.300}") from None
