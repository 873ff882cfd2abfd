"""Whatever order frames come in and whatever is corrected meanwhile: the map is the right one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Frame, Series
from ronda.core.positions import ScanBooks
from ronda.core.tomography.layer import Profile
from ronda.core.tomography.measurement import Measurement
from ronda.core.tomography.placing import Motors, PlaceBy, Placing
from ronda.core.tomography.scan import FastAxis, Grid, Missed, Place
from ronda.core.tomography.sinogram import WHOLE
from ronda.core.tomography.tomogram import Reduced, Tomogram, remaining_seconds

RADIAL = np.arange(3.0)
grids = st.builds(
    Grid,
    translations=st.integers(1, 5),
    rotations=st.integers(1, 5),
    offset=st.integers(-3, 6),
    zigzag=st.booleans(),
    fast=st.sampled_from(FastAxis),
)
orders = st.lists(st.integers(0, 30), unique=True, max_size=25)


def placing(grid: Grid) -> Placing:
    return Placing(grid, PlaceBy.FRAME_NUMBER, Motors(), Series(1), ScanBooks())


def measurement(grid: Grid, cakes: bool = False) -> Measurement:
    new = Measurement(placing(grid))
    new.tomogram = Tomogram(grid.shape, RADIAL, np.arange(2.0) if cakes else None, errors=True)
    return new


def add(now: Measurement, number: int) -> None:
    """Add a frame whose pattern tells its number; its cake and its errors do so too."""
    value = number + 1.0
    pattern = Profile(np.full(3, value), np.full(3, value / 10))
    cake = Profile(np.full((2, 3), -value), np.full((2, 3), value / 5))
    now.add(Frame(Series(1), number, np.zeros((1, 1))), Reduced(pattern, cake))


def check(now: Measurement, wanted: dict[Place, int]) -> None:
    tomogram = now.tomogram
    assert tomogram is not None
    frames = np.full(tomogram.shape, -1)
    for place, number in wanted.items():
        frames[place] = number
    np.testing.assert_array_equal(tomogram.frame, frames)
    values = np.where(frames < 0, np.nan, frames + 1.0)
    np.testing.assert_array_equal(tomogram.patterns.intensity, values[..., None].repeat(3, 2))
    assert tomogram.patterns.sigma is not None
    np.testing.assert_allclose(tomogram.patterns.sigma[..., 1], values / 10, rtol=1e-6)
    if tomogram.cakes is not None:
        np.testing.assert_array_equal(tomogram.cakes.intensity[..., 1, 2], -values)
    np.testing.assert_allclose(tomogram.sinogram(WHOLE), 3 * values)
    known = values[np.isfinite(values)]
    np.testing.assert_allclose(tomogram.mean, known.mean() if known.size else np.nan)
    assert now.measured == known.size
    assert now.missing == frames.size - known.size


def placed(grid: Grid, numbers: list[int]) -> dict[Place, int]:
    found = {grid.place(number): number for number in numbers}
    return {place: number for place, number in found.items() if isinstance(place, Place)}


@settings(deadline=None)
@given(grids, orders, st.booleans())
def test_frames_in_any_order_are_in_their_places_and_all_accounted_for(
    grid: Grid, numbers: list[int], cakes: bool
) -> None:
    now = measurement(grid, cakes)
    for number in numbers:
        add(now, number)
    check(now, placed(grid, numbers))
    missed = [place for place in map(grid.place, numbers) if isinstance(place, Missed)]
    assert now.measured + len(missed) == len(numbers)
    assert now.counts[Missed.SKIPPED] == missed.count(Missed.SKIPPED)
    assert now.counts[Missed.EXTRA] == missed.count(Missed.EXTRA)


@settings(deadline=None)
@given(grids, grids, orders, orders, st.booleans())
def test_a_corrected_grid_moves_what_was_measured_and_places_what_comes(
    wrong: Grid, right: Grid, before: list[int], after: list[int], cakes: bool
) -> None:
    after = [number for number in after if number not in before]
    now = measurement(wrong, cakes)
    for number in before:
        add(now, number)
    assert now.can_move(placing(right))
    kept = list(placed(wrong, before).values())
    lost = now.move(placing(right))
    assert lost == len(kept) - len(placed(right, kept))
    for number in after:
        add(now, number)
    check(now, placed(right, kept + after))


@settings(deadline=None)
@given(grids, orders, st.integers(0, 25), st.booleans())
def test_nothing_is_lost_or_changed_by_a_restart(
    grid: Grid, numbers: list[int], stopped: int, cakes: bool
) -> None:
    before = measurement(grid, cakes)
    for number in numbers[:stopped]:
        add(before, number)
    after = Measurement(placing(grid))
    after.restore(before.tree(), errors=True)
    goes_on = Measurement(placing(grid), after, same_points=True)
    for number in numbers[stopped:]:
        add(goes_on, number)
    check(goes_on, placed(grid, numbers))
    check(after, placed(grid, numbers[:stopped]))
    assert goes_on.highest == max(numbers, default=-1)


@settings(deadline=None)
@given(grids, orders)
def test_cells_for_the_file_add_up_to_the_map(grid: Grid, numbers: list[int]) -> None:
    now = measurement(grid)
    assert now.tomogram is not None
    file: dict[str, Any] = {
        "intensity": np.full((*grid.shape, 3), np.nan),
        "errors": np.full((*grid.shape, 3), np.nan),
        "frame_map": np.full(grid.shape, -1),
        "places": np.full((*grid.shape, 6), -1),
    }
    for number in numbers:
        add(now, number)
        for name, cells in now.cells().items():
            for cell in cells:
                file[name][cell.index] = cell.value
        assert not now.changed
    np.testing.assert_array_equal(file["intensity"], now.tomogram.patterns.intensity)
    np.testing.assert_array_equal(file["errors"], now.tomogram.patterns.sigma)
    np.testing.assert_array_equal(file["frame_map"], now.tomogram.frame)
    np.testing.assert_array_equal(file["places"], now.tomogram.entries())


def test_points_of_several_frames_cannot_be_moved_but_are_not_mixed_either() -> None:
    several = Grid(2, 2, frames_per_point=2)
    assert not measurement(several).can_move(placing(Grid(2, 2, zigzag=True)))
    assert not measurement(Grid(2, 2)).can_move(placing(several))


def test_the_time_left_follows_the_pace() -> None:
    assert remaining_seconds([10.0, 10.5, 11.0], 4) == 2.0
    assert remaining_seconds([], 0) == 0.0
    for times in ([], [1.0], [2.0, 2.0]):
        assert np.isnan(remaining_seconds(times, 4))
