"""Clients that are many, slow or suspended: the reduction does not notice, nor does memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import Served, StartDevice
from ronda.tests.waiting import wait_for
from tango import DevState

CLIENTS = """
import sys, threading, time
import tango

trl, polling, subscribing, pause, *attributes = sys.argv[1:]
counts = [0] * (int(polling) + int(subscribing))

def poll(number):
    with tango.EnsureOmniThread():
        proxy = tango.DeviceProxy(trl)
        while True:
            try:
                for answer in proxy.read_attributes(attributes):
                    answer.value
                counts[number] += 1
            except tango.DevFailed:  # hung up on, or the machine is busy: Tango connects again
                pass
            time.sleep(float(pause))

def subscribe(number):
    proxy = tango.DeviceProxy(trl)
    proxy.set_timeout_millis(10_000)  # the machine may be busy
    def take(event):
        if not event.err:
            counts[number] += 1
    for attribute in attributes:
        proxy.subscribe_event(attribute, tango.EventType.CHANGE_EVENT, take)
    return proxy

for number in range(int(polling)):
    threading.Thread(target=poll, args=(number,), daemon=True).start()
kept = [subscribe(number) for number in range(int(polling), len(counts))]
while True:
    print(min(counts), flush=True)
    time.sleep(0.1)
"""
GROWTH = 160 << 20
"""Bytes that a server's memory may grow by meanwhile: a few images, far from one for each frame."""


class Clients:
    """A process with some clients."""

    def __init__(
        self, device: Served, polling: int, subscribing: int, *attributes: str, pause: float = 0.1
    ) -> None:
        words = (device.trl, str(polling), str(subscribing), str(pause), *attributes)
        self._popen = subprocess.Popen(
            [sys.executable, "-c", CLIENTS, *words], stdout=subprocess.PIPE, text=True
        )
        self.process = psutil.Process(self._popen.pid)

    def wait_for_answers(self, least: int) -> None:
        """Wait until each of them got so many answers or events from now on."""
        assert self._popen.stdout
        first = int(self._popen.stdout.readline())
        while int(self._popen.stdout.readline()) < first + least:
            assert self._popen.poll() is None

    def end(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.communicate()


@pytest.fixture
def connect() -> Iterator[Callable[..., Clients]]:
    """Return a function that starts clients; see `Clients`."""
    started: list[Clients] = []

    def start(*arguments: Any, **options: Any) -> Clients:
        started.append(Clients(*arguments, **options))
        return started[-1]

    yield start
    for clients in started:
        clients.end()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of some frames of a megapixel."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.random.default_rng(0).poisson(2, (10, 1024, 1024)).astype(np.int32)
    return f"hdf5:{path}"


@pytest.fixture
def pilatus(start_device: StartDevice, detector: Replay, recording: str) -> Served:
    """A device that reduces without end."""
    device = start_device("PilatusAccumulator", SourceUrl=f"stins+{detector.address}")
    device.proxy.Start()
    detector.rate = 20.0
    detector.start(recording, 0, filename="")
    device.wait_until_reduced(10)
    return device


def memory(device: Served) -> int:
    """Return the bytes that a device's server holds."""
    return int(psutil.Process(device.process.pid).memory_info().rss)


def check_ledger(device: Served, detector: Replay) -> None:
    """Compare what the detector sent with what was reduced: everything."""
    detector.stop()
    assert detector.wait(30)
    sent = detector.sent.images
    wait_for(lambda: device.ledger()["received"] == sent)
    wait_for(lambda: device.ledger()["queued"] == 0)
    counts = device.ledger()
    assert counts == {**dict.fromkeys(counts, 0), "received": sent, "reduced": sent}
    assert device.state == DevState.RUNNING
    assert device.proxy.accumulated_frames == sent


def test_forty_clients_cost_no_frame_and_no_memory(
    pilatus: Served, detector: Replay, connect: Callable[..., Clients]
) -> None:
    names = ("frame_id", "frames_reduced", "accumulated_total", "input_rate")
    many = [connect(pilatus, 10, 10, *names) for _ in range(2)]
    for clients in many:
        clients.wait_for_answers(3)
    before, reduced = memory(pilatus), pilatus.ledger()["reduced"]
    for clients in many:
        clients.wait_for_answers(20)
    pilatus.wait_until_reduced(reduced + 50)
    assert memory(pilatus) - before < GROWTH
    check_ledger(pilatus, detector)


@pytest.mark.parametrize(
    "attributes", [("frame_id", "accumulated_total"), ("preview", "preview_histogram", "frame_id")]
)
def test_a_suspended_subscriber_costs_no_frame_and_no_memory_and_holds_up_nobody(
    pilatus: Served, detector: Replay, connect: Callable[..., Clients], attributes: tuple[str, ...]
) -> None:
    subscriber = connect(pilatus, 0, 1, *attributes)
    subscriber.wait_for_answers(3)
    before, reduced = memory(pilatus), pilatus.ledger()["reduced"]
    subscriber.process.suspend()
    other = connect(pilatus, 1, 1, "frame_id", "preview")
    other.wait_for_answers(20)
    pilatus.wait_until_reduced(reduced + 100)
    assert memory(pilatus) - before < GROWTH
    subscriber.process.resume()
    subscriber.wait_for_answers(3)
    check_ledger(pilatus, detector)


def test_a_client_that_is_suspended_while_it_reads_images_holds_up_nobody(
    pilatus: Served, detector: Replay, connect: Callable[..., Clients]
) -> None:
    slow = connect(pilatus, 5, 0, "accumulated_image", "image", pause=0.0)
    slow.wait_for_answers(2)
    before, reduced = memory(pilatus), pilatus.ledger()["reduced"]
    slow.process.suspend()
    quick = connect(pilatus, 1, 1, "frame_id", "frames_reduced")
    quick.wait_for_answers(10)
    pilatus.wait_until_reduced(reduced + 50)
    assert memory(pilatus) - before < GROWTH
    slow.process.resume()
    slow.wait_for_answers(2)
    check_ledger(pilatus, detector)
