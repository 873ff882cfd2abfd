"""Disks that are full, fill up, or may not be written to, under a device that measures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import FRAMES, StartDevice
from ronda.tests.waiting import wait_for
from tango import DevState

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a function that mounts a disk, empty and with these options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a small disk cannot be mounted here (needs root)")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 4096) -> Path:
    """Fill a disk but for so many bytes; return the file to be removed for room."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave)
    return ballast


def rows_of(path: Path) -> list[float]:
    """Return the ROI's means in a file that is complete, and whose ledger agrees."""
    with h5py.File(path) as file:
        means = file["entry/rois/all/mean"][...]
        assert file["entry/ledger/missing_rows"][()] == 0
        assert file["entry/ledger/reduced"][()] == len(means)
        total = file["entry/accumulated/sum"][...]
        np.testing.assert_array_equal(total, np.full_like(total, means.sum()))
    return [float(mean) for mean in means]


def test_a_disk_that_fills_up_is_announced_and_when_full_costs_no_frame_and_no_row(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path, disk: Disk
) -> None:
    small = disk("size=24m")
    url = f"stins+{detector.address}"
    pilatus = start_device("PilatusAccumulator", SourceUrl=url, OutputRoot=str(small))
    proxy = pilatus.proxy
    proxy.AddRoi("all=0,0,5,6")
    proxy.Start()
    detector.rate = 1.0
    detector.start(f"hdf5:{frames_file}", filename="/there/full.h5")
    pilatus.wait_until_reduced(1)
    growing = (small / "growing").open("ab", buffering=0)

    def announced() -> bool:
        growing.write(bytes(2 << 10))
        return "at this rate" in proxy.status()

    wait_for(announced)
    assert proxy.state() == DevState.ALARM
    assert f"the disk of {small} is full in " in proxy.status().lower()
    ballast = fill(small)
    wait_for(lambda: "what waits is written when there is room" in proxy.status())
    assert proxy.state() == DevState.ALARM
    detector.rate = 1000.0
    assert detector.wait(30)
    pilatus.wait_until_reduced(FRAMES)
    counts = pilatus.ledger()
    assert counts["received"] == counts["reduced"] == detector.sent.images == FRAMES
    ballast.unlink()
    growing.truncate(0)
    growing.close()
    pilatus.wait_for_state(DevState.RUNNING)
    pilatus.stop()
    assert rows_of(small / "full_pilatus.h5") == list(range(1, FRAMES + 1))


def test_a_full_disk_below_the_state_is_an_alarm_until_what_waited_is_kept(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path, disk: Disk
) -> None:
    small = disk("size=4m")
    ballast = fill(small, 64 << 10)
    url = f"stins+{detector.address}"
    properties = {"SourceUrl": url, "StateDirectory": str(small)}
    pilatus = start_device("PilatusAccumulator", **properties)
    ballast.unlink()
    ballast = fill(small, 0)
    proxy = pilatus.proxy
    proxy.AddRoi("all=0,0,5,6")
    assert list(proxy.roi_names) == ["all"]
    pilatus.wait_for_state(DevState.ALARM)
    assert "parameters.yaml cannot be kept for the next start" in proxy.status().lower()
    assert "No space left" in proxy.status()
    proxy.Reset()
    assert proxy.state() == DevState.ALARM
    proxy.Start()
    detector.start(f"hdf5:{frames_file}", filename="")
    pilatus.wait_until_reduced(FRAMES)
    proxy.Stop()
    wait_for(lambda: "checkpoint failed: the disk is full" in proxy.status().lower())
    assert pilatus.ledger()["reduced"] == detector.sent.images
    ballast.unlink()
    pilatus.wait_for_state(DevState.STANDBY)
    pilatus.process.kill()
    again = start_device("PilatusAccumulator", pilatus.name, **properties)
    assert list(again.proxy.roi_names) == ["all"]
    assert again.proxy.accumulated_frames == FRAMES


def test_a_device_starts_on_a_disk_without_any_room(start_device: StartDevice, disk: Disk) -> None:
    small = disk("size=1m")
    first = start_device("SlowDevice", StateDirectory=str(small))
    first.process.stop()
    fill(small, 0)
    again = start_device("SlowDevice", first.name, StateDirectory=str(small))
    assert again.state == DevState.STANDBY


def test_an_output_folder_that_is_read_only_is_an_alarm_and_the_files_come_when_it_is_not(
    start_device: StartDevice, detector: Replay, frames_file: Path, disk: Disk
) -> None:
    folder = disk("size=24m,ro")
    url = f"stins+{detector.address}"
    pilatus = start_device("PilatusAccumulator", SourceUrl=url, OutputRoot=str(folder))
    proxy = pilatus.proxy
    proxy.AddRoi("all=0,0,5,6")
    proxy.Start()
    detector.rate = 20.0
    detector.start(f"hdf5:{frames_file}", filename="/there/late.h5")
    wait_for(lambda: "the disk is read-only" in proxy.status())
    assert proxy.state() == DevState.ALARM
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    pilatus.wait_for_state(DevState.RUNNING)
    assert detector.wait(30)
    pilatus.wait_until_reduced(FRAMES)
    pilatus.stop()
    assert rows_of(folder / "late_pilatus.h5") == list(range(1, FRAMES + 1))


def test_a_state_folder_that_is_read_only_is_a_fault_until_init(
    start_device: StartDevice, disk: Disk
) -> None:
    folder = disk("size=1m,ro")
    slow = start_device("SlowDevice", StateDirectory=str(folder))
    assert slow.state == DevState.FAULT
    assert f"StateDirectory {folder}" in slow.proxy.status()
    assert "Read-only file system" in slow.proxy.status()
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    slow.set_up(SourceUrl="hdf5:/nowhere.h5")
    assert slow.state == DevState.STANDBY
