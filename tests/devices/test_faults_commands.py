"""Commands at any moment, from any number of clients: none is lost, none breaks a device."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tango
from ronda.core.sources.replay import Fault, FaultKind, Replay
from ronda.tests.devices.conftest import FRAMES, Served, StartDevice, refusal
from ronda.tests.devices.faults import frames_in
from ronda.tests.devices.slow import HOLD
from ronda.tests.waiting import wait_for
from tango import DevState


@pytest.fixture(scope="module")
def gallery(start_shared: StartDevice, source: Replay) -> Served:
    """A device that reads it, once it is started; every test leaves it so."""
    return start_shared("GalleryDevice", SourceUrl=f"stins+{source.address}", Workers="1")


@pytest.fixture(scope="module")
def slow(start_shared: StartDevice) -> Served:
    """A device that initialises as long as a file says."""
    return start_shared("SlowDevice")


@pytest.fixture
def hold(slow: Served) -> Iterator[Path]:
    """That file."""
    path = slow.state_folder / HOLD
    yield path
    path.unlink(missing_ok=True)


def of_all(device: Served, clients: int, work: Callable[[int, tango.DeviceProxy], None]) -> None:
    """Have so many clients work at once, each with a connection of its own."""
    failures: list[BaseException] = []
    ready = threading.Barrier(clients)

    def run(client: int) -> None:
        with tango.EnsureOmniThread():
            proxy = tango.DeviceProxy(device.trl)
            proxy.set_timeout_millis(30_000)
            ready.wait()
            try:
                work(client, proxy)
            except BaseException as failure:
                failures.append(failure)

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def works(device: Served, source: Replay, frames: Path) -> bool:
    """Tell whether a device reduces a series from beginning to end."""
    be_running(device, source, frames, frames.parent)
    device.stop()
    return device.ledger()["queued"] == 0


# ------------------------------------------------------------- in every state


def be_standby(device: Served, source: Replay, frames: Path, folder: Path) -> None:
    device.wait_for_state(STANDBY)


def be_running(device: Served, source: Replay, frames: Path, folder: Path) -> None:
    reduced = device.ledger()["reduced"]
    device.proxy.Start()
    source.start(f"hdf5:{frames}", filename="")
    device.wait_until_reduced(reduced + FRAMES)


def be_alarm(device: Served, source: Replay, frames: Path, folder: Path) -> None:
    reduced = device.ledger()["reduced"]
    source.inject(Fault(FaultKind.TRUNCATE, 3))
    device.proxy.Start()
    source.start(f"hdf5:{frames}", filename="")
    device.wait_until_reduced(reduced + FRAMES - 1)
    device.wait_for_state(ALARM)


def be_fault(device: Served, source: Replay, frames: Path, folder: Path) -> None:
    device.set_up(SourceUrl=f"hdf5:{folder}/missing.h5")
    device.proxy.Start()
    device.wait_for_state(FAULT)


def be_unknown(device: Served, source: Replay, frames: Path, folder: Path) -> None:
    device.set_up(SourceUrl=f"stins+ipc://{folder}/nobody")
    device.proxy.Start()
    device.wait_for_state(UNKNOWN)


def be_draining(device: Served, source: Replay, frames: Path, folder: Path) -> None:
    received = device.ledger()["received"]
    device.proxy.delay = 0.05
    device.proxy.Start()
    source.start(f"hdf5:{frames}", filename="")
    wait_for(lambda: device.ledger()["received"] == received + FRAMES)
    device.proxy.Stop()
    wait_for(lambda: "Stopping" in device.proxy.status())


STANDBY, RUNNING, ALARM, FAULT, UNKNOWN = (
    DevState.STANDBY,
    DevState.RUNNING,
    DevState.ALARM,
    DevState.FAULT,
    DevState.UNKNOWN,
)


@pytest.mark.parametrize(
    ("be", "command", "then"),
    [
        (be_standby, "Start", RUNNING),
        (be_standby, "Stop", STANDBY),
        (be_standby, "Abort", STANDBY),
        (be_standby, "Reset", STANDBY),
        (be_running, "Start", RUNNING),
        (be_running, "Stop", STANDBY),
        (be_running, "Abort", STANDBY),
        (be_running, "Reset", RUNNING),
        (be_alarm, "Start", ALARM),
        (be_alarm, "Stop", ALARM),
        (be_alarm, "Abort", ALARM),
        (be_alarm, "Reset", RUNNING),
        (be_fault, "Start", FAULT),
        (be_fault, "Stop", FAULT),
        (be_fault, "Abort", FAULT),
        (be_fault, "Reset", STANDBY),
        (be_unknown, "Start", UNKNOWN),
        (be_unknown, "Stop", STANDBY),
        (be_unknown, "Abort", STANDBY),
        (be_unknown, "Reset", UNKNOWN),
        (be_draining, "Start", RUNNING),
        (be_draining, "Stop", STANDBY),
        (be_draining, "Abort", STANDBY),
        (be_draining, "Reset", STANDBY),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_command_in_any_state_leads_elsewhere_or_loses_count(
    gallery: Served,
    source: Replay,
    frames_file: Path,
    tmp_path: Path,
    be: Callable[..., None],
    command: str,
    then: DevState,
) -> None:
    be(gallery, source, frames_file, tmp_path)
    before = gallery.ledger()
    if (be, command) == (be_fault, "Start"):
        assert "Reset first" in refusal(gallery.proxy.Start)
    else:
        gallery.proxy.command_inout(command)
    wait_for(lambda: gallery.ledger()["queued"] == 0)
    gallery.wait_for_state(then)
    counts = gallery.ledger()
    assert counts["received"] == counts["reduced"] + counts["rejected"] + counts["dropped"]
    assert counts["received"] == before["received"]
    aborted = (be, command) == (be_draining, "Abort")
    assert (counts["dropped"] > before["dropped"]) == aborted
    assert source.wait(10)
    gallery.proxy.delay = 0.0
    gallery.proxy.Abort()
    wait_for(lambda: gallery.state not in (RUNNING, UNKNOWN))
    gallery.proxy.Reset()
    gallery.wait_for_state(STANDBY)
    if be in (be_fault, be_unknown):
        gallery.set_up(SourceUrl=f"stins+{source.address}")
        assert works(gallery, source, frames_file)


@pytest.mark.parametrize(
    ("commands", "then"),
    [
        (["Start"], RUNNING),
        (["Stop", "Abort", "Reset"], STANDBY),
        (["Start", "Stop"], STANDBY),
        (["Start", "Abort"], STANDBY),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_commands_while_it_initialises_are_lost_or_carried_out_in_another_order(
    slow: Served,
    source: Replay,
    frames_file: Path,
    hold: Path,
    commands: list[str],
    then: DevState,
) -> None:
    slow.set_up(SourceUrl=f"stins+{source.address}")
    hold.touch()
    slow.proxy.Init()
    assert slow.state == DevState.INIT
    assert "Getting ready" in slow.proxy.status()
    for command in commands:
        slow.proxy.command_inout(command)
    assert slow.state == (RUNNING if "Start" in commands else DevState.INIT)
    hold.unlink()
    slow.wait_for_state(then)
    assert works(slow, source, frames_file)


# ------------------------------------------------------------------------ Init


def test_an_init_from_two_clients_in_a_series_leaves_two_devices_or_a_torn_file(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "process"
    gallery = start_device(
        "GalleryDevice", SourceUrl=f"stins+{detector.address}", OutputRoot=str(output)
    )
    assert works(gallery, detector, frames_file)
    threads = Path(f"/proc/{gallery.process.pid}/task")

    def names() -> list[str]:
        return [(thread / "comm").read_text().strip() for thread in threads.iterdir()]

    detector.rate = 50.0
    detector.start(f"hdf5:{frames_file}", series=0, filename="/there/cut{series}.h5")
    gallery.proxy.Start()
    gallery.wait_until_reduced(FRAMES + 5)
    of_all(gallery, 2, lambda client, proxy: [proxy.Init() for _ in range(3)])
    gallery.wait_for_state(STANDBY)
    assert gallery.ledger()["received"] == 0
    assert names().count("ronda-control") <= 1
    for path in output.glob("cut*.h5"):
        wait_for(lambda path=path: frames_in(path) >= 5)
    gallery.proxy.Start()
    gallery.wait_until_reduced(FRAMES)
    detector.stop()
    gallery.proxy.Stop()
    gallery.wait_for_state(STANDBY)


# ----------------------------------------------------------------- many clients


def test_ten_clients_at_once_bring_it_into_a_state_that_nobody_asked_for(
    gallery: Served, source: Replay, endless_detector: Replay, frames_file: Path
) -> None:
    gallery.set_up(SourceUrl=f"stins+{endless_detector.address}")

    def ask(client: int, proxy: tango.DeviceProxy) -> None:
        dice = random.Random(client)
        for _ in range(40):
            match dice.choice(("Start", "Stop", "Abort", "Reset", "Clear", "gain", "read")):
                case "gain":
                    proxy.gain = float(dice.randint(1, 9))
                case "read":
                    names = ("received", "reduced", "rejected", "dropped", "queued")
                    values = proxy.read_attributes([f"frames_{name}" for name in names])
                    counts = [value.value for value in values]
                    assert counts[0] == sum(counts[1:])
                    assert min(counts) >= 0
                case command:
                    proxy.command_inout(command)

    of_all(gallery, 10, ask)
    gallery.proxy.Abort()
    gallery.wait_for_state(STANDBY)
    assert gallery.proxy.last_error == ""
    counts = gallery.ledger()
    assert (counts["rejected"], counts["queued"]) == (0, 0)
    gallery.set_up(SourceUrl=f"stins+{source.address}")
    assert works(gallery, source, frames_file)


# ------------------------------------------------------------------ again and again


@pytest.mark.timeout(300)
def test_a_thousand_starts_and_stops_leak_a_thread_a_file_a_socket_or_memory(
    start_device: StartDevice, endless_detector: Replay
) -> None:
    gallery = start_device("GalleryDevice", SourceUrl=f"stins+{endless_detector.address}")
    process = psutil.Process(gallery.process.pid)

    def cycle(times: int) -> tuple[int, int, int]:
        for number in range(times):
            gallery.proxy.Start()
            if number % 20 == 0:
                gallery.wait_until_reduced(gallery.proxy.frames_reduced + 1)
            gallery.proxy.command_inout("Abort" if number % 3 else "Stop")
            gallery.wait_for_state(STANDBY)
        return process.num_threads(), process.num_fds(), process.memory_info().rss

    cycle(50)
    threads, files, memory = cycle(50)
    after = cycle(1000)
    # a leak would be one a cycle; omniORB's own threads come and go
    assert after[0] < threads + 20
    assert after[1] < files + 20
    assert after[2] < memory + (20 << 20)
