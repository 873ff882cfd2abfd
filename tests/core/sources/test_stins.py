"""STINS messages: both directions agree, and nothing that arrives is trusted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Encoded
from ronda.core.sources.parsing import MAX_HEAD, MAX_PARTS
from ronda.core.sources.stins import (
    PIXEL_TYPES,
    BadMessage,
    End,
    Header,
    Image,
    decode_message,
    encode_end,
    encode_header,
    encode_image,
)

PIXELS = bytes(24)
HEAD: dict[str, Any] = {
    "htype": "image",
    "msg_number": 8,
    "frame": 3,
    "shape": [3, 4],
    "type": "uint16",
    "compression": "none",
}
DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"]


def message(*, pixels: bytes = PIXELS, **changes: Any) -> list[bytes]:
    return [json.dumps({**HEAD, **changes}).encode(), pixels]


def image_in(parts: list[bytes]) -> Image:
    decoded = decode_message(parts)
    assert isinstance(decoded, Image)
    return decoded


@pytest.mark.parametrize("order", ["C", "F", ">", "strided"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_changes_on_the_way(dtype: str, order: str) -> None:
    image = np.arange(35).reshape(5, 7).astype(dtype)
    sent = {
        "C": image,
        "F": np.asfortranarray(image),
        ">": image.astype(image.dtype.newbyteorder(">")),
        "strided": np.repeat(image, 2, axis=1)[:, ::2],
    }[order]
    found = image_in(encode_image(9, 4, sent, 1.5e9, {"frame": 99, "name": "x"}))
    np.testing.assert_array_equal(found.pixels.decode(), image)
    assert found.pixels.decode().dtype == image.dtype
    assert (found.number, found.frame_id, found.timestamp) == (9, 4, 1.5e9)
    assert found.metadata == {"name": "x"}


def test_bytes_that_pass_through_are_copied() -> None:
    pixels = Encoded(memoryview(PIXELS), (3, 4), np.dtype("u2"), "none")
    parts = encode_image(1, 0, pixels)
    assert parts[1] is pixels.blob
    assert image_in(parts).pixels.blob is pixels.blob


def test_compression_is_lost_on_the_way() -> None:
    pixels = Encoded(b"a" * 13, (3, 4), np.dtype("u2"), "bslz4")
    assert image_in(encode_image(1, 0, pixels)).pixels == pixels


def test_a_header_changes_on_the_way() -> None:
    metadata = {"energy": np.float64(8.0), "size": np.array([1, 2]), "who": "å"}
    parts = encode_header(7, "/raw/scan-1_x.h5", metadata)
    plain = {"energy": 8.0, "size": [1, 2], "who": "å"}
    assert decode_message(parts) == Header(7, "/raw/scan-1_x.h5", plain)
    assert decode_message(encode_end(9)) == End(9)


@pytest.mark.parametrize("filename", [None, ""])
def test_a_header_without_file_or_second_part_is_refused(filename: str | None) -> None:
    head = {"htype": "header", "msg_number": 1, "filename": filename}
    assert decode_message([json.dumps(head).encode()]) == Header(1)


def test_a_missing_message_number_is_refused() -> None:
    assert decode_message([b'{"htype": "series_end"}']) == End(None)
    assert image_in(message(msg_number=None)).number is None


def test_damaged_metadata_costs_the_series() -> None:
    found = decode_message([b'{"htype": "header", "filename": "a"}', b"\xff not JSON"])
    assert isinstance(found, Header)
    assert found.filename == "a"
    assert "is no JSON" in found.metadata["metadata_error"]


def test_a_stamp_that_is_none_costs_the_frame() -> None:
    for stamp in ("now", True, -1, 10**400, float("nan"), float("inf"), None, [1]):
        assert image_in(message(timestamp=stamp)).timestamp is None
    assert image_in(message(timestamp=1700000000)).timestamp == 1.7e9


def test_names_of_types_that_senders_use_are_unknown() -> None:
    for name in ("uint16", "<u2", "u2", "float32", "<f4"):
        assert PIXEL_TYPES[name].itemsize in (2, 4)
    assert {np.dtype(code) for code in DTYPES} == set(PIXEL_TYPES.values())


BAD_IMAGES = [
    ({"pixels": bytes(23)}, "23 bytes of pixels where"),
    ({"pixels": bytes(25)}, "25 bytes of pixels where"),
    ({"pixels": b""}, "0 bytes of pixels where"),
    ({"shape": [4, 4]}, "24 bytes of pixels where"),
    ({"type": "float32"}, "24 bytes of pixels where"),
    ({"shape": [16384, 16384], "type": "float64"}, "24 bytes of pixels where"),
    (
        {"shape": [16384, 16384], "type": "float64", "compression": "bslz4"},
        "24 compressed bytes cannot hold the 2147483648",
    ),
    ({"shape": [1 << 40, 1 << 40]}, "outside 1 to 16384"),
    ({"shape": [3, 4, 1]}, r"not \[rows, columns\]"),
    ({"shape": [2, 3, 4]}, r"not \[rows, columns\]"),
    ({"shape": [12]}, r"not \[rows, columns\]"),
    ({"shape": None}, r"not \[rows, columns\]"),
    ({"shape": "34"}, r"not \[rows, columns\]"),
    ({"shape": [3.0, 4.0]}, "outside 1 to"),
    ({"shape": [0, 4]}, "outside 1 to"),
    ({"shape": [-3, -4]}, "outside 1 to"),
    ({"shape": [True, 4]}, "outside 1 to"),
    ({"type": "complex64"}, "unknown pixel type 'complex64'"),
    ({"type": "object"}, "unknown pixel type"),
    ({"type": "f8,f8"}, "unknown pixel type"),
    ({"type": ">u2"}, "unknown pixel type"),
    ({"type": "a4"}, "unknown pixel type"),
    ({"type": None}, "unknown pixel type None"),
    ({"type": ["u2"]}, "unknown pixel type"),
    ({"compression": "cbf"}, "unknown compression 'cbf'"),
    ({"compression": None}, "unknown compression None"),
    ({"compression": ["none"]}, "unknown compression"),
    ({"frame": -1}, "frame is -1"),
    ({"frame": 1.5}, "frame is 1.5"),
    ({"frame": True}, "frame is True"),
    ({"frame": "1"}, "frame is '1'"),
    ({"frame": 1 << 70}, "frame is 1180591620717411303424"),
    ({"frame": None}, "without its frame number"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_IMAGES)
def test_a_wrong_image_passes(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadMessage, match=reason) as caught:
        decode_message(message(**changes))
    assert (caught.value.kind, caught.value.number) == ("image", 8)
    assert caught.value.frame_id == (None if "frame" in changes else 3)


def test_an_image_without_its_pixels_passes() -> None:
    with pytest.raises(BadMessage, match="without its part of pixels"):
        decode_message(message()[:1])


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "0 parts"),
        ([b"{}"] * (MAX_PARTS + 1), "65 parts"),
        ([b""], "is no JSON"),
        ([b"\xff\xfe\xfd"], "is no JSON"),
        ([b"[1]"], "is no JSON object"),
        ([b"[" * 30_000], "is no JSON"),
        ([b"9" * 5000], "is no JSON"),
        ([b" " * (MAX_HEAD + 1)], "bytes of JSON, more than"),
        ([b"{}"], "unknown kind of message 'None'"),
        ([b'{"htype": "dimage-1.0"}'], "unknown kind of message 'dimage-1.0'"),
        ([b'{"htype": ["image"]}'], "unknown kind of message"),
        ([b'{"htype": "series_end", "msg_number": "9"}'], "msg_number is '9'"),
        ([b'{"htype": "series_end", "msg_number": -9}'], "msg_number is -9"),
        ([b'{"htype": "header", "filename": 5}'], "file name 5 is no printable text"),
        ([b'{"htype": "header", "filename": "a\\u0000b"}'], "is no printable text"),
        ([b'{"htype": "header", "filename": "\\ud800"}'], "is no printable text"),
        ([b'{"htype": "header", "filename": "' + b"a" * 5000 + b'"}'], "is no printable text"),
    ],
)
def test_a_wrong_message_passes(parts: list[bytes], reason: str) -> None:
    with pytest.raises(BadMessage, match=reason) as caught:
        decode_message(parts)
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*HEAD, "filename", "timestamp"])


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(KEYS, JSON, max_size=4),
    htype=st.sampled_from(["header", "image", "series_end", "other"]),
    rest=st.lists(st.binary(max_size=30) | st.just(PIXELS), max_size=3),
    cut=st.none() | st.integers(0, 80),
)
def test_any_message_raises_something_else(
    changes: dict[str, Any], htype: str, rest: list[bytes], cut: int | None
) -> None:
    head = json.dumps({**HEAD, "htype": htype, **changes}).encode()[:cut]
    try:
        found = decode_message([head, *rest])
    except BadMessage as error:
        assert len(str(error)) < 300
    else:
        if isinstance(found, Image):
            assert found.pixels.codec != "none" or found.pixels.decode().shape == found.pixels.shape
