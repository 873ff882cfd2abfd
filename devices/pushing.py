"""The one thread of a server that pushes events, and never more than a screen can show.

Events are a notice for screens and archives, not the way of the data: what
changes faster than they are pushed is passed over. Several pushing threads
would mix up each other's data (measured on Tango 9), hence one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any, Protocol

import numpy as np
import tango
from tango.utils import PyTangoThread

log = logging.getLogger(__name__)

PERIOD = 0.02
"""Seconds between pushes of scalars."""
SLOW_PERIOD = 0.1
"""Seconds between pushes of arrays, and looks at the state."""


class Pushing(Protocol):
    """What the thread asks of a device."""

    def push_scalars(self) -> None:
        """Push the scalars that changed."""

    def push_slow(self) -> None:
        """Push State, Status and the arrays that somebody listens to."""


class Pusher:
    """Pushes for all devices of a server while there are any."""

    def __init__(self) -> None:
        self._devices: list[Pushing] = []
        self._changed = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, device: Pushing) -> None:
        """Begin to push for a device."""
        with self._changed:
            self._devices.append(device)
            if self._thread is None:
                self._thread = PyTangoThread(target=self._run, name="ronda-events", daemon=True)
                self._thread.start()

    def remove(self, device: Pushing) -> None:
        """Push no more for a device, once a push that is under way is done.

        It never waits: the caller may hold what that push waits for.
        """
        with self._changed:
            if device in self._devices:
                self._devices.remove(device)

    def _run(self) -> None:
        slow = time.monotonic()
        while True:
            begin = time.monotonic()
            with self._changed:
                devices = list(self._devices)
                if not devices:
                    self._thread = None
                    return
            for device in devices:
                self._push(device.push_scalars)
                if begin >= slow:
                    self._push(device.push_slow)
            if begin >= slow:
                slow = begin + SLOW_PERIOD
            time.sleep(max(0.0, begin + PERIOD - time.monotonic()))

    def _push(self, push: Any) -> None:
        try:
            push()
        except tango.DevFailed as error:
            # a long request holds the device; the next push tells the same
            log.debug("event not pushed: %s", error.args[0].desc)
        except Exception:
            log.exception("event not pushed")


pusher = Pusher()
"""The one of this process."""


def same(old: Any, new: Any) -> bool:
    """Tell whether two values are the same; NaN is the same as NaN."""
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return np.array_equal(old, new, equal_nan=new.dtype.kind == "f")
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old):
        return math.isnan(new)
    return bool(old == new)
