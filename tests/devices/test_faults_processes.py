"""Processes that are killed, suspended or told to end, whatever they are doing at the time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import tango
from ronda.core.sinks.checkpoint import load_checkpoint
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import FRAMES, Served, StartDevice
from ronda.tests.devices.slow import HOLD
from ronda.tests.waiting import wait_for
from tango import DevState

VALUES = "entry/slow/value"
CUT = "{} before the end of the series"
ENDS = ("complete", CUT.format("stopped"), CUT.format("closed"))
SIGTERM, SIGKILL = signal.SIGTERM, signal.SIGKILL


@dataclass
class Bench:
    """A device, its detector, its file writer and its folders."""

    device: Served
    detector: Replay
    recording: str
    output: Path
    state: Path
    writer: psutil.Process

    @classmethod
    def set_up(cls, start: StartDevice, detector: Replay, frames: Path, folder: Path) -> Bench:
        """Start the device."""
        output = folder / "process"
        url = f"stins+{detector.address}"
        device = start("SlowDevice", SourceUrl=url, OutputRoot=str(output), Workers="1")
        [writer] = psutil.Process(device.process.pid).children()
        return cls(device, detector, f"hdf5:{frames}", output, device.state_folder, writer)

    def send(self, name: str, series: int = 1) -> None:
        """Begin to send; 0: series after series."""
        self.detector.start(self.recording, series, f"/there/{name}.h5")

    def measure(self, name: str) -> None:
        """Send a series and wait until it is reduced."""
        before = self.device.ledger()["reduced"]
        self.send(name)
        self.device.wait_until_reduced(before + FRAMES)

    def end(self, how: signal.Signals) -> None:
        """End the device; a writer that was suspended goes on."""
        os.kill(self.device.process.pid, how)
        (self.state / HOLD).unlink(missing_ok=True)
        self.writer.resume()
        code = self.device.process.stop()
        assert code == (0 if how is SIGTERM else -SIGKILL)
        self.detector.stop(end=False)
        wait_for(lambda: not self.writer.is_running())

    def rows_on_disk(self) -> int:
        """Return how many rows a reader finds that follows the files."""
        rows = 0
        for path in self.output.glob("*.h5"):
            # not while it is being laid out, or completed
            with suppress(OSError), h5py.File(path, swmr=True) as file:
                rows += len(file[VALUES])
        return rows

    def rows_in_complete_files(self) -> int:
        """Return how many rows there are; all files are complete, and every row is right."""
        rows = 0
        for path in self.output.glob("*.h5"):
            with h5py.File(path) as file:
                values = file[VALUES][...]
                np.testing.assert_array_equal(values, np.arange(1, len(values) + 1))
                assert file["entry/end_note"].asstr()[()] in ENDS
            rows += len(values)
        return rows

    def frames_in_ledgers(self) -> int:
        """Return how many frames the files' ledgers say were reduced; all of them balance."""
        reduced = 0
        for path in self.output.glob("*.h5"):
            with h5py.File(path) as file:
                counts = {name: int(count[()]) for name, count in file["entry/ledger"].items()}
            parts = ("reduced", "rejected", "dropped")
            assert counts["received"] == sum(counts[part] for part in parts)
            assert counts["missing_rows"] == counts["lost"] == 0
            reduced += counts["reduced"]
        return reduced

    def resumed(self) -> int:
        """Return of how many frames the next start takes up the sum; it is the right one."""
        state = load_checkpoint(self.state)
        if state is None:
            return 0
        series, rest = divmod(int(state["summed"]), FRAMES)
        assert state["total"] == series * _sum_to(FRAMES) + _sum_to(rest)
        return int(state["summed"])


def is_plain(path: Path) -> bool:
    """Tell whether plain readers can open a file."""
    try:
        h5py.File(path).close()
    except OSError:
        return False
    return True


def _sum_to(number: int) -> int:
    return number * (number + 1) // 2


@pytest.fixture
def bench(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path
) -> Iterator[Bench]:
    """A device that is in STANDBY."""
    made = Bench.set_up(start_device, detector, frames_file, tmp_path)
    yield made
    for process in (made.writer, psutil.Process()):
        if process.is_running() and process.status() == psutil.STATUS_STOPPED:
            process.resume()


def initialising(bench: Bench) -> None:
    """Leave it in INIT, after a series."""
    standing_by(bench)
    (bench.state / HOLD).touch()
    bench.device.proxy.Init()
    assert bench.device.state == DevState.INIT
    [bench.writer] = psutil.Process(bench.device.process.pid).children()


def standing_by(bench: Bench) -> None:
    """Leave it in STANDBY, after a series."""
    bench.device.proxy.Start()
    bench.measure("first")
    bench.device.stop()


def between_series(bench: Bench) -> None:
    """Leave it RUNNING, with nothing coming."""
    bench.device.proxy.Start()
    bench.measure("first")
    assert bench.detector.wait(10)


def mid_series(bench: Bench) -> None:
    """Leave it in the middle of a series, with rows on the disk and rows on their way."""
    bench.detector.rate = 100.0
    bench.device.proxy.Start()
    bench.send("first", 0)
    bench.device.wait_until_reduced(150)


def draining(bench: Bench) -> None:
    """Leave it with frames that wait, after Stop."""
    bench.device.proxy.delay = 0.05
    bench.device.proxy.Start()
    bench.send("first", 2)
    wait_for(lambda: bench.device.ledger()["received"] == 2 * FRAMES)
    bench.device.proxy.Stop()
    wait_for(lambda: "Stopping" in bench.device.proxy.status())


def completing_a_file(bench: Bench) -> None:
    """Leave it with a file that its writer has to complete, and has not."""
    bench.device.proxy.Start()
    bench.detector.rate = 20.0
    bench.send("first")
    bench.device.wait_until_reduced(2)
    bench.writer.suspend()
    bench.device.wait_until_reduced(FRAMES)
    assert bench.detector.wait(10)


def writing_a_checkpoint(bench: Bench) -> None:
    """Leave it with a second checkpoint that is half written."""
    standing_by(bench)
    wait_for(lambda: bench.resumed() == FRAMES)
    bench.device.proxy.Start()
    bench.measure("second")
    bench.device.proxy.Stop()
    wait_for(lambda: list(bench.state.glob("checkpoint_*.new")))
    bench.writer.suspend()


def failed(bench: Bench) -> None:
    """Leave it in FAULT, after a series."""
    standing_by(bench)
    bench.device.set_up(SourceUrl="hdf5:/nowhere.h5")
    bench.device.proxy.Start()
    bench.device.wait_for_state(DevState.FAULT)
    [bench.writer] = psutil.Process(bench.device.process.pid).children()


PHASES = (
    initialising,
    standing_by,
    between_series,
    mid_series,
    draining,
    completing_a_file,
    writing_a_checkpoint,
    failed,
)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_sigterm_at_any_moment_leaves_everything_in_files_and_sum(
    bench: Bench, phase: Callable[[Bench], None]
) -> None:
    phase(bench)
    bench.end(SIGTERM)
    rows = bench.rows_in_complete_files()
    assert rows == bench.frames_in_ledgers() == bench.resumed()
    assert rows >= FRAMES
    assert not list(bench.state.glob("*.new"))


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_kill_9_at_any_moment_leaves_complete_files_and_a_sum_that_was(
    bench: Bench, phase: Callable[[Bench], None]
) -> None:
    phase(bench)
    flushed = bench.rows_on_disk()
    bench.end(SIGKILL)
    rows = bench.rows_in_complete_files()
    assert flushed <= rows <= bench.detector.sent.images
    if phase in (initialising, standing_by, failed):
        assert bench.resumed() == rows == FRAMES
    else:
        assert bench.resumed() <= rows


def test_device_and_writer_killed_within_a_checkpoint_leave_the_one_before(
    bench: Bench, start_device: StartDevice
) -> None:
    writing_a_checkpoint(bench)
    bench.writer.kill()
    bench.device.process.kill()
    again = start_device("SlowDevice", bench.device.name, SourceUrl="hdf5:/nowhere.h5")
    assert (again.proxy.summed, again.proxy.total) == (FRAMES, FRAMES * (FRAMES + 1) // 2)
    assert again.state == DevState.STANDBY


def test_a_suspended_device_loses_nothing_that_the_detector_still_holds(bench: Bench) -> None:
    mid_series(bench)
    process = psutil.Process(bench.device.process.pid)
    impatient = tango.DeviceProxy(bench.device.trl)
    impatient.set_timeout_millis(300)
    process.suspend()
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    with pytest.raises(tango.DevFailed):
        impatient.state()
    bench.detector.rate = 1000.0
    process.resume()
    bench.device.wait_for_state(DevState.RUNNING)
    wait_for(lambda: bench.detector.sent.images > 250)
    bench.detector.stop()
    assert bench.detector.wait(30)
    sent = bench.detector.sent.images
    wait_for(lambda: bench.device.ledger()["received"] == sent)
    bench.device.stop()
    counts = bench.device.ledger()
    assert counts == {**dict.fromkeys(counts, 0), "received": sent, "reduced": sent}
    assert bench.rows_in_complete_files() == bench.frames_in_ledgers() == sent


def test_a_killed_writer_is_an_alarm_the_ledger_is_whole_and_the_next_series_has_a_new_one(
    bench: Bench,
) -> None:
    proxy = bench.device.proxy
    bench.detector.rate = 5.0
    proxy.Start()
    bench.send("cut")
    wait_for(lambda: bench.rows_on_disk() >= 2)
    flushed = bench.rows_on_disk()
    bench.writer.kill()
    bench.device.wait_for_state(DevState.ALARM)
    assert "file writer died (signal 9)" in proxy.status()
    assert "Running" in proxy.status()
    bench.detector.rate = 100.0
    bench.device.wait_until_reduced(FRAMES)
    wait_for(lambda: "reduced frames are not known to be in their file" in proxy.status())
    assert bench.device.ledger()["reduced"] == bench.detector.sent.images == FRAMES
    bench.measure("next")
    bench.measure("after")
    wait_for(lambda: "died" not in proxy.status())
    lost = proxy.rows_lost
    assert FRAMES - flushed >= lost > 0
    assert proxy.state() == DevState.ALARM
    for said in (proxy.status(), proxy.last_error):
        assert f"{lost} reduced frames are not known to be in their file" in said
    proxy.Reset()
    bench.device.wait_for_state(DevState.RUNNING)
    assert (proxy.rows_lost, proxy.last_error) == (lost, "")
    bench.device.stop()
    wait_for(lambda: is_plain(bench.output / "cut_slow.h5"))
    with (
        h5py.File(bench.output / "cut_slow.h5") as cut,
        h5py.File(bench.output / "next_slow.h5") as whole,
    ):
        assert FRAMES > len(cut[VALUES]) >= flushed
        assert cut["entry/end_note"].asstr()[()].startswith("recovered")
        assert cut["entry/ledger"].attrs["as_of"].startswith("the last checkpoint")
        assert cut["entry/ledger/missing_rows"][()] == -1
        assert FRAMES - len(cut[VALUES]) <= lost
        np.testing.assert_array_equal(cut[VALUES], np.arange(1, len(cut[VALUES]) + 1))
        np.testing.assert_array_equal(whole[VALUES], np.arange(1, FRAMES + 1))


def test_a_file_that_is_deleted_in_mid_series_is_forgotten_when_the_next_one_begins(
    bench: Bench,
) -> None:
    proxy, path = bench.device.proxy, bench.output / "gone_slow.h5"
    bench.detector.rate = 20.0
    proxy.Start()
    bench.send("gone")
    wait_for(path.exists)
    path.unlink()
    bench.device.wait_until_reduced(FRAMES)
    bench.device.wait_for_state(DevState.ALARM)
    bench.measure("next")
    wait_for(lambda: proxy.file_complete)
    assert proxy.state() == DevState.ALARM
    assert f"{path} was deleted or moved" in proxy.status()
    assert f"{FRAMES} reduced frames are not known to be in their file" in proxy.status()
    assert proxy.rows_lost == FRAMES
    proxy.Reset()
    bench.device.wait_for_state(DevState.RUNNING)


def test_a_series_that_is_cut_passes_for_a_complete_one(bench: Bench) -> None:
    proxy, detector = bench.device.proxy, bench.detector
    detector.rate = 10.0
    notes = {"whole": "complete", "left": "its end was not announced"}
    proxy.Start()
    bench.measure("whole")
    for command, how in {"": "", "Stop": "stopped", "Abort": "aborted", "Init": "closed"}.items():
        name = command or "left"
        notes[name] = notes.get(name, CUT.format(how))
        bench.send(name)
        wait_for(lambda file=bench.output / f"{name}_slow.h5": proxy.file == str(file))
        detector.stop(end=False)
        assert detector.wait(10)
        if command:
            proxy.command_inout(command)
            bench.device.wait_for_state(DevState.STANDBY)
            proxy.Start()
            bench.device.wait_for_state(DevState.RUNNING)
    [bench.writer] = psutil.Process(bench.device.process.pid).children()
    notes["end"] = notes["Init"]
    bench.send("end")
    wait_for(lambda: proxy.file == str(bench.output / "end_slow.h5"))
    bench.end(SIGTERM)
    found = {}
    for path in bench.output.glob("*.h5"):
        with h5py.File(path) as file:
            found[path.stem.removesuffix("_slow")] = file["entry/end_note"].asstr()[()]
    assert found == notes


def test_a_suspended_writer_is_an_alarm_and_loses_no_row_when_it_goes_on(bench: Bench) -> None:
    proxy = bench.device.proxy
    bench.detector.rate = 50.0
    proxy.Start()
    bench.send("a", 0)
    wait_for(lambda: bench.rows_on_disk() >= 5)
    bench.writer.suspend()
    bench.device.wait_for_state(DevState.ALARM)
    assert "the file writer has not answered for 10 s" in proxy.status().lower()
    assert bench.device.ledger()["dropped"] == 0
    bench.writer.resume()
    bench.device.wait_for_state(DevState.RUNNING)
    bench.detector.stop()
    assert bench.detector.wait(10)
    bench.device.stop()
    assert bench.rows_in_complete_files() == bench.detector.sent.images


def test_the_files_of_a_run_are_complete_when_the_state_is_standby(bench: Bench) -> None:
    for number in range(5):
        bench.device.proxy.Start()
        bench.measure(f"run-{number}")
        bench.device.stop()
        assert bench.rows_in_complete_files() == (number + 1) * FRAMES
