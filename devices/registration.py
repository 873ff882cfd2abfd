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

SERVER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
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
            for word in (name, instance):
                if not SERVER_NAME.fullmatch(word):
                    raise ConfigError(f"{path}: {word!r:.60} is no name of a server or instance")
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
        Whether devices that it knows already get these properties.
    """
    known = set(database.get_device_class_list(server.full_name).value_string[::2])
    known = {name.lower() for name in known}
    for device, (class_name, properties) in server.devices.items():
        if device.lower() in known and not overwrite:
            continue
        entry = tango.DbDevInfo()
        entry.name, entry._class, entry.server = device, class_name, server.full_name
        database.add_device(entry)
        if properties:
            database.put_device_property(device, properties)


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
