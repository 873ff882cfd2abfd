"""What counts in a frame: marks and dummy values, in every pixel type."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.azimuthal.experiment import Setup
from ronda.core.azimuthal.limits import is_usable, pixel_limits, usable
from ronda.core.compute.jit import kernel
from ronda.core.marks import marks, measured

KINDS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32, float]


def values_of(kind):
    """Values at every edge of a type, and some between."""
    kind = np.dtype(kind)
    if kind.kind == "f":
        edge = [np.finfo(kind).max, np.inf, np.nan, -1.5, -2.5, 0.5, 1e30]
        return np.array([-3, -2, -1, 0, 1, 2, 10, 11, *edge, *(-np.array(edge))], kind)
    limits = np.iinfo(kind)
    near = np.arange(-12, 13)
    near = near[(near >= limits.min) & (near <= limits.max)]
    ends = [limits.min, limits.min + 1, limits.min + 2, limits.max - 2, limits.max - 1, limits.max]
    return np.array([*near.tolist(), *(int(end) for end in ends)], kind)


@kernel
def each(values, limits, result):
    for at in range(values.size):
        result[at] = is_usable(values[at], limits)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(
    dummy=st.none() | st.sampled_from([0.0, 10.0, -1.0, 0.5, -10.5, 1e30, -1e30, np.nan, 255.0]),
    delta=st.none() | st.sampled_from([0.0, 0.4, 1.0, 3.5, 1e20]),
    marked=st.booleans(),
)
def test_value_counts_if_it_is_no_mark_and_no_dummy(kind, dummy, delta, marked):
    values = values_of(kind)
    limits = pixel_limits(kind, Setup("", dummy=dummy, delta_dummy=delta, marks=marked))
    expected = [bool(measured(v, marks(kind))) if marked else bool(np.isfinite(v)) for v in values]
    if dummy is not None:
        single = np.dtype(kind).kind == "f"
        wide = values.astype(object) if not single else values
        middle = np.dtype(kind).type(dummy) if single else dummy
        with np.errstate(invalid="ignore", over="ignore"):
            near = [abs(value - middle) <= (delta or 0) for value in wide.tolist()]
        expected = [e and not n for e, n in zip(expected, near, strict=True)]
    result = np.empty(values.size, bool)
    each(values, limits, result)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(usable(values, limits), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_have_the_pixels_own_type(kind):
    limits = pixel_limits(kind, Setup("", dummy=3, delta_dummy=1))
    assert {np.dtype(type(limit)) for limit in limits} == {np.dtype(kind)}


def test_dummy_of_single_precision_is_found():
    frame = np.array([0.1, 0.2], np.float32)
    assert usable(frame, pixel_limits(np.float32, Setup("", dummy=0.1))).tolist() == [False, True]


def test_largest_of_eight_bytes_can_be_the_dummy():
    top = 2**63 - 1
    limits = pixel_limits(np.int64, Setup("", dummy=float(top), marks=False))
    frame = np.array([top, top - 1, 0])
    assert usable(frame, limits).tolist()[0] is False and usable(frame, limits).tolist()[2]
