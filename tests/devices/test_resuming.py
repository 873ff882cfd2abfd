"""A device that crashed while it was running goes on by itself; one that was stopped does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tango
from ronda.core.results import Activity
from ronda.core.sources.replay import Replay
from ronda.devices import resuming
from ronda.devices.keeping import StateFolder
from ronda.devices.resuming import NOTE, TOO_SOON, Resumption
from ronda.tests.devices.conftest import FRAMES, Served, StartDevice
from ronda.tests.devices.slow import HOLD, SlowParameters
from ronda.tests.waiting import wait_for
from tango import DevState

WENT_ON = "went on by itself"


@dataclass
class Bench:
    """A device that crashes, and its detector."""

    start_device: StartDevice
    device: Served
    detector: Replay
    frames_url: str

    def crash(self) -> None:
        """Have it end as a segmentation fault ends it, and be started again."""
        os.kill(self.device.process.pid, signal.SIGSEGV)
        self.start_again()

    def start_again(self) -> None:
        """Start it as systemd does, once it has ended."""
        wait_for(lambda: bool(self.device.process.ended))
        self.device = self.start_device("SlowDevice", self.device.name)

    def reduces(self) -> bool:
        """Tell whether it reads the detector."""
        before = self.device.ledger()["received"]
        self.detector.start(self.frames_url, filename="")
        wait_for(lambda: self.device.ledger()["reduced"] == before + FRAMES)
        return self.detector.wait(10)

    @property
    def said(self) -> list[str]:
        """What it said that it did by itself or was asked for, without times and clients."""
        return [line.partition(": ")[2] for line in self.device.proxy.history]


@pytest.fixture
def bench(start_device: StartDevice, detector: Replay, frames_file: Path) -> Bench:
    """A device that was never started."""
    device = start_device("SlowDevice", SourceUrl=f"stins+{detector.address}")
    return Bench(start_device, device, detector, f"hdf5:{frames_file}")


def test_a_device_that_crashed_while_running_stands_by_and_tells_nobody(bench: Bench) -> None:
    bench.device.proxy.Start()
    assert bench.reduces()
    bench.crash()
    assert bench.device.state == DevState.RUNNING
    assert bench.reduces()
    assert f"It {WENT_ON} at 20" in bench.device.proxy.status()
    assert bench.said[-1].startswith("goes on by itself, because it was running")
    assert "goes on by itself" in bench.device.process.log.read_text()
    bench.device.proxy.Start()
    assert bench.reduces(), "who starts it although it runs does harm"
    bench.device.proxy.Reset()
    assert bench.device.state == DevState.RUNNING
    assert WENT_ON not in bench.device.proxy.status()


def test_what_was_stopped_or_told_to_end_starts_by_itself(bench: Bench) -> None:
    def told(end: Callable[[], object]) -> None:
        end()
        bench.start_again()

    def asked(command: str) -> None:
        bench.device.proxy.command_inout(command)
        bench.device.wait_for_state(DevState.STANDBY)
        bench.crash()

    for end in (
        bench.crash,  # it was not started yet
        lambda: asked("Stop"),
        lambda: asked("Abort"),
        lambda: asked("Init"),
        lambda: told(lambda: bench.device.process.ask_to_stop()),
        lambda: told(lambda: tango.DeviceProxy(bench.device.proxy.adm_name()).Kill()),
    ):
        end()
        assert bench.device.state == DevState.STANDBY, bench.said
        assert not (bench.device.state_folder / NOTE).exists()
        bench.device.proxy.Start()
        bench.device.wait_for_state(DevState.RUNNING)
    assert WENT_ON not in bench.device.proxy.status()


def test_a_device_that_dies_of_going_on_is_started_for_ever(bench: Bench) -> None:
    bench.device.proxy.Start()
    bench.crash()
    assert bench.device.state == DevState.RUNNING
    for _ in range(2):  # it may also die while it does nothing
        bench.crash()
        assert bench.device.state == DevState.ALARM
        assert TOO_SOON[1:] in bench.device.proxy.status()
        assert "Ready" in bench.device.proxy.status()
    bench.device.proxy.Start()
    bench.device.wait_for_state(DevState.RUNNING)
    bench.crash()
    assert bench.device.state == DevState.RUNNING


def test_a_death_while_it_gets_ready_to_go_on_is_tried_for_ever(bench: Bench) -> None:
    bench.device.proxy.Start()
    (bench.device.state_folder / HOLD).touch()
    bench.crash()
    assert bench.device.proxy.frames_received == 0
    (bench.device.state_folder / HOLD).unlink()
    bench.crash()
    assert bench.device.state == DevState.ALARM
    bench.device.proxy.Reset()
    assert bench.device.state == DevState.STANDBY
    bench.crash()
    assert bench.device.state == DevState.STANDBY


def test_a_file_is_read_again_from_its_beginning_after_a_crash(bench: Bench) -> None:
    bench.device.set_up(SourceUrl=bench.frames_url)
    bench.device.proxy.delay = 0.2
    bench.device.proxy.Start()
    bench.device.wait_until_reduced(2)
    bench.crash()
    assert bench.device.state == DevState.STANDBY
    assert bench.device.ledger()["received"] == 0


def test_a_full_disk_keeps_a_device_that_was_stopped_from_being_forgotten(tmp_path: Path) -> None:
    folder = StateFolder(str(tmp_path), "test/slow/1")
    resumption = Resumption(folder)
    resumption.start()
    draft = folder.path / "parameters.yaml.new"
    draft.mkdir()  # so that they cannot be written
    folder.save(SlowParameters(), {})
    assert folder.problem.startswith("parameters.yaml cannot be kept for the next start")
    resumption.end()
    assert not (folder.path / NOTE).exists()
    assert "parameters.yaml" in folder.problem
    draft.rmdir()
    folder.keep({})
    assert (folder.problem, folder.parameters_file.exists()) == ("", True)
    folder.close()


def test_a_crash_long_after_it_went_on_ends_it_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(str(tmp_path), "test/slow/1")
    Resumption(folder).start()
    for steady in (True, True, False):
        monkeypatch.setattr(resuming, "STEADY", 0.0 if steady else 1000.0)
        resumption = Resumption(folder)
        assert resumption.due
        resumption.start(by_itself=True)
        resumption.look(Activity.RUNNING)
        resumption.look(Activity.RUNNING)
    assert not Resumption(folder).due
    assert Resumption(folder).problem == TOO_SOON
    folder.close()
