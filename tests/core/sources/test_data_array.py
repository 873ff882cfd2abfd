"""Lima's DATA_ARRAY: every form of it is read, and nothing that it claims is trusted."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import MAX_SIDE, BadFrame
from ronda.core.sources.data_array import DataArray, decode_data_array

TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"]
PLACES = {
    "magic": ("I", 0),
    "version": ("H", 4),
    "header": ("H", 6),
    "category": ("I", 8),
    "kind": ("I", 12),
    "order": ("H", 16),
    "dimensions": ("H", 18),
    "columns": ("H", 20),
    "rows": ("H", 22),
    "depth": ("H", 24),
    "step0": ("I", 32),
    "step1": ("I", 36),
    "step2": ("I", 40),
    "number": ("Q", 56),
    "tag": ("Q", 64),
}
"""Format and place of what a header says."""
IMAGE = np.arange(12, dtype="<u2").reshape(3, 4)


def data_array(image: NDArray[Any] = IMAGE, version: int = 4, **changes: int) -> bytes:
    """Return an image in a DATA_ARRAY, with something in the header changed."""
    size = image.itemsize
    values = {
        "magic": 0x44544159,
        "version": version,
        "header": 80 if version >= 4 else 64,
        "category": 2,
        "kind": TYPES.index(image.dtype.str[1:]),
        "order": int(image.dtype.str[0] == ">"),
        "dimensions": 2,
        "columns": image.shape[1],
        "rows": image.shape[0],
        "step0": size,
        "step1": size * image.shape[1],
        "number": 7 if version >= 3 else 0,
    }
    values |= {"tag": 0xFFFFFFFF} if version >= 4 else {}
    values |= changes
    header = bytearray(80 if version >= 4 else 64)
    for name, value in values.items():
        struct.pack_into("<" + PLACES[name][0], header, PLACES[name][1], value)
    return bytes(header) + image.tobytes()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
def test_a_type_a_byte_order_or_a_version_is_read_as_another(
    kind: str, order: str, version: int
) -> None:
    image = np.arange(1, 13).reshape(3, 4).astype(order + kind)
    found = decode_data_array(data_array(image, version, **({"tag": 5} if version == 4 else {})))
    np.testing.assert_array_equal(found.pixels, image)
    assert found.pixels.dtype == image.dtype
    assert not found.pixels.flags.writeable
    assert found.number == (7 if version >= 3 else None)
    assert found.tag == (5 if version == 4 else None)


def test_the_header_is_taken_to_be_as_long_as_that_of_its_version() -> None:
    blob = data_array(header=96)
    found = decode_data_array(blob[:80] + bytes(16) + blob[80:])
    np.testing.assert_array_equal(found.pixels, IMAGE)


def test_a_stack_of_one_image_is_refused() -> None:
    stack = data_array(category=4, dimensions=3, depth=1, step2=IMAGE.nbytes)
    np.testing.assert_array_equal(decode_data_array(stack).pixels, IMAGE)


def test_steps_in_pixels_as_the_manual_has_them_are_refused() -> None:
    found = decode_data_array(data_array(step0=1, step1=4))
    np.testing.assert_array_equal(found.pixels, IMAGE)


def test_a_tag_that_says_none_counts_as_one() -> None:
    assert decode_data_array(data_array()).tag is None
    assert decode_data_array(data_array(tag=2**64 - 1)).tag is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": 0x4F454456}, "no DATA_ARRAY"),
        ({"version": 0}, "version 0"),
        ({"version": 5}, "version 5"),
        ({"header": 64}, "claims a header of 64"),
        ({"header": 79}, "claims a header of 79"),
        ({"header": 105}, "claims a header of 105"),
        ({"header": 0}, "claims a header of 0"),
        ({"header": 82}, "bytes of pixels"),
        ({"category": 0}, "category 0"),
        ({"category": 1}, "category 1"),
        ({"category": 3}, "category 3"),
        ({"kind": 10}, "pixel type 10"),
        ({"kind": 0xFFFFFFFF}, "pixel type"),
        ({"kind": 2}, "steps"),
        ({"order": 2}, "byte order 2"),
        ({"dimensions": 0}, "0 dimensions"),
        ({"dimensions": 1}, "1 dimensions"),
        ({"dimensions": 6}, "6 dimensions"),
        ({"dimensions": 60000}, "60000 dimensions"),
        ({"dimensions": 3, "depth": 2}, "is not one image"),
        ({"dimensions": 3, "depth": 1}, "steps"),
        ({"columns": 0}, "outside 1 to"),
        ({"rows": 0}, "outside 1 to"),
        ({"rows": 65535}, "outside 1 to"),
        ({"rows": MAX_SIDE}, "bytes of pixels where"),
        ({"rows": 2}, "bytes of pixels where"),
        ({"columns": 3}, "steps"),
        ({"step0": 4}, "steps"),
        ({"step1": 10}, "steps"),
        ({"step1": 0}, "steps"),
    ],
)
def test_a_header_that_does_not_fit_is_believed(changes: dict[str, int], reason: str) -> None:
    with pytest.raises(BadFrame, match=reason) as failure:
        decode_data_array(data_array(**changes))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 79, 80, 81, 103])
def test_an_image_that_is_cut_off_is_read(length: int) -> None:
    with pytest.raises(BadFrame):
        decode_data_array(data_array()[:length])


def test_an_image_with_more_than_its_pixels_is_read() -> None:
    with pytest.raises(BadFrame, match="25 bytes of pixels"):
        decode_data_array(data_array() + b"\0")


ANY_HEADER = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(0, 2 ** {"H": 16, "I": 32, "Q": 64}[code] - 1) | st.integers(0, 6)
        for name, (code, _) in PLACES.items()
    },
)


@given(ANY_HEADER, st.binary(max_size=40) | st.none())
@example({"rows": MAX_SIDE, "columns": MAX_SIDE}, None)
def test_any_header_raises_something_else(changes: dict[str, int], pixels: bytes | None) -> None:
    blob = bytearray(data_array())
    for name, value in changes.items():
        code, place = PLACES[name]
        struct.pack_into("<" + code, blob, place, value)
    check(bytes(blob) if pixels is None else bytes(blob[:80]) + pixels)


@given(st.binary(max_size=200))
def test_any_bytes_raise_something_else(blob: bytes) -> None:
    check(blob)


def check(blob: bytes) -> None:
    """Bytes are one image, or refused in one sentence."""
    try:
        found = decode_data_array(blob)
    except BadFrame as error:
        assert "\n" not in str(error)
        return
    assert isinstance(found, DataArray)
    assert found.pixels.ndim == 2
    assert found.pixels.size > 0
    assert found.pixels.nbytes <= len(blob)
