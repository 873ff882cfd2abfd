"""A real scan gives the same numbers live, through Tango, as offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ronda.core.images.pilatus import PilatusParameters, PilatusStage
from ronda.core.runner import Runner
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import StartDevice, offline
from ronda.tests.waiting import wait_for

PLACE = {
    "photon_energy": 13.5,
    "detector_distance": 0.131,
    "beam_center_x": 210.0,
    "beam_center_y": 373.0,
}
ROI = "ring=100,100,200,150"
SAME = [
    "accumulated_image",
    "accumulated_total",
    "valid_count",
    "overflow_pixels",
    "roi_mean",
    "roi_std",
    "roi_com_y",
    "roi_x",
    "roi_step_x",
    "roi_step_mean",
    "roi_step_error",
    "roi_step_n",
    "azimuthal_q",
    "azimuthal_intensity",
    "azimuthal_sigma",
]


@pytest.fixture
def source(lab6: Path) -> str:
    """URL of the recording with its positions."""
    return f"recording:{lab6 / 'lab6-pilatus.cbors.gz'},{lab6 / 'lab6-sardana.cbors'}"


@pytest.fixture
def beamline(free_port: int) -> Iterator[Replay]:
    """A detector whose scan posts its positions."""
    replay = Replay("stins+tcp://127.0.0.1:0", f"sardana+http://127.0.0.1:{free_port}")
    yield replay
    replay.close()


@pytest.mark.parametrize("workers", ["1", "4"])
def test_numbers_differ(
    source: str, beamline: Replay, start_device: StartDevice, free_port: int, workers: str
) -> None:
    device = start_device(
        "PilatusAccumulator",
        SourceUrl=f"stins+{beamline.address}",
        PositionsUrl=f"sardana+http://127.0.0.1:{free_port}",
        Workers=workers,
    )
    device.put(PLACE)
    device.proxy.AddRoi(ROI)
    device.proxy.Start()
    beamline.rate = 60.0
    beamline.start(source, filename="")
    assert beamline.wait(60), beamline.problem
    wait_for(lambda: device.ledger()["reduced"] == 30)
    wait_for(lambda: np.all(device.proxy.roi_step_n == 6) and device.proxy.roi_step_n.size == 5)
    device.stop()
    runner = Runner(PilatusStage(), PilatusParameters().changed(PLACE))
    runner.command("AddRoi", ROI)
    expected = offline(runner, source, SAME)
    device.check_shown(expected)
    assert expected["accumulated_total"] == pytest.approx(1.5555e6, rel=1e-4)
    assert expected["roi_step_x"].tolist() == [1.0, 1.25, 1.5, 1.75, 2.0]
