"""Devices, archives and alarms of a beamline that take what they need from a reduction device."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tango
from ronda.core.sources.replay import Replay
from ronda.devices.database import EmbeddedDatabase, open_database
from ronda.devices.pilatus import PilatusAccumulator
from ronda.devices.served import Events
from ronda.tests.devices.conftest import Served, Servers, StartDevice
from ronda.tests.test_docs import code_blocks
from ronda.tests.waiting import wait_for
from tango import DevState, EventType

DEVICE = "test/followed/pilatus"
SCALARS = [one.name for one in PilatusAccumulator.served.values() if one.events is Events.SCALAR]
CHANGING = (
    "State",
    "Status",
    "run_id",
    "frame_id",
    "frames_received",
    "frames_reduced",
    "input_rate",
    "latency",
    "processing_time",
    "accumulated_frames",
    "accumulated_total",
)
"""Scalars of every measurement that an archive is for."""


def follow(start: StartDevice, detector: Replay, name: str = DEVICE, **properties: str) -> Served:
    """Start a reduction device that reads a detector."""
    device = start("PilatusAccumulator", name, SourceUrl=f"stins+{detector.address}", **properties)
    device.proxy.Start()
    return device


def test_a_device_that_polls_sees_values_of_two_frames(
    start_device: StartDevice, detector: Replay, frames_file: Path
) -> None:
    pilatus = follow(start_device, detector)
    followers = [
        start_device("Follower", Reduction=pilatus.trl, Rate=rate) for rate in ("10", "100")
    ]
    detector.start(f"hdf5:{frames_file}", series=0, filename="")
    pilatus.wait_until_reduced(50)
    before = [follower.proxy.updates for follower in followers]
    for follower, updates, most in zip(followers, before, (20, 200), strict=True):
        wait_for(lambda follower=follower, n=updates + most: follower.proxy.updates >= n)
    for follower in followers:
        assert follower.proxy.torn == follower.proxy.errors == 0
    assert pilatus.ledger()["lost"] == pilatus.ledger()["dropped"] == 0


def test_followers_give_up_when_the_device_or_the_database_is_restarted(
    detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    database = EmbeddedDatabase(tmp_path / "database")
    servers = Servers(database, tmp_path)
    try:
        pilatus = follow(servers.start, detector)
        followers = [
            servers.start("Follower", Reduction=pilatus.trl, Rate=rate) for rate in ("10", "0")
        ]
        detector.rate = 50.0
        detector.start(f"hdf5:{frames_file}", series=0, filename="")

        def go_on() -> None:
            """Wait until both heard of frames that are reduced from now on."""
            before = [follower.proxy.updates for follower in followers]
            reduced = pilatus.ledger()["reduced"]
            wait_for(lambda: pilatus.ledger()["reduced"] >= reduced + 50)
            for follower, updates in zip(followers, before, strict=True):
                wait_for(lambda follower=follower, n=updates: follower.proxy.updates >= n + 10)
                assert not follower.process.ended

        go_on()
        database.stop()
        go_on()
        database = EmbeddedDatabase(tmp_path / "database", int(database.tango_host.split(":")[1]))
        go_on()
        pilatus.process.kill()
        for follower in followers:
            errors = follower.proxy.errors
            wait_for(lambda follower=follower, n=errors: follower.proxy.errors > n)
        pilatus.process.start()
        wait_for(lambda: answers(pilatus, DevState.RUNNING))
        pilatus.wait_until_reduced(50)
        go_on()
        newest = [follower.proxy.newest for follower in followers]
        wait_for(lambda: [follower.proxy.newest for follower in followers] != newest)
        assert servers.stop() == []
    finally:
        servers.stop()
        database.stop()


def answers(device: Served, state: DevState = DevState.STANDBY) -> bool:
    """Tell whether a device is there and in this state."""
    try:
        return bool(device.proxy.state() == state)
    except tango.DevFailed:
        return False


def test_the_devices_of_the_documentation_do_not_work(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    monitor, hall = code_blocks("docs/how-to/chains.md", "python")[:2]
    (tmp_path / "PeakMonitor.py").write_text(monitor)
    (tmp_path / "Hall.py").write_text(hall)
    pilatus = follow(start_device, detector)
    pilatus.proxy.AddRoi("peak=1,1,2,2")
    mine = start_device(
        "PeakMonitor", "", tmp_path / "PeakMonitor.py", Reduction=pilatus.trl, Roi="peak"
    )
    peaks: list[float] = []
    mine.proxy.subscribe_event(
        "peak", EventType.ARCHIVE_EVENT, lambda event: peaks.append(event.attr_value.value)
    )
    database = open_database(f"{pilatus.proxy.get_db_host()}:{pilatus.proxy.get_db_port()}")
    root = {"frames_lost": {"__root_att": [f"{pilatus.trl}/frames_reduced"]}}
    database.put_device_attribute_property("test/followed/hall", root)
    other = start_device("Hall", "test/followed/hall", tmp_path / "Hall.py")
    detector.start(f"hdf5:{frames_file}", filename="")
    wait_for(lambda: mine.proxy.peak == 20.0)
    wait_for(lambda: peaks[-1] == 20.0)
    wait_for(lambda: other.proxy.frames_lost == 20)
    pilatus.process.kill()
    wait_for(lambda: mine.proxy.peak != mine.proxy.peak)
    assert other.state == DevState.UNKNOWN


# ------------------------------------------------------------------- archives


@pytest.fixture(params=["nothing set", "thresholds set"])
def archived(request: pytest.FixtureRequest, start_device: StartDevice, detector: Replay) -> Served:
    """A device; in the database its attributes have nothing, or what HDB++ and Jive put there."""
    name = f"test/archived/{request.param.split()[0]}"
    pilatus = start_device("PilatusAccumulator", name, SourceUrl=f"stins+{detector.address}")
    if request.param == "thresholds set":
        set_thresholds(pilatus)
        pilatus.process.stop()
        pilatus.process.start()
        wait_for(lambda: answers(pilatus))
    return pilatus


def set_thresholds(device: Served) -> None:
    """Have the database hold events' thresholds and periods that would leave out every change."""
    database = open_database(f"{device.proxy.get_db_host()}:{device.proxy.get_db_port()}")
    far = {name: ["1000000"] for name in ("archive_abs_change", "abs_change")}
    times = {name: ["3600000"] for name in ("archive_period", "event_period")}
    numbers = [name for name in CHANGING if name not in ("State", "Status")]
    database.put_device_attribute_property(
        device.name, {name: {**far, **times} for name in numbers}
    )
    database.put_device_attribute_property(device.name, {"State": times})
    device.proxy.poll_attribute("queue_fill", 1000)


def test_an_archive_misses_what_changes(
    archived: Served, detector: Replay, frames_file: Path
) -> None:
    proxy, begin = archived.proxy, time.time()
    came: dict[str, list[Any]] = defaultdict(list)
    failed: list[Any] = []

    def keep(name: str) -> Callable[[Any], None]:
        def take(event: Any) -> None:
            (failed if event.err else came[name]).append(event.attr_value or event.errors)

        return take

    for name in ("State", "Status", *SCALARS):
        proxy.subscribe_event(name, EventType.ARCHIVE_EVENT, keep(name))
    assert came.keys() == {"State", "Status", *SCALARS}, "every scalar can be archived"
    first = {name: len(events) for name, events in came.items()}
    proxy.Start()
    detector.rate = 50.0
    detector.start(f"hdf5:{frames_file}", filename="")
    archived.wait_until_reduced(20)
    for name in CHANGING:
        wait_for(lambda name=name: len(came[name]) > first[name])
    wait_for(lambda: came["frames_reduced"][-1].value == 20)
    wait_for(lambda: came["State"][-1].value == DevState.RUNNING)
    wait_for(lambda: came["accumulated_total"][-1].value == 30 * sum(range(1, 21)))
    proxy.preview_binning = 1
    wait_for(lambda: came["preview_binning"][-1].value == 1)
    times = [event.time.totime() for name in CHANGING for event in came[name]]
    assert begin - 1 <= min(times) and max(times) <= time.time() + 1
    for name in CHANGING:
        pushed = [event.time.totime() for event in came[name][first[name] :]]
        assert pushed == sorted(pushed)
    assert failed == []
