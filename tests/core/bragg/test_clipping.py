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
from ronda.tests.core.bragg.sparsifying import Plain, PlainRings

MODELS = ("poisson", "poisson-classic", "azimuthal", "hybrid", "2*I+1")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
          "float32", "float64")  # fmt: skip
EACH = [(dtype, "poisson") for dtype in DTYPES]
EACH += [(dtype, model) for dtype in ("int32", "float32") for model in MODELS]
SHAPE = (37, 41)


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


def frame(rng: np.random.Generator, dtype: str, mean: float, spots: int) -> NDArray[Any]:
    """Poisson background, some spots, some marked pixels."""
    kind = np.dtype(dtype)
    top = float(np.iinfo(kind).max) if kind.kind in "iu" else 1e4
    image = np.minimum(rng.poisson(mean, SHAPE), top).astype(np.float64)
    place = rng.integers(0, image.size, spots)
    image.flat[place] = np.minimum(rng.choice([8.0, 50.0, 1e3, 1e6], spots), top)
    exact: NDArray[Any] = image.astype(kind)
    marked = rng.integers(0, image.size, 5)
    if kind.kind == "u":
        exact.flat[marked] = np.iinfo(kind).max
    else:
        exact.flat[marked] = rng.choice([-1, -2], 5)
    return exact


@settings(deadline=None, max_examples=14)
@given(
    seed=st.integers(0, 2**32 - 1),
    each=st.sampled_from(EACH),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.0, 0.03, 0.7, 4.0, 90.0]),
    spots=st.sampled_from([0, 3, 40, 700]),
    cycles=st.integers(0, 6),
    cutoff=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_rings_of_a_plain_frame(
    seed: int, each: tuple[str, str], bins: int, mean: float, spots: int, cycles: int,
    cutoff: float,
) -> None:  # fmt: skip
    dtype, model = each
    image = frame(np.random.default_rng(seed), dtype, mean, spots)
    how = Sparsifying(
        cycles=cycles, cutoff_clip=cutoff, error_model=parse_error_model(model), noise=0.0
    )
    check(image, PlainRings(SHAPE, bins), how)


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int32", "float32"]),
    model=st.sampled_from(MODELS),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.03, 4.0, 90.0]),
    with_dark=st.booleans(),
    dummy=st.sampled_from([None, 0.0, 4.0]),
)
def test_rings_of_a_frame_with_corrections(
    seed: int, dtype: str, model: str, bins: int, mean: float, with_dark: bool, dummy: float | None
) -> None:
    rng = np.random.default_rng(seed)
    rings = PlainRings(
        SHAPE, bins, normalization=rng.uniform(0.2, 3, SHAPE),
        dark=rng.uniform(-1, 3, SHAPE) if with_dark else None,
        mask=rng.random(SHAPE) < 0.1, dummy=dummy, delta_dummy=0.5,
    )  # fmt: skip
    check(frame(rng, dtype, mean, 20), rings, Sparsifying(error_model=parse_error_model(model)))


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
@pytest.mark.parametrize("pixels", range(1, 13))
def test_no_ring_of_few_pixels_half_of_them_peak_ends_empty(
    model: str, peak: int, pixels: int
) -> None:
    image = np.full(SHAPE, 2, np.int32)
    rings = PlainRings(SHAPE, 1)
    chosen = np.random.default_rng(pixels).permutation(image.size)[:pixels]
    rings.ring[:] = 1
    rings.ring[chosen] = 0
    image.flat[chosen[: pixels // 2]] = peak
    found = background(image, rings, error_model=parse_error_model(model))
    assert found.count[0] > 0
    assert 2 <= found.average[0] <= peak
    if pixels >= 3 and model == "poisson" and peak > 20:
        assert found.average[0] == 2


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
    image = np.full(SHAPE, 9, np.uint16)
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
