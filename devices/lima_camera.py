"""A LimaCCDs device as its client sees it: what it tells, what it is asked, and its images."""

from __future__ import annotations

import contextlib
import queue
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import tango

TIMEOUT = 3000
"""Milliseconds that the camera has to answer."""
HEARD = 1000
"""Events that may wait to be heard; what later ones tell is found by asking."""
TOLD = ("last_image_ready", "acq_status")
"""Attributes whose events are heard; of the second, only that there was one."""
NAMES = ("user_detector_name", "camera_model", "camera_type")
"""Attributes that name the detector, the best first."""
SETTINGS = (
    "acq_expo_time",
    "acq_mode",
    "acq_nb_frames",
    "acq_trigger_mode",
    "camera_model",
    "camera_type",
    "image_type",
    "latency_time",
)
"""Attributes that become a series' metadata, by the same names."""
SAVING = (
    "saving_mode",
    "saving_directory",
    "saving_prefix",
    "saving_next_number",
    "saving_index_format",
    "saving_suffix",
    "saving_frame_per_file",
    "saving_overwrite_policy",
    "last_image_saved",
)
"""Attributes of which the name of the first raw file follows."""
MAX_TEXT, MAX_FILENAME = 200, 4096
"""Longest texts and file names taken, in characters."""

Values = Mapping[str, Any]


class Unreachable(Exception):
    """The camera does not answer, and why, as part of a sentence."""


class NoImage(Exception):
    """The camera has not the image that it was asked for."""


class Setting(NamedTuple):
    """How an acquisition is set up."""

    detector: str
    filename: str
    """The first raw file; empty: images are not saved."""
    metadata: dict[str, Any]
    total: int
    """Images to be taken; 0: not known, or without end."""
    buffers: int
    """Images that the camera's memory holds at most; 0: not known."""


class LimaCamera:
    """A connection to a camera; every call but `hear` may take as long as `TIMEOUT`.

    Parameters
    ----------
    name
        The device, with or without `tango://host:port/`.

    Raises
    ------
    Unreachable
        If it is not there, or is no LimaCCDs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._heard: queue.Queue[int | None] = queue.Queue(HEARD)
        self._subscriptions: list[int] = []
        try:
            self._proxy = tango.DeviceProxy(name)
        except tango.DevFailed as error:
            raise Unreachable(_reason(error)) from None
        self._proxy.set_timeout_millis(TIMEOUT)
        self.look()
        self._started = self._start_time()

    def listen(self) -> bool:
        """Hear events from now on; return False if the camera has none."""
        change, sync = tango.EventType.CHANGE_EVENT, tango.EventSubMode.Sync
        try:
            for name in TOLD:  # without the values of now
                number = self._proxy.subscribe_event(name, change, self._take, sub_mode=sync)
                self._subscriptions.append(number)
        except tango.DevFailed:
            return False
        return True

    def hear(self, seconds: float) -> list[int | None]:
        """Return what the camera tells, after waiting for the first for so long.

        Returns
        -------
        list
            Numbers of the last image that was ready; None for anything else,
            which is a reason to look.
        """
        heard: list[int | None] = []
        with contextlib.suppress(queue.Empty):
            heard.append(self._heard.get(timeout=seconds) if seconds else self._heard.get_nowait())
            while len(heard) < HEARD:
                heard.append(self._heard.get_nowait())
        return heard

    def look(self) -> tuple[str, int]:
        """Return `acq_status` and `last_image_ready`.

        Raises
        ------
        Unreachable
            If it does not answer, or has no such attributes.
        """
        try:
            # in this order: where the status is no longer Running, the number is the last
            status, ready = self._proxy.read_attributes(["acq_status", "last_image_ready"])
            return str(status.value)[:MAX_TEXT], int(ready.value)
        except tango.DevFailed as error:
            raise Unreachable(_reason(error)) from None
        except (TypeError, ValueError):
            raise Unreachable("it says nothing of acq_status or last_image_ready") from None

    def image(self, number: int) -> bytes:
        """Return an image as the camera encodes it.

        Raises
        ------
        NoImage
            If the camera has it not, or no more.
        Unreachable
            If it does not answer.
        """
        try:
            return bytes(self._proxy.command_inout("readImage", number)[1])
        except (tango.ConnectionFailed, tango.CommunicationFailed) as error:
            raise Unreachable(_reason(error)) from None
        except tango.DevFailed as error:
            raise NoImage(_reason(error)) from None

    def setting(self) -> Setting:
        """Return how the acquisition is set up; what the camera does not tell is left out.

        Raises
        ------
        Unreachable
            If it does not answer.
        """
        names = sorted({*NAMES, *SETTINGS, *SAVING, "buffer_max_number"})
        try:
            answers = self._proxy.read_attributes(names)
        except tango.DevFailed as error:
            raise Unreachable(_reason(error)) from None
        values = {
            name: _plain(answer.value)
            for name, answer in zip(names, answers, strict=True)
            if not answer.has_failed and answer.value is not None
        }
        named = [str(values[name]) for name in NAMES if values.get(name)]
        return Setting(
            named[0] if named else self.name,
            raw_file(values),
            {name: values[name] for name in SETTINGS if name in values},
            _number(values, "acq_nb_frames", 0),
            _number(values, "buffer_max_number", 0),
        )

    def is_another(self) -> bool:
        """Tell whether the camera's server was started anew since this was last asked."""
        started = self._start_time()
        if not started or started == self._started:
            return False
        self._started = started
        return True

    def close(self) -> None:
        """Hear nothing more."""
        for subscription in self._subscriptions:
            with contextlib.suppress(tango.DevFailed):  # it may be away
                self._proxy.unsubscribe_event(subscription)

    def _take(self, event: tango.EventData) -> None:
        """Keep an event; runs in Tango's thread and never waits."""
        told = None
        value = None if event.err else event.attr_value
        if value is not None and value.name.lower() == TOLD[0] and value.value is not None:
            told = int(value.value)
        with contextlib.suppress(queue.Full):
            self._heard.put_nowait(told)

    def _start_time(self) -> str:
        """Return when the camera's server was started, and its process; empty: not known."""
        try:
            info = self._proxy.get_device_db().get_device_info(self._proxy.dev_name())
        except tango.DevFailed:  # it has no database, or that is away
            return ""
        return f"{info.started_date} {info.pid}"


def raw_file(values: Values) -> str:
    """Return the first raw file of an acquisition, by Lima's attributes `saving_...`.

    Lima counts its number up when it closes a file, unless it goes on with the
    same one.
    """
    if str(values.get("saving_mode", "MANUAL")).upper() == "MANUAL":
        return ""
    number = _number(values, "saving_next_number", 0)
    if str(values.get("saving_overwrite_policy")).upper() not in ("APPEND", "MULTISET"):
        saved = _number(values, "last_image_saved", -1) + 1
        number = max(number - saved // max(_number(values, "saving_frame_per_file", 1), 1), 0)
    width = re.fullmatch(r"%0?(\d{0,2})d", str(values.get("saving_index_format", "%04d")))
    prefix, suffix = values.get("saving_prefix", ""), values.get("saving_suffix", "")
    folder = str(values.get("saving_directory", "")).rstrip("/")
    name = f"{folder}/{prefix}{str(number).zfill(int(width[1] or 0) if width else 4)}{suffix}"
    return name if folder and len(name) <= MAX_FILENAME and name.isprintable() else ""


def _number(values: Values, name: str, default: int) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else default


def _plain(value: object) -> str | int | float:
    """Return a value that is small and plain."""
    if isinstance(value, (int, float)):
        return value
    return str(value)[:MAX_FILENAME]


def _reason(error: tango.DevFailed) -> str:
    """Return why a call failed, in one line."""
    return " ".join(str(error.args[0].desc).split())[:MAX_TEXT].rstrip(".")
