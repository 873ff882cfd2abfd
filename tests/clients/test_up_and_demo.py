"""A whole Tango system comes up, is shown, and goes down again without leaving anything."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import tango
from rich.console import Console
from ronda.clients.cli import demo
from ronda.clients.cli.table import Display, Reading, line_of
from ronda.clients.cli.up import config_path
from ronda.core.ledger import Counts
from ronda.devices.database import EmbeddedDatabase, open_database
from ronda.devices.registration import Server, placeholders, read_config, register
from ronda.tests.clients.commands import RONDA
from ronda.tests.waiting import wait_for

DEVICE = "test/detector/1"


class Ronda:
    """The command, running, with what it says on stderr and the processes that it starts."""

    def __init__(
        self, log: Path, arguments: tuple[object, ...], tango_host: str, terminal: int | None
    ) -> None:
        self.log = log
        self.children: set[psutil.Process] = set()
        in_terminal = [] if terminal is None else ["setsid", "--ctty"]
        with log.open("w", encoding="utf-8") as stderr:
            self.process = psutil.Popen(
                [*in_terminal, *RONDA, *map(str, arguments)],
                stdin=terminal,
                stderr=stderr,
                env={**os.environ, "TANGO_HOST": tango_host},
            )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_until_it_says(self, pattern: str, seconds: float = 60) -> str:
        """Wait for a line; return its first group."""
        wait_for(lambda: re.search(pattern, self.said) or self.process.poll() is not None, seconds)
        self.children.update(self.process.children(recursive=True))
        found = re.search(pattern, self.said)
        assert found, self.said
        return found[1]

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        status: int = self.process.wait(60)
        return status


@pytest.fixture
def ronda(tmp_path: Path) -> Iterator[Callable[..., Ronda]]:
    """Return a function that starts the command; it must leave no process behind."""
    started: list[Ronda] = []

    def start(*arguments: object, tango_host: str = "", terminal: int | None = None) -> Ronda:
        log = tmp_path / f"said-{len(started)}"
        started.append(Ronda(log, arguments, tango_host, terminal))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        assert [child for child in one.children if child.is_running()] == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A set-up of one simulated detector."""
    properties = {
        "SourceUrl": ["hdf5:${OUTPUT}/frames.h5"],
        "PublishUrl": ["stins+ipc://${OUTPUT}/detector?socket=pub"],
    }
    devices = {DEVICE: {"properties": properties}}
    servers = {"DetectorSimulator": {"t": {"DetectorSimulator": devices}}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"servers": servers}), encoding="utf-8")
    return path


def test_up_starts_everything_and_ctrl_c_stops_everything(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    up = ronda("up", config, "--directory", tmp_path)
    host = up.wait_until_it_says(r"TANGO_HOST=(\S+)")
    up.wait_until_it_says(rf"({DEVICE} STANDBY): sent 0")
    assert tango.DeviceProxy(f"tango://{host}/{DEVICE}").state() == tango.DevState.STANDBY
    assert len(up.children) == 2
    assert up.interrupt() == 0
    assert up.said.endswith("everything has stopped\n")
    assert "Traceback" not in up.said


def test_up_uses_the_database_that_tango_host_names(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    database = EmbeddedDatabase(tmp_path / "theirs")
    try:
        up = ronda("up", config, "--directory", tmp_path, tango_host=database.tango_host)
        up.wait_until_it_says(rf"({DEVICE} STANDBY)")
        assert len(up.children) == 1
        device = tango.DeviceProxy(f"tango://{database.tango_host}/{DEVICE}")
        assert device.state() == tango.DevState.STANDBY
        assert up.interrupt() == 0
    finally:
        database.stop()


def test_a_terminal_that_is_closed_leaves_everything_running(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    up = ronda("up", config, "--directory", tmp_path, terminal=theirs)
    os.close(theirs)
    up.wait_until_it_says(rf"({DEVICE} STANDBY)")
    assert len(up.children) == 2
    os.close(ours)
    assert up.process.wait(60) == 0
    assert up.said.endswith("everything has stopped\n")


def test_a_shell_and_its_terminal_that_both_hang_up_kill_the_servers(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    up = ronda("up", config, "--directory", tmp_path)
    up.wait_until_it_says(rf"({DEVICE} STANDBY)")
    for _ in range(2):
        up.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "stopping" in up.said)
    assert up.process.wait(60) == 0
    assert up.said.endswith("everything has stopped\n")


def test_quick_signals_during_the_start_leave_what_has_started_behind(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    up = ronda("up", config, "--directory", tmp_path)
    wait_for(lambda: len(up.process.children()) == 2)
    up.children.update(up.process.children())
    for child in up.children:
        child.suspend()
    time.sleep(0.3)  # so that it waits for an answer, and hears all of them at once
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        up.process.send_signal(number)
    for child in up.children:
        child.resume()
    assert up.process.wait(60) == 130


def test_a_device_of_another_server_is_taken_away(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    database = EmbeddedDatabase(tmp_path / "theirs")
    try:
        client = open_database(database.tango_host)
        theirs = Server("ToyDevice", "theirs", {DEVICE: ("ToyDevice", {"Workers": ["3"]})})
        register(client, theirs, overwrite=False)
        up = ronda("up", config, "--directory", tmp_path, tango_host=database.tango_host)
        assert up.process.wait(60) == 2
        said = f"ronda: the device {DEVICE} belongs to the server ToyDevice/theirs in this Tango"
        assert said in up.said
        assert client.get_device_info(DEVICE).ds_full_name == "ToyDevice/theirs"
    finally:
        database.stop()


def test_a_database_that_refuses_a_write_ends_in_a_trace_of_calls(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    database = EmbeddedDatabase(tmp_path / "theirs")
    try:
        with closing(sqlite3.connect(tmp_path / "theirs" / "tango.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            up = ronda("up", config, "--directory", tmp_path, tango_host=database.tango_host)
            assert up.process.wait(60) == 2
        host = database.tango_host
        assert f"ronda: the devices cannot be registered in the Tango database {host}: " in up.said
        assert "Traceback" not in up.said
    finally:
        database.stop()


def test_a_server_that_somebody_else_runs_is_started_again_and_again(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    first = ronda("up", config, "--directory", tmp_path / "1")
    host = first.wait_until_it_says(r"TANGO_HOST=(\S+)")
    second = ronda("up", config, "--directory", tmp_path / "2", tango_host=host)
    assert second.process.wait(60) == 2
    assert re.search(r"ronda: .* ended with 1: DetectorSimulator/t is running already", second.said)
    assert first.interrupt() == 0


def test_what_ends_by_itself_is_told_and_stays_away(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    up = ronda("up", config, "--directory", tmp_path)
    host = up.wait_until_it_says(r"TANGO_HOST=(\S+)")
    up.wait_until_it_says(rf"({DEVICE} STANDBY)")
    killed = up.children.copy()
    for child in killed:
        child.kill()
    up.wait_until_it_says(r"(DetectorSimulator/t ended with -9: .*; it is started again in 1 s)")
    up.wait_until_it_says(r"(the Tango database ended with -9: .*; it is started again in 1 s)")

    def answers() -> bool:
        try:
            return bool(tango.DeviceProxy(f"tango://{host}/{DEVICE}").ping())
        except tango.DevFailed:
            return False

    wait_for(answers)
    up.children.update(up.process.children(recursive=True))
    assert len(up.children - killed) >= 2
    assert up.interrupt() == 0
    assert up.said.endswith("everything has stopped\n")


def test_a_program_that_never_starts_again_keeps_ctrl_c_from_ending_the_rest(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    up = ronda("up", config, "--directory", tmp_path)
    up.wait_until_it_says(rf"({DEVICE} STANDBY)")
    (tmp_path / "tango.db").rename(tmp_path / "tango.db.aside")
    (tmp_path / "tango.db").mkdir()  # the database cannot start any more
    for child in up.children:
        child.kill()
    up.wait_until_it_says(r"(the Tango database ended with \d.*; it is started again in 2 s)")
    up.wait_until_it_says(r"(DetectorSimulator/t ended with \d.*; it is started again in 2 s)")
    assert up.interrupt() == 0
    assert up.said.endswith("everything has stopped\n")


def test_the_file_that_names_the_database_is_wrong_or_stays(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "directory"
    up = ronda("up", config, "--directory", directory)
    host = up.wait_until_it_says(r"TANGO_HOST=(\S+)")
    assert (directory / "tango-host").read_text() == f"{host}\n"
    second = ronda("up", config, "--directory", directory)
    assert second.process.wait(60) == 2
    assert second.said.endswith(
        f"ronda: another ronda up runs in {directory}: stop it, or give another --directory\n"
    )
    assert up.interrupt() == 0
    assert not (directory / "tango-host").exists()


def test_a_database_that_does_not_answer_is_no_sentence(
    ronda: Callable[..., Ronda], config: Path, tmp_path: Path, free_port: int
) -> None:
    host = f"127.0.0.1:{free_port}"
    up = ronda("up", config, "--directory", tmp_path, tango_host=host)
    assert up.process.wait(60) == 2
    assert f"ronda: no Tango database answers at {host}: start it, or give" in up.said
    assert "Traceback" not in up.said


@pytest.mark.timeout(400)  # it takes half a minute where nothing else runs
def test_the_demo_ends_by_itself_and_leaves_what_it_says(
    ronda: Callable[..., Ronda], tmp_path: Path
) -> None:
    run = ronda("demo", "--simulated", "--directory", tmp_path / "demo")
    for device, frames in (("pilatus", 30), ("zyla", 20), ("balor", 10)):
        said = rf"({device}: {frames} frames received = {frames} reduced .* the ledger holds)"
        run.wait_until_it_says(said, 300)
    assert run.process.wait(60) == 0
    left = [Path(line) for line in run.said.splitlines() if line.startswith(str(tmp_path))]
    assert {path.suffix for path in left} == {".png", ".h5"}
    assert all(path.stat().st_size > 10_000 for path in left)
    pilatus, zyla, balor = (path for path in left if path.suffix == ".h5")
    with h5py.File(pilatus) as file:
        assert file["entry/accumulated/sum"].attrs["frames"] == 30
        steps = file["entry/rois/ring_110/steps"]
        np.testing.assert_array_equal(steps["n"], 5 * [6])
        assert np.argmax(steps["mean"]) == 2
    with h5py.File(zyla) as file:
        peak, background = (file[f"entry/rois/{name}/mean"][()] for name in ("peak", "background"))
        assert peak.min() > 20 * background.max()
    with h5py.File(balor) as file, h5py.File(pilatus.parent / "balor-truth.h5") as truth:
        full = (truth["truth/photons/kind"][()] == 0).sum()
        energy = file["entry/photons/energy"][()]
        assert (energy > 1100).sum() == pytest.approx(full, rel=0.15)


@pytest.mark.parametrize(
    ("received", "reduced", "queued"),
    [(0, 0, 0), (5, 5, 1), (5, 4, 0)],
    ids=["nothing arrived", "more than arrived", "one is missing"],
)
def test_a_demo_whose_ledger_does_not_hold_fails(received: int, reduced: int, queued: int) -> None:
    values = {f"frames_{name}": 0.0 for name in ("rejected", "dropped", "lost")}
    counts = {"received": received, "reduced": reduced, "queued": queued}
    values |= {f"frames_{name}": float(number) for name, number in counts.items()}
    assert not demo.succeeded(Reading("a/b/c", "STANDBY", values=values))
    assert not demo.succeeded(Reading("a/b/c"))


def test_every_set_up_that_ships_can_be_read() -> None:
    for name in ("demo", "femtomax", "diffraction"):
        path = config_path(name)
        assert read_config(path, dict.fromkeys(placeholders(path), "x"))


def test_the_display_is_a_table_on_a_terminal_and_lines_elsewhere() -> None:
    values = {"frames_received": 7.0, "frames_lost": 0.0, "latency": 0.0125}
    readings = [Reading("a/b/c", "RUNNING", "Running.", values), Reading("a/b/d", status="away")]
    for terminal in (True, False):
        written = StringIO()
        console = Console(file=written, force_terminal=terminal, width=100, color_system=None)
        with Display(console) as display:
            display.show(readings)
            display.show(readings)
        text = written.getvalue()
        assert ("│" in text) == terminal
        assert "12.5" in text
        assert "away" in text
        assert terminal or text.count("a/b/c") == 1
    assert line_of(readings[0]) == "a/b/c RUNNING: received 7, lost 0, latency (ms) 12.5"


def test_a_reading_knows_its_ledger() -> None:
    values = {"frames_received": 9.0, "frames_reduced": 5.0, "frames_rejected": 1.0}
    values |= {"frames_dropped": 2.0, "frames_queued": 1.0, "frames_lost": 4.0}
    reading = Reading("a/b/c", values=values)
    assert reading.counts == Counts(9, 5, 1, 2, 4)
    assert reading.balanced
    assert not Reading("a/b/c", values={**values, "frames_queued": 2.0}).balanced
