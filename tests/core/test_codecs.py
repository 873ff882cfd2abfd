"""Pixels and photons come back exactly; lies about sizes cost neither memory nor the process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core import decompression
from ronda.core.codecs import (
    MAX_BLOCK,
    MOST_LISTED_BYTES,
    PHOTON,
    decode,
    decode_into,
    encode_bslz4,
    encode_sparse,
    sparse_pixels,
)

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
from ronda.core.codecs import decode, decode_into

memory = np.full(8_000_000, 0xA5, np.uint8)
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
    blob, wanted = dice.choice([b"", head]) + bytes(body), shape[0] * shape[1] * dtype.itemsize
    try:
        want = decode(blob, "bslz4", shape, dtype).tobytes()
    except ValueError:
        refused, want = refused + 1, None
    try:
        found = decode_into(memory[4096 : 4096 + wanted], blob, "bslz4", shape, dtype).tobytes()
    except ValueError:
        found = None
    assert found == want
    try:
        decode(blob, "lz4", shape, dtype)
    except ValueError:
        pass
    assert (memory[:4096] == 0xA5).all() and (memory[4096 + wanted :] == 0xA5).all()
    memory[4096 : 4096 + wanted] = 0xA5
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


# ---------------------------------------------------------------------- into a buffer


@pytest.fixture(params=["library", "without"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Decode with the C function of Dectris' library, and as where it is not found."""
    if request.param == "without":
        monkeypatch.setattr(decompression, "_function", lambda: None)
    yield request.param == "library"


def test_the_c_function_is_not_found() -> None:
    assert decompression._function() is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (60, 130), (1, 8200)])
def test_decoding_into_a_buffer_gives_other_pixels(
    bslz4: Encoder, library: bool, dtype: str, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).poisson(3, shape).astype(dtype)
    memory = np.full(image.nbytes + 100, 0xA5, np.uint8)
    for blob in (bslz4(image), bslz4(image)[12:], memoryview(bslz4(image))):
        memory[: image.nbytes] = 0xA5
        found = decode_into(memory, blob, "bslz4", shape, image.dtype)
        np.testing.assert_array_equal(found, image, strict=True)
        assert np.shares_memory(found, memory) == library
        assert (memory[image.nbytes :] == 0xA5).all()


def test_a_buffer_that_does_not_fit_is_written_to(
    bslz4: Encoder, poisson: NDArray[np.uint16]
) -> None:
    blob, shape, dtype = bslz4(poisson), poisson.shape, poisson.dtype
    memory = np.zeros(2 * poisson.nbytes, np.uint8)
    with pytest.raises(ValueError, match="do not fit into 15599"):
        decode_into(memory[: poisson.nbytes - 1], blob, "bslz4", shape, dtype)
    with pytest.raises(ValueError, match="read-only or scattered"):
        decode_into(memory[::2], blob, "bslz4", shape, dtype)
    memory.flags.writeable = False
    with pytest.raises(ValueError, match="read-only or scattered"):
        decode_into(memory, blob, "bslz4", shape, dtype)
    assert not memory.any()


def test_other_forms_of_pixels_are_not_decoded(poisson: NDArray[np.uint16]) -> None:
    memory = np.zeros(poisson.nbytes, np.uint8)
    found = decode_into(memory, poisson.tobytes(), "none", poisson.shape, poisson.dtype)
    np.testing.assert_array_equal(found, poisson)
    with pytest.raises(ValueError, match="unknown compression"):
        decode_into(memory, b"", "zip", poisson.shape, poisson.dtype)


def test_a_library_that_works_otherwise_is_trusted() -> None:
    known = decompression.KNOWN.view(np.uint8)
    good = decompression._function()
    assert good is not None and decompression._proven(good)

    def wrong(buffer: NDArray[np.uint8], blob: bytes | memoryview, itemsize: int) -> int:
        done = good(buffer, blob, itemsize)
        buffer[3] ^= 1
        return done

    def too_far(buffer: NDArray[np.uint8], blob: bytes | memoryview, itemsize: int) -> int:
        assert buffer.base is not None
        buffer.base[-16] = 0
        return good(buffer, blob, itemsize)

    def blind(buffer: NDArray[np.uint8], blob: bytes | memoryview, itemsize: int) -> int:
        buffer[...] = known
        return known.size

    for bad in (wrong, too_far, blind, lambda *_: 0):
        assert not decompression._proven(bad)


# ---------------------------------------------------------------------- encoding


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", ">f4"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (300, 500)])
def test_encoded_pixels_differ(dtype: str, shape: tuple[int, int], header: bool) -> None:
    image = np.random.default_rng(2).poisson(3, shape).astype(dtype)
    blob = encode_bslz4(image[:, ::-1], header)
    np.testing.assert_array_equal(
        decode(blob, "bslz4", shape, image.dtype), image[:, ::-1], strict=True
    )


def test_threads_that_encode_disturb_each_other(poisson: NDArray[np.uint16]) -> None:
    images = [np.full((40, 50), number, np.uint32) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        blobs = list(pool.map(encode_bslz4, images * 8))
    assert blobs == [encode_bslz4(image) for image in images] * 8


# ---------------------------------------------------------------------- LZ4 alone


def lz4(image: NDArray[Any], block: int = 0) -> bytes:
    """Return an image as HDF5's LZ4 filter stores it."""
    with h5py.File("lz4.h5", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset(
            "data", data=image, chunks=image.shape, **hdf5plugin.LZ4(nbytes=block)
        )
        return bytes(dataset.id.read_direct_chunk((0, 0))[1])


@pytest.mark.parametrize("block", [0, 1000, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lz4_differs_from_what_was_packed(dtype: str, block: int) -> None:
    image = np.random.default_rng(3).poisson(0.5, (60, 130)).astype(dtype)
    blob = lz4(image, block)
    np.testing.assert_array_equal(decode(blob, "lz4", image.shape, image.dtype), image, strict=True)
    if block == 0:  # a bare block
        bare = blob[16:]
        np.testing.assert_array_equal(decode(bare, "lz4", image.shape, image.dtype), image)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_lz4_raises_anything_but_a_sentence(data: st.DataObject) -> None:
    image = np.arange(600, dtype=np.uint16).reshape(20, 30) % 7
    blob = bytearray(lz4(image))[data.draw(st.sampled_from([0, 16])) :]
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))]
    try:
        found = decode(bytes(blob), "lz4", image.shape, image.dtype)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert found.shape == image.shape


def test_a_bare_block_is_taken_for_raw_pixels() -> None:
    with pytest.raises(ValueError, match="24 bytes are no LZ4 block of 24"):
        decode(bytes(24), "lz4", (3, 4), np.dtype("u2"))


# ---------------------------------------------------------------------- kept pixels


@settings(max_examples=200, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([*DTYPES, "f2", ">u4"]), view=st.booleans())
def test_kept_pixels_change(data: st.DataObject, dtype: str, view: bool) -> None:
    """Whatever their bits: NaN, marks, the largest integers."""
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    size = shape[0] * shape[1]
    index = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), np.uint32)
    kind = np.dtype(dtype)
    raw = data.draw(
        st.binary(min_size=index.size * kind.itemsize, max_size=index.size * kind.itemsize)
    )
    values = np.frombuffer(raw, kind)
    want = np.zeros(size, kind)
    want[index] = values
    blob = encode_sparse(index, values)
    found = decode(memoryview(blob) if view else blob, "sparse", shape, kind)
    assert found.dtype == kind and found.shape == shape
    assert found.tobytes() == want.tobytes()
    np.testing.assert_array_equal(sparse_pixels(blob, shape, kind), index)


def test_kept_pixels_have_another_layout() -> None:
    """Others may read them: n indices, then n values."""
    blob = encode_sparse(np.array([1, 258]), np.array([3, 65534], np.uint16))
    assert blob.hex() == "01000000" + "02010000" + "0300" + "feff"
    assert encode_sparse(np.array([], np.uint32), np.array([], np.uint16)) == b""
    assert not decode(b"", "sparse", (3, 4), np.dtype("u2")).any()


@pytest.mark.parametrize(
    "index", [[5, 5], [5, 4], [2, 12], [12, 13], [0, 1 << 31], [(1 << 32) - 1, 0]]
)
def test_pixels_outside_or_twice_are_taken(index: list[int]) -> None:
    blob = np.array(index, "<u4").tobytes() + np.ones(2, np.uint16).tobytes()
    with pytest.raises(
        ValueError, match=r"outside the image of \(3, 4\) pixels or are not in order"
    ):
        decode(blob, "sparse", (3, 4), np.dtype("u2"))
    with pytest.raises(ValueError, match="are not in order"):
        sparse_pixels(blob, (3, 4), np.dtype("u2"))


@pytest.mark.parametrize("index", [[5, 5], [5, 4], [-1, 4], [4, 1 << 32]])
def test_pixels_out_of_order_are_sent(index: list[int]) -> None:
    with pytest.raises(ValueError, match="not in ascending order, each once"):
        encode_sparse(np.array(index), np.ones(2, np.uint16))


def test_more_values_than_pixels_are_sent() -> None:
    with pytest.raises(ValueError, match="2 pixels for values of shape"):
        encode_sparse(np.array([1, 2]), np.ones(3, np.uint16))


def test_a_list_of_pixels_claims_a_gigabyte() -> None:
    with pytest.raises(ValueError, match="bytes made from a list is too large"):
        decode(b"", "sparse", (16384, 16384), np.dtype("u1"))
    assert MOST_LISTED_BYTES >= 4362 * 4148 * 4  # an Eiger 16M is not too large


@pytest.mark.parametrize("size", [1, 5, 7, 11, 13])
def test_a_part_of_a_kept_pixel_is_taken(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are no list of pixels of uint16"):
        decode(bytes(size), "sparse", (3, 4), np.dtype("u2"))
    with pytest.raises(ValueError, match="no list of pixels"):
        sparse_pixels(bytes(size), (3, 4), np.dtype("u2"))


@settings(max_examples=200, deadline=None)
@given(blob=st.binary(max_size=60), dtype=st.sampled_from(DTYPES))
def test_hostile_lists_of_pixels_raise_anything_but_a_sentence(blob: bytes, dtype: str) -> None:
    try:
        found = decode(blob, "sparse", (3, 4), np.dtype(dtype))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert found.shape == (3, 4)
        assert found.astype(bool).sum() <= len(blob) // (4 + found.itemsize)


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
        with pytest.raises(ValueError, match="bytes made from a list is too large"):
            decode(photons((1, 1, 5)), "photons", shape, np.dtype(dtype))
    for dtype in ("u2", "f4"):  # a whole Balor is not
        assert 4104 * 4128 * np.dtype(dtype).itemsize <= MOST_LISTED_BYTES
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
