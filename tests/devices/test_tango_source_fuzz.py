"""Whatever value an event carries, it becomes a frame or one rejection."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ronda.core.frame import Frame, Rejected, Series
from ronda.devices.tango_source import _frame

IMAGES = arrays.arrays(
    arrays.integer_dtypes() | arrays.unsigned_integer_dtypes() | arrays.floating_dtypes(),
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=5),
)
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_side=3))
    | st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3)
)


@given(IMAGES)
def test_an_image_is_no_frame(value: Any) -> None:
    event = _frame(value, Series(1), 3)
    assert isinstance(event, Frame)
    assert event.frame_id == 3
    np.testing.assert_array_equal(event.data, value)


@given(ANYTHING)
def test_anything_else_raises(value: Any) -> None:
    event = _frame(value, Series(1), 3)
    assert isinstance(event, Frame | Rejected)
    if isinstance(event, Frame):
        assert event.data.ndim == 2
        assert event.data.dtype.kind in "uif"
    else:
        assert "\n" not in event.reason
        assert event.frame_id == 3
