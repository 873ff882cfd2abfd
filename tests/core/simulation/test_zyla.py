"""The simulated Zyla's peak has the strength and the place that its truth says."""

from __future__ import annotations

import numpy as np
import pytest
from ronda.core.simulation import simulate_zyla
from ronda.core.simulation.zyla import GAIN, WIDTH

SHAPE = (256, 320)


def test_the_same_seed_gives_other_frames() -> None:
    one, same, other = (simulate_zyla(3, SHAPE, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.frames, same.frames)
    np.testing.assert_array_equal(one.peaks, same.peaks)
    assert one.frames.shape == (3, *SHAPE) and one.frames.dtype == np.uint16
    assert not np.array_equal(one.frames, other.frames)


def test_counts_are_not_poisson_around_the_truth() -> None:
    zyla = simulate_zyla(200, SHAPE, photons=3000, seed=1)
    counts = np.empty(200)
    for number in range(200):
        light = np.zeros(SHAPE, np.float32)
        zyla.shine(light, number)
        assert (light % GAIN == 0).all()
        counts[number] = light.sum()
    pulls = (counts - zyla.peaks["counts"]) / np.sqrt(GAIN * zyla.peaks["counts"])
    assert abs(pulls.mean()) < 5 / np.sqrt(200)
    assert pulls.std() == pytest.approx(1, abs=0.25)
    np.testing.assert_array_equal(zyla.peaks["frame"], np.arange(200))


def test_the_peak_is_not_where_the_truth_says_or_has_another_width() -> None:
    zyla = simulate_zyla(5, SHAPE, photons=200_000, seed=2, drift=4, hot=0)
    rows, columns = np.indices(SHAPE)
    for peak, frame in zip(zyla.peaks, zyla.frames, strict=True):
        light = frame - zyla.sensor.offset
        light[np.hypot(rows - peak["y"], columns - peak["x"]) > 60] = 0
        total = light.sum()
        assert total == pytest.approx(peak["counts"], rel=0.02)
        for axis, places in (("y", rows), ("x", columns)):
            centre = (light * places).sum() / total
            assert centre == pytest.approx(peak[axis], abs=0.2)
            width = WIDTH[axis == "x"]
            second = (light * (places - centre) ** 2).sum() / total
            assert second == pytest.approx(width**2 + 1 / 12, rel=0.05)


def test_drift_and_jitter_are_not_those_asked_for() -> None:
    still = simulate_zyla(10, SHAPE, drift=0, jitter=0)
    assert np.ptp(still.peaks["y"]) == np.ptp(still.peaks["counts"]) == 0
    assert still.peaks["counts"][0] == pytest.approx(3000 * GAIN)
    moving = simulate_zyla(2000, SHAPE, drift=0.5, jitter=0.2)
    assert np.diff(moving.peaks["x"]).std() == pytest.approx(0.5, rel=0.1)
    counts = moving.peaks["counts"] / (3000 * GAIN)
    assert np.log(counts).std() == pytest.approx(0.2, rel=0.1)
    assert counts.mean() == pytest.approx(1, abs=0.03)


def test_a_peak_that_leaves_the_sensor_comes_in_on_the_other_side() -> None:
    zyla = simulate_zyla(1, (64, 64), photons=50_000)
    zyla.peaks["y"], zyla.peaks["x"] = -5.0, 70.0
    light = np.zeros((64, 64), np.float32)
    zyla.shine(light, 0)
    assert light[40:].sum() < 0.01 * light.sum() and light[:, :20].sum() < 0.01 * light.sum()
    assert 0 < light.sum() < 0.5 * zyla.peaks["counts"][0]


def test_darks_have_light_or_another_sensor() -> None:
    zyla = simulate_zyla(1, SHAPE, photons=100_000, hot=1e-3)
    left = zyla.darks(20).mean(axis=0) - zyla.sensor.offset
    assert np.abs(left).max() < 6 * zyla.sensor.noise.max() / np.sqrt(20)
    assert left.mean() == pytest.approx(0, abs=0.02)
