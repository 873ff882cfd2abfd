"""Pixels of CBF files are those that fabio packs; damage is refused, never read beyond."""

from __future__ import annotations

import numpy as np
import pytest
from fabio.compression import compByteOffset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ronda.core.codecs import decode, decode_into

STEPS = st.one_of(
    st.integers(-130, 130),
    st.sampled_from([-(2**31), 2**31 - 1, -32768, 32767, -32769, 32768, -128, 127, 0, -1]),
    st.integers(-(2**31), 2**31 - 1),
)


def pack(image: np.ndarray) -> bytes:
    """Return differences as the dictionary of imgCIF describes them."""
    packed, before = b"", 0
    for pixel in image.ravel().tolist():
        for size in (1, 2, 4, 8):
            least = -(1 << (8 * size - 1))
            if least < pixel - before < -least or size == 8:
                packed += (pixel - before).to_bytes(size, "little", signed=True)
                break
            packed += least.to_bytes(size, "little", signed=True)
        before = pixel
    return packed


def test_fabio_packs_otherwise() -> None:
    image = np.cumsum([3, 127, -127, -128, 128, 40_000, -32_768, 1_000_000_000]).astype(np.int32)
    assert pack(image) == compByteOffset(image)


@settings(max_examples=200, deadline=None)
@given(image=arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=STEPS))
def test_large_steps_are_read_wrongly(image: np.ndarray) -> None:
    packed = pack(image)
    np.testing.assert_array_equal(decode(packed, "byte-offset", image.shape, image.dtype), image)
    buffer = np.full(image.nbytes + 8, 0xA5, np.uint8)
    found = decode_into(buffer, packed, "byte-offset", image.shape, image.dtype)
    np.testing.assert_array_equal(found, image)
    assert np.shares_memory(found, buffer)
    assert (buffer[image.nbytes :] == 0xA5).all()


def test_a_step_that_wraps_around_is_refused() -> None:
    image = np.array([[2**31 - 1, -2, -(2**31) + 1]], np.int32)
    packed = compByteOffset(image.ravel())
    np.testing.assert_array_equal(decode(packed, "byte-offset", image.shape, image.dtype), image)


@settings(max_examples=100, deadline=None)
@given(packed=st.binary(min_size=1, max_size=60), count=st.integers(1, 60))
def test_random_bytes_crash_or_reach_beyond(packed: bytes, count: int) -> None:
    buffer = np.full(4 * count + 8, 0xA5, np.uint8)
    try:
        decode_into(buffer, packed, "byte-offset", (1, count), np.dtype(np.int32))
    except ValueError as error:
        assert "pixel" in str(error)
    assert (buffer[4 * count :] == 0xA5).all()


@pytest.mark.parametrize(
    ("packed", "dtype"),
    [
        (b"\x01\x02\x03", "i4"),  # one is missing
        (b"\x01\x02\x03\x80\x01", "i4"),  # half a step of two bytes
        (b"\x01\x02\x80\x00\x80\x01\x00", "i4"),  # half a step of four
        (b"\x01\x02\x03\x04", "u4"),
        (b"\x01\x02\x03\x04", "f4"),
    ],
)
def test_what_cannot_be_pixels_is_taken(packed: bytes, dtype: str) -> None:
    with pytest.raises(ValueError, match="pixel"):
        decode(packed, "byte-offset", (2, 2), np.dtype(dtype))


def test_too_small_a_buffer_is_overrun() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        decode_into(np.empty(15, np.uint8), bytes(4), "byte-offset", (2, 2), np.dtype("i4"))
