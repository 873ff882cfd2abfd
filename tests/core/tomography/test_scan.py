"""A frame's place in the map: found by number or by motors, never guessed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.tomography.scan import (
    Axis,
    FastAxis,
    Grid,
    Missed,
    MotorGrid,
    Place,
    found_axis,
)

grids = st.builds(
    Grid,
    translations=st.integers(1, 9),
    rotations=st.integers(1, 9),
    offset=st.integers(-20, 20),
    zigzag=st.booleans(),
    fast=st.sampled_from(FastAxis),
    frames_per_point=st.integers(1, 3),
)


def order(grid: Grid) -> list[Place]:
    """All places in the order of the scan, by two plain loops."""
    along_translation = grid.fast is FastAxis.TRANSLATION
    lines = grid.rotations if along_translation else grid.translations
    width = grid.translations if along_translation else grid.rotations
    places = []
    for line in range(lines):
        steps = list(range(width))
        if grid.zigzag and line % 2:
            steps.reverse()
        places += [Place(line, s) if along_translation else Place(s, line) for s in steps]
    return [place for place in places for _ in range(grid.frames_per_point)]


@given(grids)
def test_every_frame_is_where_two_loops_put_it_and_no_other_is_anywhere(grid: Grid) -> None:
    places = order(grid)
    for frame in range(-5, len(places) + 25):
        number = frame - grid.offset
        if number < 0:
            assert grid.place(frame) is Missed.SKIPPED
        elif number >= len(places):
            assert grid.place(frame) is Missed.EXTRA
        else:
            assert grid.place(frame) == places[number]


@given(grids)
def test_every_place_is_visited_once_a_frame_of_a_point(grid: Grid) -> None:
    first = grid.offset
    last = first + grid.points * grid.frames_per_point
    visits = Counter(grid.place(frame) for frame in range(first, last))
    assert len(visits) == grid.points
    assert set(visits.values()) == {grid.frames_per_point}


@given(grids)
def test_a_zigzag_never_jumps_along_the_fast_axis(grid: Grid) -> None:
    grid = Grid(grid.translations, grid.rotations, zigzag=True, fast=grid.fast)
    places = [grid.place_of(point) for point in range(grid.points)]
    for one, next_one in pairwise(places):
        assert abs(one[0] - next_one[0]) + abs(one[1] - next_one[1]) == 1


@pytest.mark.parametrize("number", [-1, 6, 1000])
def test_a_point_that_is_not_in_the_scan_has_no_place(number: int) -> None:
    with pytest.raises(IndexError):
        Grid(2, 3).place_of(number)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (1 << 20, 1 << 20)])
def test_a_grid_without_positions_or_with_too_many_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|are more than"):
        Grid(*numbers)
    with pytest.raises(ValueError, match="frames_per_point is 0"):
        Grid(1, 1, frames_per_point=0)


def test_an_offset_that_leaves_nothing_is_told_in_one_sentence() -> None:
    grid = Grid(2, 2, offset=7)
    grid.check_length(8)
    grid.check_length(0)
    with pytest.raises(ValueError, match="offset of 7 leaves nothing of a series of 7 frames"):
        grid.check_length(7)


@given(
    st.integers(2, 50),
    st.floats(-1e3, 1e3),
    st.floats(0.01, 10),
    st.booleans(),
    st.floats(-0.29, 0.29),
)
def test_a_motor_near_a_position_is_at_it_whichever_way_it_goes(
    count: int, first: float, step: float, falling: bool, beside: float
) -> None:
    step = -step if falling else step
    axis = Axis(count, first, first + step * (count - 1))
    for index, value in enumerate(axis.values):
        assert axis.index(value + beside * step) == index


@given(st.integers(2, 50), st.floats(-1e3, 1e3), st.floats(0.01, 10))
def test_a_motor_between_positions_or_beyond_the_ends_is_at_none(
    count: int, first: float, step: float
) -> None:
    axis = Axis(count, first, first + step * (count - 1))
    for value in axis.values:
        assert axis.index(value + 0.4 * step) is None
        assert axis.index(value - 0.4 * step) is None
    for beyond in (first - step, axis.last + step, first - 1e6 * step, np.nan, np.inf, -np.inf):
        assert axis.index(beyond) is None


def test_a_single_position_is_wherever_the_motor_is() -> None:
    axis = Axis(1, 0, 0)
    assert axis.index(1e9) == 0
    assert axis.index(np.nan) is None


def test_several_positions_cannot_be_at_one_place() -> None:
    with pytest.raises(ValueError, match="3 positions cannot all be at 5"):
        Axis(3, 5, 5)


def test_motors_are_off_the_grid_if_one_of_them_is() -> None:
    grid = MotorGrid(Axis(3, 0, 180), Axis(5, -1, 1))
    assert grid.place(90, 0.5) == (1, 3)
    assert grid.place(45, 0.5) is Missed.OFF_GRID
    assert grid.place(90, 3) is Missed.OFF_GRID


@given(st.integers(2, 30), st.integers(0, 10**6))
def test_an_axis_is_found_from_noisy_positions_with_gaps(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    true = 3.0 + 0.25 * np.arange(count)
    values = np.repeat(true, 4) + random.uniform(-0.02, 0.02, 4 * count)
    values[random.integers(4, 4 * count, count) % (4 * count - 4)] = np.nan
    values[:1], values[-1:] = true[0], true[-1]
    axis = found_axis(random.permutation(values), count, 0.3)
    assert [axis.index(value) for value in true] == list(range(count))


def test_an_axis_whose_end_was_never_reached_puts_nothing_into_wrong_places() -> None:
    true = np.arange(20.0)
    axis = found_axis(true[:18], 20, 0.3)
    found = [axis.index(value) for value in true[:18]]
    assert found.count(None) >= 6
    assert [f for f in found if f is not None] == sorted({f for f in found if f is not None})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [([], "no position"), ([np.nan], "no position"), ([2.0, 2.0], "stays at 2, but 3")],
)
def test_an_axis_that_cannot_be_found_says_why(values: list[float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        found_axis(np.array(values), 3, 0.3)
