"""Every photon is found once and where it is; what is none, or cannot be told, is counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.codecs import decode
from ronda.core.images.dark import Dark
from ronda.core.images.orientation import Orientation
from ronda.core.images.photons import (
    DOUBLE,
    SHARING,
    Candidates,
    Cuts,
    Hits,
    find_photons,
)
from ronda.core.images.threshold import Correction, recorded, uniform
from ronda.core.marks import Rectangle, as_pixels
from ronda.tests.benchmarks.measure_photons import Score, full_photons
from ronda.tests.core.images.frames import DTYPES, forms, marked, valid

CUTS = Cuts(800.0, 1400.0)
BALOR = (4104, 4128)


def whole(image: NDArray[Any]) -> Rectangle:
    return 0, image.shape[0], 0, image.shape[1]


def find(
    image: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    region: Rectangle | None = None,
    cuts: Cuts = CUTS,
    **options: float,
) -> Candidates:
    """Return the candidates of a frame on a dark of 100, for hits from 110 above it on."""
    pixels = as_pixels(image)
    correction = uniform(100, 110, image.shape[1], pixels.dtype)
    found = find_photons(pixels, mask, correction, region or whole(image), cuts, **options)
    assert isinstance(found, Candidates)
    return found


def dark_frame(shape: tuple[int, int] = (12, 14), dtype: str = "u2") -> NDArray[Any]:
    return np.full(shape, 100, dtype)


def hit(image: NDArray[Any], row: int, column: int, charge: float = 1000) -> None:
    """Add a photon whose charge is all in one pixel."""
    image[row, column] += image.dtype.type(charge)


# ------------------------------------------------------------------ the reference


@dataclass
class Plain:
    """What plain loops find."""

    hits: int = 0
    pixels: int = 0
    touching: int = 0
    pixel: list[tuple[int, int]] = field(default_factory=list)
    place: list[tuple[float, float]] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    flag: list[int] = field(default_factory=list)


def plain(
    image: NDArray[Any],
    mask: NDArray[np.bool_],
    correction: Correction,
    region: Rectangle,
    cuts: Cuts,
    gain: float,
) -> Plain:
    """Find photons as the documentation says it, pixel by pixel."""
    found, good = Plain(), valid(image) & ~mask
    dark = np.broadcast_to(correction.dark, image.shape).astype(np.float64)
    light = image.astype(np.float64) - dark
    hits = good & (light >= 0) & (light >= correction.threshold.astype(np.float64))
    (top, bottom, left, right), (rows, columns) = region, image.shape
    for row in range(top, bottom):
        for column in range(left, right):
            found.pixels += not mask[row, column]
            if not hits[row, column]:
                continue
            found.hits += 1
            around = [(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            there = [(y, x) for y, x in around if 0 <= y < rows and 0 <= x < columns]
            rivals = [(-light[y, x], y, x) for y, x in there if good[y, x]]
            if min(rivals)[1:] != (row, column):
                continue
            if len(there) < 9 or not all(good[place] for place in there):
                found.touching += 1
                continue
            weights = np.array([light[place] for place in there])
            total, offset = weights.sum(), np.zeros(2)
            moments = weights @ (np.array(there) - (row, column))
            if total > 0 and (np.abs(moments) <= total).all():
                offset = moments / total
            found.pixel.append((row, column))
            found.place.append((row + offset[0], column + offset[1]))
            found.energy.append(np.float32(total / gain))
    for number, (row, column) in enumerate(found.pixel):
        others = found.pixel[:number] + found.pixel[number + 1 :]
        near = any(max(abs(y - row), abs(x - column)) <= 2 for y, x in others)
        found.flag.append(DOUBLE * (found.energy[number] > cuts.most) + SHARING * near)
    return found


@st.composite
def scenes(draw: st.DrawFn, dtype: str) -> dict[str, Any]:
    """Draw frames of few values, so that many are equal; on more than one block of a row, too."""
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 8) | st.integers(60, 150))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.sampled_from([3, 12, 120]))
    image = random.integers(0, most + 1, shape).astype(dtype)
    image[random.random(shape) < draw(st.sampled_from([0, 0.02, 0.3]))] = marked(dtype)
    if np.dtype(dtype).itemsize < 8 and np.dtype(dtype).kind != "f":
        image[random.random(shape) < draw(st.sampled_from([0, 0.05]))] = np.iinfo(dtype).max - 1
    mask = random.random(shape) < draw(st.sampled_from([0, 0.02, 0.2]))
    pixels = as_pixels(image)
    threshold, level = draw(st.sampled_from([0, 1, 2.5, 9, 60])), draw(st.integers(0, 5))
    correction = uniform(level, threshold, shape[1], pixels.dtype)
    if draw(st.booleans()):
        mean = as_pixels(random.integers(0, draw(st.sampled_from([2, 90])), shape).astype(dtype))
        rms = (random.integers(0, 40, shape) / 8).astype(np.float32)
        sigmas = draw(st.none() | st.just(2.0))
        dark = Dark(mean, rms)
        correction = recorded(dark, Orientation.NORMAL, threshold, sigmas, pixels.dtype)
    top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    region = top, draw(st.integers(top + 1, shape[0])), left, draw(st.integers(left + 1, shape[1]))
    return {
        "image": pixels,
        "mask": mask,
        "correction": correction,
        "region": draw(st.sampled_from([whole(image), region])),
        "cuts": Cuts(draw(st.sampled_from([1.0, 60.0])), draw(st.sampled_from([20.0, 300.0]))),
        "gain": draw(st.sampled_from([1.0, 0.5, 3.3])),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_frame_holds_other_photons_than_plain_loops_find(dtype: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(dtype))
    found, want = find_photons(**scene), plain(**scene)
    assert isinstance(found, Candidates)
    assert (found.hits, found.pixels, found.touching) == (want.hits, want.pixels, want.touching)
    assert [tuple(place) for place in found.pixel.tolist()] == want.pixel
    np.testing.assert_array_equal(found.energy, np.array(want.energy, np.float32))
    np.testing.assert_array_equal(found.flag, np.array(want.flag, np.uint8))
    places = np.array(want.place).reshape(-1, 2)
    np.testing.assert_allclose(found.place, places, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), densest=st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5]))
def test_hits_are_miscounted_where_they_are_too_dense(
    dtype: str, data: st.DataObject, densest: float
) -> None:
    scene = data.draw(scenes(dtype))
    found, want = find_photons(**scene, densest=densest), plain(**scene)
    assert (found.hits, found.pixels) == (want.hits, want.pixels)
    assert found.density == (want.hits / want.pixels if want.pixels else 0)
    assert isinstance(found, Candidates) == (want.hits <= int(densest * want.pixels))
    if isinstance(found, Candidates):
        assert [tuple(place) for place in found.pixel.tolist()] == want.pixel


@pytest.mark.parametrize("dtype", ["u2", "u8", "f4"])
def test_the_form_of_memory_shows(dtype: str) -> None:
    image = np.random.default_rng(5).integers(0, 600, (20, 90)).astype(dtype)
    before, want = image.copy(), find(image)
    assert len(want.pixel) > 50
    for form, other in forms(image):
        found = find(other)
        np.testing.assert_array_equal(found.pixel, want.pixel, err_msg=form)
        np.testing.assert_array_equal(found.place, want.place, err_msg=form)
    np.testing.assert_array_equal(image, before)


# --------------------------------------------------------------- one real photon

SINGLE_HIT = [
    [4, 4, 20.5, 13, 1],
    [4.5, 72, 264, 78, 4],
    [9.5, 107, 516, 119.5, 14],
    [0, 13, 46, 17, 20],
    [2, -2, 8, 3, 1],
]
"""Counts above dark of rows 3911 to 3915, columns 3726 to 3730 of a real Balor frame, as they
are printed in the picture balor-single-hit.png."""


def test_the_real_single_hit_is_another_photon() -> None:
    image = np.full(BALOR, 100, np.float32)
    image[3911:3916, 3726:3731] += np.array(SINGLE_HIT, np.float32)
    found = find(image)
    assert found.hits == 3
    assert found.pixel.tolist() == [[3913, 3728]]
    assert found.energy.tolist() == [1232.5]
    np.testing.assert_allclose(found.place, [[3912.726, 3728.018]], atol=5e-4)
    assert found.flag.tolist() == [0] and found.is_photon.tolist() == [True]
    listed = found.photons(1100).tobytes()
    clean = decode(listed, "photons", BALOR, np.dtype(np.uint16))
    assert np.argwhere(clean).tolist() == [[3913, 3728]] and clean.sum() == 1
    energies = decode(listed, "photons", BALOR, np.dtype(np.float32))
    assert energies[3913, 3728] == energies.sum() == 1232.5


# ------------------------------------------------------------------- simulation


@pytest.mark.parametrize("sigma", [0.35, 0.45, 0.5, 0.55])
@pytest.mark.parametrize(("photons", "frames"), [(1_000, 8), (10_000, 2), (50_000, 1)])
def test_isolated_photons_are_missed_or_found_twice(
    sigma: float, photons: int, frames: int
) -> None:
    """On a sixteenth of the sensor; `measure_photons.py` does it on all of it."""
    shape = (BALOR[0] // 4, BALOR[1] // 4)
    score = Score.of(full_photons(frames, shape, photons / 16, sigma, seed=photons))
    assert score.isolated > 400
    assert (score.twice, score.false) == (0, 0)
    assert score.recall > 99.5
    place, energy = np.concatenate(score.place), np.concatenate(score.within)
    assert (np.abs(place.mean(axis=0)) < 0.01).all() and (place.std(axis=0) < 0.06).all()
    assert abs(energy.mean()) < 2 and energy.std() < 12


# ----------------------------------------------------------- what is a candidate


def test_the_hit_threshold_is_not_inclusive() -> None:
    image = dark_frame()
    image[2, 3], image[6, 7] = 209, 210  # 110 above the dark is 210 raw
    found = find(image)
    assert found.hits == 1 and found.pixel.tolist() == [[6, 7]]


def test_the_cuts_are_not_where_they_should_be() -> None:
    image = dark_frame((5, 40))
    for number, charge in enumerate([799, 800, 1400, 1401]):
        hit(image, 2, 5 + 8 * number, charge)
    found = find(image)
    assert found.energy.tolist() == [799, 800, 1400, 1401]
    assert found.is_photon.tolist() == [False, True, True, True]
    assert found.flag.tolist() == [0, 0, 0, DOUBLE]
    assert found.photons(1400)["energy"].tolist() == [1400, 1401]
    assert find(image, gain=0.5).energy.tolist() == [1598, 1600, 2800, 2802]


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (3, 3), (2, 7)])
def test_a_plateau_is_more_than_one_photon(shape: tuple[int, int]) -> None:
    """Each hit pixel has an equal one before it but the first of every run of neighbours."""
    image = dark_frame()
    image[4 : 4 + shape[0], 3 : 3 + shape[1]] = 400
    found = find(image)
    assert found.pixel.tolist() == [[4, 3]]
    assert found.hits == shape[0] * shape[1]


def test_place_and_energy_are_clipped_or_axes_swapped() -> None:
    image = dark_frame()
    image[5:8, 4:7] = np.array([[90, 300, 100], [100, 900, 140], [100, 80, 100]])
    found = find(image)
    assert found.energy.tolist() == [1010]
    np.testing.assert_allclose(found.place, [[6 - 210 / 1010, 5 + 50 / 1010]], rtol=1e-6)


def test_a_place_leaves_the_frame() -> None:
    """Pixels far below a recorded dark pull the centre of gravity away without end."""
    image, dark = dark_frame((6, 6)), dark_frame((6, 6))
    image[1, 2:5] = 1100
    dark[2, 2:5] = 900
    correction = recorded(Dark(as_pixels(dark)), Orientation.NORMAL, 110, None, image.dtype)
    found = find_photons(as_pixels(image), None, correction, whole(image), Cuts(1.0, 9e9))
    assert isinstance(found, Candidates)
    assert found.energy.tolist() == [400]
    assert found.place.tolist() == found.pixel.tolist()
    decode(found.photons(1).tobytes(), "photons", image.shape, np.dtype(np.uint16))


@pytest.mark.parametrize("what", ["masked", "saturated"])
@pytest.mark.parametrize("place", [(5, 6), (7, 8), (6, 8), (5, 7), (6, 6)])
def test_a_photon_beside_a_pixel_left_out_is_found(what: str, place: tuple[int, int]) -> None:
    image, mask = dark_frame(), np.zeros((12, 14), bool)
    hit(image, 6, 7)
    if what == "masked":
        mask[place] = True
    else:
        image[place] = 65535
    found = find(image, mask)
    assert (found.touching, len(found.pixel), found.hits) == (1, 0, 1)
    assert found.pixels == image.size - (what == "masked")
    mask[:], image[place] = False, 100
    assert (find(image, mask).touching, len(find(image).pixel)) == (0, 1)


def test_a_pixel_left_out_is_itself_a_photon() -> None:
    image, mask = dark_frame(), np.zeros((12, 14), bool)
    image[3, 3] = 65535
    hit(image, 8, 8)
    mask[8, 8] = True
    found = find(image, mask)
    assert (found.hits, found.touching, len(found.pixel)) == (0, 0, 0)


def test_a_photon_at_the_edge_is_found() -> None:
    image = dark_frame((8, 9))
    edge = [(0, 0), (0, 4), (3, 0), (7, 2), (4, 8), (7, 8)]
    for row, column in edge:
        hit(image, row, column)
    found = find(image)
    assert (found.touching, len(found.pixel), found.hits) == (6, 0, 6)
    image = dark_frame((8, 9))
    for row, column in [(1, 1), (1, 7), (6, 1), (6, 7)]:
        hit(image, row, column)
    assert find(image).pixel.tolist() == [[1, 1], [1, 7], [6, 1], [6, 7]]


@pytest.mark.parametrize(
    ("dy", "dx", "flag"),
    [
        (0, 2, SHARING), (0, -2, SHARING), (2, 0, SHARING), (2, 2, SHARING), (2, -2, SHARING),
        (1, 2, SHARING), (1, -2, SHARING), (2, 1, SHARING), (2, -1, SHARING),
        (0, 3, 0), (3, 0, 0), (3, 3, 0), (3, -3, 0), (1, 3, 0), (2, -3, 0), (3, 1, 0), (3, -2, 0),
    ],
)  # fmt: skip
def test_maxima_that_share_pixels_are_not_flagged(dy: int, dx: int, flag: int) -> None:
    image = dark_frame()
    hit(image, 5, 6)
    hit(image, 5 + dy, 6 + dx)
    assert find(image).flag.tolist() == [flag, flag]


def test_neighbouring_maxima_are_two() -> None:
    for dy, dx in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        image = dark_frame()
        hit(image, 5, 6, 1000)
        hit(image, 5 + dy, 6 + dx, 700)
        found = find(image)
        assert found.pixel.tolist() == [[5, 6]]
        assert found.energy.tolist() == [1700] and found.flag.tolist() == [DOUBLE]


def test_the_region_cuts_neighbours_off_or_lets_centres_in() -> None:
    image = dark_frame((20, 20))
    image[6, 8:11] = [300, 900, 300]
    hit(image, 15, 15)
    for region, inside in {
        (6, 7, 9, 10): True,
        (7, 20, 0, 15): False,
        (0, 6, 0, 20): False,
        (0, 15, 10, 20): False,
        (0, 15, 0, 9): False,
    }.items():
        found = find(image, region=region)
        assert found.pixel.tolist() == ([[6, 9]] if inside else [])
        assert found.pixels == (region[1] - region[0]) * (region[3] - region[2])
    assert find(image, region=(6, 7, 9, 10)).energy.tolist() == [1200]
    assert find(image, region=(6, 7, 9, 10)).hits == 1


def test_a_frame_at_the_limit_is_too_dense_or_one_over_it_is_not() -> None:
    image = dark_frame((100, 100))
    for number in range(200):
        hit(image, 4 * (number // 20) + 2, 4 * (number % 20) + 2)
    at_limit = find(image, densest=0.02)
    assert (at_limit.hits, at_limit.density, len(at_limit.pixel)) == (200, 0.02, 200)
    hit(image, 90, 90)
    over = find_photons(
        image, None, uniform(100, 110, 100, image.dtype), whole(image), CUTS, densest=0.02
    )
    assert isinstance(over, Hits) and not isinstance(over, Candidates)
    assert (over.hits, over.pixels, over.density) == (201, 10_000, 0.0201)
    mask = np.zeros(image.shape, bool)
    mask[90] = True  # hits left out are none, and pixels left out are no part of the whole
    masked = find(image, mask, densest=0.021)
    assert (masked.hits, masked.pixels) == (200, 9900)


def test_nothing_to_look_at_fails() -> None:
    image, mask = dark_frame((5, 5)), np.ones((5, 5), bool)
    assert find(image, mask).density == 0
    assert find(dark_frame((1, 1))).hits == 0
    with pytest.raises(ValueError, match=r"mask of \(4, 5\) does not fit"):
        find(image, mask[:4])
