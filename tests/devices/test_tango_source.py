"""Image events as a source: lossy, which it says, and lost with its device."""

from __future__ import annotations

from pathlib import Path

from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import StartDevice
from ronda.tests.waiting import wait_for
from tango import DevState


def test_events_of_an_image_are_a_source_for_the_next_device(
    start_device: StartDevice, detector: Replay, frames_file: Path
) -> None:
    first = start_device("GalleryDevice", SourceUrl=f"stins+{detector.address}")
    second = start_device("GalleryDevice", SourceUrl=f"{first.trl}/preview")
    second.proxy.Start()
    wait_for(lambda: "Tango events" in second.proxy.status())
    first.proxy.Start()
    detector.rate = 10.0
    detector.start(f"hdf5:{frames_file}", filename="")
    second.wait_until_reduced(3)
    assert second.proxy.preview.shape == (6, 5)
    first.process.kill()
    second.wait_for_state(DevState.UNKNOWN)
    assert "source lost" in second.proxy.status()
    before, run_id = second.ledger(), second.proxy.run_id
    again = start_device("GalleryDevice", first.name, SourceUrl=f"stins+{detector.address}")
    again.proxy.Start()
    detector.wait()
    detector.start(f"hdf5:{frames_file}", filename="")
    second.wait_until_reduced(before["reduced"] + 3)
    assert second.state == DevState.RUNNING
    assert second.proxy.run_id > run_id
    assert second.ledger()["rejected"] == 0
    second.stop()
