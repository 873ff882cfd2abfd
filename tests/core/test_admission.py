"""Frames that came twice, late, or in another shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.admission import Admission, FrameNumbers
from ronda.core.frame import BadFrame, Frame, Series


@given(st.lists(st.integers(0, 300), max_size=400))
def test_a_number_is_new_exactly_once_in_any_order(numbers: list[int]) -> None:
    seen = FrameNumbers()
    plain: set[int] = set()
    for number in numbers:
        assert seen.add(number) == (number not in plain)
        plain.add(number)


def test_numbers_take_no_more_memory_in_a_long_series_with_a_gap() -> None:
    seen = FrameNumbers()
    for number in range(1, 3 * FrameNumbers.MOST_AHEAD):
        assert seen.add(number)
    assert len(seen._ahead) <= FrameNumbers.MOST_AHEAD
    assert not seen.add(FrameNumbers.MOST_AHEAD)


def frame(number: int, rows: int = 2, dtype: type = np.uint16) -> Frame:
    return Frame(Series(1), number, np.zeros((rows, 2), dtype))


def test_a_frame_that_came_twice_is_named() -> None:
    admission = Admission()
    admission.check(frame(7))
    with pytest.raises(BadFrame, match="frame 7 of this series arrived twice"):
        admission.check(frame(7))


def test_a_single_odd_type_is_refused_and_does_not_use_up_its_number() -> None:
    admission = Admission()
    admission.check(frame(0))
    with pytest.raises(BadFrame, match=r"frame 1 is \(2, 2\) float32 in a series of"):
        admission.check(frame(1, dtype=np.float32))
    admission.check(frame(1))


def test_odd_shapes_that_disagree_among_themselves_stay_refused() -> None:
    admission = Admission()
    admission.check(frame(0))
    for number, rows in enumerate([3, 4, 3, 4, 3], 1):
        with pytest.raises(BadFrame):
            admission.check(frame(number, rows))
