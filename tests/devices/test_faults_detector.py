"""A detector that fails in the ordinary ways: what is counted and said, and that it heals.

Every test runs real servers and real sockets; nothing is done to a device in
between to help it.
"""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.sources.replay import HIGH_WATER
from ronda.tests.devices.conftest import Served, StartDevice
from ronda.tests.devices.faults import NOTHING, SHAPE, frames_in, sending, wait_until_done
from ronda.tests.waiting import wait_for
from tango import DevState


@pytest.fixture
def url(free_port: int) -> str:
    """Where the detector sends."""
    return f"stins+tcp://127.0.0.1:{free_port}"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Folder of the reduced files."""
    return tmp_path / "process"


@pytest.fixture(scope="module")
def shared(start_shared: StartDevice) -> Served:
    """A device for all tests."""
    return start_shared("PilatusAccumulator")


@pytest.fixture
def pilatus(shared: Served, url: str, output: Path) -> Served:
    """The same, with nothing counted or summed; it reads a detector that is not there yet."""
    shared.set_up(SourceUrl=url, OutputRoot=str(output))
    shared.proxy.ClearAccumulation()
    shared.proxy.Start()
    return shared


def wait_until_away(device: Served) -> None:
    """Wait until a device says that its detector is not there."""
    device.wait_for_state(DevState.UNKNOWN)
    assert "No frames can come: nobody sends at" in device.proxy.status()


def memory(device: Served) -> int:
    """Return the bytes of memory that a device's process has."""
    status = Path(f"/proc/{device.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


# ------------------------------------------------------------------- it restarts


def test_a_detector_that_is_killed_mid_series_and_started_again_is_mistaken_for_the_old_one(
    pilatus: Served, start_device: StartDevice, url: str, output: Path, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "long.h5", "w") as file:
        file["data"] = np.ones((200, *SHAPE), np.float32)
    source = f"hdf5:{tmp_path / 'long.h5'}"
    wait_until_away(pilatus)

    def start_detector() -> Served:
        name = "test/faults/killed"
        detector = start_device("DetectorSimulator", name, SourceUrl=source, PublishUrl=url)
        detector.proxy.filename = "/there/scan-0005_pilatus.h5"
        pilatus.wait_for_state(DevState.RUNNING)
        return detector

    detector = start_detector()
    detector.proxy.rate = 100.0
    detector.proxy.Start()
    pilatus.wait_until_reduced(20)
    sent = detector.proxy.images_sent
    detector.process.kill()
    wait_until_away(pilatus)
    first = pilatus.ledger()
    assert first["received"] >= sent - HIGH_WATER  # those may have waited in its memory
    assert first == {**NOTHING, "received": first["received"], "reduced": first["received"]}
    run_id = pilatus.proxy.run_id

    again = start_detector()  # its message numbers begin anew
    again.proxy.rate = 1000.0
    again.proxy.Start()
    both = wait_until_done(pilatus, first["received"] + 200)
    assert again.proxy.expected_received == 200
    assert both == {**NOTHING, "received": both["received"], "reduced": both["received"]}
    assert pilatus.proxy.accumulated_frames == both["reduced"]
    assert pilatus.state == DevState.RUNNING
    assert pilatus.proxy.run_id > run_id
    wait_for(lambda: frames_in(output / "scan-0005_pilatus_pilatus.h5") == first["received"])
    wait_for(lambda: frames_in(output / "scan-0005_pilatus_pilatus_2.h5") == 200)


def test_a_socket_that_dies_and_returns_splits_the_series_or_hides_what_was_lost(
    pilatus: Served, url: str, output: Path
) -> None:
    with sending(url) as detector:
        detector.header("/there/cut.h5")
        detector.images(range(5))
        wait_until_done(pilatus, 5)
        run_id = pilatus.proxy.run_id
        detector.close()
        wait_until_away(pilatus)
        detector.number += 4  # what the detector gave up meanwhile
        detector.open()
        pilatus.wait_for_state(DevState.RUNNING)
        assert "nobody sends" not in pilatus.proxy.status()
        detector.images(range(9, 14))
        detector.end()
        counts = wait_until_done(pilatus, 10)
        assert counts == {**NOTHING, "received": 10, "reduced": 10, "lost": 4}
        assert pilatus.proxy.run_id == run_id
        wait_for(lambda: frames_in(output / "cut_pilatus.h5") == 10)


# ------------------------------------------------------- headers and frames apart


def test_headers_without_frames_pile_up_or_make_files(
    pilatus: Served, url: str, output: Path
) -> None:
    process = Path(f"/proc/{pilatus.process.pid}")

    def open_things() -> int:
        return len([*(process / "task").iterdir(), *(process / "fd").iterdir()])

    with sending(url) as detector:
        detector.header("/there/first.h5")
        wait_for(lambda: "first.h5 has begun; no frame of it" in pilatus.proxy.status())
        before = open_things()
        for number in range(300):
            detector.header(f"/there/empty-{number}.h5")
            if number % 2:
                detector.end()
        detector.header("/there/last.h5")
        wait_for(lambda: "last.h5 has begun; no frame of it" in pilatus.proxy.status())
        assert pilatus.state == DevState.RUNNING
        assert pilatus.ledger() == NOTHING
        assert open_things() < before + 20
        detector.images(range(3))
        detector.end()
        assert wait_until_done(pilatus, 3) == {**NOTHING, "received": 3, "reduced": 3}
        wait_for(lambda: "has begun" not in pilatus.proxy.status())
        wait_for(lambda: frames_in(output / "last_pilatus.h5") == 3)
        assert [path.name for path in output.iterdir()] == ["last_pilatus.h5"]


def test_frames_without_a_header_are_refused_or_pass_for_a_whole_series(
    pilatus: Served, url: str, output: Path
) -> None:
    with sending(url) as detector:
        detector.number = 66
        detector.images(range(40, 45))
        assert wait_until_done(pilatus, 5) == {**NOTHING, "received": 5, "reduced": 5}
        wait_for(lambda: "without their header" in pilatus.proxy.status())
        assert pilatus.state == DevState.RUNNING
        assert pilatus.proxy.frame_id == 44
        detector.header("/there/whole.h5")
        detector.images(range(3))
        detector.end()
        wait_until_done(pilatus, 8)
        wait_for(lambda: "without their header" not in pilatus.proxy.status())
    wait_for(lambda: frames_in(output / "whole_pilatus.h5") == 3)
    [late] = output.glob("late_*_pilatus.h5")
    wait_for(lambda: frames_in(late) == 5)
    with h5py.File(late) as file:
        assert file["entry/joined_late"][()]


# ---------------------------------------------------------------------- too fast


def test_twice_the_nominal_rate_grows_in_memory_or_is_never_forgiven(
    start_device: StartDevice, url: str
) -> None:
    """The stage takes 20 ms for a frame; for 10 s one comes every 10 ms."""
    side, queue = (512, 512), 8 << 20
    gallery = start_device("GalleryDevice", SourceUrl=url, Workers="1", QueueBytes=str(queue))
    gallery.proxy.delay = 0.02
    gallery.proxy.Start()
    with sending(url, side) as detector:
        detector.header()
        for frame in range(20):
            detector.images([frame])
            wait_until_done(gallery, frame + 1)
        before = memory(gallery)
        most = before
        detector.header()
        due = time.monotonic()
        for frame in range(1000):
            due += 0.01
            time.sleep(max(0.0, due - time.monotonic()))
            detector.images([frame])
            if frame % 100 == 99:
                most = max(most, memory(gallery))
        assert gallery.state == DevState.ALARM
        status = gallery.proxy.status()
        assert "Frames dropped" in status and "slower than the detector" in status
        assert "Running" in status
        counts = wait_until_done(gallery, 1020)
        assert counts["reduced"] + counts["dropped"] == 1020
        assert counts["dropped"] >= 300
        assert counts["lost"] == counts["rejected"] == 0
        # the queue, what ZeroMQ holds, and room for the allocator; 524 MB went through
        assert most - before < queue + (100 << 20)
        detector.end()

        detector.header()
        for frame in range(10):
            detector.images([frame])
            wait_until_done(gallery, 1021 + frame)
        after = gallery.ledger()
        assert after["reduced"] == counts["reduced"] + 10
        assert after["dropped"] == counts["dropped"]
        gallery.wait_for_state(DevState.RUNNING)
        assert "dropped" not in gallery.proxy.status()
