"""Cross-sections from sinograms: right place, right handedness, right level, gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.tomography.reconstruction import (
    Filter,
    angle_weights,
    filled,
    reconstruct,
)
from skimage.transform import iradon

Floats = NDArray[np.float64]
WIDTH = 41
ANGLES = np.arange(60) * 3.0
DISCS = ((8.0, -10.0, 4.0, 1.0), (-9.0, 3.0, 3.0, 2.0))
"""x, y, radius in steps from the axis; what a step through it adds."""


def sinogram(
    angles: Floats = ANGLES, centre: float = (WIDTH - 1) / 2, width: int = WIDTH
) -> Floats:
    """Line integrals through the discs, from their equation."""
    theta, place = np.deg2rad(angles)[:, None], np.arange(width)[None, :]
    total = np.zeros((angles.size, width))
    for x, y, radius, value in DISCS:
        away = place - centre - x * np.cos(theta) - y * np.sin(theta)
        total += 2 * value * np.sqrt(np.maximum(radius**2 - away**2, 0))
    return total


def check_discs(image: Floats, tolerance: float = 0.15) -> None:
    """Each disc is where it was, at its level, and there is nothing at its mirror images."""
    rows, columns = np.indices(image.shape) - (WIDTH - 1) / 2
    for x, y, radius, value in DISCS:
        inside = np.hypot(columns - x, rows - y) < radius - 1
        assert np.mean(image[inside]) == pytest.approx(value, abs=tolerance)
        for mirrored in ((-x, y), (x, -y), (y, x)):
            inside = np.hypot(columns - mirrored[0], rows - mirrored[1]) < radius - 1
            assert abs(np.mean(image[inside])) < tolerance


def test_discs_are_where_they_were_and_not_mirrored() -> None:
    check_discs(reconstruct(sinogram(), ANGLES))


@pytest.mark.parametrize("mirrored", ["angles", "translations"])
def test_a_mirrored_sinogram_gives_another_image(mirrored: str) -> None:
    angles, values = ANGLES, sinogram()
    if mirrored == "angles":
        angles = -angles
    else:
        values = values[:, ::-1]
    with pytest.raises(AssertionError):
        check_discs(reconstruct(values, angles))


def test_both_mirrored_is_turned_by_half_a_turn_about_one_axis() -> None:
    image = reconstruct(sinogram(), ANGLES)
    both = reconstruct(sinogram()[:, ::-1], -ANGLES)
    np.testing.assert_allclose(both, image[:, ::-1], atol=1e-9)


@pytest.mark.parametrize("window", list(Filter))
def test_it_agrees_with_scikit_image(window: Filter) -> None:
    ours = reconstruct(sinogram(), ANGLES, window=window)
    theirs = iradon(sinogram().T, theta=ANGLES, filter_name=window.value, circle=True)[::-1]
    seen = np.isfinite(ours)
    assert np.max(np.abs(ours - theirs)[seen]) < 0.03 * np.nanmax(ours)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(60)), st.integers(0, 359))
def test_neither_the_order_of_the_angles_nor_half_turns_change_anything(
    order: list[int], turned: int
) -> None:
    image = reconstruct(sinogram(), ANGLES)
    angles = ANGLES[order] + 360 * (turned % 3 - 1)
    np.testing.assert_allclose(reconstruct(sinogram()[order], angles), image, atol=1e-9)


@pytest.mark.parametrize("turns", [360.0, 363.0])
def test_a_whole_turn_gives_the_same_level(turns: float) -> None:
    angles = np.arange(0, turns, 3.0)
    check_discs(reconstruct(sinogram(angles), angles))


def test_an_axis_beside_the_middle_is_put_in_the_middle() -> None:
    check_discs(reconstruct(sinogram(centre=22.3), ANGLES, centre=22.3))
    with pytest.raises(AssertionError):
        check_discs(reconstruct(sinogram(centre=26.0), ANGLES))


def test_rows_and_points_that_are_missing_are_bridged() -> None:
    values = sinogram()
    values[[5, 30, 31, 59]] = np.nan
    values[np.random.default_rng(1).random(values.shape) < 0.03] = np.nan
    check_discs(reconstruct(values, ANGLES))


def test_the_part_that_is_measured_can_be_seen_meanwhile() -> None:
    values = sinogram()
    values[40:] = np.nan
    image = reconstruct(values, ANGLES)
    x, y, *_ = DISCS[1]
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    assert np.hypot(column - 20 - x, row - 20 - y) < 3


def test_nothing_measured_gives_no_image_and_one_row_some() -> None:
    values = np.full((4, 9), np.nan)
    assert np.isnan(reconstruct(values, np.arange(4.0))).all()
    values[2] = 1
    assert np.isfinite(reconstruct(values, np.arange(4.0))).any()
    assert reconstruct(np.ones((1, 1)), np.zeros(1)).shape == (1, 1)


def test_what_the_beam_did_not_pass_at_all_angles_is_not_made_up() -> None:
    image = reconstruct(sinogram(centre=15.0), ANGLES, centre=15.0)
    rows, columns = np.indices(image.shape) - 20
    np.testing.assert_array_equal(np.isnan(image), np.hypot(rows, columns) > 15.5)


@pytest.mark.parametrize("centre", [-1.0, 41.0, 1e6])
def test_an_axis_that_the_beam_never_passed_gives_no_image(centre: float) -> None:
    assert np.isnan(reconstruct(sinogram(), ANGLES, centre=centre)).all()


def test_gaps_are_filled_along_the_rotation_first() -> None:
    values = np.array([[0.0, 4.0, np.nan], [np.nan, np.nan, np.nan], [2.0, np.nan, np.nan]])
    there = values[[0, 2]]
    np.testing.assert_array_equal(filled(there), [[0, 4, 4], [2, 4, 4]])
    column = np.array([[1.0, np.nan], [np.nan, 1.0], [3.0, 5.0]])
    np.testing.assert_array_equal(filled(column), [[1, 1], [2, 1], [3, 5]])


def test_angles_share_the_half_turn() -> None:
    weights = angle_weights(np.deg2rad(ANGLES))
    np.testing.assert_allclose(weights, np.pi / 60)
    twice = angle_weights(np.deg2rad(np.append(ANGLES, 180.0)))
    assert twice.sum() == pytest.approx(np.pi)
    assert twice[0] + twice[-1] == pytest.approx(np.pi / 60 * 1)
    part = angle_weights(np.deg2rad(ANGLES[:30]))
    np.testing.assert_allclose(part, np.pi / 60)
