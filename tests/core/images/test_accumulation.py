"""Sums count every valid pixel once, never a mark, and never wrap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ronda.core.frame import BadFrame, Series
from ronda.core.images.accumulation import Accumulation, Contribution
from ronda.core.images.pixels import divide
from ronda.core.images.running import RunningSum
from ronda.core.marks import as_pixels, marks
from ronda.tests.core.images import frames

SERIES = Series(1, filename="a.h5")
OTHER = Series(2, filename="b.h5")


def summed(*images: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Accumulation:
    total = Accumulation(images[0].shape, images[0].dtype)
    for image in images:
        total.add(image, mask, SERIES)
    return total


def assert_equal(one: Accumulation, other: Accumulation) -> None:
    np.testing.assert_array_equal(one.sum, other.sum)
    np.testing.assert_array_equal(one.valid_count, other.valid_count)
    assert (one.frames, one.overflow_pixels) == (other.frames, other.overflow_pixels)
    assert one.total == pytest.approx(other.total, rel=1e-12)


@pytest.mark.parametrize("dtype", frames.DTYPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sum_is_numpys_over_valid_pixels(dtype: str, data: st.DataObject) -> None:
    first = data.draw(frames.images(dtype))
    second = data.draw(hnp.arrays(dtype, first.shape, elements=frames.values(dtype)))
    mask = data.draw(st.none() | hnp.arrays(np.bool_, first.shape))
    shown = np.True_ if mask is None else ~mask
    stack = [first, second, first]
    try:
        total = summed(*stack, mask=mask)
    except BadFrame as error:
        # Only eight bytes can hold what eight bytes cannot sum.
        assert np.dtype(dtype).itemsize == 8 and "64 bits" in str(error)
        return
    valid = [frames.valid(image) & shown for image in stack]
    exact = object if total.sum.dtype == np.int64 else np.float64
    expected = np.sum(
        [np.where(ok, i, 0).astype(exact) for ok, i in zip(valid, stack, strict=True)], 0
    )
    np.testing.assert_array_equal(total.sum, expected)
    np.testing.assert_array_equal(total.valid_count, np.sum(valid, axis=0))
    assert total.overflow_pixels == sum((frames.overflown(i) & shown).sum() for i in stack)
    assert total.total == pytest.approx(expected.sum(), rel=1e-12, abs=1e-9)
    if exact is object:
        assert total.total == expected.sum()


@pytest.mark.parametrize("dtype", frames.DTYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_looking_only_at_what_is_not_zero_gives_the_same(dtype: str, data: st.DataObject) -> None:
    image = data.draw(frames.images(dtype))
    masks = [None, *data.draw(st.lists(hnp.arrays(np.bool_, image.shape), min_size=2, max_size=2))]
    all_pixels, some = (Accumulation(image.shape, dtype) for _ in range(2))
    steps = st.tuples(hnp.arrays(np.bool_, image.shape), st.sampled_from(masks), st.booleans())
    for chosen, mask, whole in data.draw(st.lists(steps, max_size=6)):
        sparse = np.where(chosen, image, np.zeros((), dtype))
        support = None if whole else np.flatnonzero(chosen)
        try:
            added = all_pixels.add(sparse, mask, SERIES)
        except BadFrame:
            with pytest.raises(BadFrame):
                some.add(sparse, mask, SERIES, support)
            continue
        assert some.add(sparse, mask, SERIES, support) == pytest.approx(added, rel=1e-12, abs=1e-9)
        some = data.draw(st.sampled_from([some, some.copy()]))
    assert_equal(some, all_pixels)
    assert type(some.total) is type(all_pixels.total)
    twice = some.copy()
    twice.merge(some) if 2 * some.peak < 2**63 else twice.merge(Accumulation(image.shape, dtype))
    twice.add(np.zeros(image.shape, dtype), np.ones(image.shape, np.bool_), SERIES)
    assert_equal(some, all_pixels)


@pytest.mark.parametrize("dtype", frames.DTYPES)
def test_memory_layout_does_not_matter(dtype: str) -> None:
    image = np.arange(12).reshape(3, 4).astype(dtype)
    image[1, 2] = marks(as_pixels(image).dtype).overflow if dtype != "u8" else 2**64 - 1
    expected = summed(image, image)
    for name, form in frames.forms(image):
        np.testing.assert_array_equal(form, image, err_msg=name)
        assert_equal(summed(form, form), expected)


def test_integers_do_not_wrap() -> None:
    bright = np.full((2, 3), 40000, np.uint16)
    assert summed(bright, bright, bright).sum.tolist() == [[120000] * 3] * 2
    most = np.full((1, 1), 2**32 - 2, np.uint32)
    assert summed(*[most] * 5).total == 5 * (2**32 - 2)


def test_eight_byte_integers_are_exact_or_refused() -> None:
    half = np.full((1, 2), 2**61, np.int64)
    total = summed(half)
    total.add(-half, None, SERIES)
    total.add(half, None, SERIES)
    assert total.sum.tolist() == [[2**61, 2**61]]
    with pytest.raises(BadFrame, match=r"64 bits.*save the sum and clear it"):
        for _ in range(4):
            total.add(half, None, SERIES)
    assert total.sum.tolist() == [[3 * 2**61, 3 * 2**61]]
    assert total.frames == 5 and total.total == 6 * 2**61


def test_the_total_of_a_frame_does_not_wrap() -> None:
    with pytest.raises(BadFrame, match="64 bits"):
        summed(np.full((1, 2), 2**62, np.int64))


def test_a_number_too_large_for_int64_counts_as_overflow() -> None:
    total = summed(np.array([[2**63, 2**61]], np.uint64), np.array([[7, 0]], np.uint64))
    assert total.overflow_pixels == 1
    assert total.sum.tolist() == [[7, 2**61]]
    assert total.valid_count.tolist() == [[1, 2]]


def test_missing_counts_take_no_memory_until_a_pixel_is_missing() -> None:
    total = summed(np.ones((2, 2), np.int32))
    assert total.missing is None
    total.add(np.array([[1, -1], [1, 1]], np.int32), None, SERIES)
    assert total.missing is not None
    assert total.valid_count.tolist() == [[2, 1], [2, 2]]


@pytest.mark.parametrize("image", [np.ones((2, 3), "u2"), np.ones((3, 2), "f4")])
def test_a_frame_of_another_form_is_refused(image: NDArray[Any]) -> None:
    total = summed(np.ones((3, 2), np.uint16))
    with pytest.raises(BadFrame, match="cannot be added to a sum of"):
        total.add(image, None, SERIES)
    assert total.frames == 1


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        summed(np.ones((2, 2), np.uint16), mask=np.zeros((2, 3), np.bool_))


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_merging_parts_gives_the_sum_of_all(dtype: str, data: st.DataObject) -> None:
    first = data.draw(frames.images(dtype))
    more = st.lists(hnp.arrays(dtype, first.shape, elements=frames.values(dtype)), max_size=3)
    left, right = [first, *data.draw(more)], [first, *data.draw(more)]
    merged, other = summed(*left), summed(*right)
    merged.merge(other)
    together = summed(*left, *right)
    np.testing.assert_allclose(merged.sum, together.sum, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(merged.valid_count, together.valid_count)
    assert merged.series == [Contribution(1, "a.h5", len(left) + len(right))]
    merged.add(np.full(first.shape, frames.marked(dtype), dtype), None, SERIES)
    assert_equal(other, summed(*right))


def test_merging_never_wraps() -> None:
    big = summed(np.full((1, 1), 2**62, np.int64))
    other = summed(np.full((1, 1), 2**62, np.int64))
    with pytest.raises(ValueError, match="do not fit into 64 bits"):
        big.merge(other)
    assert big.sum.item() == 2**62
    with pytest.raises(ValueError, match="cannot be added"):
        big.merge(summed(np.ones((1, 1), np.float32)))


def test_a_sum_survives_its_tree() -> None:
    total = summed(np.array([[1, -1], [-2, 2**30]], np.int32), np.ones((2, 2), np.int32))
    again = Accumulation.from_tree(dict(total.tree()))
    assert_equal(again, total)
    assert again.series == total.series
    again.add(np.ones((2, 2), np.int32), None, SERIES)
    assert total.frames == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"sum": np.zeros((2, 2), np.int32)},
        {"sum": np.zeros(4, np.int64)},
        {"missing": np.zeros((1, 2), np.uint32)},
        {"series": "[{}]"},
        {"series": "{"},
        {"frames": None},
    ],
)
def test_a_damaged_tree_is_refused(damage: dict[str, Any]) -> None:
    tree = dict(summed(np.ones((2, 2), np.int32)).tree())
    with pytest.raises(ValueError):
        Accumulation.from_tree({**tree, **damage})
    with pytest.raises(ValueError, match="no accumulated sum"):
        Accumulation.from_tree({})


# --------------------------------------------------------------- the running sum


def floats(number: int) -> NDArray[np.float64]:
    return np.random.default_rng(number).normal(1e3, 1e-3, (4, 5)) + 10.0**number


def test_both_sums_are_as_exact_as_if_kept_alone() -> None:
    running = RunningSum((4, 5), np.float64)
    for number in range(6):
        if number == 3:
            running.begin()
        running.add(floats(number), None, OTHER if number > 2 else SERIES)
    np.testing.assert_allclose(
        running.running().sum, summed(*map(floats, range(6))).sum, rtol=1e-15
    )
    np.testing.assert_array_equal(running.both()[1].sum, summed(*map(floats, range(3, 6))).sum)
    assert running.series == [Contribution(1, "a.h5", 3), Contribution(2, "b.h5", 3)]
    assert running.frames == 6 and running.both()[1].frames == 3


def test_clearing_empties_the_running_sum_and_not_the_series_own() -> None:
    running = RunningSum((1, 2), np.int32)
    running.add(np.array([[1, -1]], np.int32), None, SERIES)
    running.begin()
    for value in (10, 100):
        running.add(np.array([[value, -2]], np.int32), None, OTHER)
        running.clear()
    assert running.frames == 0 and running.total == 0 and running.overflow_pixels == 0
    assert running.running().sum.tolist() == [[0, 0]]
    running.add(np.array([[1000, 3]], np.int32), None, OTHER)
    assert running.running().sum.tolist() == [[1000, 3]]
    assert running.both()[1].sum.tolist() == [[1110, 3]]
    assert running.both()[1].valid_count.tolist() == [[3, 1]]
    assert running.valid_count.tolist() == [[1, 1]]
    running.begin()
    assert running.both()[1].frames == 0
    assert running.running().frames == 1


def test_what_is_returned_does_not_change_later() -> None:
    running = RunningSum((1, 1), np.int32)
    running.add(np.array([[1]], np.int32), None, SERIES)
    before, own, count = running.running(), running.both()[1], running.valid_count
    running.begin()
    running.add(np.array([[-1]], np.int32), None, OTHER)
    assert before.sum.item() == own.sum.item() == 1
    assert before.frames == own.frames == count.item() == 1
    assert before.series == [Contribution(1, "a.h5", 1)]


def test_the_running_sum_goes_on_from_a_checkpoint() -> None:
    running = RunningSum((1, 2), np.float32)
    running.add(np.array([[1.5, np.nan]], np.float32), None, SERIES)
    again = RunningSum.from_tree(dict(running.tree()))
    again.add(np.array([[1, 2]], np.float32), None, OTHER)
    assert again.running().sum.tolist() == [[2.5, 2.0]]
    assert again.both()[1].sum.tolist() == [[1.0, 2.0]]
    assert [one.frames for one in again.series] == [1, 1]


def test_the_sums_together_never_wrap() -> None:
    running = RunningSum((1, 1), np.int64)
    running.add(np.full((1, 1), 2**62, np.int64), None, SERIES)
    running.begin()
    with pytest.raises(BadFrame, match="64 bits"):
        running.add(np.full((1, 1), 2**62, np.int64), None, OTHER)
    assert running.total == 2**62


def test_pixels_shown_are_those_that_were_valid() -> None:
    running = RunningSum((1, 2), np.int32)
    running.add(np.array([[1, 5]], np.int32), None, SERIES)
    assert running.shown()[1] is None
    running.clear()
    running.begin()
    running.add(np.array([[2, -1]], np.int32), None, SERIES)
    running.begin()
    running.add(np.array([[3, -1]], np.int32), None, OTHER)
    total, never = running.shown()
    assert sum(total).tolist() == [[5, 0]]
    assert never is not None and never.tolist() == [[False, True]]


# ------------------------------------------------------------------ dividing


@settings(max_examples=30, deadline=None)
@given(image=frames.images("f4"), energy=st.floats(0.5, 100))
def test_dividing_keeps_marks(image: NDArray[np.float32], energy: float) -> None:
    photons = np.empty_like(image)
    divide(as_pixels(image), marks(np.float32), energy, photons)
    ok = frames.valid(image)
    np.testing.assert_array_equal(photons[~ok], image[~ok])
    np.testing.assert_allclose(photons[ok], image[ok] / energy, rtol=1e-6)
