"""Simulated photons are Poisson, their charge is conserved, and lies where the truth says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.simulation.photons import (
    ENERGY,
    ENERGY_WIDTH,
    LOW_ENERGY,
    LOW_SHARE,
    PARTIAL_SHARE,
    PHOTON,
    PhotonKind,
    add_clouds,
    draw_photons,
)

SHAPE = (512, 384)


def draw(frames: int = 400, photons: float = 100.0, seed: int = 1, **options: Any) -> np.ndarray:
    return draw_photons(np.random.default_rng(seed), frames, SHAPE, photons, **options)


def photon(y: float, x: float, energy: float = 1265.0, sigma: float = 0.47) -> np.ndarray:
    return np.array([(0, y, x, energy, PhotonKind.FULL, sigma)], PHOTON)


def chi_square_is_likely(observed: np.ndarray, expected: np.ndarray) -> None:
    """Fail if a chi-square lies beyond 5 of its standard deviations."""
    freedom = observed.size - 1
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_the_same_seed_gives_other_photons() -> None:
    np.testing.assert_array_equal(draw(seed=5), draw(seed=5))
    assert not np.array_equal(draw(10, seed=5)[:50], draw(10, seed=6)[:50])


def test_the_number_in_a_frame_is_not_poisson() -> None:
    counts = np.bincount(draw(frames=4000, photons=6.0)["frame"], minlength=4000)
    expected = [math.exp(-6) * 6**k / math.factorial(k) for k in range(14)]
    expected.append(1 - sum(expected))
    observed = np.bincount(np.minimum(counts, 14), minlength=15)
    chi_square_is_likely(observed, 4000 * np.array(expected))


def test_photons_are_out_of_order_or_in_no_frame() -> None:
    frame = draw(frames=50)["frame"]
    assert (np.diff(frame.astype(int)) >= 0).all() and frame.max() == 49
    assert draw(frames=50, photons=0).size == 0


def test_places_are_not_uniform_on_the_sensor_or_within_a_pixel() -> None:
    photons = draw()
    for name, side in zip(("y", "x"), SHAPE, strict=True):
        assert photons[name].min() >= -0.5 and photons[name].max() <= side - 0.5
    rows, columns = (photons["y"] + 0.5) // 32, (photons["x"] + 0.5) // 32
    cells = np.bincount((rows * 12 + columns).astype(int), minlength=16 * 12)
    chi_square_is_likely(cells, np.full(cells.size, photons.size / cells.size))
    rows, columns = (((photons[name] + 0.5) % 1 * 8).astype(int) for name in ("y", "x"))
    cells = np.bincount(rows * 8 + columns, minlength=64)
    chi_square_is_likely(cells, np.full(64, photons.size / 64))


def test_a_density_is_not_followed() -> None:
    density = np.zeros(SHAPE)
    density[10:12, 20:24] = [[1, 2, 3, 4], [5, 6, 7, 0]]
    density[-1, -1] = 4
    photons = draw(density=density)
    rows, columns = (np.rint(photons[name]).astype(int) for name in ("y", "x"))
    assert (np.abs(photons["y"] - rows) <= 0.5).all()
    found = np.zeros(SHAPE, int)
    np.add.at(found, (rows, columns), 1)
    assert (found[density == 0] == 0).all()
    hit = density > 0
    chi_square_is_likely(found[hit], photons.size * density[hit] / density.sum())


@pytest.mark.parametrize("density", [np.ones((3, 3)), -np.ones(SHAPE), np.full(SHAPE, np.nan)])
def test_a_density_that_cannot_be_one_is_taken(density: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a density of \("):
        draw(density=density)


def test_kinds_have_other_energies_or_shares_than_declared() -> None:
    photons = draw()
    shares = (1 - PARTIAL_SHARE - LOW_SHARE, PARTIAL_SHARE, LOW_SHARE)
    kinds = np.bincount(photons["kind"], minlength=3)
    chi_square_is_likely(kinds, photons.size * np.array(shares))
    full, partial, low = (photons["energy"][photons["kind"] == kind] for kind in PhotonKind)
    assert full.mean() == pytest.approx(ENERGY, abs=2)
    assert full.std() == pytest.approx(ENERGY_WIDTH, rel=0.05)
    assert low.min() >= LOW_ENERGY[0] and low.max() <= LOW_ENERGY[2]
    plateau = np.histogram(partial, 20, (0, 1100))[0]
    chi_square_is_likely(plateau, np.full(20, plateau.mean()))


@pytest.mark.parametrize(
    ("sigma", "least", "largest"), [(0.47, 0.47, 0.47), ((0.3, 0.6), 0.3, 0.6)]
)
def test_clouds_have_other_widths_than_asked_for(sigma, least: float, largest: float) -> None:
    widths = draw(sigma=sigma)["sigma"]
    assert widths.min() >= np.float32(least) and widths.max() <= np.float32(largest)
    assert widths.mean() == pytest.approx((least + largest) / 2, rel=0.01)


inner = st.floats(8, 23, exclude_max=True)


@settings(max_examples=200, deadline=None)
@given(inner, inner, st.floats(0, 60_000), st.floats(0.1, 1.0), st.floats(0, 1))
def test_charge_is_lost_or_made(
    y: float, x: float, energy: float, sigma: float, halo: float
) -> None:
    light = np.zeros((32, 32), np.float32)
    add_clouds(light, photon(y, x, energy, sigma), halo)
    assert light.min() >= 0
    assert light.sum(dtype=np.float64) == pytest.approx(np.float32(energy), rel=1e-5, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(inner, inner, st.floats(0.3, 0.6))
def test_a_cloud_is_not_centred_where_the_truth_says(y: float, x: float, sigma: float) -> None:
    """Compare the cloud's rows and columns with a Gaussian summed on a fine grid."""
    light = np.zeros((32, 32), np.float32)
    add_clouds(light, photon(y, x, sigma=sigma), halo=0.0)
    fine = (np.arange(32 * 200) + 0.5) / 200 - 0.5
    for axis, centre in ((1, y), (0, x)):
        density = np.exp(-(((fine - centre) / np.float32(sigma)) ** 2) / 2)
        expected = density.reshape(32, 200).sum(axis=1) / density.sum()
        np.testing.assert_allclose(light.sum(axis=axis) / light.sum(), expected, atol=2e-5)


@pytest.mark.parametrize("halo", [0.0, 0.13])
def test_the_centre_of_mass_of_a_symmetric_cloud_is_off(halo: float) -> None:
    for y, x in ((16.0, 16.0), (16.5, 15.5), (16.0, 15.5)):
        light = np.zeros((32, 32), np.float32)
        add_clouds(light, photon(y, x), halo)
        rows, columns = np.indices(light.shape)
        assert (rows * light).sum() / light.sum() == pytest.approx(y, abs=1e-4)
        assert (columns * light).sum() / light.sum() == pytest.approx(x, abs=1e-4)


@pytest.mark.parametrize("halo", [0.0, 0.13])
def test_photons_at_the_edge_wrap_to_the_other_side(halo: float) -> None:
    light = np.zeros((20, 24), np.float32)
    for y, x in ((-0.5, 3.0), (19.49, 23.49), (10.0, -0.5)):
        light[:] = 0
        add_clouds(light, photon(y, x), halo)
        assert 0.2 * 1265 < light.sum() < 0.8 * 1265
        rows, columns = np.nonzero(light)
        assert np.abs(rows - y).max() < 6.01 and np.abs(columns - x).max() < 6.01


def test_photons_do_not_add_up() -> None:
    light = np.zeros((32, 32), np.float32)
    both = np.concatenate([photon(16.2, 16.1), photon(17.0, 15.0)])
    add_clouds(light, both)
    alone = np.zeros((2, 32, 32), np.float32)
    for image, one in zip(alone, both, strict=True):
        add_clouds(image, np.array([one]))
    np.testing.assert_allclose(light, alone.sum(axis=0), rtol=1e-5, atol=1e-6)


def test_no_pixel_is_reached_on_a_sensor_smaller_than_a_cloud() -> None:
    light = np.zeros((1, 2), np.float32)
    add_clouds(light, photon(0.0, 0.5))
    assert light[0, 0] == pytest.approx(light[0, 1]) and 0.3 * 1265 < light[0, 0] < 0.5 * 1265
