"""What a device does while it runs: coherent reads, states, and ends that lose nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tango
from ronda.core.sources.replay import Fault, FaultKind, Replay
from ronda.devices.keeping import FolderInUse, StateFolder
from ronda.devices.process import ProcessError
from ronda.tests.devices.conftest import Served, StartDevice, refusal
from ronda.tests.waiting import wait_for
from tango import DevState


@pytest.fixture(scope="module")
def busy(start_shared: StartDevice, endless_detector: Replay) -> Served:
    """A device that reduces a thousand frames a second."""
    gallery = start_shared("GalleryDevice", SourceUrl=f"stins+{endless_detector.address}")
    gallery.proxy.Start()
    gallery.wait_until_reduced(1)
    return gallery


@pytest.fixture(scope="module")
def shared(start_shared: StartDevice) -> Served:
    """A device for all tests."""
    return start_shared("GalleryDevice")


@pytest.fixture
def idle(shared: Served) -> Served:
    """The same, with fast reduction; a test sets it up."""
    shared.proxy.delay = 0.0
    shared.proxy.gain = 1.0
    return shared


def test_values_read_together_belong_to_one_frame(busy: Served) -> None:
    proxy = busy.proxy
    runs, torn = set(), 0
    for pair in range(4000):
        names = ["frame_id", "recent", "newest", "run_id"]
        if pair % 2:
            names.reverse()
        values = {one.name: one.value for one in proxy.read_attributes(names)}
        torn += values["newest"] != values["frame_id"] + 1
        torn += values["recent"][-1] != values["frame_id"]
        runs.add((values["run_id"], values["frame_id"]))
    assert torn == 0
    assert len(runs) > 100


def test_the_ledger_holds_at_every_reading(busy: Served) -> None:
    for _ in range(500):
        counts = busy.ledger()
        parts = ("reduced", "rejected", "dropped", "queued")
        assert counts["received"] == sum(counts[part] for part in parts)
        assert counts["queued"] >= 0


def test_five_clients_at_100_hertz_lose_no_frame(busy: Served, endless_detector: Replay) -> None:
    enough = threading.Event()
    reads = [0] * 5

    def poll(client: int) -> None:
        with tango.EnsureOmniThread():
            proxy = tango.DeviceProxy(busy.trl)
            while not enough.wait(0.01):
                proxy.read_attributes(["frame_id", "newest", "recent", "image"])
                reads[client] += 1

    clients = [threading.Thread(target=poll, args=(client,)) for client in range(5)]
    for client in clients:
        client.start()
    wait_for(lambda: min(reads) >= 100)
    enough.set()
    for client in clients:
        client.join()
    wait_for(lambda: busy.ledger()["received"] + 500 > endless_detector.sent.images)
    counts = busy.ledger()
    assert counts["lost"] == counts["dropped"] == counts["rejected"] == 0
    assert busy.state == DevState.RUNNING


def test_state_is_running_before_start_returns(idle: Served, detector: Replay) -> None:
    idle.set_up(SourceUrl=f"stins+{detector.address}")
    for _ in range(10):
        idle.proxy.Start()
        assert idle.state == DevState.RUNNING
        idle.proxy.Start()
        idle.stop()


def test_a_file_that_is_at_its_end_stops_the_device(
    idle: Served, frames_file: Path, tmp_path: Path
) -> None:
    idle.set_up(SourceUrl=f"hdf5:{frames_file}", OutputRoot=str(tmp_path))
    idle.proxy.Start()
    idle.wait_for_state(DevState.STANDBY)
    assert idle.proxy.total == 30 * sum(range(1, 21))
    wait_for(lambda: list(tmp_path.glob("frames_gallery.h5")))
    idle.set_up(SourceUrl="")  # closes the file
    with h5py.File(tmp_path / "frames_gallery.h5") as file:
        assert file["entry/ledger/reduced"][()] == 20


def test_a_source_that_cannot_be_read_is_a_fault_until_reset(idle: Served, tmp_path: Path) -> None:
    gallery, missing = idle, tmp_path / "missing.h5"
    gallery.set_up(SourceUrl=f"hdf5:{missing}")
    gallery.proxy.Start()
    gallery.wait_for_state(DevState.FAULT)
    assert f"there is no file {missing}" in gallery.proxy.status()
    gallery.proxy.gain = 7.0
    assert gallery.proxy.gain == 7.0
    assert "Reset first" in refusal(gallery.proxy.Start)
    gallery.proxy.Reset()
    gallery.wait_for_state(DevState.STANDBY)
    with h5py.File(missing, "w") as file:
        file["data"] = np.ones((3, 4, 5), np.uint16)
    gallery.proxy.Start()
    gallery.wait_until_reduced(3)
    gallery.wait_for_state(DevState.STANDBY)


def test_a_source_of_events_with_a_wrong_name_is_a_fault(idle: Served) -> None:
    idle.set_up(SourceUrl="tango://only/two")
    idle.proxy.Start()
    idle.wait_for_state(DevState.FAULT)
    assert "not of the form tango://" in idle.proxy.status()
    idle.proxy.Reset()


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"ComputeDevice": "abacus"}, "ComputeDevice: 'abacus' is no place to compute"),
        ({"ComputeDevice": "opencl:99,0"}, "ComputeDevice: OpenCL has no 99,0 here"),
        ({"Policy": "best"}, "Policy is 'best': set it to lossless or latest"),
        ({"Workers": "0"}, "Workers is 0"),
        ({"StateDirectory": "/proc/nowhere"}, "StateDirectory /proc/nowhere"),
        ({"RepublishUrl": "stins+tcp://nonsense"}, "not of the form stins+tcp://host:port"),
    ],
)
def test_a_wrong_property_is_a_fault_that_names_it(
    idle: Served, properties: dict[str, str], said: str
) -> None:
    gallery = idle
    before = gallery.proxy.get_property(list(properties))
    gallery.set_up(SourceUrl="hdf5:x", **properties)
    assert gallery.state == DevState.FAULT
    assert said in gallery.proxy.status()
    assert said in refusal(gallery.proxy.Start)
    gallery.proxy.gain = 2.0
    assert gallery.proxy.gain == 2.0
    gallery.proxy.delete_property(list(properties))
    gallery.proxy.put_property({name: value for name, value in before.items() if value})


def test_a_start_without_a_source_says_what_to_set(idle: Served) -> None:
    idle.set_up(SourceUrl="")
    assert "SourceUrl is not set" in refusal(idle.proxy.Start)
    assert "set SourceUrl" in idle.proxy.status()
    assert idle.state == DevState.STANDBY


def test_where_frames_come_from_and_go_to_is_shown_with_the_time_of_the_newest(
    idle: Served, detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    source = f"stins+{detector.address}"
    idle.set_up(SourceUrl=source, OutputRoot=str(tmp_path))
    proxy, begin = idle.proxy, time.time()
    proxy.Start()
    assert (proxy.source_url, proxy.last_message_time) == (source, 0.0)
    assert (proxy.in_series, proxy.file, proxy.file_time) == (False, "", 0.0)
    detector.inject(Fault(FaultKind.STALL, 19, 600))
    detector.start(f"hdf5:{frames_file}")
    idle.wait_until_reduced(19)
    wait_for(lambda: proxy.file_time >= begin)
    assert begin <= proxy.last_message_time <= time.time()
    assert proxy.in_series
    assert not proxy.file_complete
    assert Path(proxy.file).parent == tmp_path
    assert Path(proxy.file).exists()
    before = proxy.last_message_time
    detector.stop()
    wait_for(lambda: proxy.file_complete and not proxy.in_series)
    assert proxy.last_message_time > before  # the end of the series is a message too
    proxy.put_property({"SourceUrl": ["hdf5:other"]})
    assert proxy.source_url == source


def test_a_rejected_frame_is_an_alarm_and_the_next_one_works(
    idle: Served, detector: Replay, frames_file: Path
) -> None:
    gallery = idle
    gallery.set_up(SourceUrl=f"stins+{detector.address}")
    detector.inject(Fault(FaultKind.TRUNCATE, 3))
    detector.start(f"hdf5:{frames_file}")
    gallery.proxy.Start()
    gallery.wait_until_reduced(19)
    gallery.wait_for_state(DevState.ALARM)
    assert "Frames rejected: 1" in gallery.proxy.status()
    assert "Running" in gallery.proxy.status()
    assert "frame 3" in gallery.proxy.last_error
    total = gallery.proxy.total
    gallery.proxy.Reset()
    assert gallery.state == DevState.RUNNING
    assert gallery.proxy.last_error == ""
    assert (gallery.proxy.total, gallery.proxy.frames_rejected) == (total, 1)
    assert total == 30 * (sum(range(1, 21)) - 4)


def test_stop_reduces_what_has_arrived_and_abort_drops_it_counted(
    idle: Served, detector: Replay, frames_file: Path
) -> None:
    gallery = idle
    gallery.set_up(SourceUrl=f"stins+{detector.address}", Workers="1")
    gallery.proxy.delay = 0.02
    for drain in (True, False):
        before = gallery.ledger()
        detector.start(f"hdf5:{frames_file}", series=2)
        gallery.proxy.Start()
        wait_for(lambda before=before: gallery.ledger()["received"] == before["received"] + 40)
        if drain:
            gallery.proxy.Stop()
        else:
            gallery.proxy.Abort()
        gallery.wait_for_state(DevState.STANDBY)
        counts = gallery.ledger()
        assert counts["queued"] == 0
        dropped = counts["dropped"] - before["dropped"]
        assert dropped == 0 if drain else dropped > 10
        assert detector.wait(10)


def test_abort_cuts_a_draining_stop_short(
    idle: Served, detector: Replay, frames_file: Path
) -> None:
    gallery = idle
    gallery.set_up(SourceUrl=f"stins+{detector.address}", Workers="1")
    gallery.proxy.delay = 0.2
    detector.start(f"hdf5:{frames_file}", series=2)
    gallery.proxy.Start()
    wait_for(lambda: gallery.ledger()["received"] == 40)
    gallery.proxy.Stop()
    wait_for(lambda: "Stopping" in gallery.proxy.status())
    assert gallery.state == DevState.RUNNING
    gallery.proxy.Abort()
    gallery.wait_for_state(DevState.STANDBY)
    counts = gallery.ledger()
    assert counts["dropped"] > 20
    assert counts["queued"] == 0


def test_no_call_waits_for_a_slow_reduction(
    idle: Served, detector: Replay, frames_file: Path
) -> None:
    gallery = idle
    gallery.set_up(SourceUrl=f"stins+{detector.address}", Workers="1")
    impatient = tango.DeviceProxy(gallery.trl)
    impatient.set_timeout_millis(1500)
    impatient.delay = 2.0
    detector.start(f"hdf5:{frames_file}")
    impatient.Start()
    wait_for(lambda: gallery.ledger()["queued"] == 20)
    impatient.gain = 3.0
    impatient.Clear()
    impatient.Stop()
    assert impatient.frames_queued > 0
    impatient.Abort()


def test_a_hundred_starts_and_stops_leak_no_thread_and_no_file(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    gallery = start_device(
        "GalleryDevice", SourceUrl=f"hdf5:{frames_file}", OutputRoot=str(tmp_path)
    )
    process = Path("/proc") / str(gallery.process.pid)

    def cycle(times: int) -> tuple[int, int]:
        for number in range(times):
            gallery.proxy.Start()
            if number % 2:
                gallery.proxy.Stop()
            gallery.wait_for_state(DevState.STANDBY)
        return len([*(process / "task").iterdir()]), len([*(process / "fd").iterdir()])

    before = cycle(10)
    after = cycle(100)
    # a leak would be one a cycle; omniORB's own threads come and go
    assert after[0] - before[0] < 20
    assert after[1] - before[1] < 20
    gallery.process.kill()  # its file writer is not waited for: it has a hundred files to close


def test_init_twice_leaves_one_device_that_works(
    idle: Served, detector: Replay, frames_file: Path
) -> None:
    gallery = idle
    gallery.set_up(SourceUrl=f"stins+{detector.address}")
    detector.start(f"hdf5:{frames_file}", series=0, filename="")
    gallery.proxy.Start()
    gallery.wait_until_reduced(100)
    for _ in range(2):
        gallery.proxy.Init()
        gallery.wait_for_state(DevState.STANDBY)
    assert gallery.ledger()["received"] == 0
    gallery.proxy.Start()
    gallery.wait_until_reduced(100)
    gallery.proxy.Abort()


def test_a_second_instance_is_refused_with_a_sentence(
    start_device: StartDevice, tmp_path: Path
) -> None:
    first = start_device("GalleryDevice")
    pid = first.process.pid
    with pytest.raises(ProcessError, match=f"is running already .process {pid} on .*: stop it"):
        start_device("GalleryDevice", first.name)
    # a database that does not know of the first one: their folder does
    with pytest.raises(FolderInUse, match=f"is running already .process {pid} on .*: stop it"):
        StateFolder(str(tmp_path / "state"), first.name)
    assert first.state == DevState.STANDBY
    first.process.kill()
    StateFolder(str(tmp_path / "state"), first.name).close()


def test_events_follow_what_is_read_and_sigterm_ends_them_cleanly(
    start_device: StartDevice, detector: Replay, frames_file: Path
) -> None:
    gallery = start_device("GalleryDevice", SourceUrl=f"stins+{detector.address}")
    heard: dict[str, list[object]] = {}

    def take(data: tango.EventData) -> None:
        if not data.err:
            heard.setdefault(data.attr_value.name.lower(), []).append(data.attr_value.value)

    change, archive = tango.EventType.CHANGE_EVENT, tango.EventType.ARCHIVE_EVENT
    subscribed = [
        gallery.proxy.subscribe_event(name, change, take)
        for name in ("newest", "State", "gain", "recent", "preview", "lines", "boxes", "says")
    ]
    subscribed.append(gallery.proxy.subscribe_event("total", archive, take))
    gallery.proxy.gain = 2.0
    gallery.proxy.Grow("a")
    detector.rate = 100.0
    detector.start(f"hdf5:{frames_file}")
    gallery.proxy.Start()
    gallery.wait_until_reduced(20)

    def last(name: str) -> object:
        return heard[name][-1]

    wait_for(lambda: last("newest") == 40.0 and last("total") == gallery.proxy.total)
    wait_for(lambda: last("state") == DevState.RUNNING and last("gain") == 2.0)
    wait_for(lambda: len(heard["recent"][-1]) == 20 and last("says") == "something")
    wait_for(lambda: heard["preview"][-1].shape == (6, 5) and last("lines") == ("20 frames",))
    assert last("boxes") == gallery.proxy.boxes
    gallery.proxy.Stop()
    wait_for(lambda: last("state") == DevState.STANDBY)
    with pytest.raises(tango.DevFailed):
        gallery.proxy.subscribe_event("image", change, take)
    # SIGTERM while frames flow and events are pushed
    gallery.proxy.Start()
    detector.rate = 1000.0
    detector.start(f"hdf5:{frames_file}", series=0, filename="")
    gallery.wait_until_reduced(200)
    assert gallery.process.stop() == 0
    for subscription in subscribed:
        gallery.proxy.unsubscribe_event(subscription)
