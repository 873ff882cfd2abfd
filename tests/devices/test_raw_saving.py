"""Raw frames are saved: unless a trusted, healthy device was asked not to, and then in between.

This module is also the server of the tests' device, which uses `RawSaving`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import tango
from pydantic import model_validator
from ronda.core.parameters import parameter
from ronda.core.sources.replay import Replay
from ronda.devices.raw_saving import LOOK, RawSaving
from ronda.devices.servers import serve
from ronda.devices.trusting import TrustingDevice
from ronda.tests.devices.conftest import FRAMES, Served, StartDevice, refusal
from ronda.tests.toy import ToyParameters, ToyStage
from ronda.tests.waiting import wait_for
from tango import DevState
from tango.server import command


class TrustedParameters(ToyParameters):
    trusted: bool = parameter(False, "Whether raw frames need not be saved.")
    save_raw: bool = parameter(True, "Whether raw frames are saved.")

    @model_validator(mode="after")
    def _consistent(self) -> TrustedParameters:
        if not (self.save_raw or self.trusted):
            raise ValueError("save_raw can only be switched off while trusted is on")
        return self


class TrustedStage(ToyStage):
    name = "trusted"
    Parameters = TrustedParameters


class TrustedDevice(TrustingDevice, stage=TrustedStage):
    """Less than the device of the Balor, and it breaks when asked to."""

    @command
    def Break(self) -> None:
        """Be in FAULT until Init."""
        self._fault = "broken by a test"


@dataclass
class Beamline:
    """A camera and the device that reduces its frames."""

    camera: Served
    device: Served

    @property
    def save_raw(self) -> bool:
        return self.camera.proxy.SaveRaw

    @property
    def writes(self) -> list[str]:
        return list(self.camera.proxy.writes or ())

    @property
    def status(self) -> str:
        return self.device.proxy.status()

    def switch_off(self) -> None:
        """Have no raw frames saved, and wait until that is so."""
        self.device.proxy.trusted = True
        self.device.proxy.save_raw = False
        self.device.proxy.Start()
        wait_for(lambda: f"Raw frames are not saved by {self.camera.name}" in self.status)

    def trigger(self, frames: int = 1) -> None:
        """Take frames by software, and wait until they are reduced."""
        reduced = self.device.proxy.frames_reduced
        for _ in range(frames):
            self.camera.proxy.SoftwareTrigger()
        self.device.wait_until_reduced(reduced + frames)

    def arm(self, frames: int) -> None:
        """Begin a series of frames by software, and take the first one."""
        self.camera.proxy.TriggerMode = "SOFTWARE"
        self.camera.proxy.nTriggers = frames
        self.camera.proxy.Arm()
        self.trigger()


def give_time() -> None:
    """Wait for what must not happen."""
    time.sleep(2 * LOOK)


@pytest.fixture(scope="module")
def shared(start_shared: StartDevice) -> Beamline:
    return Beamline(start_shared("Andor3"), start_shared("TrustedDevice"))


@pytest.fixture
def beamline(shared: Beamline) -> Iterator[Beamline]:
    """A camera just switched on, and a device that reads it."""
    shared.device.set_up(
        SourceUrl=f"stins+{shared.camera.proxy.publishes_at}", DetectorDevice=shared.camera.name
    )
    shared.device.proxy.save_raw = True
    shared.device.proxy.trusted = False
    yield shared
    shared.camera.proxy.Init()
    shared.device.set_up(DetectorDevice="")
    shared.camera.proxy.Init()


def start_two(start: StartDevice, port: int) -> Beamline:
    """Start a camera and a device for one test that ends one of them."""
    address = f"tcp://127.0.0.1:{port}"
    camera = start("Andor3", Publish=address)
    source = f"stins+{address}"
    device = start("TrustedDevice", SourceUrl=source, DetectorDevice=camera.name)
    return Beamline(camera, device)


# ------------------------------------------------------------------ when it is off


def test_raw_frames_are_saved_unless_a_running_trusted_device_is_asked_not_to(
    beamline: Beamline,
) -> None:
    device = beamline.device.proxy
    device.Start()
    with pytest.raises(tango.DevFailed, match="only be switched off while trusted"):
        device.save_raw = False
    device.trusted = True
    give_time()
    assert beamline.writes == []
    device.save_raw = False
    wait_for(lambda: not beamline.save_raw)
    wait_for(lambda: f"Raw frames are not saved by {beamline.camera.name}" in beamline.status)
    assert beamline.device.state == DevState.RUNNING
    device.save_raw = True
    wait_for(lambda: beamline.save_raw)
    wait_for(lambda: "Raw" not in beamline.status)
    device.save_raw = False
    wait_for(lambda: not beamline.save_raw)
    device.Stop()
    wait_for(lambda: beamline.save_raw)
    give_time()
    assert beamline.writes == ["False ON", "True ON"] * 2


def test_a_camera_that_is_never_switched_off_is_never_written_to(beamline: Beamline) -> None:
    device = beamline.device.proxy
    device.trusted = True
    device.Start()
    beamline.camera.proxy.truncating = True
    beamline.camera.proxy.Arm()
    beamline.device.wait_for_state(DevState.ALARM)
    device.Reset()
    device.Stop()
    beamline.camera.proxy.SaveRaw = False  # by somebody who knows
    give_time()
    beamline.camera.proxy.SaveRaw = True
    device.Init()
    give_time()
    assert len(beamline.writes) == 2


def test_a_series_that_is_saved_is_saved_to_its_end(beamline: Beamline) -> None:
    beamline.device.proxy.trusted = True
    beamline.device.proxy.Start()
    beamline.arm(3)
    beamline.device.proxy.save_raw = False
    give_time()
    beamline.trigger()
    assert beamline.save_raw
    beamline.trigger()
    wait_for(lambda: not beamline.save_raw)
    beamline.arm(1)
    assert beamline.writes == ["False ON"]
    assert list(beamline.camera.proxy.armed) == [True, False]


def test_a_series_that_only_the_stream_knows_of_is_waited_for(
    beamline: Beamline, detector: Replay, frames_file: object
) -> None:
    device = beamline.device
    device.set_up(SourceUrl=f"stins+{detector.address}")
    device.proxy.trusted = True
    device.proxy.Start()
    detector.rate = 10.0
    detector.start(f"hdf5:{frames_file}", filename="")
    device.wait_until_reduced(1)
    device.proxy.save_raw = False
    wait_for(lambda: not beamline.save_raw)
    assert device.proxy.frames_reduced == FRAMES


def test_a_series_that_only_the_camera_knows_of_is_waited_for(
    beamline: Beamline, detector: Replay
) -> None:
    beamline.device.set_up(SourceUrl=f"stins+{detector.address}")
    beamline.camera.proxy.Live()
    beamline.device.proxy.trusted = True
    beamline.device.proxy.save_raw = False
    beamline.device.proxy.Start()
    give_time()
    assert beamline.writes == []
    beamline.camera.proxy.Stop()
    wait_for(lambda: beamline.writes == ["False ON"])


# ----------------------------------------------------------------- on again


@pytest.mark.parametrize("state", [DevState.FAULT, DevState.ALARM])
def test_in_the_middle_of_a_series_trouble_switches_it_on_at_once(
    beamline: Beamline, state: DevState
) -> None:
    beamline.switch_off()
    beamline.arm(3)
    if state == DevState.FAULT:
        beamline.device.proxy.Break()
    else:
        beamline.camera.proxy.truncating = True
        beamline.camera.proxy.SoftwareTrigger()
    wait_for(lambda: beamline.writes == ["False ON", "True RUNNING"])
    assert beamline.device.state == state
    beamline.device.proxy.Reset()
    give_time()
    assert beamline.save_raw
    beamline.camera.proxy.Stop()
    if state == DevState.ALARM:
        wait_for(lambda: beamline.writes == ["False ON", "True RUNNING", "False ON"])


def test_init_switches_it_on_again(beamline: Beamline) -> None:
    beamline.switch_off()
    beamline.device.proxy.Init()
    assert beamline.save_raw
    assert beamline.writes == ["False ON", "True ON"]


def test_the_end_of_the_server_switches_it_on_again(
    start_device: StartDevice, free_port: int
) -> None:
    beamline = start_two(start_device, free_port)
    beamline.switch_off()
    assert beamline.device.process.stop() == 0
    assert beamline.save_raw


def test_a_server_that_was_killed_switches_it_on_at_its_next_start(
    start_device: StartDevice, free_port: int
) -> None:
    beamline = start_two(start_device, free_port)
    beamline.switch_off()
    beamline.device.process.kill()
    assert not beamline.save_raw
    again = start_device("TrustedDevice", beamline.device.name, DetectorDevice=beamline.camera.name)
    wait_for(lambda: beamline.save_raw)
    wait_for(lambda: "was found switched off" in again.proxy.status())
    give_time()
    assert beamline.save_raw, "it is off although the device has crashed"
    assert again.state == DevState.RUNNING
    again.proxy.Reset()
    assert "was found" not in again.proxy.status()
    wait_for(lambda: not beamline.save_raw)
    again.proxy.Stop()
    wait_for(lambda: beamline.save_raw)


# ----------------------------------------------------- cameras that go wrong


@pytest.fixture
def asking(beamline: Beamline) -> Iterator[RawSaving]:
    """Asks for no raw frames all the time, as no healthy device does."""
    beamline.device.set_up(DetectorDevice="")
    beamline.camera.proxy.refusing = True
    saving = RawSaving(beamline.camera.trl, lambda: False, lambda: False)
    yield saving
    saving.close()
    assert beamline.save_raw


def test_after_a_failure_raw_frames_are_saved_until_reset_whatever_is_asked(
    beamline: Beamline, asking: RawSaving
) -> None:
    wait_for(lambda: "it is refused" in asking.problem)
    beamline.camera.proxy.refusing = False
    give_time()
    assert beamline.save_raw
    assert "False ON" not in beamline.writes[1:]
    asking.reset()
    wait_for(lambda: not beamline.save_raw)


@pytest.mark.allow_error_log
def test_a_defect_where_it_is_asked_leaves_raw_frames_saved(beamline: Beamline) -> None:
    beamline.device.set_up(DetectorDevice="")
    asked = [False, 1 / 2]

    def wanted() -> bool:
        return bool(asked[0] / asked[1])

    saving = RawSaving(beamline.camera.trl, wanted, lambda: False)
    wait_for(lambda: not beamline.save_raw)
    asked[1] = 0
    wait_for(lambda: beamline.save_raw)
    assert saving.problem == "internal error: division by zero"
    saving.close()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("refusing", "cannot be switched off: ValueError: SaveRaw cannot be written"),
        ("ignoring", "cannot be switched off: it shows True after False was written"),
    ],
)
def test_a_camera_that_does_not_do_it_is_an_alarm_and_is_left_alone_until_reset(
    beamline: Beamline, way: str, said: str
) -> None:
    camera, device = beamline.camera.proxy, beamline.device
    camera.write_attribute(way, True)
    device.proxy.trusted = True
    device.proxy.save_raw = False
    device.proxy.Start()
    device.wait_for_state(DevState.ALARM)
    assert said in beamline.status
    give_time()
    assert [write for write in beamline.writes if "False" in write] == ["False ON"]
    assert beamline.save_raw
    camera.write_attribute(way, False)
    device.proxy.Reset()
    wait_for(lambda: not beamline.save_raw)
    assert device.state == DevState.RUNNING


def test_a_camera_that_cannot_be_switched_on_is_an_alarm_and_is_tried_again(
    beamline: Beamline,
) -> None:
    beamline.switch_off()
    beamline.camera.proxy.ignoring = True
    beamline.device.proxy.Stop()
    beamline.device.wait_for_state(DevState.ALARM)
    assert "cannot be switched on: it shows False" in beamline.status
    beamline.camera.proxy.ignoring = False
    wait_for(lambda: beamline.save_raw)
    assert beamline.device.state == DevState.ALARM
    beamline.device.proxy.Reset()
    assert beamline.device.state == DevState.STANDBY


def test_a_camera_that_answers_too_late_holds_up_nothing_and_is_switched_on(
    beamline: Beamline,
) -> None:
    impatient = tango.DeviceProxy(beamline.device.trl)
    impatient.set_timeout_millis(1500)
    beamline.camera.proxy.delay = 6.0
    impatient.trusted = True
    impatient.save_raw = False
    impatient.Start()
    wait_for(lambda: impatient.state() == DevState.ALARM)
    assert "cannot be switched off: it does not answer" in impatient.status()
    assert "SourceUrl" not in refusal(lambda: impatient.write_attribute("gain", -1.0))
    wait_for(lambda: beamline.writes == ["False ON", "True ON"])
    wait_for(lambda: beamline.save_raw)


def test_what_somebody_else_switches_on_stays_on(beamline: Beamline) -> None:
    beamline.switch_off()
    beamline.camera.proxy.SaveRaw = True
    beamline.device.wait_for_state(DevState.ALARM)
    assert "is on again, and not by this device" in beamline.status
    give_time()
    assert beamline.writes == ["False ON", "True ON"]
    beamline.device.proxy.Reset()
    wait_for(lambda: not beamline.save_raw)


def test_a_camera_that_is_not_there_is_waited_for(
    start_device: StartDevice, detector: Replay
) -> None:
    name = "test/andor3/late"
    source = f"stins+{detector.address}"
    device = start_device("TrustedDevice", SourceUrl=source, DetectorDevice=name)
    wait_for(lambda: f"{name} saves raw frames is not known" in device.proxy.status())
    device.proxy.trusted = True
    device.proxy.save_raw = False
    device.proxy.Start()
    assert device.state == DevState.RUNNING
    beamline = Beamline(start_device("Andor3", name, SaveRawAtStart="False"), device)
    wait_for(lambda: f"Raw frames are not saved by {name}" in beamline.status)
    # what was found switched off is switched on as if it had been done here
    assert device.process.stop() == 0
    assert beamline.writes == ["True ON"]


def test_a_camera_that_is_started_again_is_switched_off_again_once_that_is_acknowledged(
    start_device: StartDevice, free_port: int
) -> None:
    beamline = start_two(start_device, free_port)
    beamline.switch_off()
    beamline.camera.process.kill()
    wait_for(lambda: "is not known" in beamline.status)
    beamline.device.wait_for_state(DevState.UNKNOWN)  # its stream is gone, too
    wait_for(lambda: "cannot be switched on again" in beamline.status)
    beamline.camera = start_device("Andor3", beamline.camera.name)
    beamline.device.wait_for_state(DevState.ALARM)
    assert beamline.writes == []
    beamline.device.proxy.Reset()
    wait_for(lambda: beamline.writes == ["False ON"])
    wait_for(lambda: "not known" not in beamline.status)
    assert beamline.device.state == DevState.RUNNING
    assert beamline.device.process.stop() == 0  # before the camera
    assert beamline.save_raw


@pytest.mark.allow_error_log
def test_a_camera_that_is_gone_while_it_is_off_is_an_alarm_and_init_ends(
    start_device: StartDevice, free_port: int
) -> None:
    beamline = start_two(start_device, free_port)
    beamline.switch_off()
    beamline.camera.process.kill()
    beamline.device.proxy.Stop()
    beamline.device.wait_for_state(DevState.ALARM)
    assert "cannot be switched on again" in beamline.status
    beamline.device.proxy.Init()
    log = beamline.device.process.log.read_text()
    assert f"set SaveRaw of {beamline.camera.name} to true" in log
    # what comes back switched off is switched on, by the next life of the device
    camera = start_device("Andor3", beamline.camera.name, SaveRawAtStart="False")
    wait_for(lambda: camera.proxy.SaveRaw)


def test_without_a_camera_it_is_said_that_raw_frames_are_saved(beamline: Beamline) -> None:
    beamline.device.set_up(DetectorDevice="")
    beamline.device.proxy.trusted = True
    beamline.device.proxy.save_raw = False
    beamline.device.proxy.Start()
    wait_for(lambda: "Raw frames are saved: DetectorDevice is not set" in beamline.status)
    assert beamline.writes == []


if __name__ == "__main__":
    serve("TrustedDevice", TrustedDevice)
