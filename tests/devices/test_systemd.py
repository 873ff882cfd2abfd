"""Servers under systemd: the test plays systemd, with a notify socket and a watchdog."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest
import tango
from ronda.core.sources.replay import Replay
from ronda.devices import notify, servers
from ronda.devices.database import EmbeddedDatabase, executable, free_port, open_database
from ronda.devices.process import Process
from ronda.devices.registration import Server, register
from ronda.tests.devices.conftest import StartDevice
from ronda.tests.devices.toy_device import ToyDevice
from ronda.tests.waiting import wait_for
from tango import DevState
from tango.server import command

READY, ALIVE = b"READY=1", b"WATCHDOG=1"
LIMIT = 0.4
"""Seconds after which this systemd takes a server for dead; it is fed four times as often."""


class HangingDevice(ToyDevice):
    """Hangs while there is a file, in a command or while it closes."""

    @command(dtype_in=str)
    def Hang(self, path: str) -> None:
        """Return when the file is gone; until then Tango lets nobody else in."""
        while Path(path).exists():
            time.sleep(0.01)

    def delete_device(self) -> None:
        """Close, but only be done when the file is gone."""
        super().delete_device()
        Path(os.environ["HANG_WHILE"]).with_name("closing").touch()
        self.Hang(os.environ["HANG_WHILE"])


class Systemd:
    """A notify socket, and the servers that report to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(folder / "notify"))
        self._processes: list[Process] = []

    def start(self, tango_host: str, *program: str | Path, **environment: str) -> Process:
        """Run a server as a unit does."""
        told = {
            "TANGO_HOST": tango_host,
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": str(int(LIMIT * 1e6)),
            "HANG_WHILE": str(self.folder / "hang"),
            "STATE_DIRECTORY": str(self.folder / "state"),
            **environment,
        }
        log = self.folder / f"{len(self._processes)}.log"
        self._processes.append(Process("server", program, log, told))
        return self._processes[-1]

    def hear(self, seconds: float = 60.0) -> tuple[bytes, int]:
        """Return the next message, and which process sent it."""
        self._socket.settimeout(seconds)
        credentials = struct.Struct("iii")
        message, [(_, _, sender)], _, _ = self._socket.recvmsg(
            100, socket.CMSG_SPACE(credentials.size)
        )
        return message, credentials.unpack(sender)[0]

    def forget(self) -> None:
        """Throw away what was sent until now."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(100)

    def hears_life(self, times: int = 3) -> bool:
        """Tell whether the watchdog is fed, again and again from now on."""
        self.forget()
        return all(self.hear()[0] == ALIVE for _ in range(times))

    def hears_nothing(self) -> bool:
        """Tell whether the watchdog would strike now."""
        self.forget()
        try:
            self.hear(2 * LIMIT)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """End the servers."""
        (self.folder / "hang").unlink(missing_ok=True)
        for process in self._processes:
            os.kill(process.pid, signal.SIGCONT) if not process.ended else None
            process.stop()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """One for a test."""
    playing = Systemd(tmp_path)
    yield playing
    playing.close()


def a_server(tango_host: str, class_name: str, **properties: str) -> tuple[str, tango.DeviceProxy]:
    """Make a server known; return its instance and a client of its device."""
    instance = f"service_{time.monotonic_ns()}"
    device = f"test/{class_name.lower()}/{instance}"
    entry = {name: [value] for name, value in properties.items()}
    server = Server(class_name, instance, {device: (class_name, entry)})
    register(open_database(tango_host), server, overwrite=True)
    return instance, tango.DeviceProxy(f"tango://{tango_host}/{device}")


def a_simulator(tango_host: str, publish: str = "stins+tcp://127.0.0.1:0") -> tuple[str, Any]:
    """Make a server of a simulator known."""
    instance, proxy = a_server(tango_host, "DetectorSimulator", SourceUrl="x", PublishUrl=publish)
    return f"DetectorSimulator/{instance}", proxy


@pytest.fixture
def hanging(systemd: Systemd, database: EmbeddedDatabase) -> tango.DeviceProxy:
    """A device that runs and can be made to hang; it must close within 5 s."""
    instance, proxy = a_server(database.tango_host, "HangingDevice")
    module = "ronda.tests.devices.test_systemd"
    systemd.start(database.tango_host, sys.executable, "-m", module, instance)
    assert systemd.hear()[0] == READY
    assert systemd.hears_life()
    wait_for(lambda: proxy.state() != DevState.INIT)
    return proxy


def test_ready_is_told_by_the_main_process_when_the_device_answers(
    systemd: Systemd, database: EmbeddedDatabase
) -> None:
    server, proxy = a_simulator(database.tango_host)
    process = systemd.start(database.tango_host, executable("ronda"), "serve", server)
    message, sender = systemd.hear()
    assert message == READY
    proxy.ping()
    assert sender == process.pid
    assert Path(psutil.Process(process.pid).cmdline()[1]) == executable("DetectorSimulator")
    process.ask_to_stop()
    assert process.stop() == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_server_that_is_stopped_as_it_becomes_ready_ends_well(
    systemd: Systemd, database: EmbeddedDatabase, moment: str
) -> None:
    instance, _ = a_server(database.tango_host, "HangingDevice")
    module = "ronda.tests.devices.test_systemd"
    program = (sys.executable, "-m", module, instance)
    process = systemd.start(database.tango_host, *program, STOPPED=moment)
    wait_for(lambda: process.ended)
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()


def test_an_idle_server_and_one_in_fault_live(systemd: Systemd, database: EmbeddedDatabase) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"stins+tcp://127.0.0.1:{taken.getsockname()[1]}"
        server, proxy = a_simulator(database.tango_host, url)
        process = systemd.start(database.tango_host, executable("ronda"), "serve", server)
        assert systemd.hear()[0] == READY
        assert proxy.state() == DevState.FAULT
        assert systemd.hears_life()
    proxy.Init()
    assert proxy.state() == DevState.STANDBY
    assert systemd.hears_life()
    psutil.Process(process.pid).suspend()
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    assert systemd.hears_nothing()
    psutil.Process(process.pid).resume()
    assert systemd.hears_life()


def test_a_device_that_hangs_in_a_request_is_not_taken_for_alive(
    systemd: Systemd, hanging: tango.DeviceProxy
) -> None:
    hold = systemd.folder / "hang"
    hold.touch()
    hanging.command_inout_asynch("Hang", str(hold))
    wait_for(systemd.hears_nothing)
    hold.unlink()
    assert systemd.hears_life()


def test_a_device_that_closes_its_files_lives_but_not_for_ever(
    systemd: Systemd, hanging: tango.DeviceProxy
) -> None:
    (systemd.folder / "hang").touch()
    hanging.command_inout_asynch("Init")
    wait_for((systemd.folder / "closing").exists)
    assert systemd.hears_life(1)
    wait_for(systemd.hears_nothing)
    (systemd.folder / "hang").unlink()
    assert systemd.hears_life()


def test_nobody_is_told_where_systemd_watches_another_process(
    systemd: Systemd, database: EmbeddedDatabase
) -> None:
    server, proxy = a_simulator(database.tango_host)
    serving = (executable("ronda"), "serve", server)
    systemd.start(database.tango_host, *serving, WATCHDOG_PID=str(os.getpid()))
    assert systemd.hear()[0] == READY
    assert systemd.hears_nothing()
    proxy.ping()


def test_a_server_waits_for_its_database(systemd: Systemd, tmp_path: Path) -> None:
    port = free_port()
    before = EmbeddedDatabase(tmp_path / "database", port)
    server, proxy = a_simulator(before.tango_host)
    before.stop()
    serving = (executable("ronda"), "serve", server)
    process = systemd.start(before.tango_host, *serving)
    early = systemd.start(before.tango_host, *serving)
    wait_for(lambda: "waiting for the Tango database" in early.log.read_text())
    early.ask_to_stop()
    assert early.stop() == -signal.SIGTERM
    assert not process.ended
    after = EmbeddedDatabase(tmp_path / "database", port)
    try:
        assert systemd.hear() == (READY, process.pid)
        proxy.ping()
        assert process.stop() == 0
    finally:
        after.stop()


def test_files_are_completed_when_the_watchdog_strikes_and_the_log_says_where(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    device = start_device(
        "SlowDevice", SourceUrl=f"stins+{detector.address}", OutputRoot=str(tmp_path / "process")
    )
    [writer] = psutil.Process(device.process.pid).children()
    device.proxy.Start()
    detector.start(f"hdf5:{frames_file}", 0, "/there/scan.h5")
    files = tmp_path / "process"
    wait_for(lambda: len(list(files.glob("*.h5"))) >= 3)
    # as systemd does it, to the whole group
    writer.send_signal(signal.SIGABRT)
    os.kill(device.process.pid, signal.SIGABRT)
    # Python reads the stacks of threads that go on running: rarely, that crashes, too
    assert device.process.stop() in (-signal.SIGABRT, -signal.SIGSEGV)
    wait_for(lambda: not writer.is_running())
    for path in files.glob("*.h5"):
        with h5py.File(path) as file:
            assert len(file["entry/slow/value"]) == int(file["entry/ledger/reduced"][()])
    assert "Fatal Python error: Aborted" in device.process.log.read_text()


def stopped(moment: str) -> Callable[[], None]:
    """Return what a server does as it becomes ready, but told to stop before or after it."""
    ready = servers._ready

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)  # Tango hears of it in a thread of its own

    def begin() -> None:
        for step in (stop, ready) if moment == "before" else (ready, stop):
            step()

    return begin


if __name__ == "__main__":
    notify.CLOSING_TIME = 5.0
    if "STOPPED" in os.environ:
        servers._ready = stopped(os.environ["STOPPED"])
    servers.serve("HangingDevice", HangingDevice)
