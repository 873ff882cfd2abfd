"""Servers listen on loopback, unless somebody opened them on purpose."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tango
from ronda.devices.database import EmbeddedDatabase, executable
from ronda.devices.listening import VARIABLE, is_this_computer, listening_options, reachability
from ronda.devices.process import Process, ProcessError
from ronda.tests.devices.test_systemd import a_simulator
from ronda.tests.waiting import wait_for

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is asked for, and looked for, on purpose
Run = Callable[..., tuple[Process, tango.DeviceProxy]]


@pytest.fixture
def run(database: EmbeddedDatabase, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a simulator, as its own program, with an environment."""
    processes = []

    def run(*arguments: str, **environment: str) -> tuple[Process, tango.DeviceProxy]:
        server, proxy = a_simulator(database.tango_host)
        name, _, instance = server.partition("/")
        command = [executable(name), instance, *arguments]
        told = {"TANGO_HOST": database.tango_host, **environment}
        process = Process(name, command, tmp_path / "log", told)
        processes.append(process)
        process.wait_until(lambda: "listening on" in process.log.read_text(), 60)
        return process, proxy

    yield run
    for process in processes:
        process.stop()


def listens_on(process: Process, proxy: tango.DeviceProxy) -> set[str]:
    """Return the addresses that a server listens on, for requests and for events."""

    def sockets() -> list[str]:
        connections = psutil.Process(process.pid).net_connections("tcp")
        return [one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN]

    before = len(sockets())
    proxy.subscribe_event("State", tango.EventType.CHANGE_EVENT, lambda event: None)
    wait_for(lambda: len(sockets()) > before)  # the one of the events
    return set(sockets())


def test_no_socket_is_open_to_others_by_default(run: Run) -> None:
    process, proxy = run()
    assert listens_on(process, proxy) == {"127.0.0.1"}
    assert "INFO ronda.devices.listening: listening on 127.0.0.1:" in process.log.read_text()


def test_a_name_of_loopback_does_not_open_the_events_to_others(run: Run) -> None:
    assert listens_on(*run(**{VARIABLE: "localhost"})) == {"127.0.0.1"}


def test_a_server_that_was_opened_on_purpose_is_open_for_requests_and_events(run: Run) -> None:
    process, proxy = run(**{VARIABLE: EVERYWHERE})
    # the detector's own socket stays where its URL says
    assert listens_on(process, proxy) == {EVERYWHERE, "127.0.0.1"}


def test_the_command_line_is_stronger_than_the_environment(run: Run) -> None:
    process, proxy = run("-ORBendPoint", "giop:tcp:127.0.0.1:0", **{VARIABLE: EVERYWHERE})
    assert listens_on(process, proxy) == {"127.0.0.1"}


def test_an_address_that_does_not_exist_is_named(run: Run) -> None:
    with pytest.raises(ProcessError, match=r"RONDA_LISTEN is 'no\.such\.host\.invalid'.*set it to"):
        run(**{VARIABLE: "no.such.host.invalid"})


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ([], ["-host", "127.0.0.1", "-port", "0"]),
        (["-v4"], ["-host", "127.0.0.1", "-port", "0"]),
        (["-port", "4000"], ["-host", "127.0.0.1"]),
        (["--port=4000"], ["-host", "127.0.0.1"]),
        (["-host", EVERYWHERE], ["-port", "0"]),
        (["-host", EVERYWHERE, "-port", "4000"], []),
        (["--ORBendPoint", "giop:tcp::4000"], []),
        (["-ORBendPointPublish", "giop:tcp:a:4000"], []),
    ],
)
def test_what_tango_was_told_is_left_as_it_is(
    given: list[str], added: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert listening_options(["instance", *given]) == added


def test_who_cannot_be_reached_says_what_to_do() -> None:
    elsewhere = "192.0.2.77"  # of a network for examples
    said = reachability("127.0.0.1", elsewhere)
    assert f"database is on {elsewhere}: set RONDA_LISTEN={socket.gethostname()}" in said
    assert not reachability("192.0.2.78", elsewhere)
    assert not reachability("127.0.0.1", "localhost")
    assert not reachability("127.0.0.1", "")


def test_this_computer_is_known_by_all_its_names() -> None:
    addresses = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
    ipv4 = [address for address in addresses if address.count(".") == 3]
    assert ipv4
    assert all(map(is_this_computer, ["localhost", "127.0.0.1", *ipv4]))
    assert not is_this_computer("no.such.host.invalid")
