"""The simulated powder has the marks, gaps and photons of a Pilatus, and its truth is true."""

import numpy as np
import pytest
from ronda.core.simulation import FEMTOMAX, lab6_lines, pilatus_seams, simulate_powder

SHAPE = (231, 560)


@pytest.fixture(scope="module")
def powder():
    return simulate_powder(frames=6, shape=SHAPE, seed=7)


def test_same_seed_gives_the_same_frames_and_another_does_not(powder):
    again = simulate_powder(frames=6, shape=SHAPE, seed=7)
    np.testing.assert_array_equal(again.frames, powder.frames)
    assert not np.array_equal(simulate_powder(6, SHAPE, seed=8).frames, powder.frames)


def test_frames_hold_photons_in_kev_and_only_the_two_marks_below_zero(powder):
    frames = powder.frames
    assert frames.shape == (6, *SHAPE) and frames.dtype == np.float32
    assert set(np.unique(frames[frames < 0])) == {-1.0, -2.0}
    single = frames[(frames > 0) & (frames < 20)]
    assert single.mean() == pytest.approx(13.5, abs=0.3)
    assert np.count_nonzero(frames > 20) > 0  # two photons in one pixel


def test_seams_are_where_the_modules_of_a_pilatus_end(powder):
    seams = pilatus_seams(SHAPE)
    np.testing.assert_array_equal((powder.frames == -1).all(axis=0), seams)
    assert seams[195:212].all() and seams[:, 487:494].all() and not seams[212, 494]
    columns = np.flatnonzero(seams[0])
    assert list(columns[:3]) == [60, 121, 182]
    overflowing = (powder.frames == -2).all(axis=0)
    assert overflowing.sum() == 5 and (powder.frames == -2).any(axis=0).sum() == 5


def test_seven_and_fifteen_are_no_sum_of_three_squares():
    q, multiplicity = lab6_lines(6.1)
    squares = (q * 4.15682 / (2 * np.pi)) ** 2
    assert squares == pytest.approx([1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 16])
    assert list(multiplicity[:8]) == [6, 12, 8, 6, 24, 24, 12, 30]


def test_photons_are_denser_on_the_rings_than_between_them(powder):
    q = FEMTOMAX.q_map(SHAPE)
    valid = powder.frames[0] >= 0
    hits = (powder.frames > 0).mean(axis=0)
    for line in powder.q[2:8]:
        on = valid & (np.abs(q - line) < 0.02)
        off = valid & (np.abs(np.abs(q - line) - 0.07) < 0.02)
        assert hits[on].mean() > 2 * hits[off].mean(), line
