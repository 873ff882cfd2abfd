"""A Balor's clean image goes on to a second accumulator, whatever happens to either of them."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.sources.replay import Replay
from ronda.devices.database import LOOPBACK, free_port
from ronda.tests.devices.conftest import Served, StartDevice, complete, send
from ronda.tests.waiting import wait_for
from tango import DevState

FRAMES, SHAPE = 8, (300, 400)
OPTIONS = f"frames={FRAMES}&rows={SHAPE[0]}&columns={SHAPE[1]}&streaks=0.5"
SPARSE = f"simulated:balor?{OPTIONS}&photons=100"
DENSE = f"simulated:balor?{OPTIONS}&photons=4000"
LONG = f"{SPARSE}&repeats=50"
RAW = "/there/scan-{series}_balor.h5"


@dataclass
class Chain:
    """A detector, a Balor device that reads it, and an accumulator that reads that one."""

    detector: Replay
    start_device: StartDevice
    folder: Path
    url: str
    """Where the first publishes, as the second connects to it."""

    def start_first(self) -> Served:
        """Start the Balor device, and have it reduce."""
        first = self.begin_first()
        first.proxy.analysis_roi = f"0,0,{SHAPE[1]},{SHAPE[0]}"
        first.proxy.Start()
        return first

    def begin_first(self) -> Served:
        """Start the Balor device, as systemd does after a crash."""
        return self.start_device(
            "BalorPhotonDetector",
            "test/chain/first",
            SourceUrl=f"stins+{self.detector.address}?detector=balor",
            RepublishUrl=self.url.replace("pull", "push").replace("sub", "pub"),
            OutputRoot=str(self.folder),
        )

    def start_second(self) -> Served:
        """Start the accumulator; both write into one folder."""
        second = self.start_device(
            "PilatusAccumulator",
            "test/chain/second",
            SourceUrl=self.url,
            OutputRoot=str(self.folder),
        )
        second.proxy.Start()
        return second

    def files(self, stage: str) -> list[Path]:
        """Return the series' files of a stage, when they are complete."""
        return [complete(path) for path in sorted(self.folder.glob(f"*_{stage}.h5"))]


@pytest.fixture
def socket(request: pytest.FixtureRequest) -> str:
    """How the second device reads."""
    kind: str = getattr(request, "param", "pull")
    return kind


@pytest.fixture
def chain(start_device: StartDevice, detector: Replay, tmp_path: Path, socket: str) -> Chain:
    """A chain, nothing of which has started."""
    url = f"stins+tcp://{LOOPBACK}:{free_port()}?socket={socket}"
    return Chain(detector, start_device, tmp_path / "out", url)


def connected(second: Served) -> bool:
    """Tell whether the second device has found the first."""
    return "nobody sends" not in second.proxy.status()


def photons(path: Path, least: float) -> NDArray[np.int64]:
    """Return the image of the photons in a file's table, each in the pixel of its place."""
    image = np.zeros(SHAPE, np.int64)
    with h5py.File(path) as file:
        table = {name: file[f"entry/photons/{name}"][()] for name in ("y", "x", "energy")}
    shown = table["energy"] >= least
    place = [np.floor(table[name][shown].astype(np.float64) + 0.5).astype(int) for name in "yx"]
    np.add.at(image, tuple(place), 1)
    return image


def dropped(first: Served) -> int:
    """Return how many messages the first device says that it dropped."""
    found = re.search(r"(\d+) messages for the next device were dropped", first.proxy.status())
    return int(found[1]) if found else 0


@pytest.mark.parametrize("socket", ["pull", "sub"], indirect=True)
def test_photons_are_lost_or_counted_twice_on_the_way(chain: Chain) -> None:
    detector, first, second = chain.detector, chain.start_first(), chain.start_second()
    wait_for(lambda: connected(second))
    detector.rate = 50.0
    detector.start(SPARSE, series=3, filename=RAW)
    assert detector.wait(60), detector.problem
    truth = detector.sent.expected
    assert truth.reduced == 3 * FRAMES
    for device in (first, second):
        device.wait_until_reduced(truth.reduced)
        assert device.ledger() == {
            "received": truth.received,
            "reduced": truth.reduced,
            "rejected": 0,
            "dropped": 0,
            "queued": 0,
            "lost": 0,
        }
        device.stop()
    assert second.proxy.latency_from == "detector"
    assert "1.2e-05 m wide, pixel_size is 0.000172 m" in second.proxy.status()
    second.proxy.pixel_size = first.proxy.pixel_size
    wait_for(lambda: "m wide" not in second.proxy.status())
    total = first.proxy.accumulated_image
    np.testing.assert_array_equal(second.proxy.accumulated_image, total)
    mine, its = chain.files("balor"), chain.files("pilatus")
    assert [path.name for path in mine] == [f"scan-{n}_balor_balor.h5" for n in (1, 2, 3)]
    assert [path.name for path in its] == [f"scan-{n}_balor_pilatus.h5" for n in (1, 2, 3)]
    least = first.proxy.view_sum_min
    for path, other in zip(mine, its, strict=True):
        image = photons(path, least)
        assert image.sum() > 30 * FRAMES
        with h5py.File(path) as file, h5py.File(other) as next_file:
            np.testing.assert_array_equal(file["entry/scan/sum"][()], image)
            np.testing.assert_array_equal(next_file["entry/scan/sum"][()], image)
            assert next_file["entry/ledger/reduced"][()] == FRAMES
            assert next_file["entry/instrument/detector/local_name"][()] == b"balor"
            assert b'"exposure_time": 0.1' in next_file["entry/header/data"][()]
            assert file["entry/scan_number"][()] == next_file["entry/scan_number"][()]
    assert image.sum() * 3 == total.sum()


def test_counts_and_photons_come_into_one_sum(chain: Chain) -> None:
    first, second = chain.start_first(), chain.start_second()
    wait_for(lambda: connected(second))
    send(chain.detector, first, SPARSE, filename="/there/a.h5")
    second.wait_until_reduced(FRAMES)
    total = second.proxy.accumulated_image
    send(chain.detector, first, DENSE, filename="/there/b.h5")
    assert first.proxy.fallback_frames == FRAMES, "these do not go on: they are no photons"
    first.proxy.analysis_roi = ""
    send(chain.detector, first, SPARSE, filename="/there/c.h5")
    second.wait_until_reduced(2 * FRAMES)
    assert second.ledger()["received"] == 2 * FRAMES
    assert second.proxy.accumulation_resets == 1
    assert second.proxy.accumulated_frames == FRAMES
    assert second.proxy.accumulated_image.max() > 100, "counts, not photons"
    wait_for(lambda: "photons) was saved and begun anew" in second.proxy.status())
    wait_for(lambda: list(chain.folder.glob("accumulated_*.h5")))
    sums = []
    for path in chain.folder.glob("accumulated_*.h5"):
        # the first device began anew, too, and saved the same
        with h5py.File(complete(path)) as file:
            sums.append(file["entry/accumulated/sum"][()])
    assert any(np.array_equal(each, total) for each in sums)


def test_the_order_of_starting_matters(chain: Chain) -> None:
    detector = chain.detector
    detector.rate = 100.0
    detector.start(LONG, series=0, filename=RAW)
    second = chain.start_second()
    first = chain.start_first()
    second.wait_until_reduced(50)
    detector.stop()
    assert detector.wait(60), detector.problem
    first.wait_until_reduced(detector.sent.expected.reduced)
    wait_for(lambda: second.ledger()["reduced"] + dropped(first) >= first.ledger()["reduced"])
    assert second.ledger()["lost"] == second.ledger()["rejected"] == 0
    assert second.state == first.state == DevState.RUNNING


def test_one_of_the_two_must_be_started_anew_when_the_first_is_killed(chain: Chain) -> None:
    detector, first, second = chain.detector, chain.start_first(), chain.start_second()
    wait_for(lambda: connected(second))
    detector.rate = 100.0
    detector.start(LONG, series=0, filename=RAW)
    second.wait_until_reduced(30)
    first.process.kill()
    wait_for(lambda: "nobody sends" in second.proxy.status())
    before = second.ledger()["reduced"]
    first = chain.begin_first()
    second.wait_until_reduced(before + 30)
    detector.stop()
    assert detector.wait(60), detector.problem
    wait_for(lambda: first.ledger()["queued"] == 0)
    wait_for(
        lambda: second.ledger()["reduced"] >= before + first.ledger()["reduced"] - dropped(first)
    )
    counts = second.ledger()
    assert counts["received"] == counts["reduced"]
    assert counts["rejected"] == counts["dropped"] == counts["lost"] == 0
    for device in (first, second):
        device.stop()
    rows = 0
    for path in chain.files("pilatus"):
        with h5py.File(path) as file:
            rows += file["entry/ledger/reduced"][()]
    assert rows == counts["reduced"], "frames are in no file"
    assert any(path.name.startswith("late_") for path in chain.files("pilatus"))


def test_the_first_device_waits_for_one_that_is_away_or_slow(chain: Chain) -> None:
    detector, first = chain.detector, chain.start_first()
    first.proxy.republish_photons = False
    send(detector, first, SPARSE)
    wait_for(lambda: dropped(first) == FRAMES + 2)
    assert first.state == DevState.RUNNING
    second = chain.start_second()
    wait_for(lambda: connected(second))
    send(detector, first, SPARSE, rate=20.0)
    second.wait_until_reduced(FRAMES)
    assert second.ledger()["lost"] == 0
    assert dropped(first) == FRAMES + 2
    os.kill(second.process.pid, signal.SIGSTOP)
    try:
        send(detector, first, LONG)
        wait_for(lambda: dropped(first) > FRAMES + 2)
    finally:
        os.kill(second.process.pid, signal.SIGCONT)
    wait_for(lambda: second.ledger()["received"] > FRAMES and second.ledger()["queued"] == 0)
    send(detector, first, SPARSE, rate=20.0)
    wait_for(lambda: second.ledger()["lost"] == dropped(first) - (FRAMES + 2))
    counts, sent = second.ledger(), first.ledger()["reduced"] - FRAMES
    assert counts["received"] == counts["reduced"] < sent
    assert counts["received"] + counts["lost"] >= sent, "lost without being counted"
    first.proxy.Reset()
    wait_for(lambda: dropped(first) == 0)
