"""Clocks that are set while frames come: the detector's, and that of the device's computer."""

from __future__ import annotations

import mmap
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ronda.tests.devices.conftest import Served, StartDevice
from ronda.tests.devices.faults import NOTHING, frames_in, sending, wait_until_done
from ronda.tests.waiting import wait_for
from tango import DevState

HOUR = 3600


@pytest.fixture
def url(free_port: int) -> str:
    """Where the detector sends."""
    return f"stins+tcp://127.0.0.1:{free_port}"


SetClock = Callable[[int], None]


@pytest.fixture
def set_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetClock]:
    """Return a function that sets the clock of the servers that this test starts."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here, so that a server's clock cannot be set")
    library, setting = tmp_path / "clock.so", tmp_path / "clock"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    setting.write_bytes(bytes(8))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_IS_SET_BY", str(setting))
    with setting.open("r+b") as file, mmap.mmap(file.fileno(), 8) as mapped:

        def set_clock(seconds: int) -> None:
            mapped[:] = seconds.to_bytes(8, "little", signed=True)

        yield set_clock


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_step_of_the_detector_s_clock_costs_frames_or_shows_as_latency(
    start_device: StartDevice, url: str, step: int
) -> None:
    pilatus = start_device("PilatusAccumulator", SourceUrl=url)
    pilatus.proxy.Start()
    with sending(url) as detector:
        detector.header()
        detector.images(range(5), ahead=0.0)
        wait_until_done(pilatus, 5)
        assert pilatus.proxy.latency_from == "detector"
        detector.images(range(5, 10), ahead=step)
        counts = wait_until_done(pilatus, 10)
        assert counts == {**NOTHING, "received": 10, "reduced": 10}
        assert pilatus.proxy.latency_from == "receipt"
        assert 0 <= pilatus.proxy.latency < HOUR / 2
        direction = "ahead of" if step > 0 else "behind"
        wait_for(lambda: f"3600 s {direction} this computer's" in pilatus.proxy.status())
        assert pilatus.state == DevState.RUNNING
        detector.images(range(10, 15), ahead=0.0)
        wait_until_done(pilatus, 15)
        wait_for(lambda: "clock" not in pilatus.proxy.status())
        assert pilatus.proxy.latency_from == "detector"


def test_a_step_of_this_computer_s_clock_costs_frames_files_or_the_order_of_series(
    set_clock: SetClock,
    start_device: StartDevice,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is set an hour ahead within a series, and two hours back within the next."""
    output = tmp_path / "process"
    device = start_device("PilatusAccumulator", SourceUrl=url, OutputRoot=str(output))
    device.proxy.Start()
    run_ids = []
    with sending(url) as detector:
        for number, step in enumerate((HOUR, -HOUR)):
            detector.header(f"/there/series{number}.h5")
            detector.images(range(3), ahead=0.0)
            wait_until_done(device, 6 * number + 3)
            set_clock(step)
            detector.images(range(3, 6), ahead=0.0)
            detector.end()
            counts = wait_until_done(device, 6 * number + 6)
            run_ids.append(device.proxy.run_id)
            assert counts == {
                **NOTHING,
                "received": counts["reduced"],
                "reduced": counts["reduced"],
            }
            assert 0 <= device.proxy.latency < HOUR / 2
            assert device.proxy.input_rate > 0
            direction = "behind" if step > 0 else "ahead of"
            wait_for(lambda word=direction: f"3600 s {word} this" in device.proxy.status())
        for _ in range(2):  # two that were joined late, whose files are named by the time
            detector.number += 5_000_000
            detector.images(range(2))
            wait_until_done(device, 12 + 2 * len(run_ids) - 2)
            run_ids.append(device.proxy.run_id)
    assert run_ids == sorted(set(run_ids))
    assert run_ids[1] - run_ids[0] > 3500 * 1000  # the clock was set, indeed
    assert run_ids[2] - run_ids[1] < 1800 * 1000
    for number in range(2):
        path = output / f"series{number}_pilatus.h5"
        wait_for(lambda path=path: frames_in(path) == 6)
    assert sum_resumes(device, start_device, monkeypatch, url) == 16
    late = list(output.glob("late_*.h5"))
    assert [frames_in(path) for path in late] == [2, 2]


def sum_resumes(
    device: Served, start: StartDevice, monkeypatch: pytest.MonkeyPatch, url: str
) -> int:
    """Stop a device, start it again with the clock set right; return the frames in its sum."""
    device.stop()
    assert device.process.stop() == 0
    monkeypatch.delenv("LD_PRELOAD")
    again = start("PilatusAccumulator", device.name, SourceUrl=url)
    frames: int = again.proxy.accumulated_frames
    return frames
