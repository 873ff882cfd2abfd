"""A diffraction tomography scan of a phantom: as a recording, or sent as a test wants it."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import zmq
from numpy.typing import NDArray
from ronda.core.positions import Position, ScanEnd, ScanPoint, ScanStart
from ronda.core.sources.recording import RECORD, SELF_DESCRIBED, STREAM
from ronda.core.sources.replay import sardana_document
from ronda.core.sources.stins import encode_end, encode_header, encode_image
from ronda.tests.core.tomography.phantom import phantom_frame

SIDE = 20
"""Positions of either axis."""
ROTATION, TRANSLATION = (0.0, 171.0), (-0.95, 0.95)
"""First and last position in deg and mm; the rotation axis is in the middle."""
STEP = 1.3
"""Of the translation, in the phantom's unit of length."""
MOTORS = ("tx", "rot")
"""The fast one first."""
AGAIN = {251: 248, 252: 249}
"""Points at which positions of points before were measured again."""
POINTS = SIDE * SIDE + len(AGAIN)
RAW = "/there/scan-0007_detector.h5"
KINDS = {ScanStart: "DataDescription", ScanPoint: "RecordData", ScanEnd: "RecordEnd"}


class TomographyScan:
    """A zig-zag scan of 20 rotations and 20 translations; two points are measured again."""

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Rotation and translation number of each point."""
        lines = [(row, SIDE - 1 - n if row % 2 else n) for row in range(SIDE) for n in range(SIDE)]
        for point, before in sorted(AGAIN.items()):
            lines.insert(point, lines[before])
        return lines

    @cached_property
    def frames(self) -> NDArray[np.uint32]:
        """The frame of each point, [point, row, column]."""
        random = np.random.default_rng(11)
        angles, steps = np.linspace(*ROTATION, SIDE), STEP * (np.arange(SIDE) - (SIDE - 1) / 2)
        frames = [phantom_frame(angles[row], steps[n], random) for row, n in self.places]
        return np.array(frames, np.uint32)

    @property
    def start(self) -> ScanStart:
        """The scan's beginning, as Sardana describes a mesh."""
        columns = [
            {"name": name, "min_value": ends[0], "max_value": ends[1]}
            for name, ends in zip(MOTORS, (TRANSLATION, ROTATION), strict=True)
        ]
        return ScanStart(7, MOTORS, "mesh tx -0.95 0.95 19 rot 0 171 19", None, {
            "column_desc": columns
        })  # fmt: skip

    def record(self, point: int) -> ScanPoint:
        """Return what is posted of a point: where the motors stood, a little beside."""
        row, column = self.places[point]
        angle, x = np.linspace(*ROTATION, SIDE)[row], np.linspace(*TRANSLATION, SIDE)[column]
        off = 0.02 * np.sin(point)
        return ScanPoint(point, {"tx": float(x + 0.1 * off), "rot": float(angle + 9 * off)})

    def frame_map(self, points: Iterable[int] = range(POINTS)) -> NDArray[np.int32]:
        """Return the frame at each position where these points were measured; -1: none."""
        found = np.full((SIDE, SIDE), -1, np.int32)
        for point in points:
            found[self.places[point]] = point
        return found

    def write(self, path: Path, missing: Collection[int] = ()) -> str:
        """Write it as a recording, without some frames; return its URL."""
        with gzip.open(path, "wb", compresslevel=1) as file:
            self._record(file, 0, encode_header(0, RAW), self.start)
            for point in range(POINTS):
                image = encode_image(point + 1, point, self.frames[point])
                parts = () if point in missing else image
                self._record(file, point + 1, parts, self.record(point))
            self._record(file, POINTS + 1, encode_end(POINTS + 1), ScanEnd())
        return f"recording:{path}"

    def _record(
        self, file: Any, event_number: int, parts: Iterable[Any], position: Position
    ) -> None:
        """Write what happened at one trigger event."""
        _, document = sardana_document(position)
        text = json.dumps({**document, "type": KINDS[type(position)]}).encode()
        streams = {"sardana": ["sardana", [text]]}
        if image := [bytes(part) for part in parts]:
            streams["detector"] = ["STINS", image]
        content = {name: cbor2.CBORTag(STREAM, value) for name, value in streams.items()}
        record = cbor2.CBORTag(RECORD, [event_number, content])
        file.write(cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, record)))


class Beamline:
    """Sends frames over STINS, and posts positions as Sardana does, when it is told to.

    Parameters
    ----------
    scan
        What is measured.
    positions_port
        Where positions are posted, on loopback; 0: nowhere.
    """

    def __init__(self, scan: TomographyScan, positions_port: int = 0) -> None:
        self.scan = scan
        self._port = positions_port
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, 30_000)
        self._socket.bind("tcp://127.0.0.1:0")
        self.url = f"stins+{self._socket.getsockopt_string(zmq.LAST_ENDPOINT)}"
        self._numbers: Iterator[int] = iter(range(1 << 30))

    def begin(self, filename: str = RAW) -> None:
        """Begin a series and its scan."""
        self._socket.send_multipart(encode_header(next(self._numbers), filename))
        self._post(self.scan.start)

    def measure(self, points: Iterable[int]) -> None:
        """Send the frames and the positions of some points; more than there are: frames only."""
        for point in points:
            pixels = self.scan.frames[point % POINTS]
            message = encode_image(next(self._numbers), point, pixels, time.time())
            self._socket.send_multipart(message)
            if point < POINTS:
                self._post(self.scan.record(point))

    def end(self) -> None:
        """End the series and its scan."""
        self._socket.send_multipart(encode_end(next(self._numbers)))
        self._post(ScanEnd())

    def close(self) -> None:
        """Go away."""
        self._socket.close()
        self._context.term()

    def _post(self, position: Position) -> None:
        if not self._port:
            return
        path, document = sardana_document(position)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        connection.request("POST", path, json.dumps(document).encode())
        assert connection.getresponse().status == 200
        connection.close()
