"""Message numbers that are missing, late, seen twice or begun anew are told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.sources.gaps import Arrival, GapTracker


def see_all(tracker: GapTracker, numbers: list[int]) -> tuple[list[Arrival], int]:
    """Return how each number arrived, and how many are lost in the end."""
    seen = [tracker.see(number) for number in numbers]
    return [arrival for arrival, _ in seen], sum(lost for _, lost in seen)


@given(st.sets(st.integers(0, 300), max_size=200), st.randoms())
def test_losses_and_late_ones_do_not_add_up(dropped: set[int], dice: object) -> None:
    numbers = [number for number in range(302) if number not in dropped or number in (0, 301)]
    inner = numbers[1:-1]
    dice.shuffle(inner)  # type: ignore[attr-defined]
    arrivals, lost = see_all(GapTracker(), [0, *inner, 301])
    assert lost == 302 - len(numbers)
    assert Arrival.DUPLICATE not in arrivals


@given(st.integers(0, 10**6), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_a_repeated_number_is_taken_for_a_late_one(first: int, steps: list[int]) -> None:
    tracker = GapTracker()
    numbers = [first]
    for step in steps:
        numbers.append(numbers[-1] + step)
    see_all(tracker, numbers)
    for number in numbers:
        expected = Arrival.DUPLICATE if numbers[-1] - number <= tracker.WINDOW else Arrival.FIRST
        assert GapTracker.see(tracker, number)[0] is expected
        if expected is Arrival.FIRST:
            return


def test_the_first_message_counts_as_a_loss() -> None:
    assert GapTracker().see(66679) == (Arrival.FIRST, 0)


def test_a_message_from_before_we_joined_is_lost_or_a_duplicate() -> None:
    assert see_all(GapTracker(), [10, 9, 11]) == ([Arrival.FIRST, Arrival.LATE, Arrival.NEXT], 0)


@pytest.mark.parametrize("number", [0, 8_998, 2_000_000])
def test_a_restarted_sender_loses_millions(number: int) -> None:
    tracker = GapTracker()
    see_all(tracker, [9_998, 9_999])
    assert tracker.see(number) == (Arrival.FIRST, 0)
    assert tracker.see(number + 1) == (Arrival.NEXT, 0)


def test_a_sender_that_restarted_while_the_connection_broke_repeats_messages() -> None:
    tracker = GapTracker()
    see_all(tracker, list(range(100)))
    tracker.interrupted()
    assert see_all(tracker, [100, 101]) == ([Arrival.NEXT, Arrival.NEXT], 0)  # waited here
    assert tracker.see(5) == (Arrival.FIRST, 0)
    assert see_all(tracker, [6, 6]) == ([Arrival.NEXT, Arrival.DUPLICATE], 0)


def test_a_break_lets_a_message_count_twice_for_ever() -> None:
    tracker = GapTracker()
    see_all(tracker, list(range(100)))
    tracker.interrupted()
    see_all(tracker, list(range(100, 100 + tracker.UNSURE)))
    assert tracker.see(110) == (Arrival.DUPLICATE, 0)


def test_a_break_takes_a_late_message_for_a_new_numbering() -> None:
    tracker = GapTracker()
    see_all(tracker, [0, 1, 3])
    tracker.interrupted()
    assert see_all(tracker, [2, 4]) == ([Arrival.LATE, Arrival.NEXT], -1)


def test_a_header_with_a_lower_number_is_a_duplicate() -> None:
    tracker = GapTracker()
    see_all(tracker, [3, 4, 5])
    assert tracker.see(3, header=True) == (Arrival.FIRST, 0)
    assert tracker.see(4) == (Arrival.NEXT, 0)


def test_a_late_header_begins_a_new_numbering() -> None:
    tracker = GapTracker()
    see_all(tracker, [3, 5])
    assert tracker.see(4, header=True) == (Arrival.LATE, -1)
    assert tracker.see(6) == (Arrival.NEXT, 0)


@given(st.lists(st.integers(1, 999_999), max_size=40))
def test_memory_grows_with_the_gaps(gaps: list[int]) -> None:
    tracker = GapTracker()
    number = 0
    tracker.see(number)
    for gap in gaps:
        number += gap + 1
        assert tracker.see(number) == (Arrival.NEXT, gap)
        assert len(tracker._missing) <= tracker.WINDOW + 1


@pytest.mark.parametrize("clients", [2, 3, 5])
def test_another_reader_goes_unnoticed_or_is_never_forgotten(clients: int) -> None:
    tracker = GapTracker()
    assert tracker.readers == 1
    see_all(tracker, list(range(0, clients * 12, clients)))
    assert tracker.readers == clients
    see_all(tracker, list(range(clients * 12, clients * 12 + 20)))
    assert tracker.readers == 1


def test_one_irregular_step_hides_another_reader() -> None:
    tracker = GapTracker()
    see_all(tracker, [*range(0, 20, 2), 21, *range(23, 43, 2)])
    assert tracker.readers == 2


@pytest.mark.parametrize(
    "numbers",
    [list(range(100)), [n ^ 1 for n in range(100)], [n for n in range(100) if n % 9 != 4]],
    ids=["all", "in pairs the wrong way round", "some lost"],
)
def test_another_reader_is_suspected_without_reason(numbers: list[int]) -> None:
    tracker = GapTracker()
    for number in numbers:
        tracker.see(number)
        assert tracker.readers == 1
