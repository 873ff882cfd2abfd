"""Set-ups of devices as files, in dsconfig's JSON form, and their way into a Tango database.

{"servers": {SERVER: {INSTANCE: {CLASS: {DEVICE: {"properties": {NAME: [VALUE, ...]}}}}}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tango

SERVER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""`SERVER/INSTANCE`: also the name of a log and, escaped, of a unit of systemd."""
DEVICE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,85}(/[A-Za-z0-9_.-]{1,85}){2}")
PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")

Properties = dict[str, list[str]]


class ConfigError(ValueError):
    """A set-up that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server process and its devices."""

    name: str
    """Of the executable."""
    instance: str
    devices: Mapping[str, tuple[str, Properties]]
    """Class and properties by name of the device."""

    @property
    def full_name(self) -> str:
        """Name in the Tango database."""
        return f"{self.name}/{self.instance}"


def placeholders(path: Path) -> set[str]:
    """Return the names that a set-up asks for as `${NAME}`.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    try:
        return set(PLACEHOLDER.findall(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def read_config(path: Path, values: Mapping[str, str]) -> list[Server]:
    """Return the servers of a set-up, with `${NAME}` replaced in the values of properties.

    Parameters
    ----------
    path
        The JSON file.
    values
        What stands for the placeholders; others are refused.

    Raises
    ------
    ConfigError
        If the file cannot be read or does not have this form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    servers = []
    for name, instances in _members(content, "servers", path):
        for instance, classes in _members(instances, None, path):
            full_name = f"{name}/{instance}"
            if not SERVER_NAME.fullmatch(full_name):
                raise ConfigError(f"{path}: {full_name!r:.100} is no name of a server")
            servers.append(Server(name, instance, dict(_devices(classes, values, path))))
    return servers


def register(database: tango.Database, server: Server, overwrite: bool) -> None:
    """Make a server's devices known to a Tango database.

    Parameters
    ----------
    database
        The database.
    server
        What is registered.
    overwrite
        Whether devices that it knows already become this server's, with these properties.

    Raises
    ------
    ConfigError
        If another server has one of them and it is not to be overwritten.
    tango.DevFailed
        If the database fails or refuses.
    """
    known = set() if overwrite else known_devices(database, server)
    for device, (class_name, properties) in server.devices.items():
        if device in known:
            continue
        entry = tango.DbDevInfo()
        entry.name, entry._class, entry.server = device, class_name, server.full_name
        database.add_device(entry)
        if properties:
            database.put_device_property(device, properties)


def known_devices(database: tango.Database, server: Server) -> set[str]:
    """Return those of a server's devices that a Tango database has already.

    Raises
    ------
    ConfigError
        If it has one of them as another server's.
    tango.DevFailed
        If it fails or refuses.
    """
    known = set()
    for device in server.devices:
        owner = _owner(database, device)
        if owner.lower() not in ("", server.full_name.lower()):
            raise ConfigError(
                f"the device {device} belongs to the server {owner} in this Tango database, not to "
                f"{server.full_name}: give it another name, or delete it there first"
            )
        if owner:
            known.add(device)
    return known


def _owner(database: tango.Database, device: str) -> str:
    """Return the server that has a device; nothing if the database does not know it."""
    try:
        return str(database.get_device_info(device).ds_full_name)
    except tango.DevFailed as error:
        if error.args[0].reason == "DB_DeviceNotDefined":
            return ""
        raise


def _devices(
    classes: Any, values: Mapping[str, str], path: Path
) -> Iterator[tuple[str, tuple[str, Properties]]]:
    for class_name, devices in _members(classes, None, path):
        for device, content in _members(devices, None, path):
            if not DEVICE_NAME.fullmatch(device):
                raise ConfigError(f"{path}: {device!r:.60} is not of the form domain/family/member")
            entries = _members(content or {"properties": {}}, "properties", path)
            if set(content) - {"properties"}:
                raise ConfigError(f"{path}: {device} has more than properties: use json2tango")
            properties = {name: _texts(name, entry, values, path) for name, entry in entries}
            yield device, (class_name, properties)


def _members(content: Any, name: str | None, path: Path) -> Iterator[tuple[str, Any]]:
    """Return the members of an object, or of its member of this name."""
    wanted = content.get(name) if name and isinstance(content, dict) else content
    if not isinstance(wanted, dict):
        raise ConfigError(f"{path}: {name or 'a level'} is no JSON object")
    return iter(wanted.items())


def _texts(name: str, entry: Any, values: Mapping[str, str], path: Path) -> list[str]:
    """Return a property's values, with the placeholders replaced."""

    def replace(found: re.Match[str]) -> str:
        if found[1] not in values:
            known = ", ".join(values)
            raise ConfigError(f"{path}: unknown placeholder {found[0]}; known are {known}")
        return values[found[1]]

    if not isinstance(entry, list) or not all(isinstance(text, str) for text in entry):
        raise ConfigError(f"{path}: property {name} is no list of texts")
    return [PLACEHOLDER.sub(replace, text) for text in entry]
