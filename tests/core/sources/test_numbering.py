"""Numbers of files show which are missing, and nothing where they do not count the files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.sources.numbering import find_gaps, usual_size


@pytest.mark.parametrize(
    ("names", "before"),
    [
        (["a_1", "a_2", "a_4"], {2: 1}),
        (["a_01.e1", "a_04.e1", "a_10.e1", "a_13.e1"], {2: 1}),  # steps of 3
        (["a_1", "a_3", "a_5"], {}),
        (["a_1", "a_9"], {}),  # two do not show a step
        (["a_1", "b_2", "c_4"], {}),
        (["a_1_1", "a_1_2", "a_2_1"], {}),  # two numbers
        (["a_1", "a_2", "a_4_1"], {}),
        (["a_1", "a_01", "a_3"], {}),
        (["a", "b", "c"], {}),
    ],
)
def test_gaps_are_seen_where_there_are_none(names: list[str], before: dict[int, int]) -> None:
    assert find_gaps(names).before == before
    assert bool(find_gaps(names).sentence) == bool(before)


def test_numbers_that_are_times_are_taken_for_a_count() -> None:
    assert not find_gaps(["a_1700000001", "a_1700000008", "a_1700000030"]).even
    assert find_gaps([f"a_{number}" for number in (1, 2, 3, 7)]).even


@given(st.sets(st.integers(0, 300), min_size=3), st.integers(1, 7))
def test_files_are_not_where_their_numbers_say(numbers: set[int], step: int) -> None:
    ordered = sorted(numbers)
    before = find_gaps([f"x_{step * number:05d}.cbf" for number in ordered]).before
    place, places = 0, []
    for at in range(len(ordered)):
        place += before.get(at, 0)
        places.append(place)
        place += 1
    found = {after - ordered[0] for after in ordered}
    unit = min(
        n
        for n in range(1, 302)
        if all(x % n == 0 for x in found)
        and not any(all(x % m == 0 for x in found) for m in range(n + 1, 302))
    )
    assert places == [(number - ordered[0]) // unit for number in ordered]


@pytest.mark.parametrize(
    ("others", "last", "size"),
    [
        ([10, 10], 4, 10),
        ([10], None, 10),
        ([10, 9], 9, None),
        ([4], 10, None),
        ([], 10, None),
        ([], 1, 1),
        ([], None, None),
    ],
)
def test_a_length_is_guessed(others: list[int], last: int | None, size: int | None) -> None:
    assert usual_size(others, last) == size
