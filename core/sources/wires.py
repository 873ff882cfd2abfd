"""The ways in which a played detector may speak: what its messages are, and where it listens."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from ..frame import Encoded, Frame, Series
from . import simplon_sender
from .parsing import split_url
from .simplon import SeriesId
from .stins import Part, encode_end, encode_header, encode_image
from .stins_socket import endpoint
from .zmq_source import zmq_address

SIMPLON2 = "simplon2+tcp"
SIMULATED = "simulated by Ronda"
"""How a detector describes itself that has no name."""
Pixels = NDArray[Any] | Encoded


class Wire(ABC):
    """Makes the messages of one detector, one series after another.

    `address` is where it listens, for ZeroMQ; `kind` the kind of its socket.
    """

    address: str
    kind: int

    def keep(self, pixels: Pixels) -> Pixels:
        """Return pixels in the form that costs least when they are sent again and again."""
        return pixels

    @abstractmethod
    def start(self, series: Series, first: Frame | None, images: int, rate: float) -> list[Part]:
        """Return the message that begins a series.

        Parameters
        ----------
        series
            As its header is to say.
        first
            The first of its frames, if it has any.
        images
            How many it has; 0: unknown.
        rate
            Frames a second.
        """

    @abstractmethod
    def next_number(self) -> int:
        """Return the number of the next image message."""

    @abstractmethod
    def image(self, number: int, frame: Frame) -> list[Part]:
        """Return the message that carries a frame."""

    @abstractmethod
    def end(self) -> list[Part]:
        """Return the message that ends the series."""


class StinsWire(Wire):
    """STINS: messages are numbered on and on, frames as in the source."""

    def __init__(self, url: str) -> None:
        self.address, options = endpoint(url, ("push", "pub"))
        self.kind = zmq.PUSH if options["socket"] == "push" else zmq.PUB
        self._number = 0

    def next_number(self) -> int:
        """Return the number of the next message."""
        self._number += 1
        return self._number

    def start(self, series: Series, first: Frame | None, images: int, rate: float) -> list[Part]:
        """Return the header."""
        return [*encode_header(self.next_number(), series.filename, series.metadata)]

    def image(self, number: int, frame: Frame) -> list[Part]:
        """Return the message that carries a frame, stamped now."""
        return encode_image(number, frame.frame_id, frame.payload, time.time(), frame.metadata)

    def end(self) -> list[Part]:
        """Return the message that ends the series."""
        return [*encode_end(self.next_number())]


class Simplon2Wire(Wire):
    """SIMPLON stream V2: images of every series are numbered from 0, and compressed once."""

    def __init__(self, url: str) -> None:
        rest, _ = split_url(url, {})
        self.address, self.kind = zmq_address(url, rest), zmq.PUSH
        self._series = SeriesId(0)
        self._number = 0
        self._began = datetime.now(UTC)
        self._count_time = 0.0

    def keep(self, pixels: Pixels) -> Encoded:
        """Return pixels compressed as they are sent."""
        return simplon_sender.as_bslz4(pixels)

    def start(self, series: Series, first: Frame | None, images: int, rate: float) -> list[Part]:
        """Return the start message; that of a series without images speaks of one pixel."""
        self._series = SeriesId(self._series.number + 1, uuid.uuid4().hex)
        self._number, self._began, self._count_time = 0, datetime.now(UTC), 1 / rate
        pixels = self.keep(first.payload) if first else Encoded(b"\0", (1, 1), np.dtype("u1"))
        metadata = {"detector_description": series.detector or SIMULATED, **series.metadata}
        message = simplon_sender.encode_start(
            self._series, pixels, images, 1 / rate, series.filename, metadata
        )
        return [message]

    def next_number(self) -> int:
        """Return the number of the next image."""
        self._number += 1
        return self._number - 1

    def image(self, number: int, frame: Frame) -> list[Part]:
        """Return the message that carries a frame, stamped now."""
        since = time.time() - self._began.timestamp()
        pixels = self.keep(frame.payload)
        return [
            simplon_sender.encode_image(
                self._series, number, pixels, self._began, since, self._count_time
            )
        ]

    def end(self) -> list[Part]:
        """Return the message that ends the series."""
        return [simplon_sender.encode_end(self._series)]


def open_wire(url: str) -> Wire:
    """Return the wire of a URL.

    Raises
    ------
    SourceError
        If the URL has another form.
    """
    return Simplon2Wire(url) if url.partition(":")[0] == SIMPLON2 else StinsWire(url)
