"""The source `lima://[host:port/]domain/family/member`: the images of a LimaCCDs device."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterator

import tango

from ..core.frame import (
    Away,
    BadFrame,
    Frame,
    Lost,
    Notice,
    Rejected,
    Series,
    SeriesEnd,
    SeriesStart,
    new_run_id,
)
from ..core.sources.base import Event, Source, SourceError, UrlError, source
from ..core.sources.data_array import decode_data_array
from ..core.sources.lima_counters import LimaCounters
from .lima_camera import LimaCamera, NoImage, Unreachable

URL = re.compile(r"lima://((?:[^/\s:]+:\d+/)?[^/\s]+/[^/\s]+/[^/\s]+)")
WAITING = 8
"""Events that may wait to be taken; further images wait in the camera's own memory."""
POLL = 0.1
"""Seconds after which a silent source looks whether it was closed."""
RUNNING_PAUSE, IDLE_PAUSE = 0.02, 0.1
"""Seconds after which the camera is asked if it tells nothing, while it takes images and at
rest: it tells at most 25 times a second, and not always of the last image."""
RETRY = 0.5
"""Seconds between attempts to reach a camera that is away."""
QUIET = 0.5
"""Seconds without an event after which none is still on its way."""
UNTOLD = 1.0
"""Seconds over which images were found of which no event told until that is said."""
NO_EVENTS = (
    "{} pushes no events of its images, so it is asked for them all the time, and an acquisition "
    "of some {:g} s may be missed: set its property TangoEvent"
)


@source("lima")
class LimaSource(Source):
    """Reads every image of a Lima camera once, in order, while its memory holds it.

    Images that were overwritten before they could be read are lost, and
    counted. Every acquisition is a series; one that goes on when the source is
    opened is joined at the next image. A camera that goes away is waited for.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        found = URL.fullmatch(url)
        if not found:
            raise UrlError(f"{url}: not of the form lima://[host:port/]domain/family/member")
        with_host = found[1].count("/") == 3
        self._device = f"tango://{found[1]}" if with_host else found[1]
        self._made: queue.Queue[Event | Exception] = queue.Queue(WAITING)

    def events(self) -> Iterator[Event]:
        """Yield what the camera takes, until closed.

        Raises
        ------
        SourceError
            If the camera cannot be reached at first.
        """
        # in a thread of its own, as a call of Tango cannot be broken off
        reader = threading.Thread(target=self._fill, name="ronda-lima", daemon=True)
        reader.start()
        try:
            while not self.closed.is_set():
                with contextlib.suppress(queue.Empty):
                    event = self._made.get(timeout=POLL)
                    if isinstance(event, Exception):
                        raise event
                    yield event
        finally:
            self.close()
            reader.join(2 * POLL)

    def _fill(self) -> None:
        """Read the camera as fast as events are taken."""
        with tango.EnsureOmniThread():
            try:
                camera = LimaCamera(self._device)
            except Unreachable as error:
                self._hand_over(SourceError(f"{self.url} cannot be read: {error}"))
                return
            try:
                for event in LimaReader(camera, self.closed).events():
                    self._hand_over(event)
            except Exception as error:  # to be raised where it is seen
                self._hand_over(error)
            finally:
                camera.close()

    def _hand_over(self, event: Event | Exception) -> None:
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self._made.put(event, timeout=POLL)
                return


class LimaReader:
    """Decides what to ask a camera, and makes events of what it answers."""

    def __init__(self, camera: LimaCamera, closed: threading.Event) -> None:
        self._camera, self._closed = camera, closed
        self._counters = LimaCounters()
        self._acquisition = 0
        """The acquisition that is read, as `LimaCounters` counts them."""
        self._next = 0
        """Number of the image to read next."""
        self._series: Series | None = None
        self._ended = False
        """True if nothing more is expected of this acquisition."""
        self._tag: int | None = None
        self._buffers = 0
        """Images that the camera's memory holds at most; 0: not known."""
        self._up_to_date = False
        """True if the camera was asked since an image was read."""
        self._told: deque[int] = deque()
        """Numbers that the camera told, and that are still to be followed."""
        self._heard = time.monotonic()
        """When an event last came."""
        self._untold: float | None = None
        """When an image was first found of which no event had told."""
        self._mute = self._warned = False
        """Whether no events come, and whether that was said."""

    def events(self) -> Iterator[Event]:
        """Yield series, images and losses, until closed."""
        joined = away = False
        while not self._closed.is_set():
            try:
                if away and self._camera.is_another():
                    self._counters.restarted()
                if not joined:
                    self._join()
                    joined = True
                yield from self._step()
            except Unreachable as error:
                if not away:
                    away = True
                    yield Away(f"{self._camera.name} is away ({error}); waiting for it")
                self._closed.wait(RETRY)
            else:
                if away:
                    away = False
                    yield Away("")

    def _join(self) -> None:
        """Leave out the images that were taken before we came."""
        self._look()
        self._next = self._counters.ready + 1
        self._ended = not self._counters.running
        self._mute = not self._camera.listen()

    def _step(self) -> Iterator[Event]:
        """Hear what the camera tells, or ask it; read one image if there is one."""
        unread = self._next <= self._counters.ready
        pause = RUNNING_PAUSE if self._counters.running else IDLE_PAUSE
        heard = self._camera.hear(pause if self._up_to_date and not unread else 0.0)
        if heard:
            self._heard = time.monotonic()
        self._told.extend(number for number in heard if number is not None)
        while self._told:
            self._untold, self._mute = None, False
            self._counters.told(self._told.popleft())
            yield from self._follow()
        if None in heard or not (heard or unread):
            self._look()
        if self._warned != self._mute:
            self._warned = self._mute
            yield Notice(NO_EVENTS.format(self._camera.name, IDLE_PAUSE) if self._mute else "")
        yield from self._follow()
        if self._next <= self._counters.ready:
            self._up_to_date = False
            yield from self._read()

    def _look(self) -> None:
        ready = self._counters.ready
        self._counters.looked(*self._camera.look(), time.monotonic() > self._heard + QUIET)
        self._up_to_date = True
        if self._counters.ready > ready:
            self._untold = self._untold or time.monotonic()
            self._mute |= time.monotonic() > self._untold + UNTOLD

    def _follow(self) -> Iterator[Event]:
        """Begin and end series as the counters say."""
        counters = self._counters
        if counters.acquisition != self._acquisition:
            yield from self._leave()
        if counters.late:
            yield Lost(counters.late)
            counters.late = 0
        if not self._series and (
            self._next <= counters.ready or (counters.running and not self._ended)
        ):
            yield from self._begin()
        if self._series and self._next > counters.ready and counters.finished:
            yield from self._end()

    def _leave(self) -> Iterator[Event]:
        """Leave an acquisition for the next: what was not read of it is gone."""
        unread = self._counters.before + 1 - self._next
        if unread > 0:
            yield Lost(unread)
        if self._series:
            yield from self._end()
        self._acquisition = self._counters.acquisition
        self._next, self._ended, self._tag = 0, False, None

    def _begin(self) -> Iterator[Event]:
        setting = self._camera.setting()
        self._counters.total = setting.total if setting.total > self._counters.ready else 0
        self._buffers = setting.buffers
        self._series = Series(
            new_run_id(),
            setting.detector,
            setting.filename,
            setting.metadata,
            joined_late=self._next > 0,
        )
        yield SeriesStart(self._series)

    def _end(self) -> Iterator[Event]:
        assert self._series
        yield SeriesEnd(self._series)
        self._series, self._ended = None, True

    def _read(self) -> Iterator[Event]:
        """Read the next image."""
        assert self._series
        number = self._next
        try:
            array = decode_data_array(self._camera.image(number))
        except NoImage:
            yield from self._miss()
            return
        except BadFrame as error:
            self._next += 1
            yield Rejected(f"image {number}: {error}", number)
            return
        if array.tag is not None and self._tag is not None and array.tag != self._tag:
            self._counters.overtaken()  # the image is of an acquisition that no one told of
            yield from self._follow()
            return
        self._tag, self._next = array.tag, self._next + 1
        if array.number is None or array.number == number:
            yield Frame(self._series, number, array.pixels)
        elif array.number > number:
            yield Lost(1)  # a later one has taken its place
        else:
            yield Rejected(f"image {number} was asked for, and image {array.number} came", number)

    def _miss(self) -> Iterator[Event]:
        """Take note that the next image is gone, or that its acquisition is."""
        acquisition, number = self._acquisition, self._next
        self._look()
        yield from self._follow()
        if acquisition != self._acquisition or number > self._counters.ready:
            return
        oldest = self._counters.ready - self._buffers + 1 if self._buffers else 0
        self._next = max(number + 1, oldest)
        yield Lost(self._next - number)
