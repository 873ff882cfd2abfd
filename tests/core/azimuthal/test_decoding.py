"""Borrowed pixels are those of the frame, whatever was decoded before and in other threads."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.azimuthal import decoding
from ronda.core.azimuthal.decoding import borrow_pixels
from ronda.core.codecs import encode_bslz4, encode_sparse
from ronda.core.frame import BadFrame, Encoded, Frame, Series

SERIES = Series(1)


def packed(image: NDArray[Any], header: bool = True) -> Frame:
    return Frame(SERIES, 7, Encoded(encode_bslz4(image, header), image.shape, image.dtype, "bslz4"))


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4),
    dtype=st.sampled_from(["u1", "u2", "u4", "u8", "i4", "f4"]),
    header=st.booleans(),
)
def test_pixels_of_the_frame_before_shine_through(
    shapes: list[tuple[int, int]], dtype: str, header: bool
) -> None:
    for number, shape in enumerate(shapes):
        image = np.random.default_rng(number).poisson(3, shape).astype(dtype)
        found = borrow_pixels(packed(image, header))
        np.testing.assert_array_equal(found, image, strict=True)
        assert not found.flags.writeable


def test_threads_share_a_buffer(poisson: NDArray[np.uint16]) -> None:
    images = [(poisson + number).astype(np.uint16) for number in range(8)]
    frames = [packed(image) for image in images]

    def wrong(number: int) -> int:
        bad = 0
        for _ in range(50):
            pixels = borrow_pixels(frames[number])
            bad += int((pixels != images[number]).any())
        return bad

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(wrong, range(8))) == [0] * 8


def test_every_frame_takes_memory_of_its_own(poisson: NDArray[np.uint16]) -> None:
    one, other = borrow_pixels(packed(poisson)), borrow_pixels(packed(poisson + 1))
    assert np.shares_memory(one, other)


def test_pixels_that_somebody_keeps_are_overwritten(poisson: NDArray[np.uint16]) -> None:
    frame = packed(poisson)
    kept = frame.data
    assert borrow_pixels(frame) is kept  # nothing is decoded twice
    borrow_pixels(packed(poisson + 1))
    np.testing.assert_array_equal(kept, poisson)


def test_other_forms_of_pixels_are_not_taken(poisson: NDArray[np.uint16]) -> None:
    flat = np.flatnonzero(poisson)
    sparse = Encoded(
        encode_sparse(flat, poisson.ravel()[flat]), poisson.shape, poisson.dtype, "sparse"
    )
    plain = Encoded(poisson.tobytes(), poisson.shape, poisson.dtype)
    for payload in (poisson, plain, sparse):
        np.testing.assert_array_equal(borrow_pixels(Frame(SERIES, 0, payload)), poisson)


def test_a_huge_frame_is_kept_for_good(
    poisson: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MOST_KEPT", poisson.nbytes - 1)
    frame = packed(poisson)
    assert borrow_pixels(frame) is frame.data


@pytest.mark.parametrize("damage", ["cut", "lie", "block", "byte"])
def test_damage_is_no_sentence_of_the_frame(
    poisson: NDArray[np.uint16], damage: str, bslz4: Callable[[NDArray[Any]], bytes]
) -> None:
    blob, shape = bslz4(poisson), poisson.shape
    if damage == "cut":
        blob = blob[:-5]
    elif damage == "lie":
        shape = (8000, 8000)
    elif damage == "block":
        blob = blob[:8] + struct.pack(">I", 24) + blob[12:]
    else:
        blob = blob[:12] + b"\xff" * 8 + blob[20:]
    frame = Frame(SERIES, 7, Encoded(blob, shape, poisson.dtype, "bslz4"))
    with pytest.raises(BadFrame, match=r"^frame 7: ") as caught:
        borrow_pixels(frame)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadFrame, match=r"^frame 7: "):
        _ = frame.data
