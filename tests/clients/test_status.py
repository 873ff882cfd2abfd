"""`ronda status` with a real database and real servers, some of them killed or suspended."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.clients.answers import Answer, Answers, DatabaseError, Device, ask_all
from ronda.clients.asking import programs
from ronda.clients.cli.up import TANGO_HOST_FILE
from ronda.clients.hops import SILENCE, Hop, Mark, duration, hops
from ronda.devices.classes import CLASSES
from ronda.devices.database import EmbeddedDatabase, open_database
from ronda.devices.registration import Server, register
from ronda.tests.clients.commands import RONDA
from ronda.tests.devices.conftest import Served, Servers
from ronda.tests.waiting import wait_for
from tango import DevState

STATUS = (*RONDA, "status")
DETECTOR, FIRST, SECOND = "way/detector/1", "way/reduction/1", "way/reduction/2"


@dataclass
class Way:
    """A detector, a device that reads it, and one that reads that device."""

    database: EmbeddedDatabase
    start: Callable[[str], Served]
    """Starts one of the three anew, and has it work."""
    served: dict[str, Served]

    @property
    def host(self) -> str:
        """The database."""
        return self.database.tango_host

    def look(self) -> list[Hop]:
        """Return what is found now, in this process."""
        return [hop for chain in hops(ask_all(self.host)) for hop in chain]

    def hop(self, name: str) -> Hop:
        """Return the hop of a device as it is now."""
        return hop_of(self.look(), name)

    def wait_until_well(self) -> None:
        """Wait until everything is."""
        wait_for(lambda: {hop.mark for hop in self.look()} == {Mark.OK})


def hop_of(found: list[Hop], name: str, before: int = 0) -> Hop:
    """Return the hop of a device, or one so many lines before it: its stream is the line before."""
    at = next(index for index, hop in enumerate(found) if hop.name == name)
    return found[at - before]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """A detector that sends without end, and two devices; a test leaves them as they were."""
    folder = tmp_path_factory.mktemp("way")
    with h5py.File(folder / "frames.h5", "w") as file:
        file["data"] = np.ones((50, 6, 5), np.uint16)
    ends = [f"stins+ipc://{folder}/{number}" for number in (1, 2)]
    root = {"OutputRoot": str(folder)}
    properties = {
        DETECTOR: {"SourceUrl": f"hdf5:{folder}/frames.h5", "PublishUrl": f"{ends[0]}?socket=push"},
        FIRST: {"SourceUrl": ends[0], "RepublishUrl": f"{ends[1]}?socket=pub", **root},
        SECOND: {"SourceUrl": f"{ends[1]}?socket=sub", **root},
    }
    database = EmbeddedDatabase(folder / "database")
    servers = Servers(database, folder)
    served: dict[str, Served] = {}

    def start(name: str) -> Served:
        class_name = "DetectorSimulator" if name == DETECTOR else "PilatusAccumulator"
        device = served[name] = servers.start(class_name, name, **properties[name])
        if name == DETECTOR:
            device.proxy.rate, device.proxy.series = 20.0, 0
        device.proxy.Start()
        return device

    try:
        for name in properties:
            start(name)
        found = Way(database, start, served)
        found.wait_until_well()
        yield found
    finally:
        servers.stop()
        database.stop()


def run_status(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    """Run the command; return its exit status and what it says on stdout and stderr."""
    kept = {name: value for name, value in os.environ.items() if name != "TANGO_HOST"}
    done = subprocess.run(
        [*STATUS, *arguments], capture_output=True, text=True, env=kept | environment, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_all_well_is_a_line_for_every_hop_of_the_chain_in_its_order(way: Way) -> None:
    way.wait_until_well()
    status, out, err = run_status("--tango-host", way.host)
    assert (status, err) == (0, ""), out
    order = [line.split()[1] for line in out.splitlines()]
    assert order == ["detector", *("stream", "device", "file") * 2]
    lines = dict(
        zip(("detector", "s1", "first", "f1", "s2", "second", "f2"), out.splitlines(), strict=True)
    )
    assert all(line.startswith("ok ") for line in lines.values())
    assert re.search(rf"{DETECTOR}  .*RUNNING, \d+ images sent", lines["detector"])
    assert re.search(rf"{FIRST}  .*RUNNING, \d+ received, \d+ reduced", lines["first"])
    assert re.search(r"stins\+ipc://\S+/2 +\d\S* \w+  \d+\.\d frames/s, none lost", lines["s2"])
    assert re.search(r"  /\S+_pilatus\S*\.h5 +\d\S* \w+  (being written|complete)", lines["f1"])


def test_json_is_for_programs_and_complete(way: Way) -> None:
    way.wait_until_well()
    status, out, _ = run_status("--json", TANGO_HOST=way.host)
    told = json.loads(out)
    assert (status, told["status"], told["tango_host"]) == (0, 0, way.host)
    (chain,) = told["chains"]
    assert [hop["depth"] for hop in chain] == [0, 0, 0, 0, 1, 1, 1]
    assert {name for hop in chain for name in hop} == set(Hop.__slots__)
    assert {hop["mark"] for hop in chain} == {"ok"}
    assert all(hop["age"] >= 0 for hop in chain if hop["hop"] in ("stream", "file"))
    assert all(Path(hop["name"]).exists() for hop in chain if hop["hop"] == "file")


def test_a_suspended_server_is_told_and_does_not_hold_up_the_others(way: Way) -> None:
    pid = way.served[SECOND].process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        found = way.look()
    finally:
        os.kill(pid, signal.SIGCONT)
    hop = hop_of(found, SECOND)
    assert (hop.mark, hop.age) == (Mark.WRONG, None)
    assert "does not answer within" in hop.says
    assert f"end process {pid}" in hop.next_step
    assert hop_of(found, SECOND, before=1).mark is Mark.LOOK
    assert {hop_of(found, name).mark for name in (DETECTOR, FIRST)} == {Mark.OK}
    way.wait_until_well()


def test_a_server_that_was_stopped_is_told_and_how_to_start_it(way: Way) -> None:
    way.served[SECOND].process.stop()
    hop = way.hop(SECOND)
    assert (hop.mark, hop.says, hop.depth) == (Mark.WRONG, "does not run", 1)
    assert hop.next_step == f"Start its server: PilatusAccumulator {SECOND.replace('/', '_')}"
    assert way.hop(FIRST).mark is Mark.OK
    way.start(SECOND)
    way.wait_until_well()


def test_a_device_that_nobody_has_started_yet_says_what_starts_it(way: Way) -> None:
    server = Server("ZylaThresholder", "new", {"way/zyla/1": ("ZylaThresholder", {})})
    database = open_database(way.host)
    register(database, server, overwrite=True)
    try:
        hop = way.hop("way/zyla/1")
        assert (hop.mark, hop.says) == (Mark.WRONG, "has never run")
        assert hop.next_step == "Start its server: ZylaThresholder new"
        assert run_status("--tango-host", way.host)[0] == 1
    finally:
        database.delete_device("way/zyla/1")


def test_a_device_that_is_not_started_says_so_in_its_own_words(way: Way) -> None:
    proxy = way.served[SECOND].proxy
    proxy.Stop()
    way.served[SECOND].wait_for_state(DevState.STANDBY)
    hop = way.hop(SECOND)
    assert hop.mark is Mark.LOOK
    assert hop.next_step == proxy.status().replace("\n", " ")
    assert hop_of(way.look(), SECOND, before=1).says == "is not read"
    proxy.Start()
    way.wait_until_well()


def test_a_detector_that_died_is_told_where_it_and_where_its_frames_are_missed(way: Way) -> None:
    pid = way.served[DETECTOR].process.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: hop_of(way.look(), FIRST, before=1).mark is Mark.WRONG)
    found = way.look()
    hop = hop_of(found, DETECTOR)
    assert (hop.mark, hop.says) == (Mark.WRONG, f"has died (it was process {pid})")
    assert hop.next_step == f"Start its server: DetectorSimulator {DETECTOR.replace('/', '_')}"
    stream = hop_of(found, FIRST, before=1)
    assert stream.next_step.startswith("No frames can come: nobody sends at ipc://")
    assert hop_of(found, SECOND, before=1).mark is Mark.OK
    way.start(DETECTOR)
    way.wait_until_well()


def test_silence_is_worth_a_look_in_the_middle_of_a_series_only(way: Way) -> None:
    proxy = way.served[DETECTOR].proxy

    def marks_later() -> list[Mark]:
        """Return those of all streams if nothing comes for a long time."""
        answers = ask_all(way.host)
        later = {
            name: replace(answer, time=answer.time + 2 * SILENCE)
            for name, answer in answers.given.items()
        }
        (chain,) = hops(Answers(answers.devices, later))
        return [hop.mark for hop in chain if hop.hop == "stream"]

    assert marks_later() == [Mark.LOOK, Mark.LOOK]
    proxy.Stop()
    wait_for(lambda: marks_later() == [Mark.OK, Mark.OK])
    hop = way.hop(DETECTOR)
    assert hop.mark is Mark.OK
    assert hop.next_step.startswith("Ready: Start sends ")
    proxy.Start()
    way.wait_until_well()


def test_a_source_that_was_changed_and_not_taken_up_is_told(way: Way) -> None:
    proxy = way.served[SECOND].proxy
    (before,) = proxy.get_property("SourceUrl")["SourceUrl"]
    proxy.put_property({"SourceUrl": ["stins+tcp://127.0.0.1:1"]})
    try:
        hop = way.hop(SECOND)
        assert hop.mark is Mark.LOOK
        assert "SourceUrl is now stins+tcp://127.0.0.1:1: Init takes it up" in hop.next_step
        assert hop_of(way.look(), SECOND, before=1).name == before.partition("?")[0]
    finally:
        proxy.put_property({"SourceUrl": [before]})


@pytest.mark.parametrize(
    ("detector", "mark", "says"),
    [("sys/database/2", Mark.OK, "ON"), ("not/there/1", Mark.WRONG, "not/there/1 not defined")],
)
def test_the_own_device_of_a_detector_has_a_line(
    way: Way, detector: str, mark: Mark, says: str
) -> None:
    proxy = way.served[FIRST].proxy
    proxy.put_property({"DetectorDevice": [detector]})
    try:
        hop = way.hop(detector)
        assert (hop.hop, hop.mark) == ("detector", mark)
        assert says in hop.says
    finally:
        proxy.delete_property("DetectorDevice")


def test_a_database_that_hangs_cannot_be_asked(way: Way) -> None:
    pid = way.database.processes[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        status, out, err = run_status("--tango-host", way.host)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (status, out) == (2, "")
    assert f"database at {way.host} hangs" in err


def test_a_database_that_is_away_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / TANGO_HOST_FILE).write_text("127.0.0.1:1\n")
    status, out, err = run_status("--directory", tmp_path)
    assert (status, out) == (2, "")
    assert "no Tango database answers at 127.0.0.1:1 " in err
    assert "start it with ronda up" in err


def test_without_a_database_the_command_says_where_it_looked(tmp_path: Path) -> None:
    status, _, err = run_status("--directory", tmp_path)
    assert status == 2
    assert f"there is no {tmp_path / TANGO_HOST_FILE}" in err


def test_a_database_without_our_devices_is_worth_a_look(tmp_path: Path) -> None:
    database = EmbeddedDatabase(tmp_path)
    try:
        (tmp_path / TANGO_HOST_FILE).write_text(f"{database.tango_host}\n")
        status, out, _ = run_status("--directory", tmp_path)
    finally:
        database.stop()
    assert status == 1
    assert "no device of Ronda is registered" in out


def test_watching_needs_a_terminal_and_ends_with_ctrl_c(way: Way) -> None:
    assert run_status("--tango-host", way.host, "--watch")[0] == 2
    assert run_status("--tango-host", way.host, "--watch", "--json")[0] == 2
    ours, theirs = pty.openpty()
    command = [*STATUS, "--tango-host", way.host, "--watch"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while shown.count(b"Ctrl-C ends") < 2:
                assert select.select([ours], [], [], 60)[0], shown
                shown += os.read(ours, 65536)
            # taken as Ctrl-C, which a shell may have set to be ignored by what it starts
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
        finally:
            process.kill()
            os.close(ours)
    assert FIRST.encode() in shown
    assert b"Traceback" not in shown


def test_what_cannot_be_asked_is_an_error_not_an_empty_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DatabaseError, match="nothing can be asked"):
        ask_all("127.0.0.1:1")


def test_the_programs_asked_for_are_those_of_all_classes() -> None:
    assert programs() == {"Ronda", *(one.__name__ for one in CLASSES)}


# --------------------------------------------------- without processes, for what is rare


def device(name: str, source: str = "", offers: str = "") -> Device:
    """Return a device that runs."""
    return Device(name, "ZylaThresholder", "ZylaThresholder/x", True, True, 7, source, offers, "")


def line(kind: str, **values: Any) -> Hop:
    """Return the line of a device that runs and answers with these values."""
    seen = {"State": "RUNNING", "Status": "Running: frames come.", **values}
    found = Answers([device("a/b/c")], {"a/b/c": Answer(seen, time=10_000.0)})
    (chain,) = hops(found)
    return next(hop for hop in chain if hop.hop == kind)


def test_devices_that_feed_each_other_in_a_ring_are_told_once() -> None:
    ring = [
        device("a/b/1", "stins+ipc://x", "stins+ipc://y"),
        device("a/b/2", "stins+ipc://y", "stins+ipc://x"),
    ]
    names = [hop.name for chain in hops(Answers(ring, {})) for hop in chain if hop.hop == "device"]
    assert names == ["a/b/1", "a/b/2"]


@pytest.mark.parametrize(
    ("offers", "source", "meet"),
    [
        ("stins+tcp://*:5000?socket=pub", "stins+tcp://host:5000?socket=sub", True),
        ("stins+tcp://127.0.0.1:5000", "stins+tcp://localhost:5000", True),
        ("stins+tcp://0.0.0.0:5000", "stins+tcp://host:5001", False),
        ("stins+tcp://one:5000", "stins+tcp://other:5000", False),
        ("stins+ipc:///tmp/a", "stins+ipc:///tmp/b", False),
        ("stins+ipc:///tmp/a", "stins+tcp:///tmp/a", False),
        ("", "", False),
        ("", "tango://host:1/A/b/C/image", True),
        ("", "tango://za/b/c/image", False),
    ],
)
def test_who_feeds_whom_follows_from_the_addresses(offers: str, source: str, meet: bool) -> None:
    found = Answers([device("a/b/c", offers=offers), device("x/y/z", source)], {})
    assert len(list(hops(found))) == (1 if meet else 2)


def test_a_device_that_reads_an_attribute_names_the_device_of_it_as_its_detector() -> None:
    reading = device("x/y/z", "tango://host:10000/a/b/camera/image")
    told = Answer({"State": "FAULT", "Status": "No cooling."}, 1.0)
    ((hop, *_),) = hops(Answers([reading], {"tango://host:10000/a/b/camera": told}))
    assert (hop.hop, hop.mark, hop.next_step) == ("detector", Mark.WRONG, "No cooling.")


def test_the_disk_is_told_before_it_is_full() -> None:
    file = {"file": "/x.h5", "file_time": 9_990.0}
    assert line("file", **file, disk_time_left=90_000.0).mark is Mark.OK
    full = line("file", **file, disk_time_left=600.0)
    assert (full.mark, full.age) == (Mark.LOOK, 10.0)
    assert "disk full in 10 min" in full.says
    assert line("file", **file, disk_time_left=None).says == "being written"


def test_frames_that_come_and_reach_no_file_are_worth_a_look() -> None:
    values = {"file": "/x.h5", "file_time": 9_000.0, "in_series": True}
    assert line("file", **values, last_message_time=9_999.0).mark is Mark.LOOK
    assert line("file", **values, last_message_time=9_000.0).mark is Mark.OK


@pytest.mark.parametrize(
    ("state", "text", "mark", "next_step"),
    [
        ("RUNNING", "Running.\nAnother client reads.", Mark.OK, "Another client reads."),
        (
            "ALARM",
            "Rejected 3. Running.\nReset acknowledges.",
            Mark.LOOK,
            "Rejected 3. Running. Reset acknowledges.",
        ),
        ("FAULT", "Workers is 0.", Mark.WRONG, "Workers is 0."),
        ("INIT", "Getting ready.", Mark.LOOK, "Getting ready."),
        ("UNKNOWN", "No frames can come.\nA note.\nRunning.", Mark.LOOK, "A note."),
    ],
)
def test_a_device_is_told_in_the_words_of_its_status(
    state: str, text: str, mark: Mark, next_step: str
) -> None:
    hop = line("device", State=state, Status=text)
    assert (hop.mark, hop.next_step) == (mark, next_step)


def test_what_was_lost_waits_or_takes_long_is_in_the_line() -> None:
    values = {
        "frames_received": 9,
        "frames_rejected": 2,
        "frames_lost": 3,
        "last_message_time": 1.0,
    }
    told = line("device", **values, queue_fill=42.0, latency=0.0123).says
    assert told == "RUNNING, 9 received, 2 rejected, queue 42 % full, latency 12 ms"
    assert line("stream", **values).says == "0.0 frames/s, 3 lost"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42, "42 s"),
        (130, "2.2 min"),
        (9000, "2.5 h"),
        (4e5, "4.6 d"),
    ],
)
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
