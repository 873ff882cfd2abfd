"""Set-ups come into a database by other tools than ours, and other tools start the servers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ronda.config
import tango
from ronda.devices.classes import CLASSES
from ronda.devices.database import LOOPBACK, EmbeddedDatabase, executable, open_database
from ronda.devices.process import Process
from ronda.devices.registration import (
    PLACEHOLDER,
    ConfigError,
    Server,
    placeholders,
    read_config,
    register,
)
from ronda.tests.waiting import wait_for

SHIPPED = sorted(Path(ronda.config.__path__[0]).glob("*.json"))
STARTER = Path("/usr/lib/tango/Starter")


def json2tango(path: Path, tango_host: str) -> subprocess.CompletedProcess[str]:
    """Have dsconfig bring a database to what a file says."""
    return subprocess.run(
        [executable("json2tango"), "-w", path],
        env={**os.environ, "TANGO_HOST": tango_host},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
def test_json2tango_registers_another_thing_than_ronda_up(
    shipped: Path, tmp_path: Path, database: EmbeddedDatabase
) -> None:
    place = "/var/lib/ronda"
    path = tmp_path / shipped.name
    path.write_text(PLACEHOLDER.sub(place, shipped.read_text()))
    done = json2tango(path, database.tango_host)
    assert done.returncode == 2, done.stdout  # dsconfig's word for: changes were applied
    client = open_database(database.tango_host)
    for server in read_config(shipped, dict.fromkeys(placeholders(shipped), place)):
        listed = client.get_device_class_list(server.full_name).value_string
        for device, (class_name, properties) in server.devices.items():
            assert (device, class_name) in set(zip(listed[::2], listed[1::2], strict=True))
            known = client.get_device_property(device, list(properties))
            assert {name: list(values) for name, values in known.items()} == properties
    again = json2tango(path, database.tango_host)
    assert again.returncode == 0, again.stdout


def test_what_json2tango_changed_is_undone_by_the_next_start(
    tmp_path: Path, database: EmbeddedDatabase
) -> None:
    path = tmp_path / "config.json"
    for workers in ("5", "7"):
        devices = {"test/known/1": {"properties": {"Workers": [workers]}}}
        path.write_text(json.dumps({"servers": {"ToyDevice": {"known": {"ToyDevice": devices}}}}))
        assert json2tango(path, database.tango_host).returncode == 2
    client = open_database(database.tango_host)
    server = Server("ToyDevice", "known", {"test/known/1": ("ToyDevice", {"Workers": ["1"]})})
    register(client, server, overwrite=False)
    assert list(client.get_device_property("test/known/1", "Workers")["Workers"]) == ["7"]


def test_a_device_of_another_server_is_taken_away_and_loses_its_properties(
    database: EmbeddedDatabase,
) -> None:
    client = open_database(database.tango_host)
    device = "test/Theirs/1"
    theirs = Server("ToyDevice", "theirs", {device: ("ToyDevice", {"Workers": ["3"]})})
    register(client, theirs, overwrite=False)
    ours = Server("ToyDevice", "ours", {device.lower(): ("ToyDevice", {"Workers": ["1"]})})
    said = "the device test/theirs/1 belongs to the server ToyDevice/theirs in this Tango database"
    with pytest.raises(ConfigError, match=said):
        register(client, ours, overwrite=False)
    assert client.get_device_info(device).ds_full_name == "ToyDevice/theirs"
    assert list(client.get_device_property(device, "Workers")["Workers"]) == ["3"]
    register(client, Server("toydevice", "THEIRS", theirs.devices), overwrite=False)


def test_every_class_has_a_program_of_its_name() -> None:
    for one in CLASSES:
        assert os.access(executable(one.__name__), os.X_OK)


@pytest.fixture
def starter(tmp_path: Path, database: EmbeddedDatabase) -> Iterator[tango.DeviceProxy]:
    """Tango's Starter, which is to start our programs."""
    if not STARTER.exists():
        pytest.skip("Starter is not here: apt-get install tango-starter brings it")
    host = socket.gethostname().partition(".")[0].lower()
    name = f"tango/admin/{host}"
    properties = {
        "StartDsPath": [str(executable("DetectorSimulator").parent)],
        "LogFileHome": [str(tmp_path)],
        "UseEvents": ["0"],
    }
    client = open_database(database.tango_host)
    register(client, Server("Starter", host, {name: ("Starter", properties)}), overwrite=True)
    process = Process(
        "Starter",
        [STARTER, host, "-ORBendPoint", f"giop:tcp:{LOOPBACK}:0"],
        tmp_path / "starter.log",
        {"TANGO_HOST": database.tango_host},
    )
    proxy = None

    def answers() -> bool:
        nonlocal proxy
        try:
            proxy = tango.DeviceProxy(f"tango://{database.tango_host}/{name}")
            return bool(proxy.ping())
        except tango.DevFailed:
            return False

    process.wait_until(answers, 60)
    yield proxy
    process.stop()


def test_starter_does_not_find_starts_or_stops_our_servers(
    starter: tango.DeviceProxy, tmp_path: Path, database: EmbeddedDatabase
) -> None:
    device = "test/started/1"
    properties = {"SourceUrl": ["simulated:zyla"], "PublishUrl": ["stins+tcp://127.0.0.1:0"]}
    server = Server("DetectorSimulator", "started", {device: ("DetectorSimulator", properties)})
    client = open_database(database.tango_host)
    register(client, server, overwrite=True)
    info = tango.DbServerInfo()
    info.name, info.host, info.mode, info.level = server.full_name, socket.gethostname(), 1, 1
    client.put_server_info(info)
    starter.command_inout("UpdateServersInfo")
    starter.command_inout("DevStart", server.full_name)

    def running() -> bool:
        try:
            proxy = tango.DeviceProxy(f"tango://{database.tango_host}/{device}")
            return bool(proxy.state() == tango.DevState.STANDBY)
        except tango.DevFailed:
            return False

    wait_for(running)
    process = psutil.Process(client.get_device_info(device).pid)
    wait_for(lambda: server.full_name in starter.command_inout("DevGetRunningServers", True))
    starter.command_inout("DevStop", server.full_name)
    wait_for(lambda: not process.is_running())
