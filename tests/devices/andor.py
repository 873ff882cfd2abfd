"""The device of an Andor camera as MAX IV's `andor-streamer` has it, and its server.

It streams frames as that does, and goes wrong as a test asks.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import zmq
from ronda.core.sources.stins import Part, encode_end, encode_header, encode_image
from ronda.devices.servers import serve
from tango import AttrWriteType, DevState
from tango.server import Device, attribute, command, device_property

SHAPE = (6, 5)
"""Rows and columns of a frame, whatever the AOI is."""


def setting(name: str, initial: str | float, **options: Any) -> attribute:
    """Return an attribute that keeps what is written to it."""

    def read(device: Any) -> Any:
        return device.settings.get(name, initial)

    def write(device: Any, value: Any) -> None:
        device.settings[name] = value

    access = AttrWriteType.READ_WRITE
    return attribute(dtype=type(initial), fget=read, fset=write, access=access, **options)


class Andor3(Device):
    """A camera that reads SaveRaw when it is armed, and streams frames of ones."""

    Publish = device_property(str, default_value="tcp://127.0.0.1:*")
    SaveRawAtStart = device_property(bool, default_value=True)

    DestinationFilename = setting("DestinationFilename", "")
    nTriggers = setting("nTriggers", 1)  # noqa: N815
    ExposureTime = setting("ExposureTime", 0.01, unit="s")
    FrameRate = setting("FrameRate", 10.0, unit="Hz")
    AOIHBin = setting("AOIHBin", 1)
    AOIVBin = setting("AOIVBin", 1)
    AOILeft = setting("AOILeft", 1)
    AOITop = setting("AOITop", 1)
    AOIWidth = setting("AOIWidth", SHAPE[1])
    AOIHeight = setting("AOIHeight", SHAPE[0])
    Fliplr = setting("Fliplr", False)
    Flipud = setting("Flipud", False)
    Rotation = setting("Rotation", 0)

    refusing = setting("refusing", False, doc="Test: refuse what is written to SaveRaw.")
    ignoring = setting(
        "ignoring", False, doc="Test: take what is written to SaveRaw, and do nothing."
    )
    delay = setting("delay", 0.0, unit="s", doc="Test: time that the next write of SaveRaw takes.")
    truncating = setting("truncating", False, doc="Test: send half of each frame.")

    def init_device(self) -> None:
        """Be as after switching on."""
        super().init_device()
        self.settings: dict[str, Any] = {}
        self._trigger_mode = "INTERNAL"
        self._save_raw = self.SaveRawAtStart
        self._writes: list[str] = []
        self._armed: list[bool] = []
        self._acquired = self._number = 0
        self._stopping = threading.Event()
        self._triggers = threading.Semaphore(0)
        self._series: threading.Thread | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.Publish)

    def delete_device(self) -> None:
        """Stop."""
        self.Stop()
        self._socket.close()
        self._context.term()
        super().delete_device()

    def dev_state(self) -> DevState:
        """RUNNING while it measures, else ON."""
        return DevState.RUNNING if self._series and self._series.is_alive() else DevState.ON

    # ------------------------------------------------------------ attributes

    @attribute(dtype=bool)
    def SaveRaw(self) -> bool:
        """Whether the next series is saved."""
        return self._save_raw

    @SaveRaw.write
    def SaveRaw(self, value: bool) -> None:
        self._writes.append(f"{value} {self.dev_state()}")
        time.sleep(self.settings.pop("delay", 0.0))
        if self.settings.get("refusing"):
            raise ValueError("SaveRaw cannot be written: it is refused")
        if not self.settings.get("ignoring"):
            self._save_raw = value

    @attribute(dtype=str)
    def TriggerMode(self) -> str:
        """INTERNAL, EXTERNAL_MULTI or SOFTWARE."""
        return self._trigger_mode

    @TriggerMode.write
    def TriggerMode(self, value: str) -> None:
        if value not in ("INTERNAL", "EXTERNAL_MULTI", "SOFTWARE"):
            raise ValueError(f"TriggerMode {value} is unknown")
        self._trigger_mode = value

    @attribute(dtype=int)
    def nFramesAcquired(self) -> int:
        """Frames taken since Arm."""
        return self._acquired

    @attribute(dtype=int)
    def nFramesReceived(self) -> int:
        """Frames that the receiver took since Arm."""
        return self._acquired

    @attribute(dtype=float, unit="degC")
    def SensorTemperature(self) -> float:
        """Of the sensor."""
        return -30.0

    @attribute(dtype=str)
    def publishes_at(self) -> str:
        """Test: where it streams to."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @attribute(dtype=(str,), max_dim_x=1000)
    def writes(self) -> list[str]:
        """Test: what was written to SaveRaw, with the State then."""
        return self._writes

    @attribute(dtype=(bool,), max_dim_x=1000)
    def armed(self) -> list[bool]:
        """Test: SaveRaw at every Arm."""
        return self._armed

    # -------------------------------------------------------------- commands

    @command
    def Arm(self) -> None:
        """Begin a series; its frames come by themselves, or by triggers."""
        if self.dev_state() is DevState.RUNNING:
            raise RuntimeError("it is armed already")
        self._armed.append(self._save_raw)
        self._acquired = 0
        self._stopping.clear()
        self._triggers = threading.Semaphore(0)
        self._series = threading.Thread(target=self._measure, args=(self._save_raw,))
        self._series.start()

    @command
    def Live(self) -> None:
        """Measure once a second, for the screen only."""
        self.settings |= {"DestinationFilename": "", "nTriggers": 100_000, "FrameRate": 1.0}
        self._trigger_mode = "INTERNAL"
        self.Arm()

    @command
    def Continuous(self) -> None:
        """Measure by external triggers, for the screen only."""
        self.settings |= {"DestinationFilename": "", "nTriggers": 100_000}
        self._trigger_mode = "EXTERNAL_MULTI"
        self.Arm()

    @command
    def SoftwareTrigger(self) -> None:
        """Take a frame."""
        self._triggers.release()

    @command
    def Stop(self) -> None:
        """End the series."""
        self._stopping.set()
        if self._series:
            self._series.join()

    @command
    def RestartReceiver(self) -> None:
        """Do nothing: the receiver is whoever listens."""

    # --------------------------------------------------------------- a series

    def _measure(self, save_raw: bool) -> None:
        name = self.settings.get("DestinationFilename", "")
        self._send(encode_header(self._next(), name, {"save_raw": save_raw}))
        for frame in range(self.settings.get("nTriggers", 1)):
            if not self._triggered():
                break
            parts = encode_image(self._next(), frame, np.ones(SHAPE, np.uint16), time.time())
            if self.settings.get("truncating"):
                parts[1] = parts[1][: len(parts[1]) // 2]
            self._send(parts)
            self._acquired += 1
        self._send(encode_end(self._next()))

    def _triggered(self) -> bool:
        """Wait for the next frame's time; False if stopped before."""
        if self._trigger_mode == "INTERNAL":
            return not self._stopping.wait(1 / self.settings.get("FrameRate", 10.0))
        while not self._stopping.is_set():
            if self._triggers.acquire(timeout=0.01):
                return True
        return False

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _send(self, parts: list[bytes] | list[Part]) -> None:
        """Send a message as soon as there is a reader, if there is one before Stop."""
        while not self._socket.poll(10, zmq.POLLOUT):
            if self._stopping.is_set():
                return
        self._socket.send_multipart(parts)


if __name__ == "__main__":
    serve("Andor3", Andor3)
