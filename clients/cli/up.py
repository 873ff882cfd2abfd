"""`ronda up`: a Tango system of a set-up's devices, for as long as it is wanted."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ... import config as shipped
from ...devices.process import ProcessError
from ...devices.system import System, running
from .console import stderr
from .table import Display, read

TIMEOUT = 1000
"""Milliseconds that a device has to answer before the others are shown without it."""
INTERVAL = 0.5
"""Seconds between two looks at the devices."""
TANGO_HOST_FILE = "tango-host"
"""In the directory while everything runs: the TANGO_HOST, for `ronda status` and scripts."""


def keep_up(config: str, directory: Path, database: str) -> int:
    """Run the devices of a set-up until Ctrl-C; return the exit status.

    Parameters
    ----------
    config
        A JSON file, or the name of one that Ronda ships (`femtomax`).
    directory
        Folder for the database, states, logs and what the devices write.
    database
        `embedded`, `mariadb`, or the `host:port` of one that others run.

    Raises
    ------
    OSError, ValueError
        In one sentence, if the set-up cannot be used or something does not start.
    """
    path = config_path(config)
    console = stderr()
    console.print(f"starting the devices of {path.name}, logs in {directory / 'log'}")
    file = directory / TANGO_HOST_FILE
    with _alone(directory), running(path, directory, database=database) as system:
        file.write_text(f"{system.tango_host}\n", encoding="utf-8")
        console.print(f"TANGO_HOST={system.tango_host}   Ctrl-C stops everything", soft_wrap=True)
        try:
            _watch(system)
        except KeyboardInterrupt:
            console.print("stopping")
        finally:
            file.unlink(missing_ok=True)
    console.print("everything has stopped")
    return 0


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep others from running in a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProcessError(
                f"another ronda up runs in {directory}: stop it, or give another --directory"
            ) from None
        yield
    finally:
        os.close(handle)


def config_path(config: str) -> Path:
    """Return the file of a set-up that is named by its path or, for ours, by its name.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    given, ours = Path(config), Path(*shipped.__path__)
    for path in (given, ours / f"{config}.json"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in ours.glob("*.json")))
    raise FileNotFoundError(f"there is no set-up {config}: give a JSON file, or one of {names}")


def _watch(system: System) -> None:
    """Show the devices until interrupted; start again, and tell, what ends by itself."""
    console = stderr()
    proxies = {device: system.proxy(device) for device in system.devices}
    for proxy in proxies.values():
        proxy.set_timeout_millis(TIMEOUT)
    with Display(console) as display:
        while True:
            for sentence in system.supervise():
                console.print(sentence, soft_wrap=True)
            display.show(read(device, proxy) for device, proxy in proxies.items())
            time.sleep(INTERVAL)
