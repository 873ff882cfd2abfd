"""A Tango database in MariaDB: what is lost, what is left behind, who may come in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tango
from ronda.devices import mariadb
from ronda.devices.database import LOOPBACK, answers, open_database
from ronda.devices.mariadb import MariaDatabase, find
from ronda.devices.process import ProcessError
from ronda.devices.registration import Server
from ronda.devices.system import MARIADB, System
from ronda.tests.waiting import wait_for

DEVICE = "test/detector/1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], MariaDatabase]]:
    """Return a function that starts a database on the same folder each time."""
    try:
        find("DataBaseds")
    except ProcessError as error:
        pytest.skip(str(error))
    started: list[MariaDatabase] = []

    def new() -> MariaDatabase:
        for database in started:
            database.stop()
        started.append(MariaDatabase(tmp_path / "a folder whose name is long" / ("x" * 100)))
        return started[-1]

    yield new
    for database in started:
        database.stop()


def test_what_was_registered_is_forgotten_at_the_next_start_or_by_a_kill(
    start: Callable[[], MariaDatabase],
) -> None:
    client = open_database(start().tango_host)
    assert "TANGO Database sys/database/2" in client.get_info()
    entry = tango.DbDevInfo()
    entry.name, entry._class, entry.server = DEVICE, "DetectorSimulator", "DetectorSimulator/x"
    client.add_device(entry)
    client.put_device_property(DEVICE, {"SourceUrl": ["first"]})
    database = start()
    client = open_database(database.tango_host)
    assert DEVICE in client.get_device_class_list("DetectorSimulator/x").value_string
    client.put_device_property(DEVICE, {"SourceUrl": ["second", "third"]})
    for process in database.processes:
        process.kill()
    client = open_database(start().tango_host)
    assert list(client.get_device_property(DEVICE, "SourceUrl")["SourceUrl"]) == ["second", "third"]


def test_databaseds_does_not_come_back_to_a_mariadb_that_was_away(
    start: Callable[[], MariaDatabase],
) -> None:
    database = start()
    mariadbd, databaseds = database.processes
    mariadbd.kill()
    assert not answers(database.tango_host)
    mariadbd.start()
    wait_for(lambda: answers(database.tango_host))
    assert databaseds.ended == ""


def test_a_mariadb_that_a_killed_start_left_behind_is_used_and_ours_ends_for_ever(
    start: Callable[[], MariaDatabase],
) -> None:
    left = start()
    mariadbd, _ = left.processes
    folder = Path(psutil.Process(mariadbd.pid).cwd())
    children = set(psutil.Process().children())
    with pytest.raises(ProcessError, match=rf"already \(process {mariadbd.pid}\), .* with kill"):
        MariaDatabase(folder.parent)
    assert set(psutil.Process().children()) == children
    assert answers(left.tango_host)


def test_databaseds_is_told_of_another_database_than_itself(
    start: Callable[[], MariaDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANGO_HOST", "elsewhere:10000")
    database = start()
    _, databaseds = database.processes
    assert psutil.Process(databaseds.pid).environ()["TANGO_HOST"] == database.tango_host


def test_others_on_this_machine_or_elsewhere_can_reach_the_tables(
    start: Callable[[], MariaDatabase],
) -> None:
    database = start()
    mariadbd, databaseds = (psutil.Process(process.pid) for process in database.processes)
    assert mariadbd.net_connections("inet") == []
    places = {one.laddr for one in databaseds.net_connections("inet") if one.status == "LISTEN"}
    assert {place.ip for place in places} == {LOOPBACK}
    (folder,) = {mariadbd.cwd(), databaseds.cwd()}
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert (Path(folder) / "socket").is_socket()


def test_an_interrupted_first_start_leaves_half_of_the_tables(
    start: Callable[[], MariaDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = mariadb.SCHEMA
    with monkeypatch.context() as broken:
        broken.setattr(mariadb, "SCHEMA", Path("/nowhere"))
        broken.setattr(mariadb, "find", lambda name, find=find: _found(find, schema, name))
        children = set(psutil.Process().children())
        with pytest.raises(ProcessError, match="Failed to open file '/nowhere'"):
            start()
        assert set(psutil.Process().children()) == children
    assert answers(start().tango_host)


def _found(find: Callable[[str], Path], schema: Path, name: str) -> Path:
    """Find a program although the schema is away."""
    with pytest.MonkeyPatch.context() as whole:
        whole.setattr(mariadb, "SCHEMA", schema)
        return find(name)


def test_missing_packages_end_in_a_riddle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mariadb, "FOLDERS", ())
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    said = "there is no program DataBaseds: .* run sudo apt-get install .* tango-db$"
    with pytest.raises(ProcessError, match=said):
        MariaDatabase(tmp_path / "database")
    assert not (tmp_path / "database").exists()


def test_properties_changed_in_mariadb_are_overwritten_at_the_next_start(
    start: Callable[[], MariaDatabase], tmp_path: Path
) -> None:
    start().stop()
    properties = {"SourceUrl": ["simulated:zyla"], "PublishUrl": ["stins+tcp://127.0.0.1:0"]}
    devices = {DEVICE: ("DetectorSimulator", properties)}
    servers = [Server("DetectorSimulator", "test", devices)]
    for known in ("simulated:zyla", "simulated:pilatus"):
        system = System(servers, tmp_path / "system", MARIADB)
        try:
            proxy = system.proxy(DEVICE)
            assert known in proxy.status()
            proxy.put_property({"SourceUrl": ["simulated:pilatus"]})
        finally:
            system.stop()
