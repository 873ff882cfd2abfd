"""What headers claim is checked before anything is allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.frame import BadFrame, Encoded, Frame, Series, check_shape, new_run_id

SIDE = st.integers(1, 16384)


def test_run_numbers_grow_even_within_one_millisecond() -> None:
    numbers = [new_run_id() for _ in range(1000)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("filename", "number"),
    [
        ("/data/raw/scan-123374_pilatus.h5", 123374),
        ("scan_0001.h5", 1),
        ("/scan-5/dark.h5", None),
        ("", None),
        ("scan-" + "9" * 40, 999999999999999999),
    ],
)
def test_the_scan_number_is_read_from_the_name_not_the_folder(
    filename: str, number: int | None
) -> None:
    assert Series(1, filename=filename).scan_number == number


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ([0, 5], "u2"),
        ([-1, 5], "u2"),
        ([True, 5], "u2"),
        ([2.0, 5], "u2"),
        ([5], "u2"),
        ("55", "u2"),
        ([100_000, 100_000], "u2"),
        ([2, 2], "object"),
        ([2, 2], "bool"),
        ([2, 2], "complex64"),
        ([2, 2], "float128"),
        ([2, 2], "U9999999"),
        ([2, 2], "no type"),
        ([2, 2], {"names": 3}),
        ([2, 2], None),
    ],
)
def test_impossible_claims_are_refused(shape: Any, dtype: Any) -> None:
    with pytest.raises(BadFrame):
        check_shape(shape, dtype)


@given(SIDE, SIDE, st.sampled_from(["u1", "i2", "<u4", ">i8", "f4", "f8"]))
def test_possible_claims_are_taken(rows: int, columns: int, dtype: str) -> None:
    assert check_shape([rows, columns], dtype) == ((rows, columns), np.dtype(dtype))


def test_pixels_that_cannot_be_decoded_name_their_frame() -> None:
    frame = Frame(Series(1), 12, Encoded(b"abc", (2, 2), np.dtype("u2")))
    with pytest.raises(
        BadFrame, match=r"frame 12: 3 bytes of pixels where \(2, 2\) uint16 needs 8"
    ):
        _ = frame.data


def test_pixels_from_a_socket_are_not_copied_and_cannot_be_written() -> None:
    blob = bytes(range(8))
    frame = Frame(Series(1), 0, Encoded(memoryview(blob), (2, 2), np.dtype("<u2")))
    assert frame.data.tolist() == [[0x0100, 0x0302], [0x0504, 0x0706]]
    assert not frame.data.flags.writeable
    assert frame.nbytes == 8
