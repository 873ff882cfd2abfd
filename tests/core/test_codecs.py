"""Compressed pixels come back exactly; lies about sizes cost neither memory nor the process."""

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
from ronda.core.codecs import MAX_BLOCK, decode

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
