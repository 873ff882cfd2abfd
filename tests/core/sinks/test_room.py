"""How long a disk lasts, as it is told."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from ronda.core.sinks.room import Room
from ronda.tests.core.sinks.writing import Drive
from ronda.tests.waiting import wait_for

GIB = 1 << 30


def falling(room: Room, free: float, rate: float, seconds: int, begin: float = 0.0) -> Room:
    """Have the free space fall at a rate, one measurement a second."""
    for second in range(seconds):
        room.add("/data/process", 7, round(free - rate * second), begin + second)
    return room


def test_the_time_left_is_what_is_free_by_how_fast_it_falls() -> None:
    room = falling(Room(), 10 * GIB, 10e6, 31)
    assert room.time_left == pytest.approx((10 * GIB - 300e6) / 10e6)
    assert room.sentence == "the disk of /data/process is full in 17 minutes at this rate"


def test_one_large_file_in_between_does_not_cry_wolf() -> None:
    room = falling(Room(), 10 * GIB, 0, 60)
    room.add("/data/process", 7, 10 * GIB - 100_000_000, 60.0)
    assert room.time_left > 3600


def test_too_few_measurements_and_a_disk_that_does_not_fill_up_are_unknown() -> None:
    assert math.isnan(Room().time_left)
    assert math.isnan(falling(Room(), GIB, 1e6, 5).time_left)
    assert math.isnan(falling(Room(), GIB, 0, 60).time_left)
    assert math.isnan(falling(Room(), GIB, -1e6, 60).time_left)


def test_another_disk_and_room_that_was_made_begin_anew() -> None:
    room = falling(Room(), GIB, 10e6, 60)
    room.add("/data/process", 7, GIB, 60.0)
    assert math.isnan(room.time_left)
    room = falling(Room(), GIB, 10e6, 60)
    room.add("/other", 8, GIB - 600_000_000, 60.0)
    assert math.isnan(room.time_left)


def test_a_rate_of_long_ago_is_forgotten() -> None:
    room = falling(Room(), GIB, 5e6, 60)
    falling(room, GIB - 300e6, 0, 90, begin=60.0)
    assert math.isnan(room.time_left)


def test_a_full_disk_has_no_time_left_at_once() -> None:
    room = falling(Room(), 1000, 0, 1)
    assert room.time_left == 0
    assert room.sentence == "the disk of /data/process is full"


def test_the_newest_file_its_time_and_its_end_are_told(write: Any, raw: str, reduced: Path) -> None:
    writer = write()
    assert (writer.file, writer.file_time, writer.file_complete) == ("", 0.0, False)
    before = time.time()
    series = Drive(writer, raw)
    series.frames(3)
    wait_for(lambda: writer.file_time >= before)
    assert writer.file == str(reduced)
    assert not writer.file_complete
    series.finish()
    writer.settle()
    assert writer.file_complete
    assert math.isnan(writer.disk_time_left)
