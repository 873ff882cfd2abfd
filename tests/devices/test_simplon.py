"""Devices at the stream of a DECTRIS detector, as the simulator device speaks it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.sources.replay import FaultKind
from ronda.tests.devices.conftest import StartDevice
from ronda.tests.waiting import wait_for
from tango import DevState

FRAMES, SHAPE = 20, (41, 53)


@pytest.fixture
def frames() -> NDArray[np.uint32]:
    """Frames of a small Eiger, [frame, row, column], with a pixel that it marks."""
    pixels = np.random.default_rng(5).poisson(3, (FRAMES, *SHAPE)).astype(np.uint32)
    pixels[:, 10, 12] = np.iinfo(np.uint32).max
    return pixels


@pytest.fixture
def source(tmp_path: Path, frames: NDArray[np.uint32]) -> str:
    """URL of those frames."""
    with h5py.File(tmp_path / "eiger.h5", "w") as file:
        file["data"] = frames
    return f"hdf5:{tmp_path / 'eiger.h5'}"


def test_a_sum_live_differs_from_what_was_sent(
    start_device: StartDevice, source: str, frames: NDArray[np.uint32], free_port: int
) -> None:
    url = f"simplon2+tcp://127.0.0.1:{free_port}"
    simulator = start_device("DetectorSimulator", SourceUrl=source, PublishUrl=url)
    pilatus = start_device("PilatusAccumulator", SourceUrl=url)
    simulator.proxy.rate = 500.0
    simulator.proxy.series = 15
    simulator.proxy.filename = ""
    pilatus.proxy.Start()
    simulator.proxy.Start()
    pilatus.wait_until_reduced(15 * FRAMES)
    counts = pilatus.ledger()
    assert (counts["rejected"], counts["lost"], counts["dropped"]) == (0, 0, 0)
    assert pilatus.proxy.accumulated_frames == 15 * FRAMES
    total = pilatus.proxy.accumulated_image
    expected = 15 * frames.astype(np.float64).sum(axis=0)
    usable = np.ones(SHAPE, bool)
    usable[10, 12] = False
    np.testing.assert_array_equal(total[usable], expected[usable])
    assert pilatus.state == DevState.RUNNING


def test_the_ledger_of_every_fault_differs_from_the_simulators_truth(
    start_device: StartDevice, source: str, free_port: int
) -> None:
    url = f"simplon2+tcp://127.0.0.1:{free_port}"
    simulator = start_device("DetectorSimulator", SourceUrl=source, PublishUrl=url)
    pilatus = start_device("PilatusAccumulator", SourceUrl=url)
    simulator.proxy.rate = 300.0
    simulator.proxy.filename = ""
    for number, kind in enumerate(FaultKind, start=1):
        simulator.proxy.InjectFault(f"{kind.value} {3 * number - 1} 0.1")
    pilatus.proxy.Start()
    simulator.proxy.Start()
    wait_for(lambda: simulator.state == DevState.STANDBY)
    wait_for(lambda: pilatus.ledger()["received"] == simulator.proxy.expected_received)
    wait_for(lambda: pilatus.ledger()["queued"] == 0)
    counts = pilatus.ledger()
    for name in ("received", "reduced", "rejected", "lost"):
        assert counts[name] == getattr(simulator.proxy, f"expected_{name}"), name
    assert (counts["rejected"], counts["lost"], counts["dropped"]) == (3, 1, 0)


def test_a_simulator_that_restarts_mid_series_is_mistaken_for_the_old_one(
    start_device: StartDevice, source: str, free_port: int
) -> None:
    url = f"simplon2+tcp://127.0.0.1:{free_port}"
    pilatus = start_device("PilatusAccumulator", SourceUrl=url)
    pilatus.proxy.Start()

    def send(series: int) -> None:
        name = "test/simplon/restarted"
        simulator = start_device("DetectorSimulator", name, SourceUrl=source, PublishUrl=url)
        simulator.proxy.filename = ""
        simulator.proxy.rate = 200.0
        simulator.proxy.series = series
        pilatus.wait_for_state(DevState.RUNNING)
        simulator.proxy.Start()
        if not series:
            pilatus.wait_until_reduced(5)
            simulator.process.kill()
            pilatus.wait_for_state(DevState.UNKNOWN)

    send(0)
    before = pilatus.ledger()["received"]
    send(1)
    wait_for(lambda: pilatus.ledger()["reduced"] == before + FRAMES)
    counts = pilatus.ledger()
    assert (counts["rejected"], counts["lost"], counts["queued"]) == (0, 0, 0)
