"""A program that asks Ronda's devices how they are, and prints each answer as it comes.

`python -m ronda.clients.asking` asks the database that TANGO_HOST names. It is a
process of its own because what does not answer can hold up Tango's client, and all
of its process, for many seconds: whoever waits for it can end it
(`ronda.clients.answers`). Every line that it prints is a JSON object.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import tango
from tango.utils import PyTangoThread

from .answers import source_device

PROPERTIES = ("SourceUrl", "PublishUrl", "RepublishUrl", "DetectorDevice")
"""What tells who gets frames from whom."""
ATTRIBUTES = (
    *("State", "Status", "images_sent", "source_url", "last_message_time", "in_series"),
    *(f"frames_{name}" for name in ("received", "reduced", "rejected", "dropped", "queued")),
    *("frames_lost", "queue_fill", "input_rate", "latency"),
    *("file", "file_time", "file_complete", "disk_time_left"),
)
"""What a device is asked for; it answers for those that it has."""
LIFETIME = 60
"""Seconds after which this process ends, even if nobody has ended it."""

_printing = threading.Lock()


def main() -> None:
    """Ask everything, and print what is answered."""
    signal.alarm(LIFETIME)
    say({"ready": True})
    try:
        devices = list(registered(tango.Database()))
    except tango.DevFailed as error:
        say({"refused": _sentence(error)})
        return
    say({"registered": devices})
    names = {device["name"] for device in devices if device["exported"]}
    for device in devices:
        names |= {device["detector"], source_device(device["source"])}
    for name in sorted(names - {""}):
        PyTangoThread(target=ask, args=(name,)).start()


def say(content: dict[str, Any]) -> None:
    """Print one line of JSON."""
    with _printing:
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()


def programs() -> set[str]:
    """Return the names of Ronda's servers: those of its classes, and `Ronda`."""
    scripts = entry_points(group="console_scripts")
    return {one.name for one in scripts if one.value.startswith("ronda.devices.servers:")}


def registered(database: tango.Database) -> Iterator[dict[str, Any]]:
    """Yield what a database knows of each of Ronda's devices.

    Raises
    ------
    tango.DevFailed
        If it does not answer.
    """
    ours = programs()
    for program in sorted(ours):
        for server in database.get_server_list(f"{program}/*").value_string:
            names = database.get_device_class_list(server).value_string
            for name, class_name in zip(names[::2], names[1::2], strict=True):
                if class_name in ours:
                    yield _entry(database, server, name, class_name)


def _entry(database: tango.Database, server: str, name: str, class_name: str) -> dict[str, Any]:
    info = database.get_device_info(name)
    found = database.get_device_property(name, list(PROPERTIES))
    properties = {each: (list(found[each]) or [""])[0] for each in PROPERTIES}
    return {
        "name": name,
        "class_name": class_name,
        "server": server,
        "exported": bool(info.exported),
        "has_run": info.pid > 0,
        "process": info.pid,
        "source": properties["SourceUrl"],
        "offers": properties["PublishUrl"] or properties["RepublishUrl"],
        "detector": properties["DetectorDevice"],
    }


def ask(device: str) -> None:
    """Ask one device, and print its answer; one that hangs is waited for."""
    try:
        answers = tango.DeviceProxy(device).read_attributes(list(ATTRIBUTES))
    except tango.DevFailed as error:
        # Tango gives this reason where nothing listens at the address that the database knows
        gone = any(one.reason == "API_CantConnectToDevice" for one in error.args)
        say({"device": device, "gone": gone, "error": _sentence(error)})
        return
    values = {one.name: _plain(one.value) for one in answers if not one.has_failed}
    say({"device": device, "values": values, "time": answers[0].time.totime()})


def _sentence(error: tango.DevFailed) -> str:
    """Return what went wrong, in one line."""
    return str(error.args[0].desc).strip().partition("\n")[0]


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; None for what is not a number."""
    if isinstance(value, tango.DevState):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
