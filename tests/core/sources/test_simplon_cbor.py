"""CBOR from the network: what cbor2 reads in its two ways, without what a stranger could do."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.sources.cbor import MAX_DEPTH, MAX_ITEMS, MAX_TEXT, Tagged, read_cbor


def hook(*arguments: object) -> Tagged:
    """Return the tag of cbor2's hook; called with (tag, immutable) by 6, (decoder, tag) by 5."""
    tag = next(argument for argument in arguments if isinstance(argument, cbor2.CBORTag))
    return Tagged(tag.tag, [*tag.value])  # cbor2 6 makes a tuple of it


def test_only_one_version_of_cbor2_agrees() -> None:
    inner = cbor2.CBORTag(56500, ["bslz4", 4, b"abc"])
    message = read_cbor(cbor2.dumps(inner))
    assert message == hook(inner, False) == hook(object(), inner)
    assert cbor2.loads(cbor2.dumps(inner), tag_hook=hook) == message


PLAIN_TAGS = st.sampled_from([40, 64, 69, 70, 56500, 1040])
"""Tags that cbor2 makes nothing of."""
KEYS = st.text(max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.builds(cbor2.CBORTag, PLAIN_TAGS, inner)
    ),
    max_leaves=12,
)


def as_read(value: Any) -> Any:
    """Return what should be read where this was written."""
    match value:
        case cbor2.CBORTag():
            return Tagged(value.tag, as_read(value.value))
        case list():
            return [as_read(one) for one in value]
        case dict():
            return {name: as_read(one) for name, one in value.items()}
        case _:
            return value


@settings(max_examples=300, deadline=None)
@given(value=VALUES, canonical=st.booleans(), view=st.booleans())
def test_something_is_read_that_was_not_written(value: Any, canonical: bool, view: bool) -> None:
    message = cbor2.dumps(value, canonical=canonical)
    assert read_cbor(memoryview(message) if view else message) == as_read(value)


@settings(max_examples=300, deadline=None)
@given(value=VALUES, cut=st.integers(0, 200), extra=st.binary(max_size=3))
def test_a_message_cut_short_or_too_long_is_read(value: Any, cut: int, extra: bytes) -> None:
    message = cbor2.dumps(value)
    shorter = message[: min(cut, len(message) - 1)]
    with pytest.raises(ValueError, match=r"is cut short|is no CBOR"):
        read_cbor(shorter)
    if extra:
        with pytest.raises(ValueError, match="after its end"):
            read_cbor(message + extra)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_raise_something_else(message: bytes) -> None:
    try:
        read_cbor(message)
    except ValueError as error:
        assert 0 < len(str(error)) < 200


def test_strings_and_lists_without_a_length_are_refused() -> None:
    assert read_cbor(b"\x5f\x42ab\x41c\xff") == b"abc"
    assert read_cbor(b"\x7f\x62ab\x61c\xff") == "abc"
    assert read_cbor(b"\x9f\x01\x82\x02\x03\xff") == [1, [2, 3]]
    assert read_cbor(b"\xbf\x61a\x01\xff") == {"a": 1}


def test_bytes_are_copied_or_writable() -> None:
    message = bytearray(cbor2.dumps({"data": b"x" * 1000}))
    found = read_cbor(memoryview(message))["data"]
    assert isinstance(found, memoryview)
    assert found.readonly
    message[-1] = ord("y")
    assert found[-1] == ord("y"), "a view of the message"


LENGTHS = [
    b"\x5b" + struct.pack(">Q", 1 << 62),  # bytes
    b"\x7b" + struct.pack(">Q", 1 << 40),  # text
    b"\x9b" + struct.pack(">Q", 1 << 62),  # array
    b"\xbb" + struct.pack(">Q", 1 << 62),  # map
    b"\x9a" + struct.pack(">I", 1 << 31) + b"\x00" * 50,
    b"\xd9\xdc\xb4\x83\x65bslz4\x04\x5b" + struct.pack(">Q", 1 << 50),
]


@pytest.mark.parametrize("message", LENGTHS)
def test_a_length_that_is_claimed_takes_memory(message: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is cut short"):
            read_cbor(message)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "is cut short"),
        (b"\x81" * (MAX_DEPTH + 2) + b"\x00", "nested more than 32"),
        (b"\x9f" * (MAX_DEPTH + 2), "nested more than 32"),
        (b"\xc1" * (MAX_DEPTH + 2) + b"\x00", "nested more than 32"),
        (b"\xa1\x61a" * (MAX_DEPTH + 2) + b"\x00", "nested more than 32"),
        (b"\x9a" + struct.pack(">I", MAX_ITEMS) + b"\x00" * MAX_ITEMS, "more than 100000 things"),
        (b"\x5f" + b"\x40" * (MAX_ITEMS + 1) + b"\xff", "a piece that is none"),
        (b"\x7a" + struct.pack(">I", MAX_TEXT + 1) + b"a" * (MAX_TEXT + 1), "bytes of text"),
        (b"\x5f\x61a\xff", "a piece that is none"),
        (b"\x5f\x5f\xff\xff", "is no CBOR"),
        (b"\x1c", "is no CBOR"),
        (b"\x1f", "is no CBOR"),
        (b"\xff", "is no CBOR"),
        (b"\xf8\x20", "is no CBOR"),
        (b"\xe0", "is no CBOR"),
        (b"\x62\xff\xfe", "no UTF-8"),
        (b"\xa1\x01\x02", "with the key 1"),
        (b"\xa2\x61a\x01\x61a\x02", "with the key 'a'"),
        (b"\xa1\x80\x02", r"with the key \[\]"),
        (b"\x00\x00", "goes on for 1 bytes"),
    ],
)
def test_what_is_no_message_passes(message: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_cbor(message)


def test_tags_are_looked_up_or_refer_to_something() -> None:
    shared = bytes.fromhex("d81c82d81d0001")  # 28([29(0), 1]): a list that holds itself
    assert read_cbor(shared) == Tagged(28, [Tagged(29, 0), 1])
    expression = cbor2.dumps(cbor2.CBORTag(35, "a+"))
    assert read_cbor(expression) == Tagged(35, "a+")
    big = b"\xc2\x58\x64" + b"\xff" * 100
    assert read_cbor(big).tag == 2


def test_the_signature_of_cbor_is_part_of_what_is_read() -> None:
    assert read_cbor(b"\xd9\xd9\xf7\xd9\xd9\xf7\x01") == 1
