"""What systemd is told: that a server is ready, and that it is alive.

Protocol: `sd_notify(3)`. Nothing is sent where systemd did not ask for it.
"""

from __future__ import annotations

import contextlib
import os
import socket


def ready() -> None:
    """Tell that the devices answer."""
    _tell(b"READY=1")


def feed_watchdog() -> None:
    """Tell that the server is alive, if systemd watches it."""
    if "WATCHDOG_USEC" in os.environ:
        _tell(b"WATCHDOG=1")


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
