"""A detector that is played: recorded frames sent as its stream, with faults on request.

What was sent is counted exactly, so that whoever receives it can be compared
with the truth.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import zmq

from ..frame import Frame, SeriesEnd, SeriesStart
from ..ledger import Counts
from ..positions import Position, ScanEnd, ScanPoint, ScanStart
from .base import SourceError, open_source
from .replay_pool import Pool, cut_short, with_first_frames
from .stins import Part
from .wires import open_wire

log = logging.getLogger(__name__)

HIGH_WATER = 16
"""Messages that wait for the reader; then the detector waits, as a real one would."""
LINGER = 2000
"""Milliseconds given at the end to what still waits."""
STALL = 1.0
"""Seconds that a stall lasts where none are given."""
LONGEST_STALL = 3600.0
TIMEOUT = 2.0
"""Seconds given to the receiver of positions."""
RECORDED = "{recorded}"
"""Stands for the raw file's name in the recording."""


class FaultKind(Enum):
    """What can go wrong with a frame on its way."""

    DROP = "drop"
    """It is never sent."""
    DUPLICATE = "duplicate"
    """It is sent twice."""
    REORDER = "reorder"
    """It is sent after the next one."""
    TRUNCATE = "truncate"
    """The end of its pixels is missing."""
    SHAPE = "shape"
    """It has a row less than the others."""
    STALL = "stall"
    """The detector pauses before it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that strikes once, at the next frame of this number."""

    kind: FaultKind
    frame: int
    seconds: float = STALL
    """Length of a stall."""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Return the fault of a text like `drop 5` or `stall 5 2.5`.

        Raises
        ------
        ValueError
            If it is none.
        """
        try:
            kind, frame, *rest = text.split()
            fault = cls(FaultKind(kind), int(frame), *(float(seconds) for seconds in rest))
            if fault.frame >= 0 and 0 <= fault.seconds <= LONGEST_STALL:
                return fault
        except (TypeError, ValueError):
            pass
        kinds = ", ".join(kind.value for kind in FaultKind)
        raise ValueError(f"{text!r:.60} is no fault: write one of {kinds} and a frame number")

    def __str__(self) -> str:
        return f"{self.kind.value} {self.frame}"


@dataclass(frozen=True, slots=True)
class Sent:
    """The truth about what was sent; counts since the beginning."""

    series: int = 0
    """Series begun."""
    images: int = 0
    """Image messages put on the wire."""
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    truncated: int = 0
    misshapen: int = 0
    stalls: int = 0
    positions: int = 0
    """Documents of the positions stream that were accepted."""

    @property
    def expected(self) -> Counts:
        """What a receiver of everything must count, when nothing is queued any more."""
        rejected = self.duplicated + self.truncated + self.misshapen
        return Counts(self.images, self.images - rejected, rejected, lost=self.dropped)


class Replay:
    """Sends the frames of a source again and again, at a set rate.

    Parameters
    ----------
    publish_url
        Where to listen: `stins+tcp://host:port?socket=push|pub`, `stins+ipc://path`
        or `simplon2+tcp://host:port`. A PUSH waits for its one reader, a PUB for nobody.
        Port 0 takes a free one.
    positions_url
        Where the source's scan records are posted, `sardana+http://host:port`;
        empty: nowhere.

    Raises
    ------
    SourceError
        If a URL has another form or the address is taken.
    """

    def __init__(self, publish_url: str, positions_url: str = "") -> None:
        self._wire = open_wire(publish_url)
        self._positions = _host_and_port(positions_url) if positions_url else None
        self._context = zmq.Context()
        self._socket = self._context.socket(self._wire.kind)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, LINGER)
        try:
            self._socket.bind(self._wire.address)
        except zmq.ZMQError as error:
            self._socket.close()
            self._context.term()
            raise SourceError(f"{publish_url} cannot be published at: {error}") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        """Where it listens, as `tcp://host:port`."""
        self.sent = Sent()
        self.problem = ""
        """What went wrong in the present or last run; empty if nothing did."""
        self.rate = 10.0
        """Frames a second; may be changed at any time."""
        self._faults: deque[Fault] = deque()
        self._late: list[Part] | None = None
        self._stopping = threading.Event()
        self._aborting = False
        self._thread: threading.Thread | None = None

    def start(self, source_url: str, series: int = 1, filename: str = RECORDED) -> None:
        """Begin to send; returns at once.

        Parameters
        ----------
        source_url
            A file source; its scan records come along if it has any.
        series
            How often everything is sent; 0: until stopped.
        filename
            Raw file's name in the headers; in it `{recorded}` stands for the source's
            own, `{series}` for the number of the series. Empty: nothing is to be saved.

        Raises
        ------
        RuntimeError
            If it is sending already.
        SourceError
            If the source cannot be opened, or is live.
        """
        if self._stopping.is_set():
            self.wait()
        if self.running:
            raise RuntimeError("it is sending already: stop it first")
        probe = open_source(source_url)
        probe.close()
        if probe.live:
            raise SourceError(f"{source_url} is no file: only files can be replayed")
        self.problem = ""
        self._stopping.clear()
        self._aborting = False
        self._thread = threading.Thread(
            target=self._run, args=(source_url, series, filename), name="ronda-replay", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """True while it is sending."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def pending(self) -> list[Fault]:
        """Faults that are still to strike."""
        return list(self._faults)

    def inject(self, fault: Fault) -> None:
        """Have a fault strike, once."""
        self._faults.append(fault)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is sent; False if it is not after `timeout` s."""
        if self._thread:
            self._thread.join(timeout)
        return not self.running

    def stop(self, end: bool = True) -> None:
        """Send no more; end the open series, or (False) leave it open as a crash would.

        Returns at once; `wait` waits for it.
        """
        self._aborting = not end
        self._stopping.set()

    def close(self) -> None:
        """Stop, and stop listening; what waits is given up after `LINGER`."""
        self.stop()
        self.wait()
        if not self._socket.closed:
            self._socket.close()
            self._context.term()

    # --------------------------------------------------------------- sending

    def _run(self, source_url: str, series: int, filename: str) -> None:
        try:
            pool = Pool(source_url, self._wire.keep)
            number = 0
            while (series == 0 or number < series) and not self._stopping.is_set():
                number += 1
                name = filename.replace("{series}", str(number))
                self._send_all(pool, name)
        except Exception as error:
            self.problem = f"replay ended: {error}"
            if not isinstance(error, OSError):
                log.exception("replay ended")

    def _send_all(self, pool: Pool, filename: str) -> None:
        """Send what a source holds, once."""
        due = time.monotonic()
        opened = False
        for event, first in with_first_frames(pool.events(self._stopping)):
            if self._stopping.is_set():
                break
            match event:
                case SeriesStart(series):
                    opened = True
                    self._count(series=1)
                    named = replace(series, filename=filename.replace(RECORDED, series.filename))
                    self._put(self._wire.start(named, first, pool.images(series), self.rate))
                case Frame():
                    due = max(due + 1 / self.rate, time.monotonic())
                    if not self._stopping.wait(due - time.monotonic()):
                        self._send_frame(event)
                case SeriesEnd():
                    opened = False
                    self._end()
                case ScanStart() | ScanPoint() | ScanEnd():
                    self._post(event)
                case _:
                    log.warning("not replayed: %s", event)
        if opened and not self._aborting:
            self._end()

    def _end(self) -> None:
        """Send the end of a series, after a frame that was to come late."""
        self._send_late()
        self._put(self._wire.end())

    def _send_frame(self, frame: Frame) -> None:
        """Send one frame, or what its fault makes of it."""
        fault = self._fault_for(frame.frame_id)
        if fault and fault.kind is FaultKind.STALL:
            self._count(stalls=1)
            self._stopping.wait(fault.seconds)
        number = self._wire.next_number()
        match fault.kind if fault else None:
            case FaultKind.DROP:
                self._count(dropped=1)
            case FaultKind.REORDER if self._late is None:
                self._late = self._wire.image(number, frame)
            case FaultKind.DUPLICATE:
                parts = self._wire.image(number, frame)
                self._put_image(parts)
                self._put_image(parts, duplicated=1)
            case FaultKind.TRUNCATE:
                self._put_image(self._wire.image(number, cut_short(frame)), truncated=1)
            case FaultKind.SHAPE:
                shorter = replace(frame, payload=frame.data[:-1])
                self._put_image(self._wire.image(number, shorter), misshapen=1)
            case _:
                self._put_image(self._wire.image(number, frame))
                self._send_late(reordered=1)

    def _send_late(self, **counts: int) -> None:
        """Send the frame that was held back, if there is one."""
        if self._late is not None:
            late, self._late = self._late, None
            self._put_image(late, **counts)

    def _fault_for(self, frame_id: int) -> Fault | None:
        """Return the fault that strikes this frame now, if any; it will not strike again."""
        for fault in self.pending:
            if fault.frame == frame_id:
                self._faults.remove(fault)
                return fault
        return None

    def _put_image(self, parts: list[Part], **counts: int) -> None:
        if self._put(parts):
            self._count(images=1, **counts)

    def _put(self, parts: list[Part]) -> bool:
        """Send a message as soon as the reader has room; False if stopped before."""
        while not self._socket.poll(50, zmq.POLLOUT):
            if self._stopping.is_set():
                return False
        self._socket.send_multipart(parts)
        return True

    def _count(self, **counts: int) -> None:
        """Add to the truth; read by other threads, hence replaced whole."""
        old = self.sent
        self.sent = replace(
            old, **{name: getattr(old, name) + more for name, more in counts.items()}
        )

    def _post(self, position: Position) -> None:
        """Post a scan record as Sardana does; what goes wrong is no reason to stop."""
        if self._positions is None:
            return
        path, document = sardana_document(position)
        connection = http.client.HTTPConnection(*self._positions, timeout=TIMEOUT)
        try:
            connection.request("POST", path, json.dumps(document).encode())
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"answer {answer.status}")
            self._count(positions=1)
        except (OSError, http.client.HTTPException) as error:
            self.problem = f"a position could not be posted: {error}"
        finally:
            connection.close()


def sardana_document(position: Position) -> tuple[str, Mapping[str, Any]]:
    """Return path and document of the hook for a scan record: what `parse_sardana` takes."""
    match position:
        case ScanStart():
            document = {
                **position.metadata,
                "serialno": position.serial,
                "ref_moveables": list(position.movables),
                "title": position.title,
            }
            return "/v1/data_desc", document
        case ScanPoint():
            frames = {} if position.frames is None else {"nb_frames": position.frames}
            return "/v1/record_data", {**position.values, **frames, "point_nb": position.point}
        case ScanEnd():
            return "/v1/record_end", {}


def _host_and_port(url: str) -> tuple[str, int]:
    """Return host and port of a `sardana+http` URL.

    Raises
    ------
    SourceError
        If it has another form.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        port = None
    if port is None or parts.scheme != "sardana+http":
        raise SourceError(f"{url}: not of the form sardana+http://host:port")
    return host, port
