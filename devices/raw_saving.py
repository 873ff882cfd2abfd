"""`RawSaving`: has a detector save no raw frames while, and only while, that is wanted.

Beam time cannot be repeated: whenever anything is in doubt, raw frames are saved.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import tango
from tango import DevState
from tango.utils import PyTangoThread

log = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between looks at what is wanted."""
LOOK, LONGEST_WAIT = 0.5, 5.0
"""Seconds between looks at a detector; doubled up to the second while it does not answer."""
TIMEOUT = 3.0
"""Seconds that a detector has for each answer."""
CLOSE_TIME = 5.0
"""Seconds that closing has to switch raw saving on again."""
BETWEEN_SERIES = (DevState.ON, DevState.STANDBY)
"""States of a detector that does not measure."""


class RawSaving:
    """Keeps the attribute SaveRaw of a detector's device as it should be, in a thread.

    It is switched on at once, at any time, and off between series only: it counts
    from the next series on. What was written is read back. After a failure, raw
    frames are saved until `reset`. A detector that shows SaveRaw all the time and
    was never switched off here is never written to.

    Parameters
    ----------
    detector
        Tango name of the device, with the interface of the Andor streamer; empty: none.
    wanted
        Whether raw frames are to be saved, now; called often, and by `state`.
    in_series
        Whether a series is being received, now.
    """

    def __init__(
        self, detector: str, wanted: Callable[[], bool], in_series: Callable[[], bool]
    ) -> None:
        self._detector, self._wanted, self._in_series = detector, wanted, in_series
        self.problem = ""
        """What went wrong, in one sentence; raw frames are saved until `reset`."""
        self._proxy: tango.DeviceProxy | None = None
        self._shown: bool | None = None
        """SaveRaw as it was last read; None: not since it was written, or never."""
        self._lost = ""
        """Why the detector cannot be asked; empty if it can."""
        self._found_off = ""
        self._answerable = False
        """True once raw saving was off, so that it is for us to switch it on."""
        self._closing = threading.Event()
        self._thread = PyTangoThread(target=self._run, name="ronda-raw-saving", daemon=True)
        if detector:
            self._thread.start()

    @property
    def state(self) -> str:
        """What there is to say about raw saving, in one sentence; empty if it is as usual."""
        if not self._detector:
            return "" if self._wanted() else "raw frames are saved: DetectorDevice is not set"
        if self._lost:
            return f"whether {self._detector} saves raw frames is not known: {self._lost}"
        if self._shown is False:
            return f"raw frames are not saved by {self._detector}"
        return self._found_off

    def reset(self) -> None:
        """Forget what went wrong: raw saving may be switched off again."""
        self.problem = self._found_off = ""

    def close(self) -> None:
        """Switch raw saving on again if it is off, in bounded time, and end."""
        self._closing.set()
        if self._detector:
            self._thread.join(CLOSE_TIME)
        if self._answerable and self._shown is not True:
            log.error("raw saving may be off: set SaveRaw of %s to true", self._detector)

    # ----------------------------------------------------------- in the thread

    def _run(self) -> None:
        target, wait, due = True, TICK, 0.0
        while not self._closing.wait(TICK):
            before, target = target, self._target()
            if target is not before or time.monotonic() >= due:
                wait = LOOK if self._attempt(target) else min(2 * wait, LONGEST_WAIT)
                due = time.monotonic() + wait
        deadline = time.monotonic() + CLOSE_TIME
        while self._answerable and self._shown is not True and time.monotonic() < deadline:
            self._attempt(True)
            time.sleep(TICK)

    def _target(self) -> bool:
        """Return what SaveRaw should be; a series that is saved is saved to its end."""
        if self.problem:
            return True
        try:
            return self._wanted() or (self._shown is not False and self._in_series())
        except Exception as error:
            self._fail(f"internal error: {error}")
            log.exception("whether raw frames are wanted cannot be told")
            return True

    def _attempt(self, target: bool) -> bool:
        """Bring the detector to what it should be; False if that is to be tried again later."""
        try:
            return self._keep(target)
        except tango.DevFailed as error:
            self._miss(_reason(error), target)
        except Exception as error:
            self._fail(f"internal error: {error}")
            log.exception("raw saving cannot be looked after")
        return False

    def _keep(self, target: bool) -> bool:
        if target and self._shown and not (self._answerable or self._lost):
            return True
        between_series = self._look(target)
        if self._shown is target:
            return True
        # looking may have taken long
        if not target and (not between_series or self._target()):
            return True
        return self._write(target)

    def _look(self, target: bool) -> bool:
        """Read SaveRaw; tell whether the detector is between series.

        Raises
        ------
        tango.DevFailed
            If it cannot be asked.
        """
        if self._proxy is None:
            proxy = tango.DeviceProxy(self._detector)
            proxy.set_timeout_millis(int(1000 * TIMEOUT))
            self._proxy = proxy
        shown = self._proxy.read_attribute("SaveRaw").value
        between_series = self._proxy.state() in BETWEEN_SERIES
        if shown and self._shown is False and not (target or self._lost):
            self._fail(f"SaveRaw of {self._detector} is on again, and not by this device")
        if not (shown or self._answerable):
            self._answerable = True
            self._found_off = f"raw saving of {self._detector} was found switched off"
            log.warning("%s", self._found_off)
        self._shown, self._lost = shown, ""
        return between_series

    def _miss(self, reason: str, target: bool) -> None:
        """Keep why the detector cannot be asked: a problem if raw saving may be off meanwhile."""
        if reason != self._lost:
            self._lost = reason
            log.warning("%s: %s", self._detector, reason)
        if target and self._answerable and self._shown is not True:
            self._fail(f"raw saving of {self._detector} cannot be switched on again: {reason}")

    def _write(self, value: bool) -> bool:
        """Write SaveRaw and read it back; False if it is not shown then."""
        assert self._proxy
        self._shown, self._answerable = None, True
        failure = f"SaveRaw of {self._detector} cannot be switched {'on' if value else 'off'}"
        try:
            self._proxy.write_attribute("SaveRaw", value)
            self._shown = self._proxy.read_attribute("SaveRaw").value
        except tango.DevFailed as error:
            self._fail(f"{failure}: {_reason(error)}")
            return False
        if self._shown is not value:
            self._fail(f"{failure}: it shows {self._shown} after {value} was written")
            return False
        log.info("SaveRaw of %s is switched %s", self._detector, "on" if value else "off")
        return True

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            log.warning("%s", problem)


def _reason(error: tango.DevFailed) -> str:
    """Return why a call failed, without the stack of calls."""
    if isinstance(error, (tango.CommunicationFailed, tango.ConnectionFailed)):
        return "it does not answer"
    return " ".join(error.args[0].desc.split())
