"""The background of rings against a plain sum over their pixels, and on rings that are hard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.azimuthal.errors import ErrorModel, parse_error_model
from ronda.core.bragg.clipping import Background, clipping_model
from ronda.core.bragg.picking import Sparsifier, Sparsifying
from ronda.tests.core.bragg.sparsifying import (
    CORRECTED,
    EACH,
    MODELS,
    SHAPE,
    Plain,
    PlainRings,
    corrected_rings,
    frame,
    least,
    rings_of_few,
)


def background(image: NDArray[Any], rings: PlainRings, **changes: Any) -> Background:
    return Sparsifier(rings.as_rings, Sparsifying(**changes)).sparsify(image).background


def check(image: NDArray[Any], rings: PlainRings, how: Sparsifying) -> Background:
    """Compare the background with the plain one; return it."""
    found = Sparsifier(rings.as_rings, how).sparsify(image).background
    plain = Plain(image, rings, how)
    average, deviation, count = plain.background()
    # A pixel on the very end of a band may fall to either side.
    clear = ~plain.tie
    np.testing.assert_array_equal(found.count[clear], count[clear])
    scale = np.abs(np.nan_to_num(average)).max(initial=0)
    np.testing.assert_allclose(
        found.average[clear], average[clear], rtol=1e-6, atol=1e-9 * scale + 1e-12
    )
    np.testing.assert_allclose(
        found.deviation[clear], deviation[clear], rtol=1e-5, atol=1e-6 * scale + 1e-9
    )
    return found


@pytest.mark.parametrize(("dtype", "model"), EACH)
@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.0, 0.03, 0.7, 4.0, 90.0]),
    spots=st.sampled_from([0, 3, 40, 700]),
    holes=st.sampled_from([0, 1, 12, 200]),
    cycles=st.integers(0, 6),
    cutoff=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_rings_of_a_plain_frame(
    dtype: str, model: str, seed: int, bins: int, mean: float, spots: int, holes: int,
    cycles: int, cutoff: float,
) -> None:  # fmt: skip
    image = frame(np.random.default_rng(seed), dtype, mean, spots, holes)
    how = Sparsifying(
        cycles=cycles, cutoff_clip=cutoff, error_model=parse_error_model(model), noise=0.0
    )
    check(image, PlainRings(SHAPE, bins), how)


@pytest.mark.parametrize(("model", "dtype", "with_norm", "with_dark"), CORRECTED)
@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.03, 4.0, 90.0]),
    holes=st.sampled_from([0, 1, 30]),
    dummy=st.sampled_from([None, 0.0, 4.0]),
)
def test_rings_of_a_frame_with_corrections(
    model: str, dtype: str, with_norm: bool, with_dark: bool, seed: int, bins: int, mean: float,
    holes: int, dummy: float | None,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    rings = corrected_rings(rng, bins, with_norm, with_dark, dummy=dummy, delta_dummy=0.5)
    image = frame(rng, dtype, mean, 20, holes)
    check(image, rings, Sparsifying(error_model=parse_error_model(model)))


@pytest.mark.parametrize("dummy", (0.0, 3.0, 4.0))
@pytest.mark.parametrize("model", MODELS)
def test_a_dummy_value_amid_the_background_is_left_out(model: str, dummy: float) -> None:
    image = np.random.default_rng(5).poisson(4, SHAPE).astype(np.int32)
    rings = PlainRings(SHAPE, 3, dummy=dummy)
    found = check(image, rings, Sparsifying(error_model=parse_error_model(model), cycles=0))
    assert found.count.sum() == (image != dummy).sum()


@pytest.mark.parametrize("model", MODELS)
def test_bands_that_end_within_the_inner_range_are_clipped_pixel_by_pixel(model: str) -> None:
    # Hardly any scatter in the sample, much more in the model, and the other way round.
    rng = np.random.default_rng(3)
    for image in (
        np.round(rng.normal(1000, 2, SHAPE)),
        np.round(rng.normal(1000, 200, SHAPE)),
        1000 + 5 * (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 9),
    ):
        how = Sparsifying(error_model=parse_error_model(model))
        check(image.astype(np.int32), PlainRings(SHAPE, 4), how)


# ---------------------------------------------------------------------- rings that are hard


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("peak", (20, 1000, 10**6, 2**31 - 2))
def test_no_ring_of_few_pixels_half_of_them_peak_ends_empty(model: str, peak: int) -> None:
    found = background(*rings_of_few(peak), error_model=parse_error_model(model))
    assert (found.count > 0).all()
    assert ((found.average >= 2) & (found.average <= peak)).all()
    if model == "poisson" and peak > 20:
        assert (found.average == 2).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("hole", (-20, -1000, -(2**31)))
def test_no_ring_of_few_pixels_half_of_them_far_below_zero_is_pulled_down(
    model: str, hole: int
) -> None:
    found = background(*rings_of_few(hole), error_model=parse_error_model(model))
    np.testing.assert_array_equal(found.average, np.float32(2))
    np.testing.assert_array_equal(found.count, [(ring + 2) // 2 for ring in range(12)])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("value", (0, 1, 7, 2**31 - 2))
def test_a_ring_of_equal_pixels_keeps_them_all(model: str, value: int) -> None:
    image = np.full(SHAPE, value, np.int32)
    found = background(image, PlainRings(SHAPE, 5), error_model=parse_error_model(model))
    assert found.count.sum() == image.size
    np.testing.assert_array_equal(found.average, np.float32(value))


@pytest.mark.parametrize("model", MODELS)
def test_one_strong_peak_does_not_lift_the_background_of_its_ring(model: str) -> None:
    rng = np.random.default_rng(2)
    image = rng.poisson(3, (200, 200)).astype(np.int32)
    rings = PlainRings((200, 200), 60)
    clean = background(image, rings, error_model=parse_error_model(model))
    rows, columns = rng.integers(0, 200, (2, 60))
    image[rows, columns] = rng.choice([500, 10**5, 10**8], 60)
    found = background(image, rings, error_model=parse_error_model(model))
    assert (found.count > 0).all()
    # Where half a dozen pixels of few are spots, less is left to tell the background by.
    many = clean.count > 100
    np.testing.assert_allclose(found.average[many], clean.average[many], atol=0.35)


@pytest.mark.parametrize(
    ("dtype", "model"), [each for each in EACH if np.dtype(each[0]).kind != "u"]
)
def test_a_single_pixel_of_the_least_value_does_not_ruin_the_mean_of_its_ring(
    dtype: str, model: str
) -> None:
    rings, how = PlainRings(SHAPE, 8), Sparsifying(error_model=parse_error_model(model))
    image = frame(np.random.default_rng(4), dtype, 6.0, 0)
    places = [np.flatnonzero(rings.ring == ring)[-7] for ring in range(8)]
    clean = image.copy()
    clean.flat[places], image.flat[places] = -1, least(dtype)
    expected, found = check(clean, rings, how), check(image, rings, how)
    np.testing.assert_allclose(found.average, expected.average, atol=0.05)
    np.testing.assert_allclose(found.deviation, expected.deviation, atol=0.05)
    np.testing.assert_allclose(found.count, expected.count, atol=1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", ("int32", "float32"))
def test_negative_noise_on_half_of_the_pixels_is_no_outlier(dtype: str, model: str) -> None:
    # A CMOS camera less its dark: here -1 and -2 are measured.
    rng = np.random.default_rng(8)
    image = rng.normal(0, 9, SHAPE).round().astype(dtype)
    expected = image.mean()
    image.flat[rng.integers(0, image.size, 12)] = least(dtype)
    image.flat[rng.integers(0, image.size, 12)] = 10**6
    rings, how = (
        PlainRings(SHAPE, 3, marks=False),
        Sparsifying(error_model=parse_error_model(model)),
    )
    found = check(image, rings, how)
    assert (found.count > 0).all()
    np.testing.assert_allclose(found.average, expected, atol=3)
    if model in ("azimuthal", "hybrid"):  # the others take pixels for counts
        np.testing.assert_allclose(found.average, expected, atol=1)
        assert found.count.sum() >= 0.98 * image.size


@pytest.mark.parametrize(("mean", "scatter"), [(1000, 200), (1000, 9), (8, 0.4)])
@pytest.mark.parametrize("dtype", ("int32", "float32"))
def test_the_background_of_the_negative_of_a_frame_is_the_negative(
    dtype: str, mean: float, scatter: float
) -> None:
    rng = np.random.default_rng(9)
    image = rng.normal(mean, scatter, SHAPE).round().astype(dtype)
    image.flat[::50], image.flat[::77] = 10**7, -(10**7)
    rings = PlainRings(SHAPE, 5, marks=False)
    found = background(image, rings, error_model=ErrorModel.AZIMUTHAL)
    mirrored = background(-image, rings, error_model=ErrorModel.AZIMUTHAL)
    np.testing.assert_allclose(found.average, mean, atol=0.3 * scatter)
    np.testing.assert_allclose(mirrored.average, -found.average, rtol=1e-6)
    np.testing.assert_allclose(mirrored.deviation, found.deviation, rtol=1e-6)
    np.testing.assert_array_equal(mirrored.count, found.count)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("model", MODELS)
def test_floats_at_both_ends_of_their_range_do_not_overflow_a_ring(dtype: str, model: str) -> None:
    image = np.random.default_rng(10).normal(100, 5, SHAPE).astype(dtype)
    rings = PlainRings(SHAPE, 5)
    clean = background(image, rings, error_model=parse_error_model(model))
    image.flat[::50], image.flat[::77] = np.finfo(dtype).max, -np.finfo(dtype).max
    found = background(image, rings, error_model=parse_error_model(model))
    np.testing.assert_allclose(found.average, clean.average, atol=0.5)
    np.testing.assert_allclose(found.deviation, clean.deviation, atol=1)


@pytest.mark.parametrize("mean", (0.003, 0.05, 0.3, 1.0, 5.0, 200.0))
def test_poisson_clipping_leaves_the_mean_of_a_pure_background(mean: float) -> None:
    image = np.random.default_rng(7).poisson(mean, (600, 600)).astype(np.int32)
    found = background(image, PlainRings((600, 600), 10))
    error = np.sqrt(mean / found.count)
    assert (abs(found.average - mean) < 4 * error + 0.01 * np.sqrt(mean)).all()
    np.testing.assert_allclose(found.deviation, np.sqrt(found.average), rtol=1e-5)


def test_only_rings_without_usable_pixels_are_nan_and_are_bridged() -> None:
    rings = PlainRings(SHAPE, 8)
    image = np.full(SHAPE, 5, np.int32)
    image.flat[np.isin(rings.ring, (0, 3, 7))] = -1
    found = background(image, rings)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found.average)), [0, 3, 7])
    np.testing.assert_array_equal(np.flatnonzero(found.count == 0), [0, 3, 7])
    average, deviation = found.filled()
    np.testing.assert_array_equal(average, np.float32(5))
    assert np.isfinite(deviation).all()


def test_nothing_usable_gives_no_background_and_no_pixel() -> None:
    image = np.full(SHAPE, np.nan, np.float32)
    found = Sparsifier(PlainRings(SHAPE, 8).as_rings, Sparsifying()).sparsify(image)
    assert np.isnan(found.background.average).all()
    assert found.index.size == 0


def test_pixels_without_a_normalization_are_left_out() -> None:
    flat = np.ones(SHAPE)
    flat[3, 4], flat[5, 6], flat[7, 8] = 0, np.nan, -1
    rings = PlainRings(SHAPE, 2, normalization=flat)
    image = np.full(SHAPE, 9, np.int32)
    image[[3, 5, 7], [4, 6, 8]] = 60000
    found = Sparsifier(rings.as_rings, Sparsifying()).sparsify(image)
    assert found.background.count.sum() == image.size - 3
    assert found.index.size == 0


def test_counters_that_are_full_do_not_wrap_the_sums() -> None:
    image = np.full((300, 300), 2**32 - 2, np.uint32)
    found = background(image, PlainRings((300, 300), 2), error_model=ErrorModel.HYBRID)
    np.testing.assert_array_equal(found.average, np.float32(2**32 - 2))
    image = np.full((300, 300), 2**62, np.int64)
    found = background(image, PlainRings((300, 300), 2))
    np.testing.assert_array_equal(found.average, np.float32(2**62))


def test_a_model_without_errors_cannot_clip() -> None:
    with pytest.raises(ValueError, match="tells no deviation"):
        clipping_model(ErrorModel.NONE)
