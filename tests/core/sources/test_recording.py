"""Recordings replay whole and in order; damage is counted and costs no memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Frame, Lost, Notice, Rejected, SeriesEnd, SeriesStart
from ronda.core.positions import Scan, ScanBooks, ScanEnd, ScanPoint, ScanStart
from ronda.core.sources import Event, SourceError, open_source
from ronda.core.sources.recording import MAX_BYTES, RECORD, SELF_DESCRIBED, STREAM, _tag_hook
from ronda.core.sources.stins import Part, encode_end, encode_header, encode_image

IMAGE = np.arange(12, dtype=np.uint16).reshape(3, 4)
STAMP = datetime(2024, 11, 21, 11, 0, tzinfo=UTC)


def record(event: object, stamp: object = STAMP, **streams: tuple[str, Sequence[Part]]) -> bytes:
    """Return one record as dranspose writes it; without a stamp where that is None."""
    content = {
        name: cbor2.CBORTag(STREAM, [kind, [bytes(part) for part in parts]])
        for name, (kind, parts) in streams.items()
    }
    value = [event, content] if stamp is None else [event, content, stamp]
    return cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, cbor2.CBORTag(RECORD, value)))


def images(count: int, name: str = "balor", first: int = 0) -> list[bytes]:
    """Return the records of a series: header, images at events 1 to count, end."""
    messages: list[Sequence[Part]] = [encode_header(first, "/raw/scan-3_balor.h5")]
    messages += [encode_image(first + 1 + k, k, IMAGE + k) for k in range(count)]
    messages.append(encode_end(first + 1 + count))
    return [record(event, **{name: ("STINS", parts)}) for event, parts in enumerate(messages)]


def positions(count: int, each: int) -> list[bytes]:
    """Return the records of a scan with `each` frames a point."""
    start = {"type": "DataDescription", "serialno": 3, "ref_movables": ["motor"], "title": "t"}
    documents: list[tuple[int, dict[str, Any]]] = [(0, start)]
    for point in range(count):
        content = {"type": "RecordData", "point_nb": point, "motor": 1 + point / 4}
        documents.append(((point + 1) * each, content))
    documents.append((count * each + 1, {"type": "RecordEnd"}))
    return [
        record(event, sardana=("sardana", [json.dumps(content).encode()]))
        for event, content in documents
    ]


def write(path: Path, records: Sequence[bytes]) -> Path:
    content = b"".join(records)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def replay(*paths: Path, query: str = "") -> list[Event]:
    source = open_source(f"recording:{','.join(map(str, paths))}{query}")
    assert not source.live
    return list(source.events())


def of(kind: type, events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("name", ["a.cbors", "a.cbors.gz"])
@pytest.mark.parametrize("stamp", [STAMP, None])
def test_a_recording_differs_from_the_stream(tmp_path: Path, name: str, stamp: Any) -> None:
    records = [
        record(4, stamp, balor=("STINS", encode_header(0, "/raw/scan-3_x.h5"))),
        record(5, stamp, balor=("STINS", encode_image(1, 0, IMAGE))),
        record(6, stamp, balor=("STINS", encode_end(2))),
    ]
    start, frame, end = replay(write(tmp_path / name, records))
    assert isinstance(start, SeriesStart) and isinstance(frame, Frame)
    assert isinstance(end, SeriesEnd)
    assert (start.series.filename, start.series.detector) == ("/raw/scan-3_x.h5", "balor")
    np.testing.assert_array_equal(frame.data, IMAGE)
    assert (frame.event_number, frame.frame_id, frame.message_number) == (5, 0, 1)
    assert frame.timestamp == (STAMP.timestamp() if stamp else None)


@pytest.mark.parametrize("order", [1, -1])
def test_positions_of_another_file_miss_their_frames(tmp_path: Path, order: int) -> None:
    files = [write(tmp_path / "i.cbors", images(12)), write(tmp_path / "p.cbors", positions(4, 3))]
    events = replay(*files[::order])
    numbers = [event.event_number for event in events if hasattr(event, "event_number")]
    assert numbers == sorted(numbers)
    books = ScanBooks()
    for event in events:
        if isinstance(event, ScanStart | ScanPoint | ScanEnd):
            books.add(event)
    scan = books.scan_for(of(SeriesStart, events)[0].series)
    assert isinstance(scan, Scan)
    frames = of(Frame, events)
    points = scan.point_of(
        np.array([frame.frame_id for frame in frames]),
        np.array([frame.event_number for frame in frames]),
    )
    np.testing.assert_array_equal(scan.x(points), np.repeat([1, 1.25, 1.5, 1.75], 3))


def test_streams_of_one_file_are_mixed_up(tmp_path: Path) -> None:
    parts = encode_image(1, 0, IMAGE)
    other = encode_image(1, 7, IMAGE)
    xrf = ("xspress", [b"{}"])
    path = write(
        tmp_path / "a.cbors",
        [
            record(1, balor=("STINS", parts), zyla=("STINS", other), xrf=xrf),
            record(2, zyla=("STINS", encode_image(2, 8, IMAGE)), xrf=xrf),
        ],
    )
    events = replay(path)
    assert [frame.frame_id for frame in of(Frame, events)] == [0]
    notices = of(Notice, events)
    assert len(notices) == 2
    assert notices[1].text.endswith("not read: zyla (STINS), xrf (xspress)")
    chosen = replay(path, query="?stream=zyla")
    assert [frame.frame_id for frame in of(Frame, chosen)] == [7, 8]
    assert of(SeriesStart, chosen)[0].series.detector == "zyla"
    with pytest.raises(SourceError, match="no stream 'zilo' of images; known: balor, zyla, xrf"):
        replay(path, query="?stream=zilo")


def test_a_recording_without_end_leaves_the_series_open(tmp_path: Path) -> None:
    events = replay(write(tmp_path / "a.cbors", images(3)[:-1]))
    assert isinstance(events[-1], SeriesEnd)


@pytest.mark.parametrize("name", ["x.pkls", "x.pkl", "x.pickle", "x.pkls.gz"])
def test_a_pickle_is_opened(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, images(1))
    with pytest.raises(SourceError, match="reading a pickle runs whatever code is in it"):
        open_source(f"recording:{path}")


@pytest.mark.parametrize("name", ["a.cbors", "a.cbors.gz"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_loses_what_came_before(tmp_path: Path, name: str, kept: float) -> None:
    path = write(tmp_path / name, images(30))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    events = replay(path)
    assert len(of(Rejected, events)) <= 1
    reasons = [event.reason for event in of(Rejected, events)]
    assert all("damaged or cut short" in reason for reason in reasons)
    if name == "a.cbors":
        assert len(of(Frame, events)) in range(int(30 * kept) - 3, int(30 * kept) + 1)
    assert reasons or name == "a.cbors"
    assert isinstance(events[-1], SeriesEnd | Rejected)


def test_a_damaged_positions_file_counts_as_a_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "p.cbors", positions(4, 3))
    path.write_bytes(path.read_bytes()[:-10])
    events = replay(path)
    assert not of(Rejected, events)
    assert "cut short" in of(Notice, events)[0].text
    assert len(of(ScanPoint, events)) == 4


@pytest.mark.parametrize(
    "bad",
    [
        record("five", balor=("STINS", [b"{}"])),
        record(-1, balor=("STINS", [b"{}"])),
        record(True, balor=("STINS", [b"{}"])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5])),
        cbor2.dumps(cbor2.CBORTag(RECORD, 5)),
        cbor2.dumps(cbor2.CBORTag(RECORD, None)),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, [1]])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {"x": 1}])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {7: cbor2.CBORTag(STREAM, ["STINS", []])}])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {"x": cbor2.CBORTag(4711, ["STINS", []])}])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {"x": cbor2.CBORTag(STREAM, 5)}])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {"x": cbor2.CBORTag(STREAM, ["STINS"])}])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {"x": cbor2.CBORTag(STREAM, ["STINS", [5]])}])),
        cbor2.dumps(cbor2.CBORTag(RECORD, [5, {"x": cbor2.CBORTag(STREAM, [5, [b"x"]])}])),
        record(5, balor=("STINS", [])),
        record(5, balor=("STINS", [b"no JSON", b"x"])),
        record(5, balor=("STINS", [b"{}"] * 1000)),
    ],
)
def test_a_bad_record_ends_the_replay(tmp_path: Path, bad: bytes) -> None:
    records = images(4)
    events = replay(write(tmp_path / "a.cbors", [*records[:3], bad, *records[3:]]))
    assert len(of(Rejected, events)) == 1
    assert len(of(Frame, events)) == 4
    assert not of(Lost, events)


@pytest.mark.parametrize("extra", [cbor2.CBORTag(4711, "x"), "now", 5, datetime(2024, 1, 1)])
def test_an_odd_stamp_costs_the_record(tmp_path: Path, extra: Any) -> None:
    item = cbor2.CBORTag(STREAM, ["STINS", [bytes(part) for part in encode_image(1, 0, IMAGE)]])
    stream = io.BytesIO()
    encoder = cbor2.CBOREncoder(stream, timezone=UTC)
    encoder.encode(cbor2.CBORTag(RECORD, [1, {"balor": item}, extra]))
    events = replay(write(tmp_path / "a.cbors", [stream.getvalue()]))
    assert len(of(Frame, events)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"hello, world", cbor2.dumps([b"{}", b"x"]), b"\x00" * 99]
)
def test_another_file_is_replayed(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "a.cbors", [content])
    if not content:
        assert replay(path) == []
        return
    with pytest.raises(SourceError, match="is no recording of dranspose"):
        replay(path)


def test_what_follows_lost_step_is_replayed_as_thousands_of_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cbors", [*images(2)[:-1], b"\x00" * 100_000])
    events = replay(path)
    assert len(of(Frame, events)) == 2
    assert [event.reason for event in of(Rejected, events)] == [
        f"{path} is damaged: what follows is no record"
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("recording:", "not of the form recording:FILE"),
        ("recording:,", "not of the form recording:FILE"),
        ("recording:/no/such/file.cbors", "there is no file /no/such/file.cbors"),
        ("recording:/", "there is no file /"),
        ("recording:x?strem=a", "unknown option 'strem'"),
    ],
)
def test_a_wrong_url_is_opened(url: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        open_source(url)


def test_a_damaged_gzip_file_crashes(tmp_path: Path) -> None:
    path = tmp_path / "a.cbors.gz"
    path.write_bytes(b"no gzip at all")
    assert "damaged" in of(Rejected, replay(path))[0].reason


def test_closing_is_not_heeded(tmp_path: Path) -> None:
    source = open_source(f"recording:{write(tmp_path / 'a.cbors', images(50))}")
    seen = 0
    for _ in source.events():
        seen += 1
        source.close()
    assert seen <= 2


def test_only_one_version_of_cbor2_can_call_the_hook() -> None:
    tag = cbor2.CBORTag(RECORD, [1])
    assert _tag_hook(tag, False) == _tag_hook(object(), tag)
    assert _tag_hook(cbor2.CBORTag(SELF_DESCRIBED, 5), False) == 5
    assert _tag_hook(cbor2.CBORTag(5, 5), False) == cbor2.CBORTag(5, 5)


HOSTILE = """
import resource, sys
from ronda.core.frame import Rejected
from ronda.core.sources import SourceError, open_source

resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    events = list(open_source("recording:" + sys.argv[1]).events())
    assert any(isinstance(event, Rejected) for event in events), events
except SourceError as error:
    print(error)
# not getrusage, whose maximum includes that of the process that started this one
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) >> 10)
"""
GIGABYTE = struct.pack(">I", 1 << 30)
INSIDE = b"\xd9\xa7\x7d\x82\x05\xa1\x61x\xd9\xa7\x7e\x82\x65STINS\x81"
CLAIMS = {
    "a byte string of 1 GB": INSIDE + b"\x5a" + GIGABYTE + b"x" * 100,
    "a text of 1 GB": INSIDE + b"\x7a" + GIGABYTE + b"x" * 100,
    "a list of 1e9": INSIDE + b"\x9a" + GIGABYTE + b"\x00" * 100,
    "a map of 1e9": INSIDE + b"\xba" + GIGABYTE + b"\x00" * 100,
    "an exabyte": INSIDE + b"\x5b" + struct.pack(">Q", 1 << 60) + b"x" * 100,
    "everything": INSIDE + b"\x5b" + b"\xff" * 8,
    "deep lists": INSIDE + b"\x81" * 200_000,
    "deep tags": b"\xd9\xa7\x7d" * 200_000,
    "millions of lists": INSIDE + b"\x9a" + GIGABYTE + b"\x80" * 3_000_000,
    "a shared list in itself": INSIDE + b"\xd8\x1c\x81\xd8\x1d\x00",
    "a long number": INSIDE + b"\xc2\x5a" + struct.pack(">I", 1 << 20) + b"\xff" * (1 << 20),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claimed_size_is_allocated(tmp_path: Path, name: str) -> None:
    """In a process of its own, whose memory is limited and measured."""
    path = write(tmp_path / "a.cbors", [images(1)[0], CLAIMS[name]])
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 400, done.stdout


def test_a_gzip_bomb_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record that never ends: the limit (here a small one) stops it."""
    assert MAX_BYTES > 1 << 31
    monkeypatch.setattr("ronda.core.sources.recording.MAX_BYTES", 1 << 20)
    head = INSIDE + b"\x5b" + struct.pack(">Q", 1 << 50)
    path = write(tmp_path / "a.cbors.gz", [images(1)[0], head, bytes(50 << 20)])
    rejected = of(Rejected, replay(path))
    assert "longer than 1048576 bytes" in rejected[0].reason


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage_crashes(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    content = bytearray(b"".join(images(3) + positions(2, 1)))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.cbors"
    path.write_bytes(bytes(content)[: data.draw(st.integers(0, len(content)))])
    try:
        events = replay(path)
    except SourceError:
        return
    assert len(of(Frame, events)) <= 3


def test_the_real_pilatus_recording_is_read_wrongly(lab6: Path) -> None:
    events = replay(lab6 / "lab6-pilatus.cbors.gz", lab6 / "lab6-sardana.cbors")
    frames = of(Frame, events)
    assert len(frames) == 30
    assert not of(Rejected, events) and not of(Lost, events) and not of(Notice, events)
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((831, 1475), "float32")}
    series = frames[0].series
    assert (series.detector, series.scan_number) == ("pilatus", 123374)
    total = sum(float(frame.data[frame.data >= 0].sum(dtype=np.float64)) for frame in frames)
    assert total == pytest.approx(1.55e6, rel=0.01)
    books = ScanBooks()
    for event in events:
        if isinstance(event, ScanStart | ScanPoint | ScanEnd):
            books.add(event)
    scan = books.scan_for(series)
    assert scan is not None and scan.movables == ("dummy_mot_01",)
    ids = np.array([frame.frame_id for frame in frames])
    numbers = np.array([frame.event_number for frame in frames])
    expected = np.repeat([1.0, 1.25, 1.5, 1.75, 2.0], 6)
    np.testing.assert_array_equal(scan.x(scan.point_of(ids, numbers)), expected)
    np.testing.assert_array_equal(scan.x(scan.point_of(ids)), expected)
    assert [scan.frames_expected(point) for point in scan.points] == [6] * 5
