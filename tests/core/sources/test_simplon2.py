"""SIMPLON stream V2: the two ends agree, and nothing that arrives is trusted."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import Encoded
from ronda.core.sources.simplon import MAX_METADATA, BadSimplon, End, Image, SeriesId, Start
from ronda.core.sources.simplon2 import TYPES, decode_simplon2
from ronda.core.sources.simplon_sender import as_bslz4, encode_end, encode_image, encode_start

SERIES = SeriesId(7, "01FJ5C8V7ZB4A2H4CJ4KNW7DWX")
NAMES = {"series_id": 7, "series_unique_id": SERIES.unique}
PIXELS = np.arange(12, dtype="<u2").reshape(3, 4)
DATE = "2026-11-21T18:44:52.250000+01:00"
BEGAN = datetime.fromisoformat(DATE)
DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"]
Encoder = Callable[[NDArray[Any]], bytes]


def tag(number: int, value: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(number, value)


def array(content: Any, shape: Any = (3, 4), kind: int = 69, outer: int = 40) -> cbor2.CBORTag:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return tag(outer, [shape, tag(kind, content)])


def compressed(blob: bytes, name: Any = "bslz4", itemsize: Any = 2) -> cbor2.CBORTag:
    return tag(56500, [name, itemsize, blob])


def message(kind: str = "image", **entries: Any) -> list[bytes]:
    """Return a message; entries that are None are left out."""
    image: dict[str, Any] = {"image_id": 3, "data": {"threshold_1": array(PIXELS.tobytes())}}
    every = {"type": kind, **NAMES, **(image if kind == "image" else {}), **entries}
    return [cbor2.dumps({name: value for name, value in every.items() if value is not None})]


def image_in(parts: list[bytes], channel: str = "") -> Image:
    found = decode_simplon2(parts, channel)
    assert isinstance(found, Image)
    return found


def start_in(parts: list[bytes]) -> Start:
    found = decode_simplon2(parts)
    assert isinstance(found, Start)
    return found


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
    found = image_in([encode_image(SERIES, 4, as_bslz4(sent), BEGAN, 1.5, 0.25)])
    np.testing.assert_array_equal(found.pixels.decode(), image)
    assert found.pixels.dtype == image.dtype
    assert (found.series, found.number, found.pixels.codec) == (SERIES, 4, "bslz4")
    assert found.timestamp == pytest.approx(BEGAN.timestamp() + 1.5, abs=1e-6)
    assert found.metadata == {"start_time": 1.5, "stop_time": 1.75, "real_time": 0.25}


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "u2", "u4"]),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
def test_shapes_or_values_are_lost_on_the_way(
    dtype: str, shape: tuple[int, int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    found = image_in([encode_image(SERIES, 0, as_bslz4(image), BEGAN, 0)])
    np.testing.assert_array_equal(found.pixels.decode(), image)


def test_what_is_sent_is_not_what_the_protocol_says() -> None:
    """Read by cbor2: signed as CBOR, `type` first, tags as documented."""
    pixels = as_bslz4(PIXELS)
    raw = encode_image(SERIES, 0, pixels, BEGAN, 0)
    assert raw.startswith(b"\xd9\xd9\xf7")

    def hook(*arguments: object) -> object:
        found = next(one for one in arguments if isinstance(one, cbor2.CBORTag))
        return ("tag", found.tag, found.value)

    found = cbor2.loads(raw[3:], tag_hook=hook)
    assert next(iter(found)) == "type"
    channel = found["data"]["threshold_1"]
    kind, number, (shape, (_, typed, (_, packing, content))) = channel
    assert (kind, number, list(shape), typed, packing) == ("tag", 40, [3, 4], 69, 56500)
    assert list(content) == ["bslz4", 2, bytes(pixels.blob)]
    assert bytes(pixels.blob[:12]) == (24).to_bytes(8, "big") + (8192).to_bytes(4, "big")
    assert found["series_date"] == BEGAN


def test_a_start_changes_on_the_way() -> None:
    metadata = {"incident_energy": 12000.0, "detector_description": "Eiger", "mine": [1, 2]}
    pixels = as_bslz4(np.zeros((20, 30), "u4"))
    raw = encode_start(SERIES, pixels, 300, 0.002, "/raw/scan-12_x.h5", metadata)
    found = start_in([raw])
    assert (found.series, found.detector, found.images) == (SERIES, "Eiger", 300)
    assert (found.filename, found.channels) == ("/raw/scan-12_x.h5", ("threshold_1",))
    said = found.metadata
    assert (said["image_size_x"], said["image_size_y"], said["image_dtype"]) == (30, 20, "uint32")
    assert (said["beam_center_x"], said["beam_center_y"]) == (15, 10)
    assert said["incident_wavelength"] == pytest.approx(12398.42 / 12000)
    assert said["threshold_energy"] == {"threshold_1": 6000}
    assert said["saturation_value"] == (1 << 32) - 2
    assert said["frame_time"] == 0.002
    assert json.loads(said["user_data"])["mine"] == [1, 2]
    assert decode_simplon2([encode_end(SERIES)]) == End(SERIES)


FIELDS = """arm_date beam_center_x beam_center_y channels count_time countrate_correction_enabled
detector_description detector_serial_number detector_translation flatfield_enabled frame_time
goniometer image_dtype image_size_x image_size_y incident_energy incident_wavelength
number_of_images pixel_mask_enabled pixel_size_x pixel_size_y saturation_value sensor_material
sensor_thickness series_id series_unique_id threshold_energy user_data
virtual_pixel_interpolation_enabled"""


def test_the_start_lacks_a_field_of_the_protocol() -> None:
    """All but the tables, which `header_detail` basic leaves out."""
    found = start_in([encode_start(SERIES, as_bslz4(PIXELS))])
    assert set(found.metadata) == set(FIELDS.split())
    json.dumps(found.metadata)


def test_arrays_of_the_start_get_into_the_metadata() -> None:
    mask = {"threshold_1": array(np.zeros(12, "<u4").tobytes(), kind=70)}
    found = start_in(message("start", pixel_mask=mask, flatfield=mask, own=mask, count_time=0.5))
    assert found.tables == ("flatfield", "pixel_mask")
    assert found.metadata == {**NAMES, "count_time": 0.5, "own": {}}


@pytest.mark.parametrize(
    "user_data",
    [{"filename": "/raw/a.h5"}, '{"filename": "/raw/a.h5"}', None],
    ids=["map", "text", "entry"],
)
def test_the_file_name_is_overlooked(user_data: object) -> None:
    more = {"user_data": user_data} if user_data else {"filename": "/raw/a.h5"}
    assert start_in(message("start", **more)).filename == "/raw/a.h5"


@pytest.mark.parametrize(
    "user_data",
    [
        "",
        "text",
        "[1]",
        '{"filename": 5}',
        '{"filename": "\\ud800"}',
        "[" * 50_000,
        "{" * 70_000,
        {"filename": "a\0b"},
        {"filename": "a" * 5000},
        ["filename"],
        b"\xff",
        7,
    ],
)
def test_odd_user_data_cost_the_series(user_data: object) -> None:
    assert start_in(message("start", user_data=user_data)).filename == ""


def test_metadata_that_no_file_can_hold_are_kept() -> None:
    found = start_in(
        message(
            "start",
            inf=float("inf"),
            big=1 << 63,
            list=[1, b"x"],
            deep={"a": {"b": [1.5, "c"]}, "d": float("nan")},
            date=tag(0, DATE),
            long=list(range(2000)),
            none=tag(40, [[1], 5]),
        )
    )
    assert found.metadata == {**NAMES, "deep": {"a": {"b": [1.5, "c"]}}, "date": DATE}
    large = start_in(message("start", **{f"n{k}": "x" * 100 for k in range(2000)})).metadata
    assert 300 < len(large) < 1000
    assert len(json.dumps(large)) < 2 * MAX_METADATA


def test_a_second_channel_is_taken_for_the_first() -> None:
    data = {"threshold_1": array(PIXELS.tobytes()), "difference": array((PIXELS + 1).tobytes())}
    found = image_in(message(data=data))
    assert found.channels == ("threshold_1", "difference")
    np.testing.assert_array_equal(found.pixels.decode(), PIXELS)
    found = image_in(message(data=data), "difference")
    assert found.channels == ("difference", "threshold_1")
    np.testing.assert_array_equal(found.pixels.decode(), PIXELS + 1)
    with pytest.raises(BadSimplon, match="no channel 'x'; it has threshold_1, difference"):
        image_in(message(data=data), "x")


def test_the_pixels_of_other_channels_stay_in_memory() -> None:
    blob = np.zeros((300, 400), "<u2").tobytes()
    alone = message(data={"a": array(blob, (300, 400))})
    two = message(data={"a": array(blob, (300, 400)), "b": array(blob, (300, 400))})
    assert isinstance(image_in(alone).pixels.blob, memoryview), "not copied where it is all"
    assert isinstance(image_in(two).pixels.blob, bytes)


def test_forms_of_pixels_that_detectors_send_are_refused(bslz4: Encoder) -> None:
    image = np.random.default_rng(1).poisson(2, (60, 130)).astype("<u4")
    block = lz4_block(image.tobytes())
    framed = len(image.tobytes()).to_bytes(8, "big") + image.nbytes.to_bytes(4, "big")
    framed += len(block).to_bytes(4, "big") + block
    for content in (
        image.tobytes(),
        compressed(bslz4(image), itemsize=4),
        compressed(bslz4(image)[12:], itemsize=4),
        compressed(framed, "lz4", 0),
        compressed(block, "lz4", 0),
    ):
        found = image_in(message(data={"a": array(content, (60, 130), 70)}))
        np.testing.assert_array_equal(found.pixels.decode(), image)


def lz4_block(raw: bytes) -> bytes:
    """Return a block of LZ4 that is all literals: a length, and the bytes."""
    rest = len(raw) - 15
    return b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + raw


@pytest.mark.parametrize(
    ("entries", "stamp"),
    [
        ({"series_date": tag(0, DATE), "start_time": [3, 2]}, BEGAN.timestamp() + 1.5),
        ({"series_date": tag(0, "2026-11-21T17:44:52.25Z"), "start_time": [0, 1]}, 1795283092.25),
        ({"series_date": tag(0, "2026-11-21T17:44:52.250000001Z"), "start_time": [0, 1]}, None),
        ({"start_time": [3, 2]}, None),
        ({"series_date": tag(0, DATE)}, None),
        ({"series_date": tag(0, DATE), "start_time": [3, 0]}, None),
        ({"series_date": tag(0, DATE), "start_time": [3, 1 << 63]}, None),
        ({"series_date": tag(0, DATE), "start_time": "1.5"}, None),
    ],
)
def test_a_stamp_is_wrong_or_made_up(entries: dict[str, Any], stamp: float | None) -> None:
    parts = message(**entries)
    if "000001" in str(entries):
        stamp = datetime(2026, 11, 21, 17, 44, 52, 250000, UTC).timestamp()
    assert image_in(parts).timestamp == stamp


@pytest.mark.parametrize("date", ["2026-11-21T18:44:52", "yesterday", "9" * 10_000, 5, None, ""])
def test_a_date_that_is_none_costs_the_frame(date: object) -> None:
    head = b"\xa5" + message(start_time=[1, 1], series_date=None)[0][1:]
    raw = cbor2.dumps("series_date") + b"\xc0" + cbor2.dumps(date)
    entries = len(cbor2.loads(message(start_time=[1, 1], data=None)[0])) + 2
    found = image_in([bytes([0xA0 + entries]) + head[1:] + raw])
    assert found.timestamp is None


BAD_IMAGES: list[tuple[dict[str, Any], str]] = [
    ({"data": None}, "without its data"),
    ({"data": {}}, "without its data"),
    ({"data": [1]}, "without its data"),
    ({"data": {"a": 5}}, "is no array"),
    ({"data": {"a": array(PIXELS.tobytes(), outer=1040)}}, "is no array, row after row"),
    ({"data": {"a": array(PIXELS.tobytes(), kind=65)}}, "of little-endian numbers"),
    ({"data": {"a": array(PIXELS.tobytes(), kind=87)}}, "of little-endian numbers"),
    ({"data": {"a": tag(40, [[3, 4], PIXELS.tobytes()])}}, "is no array"),
    ({"data": {"a": tag(40, [[3, 4]])}}, "is no array"),
    ({"data": {"a": array([1, 2])}}, "neither bytes nor bslz4 nor lz4"),
    ({"data": {"a": array(compressed(b"x" * 30, "bszstd"))}}, "neither bytes nor bslz4 nor lz4"),
    ({"data": {"a": array(compressed(b"x" * 30, itemsize=4))}}, "of 4 bytes does not fit pixels"),
    ({"data": {"a": array(compressed(b"x" * 30, itemsize="2"))}}, "neither bytes"),
    ({"data": {"a": array(PIXELS.tobytes()[1:])}}, "23 bytes of pixels where"),
    ({"data": {"a": array(PIXELS.tobytes(), (1 << 40, 1 << 40))}}, "outside 1 to 16384"),
    ({"data": {"a": array(compressed(b"x" * 30), (16384, 16384))}}, "cannot hold the 536870912"),
    ({"data": {"a": array(PIXELS.tobytes(), (12,))}}, r"not \[rows, columns\]"),
    ({"data": {"a": array(PIXELS.tobytes(), (1, 3, 4))}}, r"not \[rows, columns\]"),
    ({"data": {"a": array(PIXELS.tobytes(), "34")}}, r"not \[rows, columns\]"),
    ({"data": {"a": array(PIXELS.tobytes(), (0, 4))}}, "outside 1 to"),
    ({"data": {"a\0": array(PIXELS.tobytes())}}, "is no name"),
    ({"data": {f"c{k}": 5 for k in range(40)}}, "no list of at most 32 names"),
    ({"image_id": None}, "image_id is NoneType"),
    ({"image_id": -1}, "image_id is int -1"),
    ({"image_id": True}, "image_id is bool"),
    ({"image_id": 1.5}, "image_id is float"),
    ({"image_id": 1 << 63}, "image_id is int"),
    ({"series_id": None}, "series_id is NoneType"),
    ({"series_id": "7"}, "series_id is str '7'"),
    ({"series_unique_id": 5}, "series_unique_id 5 is no name"),
    ({"series_unique_id": "x" * 300}, "is no name"),
]


@pytest.mark.parametrize(("entries", "reason"), BAD_IMAGES)
def test_a_wrong_image_passes(entries: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSimplon, match=reason) as caught:
        decode_simplon2(message(**entries))
    assert caught.value.kind is Image
    assert caught.value.series == (None if entries.keys() & NAMES.keys() else SERIES)
    assert caught.value.number == (3 if "data" in entries else None)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "0 parts, not one"),
        ([b"\xa0", b"\xa0"], "2 parts, not one"),
        ([b""], "a message is cut short"),
        ([b"{}"], "a message"),
        ([cbor2.dumps([1])], "is no map"),
        ([cbor2.dumps({})], "unknown kind of message None"),
        ([cbor2.dumps({"type": ["image"]})], "unknown kind of message"),
        ([cbor2.dumps({"type": "other", **NAMES})], "unknown kind of message 'other'"),
        (message("start", channels="ab"), "are no list of at most 32 names"),
        (message("start", channels=[1]), "channel 1 is no name"),
        (message("end", series_id=-1), "series_id is int -1"),
    ],
)
def test_a_wrong_message_passes(parts: list[bytes], reason: str) -> None:
    with pytest.raises(BadSimplon, match=reason):
        decode_simplon2(parts)


def test_an_image_that_is_claimed_takes_memory() -> None:
    content = compressed(b"x" * 5_000_000, itemsize=4)
    parts = message(data={"a": array(content, (16384, 16384), 70)})
    tracemalloc.start()
    try:
        found = image_in(parts)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(ValueError, match="cannot be decompressed"):
        found.pixels.decode()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=30)
    | st.just(PIXELS.tobytes()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        | st.builds(tag, st.sampled_from([40, 69, 70, 56500, 1040, 5000]), inner)
    ),
    max_leaves=8,
)
ARRAYS = st.builds(
    array,
    st.binary(max_size=40) | st.builds(compressed, st.binary(max_size=40), VALUES, VALUES),
    st.lists(st.integers(0, 20_000), min_size=1, max_size=3),
    st.sampled_from([*TYPES, 65, 87]),
)
KEYS = ("image_id", "series_id", "series_unique_id", "start_time", "user_data", "channels")


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(["start", "image", "end", "other"]),
    entries=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    data=st.none() | st.dictionaries(st.text(max_size=5), ARRAYS | VALUES, max_size=3),
    cut=st.none() | st.integers(0, 300),
    channel=st.sampled_from(["", "threshold_1"]),
)
def test_any_message_raises_something_else(
    kind: str, entries: dict[str, Any], data: Any, cut: int | None, channel: str
) -> None:
    more = {} if data is None else {"data": data}
    parts = [message(kind, **entries, **more)[0][:cut]]
    try:
        found = decode_simplon2(parts, channel)
    except BadSimplon as error:
        assert len(str(error)) < 300
    else:
        if isinstance(found, Start | Image):
            json.dumps(found.metadata, allow_nan=False).encode()
        if isinstance(found, Image):
            assert_decodes_or_says_why(found.pixels)


def assert_decodes_or_says_why(pixels: Encoded) -> None:
    try:
        assert pixels.decode().shape == pixels.shape
    except ValueError as error:
        assert pixels.codec != "none"
        assert len(str(error)) < 300


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_message_raises_something_else(at: int, damage: bytes) -> None:
    raw = bytearray(encode_image(SERIES, 4, as_bslz4(PIXELS), BEGAN, 1.5))
    at %= len(raw)
    raw[at : at + len(damage)] = damage
    try:
        found = decode_simplon2([memoryview(raw)])
    except BadSimplon:
        return
    if isinstance(found, Image):
        assert_decodes_or_says_why(found.pixels)
