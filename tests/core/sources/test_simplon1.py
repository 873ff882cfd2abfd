"""SIMPLON's first stream: every detail of headers, every encoding, and nothing is trusted."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.codecs import decode
from ronda.core.sources.parsing import MAX_HEAD, MAX_PARTS
from ronda.core.sources.simplon import BadSimplon, End, Image, SeriesId, Start
from ronda.core.sources.simplon1 import ENCODINGS, decode_simplon1

CONFIGURATION = {
    "description": "Dectris Eiger 4M",
    "photon_energy": 12400.0,
    "nimages": 10,
    "ntrigger": 3,
    "sensor_material": "Si",
}
TABLES = [
    b'{"htype": "dflatfield-1.0", "shape": [4, 3], "type": "float32"}',
    bytes(48),
    b'{"htype": "dpixelmask-1.0", "shape": [4, 3], "type": "uint32"}',
    b'{"htype": "dflatfield-1.0"}',  # a table whose bytes look like a part of their own
    b'{"htype": "dcountrate_table-1.0", "shape": [2, 3], "type": "float32"}',
    bytes(24),
]
APPENDIX = b'{"filename": "/raw/scan-7_eiger.h5", "rotate": 1}'
PIXELS = np.arange(12, dtype=np.uint32).reshape(3, 4)
Encoder = Callable[[NDArray[Any]], bytes]


def head(detail: object = "all", **changes: Any) -> bytes:
    entries = {"htype": "dheader-1.0", "series": 5, "header_detail": detail}
    return json.dumps(entries | changes).encode()


def image(
    blob: bytes = PIXELS.tobytes(),
    *rest: bytes,
    frame: Any = 7,
    series: Any = 5,
    **changes: Any,
) -> list[bytes]:
    first = {"htype": "dimage-1.0", "series": series, "frame": frame, "hash": "x"}
    form = {"shape": [4, 3], "type": "uint32", "encoding": "<", "size": 1, **changes}
    second = {"htype": "dimage_d-1.0", **form}
    return [json.dumps(first).encode(), json.dumps(second).encode(), blob, *rest]


def start_in(parts: list[bytes]) -> Start:
    found = decode_simplon1(parts)
    assert isinstance(found, Start)
    return found


def image_in(parts: list[bytes]) -> Image:
    found = decode_simplon1(parts)
    assert isinstance(found, Image)
    return found


def lz4_block(raw: bytes) -> bytes:
    """Return a block of LZ4 that is all literals: a length, and the bytes."""
    rest = len(raw) - 15
    return b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + raw


@pytest.mark.parametrize("appendix", [False, True])
@pytest.mark.parametrize("detail", ["none", "basic", "all"])
def test_a_header_is_read_wrongly(detail: str, appendix: bool) -> None:
    parts = [head(detail)]
    parts += [json.dumps(CONFIGURATION).encode()] if detail != "none" else []
    parts += TABLES if detail == "all" else []
    parts += [APPENDIX] if appendix else []
    found = start_in(parts)
    assert found.series == SeriesId(5)
    assert found.filename == ("/raw/scan-7_eiger.h5" if appendix else "")
    assert found.tables == (
        ("flatfield", "pixel_mask", "countrate_correction_table") if detail == "all" else ()
    )
    more = {"appendix": [APPENDIX.decode()]} if appendix else {}
    if detail == "none":
        assert (found.detector, found.images, found.metadata) == ("", 0, {"series": 5, **more})
    else:
        assert (found.detector, found.images) == ("Dectris Eiger 4M", 30)
        assert found.metadata == {"series": 5, **CONFIGURATION, **more}


@pytest.mark.parametrize(
    "rest",
    [
        [],
        [b""],
        [b"\xff"],
        [b"[1]"],
        [b'{"nimages": "many"}'],
        [b'{"nimages": -5}'],
        [b'{"nimages": true}'],
        [b"{}", b"text"],
        [b"{}", b"\xff\xfe"],
        [b"{}", TABLES[0]],
        [b"{}", b'{"filename": 5}'],
        [b"{}", b'{"htype": ["dflatfield-1.0"]}'],
    ],
)
def test_an_odd_header_costs_the_series(rest: list[bytes]) -> None:
    found = start_in([head("basic"), *rest])
    assert (found.filename, found.images) == ("", 0)
    json.dumps(found.metadata).encode()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_an_encoding_is_unknown_or_shape_is_turned_twice(dtype: str, bslz4: Encoder) -> None:
    pixels = np.random.default_rng(1).poisson(2, (60, 130)).astype(dtype)
    bits = 8 * pixels.itemsize
    for encoding, blob in {
        "<": pixels.tobytes(),
        "lz4<": lz4_block(pixels.tobytes()),
        f"bs{bits}-lz4<": bslz4(pixels),
    }.items():
        parts = image(blob, shape=[130, 60], type=dtype, encoding=encoding)
        found = image_in(parts)
        assert (found.series, found.number, found.timestamp) == (SeriesId(5), 7, None)
        np.testing.assert_array_equal(found.pixels.decode(), pixels)
        assert found.pixels.dtype == dtype
        assert found.pixels.blob is blob, "not copied"


def test_times_and_appendix_of_an_image_are_lost() -> None:
    times = b'{"htype": "dconfig-1.0", "start_time": 5, "stop_time": 9, "real_time": 4}'
    plain = {"start_time": 5, "stop_time": 9, "real_time": 4}
    assert image_in(image()).metadata == {}
    assert image_in(image(PIXELS.tobytes(), times)).metadata == plain
    found = image_in(image(PIXELS.tobytes(), times, b"note"))
    assert found.metadata == {**plain, "appendix": "note"}
    assert image_in(image(PIXELS.tobytes(), b"\xff")).metadata == {}


def test_the_end_is_not_one() -> None:
    assert decode_simplon1([b'{"htype": "dseries_end-1.0", "series": 5}']) == End(SeriesId(5))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (image(b"x" * 47), "47 bytes of pixels where"),
        (image(shape=[3, 3]), "48 bytes of pixels where"),
        (image(shape=[1 << 40, 1]), "outside 1 to 16384"),
        (image(shape=[16384, 16384], encoding="bs32-lz4<"), "cannot hold the 1073741824"),
        (image(shape=[16384, 16384], encoding="lz4<"), "cannot hold the 1073741824"),
        (image(shape=[3, 4, 1]), r"not \[rows, columns\]"),
        (image(shape="34"), r"not \[rows, columns\]"),
        (image(shape=None), r"not \[rows, columns\]"),
        (image(shape=[4.0, 3.0]), "outside 1 to"),
        (image(type="object"), "unknown pixel type 'object'"),
        (image(type=["uint32"]), "unknown pixel type"),
        (image(encoding="lz4>"), "unknown encoding 'lz4>'; known are <, lz4<, bs8-lz4<"),
        (image(encoding=["<"]), "unknown encoding"),
        (image(encoding=None), "unknown encoding None"),
        (image(encoding="bs16-lz4<"), "encoding bs16-lz4< does not fit pixels of uint32"),
        (image()[:2], "without its part of pixels"),
        (image()[:1], "without its part of pixels"),
        ([image()[0], b"\xff", b""], "is no JSON"),
        (image(frame=-1), "frame is int -1"),
        (image(frame=None), "frame is NoneType"),
        (image(frame=True), "frame is bool"),
        (image(series="5"), "series is str '5'"),
        ([], "0 parts"),
        ([b"{}"] * (MAX_PARTS + 1), "65 parts"),
        ([b"{}"], "unknown kind of message None"),
        ([b'{"htype": ["dimage-1.0"]}'], "unknown kind of message"),
        ([b'{"htype": "image", "series": 5}'], "unknown kind of message 'image'"),
        ([b'{"htype": "dseries_end-1.0"}'], "series is NoneType"),
        ([b" " * (MAX_HEAD + 1)], "bytes of JSON, more than"),
        ([b"[" * 30_000], "is no JSON"),
    ],
)
def test_a_wrong_message_passes(parts: list[bytes], reason: str) -> None:
    with pytest.raises(BadSimplon, match=reason) as caught:
        decode_simplon1(parts)
    assert len(str(caught.value)) < 300


def test_what_is_known_of_a_bad_image_is_forgotten() -> None:
    with pytest.raises(BadSimplon) as caught:
        decode_simplon1(image(b""))
    assert (caught.value.kind, caught.value.series, caught.value.number) == (Image, SeriesId(5), 7)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
PARTS = st.binary(max_size=60) | st.sampled_from([*TABLES, APPENDIX, PIXELS.tobytes()])


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["dheader-1.0", "dimage-1.0", "dseries_end-1.0", "other"]),
    entries=st.dictionaries(st.sampled_from(["series", "frame", "header_detail"]), JSON),
    form=st.dictionaries(
        st.sampled_from(["shape", "type", "encoding"]), JSON | st.sampled_from([*ENCODINGS])
    ),
    rest=st.lists(PARTS | st.builds(lambda value: json.dumps(value).encode(), JSON), max_size=4),
    cut=st.none() | st.integers(0, 90),
)
def test_any_message_raises_something_else(
    name: str, entries: dict[str, Any], form: dict[str, Any], rest: list[bytes], cut: int | None
) -> None:
    first = {"series": 5, "frame": 7, "header_detail": "all", **entries, "htype": name}
    second = {"shape": [4, 3], "type": "uint32", "encoding": "<", **form}
    parts = [json.dumps(first).encode()[:cut], json.dumps(second).encode(), *rest]
    try:
        found = decode_simplon1(parts)
    except BadSimplon as error:
        assert len(str(error)) < 300
        return
    if isinstance(found, Start | Image):
        json.dumps(found.metadata, allow_nan=False).encode()
    if isinstance(found, Image):
        try:
            assert found.pixels.decode().shape == found.pixels.shape
        except ValueError as error:
            assert len(str(error)) < 300


@pytest.mark.parametrize("framed", [False, True])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_lz4_raises_anything_but_a_sentence(framed: bool, data: st.DataObject) -> None:
    block = lz4_block(PIXELS.tobytes())
    blob = bytearray(struct.pack(">QII", 48, 48, len(block)) + block if framed else block)
    for _ in range(data.draw(st.integers(0, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))]
    try:
        assert decode(bytes(blob), "lz4", (3, 4), np.dtype("u4")).shape == (3, 4)
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (struct.pack(">QII", 48, 1 << 31, 10) + b"a" * 10, "cannot be decompressed"),
        (struct.pack(">QII", 48, (1 << 32) - 1, 10) + b"a" * 10, "cannot be decompressed"),
        (struct.pack(">QII", 48, 0, 10) + b"a" * 10, "cannot be decompressed"),
        (struct.pack(">QII", 48, 48, (1 << 32) - 1) + b"a" * 10, "cannot be decompressed"),
        (struct.pack(">Q", 48), "cannot be decompressed"),
        (b"a" * 48, "are no LZ4 block of 48"),
        (b"", "0 compressed bytes cannot hold the 48"),
    ],
)
def test_lz4_that_lies_takes_memory(blob: bytes, reason: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=reason):
        decode(blob, "lz4", (3, 4), np.dtype("u4"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000, "kB"
