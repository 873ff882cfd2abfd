"""Picked pixels against each pixel's own threshold, exact values, and pyFAI's choice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fabio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.azimuthal.errors import ErrorModel, parse_error_model
from ronda.core.bragg.boxes import with_boxes
from ronda.core.bragg.filling import fill_of
from ronda.core.bragg.picking import SparseFrame, Sparsifier, Sparsifying, sparsifier
from ronda.tests.conftest import SHARED_DATA
from ronda.tests.core.bragg.pyfai_peers import by_opencl, by_python, jaccard
from ronda.tests.core.bragg.sparsifying import (
    CORRECTED,
    DTYPES,
    EACH,
    MODELS,
    SHAPE,
    Plain,
    PlainRings,
    corrected_rings,
    frame,
    kept_of,
)
from scipy.special import ndtr
from scipy.stats import poisson


def sparsify(image: NDArray[Any], rings: PlainRings, how: Sparsifying) -> SparseFrame:
    return Sparsifier(rings.as_rings, how).sparsify(image)


def check(image: NDArray[Any], rings: PlainRings, how: Sparsifying) -> SparseFrame:
    """Compare the kept pixels with the plain threshold of each; return them."""
    found = sparsify(image, rings, how)
    expected, tie = Plain(image, rings, how).kept(found.background, how.cutoff_pick)
    np.testing.assert_array_equal(kept_of(found, image)[~tie], expected[~tie])
    return found


@pytest.mark.parametrize(("dtype", "model"), EACH)
@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    mean=st.sampled_from([0.0, 0.03, 0.7, 4.0, 90.0]),
    spots=st.sampled_from([0, 40, 700]),
    cutoff=st.sampled_from([0.1, 1.0, 3.0, 7.0]),
    noise=st.sampled_from([0.0, 0.3, 1.0, 20.0]),
)
def test_a_pixel_of_a_plain_frame_is_kept_exactly_if_it_is_over_its_threshold(
    dtype: str, model: str, seed: int, bins: int, mean: float, spots: int, cutoff: float,
    noise: float,
) -> None:  # fmt: skip
    how = Sparsifying(cutoff_pick=cutoff, noise=noise, error_model=parse_error_model(model))
    image = frame(np.random.default_rng(seed), dtype, mean, spots, holes=3)
    check(image, PlainRings(SHAPE, bins), how)


@pytest.mark.parametrize(("model", "dtype", "with_norm", "with_dark"), CORRECTED)
@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.integers(1, 12),
    cutoff=st.sampled_from([0.5, 3.0]),
    noise=st.sampled_from([0.0, 1.0]),
)
def test_a_pixel_of_a_frame_with_corrections_is_kept_exactly_if_it_is_over_its_threshold(
    model: str, dtype: str, with_norm: bool, with_dark: bool, seed: int, bins: int,
    cutoff: float, noise: float,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    rings = corrected_rings(rng, bins, with_norm, with_dark, most_dark=30)
    how = Sparsifying(cutoff_pick=cutoff, noise=noise, error_model=parse_error_model(model))
    check(frame(rng, dtype, 6.0, 60), rings, how)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2**31 - 1, "int32"),
        (2**32 - 1, "uint32"),
        (2**16 - 1, "uint16"),
        (2**53 + 1, "int64"),
        (8388609, "int32"),
        (2**53 + 1, "uint64"),
        (16777217.0, "float64"),
        (0.1, "float64"),
    ],
)
def test_values_are_kept_as_they_were_recorded(value: float, dtype: str) -> None:
    image = np.zeros(SHAPE, dtype)
    image[3, 5] = value
    how = Sparsifying(noise=0.01, error_model=ErrorModel.AZIMUTHAL)
    found = sparsify(image, PlainRings(SHAPE, 4, marks=False), how)
    np.testing.assert_array_equal(found.index, [3 * SHAPE[1] + 5])
    assert found.intensity.dtype == image.dtype
    assert found.intensity[0] == image[3, 5]


def test_a_dark_changes_what_is_kept_but_no_value() -> None:
    image = np.full(SHAPE, 40, np.uint16)
    image[3, 5], image[10, 10] = 1000, 100
    dark = np.full(SHAPE, 30.0)
    dark[10, 10] = 90
    found = sparsify(image, PlainRings(SHAPE, 4, dark=dark), Sparsifying())
    np.testing.assert_array_equal(found.index, [3 * SHAPE[1] + 5])
    np.testing.assert_array_equal(found.intensity, [1000])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaps_and_masked_pixels_are_never_kept(dtype: str) -> None:
    kind = np.dtype(dtype)
    image = np.zeros(SHAPE, kind)
    mask = np.zeros(SHAPE, np.bool_)
    mask[0, :5] = True
    image[0, :4], image[0, 4] = 100, top_of(kind)
    if kind.kind != "u":
        image[4, 4:6] = -1, -2
    if kind.kind == "f":
        image[4, 6] = np.nan
    image[9, 9] = 100
    found = sparsify(image, PlainRings(SHAPE, 4, mask=mask), Sparsifying(cutoff_pick=0.1))
    np.testing.assert_array_equal(found.index, [9 * SHAPE[1] + 9])


def top_of(kind: np.dtype[Any]) -> Any:
    """Return what a saturated pixel has."""
    return np.inf if kind.kind == "f" else np.iinfo(kind).max


@pytest.mark.parametrize(
    ("dtype", "corrected"),
    [("uint8", False), ("uint16", True), ("uint32", False), ("int32", True), ("float32", False)],
)
def test_a_saturated_pixel_is_kept_as_it_is_and_counts_for_nothing(
    dtype: str, corrected: bool
) -> None:
    kind, rng = np.dtype(dtype), np.random.default_rng(5)
    # Of uint8 with a dark, nothing less than saturated could stand out.
    mean = 60 if kind.itemsize == 1 else 9
    image = rng.poisson(mean, SHAPE).astype(dtype)
    image[20, 18:22] = top_of(kind)
    image[20, 17] = image[20, 22] = min(200, np.iinfo(kind).max if kind.kind != "f" else 200)
    masked = np.zeros(SHAPE, np.bool_)
    more: dict[str, Any] = {}
    if corrected:
        more = {"normalization": rng.uniform(0.5, 2, SHAPE), "dark": np.full(SHAPE, 40.0)}
        more["normalization"][20, 18:22] = 0.01
    ones = PlainRings(SHAPE, 4, mask=masked, **more)
    without = PlainRings(SHAPE, 4, mask=image == top_of(kind), **more)
    how = Sparsifying()
    found, expected = sparsify(image, ones, how), sparsify(image, without, how)
    over = 20 * SHAPE[1] + np.arange(18, 22)
    np.testing.assert_array_equal(found.index, np.union1d(expected.index, over))
    assert (found.intensity[np.isin(found.index, over)] == top_of(kind)).all()
    for name in ("average", "deviation", "count", "totals"):
        ours, theirs = (getattr(each.background, name) for each in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=name)
    fills = (
        fill_of(each, image, rings.as_rings) for each, rings in ((found, ones), (expected, without))
    )
    np.testing.assert_allclose(*fills, rtol=1e-5)
    boxes = with_boxes(found, image, ones.as_rings, how, 3)
    assert np.isin(over, boxes.index).all()
    assert (kept_of(boxes, image) >= kept_of(found, image)).all()


def test_a_saturated_pixel_of_the_dummy_value_is_left_out() -> None:
    image = np.full(SHAPE, 9, np.uint16)
    image[20, 18] = 65_535
    rings = PlainRings(SHAPE, 4, dummy=65_535.0)
    found = sparsify(image, rings, Sparsifying())
    assert found.index.size == with_boxes(found, image, rings.as_rings, Sparsifying(), 3).index.size
    assert found.index.size == 0


def test_a_frame_that_is_saturated_all_over_is_kept() -> None:
    image = np.full(SHAPE, 65_535, np.uint16)
    found = sparsify(image, PlainRings(SHAPE, 4), Sparsifying())
    np.testing.assert_array_equal(found.index, np.arange(image.size))
    assert np.isnan(found.background.average).all()


@pytest.mark.parametrize("layout", ("transposed", "strided", "swapped", "read-only"))
def test_frames_however_they_lie_in_memory(layout: str) -> None:
    plain = np.random.default_rng(1).poisson(3, SHAPE).astype(np.int32)
    plain[5, 7] = 2**31 - 2
    image = {
        "transposed": np.asfortranarray(plain),
        "strided": np.repeat(plain, 2, axis=1)[:, ::2],
        "swapped": plain.astype(plain.dtype.newbyteorder()),
        "read-only": np.frombuffer(plain.tobytes(), np.int32).reshape(SHAPE),
    }[layout]
    rings = PlainRings(SHAPE, 4)
    found, expected = (sparsify(each, rings, Sparsifying()) for each in (image, plain))
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.intensity, expected.intensity)
    assert found.intensity.dtype.isnative


# ------------------------------------------------------------------- few counts


@pytest.mark.parametrize("mean", (0.003, 0.05, 0.4, 2.0, 30.0))
@pytest.mark.parametrize("cutoff", (2.0, 3.0))
def test_no_more_background_is_kept_than_a_gaussian_has_beyond_the_cutoff(
    mean: float, cutoff: float
) -> None:
    shape = (900, 900)
    image = np.random.default_rng(11).poisson(mean, shape).astype(np.int32)
    how = Sparsifying(noise=0.0, cutoff_pick=cutoff)
    kept = sparsify(image, PlainRings(shape, 40), how).index.size
    tail = ndtr(-cutoff) * image.size
    assert kept <= tail + 4 * np.sqrt(tail)


def test_weak_spots_that_the_classic_rule_loses_are_kept_at_few_counts() -> None:
    shape = (600, 600)
    rng = np.random.default_rng(12)
    image = rng.poisson(0.05, shape).astype(np.int32)
    spots = rng.integers(0, image.size, 300)
    image.flat[spots] = 4
    found = {
        model: sparsify(
            image, PlainRings(shape, 40), Sparsifying(noise=0.0, error_model=model, cutoff_pick=4)
        ).index
        for model in (ErrorModel.POISSON, ErrorModel.POISSON_CLASSIC)
    }
    assert np.isin(spots, found[ErrorModel.POISSON]).all()
    assert not np.isin(spots, found[ErrorModel.POISSON_CLASSIC]).any()


@pytest.mark.parametrize("mean", (0.2, 3.0, 500.0))
def test_the_count_from_which_on_a_pixel_is_kept_is_poissons_quantile(mean: float) -> None:
    image = np.random.default_rng(13).poisson(mean, (400, 400)).astype(np.int32)
    counts = np.arange(40) + int(mean)
    image.flat[1000 : 1000 + 40 * 97 : 97] = counts
    rings = PlainRings((400, 400), 1)
    found = sparsify(image, rings, Sparsifying(noise=0.0, cutoff_pick=3.0))
    average = float(found.background.average[0])
    limit = next(k for k in range(10**6) if poisson.sf(k - 1, average) < ndtr(-3.0))
    np.testing.assert_array_equal(
        np.isin(np.arange(1000, 1000 + 40 * 97, 97), found.index), counts >= limit
    )


# ----------------------------------------------------------------------- use


def test_many_threads_give_what_one_gives() -> None:
    rng = np.random.default_rng(14)
    images = [frame(rng, "int32", mean, 50) for mean in (0.1, 1, 5, 20) for _ in range(8)]
    engine = Sparsifier(PlainRings(SHAPE, 6).as_rings, Sparsifying())
    alone = [engine.sparsify(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.sparsify, images * 4))
    for number, found in enumerate(together):
        expected = alone[number % len(images)]
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_array_equal(found.background.average, expected.background.average)


def test_a_frame_leaves_nothing_behind_for_the_next() -> None:
    rng = np.random.default_rng(15)
    first, second = frame(rng, "int32", 90, 700), frame(rng, "int32", 0.05, 3)
    rings = PlainRings(SHAPE, 6)
    engine = Sparsifier(rings.as_rings, Sparsifying())
    engine.sparsify(first)
    found, expected = engine.sparsify(second), sparsify(second, rings, Sparsifying())
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.background.average, expected.background.average)


def test_the_same_settings_give_the_same_engine() -> None:
    rings = PlainRings(SHAPE, 6).as_rings
    how = Sparsifying(error_model=parse_error_model("5*I+8"))
    again = Sparsifying(error_model=parse_error_model("5*I+8"))
    assert sparsifier(rings, how) is sparsifier(rings, again)
    assert sparsifier(rings, how).rings is rings


@pytest.mark.parametrize(
    "wrong",
    [
        {"cycles": -1},
        {"cutoff_clip": -0.1},
        {"cutoff_pick": 0.0},
        {"cutoff_pick": float("nan")},
        {"noise": float("inf")},
        {"error_model": ErrorModel.NONE},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cycles|cutoff|noise|model"):
        Sparsifying(**wrong)


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        sparsify(np.zeros((3, 3), np.int32), PlainRings(SHAPE, 6), Sparsifying())


# ---------------------------------------------------------------------- pyFAI


@pytest.fixture(scope="module")
def simulated() -> Iterator[tuple[NDArray[Any], PlainRings]]:
    """Spots of some pixels on a background that falls with the radius."""
    rng = np.random.default_rng(21)
    shape = (500, 480)
    rings = PlainRings(shape, 150)
    mean = 40 * np.exp(-rings.radius.astype(np.float64) / 150) + 5
    y, x = np.indices(shape)
    for row, column in rng.uniform(10, 470, (60, 2)):
        mean += rng.uniform(10, 2000) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2)
    yield rng.poisson(mean).astype(np.int32), rings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", [by_opencl, by_python])
@pytest.mark.parametrize(
    ("model", "theirs"),
    [("hybrid", "hybrid"), ("azimuthal", "azimuthal"), ("poisson-classic", "poisson")],
)
def test_the_same_pixels_as_pyfai_on_a_simulated_frame(
    simulated: tuple[NDArray[Any], PlainRings], model: str, theirs: str, peer: Any
) -> None:
    image, rings = simulated
    how = Sparsifying(error_model=parse_error_model(model))
    ours = sparsify(image, rings, how)
    index, average, deviation = peer(image, rings, theirs)
    assert jaccard(ours.index, index) >= 0.93
    alike = ours.background.count > 200
    # Another start may leave a pixel more or less on a ring.
    assert np.isclose(ours.background.average, average, rtol=0.01)[alike].mean() > 0.95
    assert np.isclose(ours.background.deviation, deviation, rtol=0.03)[alike].mean() > 0.95


class PixelRings(PlainRings):
    """800 rings about the beam of the thaumatin frames, gaps left out."""

    def __init__(self, image: NDArray[Any]) -> None:
        super().__init__((image.shape[0], image.shape[1]), 800, mask=image < 0)
        y, x = np.indices(image.shape)
        radius = np.hypot(y - 1306.96, x - 1261.61)
        used = image >= 0
        low, high = radius[used].min(), radius[used].max() * (1 + 1e-6)
        self.width = (high - low) / self.bins
        self.centres = low + self.width * (np.arange(self.bins) + 0.5)
        ring = np.clip((radius - low) / self.width, 0, self.bins - 1).astype(np.uint16)
        ring[~used] = self.bins
        self.ring = ring.ravel()
        self.radius = np.where(used, radius, np.nan).astype(np.float32)


@pytest.fixture(scope="module")
def real() -> tuple[NDArray[Any], PixelRings]:
    """Return a thaumatin frame and its rings."""
    path = SHARED_DATA / "thaumatin/thau_3_2_0004.cbf.bz2"
    if not path.exists():
        pytest.skip(f"no {path.name} in shared/data")
    image = np.ascontiguousarray(fabio.open(path).data)
    return image, PixelRings(image)


@pytest.mark.parametrize("model", MODELS)
def test_a_real_frame_has_no_empty_ring(real: tuple[NDArray[Any], PixelRings], model: str) -> None:
    image, rings = real
    found = sparsify(image, rings, Sparsifying(error_model=parse_error_model(model)))
    there = np.bincount(rings.ring, minlength=801)[:800] > 0
    assert (found.background.count[there] > 0).all()


@pytest.fixture(scope="module")
def real_hybrid(real: tuple[NDArray[Any], PixelRings]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what is kept of that frame, and what stands out by 6 deviations."""
    image, rings = real
    how = Sparsifying(error_model=ErrorModel.HYBRID)
    found = sparsify(image, rings, how)
    strong, _ = Plain(image, rings, how).stands_out(found.background, 6.0)
    return found.index, np.flatnonzero(strong)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", [by_opencl, by_python])
def test_a_real_frame_has_the_pixels_that_pyfai_keeps(
    real: tuple[NDArray[Any], PixelRings],
    real_hybrid: tuple[NDArray[Any], NDArray[Any]],
    peer: Any,
) -> None:
    theirs, _, _ = peer(*real, "hybrid")
    ours, strong = real_hybrid
    assert jaccard(ours, theirs) >= 0.9
    assert np.isin(strong, ours).all()
    assert np.isin(strong, theirs).all()
