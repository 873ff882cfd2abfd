"""Pixels and photons come back exactly; lies about sizes cost neither memory nor the process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.codecs import MAX_BLOCK, MOST_PHOTON_BYTES, PHOTON, decode

Encoder = Callable[[NDArray[Any]], bytes]
DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"]
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), header=st.booleans(), view=st.booleans())
def test_bslz4_differs_from_what_was_packed(
    bslz4: Encoder, dtype: str, shape: tuple[int, int], seed: int, header: bool, view: bool
) -> None:
    image = np.random.default_rng(seed).poisson(3, shape).astype(dtype)
    packed = bslz4(image)
    assert struct.unpack(">Q", packed[:8])[0] == image.nbytes
    blob = packed if header else packed[12:]
    found = decode(memoryview(blob) if view else blob, "bslz4", shape, image.dtype)
    np.testing.assert_array_equal(found, image)
    assert found.dtype == image.dtype


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_pixels_are_copied_or_writable(dtype: str, kind: type) -> None:
    image = np.arange(12).reshape(3, 4).astype(dtype)
    blob = kind(b"x" + image.tobytes())
    found = decode(memoryview(blob)[1:], "none", (3, 4), image.dtype)
    np.testing.assert_array_equal(found, image)
    assert not found.flags.writeable
    assert not found.flags.owndata


def test_an_empty_frame_exceeds_the_ratio(bslz4: Encoder) -> None:
    image = np.zeros((2000, 1000), np.uint8)
    packed = bslz4(image)
    assert image.nbytes / len(packed) > 100
    assert not decode(packed, "bslz4", image.shape, image.dtype).any()


@pytest.mark.parametrize(
    ("blob", "codec", "reason"),
    [
        (b"", "none", "0 bytes of pixels where"),
        (b"a" * 23, "none", "23 bytes of pixels where"),
        (b"a" * 25, "none", "25 bytes of pixels where"),
        (b"a" * 24, "cbf", "unknown compression 'cbf'; known are none, bslz4"),
        (b"a" * 24, ["none"], "unknown compression"),
        (b"", "bslz4", "0 compressed bytes cannot hold the 24"),
        (b"a", "bslz4", "cannot be decompressed"),
        (b"\xff" * 30, "bslz4", "cannot be decompressed"),
        (struct.pack(">QI", 24, 8192), "bslz4", "cannot be decompressed"),
        (struct.pack(">QI", 24, 0) + b"a" * 24, "bslz4", "blocks of 0 bytes"),
        (struct.pack(">QI", 24, 8191) + b"a" * 24, "bslz4", "blocks of 8191 bytes"),
        (struct.pack(">QI", 24, 1 << 31) + b"a" * 24, "bslz4", "blocks of 2147483648 bytes"),
    ],
)
def test_wrong_bytes_pass(blob: bytes, codec: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(blob, codec, (3, 4), np.dtype("u2"))


def test_a_gigabyte_is_claimed_by_a_few_bytes() -> None:
    with pytest.raises(ValueError, match="cannot hold the 2147483648 claimed"):
        decode(b"a" * 1000, "bslz4", (16384, 16384), np.dtype("f8"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bslz4_raises_anything_but_a_sentence(
    bslz4: Encoder, poisson: NDArray[np.uint16], data: st.DataObject
) -> None:
    blob = bytearray(bslz4(poisson))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(8, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))]
    try:
        found = decode(bytes(blob), "bslz4", poisson.shape, poisson.dtype)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert found.shape == poisson.shape


HOSTILE = """
import random, struct, sys
import numpy as np
from ronda.core.codecs import decode

dice = random.Random(int(sys.argv[1]))
good = bytes.fromhex(sys.stdin.read())
refused = 0
for _ in range(4000):
    dtype = np.dtype(dice.choice(["u1", "u2", "u4", "f8"]))
    shape = (dice.randrange(1, 200), dice.randrange(1, 200))
    if dice.random() < 0.5:
        shape, dtype = (60, 130), np.dtype("u2")
    block = dice.choice([0, 8, 64, 8192, 65536, 1 << 20, 1 << 31, 2**32 - 1, dice.randrange(2**32)])
    body = bytearray(dice.choice([good[12:], dice.randbytes(dice.randrange(4000))]))
    for _ in range(dice.randrange(3)):
        if body:
            body[dice.randrange(len(body))] = dice.randrange(256)
    body = body[: dice.randrange(len(body) + 1)] if dice.random() < 0.3 else body
    head = struct.pack(">QI", shape[0] * shape[1] * dtype.itemsize, block)
    try:
        decode(dice.choice([b"", head]) + bytes(body), "bslz4", shape, dtype)
    except ValueError:
        refused += 1
# not getrusage, whose maximum includes that of the process that started this one
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(refused, int(peak) >> 10)
"""


def test_hostile_bslz4_kills_the_process(bslz4: Encoder, poisson: NDArray[np.uint16]) -> None:
    """In a process of its own, so that a crash is a failure and not the end of the tests."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, "1"],
        input=bslz4(poisson).hex(),
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"},
    )
    assert done.returncode == 0, done.stderr
    refused, megabytes = map(int, done.stdout.split())
    assert refused > 1000
    assert megabytes < 400


def test_the_largest_block_is_refused(bslz4: Encoder) -> None:
    assert MAX_BLOCK % (8 * 8) == 0
    blob = struct.pack(">QI", 8, MAX_BLOCK) + b"a" * 8
    assert decode(blob, "bslz4", (1, 1), np.dtype("f8")).shape == (1, 1)


# ---------------------------------------------------------------------- photons


def photons(*records: tuple[float, float, float]) -> bytes:
    return np.array(list(records), PHOTON).tobytes()


IN = st.floats(-0.5, 6.484375, width=32)
"""Places in an image of 7 pixels a side; at -0.5 and n + 0.5 begins a pixel."""
PLACES = IN | st.sampled_from([-0.5, 0.0, 0.5, 1.5, 2.0, 5.5, 6.0])


@settings(max_examples=200, deadline=None)
@given(
    places=st.lists(st.tuples(PLACES, PLACES), max_size=30),
    dtype=st.sampled_from(["u1", "u2", "u4", "u8", "f4", "f8"]),
    view=st.booleans(),
)
def test_photons_fall_into_another_pixel_or_are_miscounted(
    places: list[tuple[float, float]], dtype: str, view: bool
) -> None:
    records = [(y, x, 0.25 * number) for number, (y, x) in enumerate(places)]
    want = np.zeros((7, 7), dtype)
    for y, x, energy in records:
        row, column = (int(np.floor(float(np.float32(v)) + 0.5)) for v in (y, x))
        want[row, column] += 1 if np.dtype(dtype).kind == "u" else energy
    blob = photons(*records)
    found = decode(memoryview(blob) if view else blob, "photons", (7, 7), np.dtype(dtype))
    np.testing.assert_array_equal(found, want, strict=True)


def test_rows_and_columns_of_photons_are_swapped() -> None:
    found = decode(photons((0.4, 3.6, 9.0)), "photons", (2, 5), np.dtype("f4"))
    assert np.argwhere(found).tolist() == [[0, 4]] and found[0, 4] == 9


@pytest.mark.parametrize(
    "place",
    [
        (-0.51, 1), (1, -0.51), (1.5, 1), (1, 4.5), (2, 0), (0, 5),
        (np.nan, 1), (1, np.nan), (np.inf, 1), (1, -np.inf), (3e38, 1), (1, -3e38),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_photon_outside_the_image_is_taken(place: tuple[float, float], dtype: str) -> None:
    blob = photons((0, 0, 1), (*place, 1))
    with pytest.raises(ValueError, match=r"a photon lies outside the image of \(2, 5\) pixels"):
        decode(blob, "photons", (2, 5), np.dtype(dtype))


@pytest.mark.parametrize("energies", [[np.nan], [np.inf], [-np.inf, np.inf], [3e38, 3e38]])
def test_energies_that_are_no_number_become_marks(energies: list[float]) -> None:
    blob = photons(*((1, 1, energy) for energy in energies))
    with pytest.raises(ValueError, match="energy of the photons in one pixel does not fit"):
        decode(blob, "photons", (2, 5), np.dtype("f4"))
    assert decode(blob, "photons", (2, 5), np.dtype("u2"))[1, 1] == len(energies)


def test_more_photons_than_a_pixel_counts_wrap_or_mark_it() -> None:
    blob = photons(*[(1, 1, 5)] * 254)
    assert decode(blob, "photons", (2, 5), np.dtype("u1"))[1, 1] == 254
    for more in (255, 256, 300):
        with pytest.raises(ValueError, match=f"{more} photons in one pixel do not fit into uint8"):
            decode(photons(*[(1, 1, 5)] * more), "photons", (2, 5), np.dtype("u1"))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_photons_in_signed_pixels_could_look_like_marks(dtype: str) -> None:
    with pytest.raises(ValueError, match="are no list of photons for pixels of int"):
        decode(photons((1, 1, 5)), "photons", (2, 5), np.dtype(dtype))


@pytest.mark.parametrize("size", [1, 4, 11, 13, 23])
def test_a_part_of_a_photon_is_taken(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are no list of photons"):
        decode(b"\0" * size, "photons", (2, 5), np.dtype("u2"))


def test_a_photon_claims_a_gigabyte() -> None:
    """Unlike compressed pixels the list does not show how large its image must be."""
    for shape, dtype in (((16384, 16384), "u2"), ((16384, 16384), "f8"), ((8192, 8193), "u2")):
        with pytest.raises(ValueError, match="bytes from photons is too large"):
            decode(photons((1, 1, 5)), "photons", shape, np.dtype(dtype))
    for dtype in ("u2", "f4"):  # a whole Balor is not
        assert 4104 * 4128 * np.dtype(dtype).itemsize <= MOST_PHOTON_BYTES
    assert not decode(b"", "photons", (4104, 4128), np.dtype("u2")).any()


@settings(max_examples=200, deadline=None)
@given(blob=st.binary(max_size=120), dtype=st.sampled_from(["u1", "u2", "f4", "f8", "i4"]))
def test_hostile_photons_raise_anything_but_a_sentence(blob: bytes, dtype: str) -> None:
    try:
        found = decode(blob, "photons", (3, 4), np.dtype(dtype))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert found.shape == (3, 4) and np.isfinite(found).all()
