"""Re-publishes reduced images as a STINS stream, for the next device of a chain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import zmq

from ..frame import Frame, Series
from ..sources.base import SourceError
from ..sources.stins import Part, encode_end, encode_header, encode_image
from ..sources.stins_socket import endpoint
from ..stage import Forwarded, Settings, Tree
from .base import Sink

HIGH_WATER = 32
"""Messages that wait for a slow reader; then they are dropped."""
LINGER = 1000
"""Milliseconds given at the end to what still waits."""


class PublishError(OSError):
    """An address that cannot be published at; the message is one sentence."""


class Publisher(Sink):
    """Sends series and images to whoever connects; never waits for anybody.

    `stins+tcp://127.0.0.1:port?socket=push|pub` or `stins+ipc://path?...`. PUSH
    (the default) serves one reader and drops, counted, while there is none or
    it is slow. PUB serves any number; a slow one of them loses messages, which
    it finds and counts itself as gaps in the message numbers.

    A header goes on with all its entries, the raw file's name among them, and
    with the `detector` and the `pixel_size` (m) that are known here. A series that
    was joined late has no header: the next device joins it late, too.

    Parameters
    ----------
    url
        Where to listen. Port 0 takes a free one; `url` then holds it.

    Raises
    ------
    PublishError
        If the URL has another form or the address is taken.
    """

    takes_images: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        self.sent = 0
        """Messages handed to ZeroMQ: headers, images, ends."""
        self.dropped = 0
        """Messages dropped because nobody took them."""
        self._pixel_size: float | None = None
        self._lock = threading.Lock()
        self._number = 0
        self._series: Series | None = None
        try:
            address, options = endpoint(url, ("push", "pub"))
            self._context = zmq.Context()
            self._socket = self._bind(address, options["socket"])
        except SourceError as error:
            raise PublishError(str(error)) from None
        except zmq.ZMQError as error:
            self._context.term()
            raise PublishError(f"{url} cannot be published at: {error}") from None
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.url = f"stins+{bound}?socket={options['socket']}"
        """Where it listens."""

    def _bind(self, address: str, kind: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUSH if kind == "push" else zmq.PUB)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        socket.setsockopt(zmq.LINGER, LINGER)
        try:
            socket.bind(address)
        except zmq.ZMQError:
            socket.close()
            raise
        return socket

    def begin(self, series: Series, frame: Frame, settings: Settings) -> None:
        """Send the header of a series."""
        with self._lock:
            self._pixel_size = getattr(settings.parameters, "pixel_size", None)
            self._begin(series)

    def image(self, frame: Frame, forwarded: Forwarded) -> None:
        """Send one image; before it the header, if its series has none yet."""
        with self._lock:
            if self._series is None or self._series.run_id != frame.series.run_id:
                self._begin(frame.series)
            extra = {**frame.metadata, **forwarded.extra}
            self._send(encode_image, frame.frame_id, forwarded.image, frame.timestamp, extra)

    def finish(self, series: Series, tree: Tree) -> None:
        """Send the end of a series."""
        with self._lock:
            if self._series is not None and self._series.run_id == series.run_id:
                self._end()

    def reset(self) -> None:
        """Speak no more of messages that were dropped; they stay counted."""
        with self._lock:
            self.notes, self.problem = (), ""

    def close(self) -> None:
        """End the open series and stop listening; takes up to `LINGER`."""
        with self._lock:
            if self._socket.closed:
                return
            self._end()
            self._socket.close()
            self._context.term()

    def _begin(self, series: Series) -> None:
        self._end()
        self._series = series
        if series.joined_late:
            return
        metadata = {**series.metadata, "detector": series.detector}
        if self._pixel_size is not None:
            metadata["pixel_size"] = self._pixel_size
        self._send(encode_header, series.filename, metadata)

    def _end(self) -> None:
        if self._series is not None:
            self._series = None
            self._send(encode_end)

    def _send(self, encode: Callable[..., Sequence[Part]], *content: Any) -> None:
        """Send a message now or drop it; dropped ones have their number, so that gaps show."""
        self._number += 1
        try:
            self._socket.send_multipart(encode(self._number, *content), zmq.NOBLOCK)
            self.sent += 1
        except zmq.Again:
            self.dropped += 1
            self.notes = (
                f"{self.dropped} messages for the next device were dropped at {self.url}, "
                "because it was away or slow",
            )
        except (zmq.ZMQError, TypeError, ValueError, RecursionError) as error:
            self.dropped += 1
            self.problem = f"a message cannot be published at {self.url}: {error}"
