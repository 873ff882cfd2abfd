"""Frames belong to points by number: nothing shifts, and what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.images.steps import Pairing, XAxis
from ronda.core.positions import Scan, ScanPoint, ScanStart


def scan(*points: tuple[int, float], frames: int | None = None) -> Scan:
    book = Scan(ScanStart(1, ("motor",)))
    for number, position in points:
        book.add(ScanPoint(number, {"motor": position, "other": -position}, frames))
    return book


def pairing(frames: list[int], scan: Scan | None = None, **options: object) -> Pairing:
    numbers = np.array(frames, np.int64)
    return Pairing(
        numbers,
        np.full(len(frames), -1, np.int64),
        1000.0 + numbers / 10,
        1000.0 + frames[0] / 10 if frames else 0.0,
        scan,
        **options,  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.integers(0, 40), unique=True, min_size=1),
    per_point=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_steps_are_numpys_mean_and_error(frames: list[int], per_point: int, seed: int) -> None:
    means = np.random.default_rng(seed).normal(5, 1, (2, len(frames)))
    means[0, ::3] = np.nan
    steps = pairing(frames, frames_per_point=per_point).steps(list(means))
    points = np.array(frames) // per_point
    assert steps.point.tolist() == sorted(set(points.tolist()))
    for column, point in enumerate(steps.point):
        mine = points == point
        assert steps.frames[column] == mine.sum()
        assert steps.expected[column] == per_point
        assert steps.x[column] == pytest.approx(np.array(frames)[mine].mean())
        for row in range(2):
            values = means[row, mine]
            values = values[~np.isnan(values)]
            assert steps.n[row, column] == values.size
            if values.size:
                assert steps.mean[row, column] == pytest.approx(values.mean())
                error = values.std() / np.sqrt(values.size)
                assert steps.error[row, column] == pytest.approx(error, abs=1e-12)
            else:
                assert np.isnan([steps.mean[row, column], steps.error[row, column]]).all()


def test_a_missing_frame_shifts_nothing() -> None:
    book = scan((0, 1.0), (1, 2.0), (2, 3.0))
    whole = pairing(list(range(9)), book, frames_per_point=3)
    lacking = pairing([0, 2, 3, 5, 6, 7, 8], book, frames_per_point=3)
    assert whole.x().tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert lacking.x().tolist() == [1, 1, 2, 2, 3, 3, 3]
    assert lacking.steps(()).frames.tolist() == [2, 2, 3]


def test_a_frame_that_comes_late_joins_its_point() -> None:
    book = scan((0, 1.0), (1, 2.0))
    steps = pairing([0, 2, 3, 1], book, frames_per_point=2).steps([np.array([10, 1, 2, 30.0])])
    assert steps.mean.tolist() == [[20, 1.5]]
    assert steps.x.tolist() == [1, 2]


def test_x_is_nothing_until_the_record_is_there() -> None:
    book = scan((0, 1.0))
    frames = pairing([0, 1, 2, 3], book, frames_per_point=2)
    assert frames.x()[:2].tolist() == [1, 1] and np.isnan(frames.x()[2:]).all()
    assert np.isnan(pairing([0, 1], scan()).x()).all()
    book.add(ScanPoint(1, {"motor": 2.0}))
    assert frames.x().tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("options", "x"),
    [
        ({}, [1, 1, 2, 2]),
        ({"movable": "other"}, [-1, -1, -2, -2]),
        ({"x_axis": XAxis.FRAME}, [4, 5, 6, 7]),
        ({"x_axis": XAxis.TIME}, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_x_is_what_was_chosen(options: dict[str, object], x: list[float]) -> None:
    book = scan((2, 1.0), (3, 2.0))
    frames = pairing([4, 5, 6, 7], book, frames_per_point=2, **options)
    np.testing.assert_allclose(frames.x(), x, atol=1e-6)
    np.testing.assert_allclose(frames.x(slice(2, None)), x[2:], atol=1e-6)


def test_the_newest_points_are_the_same_as_among_all() -> None:
    frames = pairing(list(range(20)), frames_per_point=3, x_axis=XAxis.TIME)
    means = np.arange(20.0)
    every, newest = frames.steps([means]), frames.part(slice(4, None)).steps([means[4:]]).newest(4)
    assert newest.point.tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(newest.mean, every.mean[:, 3:])
    np.testing.assert_allclose(newest.x, every.x[3:])


def test_without_positions_x_is_the_frame_number() -> None:
    assert pairing([3, 9]).x().tolist() == [3, 9]


@pytest.mark.parametrize("ended", [False, True])
def test_points_with_too_few_frames_are_named(ended: bool) -> None:
    last = ["point 4: 1 of 2 frames"] if ended else []
    lacking = ["point 1: 1 of 2 frames", "point 3: 0 of 2 frames"]
    frames = [0, 1, 3, 4, 5, 8]
    without = pairing(frames, frames_per_point=2)
    assert without.incomplete(ended) == "; ".join(lacking + last)
    book = scan(*((point, 0.0) for point in range(6)), frames=2)
    never = ["point 5: 0 of 2 frames"] if ended else []
    assert pairing(frames, book).incomplete(ended) == "; ".join(lacking + last + never)


def test_nothing_is_named_where_nothing_lacks() -> None:
    assert pairing([0, 1, 2, 3], frames_per_point=2).incomplete(ended=True) == ""
    assert pairing([0, 5], frames_per_point=1).incomplete(ended=True) == ""
    assert pairing([]).incomplete(ended=True) == ""
    assert pairing([], frames_per_point=3).incomplete(ended=True) == ""
    assert pairing([], scan()).incomplete(ended=True) == ""
    assert pairing([12, 13, 14, 15], frames_per_point=2, joined_late=True).incomplete(True) == ""


def test_many_points_that_lack_frames_make_a_short_sentence() -> None:
    text = pairing([0, 999], frames_per_point=2).incomplete(ended=True)
    assert text.startswith("point 0: 1 of 2 frames; point 1: 0 of 2 frames")
    assert text.endswith("and 492 more")


def test_positions_are_settled_when_none_can_change() -> None:
    assert pairing([0, 1]).settled()
    book = scan((0, 1.0))
    assert not pairing([0, 1, 2], book, frames_per_point=2).settled()
    assert pairing([0, 1], book, frames_per_point=2).settled()
    book.end()
    assert pairing([0, 1, 2], book, frames_per_point=2).settled()
