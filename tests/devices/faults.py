"""What tests of faults share: a detector that sends what no healthy one does, and its frames."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import zmq
from ronda.core.sources.stins import Part, encode_end, encode_header, encode_image
from ronda.tests.devices.conftest import Served
from ronda.tests.waiting import wait_for

SHAPE = (40, 50)
NOTHING = {"received": 0, "reduced": 0, "rejected": 0, "dropped": 0, "queued": 0, "lost": 0}
"""The ledger of a device that has had no frame."""


class Sender:
    """A PUSH socket at a fixed address, and the numbers of its messages."""

    def __init__(self, url: str, shape: tuple[int, int]) -> None:
        self._address = url.removeprefix("stins+")
        self._image = np.ones(shape, np.uint16)
        self._context = zmq.Context()
        self.number = 0
        """Of the next message."""
        self.open()

    def open(self) -> None:
        """Listen, once the socket that was there before is gone."""
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDTIMEO, 30_000)
        wait_for(self._bind)

    def _bind(self) -> bool:
        try:
            self._socket.bind(self._address)
        except zmq.ZMQError:
            return False
        return True

    def header(self, filename: str = "") -> None:
        """Begin a series."""
        self._send(encode_header(self.number, filename))

    def images(self, frames: Iterable[int], ahead: float | None = None) -> None:
        """Send frames of these numbers; stamped so many seconds ahead of our clock, or not."""
        for frame in frames:
            stamp = None if ahead is None else time.time() + ahead
            self._send(encode_image(self.number, frame, self._image, stamp))

    def end(self) -> None:
        """End a series."""
        self._send(encode_end(self.number))

    def _send(self, parts: Sequence[Part]) -> None:
        self._socket.send_multipart(parts)
        self.number += 1

    def close(self) -> None:
        """Listen no more, once everything is sent."""
        self._socket.close()

    def destroy(self) -> None:
        """Let go of everything."""
        self._context.destroy(0)


@contextmanager
def sending(url: str, shape: tuple[int, int] = SHAPE) -> Iterator[Sender]:
    """Open a detector's socket for a while, at `stins+tcp://host:port`."""
    sender = Sender(url, shape)
    try:
        yield sender
    finally:
        sender.destroy()


def wait_until_done(device: Served, received: int) -> dict[str, int]:
    """Wait until so many frames have come and none waits; return the ledger."""
    wait_for(lambda: device.ledger()["received"] == received)
    wait_for(lambda: device.ledger()["queued"] == 0)
    return device.ledger()


def frames_in(path: Path) -> int:
    """Return how many frames a complete file says that it holds; -1: it is not complete."""
    try:
        with h5py.File(path) as file:
            return int(file["entry/ledger/reduced"][()]) if "entry/program_name" in file else -1
    except OSError:
        return -1
