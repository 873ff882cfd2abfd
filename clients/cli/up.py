"""`ronda up`: a Tango system of a set-up's devices, for as long as it is wanted."""

from __future__ import annotations

import time
from pathlib import Path

from ... import config as shipped
from ...devices.database import System, running
from .console import stderr
from .table import Display, read

TIMEOUT = 1000
"""Milliseconds that a device has to answer before the others are shown without it."""
INTERVAL = 0.5
"""Seconds between two looks at the devices."""


def keep_up(config: str, directory: Path, tango_host: str) -> int:
    """Run the devices of a set-up until Ctrl-C; return the exit status.

    Parameters
    ----------
    config
        A JSON file, or the name of one that Ronda ships (`femtomax`).
    directory
        Folder for the database, states, logs and what the devices write.
    tango_host
        An existing Tango database, `host:port`; empty: an embedded one.

    Raises
    ------
    OSError, ValueError
        In one sentence, if the set-up cannot be used or something does not start.
    """
    path = config_path(config)
    console = stderr()
    console.print(f"starting the devices of {path.name}, logs in {directory / 'log'}")
    with running(path, directory, tango_host=tango_host) as system:
        console.print(f"TANGO_HOST={system.tango_host}   Ctrl-C stops everything", soft_wrap=True)
        try:
            _watch(system)
        except KeyboardInterrupt:
            console.print("stopping")
    console.print("everything has stopped")
    return 0


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
    """Show the devices until interrupted; say it once when a server ends by itself."""
    console = stderr()
    proxies = {device: system.proxy(device) for device in system.devices}
    for proxy in proxies.values():
        proxy.set_timeout_millis(TIMEOUT)
    told: set[str] = set()
    with Display(console) as display:
        while True:
            for sentence in set(system.ended) - told:
                console.print(sentence, soft_wrap=True)
                told.add(sentence)
            display.show(read(device, proxy) for device, proxy in proxies.items())
            time.sleep(INTERVAL)
