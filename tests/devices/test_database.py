"""A Tango system that is started, looked at, and stopped without leaving anything."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import ronda.config
import tango
from dsconfig.formatting import SCHEMA_FILENAME
from jsonschema import validate
from ronda.devices.classes import CLASSES
from ronda.devices.database import EmbeddedDatabase, free_port, open_database, reserve_port
from ronda.devices.process import Process, ProcessError
from ronda.devices.registration import ConfigError, placeholders, read_config
from ronda.devices.system import running, start_database
from ronda.tests.waiting import wait_for
from tango import DevState

DATABASE = "sys/database/2"
SHIPPED = sorted(Path(ronda.config.__path__[0]).glob("*.json"))


def set_up(path: Path, name: str = "test/detector/1", server: str = "DetectorSimulator") -> Path:
    """Write a set-up of one simulator; return the file."""
    properties = {
        "SourceUrl": ["hdf5:${OUTPUT}/frames.h5"],
        "PublishUrl": ["stins+tcp://127.0.0.1:${FRAMES_PORT}"],
    }
    devices = {name: {"properties": properties}}
    content = {"servers": {server: {"test": {"DetectorSimulator": devices}}}}
    path.write_text(json.dumps(content))
    return path


def alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_system_runs_while_its_context_lasts_and_nothing_is_left(tmp_path: Path) -> None:
    config = set_up(tmp_path / "config.json")
    with running(config, tmp_path / "run") as system:
        proxy = system.proxy("test/detector/1")
        assert system.devices == ["test/detector/1"]
        assert proxy.state() == DevState.STANDBY
        assert str(tmp_path / "run" / "frames.h5") in proxy.status()
        assert system.ended == []
        host = system.tango_host
        database = open_database(host)
        pids = [proxy.info().server_id, database.get_device_info("test/detector/1").pid]
    assert not alive(pids[1])
    with pytest.raises(tango.DevFailed):
        open_database(host)


def test_a_server_that_dies_is_named_and_the_others_are_still_stopped(tmp_path: Path) -> None:
    config = set_up(tmp_path / "config.json")
    with running(config, tmp_path) as system:
        pid = open_database(system.tango_host).get_device_info("test/detector/1").pid
        os.kill(pid, 9)
        wait_for(lambda: system.ended)
        assert "DetectorSimulator/test ended with -9" in system.ended[0]


def test_what_ends_by_itself_stays_away(tmp_path: Path) -> None:
    with running(set_up(tmp_path / "config.json"), tmp_path) as system:

        def pids() -> list[int]:
            client = open_database(system.tango_host)
            return [client.get_device_info(name).pid for name in ("test/detector/1", DATABASE)]

        killed = pids()
        for pid in killed:
            os.kill(pid, 9)
        said: list[str] = []

        def healed() -> bool:
            said.extend(system.supervise())
            try:
                system.proxy("test/detector/1").ping()
                return not set(pids()) & set(killed)
            except tango.DevFailed:
                return False

        wait_for(healed)
        assert any("the Tango database ended with -9: Ready to accept" in one for one in said)
        assert any("DetectorSimulator/test ended with -9" in one for one in said)


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("sqlite", "there is no database sqlite: give embedded, mariadb, or HOST:PORT"),
        ("one:1,two", "there is no database one:1,two: give"),
        ("127.0.0.1:99999", "there is no database 127.0.0.1:99999: give"),
        ("127.0.0.1:0", "there is no database 127.0.0.1:0: give"),
        ("127.0.0.1:{port},localhost:{port}", "no Tango database answers at .*,localhost"),
        ("", "there is no database : give"),
        ("127.0.0.1:{port}", r"no Tango database answers at 127.0.0.1:\d+: start it, or give"),
    ],
)
def test_a_database_that_cannot_be_used_ends_in_a_trace_of_calls(
    tmp_path: Path, database: str, said: str
) -> None:
    with pytest.raises(ProcessError, match=said):
        start_database(database.format(port=free_port()), tmp_path)


def test_somebody_else_is_given_the_port_of_a_database_that_is_being_started_again() -> None:
    with reserve_port() as reserved, socket.socket() as other:
        address = reserved.getsockname()
        with pytest.raises(OSError, match="in use"):
            other.bind(address)
        with socket.socket() as program:
            program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            program.bind(address)
            program.listen()
            with pytest.raises(OSError, match="in use"):
                reserve_port(address[1])


def test_in_an_existing_database_known_devices_keep_their_properties(
    tmp_path: Path, database: EmbeddedDatabase
) -> None:
    config = set_up(tmp_path / "config.json", "test/existing/1")
    known = {"PublishUrl": ["stins+tcp://127.0.0.1:0"]}
    for expected in (None, known["PublishUrl"]):
        with running(config, tmp_path, database=database.tango_host) as system:
            assert system.tango_host == database.tango_host
            proxy = system.proxy("test/existing/1")
            assert expected is None or proxy.get_property("PublishUrl")["PublishUrl"] == expected
            proxy.put_property(known)
    open_database(database.tango_host).get_info()


def test_of_several_databases_the_first_is_asked_although_it_is_away(
    tmp_path: Path, database: EmbeddedDatabase
) -> None:
    config = set_up(tmp_path / "config.json", "test/several/1")
    several = f"127.0.0.1:{free_port()},{database.tango_host}"
    with running(config, tmp_path, database=several) as system:
        assert system.tango_host == several
        assert system.proxy("test/several/1").state() == DevState.STANDBY


def test_of_a_set_up_that_is_refused_half_is_registered(
    tmp_path: Path, database: EmbeddedDatabase
) -> None:
    config = set_up(tmp_path / "theirs.json", "test/refused/2")
    with running(config, tmp_path, database=database.tango_host):
        pass
    content = json.loads(config.read_text())
    [instances] = content["servers"].values()
    devices = instances.pop("test")
    first = {"DetectorSimulator": {"test/refused/1": {"properties": {}}}}
    instances |= {"first": first, "second": devices}
    config.write_text(json.dumps(content))
    with (
        pytest.raises(ConfigError, match="belongs to the server DetectorSimulator/test"),
        running(config, tmp_path, database=database.tango_host),
    ):
        pass
    with pytest.raises(tango.DevFailed, match="test/refused/1 not defined"):
        open_database(database.tango_host).get_device_info("test/refused/1")


def test_a_server_that_somebody_else_runs_is_taken_for_ours(
    tmp_path: Path, database: EmbeddedDatabase
) -> None:
    config = set_up(tmp_path / "config.json", "test/twice/1")
    with ExitStack() as both:
        system = both.enter_context(running(config, tmp_path, database=database.tango_host))
        with pytest.raises(ProcessError, match=r"ended with 1: .*/test is running already"):
            both.enter_context(running(config, tmp_path / "2", database=database.tango_host))
        system.proxy("test/twice/1").ping()


@pytest.mark.parametrize("instance", ["femto-max", "b112a-o05", "1", "x.y", "_", "a" * 128])
def test_an_ordinary_name_of_an_instance_is_refused(tmp_path: Path, instance: str) -> None:
    path = set_up(tmp_path / "config.json")
    path.write_text(path.read_text().replace('"test"', f'"{instance}"'))
    [server] = read_config(path, {"OUTPUT": "/out", "FRAMES_PORT": "1"})
    assert server.full_name == f"DetectorSimulator/{instance}"


def test_a_server_whose_instance_has_a_dash_and_a_dot_does_not_run(tmp_path: Path) -> None:
    path = set_up(tmp_path / "config.json")
    path.write_text(path.read_text().replace('"test"', '"b112a-o05.1"'))
    with running(path, tmp_path) as system:
        assert system.proxy("test/detector/1").state() == DevState.STANDBY
        assert (tmp_path / "log" / "DetectorSimulator-b112a-o05.1.log").is_file()


def test_a_server_that_is_not_installed_leaves_nothing_behind(tmp_path: Path) -> None:
    config = set_up(tmp_path / "config.json", server="Nonsense")
    before = set(psutil.Process().children())
    with (
        pytest.raises(ProcessError, match=r"there is no program .*Nonsense"),
        running(config, tmp_path),
    ):
        pass
    assert set(psutil.Process().children()) == before


def test_a_server_that_does_not_start_is_told_with_the_last_it_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('first'); raise SystemExit('no such detector')"]
    process = Process("the server", command, tmp_path / "log", {})
    with pytest.raises(ProcessError, match="the server ended with 1: no such detector"):
        process.wait_until(lambda: False, 30)


def test_a_process_that_will_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
    process = Process(
        "stubborn", [sys.executable, "-c", stubborn + "time.sleep(600)"], tmp_path / "log", {}
    )
    wait_for(lambda: "up" in process.log.read_text())
    assert process.stop(0.2) == -9


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_set_ups_that_ship_are_complete(path: Path) -> None:
    schema = json.loads(Path(SCHEMA_FILENAME).read_text())
    validate(json.loads(path.read_text()), schema)
    servers = read_config(path, dict.fromkeys(placeholders(path), "1"))
    classes = {one.__name__: one.TangoClassClass.device_property_list for one in CLASSES}
    assert {server.name for server in servers} <= {*classes, "Ronda"}
    for server in servers:
        for class_name, properties in server.devices.values():
            assert set(properties) <= set(classes[class_name])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "servers is no JSON object"),
        ('{"servers": {"../bin/sh": {"x": {}}}}', "no name of a server"),
        ('{"servers": {"A": {"..": {}}}}', "'A/..' is no name of a server"),
        ('{"servers": {"A": {"-nodb": {}}}}', "'A/-nodb' is no name of a server"),
        ('{"servers": {"A": {"b/c": {}}}}', "'A/b/c' is no name of a server"),
        ('{"servers": {"A": {"": {}}}}', "'A/' is no name of a server"),
        ('{"servers": {"A": {"x": {"C": {"only/two": {}}}}}}', "not of the form domain"),
        ('{"servers": {"A": {"x": {"C": {"a/b/c": [1]}}}}}', "is no JSON object"),
        (
            '{"servers": {"A": {"x": {"C": {"a/b/c": {"properties": {}, "z": {}}}}}}}',
            "a/b/c has more than properties: use json2tango",
        ),
        (
            '{"servers": {"A": {"x": {"C": {"a/b/c": {"properties": {"P": ["${HOME}"]}}}}}}}',
            r"unknown placeholder \$\{HOME\}; known are OUTPUT",
        ),
        (
            '{"servers": {"A": {"x": {"C": {"a/b/c": {"properties": {"P": "text"}}}}}}}',
            "property P is no list of texts",
        ),
    ],
)
def test_a_set_up_that_cannot_be_used_says_what_is_wrong(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_config(path, {"OUTPUT": "/out"})
