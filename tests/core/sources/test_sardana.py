"""Scan documents are understood or refused with a sentence; the HTTP hook never hangs or leaks."""

from __future__ import annotations

import gc
import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Notice
from ronda.core.positions import MAX_POINT, ScanEnd, ScanPoint, ScanStart
from ronda.core.sources import Event, SourceError, open_source
from ronda.core.sources.parsing import MAX_JSON, json_object, split_url
from ronda.core.sources.sardana import KINDS, MAX_COLUMNS, SardanaServer, parse_sardana
from ronda.tests.waiting import wait_for

START = {
    "type": "DataDescription",
    "serialno": 123374,
    "title": "burstscan",
    "ref_moveables": ["dummy_mot_01"],
    "column_desc": [],
}
RECORD = {
    "type": "RecordData",
    "timestamp": 2.5,
    "pilatus_ctrl/1": "/data/scan-123374_pilatus.h5",
    "panda_ctrl/4": [1.0] * 6,
    "point_nb": 3,
    "dummy_mot_01": 1.25,
}


@pytest.mark.parametrize("key", ["ref_moveables", "ref_movables"])
def test_one_spelling_of_movables_is_unknown(key: str) -> None:
    document = {name: value for name, value in START.items() if name != "ref_moveables"}
    found = parse_sardana({**document, key: ["a", "b"]}, 7)
    assert found == ScanStart(123374, ("a", "b"), "burstscan", 7, {"column_desc": []})


def test_a_record_loses_columns_or_frames() -> None:
    values = {"timestamp": 2.5, "dummy_mot_01": 1.25}
    assert parse_sardana(RECORD, 6) == ScanPoint(3, values, 6, 6)


def test_the_other_documents_are_unknown() -> None:
    assert parse_sardana({"type": "RecordEnd"}, 9) == ScanEnd(9)
    assert parse_sardana({"type": "CustomData", "x": 1}) is None
    assert parse_sardana({}, kind="RecordEnd") == ScanEnd(None)
    assert isinstance(parse_sardana({"point_nb": 0}, kind="RecordData"), ScanPoint)
    assert parse_sardana({"serialno": "x"}, kind="DataDescription") == ScanStart(None, ())


@pytest.mark.parametrize(
    ("columns", "frames"),
    [
        ({}, None),
        ({"a": [1, 2, 3]}, 3),
        ({"a": [1, 2, 3], "b": [1.0, 2.0, 3.0]}, 3),
        ({"a": [1, 2, 3], "b": [1, 2]}, None),
        ({"a": [1, 2, 3], "b": ["x"], "c": [], "d": [[1, 2]]}, 3),
        ({"a": ["x", "y"], "b": "text", "c": {"d": [1]}}, None),
        ({"frames_per_point": 5, "a": [1, 2]}, 5),
        ({"nb_frames": 5, "a": [1, 2]}, 5),
        ({"nb_frames": 0, "a": [1, 2]}, 2),
        ({"nb_frames": "5"}, None),
        ({"nb_frames": 1 << 40}, None),
    ],
)
def test_the_record_s_own_frames_are_miscounted(
    columns: dict[str, Any], frames: int | None
) -> None:
    found = parse_sardana({"type": "RecordData", "point_nb": 0, **columns})
    assert isinstance(found, ScanPoint)
    assert found.frames == frames


def test_what_is_no_number_is_a_position() -> None:
    document = {**RECORD, "flag": True, "text": "1", "null": None, "huge": 10**400, "big": 2**80}
    found = parse_sardana(document)
    assert isinstance(found, ScanPoint)
    assert set(found.values) == {"timestamp", "dummy_mot_01", "big"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "has the unknown type ''"),
        ({"type": "Record"}, "has the unknown type 'Record'"),
        ({"type": ["RecordData"]}, "has the unknown type"),
        ({**START, "ref_moveables": "motor"}, "are no list of names"),
        ({**START, "ref_moveables": [1]}, "are no list of names"),
        ({**START, "ref_moveables": ["x" * 1000]}, "are no list of names"),
        ({**START, "ref_moveables": ["x"] * (MAX_COLUMNS + 1)}, "are no list of names"),
        ({**START, "title": 5}, "is no text"),
        ({"type": "RecordData"}, "has the number None"),
        ({**RECORD, "point_nb": -1}, "has the number -1"),
        ({**RECORD, "point_nb": 1.0}, "has the number 1.0"),
        ({**RECORD, "point_nb": True}, "has the number True"),
        ({**RECORD, "point_nb": MAX_POINT + 1}, "has the number 16777217"),
        ({**RECORD, **{str(k): 1 for k in range(MAX_COLUMNS)}}, "has 4102 columns"),
    ],
)
def test_a_wrong_document_passes(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_sardana(document)
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*START, *RECORD, "nb_frames"]), JSON), st.booleans())
def test_any_document_raises_something_else(document: dict[str, Any], typed: bool) -> None:
    if typed:
        document["type"] = "RecordData" if "point_nb" in document else "DataDescription"
    try:
        found = parse_sardana(document)
    except ValueError as error:
        assert len(str(error)) < 300
    else:
        assert found is None or isinstance(found, ScanStart | ScanPoint | ScanEnd)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"", "is no JSON"), (b"5", "no JSON object"), (b" " * (MAX_JSON + 1), "bytes of JSON")],
)
def test_text_that_is_no_object_passes(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        json_object(memoryview(text))


def test_an_option_keeps_the_value_of_another() -> None:
    known = {"a": ("x", "y"), "b": ()}
    assert split_url("s://rest", known) == ("rest", {"a": "x", "b": ""})
    assert split_url("s:rest?b=c%20d&a=y", known) == ("rest", {"a": "y", "b": "c d"})


@pytest.fixture
def server(collect: Callable[..., Any]) -> Any:
    return collect(open_source("sardana+http://:0"))


def post(
    source: SardanaServer, path: str, body: bytes, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", source.port, timeout=20)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_posted_scan_does_not_arrive(server: Any) -> None:
    paths = {kind: path for path, kind in KINDS.items()}
    for document in (START, RECORD, {"type": "CustomData"}, {"type": "RecordEnd"}):
        answer = post(server.source, paths[document["type"]], json.dumps(document).encode())
        assert answer == (200, {"status": "ok"})
    assert post(server.source, "/v1/record_data/?x=1", b'{"point_nb": 8}')[0] == 200
    wait_for(lambda: len(server.events) == 4)
    start, point, end, untyped = server.events
    assert start == parse_sardana(START)
    assert point == parse_sardana(RECORD)
    assert end == ScanEnd()
    assert untyped == ScanPoint(8, {})


def test_a_wrong_document_is_taken_or_its_notice_stays(server: Any) -> None:
    status, answer = post(server.source, "/v1/record_data", b"no JSON")
    assert status == 400
    assert answer["error"].startswith("a document posted to /v1/record_data cannot be used: ")
    assert post(server.source, "/v1/record_data", b'{"point_nb": -1}')[0] == 400
    assert post(server.source, "/v1/nothing", b"{}")[0] == 404
    assert post(server.source, "/v1/record_data", json.dumps(RECORD).encode())[0] == 200
    wait_for(lambda: server.of(ScanPoint))
    texts = [event.text for event in server.of(Notice)]
    assert len(texts) == 3 and texts[2] == ""
    assert "is no JSON" in texts[0] and "has the number -1" in texts[1]


@pytest.mark.parametrize("length", ["", "-1", "x", "99999999", "0" * 40 + "9" * 15, "1e3"])
def test_any_length_is_read(server: Any, length: str) -> None:
    with socket.create_connection(("127.0.0.1", server.source.port), 20) as client:
        client.sendall(f"POST /v1/record_end HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode())
        answer = client.makefile("rb").read()
    assert answer.split()[1] == b"400"
    wait_for(lambda: server.of(Notice))


@settings(max_examples=30, deadline=None)
@given(request=st.binary(max_size=200))
def test_random_bytes_stop_the_server(request: bytes) -> None:
    source = _shared_server()
    with socket.create_connection(("127.0.0.1", source.port), 20) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        client.makefile("rb").read()
    assert post(source, "/v1/record_end", b"{}")[0] == 200


_servers: list[SardanaServer] = []


def _shared_server() -> SardanaServer:
    if not _servers:
        _servers.append(SardanaServer("sardana+http://:0"))
    return _servers[0]


@pytest.fixture(autouse=True, scope="module")
def _close_shared_server() -> Any:
    yield
    while _servers:
        _servers.pop().close()


def test_documents_pile_up_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ronda.core.sources.sardana.WAITING", 2)
    source = open_source("sardana+http://:0")
    try:
        statuses = [post(source, "/v1/record_end", b"{}")[0] for _ in range(3)]
        assert statuses == [200, 200, 503]
    finally:
        source.close()


def test_large_documents_pile_up_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ronda.core.sources.sardana.WAITING_BYTES", 250)
    source = open_source("sardana+http://:0")
    try:
        body = b"{}".ljust(100)
        assert [post(source, "/v1/record_end", body)[0] for _ in range(3)] == [200, 200, 503]
        events = source.events()
        assert isinstance(next(events), ScanEnd)
        assert post(source, "/v1/record_end", body)[0] == 200
        events.close()
    finally:
        source.close()


def test_any_number_of_clients_is_served_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ronda.core.sources.sardana.MOST_CLIENTS", 3)
    monkeypatch.setattr("ronda.core.sources.sardana._Handler.timeout", 100.0)
    source = SardanaServer("sardana+http://:0")
    silent = [socket.create_connection(("127.0.0.1", source.port), 20) for _ in range(5)]
    try:
        wait_for(lambda: sum(_is_closed(each) for each in silent) == 2)
        assert len(source._server._connections) == 3
    finally:
        for each in silent:
            each.close()
        source.close()


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_it_listens_to_the_world() -> None:
    source = SardanaServer("sardana+http://:0")
    try:
        assert source._server.server_address[0] == "127.0.0.1"
        with pytest.raises(SourceError, match=r"cannot be served: .*[Aa]ddress"):
            open_source(f"sardana+http://127.0.0.1:{source.port}")
    finally:
        source.close()


@pytest.mark.parametrize(
    "url", ["sardana+http://host", "sardana+http://host:port", "sardana+http://host:99999"]
)
def test_a_wrong_address_is_served(url: str) -> None:
    with pytest.raises(SourceError, match="not of the form sardana"):
        open_source(url)


def test_a_client_that_says_nothing_delays_the_end(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.source.port), 20) as client:
        client.sendall(b"POST /v1/record_end HTTP/1.0\r\nContent-Length: 100\r\n\r\n{")
        wait_for(lambda: server.source._server._connections)
        closer = threading.Thread(target=server.source.close)
        closer.start()
        closer.join(4)  # less than the client's own time limit
        assert not closer.is_alive()


def test_closing_leaves_threads_or_files() -> None:
    def cycle() -> None:
        source = open_source("sardana+http://:0")
        events: list[Event] = []
        thread = threading.Thread(target=lambda: events.extend(source.events()))
        thread.start()
        assert post(source, "/v1/record_end", b"{}")[0] == 200
        source.close()
        source.close()
        thread.join(10)
        assert not thread.is_alive()

    def held() -> tuple[int, int]:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    cycle()
    before = held()
    for _ in range(8):
        cycle()
    assert held() == before
