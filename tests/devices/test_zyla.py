"""The Zyla device: dark frames are recorded, used and removed while it runs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import Served, StartDevice, complete, refusal, send
from ronda.tests.waiting import wait_for
from tango import DevState

FRAMES, SHAPE = 12, (20, 30)
PATTERN = (np.arange(600).reshape(SHAPE) % 7).astype(np.uint16)
"""What the sensor adds to its dark in every pixel."""


def write(path: Path, frames: NDArray[np.uint16]) -> str:
    """Write frames to a file; return its URL."""
    with h5py.File(path, "w") as file:
        file["data"] = frames
    return f"hdf5:{path}"


@pytest.fixture
def darkness(tmp_path: Path) -> str:
    """URL of frames without light."""
    return write(tmp_path / "dark.h5", np.broadcast_to(100 + PATTERN, (FRAMES, *SHAPE)))


@pytest.fixture
def light(tmp_path: Path) -> str:
    """URL of frames with 11, 12 and 13 counts of light on the same dark."""
    frames = np.broadcast_to(100 + PATTERN, (FRAMES, *SHAPE)).copy()
    frames[:, 0, :3] += np.array([11, 12, 13], np.uint16)
    return write(tmp_path / "light.h5", frames)


@pytest.fixture
def zyla(start_device: StartDevice, detector: Replay, tmp_path: Path) -> Served:
    """A running device that reads that detector."""
    device = start_device(
        "ZylaThresholder", SourceUrl=f"stins+{detector.address}", OutputRoot=str(tmp_path / "out")
    )
    device.proxy.Start()
    return device


def test_the_recorded_dark_is_subtracted_only_while_it_is_in_use(
    zyla: Served, detector: Replay, darkness: str, light: str, tmp_path: Path
) -> None:
    proxy = zyla.proxy
    assert proxy.threshold == 12 and proxy.dark_level == 100
    assert "no dark was recorded" in refusal_of_command(zyla, "UseDark")
    proxy.Reset()
    proxy.RecordDark(FRAMES)
    wait_for(lambda: proxy.dark_missing == FRAMES)
    proxy.UseDark()
    send(detector, zyla, darkness)
    assert proxy.accumulated_frames == 0, "dark frames are no data"
    wait_for(lambda: proxy.dark_frames == FRAMES)
    assert proxy.dark_file.endswith(".npz")
    np.testing.assert_array_equal(proxy.dark, 100.0 + PATTERN)
    assert not proxy.dark_noise.any()
    send(detector, zyla, light, filename="/there/scan-0003_zyla.h5")
    assert proxy.dark_valid and 0 <= proxy.dark_age < 60
    image = np.zeros(SHAPE)
    image[0, 1:3] = 12, 13
    np.testing.assert_array_equal(proxy.image, image)
    np.testing.assert_array_equal(proxy.accumulated_image, FRAMES * image)
    with h5py.File(complete(tmp_path / "out" / "scan-0003_zyla_zyla.h5")) as file:
        np.testing.assert_array_equal(file["entry/process/dark/mean"][()], 100 + PATTERN)
        assert file["entry/process/dark/frames"][()] == FRAMES
    proxy.RemoveDark()
    send(detector, zyla, light)
    wait_for(lambda: not proxy.dark_valid)
    uniform = PATTERN + image
    np.testing.assert_array_equal(proxy.image, np.where(uniform < 12, 0, uniform))


def refusal_of_command(device: Served, name: str) -> str:
    """Return why a command that travels with the frames was refused, when it came to it."""
    getattr(device.proxy, name)()
    wait_for(lambda: device.proxy.state() == DevState.ALARM)
    return str(device.proxy.last_error)


def test_a_dark_in_use_survives_a_restart_and_frames_of_another_shape(
    zyla: Served,
    start_device: StartDevice,
    detector: Replay,
    darkness: str,
    light: str,
    tmp_path: Path,
) -> None:
    zyla.proxy.RecordDark(FRAMES)
    send(detector, zyla, darkness)
    zyla.proxy.UseDark()
    kept = zyla.state_folder / "parameters.yaml"
    wait_for(lambda: kept.exists() and ".npz" in kept.read_text())
    zyla.process.kill()
    again = start_device("ZylaThresholder", zyla.name, SourceUrl=f"stins+{detector.address}")
    assert again.proxy.dark_frames == FRAMES
    again.wait_for_state(DevState.RUNNING)
    before = detector.sent.images
    detector.start(light, filename="")
    assert detector.wait(30)
    again.wait_until_reduced(detector.sent.images - before)
    assert again.proxy.dark_valid
    smaller = write(tmp_path / "smaller.h5", np.full((3, 8, 9), 113, np.uint16))
    detector.start(smaller, filename="")
    assert detector.wait(30)
    wait_for(lambda: not again.proxy.dark_valid)
    assert again.proxy.image.tolist() == np.full((8, 9), 13).tolist()
    wait_for(lambda: "the recorded dark is not used, because" in again.proxy.status().lower())


def test_a_dark_of_no_frames_is_refused(zyla: Served) -> None:
    zyla.proxy.RecordDark(0)
    wait_for(lambda: zyla.proxy.state() == DevState.ALARM)
    assert "a dark of 0 frames" in zyla.proxy.last_error
    assert "threshold" in refusal(lambda: setattr(zyla.proxy, "threshold", -1.0))
