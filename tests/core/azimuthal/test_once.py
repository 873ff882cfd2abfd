"""What is built once: who waits for whom, what is kept, what is not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ronda.core.azimuthal.once import Building, built_once


class Builder:
    """Builds from a number, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.begun = threading.Event()

    def build(self, number: int, *, double: bool = False) -> list[int]:
        self.asked.append(number)
        self.begun.set()
        assert self.may_end.wait(10)
        if number < 0:
            raise KeyError(number)
        return [2 * number if double else number]


def test_who_asks_for_what_is_there_waits_for_one_that_builds() -> None:
    builder = Builder()
    once = built_once(maxsize=4)(builder.build)
    there = once(1)
    builder.may_end.clear()
    builder.begun.clear()
    with ThreadPoolExecutor(2) as pool:
        building = pool.submit(once, 2)
        assert builder.begun.wait(10)
        assert pool.submit(once, 1).result(5) is there
        assert not building.done()
        builder.may_end.set()
        assert building.result(5) == [2]


def test_two_that_ask_at_a_time_get_the_same_one() -> None:
    builder = Builder()
    builder.may_end.clear()
    once = built_once(maxsize=4)(builder.build)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(once, 7) for _ in range(4)]
        assert builder.begun.wait(10)
        builder.may_end.set()
        found = [one.result(5) for one in asked]
    assert all(one is found[0] for one in found)
    assert builder.asked == [7]


def test_what_was_not_asked_for_longest_goes() -> None:
    builder = Builder()
    once = built_once(maxsize=2)(builder.build)
    for number in (1, 2, 1, 3, 1, 2):
        once(number)
    assert builder.asked == [1, 2, 3, 2]


def test_results_of_other_keywords_are_others() -> None:
    once = built_once(maxsize=2)(Builder().build)
    assert [once(3), once(3, double=True), once(3)] == [[3], [6], [3]]


def test_what_raises_is_kept_or_told_in_another_way() -> None:
    builder = Builder()
    once = built_once(maxsize=2)(builder.build)
    for _ in range(2):
        with pytest.raises(KeyError, match="-1"):
            once(-1)
    assert builder.asked == [-1, -1]


def test_what_is_to_be_forgotten_goes_at_the_outermost_end() -> None:
    building, forgotten = Building(), []

    def forget() -> None:
        forgotten.append("gone")

    with building:
        with building:
            building.at_the_end(forget)
            building.at_the_end(forget)
        assert forgotten == []
    assert forgotten == ["gone"]
