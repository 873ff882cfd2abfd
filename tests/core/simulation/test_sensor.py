"""A simulated sensor has the dark, the noise and the hot pixels that it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from ronda.core.simulation.sensor import OFFSET, OFFSET_SPREAD, Sensor

SHAPE = (300, 501)
NOISE = 2.5


def make(seed: int = 1003, hot: float = 1e-3, shape: tuple[int, int] = SHAPE) -> Sensor:
    return Sensor.make(shape, NOISE, np.random.default_rng(seed), hot)


def expose(sensor: Sensor, seed: int, light: np.ndarray | None = None) -> np.ndarray:
    return sensor.expose(light, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def darks() -> np.ndarray:
    sensor = make(hot=0)
    return np.array([expose(sensor, seed) for seed in range(100)], np.float64)


def test_the_same_seed_gives_another_sensor_or_noise() -> None:
    one, same, other = make(3), make(3), make(4)
    np.testing.assert_array_equal(expose(one, 1), expose(same, 1))
    assert not np.array_equal(one.offset, other.offset)
    assert not np.array_equal(one.hot_pixels, other.hot_pixels)
    assert np.mean(expose(one, 1) != expose(one, 2)) > 0.5


def test_dark_and_noise_are_not_those_asked_for(darks: np.ndarray) -> None:
    assert darks.mean() == pytest.approx(OFFSET, abs=0.02)
    rounding = 1 / 12
    assert darks.var(axis=0, ddof=1).mean() == pytest.approx(NOISE**2 + rounding, rel=0.01)
    means = darks.mean(axis=0)
    assert means.var() == pytest.approx(OFFSET_SPREAD**2 + (NOISE**2 + rounding) / 100, rel=0.03)


def test_all_pixels_are_equally_noisy(darks: np.ndarray) -> None:
    # Of pixels that were alike, the variances of 100 frames would spread by sqrt(2 / 99).
    variance = darks.var(axis=0, ddof=1)
    assert variance.std() / variance.mean() > 3 * np.sqrt(2 / 99)
    assert np.median(variance) < 0.95 * variance.mean()


def test_noise_is_shared_between_frames_rows_or_columns(darks: np.ndarray) -> None:
    noise = darks - darks.mean(axis=0)
    noise /= noise.std(axis=0)
    pixels = noise[0].size
    for one, other in ((0, 1), (5, 80)):
        assert abs(np.mean(noise[one] * noise[other])) < 5 / np.sqrt(pixels) + 1 / 99
    for axis in (0, 1):
        shifted = np.roll(noise[0], 1, axis)
        assert abs(np.mean(noise[0] * shifted)) < 5 / np.sqrt(pixels)
        lines = noise[0].mean(axis=axis)
        assert lines.std() * np.sqrt(noise[0].shape[axis]) == pytest.approx(1, abs=0.2)


def test_rows_are_shifted_copies_of_each_other() -> None:
    frame = expose(make(hot=0), 1).astype(np.float64)
    spectra = np.fft.rfft(frame - frame.mean(axis=1, keepdims=True), axis=1)
    for lag in (1, 63, 64, 65, 128):
        product = spectra[:-lag] * spectra[lag:].conj()
        correlation = np.fft.irfft(product, SHAPE[1], axis=1) / frame.var() / SHAPE[1]
        assert np.abs(correlation).max() < 0.4, lag


def test_hot_pixels_are_not_where_the_truth_says() -> None:
    sensor = make(hot=1e-3)
    assert sensor.hot_pixels.shape == (round(1e-3 * sensor.offset.size), 2)
    dark = np.mean([expose(sensor, seed) for seed in range(20)], axis=0)
    found = np.argwhere(dark > OFFSET + 15)
    np.testing.assert_array_equal(found, sensor.hot_pixels)
    noise = sensor.noise[tuple(sensor.hot_pixels.T)]
    glow = sensor.offset[tuple(sensor.hot_pixels.T)] - OFFSET
    np.testing.assert_allclose(noise**2, glow, rtol=0.5, atol=30)


@pytest.mark.parametrize("signal", [65_000.0, 65_435.0, 70_000.0, 200_000.0, 1e9])
def test_a_bright_pixel_wraps(signal: float) -> None:
    sensor = make()
    frame = expose(sensor, 1, np.full(SHAPE, signal, np.float32))
    assert frame.dtype == np.uint16
    assert frame.min() > min(signal, 65_535) - 20
    assert (frame == 65_535).all() or signal < 66_000


def test_a_pixel_below_zero_wraps() -> None:
    frame = expose(make(hot=0), 1, np.full(SHAPE, -150, np.float32))
    assert (frame == 0).all()


def test_light_is_lost_or_scaled() -> None:
    sensor = make(hot=0)
    light = np.zeros(SHAPE, np.float32)
    light[17, 23], light[299, 500] = 1000, 500
    difference = expose(sensor, 1, light).astype(int) - expose(sensor, 1)
    np.testing.assert_array_equal(difference, light)


@pytest.mark.parametrize("shape", [(1, 1), (63, 2), (64, 3), (65, 1), (129, 4)])
def test_the_last_rows_are_forgotten(shape: tuple[int, int]) -> None:
    frame = expose(make(hot=0, shape=shape), 1)
    assert frame.shape == shape
    assert (np.abs(frame.astype(float) - OFFSET) < 40).all()
