"""A device that speaks the interface of LimaCCDs, with a simulated camera, and its server.

Every pixel of an image is `first + number`, so that a sum tells what is in it.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import Any

import numpy as np
import tango
from ronda.devices.servers import serve
from tango import AttrWriteType
from tango.server import Device, attribute, command, device_property

MAGIC = 0x44544159


def setting(name: str, initial: str | float, **options: Any) -> attribute:
    """Return an attribute that keeps what is written to it."""

    def read(device: Any) -> Any:
        return device.settings.get(name, initial)

    def write(device: Any, value: Any) -> None:
        device.settings[name] = value

    access = AttrWriteType.READ_WRITE
    return attribute(dtype=type(initial), fget=read, fset=write, access=access, **options)


def data_array(
    image: np.ndarray[Any, Any], number: int, tag: int = 0xFFFFFFFF, version: int = 4
) -> bytes:
    """Return an image as LimaCCDs encodes it, in this version of the header."""
    kinds = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
    size = image.itemsize
    sizes = [*image.shape[::-1], 0, 0, 0, 0]
    steps = [size, size * image.shape[1], 0, 0, 0, 0]
    kind, big = kinds.index(image.dtype.str[1:]), int(image.dtype.str[0] == ">")
    numbered = number if version >= 3 else 0
    header = 80 if version >= 4 else 64
    head = struct.pack(
        "<IHHIIHH6H6IQ", MAGIC, version, header, 2, kind, big, 2, *sizes, *steps, numbered
    )
    if version >= 4:
        head += struct.pack("<QII", tag, 0, 0)
    return head + image.tobytes()


class LimaCCDs(Device):
    """A camera that takes images into a ring of buffers."""

    TangoEvent = device_property(bool, default_value=True)

    camera_model = attribute(dtype=str, fget=lambda self: "Simulated 6x5")
    camera_type = attribute(dtype=str, fget=lambda self: "Simulator")
    acq_mode = attribute(dtype=str, fget=lambda self: "SINGLE")
    acq_nb_frames = setting("acq_nb_frames", 10)
    acq_expo_time = setting("acq_expo_time", 0.001, unit="s")
    saving_mode = setting("saving_mode", "MANUAL")
    saving_directory = setting("saving_directory", "")
    saving_prefix = setting("saving_prefix", "")
    saving_suffix = setting("saving_suffix", ".h5")
    saving_next_number = setting("saving_next_number", 0)
    saving_frame_per_file = setting("saving_frame_per_file", 1000)
    saving_index_format = setting("saving_index_format", "%04d")
    saving_overwrite_policy = setting("saving_overwrite_policy", "ABORT")
    last_image_saved = attribute(dtype=int, fget=lambda self: -1)
    buffer_max_number = setting("buffer_max_number", 1000)
    image_events_max_rate = setting("image_events_max_rate", 25.0, unit="Hz")

    rate = setting("rate", 0.0, unit="Hz", doc="Test: images a second; 0: all at once.")
    first = setting("first", 1.0, doc="Test: what every pixel of image 0 is.")
    rows = setting("rows", 5, doc="Test: rows of an image.")
    columns = setting("columns", 6, doc="Test: columns of an image.")
    version = setting("version", 4, doc="Test: of the header of images.")
    hanging = setting("hanging", 0.0, unit="s", doc="Test: how long a readImage takes.")
    truncating = setting("truncating", False, doc="Test: leave out the last byte of images.")

    def init_device(self) -> None:
        """Be as after switching on."""
        super().init_device()
        self.settings: dict[str, Any] = {}
        self._ready = -1
        self._looks = 0
        self._status = "Ready"
        self._tag = 0
        self._images: dict[int, np.ndarray[Any, Any]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._taking: threading.Thread | None = None
        self._pushed = 0.0
        for name in ("last_image_ready", "acq_status"):
            self.set_change_event(name, True, False)

    def delete_device(self) -> None:
        """Stop taking images."""
        self._stopping.set()

    @attribute(dtype=int)
    def last_image_ready(self) -> int:
        """Return the number of the last image that is ready."""
        return self._ready

    @attribute(dtype=str)
    def acq_status(self) -> str:
        """Return whether images are taken."""
        self._looks += 1
        return self._status

    @attribute(dtype=int)
    def looks(self) -> int:
        """Test: how often acq_status was read."""
        return self._looks

    @command
    def prepareAcq(self) -> None:
        """Forget all images."""
        if self._status == "Running":
            raise RuntimeError("Acquisition not finished")
        with self._lock:
            self._images.clear()
            self._ready, self._tag = -1, self._tag + 1
        self._tell(now=True)
        self.push_change_event("acq_status", self._status)

    @command
    def startAcq(self) -> None:
        """Take images."""
        self._status = "Running"
        self._stopping = threading.Event()
        self._taking = threading.Thread(target=self._take, args=(self._stopping,))
        self._taking.start()
        self.push_change_event("acq_status", self._status)

    @command
    def stopAcq(self) -> None:
        """Take no more images."""
        self._stopping.set()

    @command(dtype_in=int, dtype_out=tango.DevEncoded)
    def readImage(self, number: int) -> tuple[str, bytes]:
        """Return an image while it is in the ring."""
        time.sleep(self.settings.get("hanging", 0.0))
        with self._lock:
            if number not in self._images:
                raise RuntimeError("Frame no more available")
            blob = data_array(
                self._images[number], number, self._tag, self.settings.get("version", 4)
            )
        return "DATA_ARRAY", blob[: len(blob) - self.settings.get("truncating", False)]

    def _take(self, stopping: threading.Event) -> None:
        """Take the images of an acquisition."""
        shape = self.settings.get("rows", 5), self.settings.get("columns", 6)
        rate, total = self.settings.get("rate", 0.0), self.settings.get("acq_nb_frames", 10)
        first, size = self.settings.get("first", 1.0), self.settings.get("buffer_max_number", 1000)
        begin, number = time.monotonic(), 0
        with tango.EnsureOmniThread():
            while not stopping.is_set() and (number < total or not total):
                if rate:
                    stopping.wait(max(begin + (number + 1) / rate - time.monotonic(), 0))
                image = np.full(shape, first + number, np.int32)
                with self._lock:
                    self._images.pop(number - size, None)
                    self._images[number] = image
                    self._ready = number
                self._tell()
                number += 1
            self._status = "Ready"
            self._tell(now=True)
            self.push_change_event("acq_status", self._status)

    def _tell(self, now: bool = False) -> None:
        """Push the number of the last image, not too often."""
        interval = 1 / self.settings.get("image_events_max_rate", 25.0)
        if self.TangoEvent and (now or time.monotonic() > self._pushed + interval):
            self._pushed = time.monotonic()
            self.push_change_event("last_image_ready", self._ready)


if __name__ == "__main__":
    serve("LimaCCDs", LimaCCDs)
