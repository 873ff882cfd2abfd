"""A Tango database dies while frames come: nobody but new clients may notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import tango
from ronda.core.sources.replay import Replay
from ronda.devices.database import EmbeddedDatabase, answers
from ronda.devices.mariadb import MariaDatabase, find
from ronda.devices.process import ProcessError
from ronda.devices.supervision import Supervisor
from ronda.devices.system import Database
from ronda.tests.devices.conftest import FRAMES, Served, Servers, refusal
from ronda.tests.waiting import wait_for
from tango import DevState, EventType

PIXELS = 30
"""Of a frame; each has the number of its frame, 1 at first."""


class Mortal:
    """A database that can be killed and comes back as `ronda up` brings it back."""

    def __init__(self, database: Database) -> None:
        self.tango_host = database.tango_host
        self._processes = database.processes
        self._supervisors = [Supervisor(process) for process in database.processes]

    def die(self) -> None:
        for process in self._processes:
            process.kill()

    def come_back(self) -> None:
        def answers_again() -> bool:
            for supervisor in self._supervisors:
                supervisor.look()
            return answers(self.tango_host)

        wait_for(answers_again)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    """A database of the test's own, in one file."""
    database = EmbeddedDatabase(tmp_path / "database")
    yield Mortal(database)
    database.stop()


@pytest.fixture
def mortal_mariadb(tmp_path: Path) -> Iterator[Mortal]:
    """A database of the test's own, in MariaDB."""
    try:
        find("DataBaseds")
    except ProcessError as error:
        pytest.skip(str(error))
    database = MariaDatabase(tmp_path / "database")
    yield Mortal(database)
    database.stop()


Measuring = Callable[[Mortal], Served]


@pytest.fixture
def measuring(tmp_path: Path, detector: Replay, frames_file: Path) -> Iterator[Measuring]:
    """Return a function that starts a device in a database; it reduces endless series to files."""
    started: list[Servers] = []

    def start(mortal: Mortal) -> Served:
        servers = Servers(mortal, tmp_path)
        started.append(servers)
        device = servers.start(
            "ToyDevice",
            SourceUrl=f"stins+{detector.address}",
            OutputRoot=str(tmp_path / "process"),
        )
        detector.rate = 100.0
        detector.start(f"hdf5:{frames_file}", series=0, filename="/there/scan-{series}.h5")
        device.proxy.Start()
        device.wait_until_reduced(1)
        return device

    yield start
    for servers in started:
        servers.stop()


def lives_through(mortal: Mortal, device: Served, detector: Replay, output: Path) -> None:
    """Kill the database while frames come; nothing may be missing afterwards."""
    events: list[int] = []

    def note(event: tango.EventData) -> None:
        events.append(-1 if event.err else event.attr_value.value)

    device.proxy.subscribe_event("frames_received", EventType.CHANGE_EVENT, note)
    wait_for(lambda: events)
    mortal.die()
    assert not answers(mortal.tango_host)
    before = device.ledger()["reduced"]
    device.wait_until_reduced(before + 3 * FRAMES)
    wait_for(lambda: events[-1] > before + 2 * FRAMES)
    mortal.come_back()
    device.wait_until_reduced(device.ledger()["reduced"] + FRAMES)
    wait_for(lambda: tango.DeviceProxy(device.trl).state() == DevState.RUNNING)
    detector.stop()
    assert detector.wait(60), detector.problem
    sent = detector.sent.images
    device.wait_until_reduced(sent)
    device.stop()
    assert device.ledger() == {
        **dict.fromkeys(("rejected", "dropped", "queued", "lost"), 0),
        "received": sent,
        "reduced": sent,
    }
    assert min(events) >= 0, "a client was told of an error"
    files = sorted(output.glob("*.h5"))
    assert len(files) == -(-sent // FRAMES)
    rows = 0
    for path in files:
        with h5py.File(path) as file:
            totals = file["entry/toy/total"][()]
        np.testing.assert_array_equal(totals, PIXELS * np.arange(1, len(totals) + 1))
        rows += len(totals)
    assert rows == sent


def test_the_death_of_the_database_costs_frames_events_or_files(
    mortal: Mortal, measuring: Measuring, detector: Replay, tmp_path: Path
) -> None:
    lives_through(mortal, measuring(mortal), detector, tmp_path / "process")


def test_the_death_of_mariadb_costs_frames_events_or_files(
    mortal_mariadb: Mortal, measuring: Measuring, detector: Replay, tmp_path: Path
) -> None:
    lives_through(mortal_mariadb, measuring(mortal_mariadb), detector, tmp_path / "process")


def test_a_device_cannot_be_operated_without_its_database(
    mortal: Mortal, measuring: Measuring
) -> None:
    device = measuring(mortal)
    mortal.die()
    device.proxy.gain = 2.5
    assert device.proxy.gain == 2.5
    device.stop()
    device.proxy.gain = 3.5
    device.proxy.Reset()
    reduced = device.ledger()["reduced"]
    device.proxy.Start()
    device.wait_until_reduced(reduced + 1)
    assert device.proxy.gain == 3.5


@pytest.mark.allow_error_log
def test_init_without_the_database_leaves_a_device_that_only_looks_alive(
    mortal: Mortal, measuring: Measuring
) -> None:
    device = measuring(mortal)
    device.proxy.gain = 2.5
    device.proxy.put_property({"Workers": ["3"]})
    mortal.die()
    device.proxy.Init()
    wait_for(lambda: device.state == DevState.ALARM)
    assert "database did not answer at Init: properties are as they were" in device.proxy.status()
    assert device.proxy.gain == 2.5
    device.proxy.Start()
    device.wait_until_reduced(1)
    device.proxy.Reset()
    device.wait_for_state(DevState.RUNNING)
    mortal.come_back()
    device.proxy.put_property({"SourceUrl": [""]})
    device.proxy.Init()
    wait_for(lambda: device.state == DevState.STANDBY)
    assert "SourceUrl is not set" in refusal(device.proxy.Start)


@pytest.mark.allow_error_log
def test_a_server_hangs_at_its_end_without_a_database(
    mortal: Mortal, measuring: Measuring, detector: Replay, tmp_path: Path
) -> None:
    device = measuring(mortal)
    mortal.die()
    device.wait_until_reduced(device.ledger()["reduced"] + FRAMES)
    assert device.process.stop(60) == 0
    files = sorted((tmp_path / "process").glob("*.h5"))
    assert files
    for path in files:
        with h5py.File(path) as file:  # closed: others may read it plainly
            assert len(file["entry/toy/total"])
    device.process.start()
    wait_for(lambda: device.process.ended)
    assert "ended with 255: Can't build connection to TANGO database" in device.process.ended
    mortal.come_back()
    device.process.start()
    device.process.wait_until(lambda: answering(device), 60)


def answering(device: Served) -> bool:
    """Tell whether a new client reaches the device."""
    try:
        return bool(tango.DeviceProxy(device.trl).ping())
    except tango.DevFailed:
        return False
