"""Positions from Sardana: its scan documents, and the HTTP hook that it posts them to.

A scan is one DataDescription, a RecordData for every point, and a RecordEnd
(`sardana` data recorders; `dranspose` serves the same hook).
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, ClassVar, TypeGuard
from urllib.parse import urlsplit

from ..frame import Notice
from ..positions import MAX_POINT, Position, ScanEnd, ScanPoint, ScanStart
from .base import Event, Source, SourceError, UrlError, source
from .parsing import json_object

log = logging.getLogger(__name__)

MAX_COLUMNS = 4096
"""Most columns of a record that are taken."""
MAX_NAME = 512
"""Longest name of a column, in characters."""
KINDS = {
    "/v1/data_desc": "DataDescription",
    "/v1/record_data": "RecordData",
    "/v1/custom_data": "CustomData",
    "/v1/record_end": "RecordEnd",
}
"""What is posted where."""
WAITING = 10_000
"""Most documents that wait to be read."""
WAITING_BYTES = 64 << 20
"""Most bytes of them, as they were posted."""
MAX_BODY = 2 << 20
"""Longest document taken, in bytes."""
MOST_CLIENTS = 32
"""Connections at a time; more are closed at once."""
TIMEOUT = 5.0
"""Seconds given to a client to send or take something."""


def parse_sardana(
    document: Mapping[str, Any], event_number: int | None = None, kind: str = ""
) -> Position | None:
    """Return what a document says; None for custom data, which is not used.

    Parameters
    ----------
    document
        The JSON object.
    event_number
        Number of the trigger event, where it is known.
    kind
        What it is, where the document has no `type` of its own.

    Raises
    ------
    ValueError
        In one sentence, if the document is not as it must be.
    """
    match document.get("type", kind):
        case "DataDescription":
            return _start(document, event_number)
        case "RecordData":
            return _point(document, event_number)
        case "RecordEnd":
            return ScanEnd(event_number)
        case "CustomData":
            return None
        case other:
            raise ValueError(f"a scan document has the unknown type {other!r:.40}")


def _start(document: Mapping[str, Any], event_number: int | None) -> ScanStart:
    serial = document.get("serialno")
    if not _is_count(serial, 1 << 62):
        serial = None
    movables = document.get("ref_moveables", document.get("ref_movables", []))
    if (
        not isinstance(movables, list)
        or len(movables) > MAX_COLUMNS
        or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in movables)
    ):
        raise ValueError(f"a scan's reference movables {movables!r:.60} are no list of names")
    title = document.get("title", "")
    if not isinstance(title, str):
        raise ValueError(f"a scan's title {title!r:.60} is no text")
    known = ("type", "serialno", "ref_moveables", "ref_movables", "title")
    metadata = {name: value for name, value in document.items() if name not in known}
    return ScanStart(serial, tuple(movables), title, event_number, metadata)


def _point(document: Mapping[str, Any], event_number: int | None) -> ScanPoint:
    point = document.get("point_nb")
    if not _is_count(point, MAX_POINT):
        raise ValueError(f"a scan record has the number {point!r:.40}, not 0 to {MAX_POINT}")
    if len(document) > MAX_COLUMNS:
        raise ValueError(f"a scan record has {len(document)} columns, more than {MAX_COLUMNS}")
    values = {
        name: float(value)
        for name, value in document.items()
        if name != "point_nb" and len(name) <= MAX_NAME and _is_number(value)
    }
    return ScanPoint(point, values, _frames(document), event_number)


def _frames(document: Mapping[str, Any]) -> int | None:
    """Return the record's own number of frames: named, or the length of its numeric columns."""
    for name in ("frames_per_point", "nb_frames"):
        frames = document.get(name)
        if _is_count(frames, MAX_POINT) and frames > 0:
            return frames
    columns = [value for value in document.values() if isinstance(value, list) and value]
    lengths = {len(column) for column in columns if all(map(_is_number, column))}
    return lengths.pop() if len(lengths) == 1 else None


def _is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a number that fits a float."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 1000)


def _is_count(value: object, limit: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


class _Server(ThreadingHTTPServer):
    """Joins its threads at the end, and hangs up on clients that would delay that."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int]) -> None:
        self._events: queue.Queue[tuple[Event, int]] = queue.Queue(WAITING)
        self._waiting_bytes = 0
        self._counting = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of a name, which may take seconds."""
        TCPServer.server_bind(self)

    def offer(self, event: Event, nbytes: int) -> bool:
        """Have an event wait that was posted in so many bytes; False if there is no room."""
        with self._counting:
            if self._waiting_bytes + nbytes > WAITING_BYTES:
                return False
            try:
                self._events.put_nowait((event, nbytes))
            except queue.Full:
                return False
            self._waiting_bytes += nbytes
        return True

    def take(self) -> Event | None:
        """Return what has waited longest; None if nothing comes for a tenth of a second."""
        try:
            event, nbytes = self._events.get(timeout=0.1)
        except queue.Empty:
            return None
        with self._counting:
            self._waiting_bytes -= nbytes
        return event

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Tell whether there is room for another client."""
        return len(self._connections) < MOST_CLIENTS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # gone already
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Make little of clients that went away."""
        log.debug("a request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Takes one posted document."""

    server: _Server
    timeout: ClassVar[float] = TIMEOUT

    def do_POST(self) -> None:
        kind = KINDS.get(urlsplit(self.path).path.rstrip("/"))
        if kind is None:
            self._answer(404, f"unknown path {self.path[:80]}; known are {', '.join(KINDS)}")
            return
        try:
            body = self._body()
            position = parse_sardana(json_object(body, MAX_BODY), kind=kind)
        except ValueError as error:
            sentence = f"a document posted to {self.path[:80]} cannot be used: {error}"
            self.server.offer(Notice(sentence), len(sentence))
            self._answer(400, sentence)
            return
        if position is None or self.server.offer(position, len(body)):
            self._answer(200, "")
        else:
            self._answer(503, "too many documents wait to be read")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY:
            raise ValueError(f"its length {length[:20]!r} is not 0 to {MAX_BODY} bytes")
        return self.rfile.read(int(length))

    def _answer(self, status: int, error: str) -> None:
        body = json.dumps({"error": error} if error else {"status": "ok"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet: what is wrong is a Notice."""


@source("sardana+http")
class SardanaServer(Source):
    """Serves the hook that Sardana posts its scans to: `sardana+http://host:port`.

    Without a host it listens on loopback only; port 0 takes a free one.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "127.0.0.1", parts.port
        except ValueError:
            port = None
        if port is None:
            raise UrlError(f"{url}: not of the form sardana+http://host:port")
        try:
            self._server = _Server((host, port))
        except OSError as error:
            raise SourceError(f"{url} cannot be served: {error}") from None
        self.port = int(self._server.server_address[1])
        """Where it listens."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="ronda-sardana", daemon=True
        )
        self._thread.start()

    def events(self) -> Iterator[Event]:
        """Yield what is posted, until closed."""
        wrong = False
        while not self.closed.is_set():
            event = self._server.take()
            if event is None:
                continue
            if wrong and not isinstance(event, Notice):
                yield Notice("")
            wrong = isinstance(event, Notice)
            yield event

    def close(self) -> None:
        """Stop listening, hang up and join every thread."""
        if self.closed.is_set():
            return
        super().close()
        self._server.shutdown()
        self._server.hang_up()
        self._thread.join()
        self._server.server_close()
