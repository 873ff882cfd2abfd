"""Real servers in real processes, with a real database."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tango
from ronda.core.runner import Runner
from ronda.core.sources import open_source
from ronda.core.sources.replay import Replay
from ronda.devices.database import LOOPBACK, EmbeddedDatabase, executable, open_database
from ronda.devices.process import Process
from ronda.devices.registration import Server, register
from ronda.tests.waiting import wait_for
from tango import DevState

NUMBERS = itertools.count(1)
FRAMES = 20


@dataclass
class Served:
    """A device in a server process of its own."""

    trl: str
    """Its name with that of its database."""
    proxy: tango.DeviceProxy
    process: Any

    @property
    def name(self) -> str:
        """Its name, `domain/family/member`."""
        return "/".join(self.trl.split("/")[-3:])

    @property
    def state(self) -> DevState:
        """Its state."""
        return self.proxy.state()

    @property
    def state_folder(self) -> Path:
        """Where it keeps what survives it."""
        return Path(self.setting("StateDirectory")) / self.name.replace("/", "_")

    def setting(self, name: str) -> str:
        """Return a property of it."""
        [value] = self.proxy.get_property(name)[name]
        return str(value)

    def put(self, values: dict[str, Any]) -> None:
        """Write parameters as attributes; choices by what they are called."""
        for name, value in values.items():
            labels = list(self.proxy.get_attribute_config(name).enum_labels)
            setattr(self.proxy, name, labels.index(value) if value in labels else value)

    def stop(self) -> None:
        """Stop it, and wait until it has."""
        self.proxy.Stop()
        self.wait_for_state(DevState.STANDBY)

    def wait_for_state(self, state: DevState) -> None:
        """Wait until it is in this state."""
        wait_for(lambda: self.proxy.state() == state)

    def wait_until_reduced(self, frames: int) -> None:
        """Wait until so many frames are in its results."""
        wait_for(lambda: self.proxy.frames_reduced >= frames)

    def set_up(self, **properties: str) -> None:
        """Give it these properties, and begin anew with them."""
        self.proxy.put_property({name: [value] for name, value in properties.items()})
        self.proxy.Init()
        wait_for(lambda: self.state != DevState.INIT)

    def ledger(self) -> dict[str, int]:
        """Return its counts of frames, of one moment."""
        names = ("received", "reduced", "rejected", "dropped", "queued", "lost")
        values = self.proxy.read_attributes([f"frames_{name}" for name in names])
        return {name: value.value for name, value in zip(names, values, strict=True)}

    def check_shown(self, expected: dict[str, Any]) -> None:
        """Compare what it shows with the values by these names."""
        for name, value in expected.items():
            live = self.proxy.read_attribute(name).value
            np.testing.assert_array_equal(() if live is None else live, value, err_msg=name)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedDatabase]:
    """A Tango database for all tests."""
    running = EmbeddedDatabase(tmp_path_factory.mktemp("database"))
    yield running
    running.stop()


class Servers:
    """Server processes that a test, or a module of tests, starts."""

    def __init__(self, database: EmbeddedDatabase, directory: Path) -> None:
        self._database, self._directory = database, directory
        self._started: list[Served] = []

    def start(
        self, class_name: str, name: str = "", program: Path | None = None, **properties: str
    ) -> Served:
        """Start a device in a server of its own, and wait until it is ready.

        `start("GalleryDevice", SourceUrl=...)` starts one of the tests' devices
        or of Ronda's; the same `name` again starts it anew. A class of another
        `program` is one in that Python file.
        """
        name = name or f"test/{class_name.lower()}/{next(NUMBERS)}"
        instance = name.replace("/", "_")
        values = {"StateDirectory": str(self._directory / "state"), **properties}
        entry = {key: [value] for key, value in values.items()}
        server = Server(class_name, instance, {name: (class_name, entry)})
        host = self._database.tango_host
        register(open_database(host), server, overwrite=True)
        log = self._directory / f"{instance}-{len(self._started)}.log"
        endpoint = ("-ORBendPoint", f"giop:tcp:{LOOPBACK}:0")
        command = [*_program(class_name, program), instance, *endpoint]
        process = Process(class_name, command, log, {"TANGO_HOST": host})
        device = Served(f"tango://{host}/{name}", None, process)
        self._started.append(device)

        def answers() -> bool:
            try:
                device.proxy = tango.DeviceProxy(device.trl)
                device.proxy.set_timeout_millis(30_000)  # the machine may be busy
                return bool(device.proxy.state() != DevState.INIT)
            except tango.DevFailed:
                return False

        process.wait_until(answers, 60)
        return device

    def stop(self) -> list[str]:
        """Stop all; return the errors in their logs."""
        for device in self._started:
            device.process.ask_to_stop()
        for device in self._started:
            device.process.stop()
        lines = [
            f"{device.name}: {line}"
            for device in self._started
            for line in device.process.log.read_text().splitlines()
        ]
        return [line for line in lines if " ERROR " in line or "Traceback" in line]


StartDevice = Callable[..., Served]


@pytest.fixture
def start_device(
    database: EmbeddedDatabase, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[StartDevice]:
    """Return a function that starts a device for one test; see `Servers.start`."""
    servers = Servers(database, tmp_path)
    yield servers.start
    errors = servers.stop()
    assert not errors or request.node.get_closest_marker("allow_error_log"), errors


@pytest.fixture(scope="module")
def start_shared(
    database: EmbeddedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartDevice]:
    """Return a function that starts a device for all tests of a module."""
    servers = Servers(database, tmp_path_factory.mktemp("shared"))
    yield servers.start
    errors = servers.stop()
    assert not errors, errors


def _program(class_name: str, file: Path | None) -> list[str | Path]:
    """Return the program of a server: Ronda's own, one of the tests', or a file."""
    if file:
        return [sys.executable, file]
    modules = {
        "Andor3": "andor",
        "Follower": "followers",
        "GalleryDevice": "gallery",
        "SlowDevice": "slow",
        "ToyDevice": "toy_device",
        "TrustedDevice": "test_raw_saving",
    }
    module = modules.get(class_name)
    if module:
        return [sys.executable, "-m", f"ronda.tests.devices.{module}"]
    return [executable(class_name)]


@pytest.fixture(scope="session")
def frames_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of frames whose pixels are all their frame number, 1 at first."""
    path = tmp_path_factory.mktemp("frames") / "frames.h5"
    with h5py.File(path, "w") as file:
        numbers = np.arange(1, FRAMES + 1, dtype=np.uint16)
        file["data"] = np.broadcast_to(numbers[:, None, None], (FRAMES, 6, 5))
    return path


def open_detector(url: str = "stins+tcp://127.0.0.1:0") -> closing[Replay]:
    """Return a detector, to be closed, that sends a thousand frames a second to its one reader."""
    replay = Replay(url)
    replay.rate = 1000.0
    return closing(replay)


@pytest.fixture
def detector() -> Iterator[Replay]:
    """A detector on a free port; it waits for its reader."""
    with open_detector() as replay:
        yield replay


@pytest.fixture(scope="module")
def source() -> Iterator[Replay]:
    """The same, for all tests of a module."""
    with open_detector() as replay:
        yield replay


@pytest.fixture(scope="module")
def endless_detector(frames_file: Path) -> Iterator[Replay]:
    """A detector that sends all the time, of series that save nothing."""
    with open_detector() as replay:
        replay.start(f"hdf5:{frames_file}", series=0, filename="")
        yield replay


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the files that the devices of a module write."""
    return tmp_path_factory.mktemp("process")


def send(
    detector: Replay, device: Served, url: str, filename: str = "", rate: float = 1000.0
) -> None:
    """Send a source, and wait until everything that arrived is done."""
    before, sent = device.ledger()["received"], detector.sent.expected.received
    detector.rate = rate
    detector.start(url, filename=filename)
    assert detector.wait(30), detector.problem
    arrived = detector.sent.expected.received - sent
    wait_for(lambda: device.ledger()["received"] - before == arrived)
    wait_for(lambda: device.ledger()["queued"] == 0)


def _is_whole(file: h5py.File) -> bool:
    """Tell whether a file is complete that can be opened.

    It can be between its closing and its completion, too; the tables of ROIs that
    were never there are gone then.
    """
    return "entry/program_name" in file and "entry/rois/slot_31" not in file


def complete(path: Path, is_whole: Callable[[h5py.File], bool] = _is_whole) -> Path:
    """Wait until a file is complete, so that plain readers can open it."""

    def is_complete() -> bool:
        try:
            with h5py.File(path) as file:
                return is_whole(file)
        except OSError:
            return False

    wait_for(is_complete)
    return path


def offline(runner: Runner, url: str, names: Sequence[str]) -> dict[str, Any]:
    """Return outputs of what a runner makes of a source without Tango."""
    runner.start(lambda: open_source(url))
    runner.wait()
    values = runner.latch(names).values
    runner.close()
    return {name: values[name] for name in names}


def refusal(call: Callable[[], Any]) -> str:
    """Return the sentence with which a call is refused."""
    with pytest.raises(tango.DevFailed) as failure:
        call()
    return str(failure.value.args[0].desc)
