"""A device as a beamline would write it, which takes what it needs from a reduction device.

Of Ronda it knows nothing but the names of attributes.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import tango
from ronda.devices.servers import serve
from tango.server import Device, attribute, device_property
from tango.utils import PyTangoThread

POLLED = ["run_id", "frame_id", "accumulated_frames", "accumulated_total", "frames_reduced"]
LISTENED = [
    "State",
    "frame_id",
    "accumulated_total",
    "last_error",
    # arrays that are empty at first
    "roi_names",
    "roi_mean",
    "roi_time",
    "azimuthal_intensity",
    "preview",
]
FRAMES, PIXELS = 20, 30
"""Of the series that comes again and again; all pixels of frame n are n + 1."""


def total(frames: int) -> int:
    """Return what so many frames add up to."""
    series, rest = divmod(frames, FRAMES)
    return PIXELS * (series * FRAMES * (FRAMES + 1) + rest * (rest + 1)) // 2


class Follower(Device):
    """Follows a reduction device in a thread, and counts what comes."""

    Reduction = device_property(str, "Name of the reduction device.", mandatory=True)
    Rate = device_property(float, "Polls a second; 0: it subscribes to events.", default_value=0.0)

    def init_device(self) -> None:
        super().init_device()
        self.set_change_event("newest", True, False)
        self._ended = threading.Event()
        self._counts = {"updates": 0, "errors": 0, "torn": 0, "newest": -1}
        # a thread: the reduction device may be away when this one starts
        self._thread = PyTangoThread(target=self._poll if self.Rate else self._listen, daemon=True)
        self._thread.start()

    def delete_device(self) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        """Read a few attributes together at a set rate."""
        proxy = None
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / self.Rate, time.monotonic())
            try:
                proxy = proxy or tango.DeviceProxy(self.Reduction)
                values = {one.name: one.value for one in proxy.read_attributes(POLLED)}
            except tango.DevFailed:
                self._counts["errors"] += 1
                continue
            self._counts["newest"] = frame = values["frame_id"]
            frames = values["accumulated_frames"]
            same = values["accumulated_total"] == total(frames) and frame == (frames - 1) % FRAMES
            self._counts["torn"] += frame >= 0 and not same
            self._counts["updates"] += 1

    def _listen(self) -> None:
        """Subscribe to change events, as soon as there is somebody to subscribe to."""
        proxy, wanted = None, list(LISTENED)
        while not self._ended.wait(0.1):
            try:
                proxy = proxy or tango.DeviceProxy(self.Reduction)
                while wanted:
                    proxy.subscribe_event(wanted[0], tango.EventType.CHANGE_EVENT, self._event)
                    del wanted[0]
            except tango.DevFailed:
                self._counts["errors"] += 1

    def _event(self, event: Any) -> None:
        if event.err:
            self._counts["errors"] += 1
            return
        self._counts["updates"] += 1
        if event.attr_value.name == "frame_id":
            self._counts["newest"] = int(event.attr_value.value)
            self.push_change_event("newest", self._counts["newest"])

    @attribute(dtype=int, doc="How often something came.")
    def updates(self) -> int:
        return self._counts["updates"]

    @attribute(dtype=int, doc="How often the reduction device did not answer.")
    def errors(self) -> int:
        return self._counts["errors"]

    @attribute(dtype=int, doc="Values that came together and do not belong together.")
    def torn(self) -> int:
        return self._counts["torn"]

    @attribute(dtype=int, doc="Number of the newest frame.")
    def newest(self) -> int:
        return self._counts["newest"]


if __name__ == "__main__":
    serve("Follower", Follower)
