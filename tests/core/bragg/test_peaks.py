"""Peaks against plain loops over a frame, and on spots whose place and strength are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.azimuthal.errors import parse_error_model
from ronda.core.bragg.peaks import LOCAL, PeakMode, Peaks, PeakSettings
from ronda.core.bragg.picking import Sparsifier, Sparsifying
from ronda.tests.core.bragg.sparsifying import Plain, PlainRings
from scipy import ndimage

SHAPE = (60, 64)
PATCH, ISLANDS = PeakMode.PATCH, PeakMode.PEAKFINDER8


def find(image: NDArray[Any], rings: PlainRings, peaks: PeakSettings, **changes: Any) -> Peaks:
    found = Sparsifier(rings.as_rings, Sparsifying(peaks=peaks, **changes)).sparsify(image).peaks
    assert found is not None
    return found


def spots(rng: np.random.Generator, number: int, mean: float = 4.0) -> NDArray[Any]:
    """Poisson background and round spots."""
    y, x = np.indices(SHAPE)
    expected = np.full(SHAPE, mean)
    for row, column in rng.uniform(0, 60, (number, 2)):
        expected += rng.uniform(5, 400) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 1.5)
    return rng.poisson(expected).astype(np.int32)


class Deviating:
    """Distance from the background, its error, and what stands out, of each pixel."""

    def __init__(self, image: NDArray[Any], rings: PlainRings, how: Sparsifying) -> None:
        background = Sparsifier(rings.as_rings, how).sparsify(image).background
        plain = Plain(image, rings, how)
        average, deviation = background.filled()
        radius = rings.radius.astype(np.float64)
        assert how.peaks is not None
        hot, _ = plain.stands_out(background, how.peaks.stands_out)
        self.usable = plain.usable.reshape(SHAPE)
        self.above = plain.value.reshape(SHAPE) - np.interp(radius, rings.centres, average)
        self.error = np.hypot(np.interp(radius, rings.centres, deviation), how.noise)
        self.hot = hot.reshape(SHAPE)


def plain_patches(seen: Deviating, half: int, connected: int) -> list[tuple[float, ...]]:
    found = []
    for row, column in np.argwhere(seen.hot):
        if not (half <= row < SHAPE[0] - half and half <= column < SHAPE[1] - half):
            continue
        square = np.s_[row - half : row + half + 1, column - half : column + half + 1]
        above = seen.above[square]
        if not seen.usable[square].all() or seen.hot[square].sum() < connected:
            continue
        if np.argmax(above) != above.size // 2:
            continue
        weight = np.where(above > 0, above, 0)
        y, x = np.mgrid[square]
        total, sigma = weight.sum(), np.sqrt((seen.error[square][above > 0] ** 2).sum())
        place = (weight * x).sum() / total, (weight * y).sum() / total
        found.append((total, sigma, *place, total / sigma, seen.hot[square].sum()))
    return found


def plain_islands(
    image: NDArray[Any], seen: Deviating, how: PeakSettings
) -> list[tuple[float, ...]]:
    hot = seen.hot & (image >= how.threshold)
    label, number = ndimage.label(hot, np.ones((3, 3)))
    found = []
    for each in range(1, number + 1):
        rows, columns = np.nonzero(label == each)
        if not how.min_pixels <= rows.size <= how.max_pixels:
            continue
        top = np.argmax(seen.above[rows, columns])
        row, column = rows[top], columns[top]
        reach = how.background_radius
        square = np.s_[
            max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1
        ]
        around = seen.above[square][seen.usable[square] & ~hot[square]]
        enough = around.size >= LOCAL
        offset = around.mean() if enough else 0.0
        deviation = max(seen.error[row, column], around.std() if enough else 0.0)
        weight = seen.above[rows, columns] - offset
        total = weight.sum()
        if total / deviation < how.min_snr:
            continue
        place = (weight * columns).sum() / total, (weight * rows).sum() / total
        sigma = deviation * np.sqrt(rows.size)
        found.append((row * SHAPE[1] + column, total, sigma, *place, total / deviation, rows.size))
    return [each[1:] for each in sorted(found)]


def same(found: Peaks, expected: list[tuple[float, ...]]) -> None:
    table = np.array(expected, np.float64).reshape(-1, 6)
    assert len(found) == len(table)
    columns = (found.intensity, found.sigma, found.x, found.y, found.snr, found.pixels)
    for column, wanted in zip(columns, table.T, strict=True):
        np.testing.assert_allclose(column, wanted, rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    model=st.sampled_from(["poisson", "hybrid"]),
    number=st.integers(0, 40),
    size=st.sampled_from([3, 5]),
    connected=st.integers(1, 4),
    cutoff=st.sampled_from([2.0, 3.0, 5.0]),
)
def test_patches(
    seed: int, model: str, number: int, size: int, connected: int, cutoff: float
) -> None:
    rng = np.random.default_rng(seed)
    image = spots(rng, number)
    rings = PlainRings(SHAPE, 8, mask=rng.random(SHAPE) < 0.01)
    image.flat[rng.integers(0, image.size, 8)] = -1
    peaks = PeakSettings(PATCH, cutoff=cutoff, patch_size=size, connected=connected)
    how = Sparsifying(error_model=parse_error_model(model), noise=0.5, peaks=peaks)
    found = find(image, rings, peaks, error_model=how.error_model, noise=0.5)
    same(found, plain_patches(Deviating(image, rings, how), size // 2, connected))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    model=st.sampled_from(["poisson", "hybrid"]),
    number=st.integers(0, 40),
    least=st.integers(1, 4),
    most=st.integers(4, 40),
    snr=st.sampled_from([2.0, 4.0]),
    threshold=st.sampled_from([0.0, 15.0]),
    radius=st.integers(1, 5),
)
def test_islands(
    seed: int, model: str, number: int, least: int, most: int, snr: float, threshold: float,
    radius: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    image = spots(rng, number)
    rings = PlainRings(SHAPE, 8, mask=rng.random(SHAPE) < 0.01)
    image.flat[rng.integers(0, image.size, 8)] = -1
    peaks = PeakSettings(
        ISLANDS, min_snr=snr, min_pixels=least, max_pixels=most, threshold=threshold,
        background_radius=radius,
    )  # fmt: skip
    how = Sparsifying(error_model=parse_error_model(model), noise=0.5, peaks=peaks)
    found = find(image, rings, peaks, error_model=how.error_model, noise=0.5)
    same(found, plain_islands(image, Deviating(image, rings, how), peaks))


@pytest.mark.parametrize("mode", [PATCH, ISLANDS])
def test_equal_neighbours_give_one_peak(mode: PeakMode) -> None:
    image = np.full(SHAPE, 2, np.int32)
    image[20:22, 30:33] = 500
    found = find(image, PlainRings(SHAPE, 1), PeakSettings(mode))
    assert len(found) == 1
    if mode is ISLANDS:
        assert (found.x[0], found.y[0], found.pixels[0]) == (31.0, 20.5, 6)
        assert found.intensity[0] == pytest.approx(6 * 498)


@pytest.mark.parametrize("mode", [PATCH, ISLANDS])
def test_peaks_come_in_the_order_of_their_highest_pixels(mode: PeakMode) -> None:
    image = np.full(SHAPE, 2, np.int32)
    # The first pixel of the right one comes first, its highest last.
    image[10:20, 40], image[20, 40] = 300, 900
    image[15, 9:12], image[15, 10] = 300, 900
    found = find(image, PlainRings(SHAPE, 1), PeakSettings(mode))
    expected = [10, 40] if mode is ISLANDS else [40, 10, 40]
    np.testing.assert_allclose(found.x, expected)


@pytest.mark.parametrize("mode", [PATCH, ISLANDS])
def test_place_and_strength_of_known_spots(mode: PeakMode) -> None:
    rng = np.random.default_rng(31)
    y, x = np.indices(SHAPE)
    places = [(12.3, 15.8), (30.6, 44.1), (47.0, 20.4)]
    expected = np.full(SHAPE, 3.0)
    for row, column in places:
        expected += 300 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 1.2)
    image = rng.poisson(expected).astype(np.uint16)
    found = find(image, PlainRings(SHAPE, 4), PeakSettings(mode, patch_size=5, cutoff=6))
    assert len(found) == 3
    np.testing.assert_allclose(np.transpose([found.y, found.x]), places, atol=0.15)
    np.testing.assert_allclose(found.intensity, 300 * np.pi * 1.2, rtol=0.1)
    assert (found.snr > 20).all()


def test_no_patch_reaches_over_a_masked_pixel_or_the_edge() -> None:
    image = np.full(SHAPE, 2, np.int32)
    image[0, 8:10], image[30, 20:22], image[40, 30:32] = 500, 500, 500
    mask = np.zeros(SHAPE, np.bool_)
    mask[29, 19] = True
    found = find(image, PlainRings(SHAPE, 1, mask=mask), PeakSettings(PATCH))
    np.testing.assert_array_equal(found.y, [40])


def overloaded(place: tuple[int, int], strength: float) -> NDArray[Any]:
    """Return a spot of which all above 60000 counts is saturated."""
    y, x = np.indices(SHAPE)
    spot = strength * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 3)
    image = np.random.default_rng(41).poisson(spot + 3).astype(np.uint16)
    image[spot > 60_000] = 65_535
    return image


@pytest.mark.parametrize("strength", [6.2e4, 1e5, 3e5, 2e6])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("mode", [PATCH, ISLANDS])
def test_a_spot_with_saturated_pixels_is_one_peak_at_its_place(
    mode: PeakMode, size: int, strength: float
) -> None:
    image = overloaded((30, 25), strength)
    assert (image == 65_535).sum() >= 1
    how = PeakSettings(mode, patch_size=size)
    found = find(image, PlainRings(SHAPE, 4), how)
    assert len(found) == 1
    assert (found.y[0], found.x[0]) == pytest.approx((30, 25), abs=0.1)
    assert 0 < found.intensity[0] < image[image < 65_535].sum()


def test_saturated_pixels_alone_or_in_a_gap_are_no_peak_and_hide_none() -> None:
    image = np.full(SHAPE, 2, np.uint16)
    image[:, 20:24], image[40, 40] = 65_535, 65_535
    image[30, 26:28], image[30, 30] = 500, 499
    image[10, 19] = image[11, 19] = 500
    mask = np.zeros(SHAPE, np.bool_)
    for at in ((50, 50), (5, 50)):
        image[at], image[at[0], at[1] + 1 : at[1] + 3] = 65_535, 900
    mask[49, 49] = True
    image[0, 40], image[1, 40:42] = 65_535, 900
    for mode, columns in ((PATCH, [51, 26.5]), (ISLANDS, [40.5, 51.5, 19, 26.5, 51.5])):
        found = find(image, PlainRings(SHAPE, 1, mask=mask), PeakSettings(mode))
        np.testing.assert_allclose(found.x, columns, atol=0.05)


def test_two_overloads_whose_squares_meet_are_one_peak() -> None:
    image = np.full(SHAPE, 2, np.uint16)
    image[30, 30], image[30, 32] = 65_535, 65_535
    image[29:32, 29], image[29:32, 31], image[29:32, 33] = 700, 800, 700
    engine = Sparsifier(PlainRings(SHAPE, 1).as_rings, Sparsifying(peaks=PeakSettings(PATCH)))
    for _ in range(2):
        found = engine.sparsify(image).peaks
        assert found is not None
        assert (len(found), found.x[0], found.y[0], found.pixels[0]) == (1, 31, 30, 11)
        assert found.intensity[0] == pytest.approx(6 * 698 + 3 * 798, rel=1e-4)


def test_peaks_below_what_is_picked_are_found() -> None:
    image = np.full(SHAPE, 100, np.int32)
    image[30, 20:22] = 150
    how = PeakSettings(PATCH, cutoff=3.0)
    found = Sparsifier(PlainRings(SHAPE, 1).as_rings, Sparsifying(cutoff_pick=20, peaks=how))
    sparse = found.sparsify(image)
    assert sparse.index.size == 0
    assert sparse.peaks is not None
    assert len(sparse.peaks) == 1


def test_many_frames_leave_no_label_behind() -> None:
    rng = np.random.default_rng(32)
    images = [spots(rng, 20) for _ in range(5)]
    rings, how = PlainRings(SHAPE, 8), PeakSettings(ISLANDS)
    engine = Sparsifier(rings.as_rings, Sparsifying(peaks=how))
    for image in images:
        peaks, alone = engine.sparsify(image).peaks, find(image, rings, how)
        assert peaks is not None
        np.testing.assert_array_equal(peaks.intensity, alone.intensity)
        np.testing.assert_array_equal(peaks[1:3].x, alone.x[1:3])


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": 4},
        {"patch_size": 1},
        {"connected": 0},
        {"min_pixels": 5, "max_pixels": 4},
        {"min_snr": 0.0},
        {"cutoff": float("nan")},
        {"background_radius": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of peaks"):
        PeakSettings(**wrong)
