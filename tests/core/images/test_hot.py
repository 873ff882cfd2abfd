"""Hot pixels are found where they are, good ones are not, and lists are read with care."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import BadFrame
from ronda.core.images import hot as module
from ronda.core.images.hot import (
    FALSE_ALARMS,
    LEAST,
    MOST_FRAMES,
    HotPixelParameters,
    HotPixelSearch,
    Occupancy,
    keep_hot_pixels,
    load_hot_pixels,
)
from ronda.core.images.photons import Candidates, Cuts, find_photons
from ronda.core.images.threshold import uniform
from ronda.core.marks import as_pixels
from ronda.core.parameters import ParameterError
from ronda.core.simulation import simulate_balor
from scipy.stats import poisson

NONE = np.empty((0, 2), np.intp)


def listed(path: Path, text: str) -> HotPixelParameters:
    path.write_text(text)
    return HotPixelParameters().changed({"hot_pixel_file": str(path)})


# ------------------------------------------------------------------------ lists


@settings(max_examples=40, deadline=None)
@given(pixels=st.lists(st.tuples(st.integers(0, 16383), st.integers(0, 16383)), max_size=20))
def test_a_list_comes_back_otherwise(
    tmp_path_factory: pytest.TempPathFactory, pixels: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    path = keep_hot_pixels(np.array(pixels, np.intp).reshape(-1, 2), folder)
    assert load_hot_pixels(path).tolist() == [list(pixel) for pixel in pixels]
    assert path.read_text().startswith("row,column\n")


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("", []),
        ("\n\n", []),
        ("row,column\n", []),
        ("1,2", [[1, 2]]),
        ("row,column\r\n 1 , 2 \r\n\r\n3,4\r\n", [[1, 2], [3, 4]]),
        ("3,4\n3,4\n", [[3, 4], [3, 4]]),
    ],
)
def test_a_list_of_another_hand_is_refused(
    tmp_path: Path, text: str, pixels: list[list[int]]
) -> None:
    assert listed(tmp_path / "list.csv", text).hot_pixels.tolist() == pixels


@pytest.mark.parametrize(
    "text",
    [
        "-1,2", "1,-2", "1", "1,2,3", "1,2,3\n4", "1,2\n3", "1;2", "1.5,2", "nan,1", "a,b", ",",
        "1,", "99999999999999999999,1", "1,0x10", "\N{DEGREE SIGN}1,2", "\0", "[[1,2]]", "1e3,1",
    ],
)  # fmt: skip
def test_what_is_no_list_is_taken(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParameterError, match=r"hot_pixel_file: .*list\.csv") as refusal:
        listed(tmp_path / "list.csv", text)
    assert "\n" not in str(refusal.value)


def test_a_list_without_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1000)
    path = tmp_path / "list.csv"
    path.write_text("1,2\n" * 1000)
    assert len(load_hot_pixels(path)) == 1000
    path.write_text("1,2\n" * 1001)
    with pytest.raises(ParameterError, match="over 1000 lines"):
        load_hot_pixels(path)
    os.truncate(path, 1 << 40)  # takes no room on the disk
    with pytest.raises(ParameterError, match="it is no file of at most"):
        load_hot_pixels(path)
    for name in ("/dev/null", str(tmp_path), str(tmp_path / "none.csv")):
        with pytest.raises(ParameterError, match=r"hot_pixel_file: .* is no list of pixels"):
            HotPixelParameters().changed({"hot_pixel_file": name})


def test_hot_pixels_replace_the_mask_or_fall_off_the_frame(tmp_path: Path) -> None:
    mask = np.zeros((3, 5), np.uint8)
    mask[0, 1] = 1
    np.save(tmp_path / "mask.npy", mask)
    plain = listed(tmp_path / "list.csv", "2,4\n1,0\n")
    both = plain.changed({"mask_file": str(tmp_path / "mask.npy")})
    for parameters, pixels in ((plain, {(2, 4), (1, 0)}), (both, {(2, 4), (1, 0), (0, 1)})):
        found = parameters.mask_for((3, 5))
        assert found is not None and not found.flags.writeable
        assert {tuple(place) for place in np.argwhere(found).tolist()} == pixels
        assert parameters.mask_for((3, 5)) is found  # not made anew for every frame
    assert both.mask is not None and np.argwhere(both.mask).tolist() == [[0, 1]]
    for shape, place in (((2, 5), "row 2, column 4"), ((3, 4), "row 2, column 4")):
        with pytest.raises(BadFrame, match=f"{place} is not on a frame of"):
            plain.mask_for(shape)
    assert HotPixelParameters().mask_for((3, 5)) is None


def test_a_list_that_vanished_does_more_than_reject_frames(tmp_path: Path) -> None:
    unchecked = HotPixelParameters(hot_pixel_file=str(tmp_path / "gone.csv"))
    with pytest.raises(BadFrame, match=r"hot_pixel_file: .*gone\.csv"):
        unchecked.mask_for((2, 3))


def test_the_list_in_use_is_removed_or_an_older_one_stays(tmp_path: Path) -> None:
    first = keep_hot_pixels(np.array([[1, 2]]), tmp_path)
    second = keep_hot_pixels(np.array([[3, 4]]), tmp_path, str(first))
    third = keep_hot_pixels(np.array([[5, 6]]), tmp_path, str(first))
    assert first.exists() and not second.exists()
    assert load_hot_pixels(third).tolist() == [[5, 6]]


# ------------------------------------------------------------------- occupancy


def seen(counts: NDArray[Any]) -> Occupancy:
    """Return what is known after as many frames as the largest count."""
    found = Occupancy(int(counts.max()), counts.shape)
    for number in range(int(counts.max())):
        found.add(np.argwhere(counts > number).astype(np.int32))
    assert found.missing == 0
    return found


def test_a_few_counts_make_a_pixel_hot() -> None:
    counts = np.zeros((20, 25), int)
    counts[5, 20], counts[10, 12] = LEAST - 1, LEAST
    assert seen(counts).hot(NONE).tolist() == [[10, 12]]
    # Of so many pixels one counts three times by chance, if each counts once in ten.
    crowded = np.random.default_rng(0).poisson(0.1, (300, 300))
    crowded[1, 1] = LEAST
    assert crowded.max() >= LEAST
    assert not len(seen(crowded).hot(NONE))


def test_known_hot_pixels_are_forgotten_or_doubled() -> None:
    counts = np.zeros((50, 60), int)
    counts[30, 40] = 20
    known = np.array([[45, 3], [30, 40], [0, 0]])
    assert seen(counts).hot(known).tolist() == [[0, 0], [30, 40], [45, 3]]
    assert seen(np.ones((5, 5), int)).hot(known[:1]).tolist() == [[45, 3]]


@pytest.mark.parametrize(("level", "rate"), [(0, 1 / 24), (4, 8.0), (30, 60.0)])
def test_the_limit_is_not_that_of_chance(level: int, rate: float) -> None:
    """A pixel is hot from the count on that is rare where all count twice as often as here."""
    counts = np.full((40, 40), level)
    chance = poisson.sf(np.arange(200) - 1, rate)
    limit = max(int(np.argmax(chance * counts.size < FALSE_ALARMS)), LEAST)
    for count, is_hot in ((limit - 1, False), (limit, True)):
        counts[20, 20] = count
        assert seen(counts).hot(NONE).tolist() == ([[20, 20]] if is_hot else [])


def test_hot_pixels_hide_each_other() -> None:
    counts = np.full((40, 40), 1)
    hot = [[10, 10], [10, 12], [12, 10], [0, 39], [30, 30]]
    counts[tuple(np.transpose(hot))] = 100
    assert seen(counts).hot(NONE).tolist() == sorted(hot)


def spots(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return an illumination that is a hundred times as bright in some spots."""
    rows, columns = np.indices(shape)
    light = np.ones(shape)
    for row, column, width in ((60, 70, 4), (150, 40, 6), (100, 200, 3), (9, 120, 5)):
        light += 100 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2 / width**2)
    return light


@pytest.mark.parametrize("illumination", ["uniform", "spotty"])
def test_hot_pixels_are_missed_or_good_ones_taken(illumination: str) -> None:
    shape = (224, 256)
    density = spots(shape) if illumination == "spotty" else None
    balor = simulate_balor(60, shape, 150, seed=4, density=density, hot=3e-4)
    correction = uniform(100, 110, shape[1], np.dtype("u2"))
    search = HotPixelSearch()
    search.start(60)
    for image in balor.frames:
        assert search.missing and search.take() is None
        found = find_photons(
            as_pixels(image), None, correction, (0, shape[0], 0, shape[1]), Cuts(800, 1400)
        )
        assert isinstance(found, Candidates)
        search.add(found.pixel, shape)
    occupancy = search.take()
    assert occupancy is not None and search.missing == 0 and search.take() is None
    taken = {tuple(pixel) for pixel in occupancy.hot(NONE).tolist()}
    truth = {tuple(pixel) for pixel in balor.hot_pixels.tolist()}
    glow = balor.sensor.offset - 100
    # Those hit in almost every frame; with a hotter one beside them they are no maximum.
    bright = {
        (row, column)
        for row, column in truth
        if glow[row, column] > 150
        and 2 <= row < shape[0] - 2
        and 2 <= column < shape[1] - 2
        and glow[row, column] == glow[row - 1 : row + 2, column - 1 : column + 2].max()
    }
    assert len(bright) >= 3
    assert bright <= taken <= truth


@pytest.mark.parametrize("level", [0.1, 1, 10, 100, 300])
def test_good_pixels_are_hot_after_a_long_time(level: float) -> None:
    """In broad spots, in ones as sharp as a cloud of charge, and where the region ends."""
    random = np.random.default_rng(2)
    region = np.zeros((224, 256))
    region[50:150, 90:200] = level
    sharp = np.zeros((224, 256))
    rows, columns = np.indices(sharp.shape)
    for number, width in enumerate([1, 1, 1.5, 2, 3] * 4):
        row, column = 20 + 10 * number, 20 + 11 * number
        distance = (rows - row - 0.3) ** 2 + (columns - column) ** 2
        sharp += level * np.exp(-distance / 2 / width**2)
    for light in (region, sharp, spots(region.shape) * level / 50, region + sharp):
        assert not len(seen(random.poisson(light)).hot(NONE))


def test_a_search_mixes_frames_of_two_shapes_or_never_ends() -> None:
    search = HotPixelSearch()
    search.add(np.array([[1, 1]], np.int32), (9, 9))
    assert search.missing == 0 and search.take() is None
    search.start(3)
    search.add(np.array([[8, 8]], np.int32), (9, 9))
    assert search.missing == 2
    for _ in range(3):
        search.add(np.array([[4, 2]], np.int32), (5, 6))
    search.add(np.array([[3, 3]], np.int32), (5, 6))  # one more came before it was taken
    occupancy = search.take()
    assert occupancy is not None and (occupancy.frames, occupancy.shape) == (3, (5, 6))
    assert occupancy.hot(NONE).tolist() == [[4, 2]]


@pytest.mark.parametrize("frames", [-1, 0, LEAST - 1, MOST_FRAMES + 1])
def test_too_few_or_too_many_frames_are_looked_at(frames: int) -> None:
    search = HotPixelSearch()
    with pytest.raises(ValueError, match=f"hot pixels in {frames} frames: ask for 3 to 60000"):
        search.start(frames)
    assert search.missing == 0
    assert np.iinfo(np.uint16).max >= MOST_FRAMES
