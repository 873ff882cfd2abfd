"""What the reader of a Lima camera makes of events that come late, or not, or in the wrong place.

The camera is a simulated one that goes on while it is asked; its events are late.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Away, Frame, Lost, Notice, Rejected, SeriesEnd, SeriesStart
from ronda.core.sources.base import Event
from ronda.devices import lima_source
from ronda.devices.lima_camera import NoImage, Setting, Unreachable
from ronda.devices.lima_source import LimaReader
from ronda.tests.devices.lima_device import data_array

LATEST, SOONEST = 4, 6
"""Calls that an event takes at most, and that an acquisition takes to its first image."""


class Camera:
    """A camera that does one thing of its plan, or more, at every call.

    Parameters
    ----------
    plan
        What it does: `image`, `prepare`, `end`, `wait`, `gone` (it does not
        answer once), `hear` (an event arrives).
    """

    name = "simulated"

    def __init__(self, plan: Iterator[str], total: int, buffers: int = 1000) -> None:
        self.plan, self.total, self.buffers = plan, total, buffers
        self.acquisition, self.ready, self.status = 0, -1, "Ready"
        self.taken: list[tuple[int, int]] = []
        self.on_the_way: deque[tuple[int, int | None]] = deque()
        self.arrived: list[int | None] = []
        self.claimed = buffers
        self.calls = self.since = 0
        self.tagged = self.numbered = True
        self.telling = True
        self.ended = False

    def go_on(self, may_be_gone: bool = True) -> None:
        """Do the next thing."""
        self.calls, self.since = self.calls + 1, self.since + 1
        match next(self.plan, None):
            case "image" if self.since > SOONEST and self.status == "Running":
                self.ready += 1
                self.taken.append((self.acquisition, self.ready))
                self.tell(self.ready)
                if self.ready + 1 == self.total:
                    self.stop()
            case "prepare" if self.status == "Ready":
                self.acquisition, self.ready, self.since = self.acquisition + 1, -1, 0
                self.tell(-1)
                self.status = "Running"
                self.push(None)
            case "end" if self.status == "Running":
                self.stop()
            case "hear" if self.on_the_way:
                self.arrived.append(self.on_the_way.popleft()[1])
            case "gone" if may_be_gone:
                raise Unreachable("no answer")
            case None:
                self.ended = True

    def stop(self) -> None:
        self.status = "Ready"
        self.tell(self.ready)
        self.push(None)

    def tell(self, number: int) -> None:
        if self.telling:
            self.push(number)

    def push(self, what: int | None) -> None:
        self.on_the_way.append((self.calls, what))

    def listen(self) -> bool:
        self.on_the_way.clear()
        return True

    def hear(self, seconds: float) -> list[int | None]:
        self.go_on(may_be_gone=False)
        while self.on_the_way and (self.ended or self.on_the_way[0][0] + LATEST < self.calls):
            self.arrived.append(self.on_the_way.popleft()[1])
        heard, self.arrived = self.arrived, []
        return heard

    def look(self) -> tuple[str, int]:
        self.go_on()
        return self.status, self.ready

    def setting(self) -> Setting:
        self.go_on()
        return Setting("simulated", "", {}, self.total, self.claimed)

    def image(self, number: int) -> bytes:
        self.go_on()
        if not self.ready - self.buffers < number <= self.ready:
            raise NoImage("Frame not available")
        pixels = np.array([[self.acquisition, number]], np.int32)
        tag = self.acquisition if self.tagged else 0xFFFFFFFF
        return data_array(pixels, number, tag, 4 if self.numbered else 1)

    def is_another(self) -> bool:
        return False


@pytest.fixture(autouse=True, scope="module")
def hurry() -> Iterator[None]:
    """Nobody waits for a camera that is away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lima_source, "RETRY", 0.0)
        yield


def read(camera: Any) -> list[Event]:
    """Return what a reader makes of a camera until that has no more plans."""
    events: list[Event] = []
    idle = 0
    reader = LimaReader(camera, threading.Event()).events()
    steps = lima_source.LimaReader._step

    def watched(self: LimaReader) -> Iterator[Event]:
        nonlocal idle
        yield from steps(self)
        idle += camera.ended
        if idle > camera.total + 10:
            self._closed.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lima_source.LimaReader, "_step", watched)
        events.extend(reader)
    return events


def check(events: list[Event]) -> tuple[list[tuple[int, int]], int]:
    """Series begin, hold each of their images once and in order, and end; return what was read."""
    series, images, lost = None, [], 0
    for event in events:
        match event:
            case SeriesStart():
                assert series is None
                series, before, of = event.series, -1, set()
            case Frame():
                assert event.series is series
                assert event.frame_id == event.data[0, 1] > before
                before = event.frame_id
                of.add(int(event.data[0, 0]))
                assert len(of) == 1, "images of two acquisitions in one series"
                images.append((int(event.data[0, 0]), event.frame_id))
            case SeriesEnd():
                assert event.series is series
                series = None
            case Lost():
                assert event.count > 0
                lost += event.count
            case _:
                assert isinstance(event, Notice | Away)
    assert len(set(images)) == len(images), "an image was read twice"
    return images, lost


ACTIONS = ["image"] * 6 + ["hear"] * 6 + ["prepare", "end", "wait"]
STEPS = st.lists(st.sampled_from([*ACTIONS, "gone"]), max_size=120)


@settings(max_examples=300)
@given(STEPS, st.integers(1, 12), st.integers(1, 12), st.integers(0, 2), st.booleans())
def test_an_image_is_read_twice_or_in_the_wrong_series_or_not_counted(
    steps: list[str], total: int, buffers: int, claimed: int, tagged: bool
) -> None:
    camera = Camera(iter(["wait", "prepare", *steps]), total, buffers)
    camera.claimed = claimed * buffers
    camera.tagged = camera.numbered = tagged
    images, lost = check(read(camera))
    assert set(images) <= set(camera.taken)
    assert len(images) + lost == len(camera.taken)


@settings(max_examples=300)
@given(STEPS, st.integers(1, 12))
def test_without_events_an_image_is_read_twice_or_in_the_wrong_series(
    steps: list[str], total: int
) -> None:
    camera = Camera(iter(["wait", "prepare", *steps]), total)
    camera.telling = False
    images, _ = check(read(camera))
    assert set(images) <= set(camera.taken)


class Replies(Camera):
    """A camera that takes 6 images and answers with others than it is asked for."""

    def __init__(self, **answers: tuple[int, int]) -> None:
        super().__init__(iter([*["wait"] * 3, "prepare", *["image"] * 16]), 6)
        self.answers = {int(name[1:]): answer for name, answer in answers.items()}
        self.asked: list[int] = []

    def image(self, number: int) -> bytes:
        self.asked.append(number)
        super().image(number)
        of, tag = self.answers.pop(number, (number, 1))
        return data_array(np.zeros((2, 2), np.int32), of, tag)


def test_the_image_that_took_the_place_of_another_is_taken_for_it() -> None:
    events = read(Replies(n2=(5, 1)))
    assert [event.frame_id for event in events if isinstance(event, Frame)] == [0, 1, 3, 4, 5]
    assert [event.count for event in events if isinstance(event, Lost)] == [1]


def test_an_image_of_another_number_is_taken_for_the_one_asked_for() -> None:
    events = read(Replies(n3=(1, 1)))
    assert [event.frame_id for event in events if isinstance(event, Frame)] == [0, 1, 2, 4, 5]
    (rejected,) = [event for event in events if isinstance(event, Rejected)]
    assert rejected.reason == "image 3 was asked for, and image 1 came"


def test_an_image_of_another_acquisition_is_taken_into_the_series() -> None:
    camera = Replies(n3=(3, 2))
    events = read(camera)
    assert camera.asked == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    kinds = [type(event) for event in events]
    frames = [Frame] * 3
    assert kinds[:5] == [SeriesStart, *frames, Lost] or kinds[:5] == [
        SeriesStart,
        *frames,
        SeriesEnd,
    ]
    assert kinds[-8:] == [SeriesStart, *frames * 2, SeriesEnd]
