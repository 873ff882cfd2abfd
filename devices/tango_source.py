"""The source `tango://[host:port/]domain/family/member/attribute`: a detector's image events."""

from __future__ import annotations

import contextlib
import queue
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tango

from ..core.frame import (
    Frame,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesStart,
    check_shape,
    new_run_id,
)
from ..core.sources.base import Event, Source, SourceError, UrlError, source

WAITING = 16
"""Images that may wait to be read; more are counted as lost."""
URL = re.compile(r"tango://((?:[^/\s:]+:\d+/)?[^/\s]+/[^/\s]+/[^/\s]+)/([^/\s]+)")
LOSSY = (
    "frames come as Tango events, which may be lost on their way unnoticed: "
    "read the detector's stream instead where it has one"
)


@source("tango")
class TangoSource(Source):
    """Takes the change events of an image attribute as frames, numbered from 0 as they come.

    One series lasts until the source is closed or lost. What is lost between
    the devices cannot be counted; what is lost here is.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        found = URL.fullmatch(url)
        if not found:
            raise UrlError(
                f"{url}: not of the form tango://[host:port/]domain/family/member/attribute"
            )
        with_host = found[1].count("/") == 3
        self._device = f"tango://{found[1]}" if with_host else found[1]
        self._attribute = found[2]
        self._arrived: queue.Queue[tango.EventData] = queue.Queue(WAITING)
        self._overflow = 0

    def events(self) -> Iterator[Event]:
        """Yield what the attribute's device pushes, until closed.

        Raises
        ------
        SourceError
            If the device cannot be reached (any more).
        """
        with tango.EnsureOmniThread():
            proxy, subscription = self._subscribe()
            try:
                yield from self._read()
            finally:
                with contextlib.suppress(tango.DevFailed):  # the device may be gone
                    proxy.unsubscribe_event(subscription)

    def _subscribe(self) -> tuple[tango.DeviceProxy, int]:
        try:
            proxy = tango.DeviceProxy(self._device)
            # without the value of now, which is no new frame
            subscription = proxy.subscribe_event(
                self._attribute,
                tango.EventType.CHANGE_EVENT,
                self._take,
                sub_mode=tango.EventSubMode.Sync,
            )
        except tango.DevFailed as error:
            raise SourceError(
                f"{self.url} cannot be subscribed to: {error.args[0].desc.strip()}"
            ) from None
        return proxy, subscription

    def _take(self, event: tango.EventData) -> None:
        """Keep an event; runs in Tango's thread and never waits."""
        try:
            self._arrived.put_nowait(event)
        except queue.Full:
            self._overflow += 1

    def _read(self) -> Iterator[Event]:
        series = Series(new_run_id(), self._device)
        yield Notice(LOSSY)
        yield SeriesStart(series)
        frame_id = told = 0
        while not self.closed.is_set():
            try:
                event = self._arrived.get(timeout=0.1)
            except queue.Empty:
                continue
            if event.err:
                raise SourceError(f"{self.url}: {event.errors[0].desc.strip()}")
            lost, told = self._overflow - told, self._overflow
            if lost:
                yield Lost(lost)
            yield _frame(event.attr_value.value, series, frame_id)
            frame_id += 1


def _frame(value: Any, series: Series, frame_id: int) -> Event:
    """Return the frame of an event's value."""
    try:
        image = np.asarray(value)
        check_shape(image.shape, image.dtype)
    except ValueError as error:  # BadFrame too
        return Rejected(" ".join(str(error).split()), frame_id)
    return Frame(series, frame_id, image)
