"""What systemd is told: that a server is ready, and that its devices live.

Protocol: `sd_notify(3)`. Nothing is sent where systemd did not ask for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import tango
from tango.server import Device
from tango.utils import PyTangoThread

CLOSING_TIME = 90.0
"""Seconds that a device may take to close and, after an Init, to be back."""


def ready() -> None:
    """Tell that the devices answer, and from now on that they live."""
    _tell(b"READY=1")
    watchdog.start()


class Watchdog:
    """Feeds systemd's watchdog while every device of the server can answer.

    A device that does not let a request in for so long that systemd loses its
    patience is stuck, and a restart is the cure. One that is slow is not, nor is
    one that waits, or is in FAULT, or closes its files.
    """

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self._away: dict[str, float] = {}
        self._changed = threading.Lock()

    def start(self) -> None:
        """Begin to feed, if systemd watches this process."""
        limit = float(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
        watched = os.environ.get("WATCHDOG_PID") or str(os.getpid())
        if limit > 0 and watched == str(os.getpid()):
            run = PyTangoThread(target=self._run, args=(limit / 4,), name="watchdog", daemon=True)
            run.start()

    def watch(self, device: Device) -> None:
        """Feed only while this device answers."""
        with self._changed:
            self._devices[device.get_name()] = device
            self._away.pop(device.get_name(), None)

    def leave(self, device: Device) -> None:
        """Do without this device while it closes; when this returns it may be destroyed."""
        with self._changed:
            if self._devices.pop(device.get_name(), None):
                self._away[device.get_name()] = time.monotonic()

    def _run(self, period: float) -> None:
        while True:
            if self._alive():
                _tell(b"WATCHDOG=1")
            time.sleep(period)

    def _alive(self) -> bool:
        """Tell whether all devices answer, or close in time."""
        with self._changed:
            oldest = min(self._away.values(), default=time.monotonic())
            back_in_time = time.monotonic() - oldest < CLOSING_TIME
            return back_in_time and all(map(_answers, self._devices.values()))


watchdog = Watchdog()
"""The one of this process."""


def _answers(device: Device) -> bool:
    """Tell whether Tango would let a request into a device, within Tango's own 3.2 s."""
    try:
        with tango.AutoTangoMonitor(device):
            return True
    except tango.DevFailed:
        return False


def _tell(message: bytes) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),  # systemd then does without
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        notify.sendto(message, address)
