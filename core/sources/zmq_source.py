"""What sources share that drain a detector's ZeroMQ socket, whatever its messages are."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..frame import MAX_SIDE, Away, FrameEvent
from .base import Event, Source, SourceError

MAX_MESSAGE = MAX_SIDE * MAX_SIDE * 8 + (1 << 20)
"""Bytes of the largest part taken; a sender of more is disconnected by ZeroMQ."""
HIGH_WATER = 16
"""Messages that ZeroMQ may hold for us; they wait in the runner's queue, which counts them."""
LINK_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
"""What ZeroMQ tells of the connection."""
POLL = 100
"""Milliseconds after which a silent stream looks whether it was closed."""
PATIENCE = 1.0
"""Seconds without a connection after which the sender is said to be away."""
SILENCE = 10
"""Seconds without a sign of the sender's host after which TCP asks for one, and between
the three times that it asks: a host that vanished is known to be away in 40 s."""


class Reader(Protocol):
    """Makes events of the messages of one stream."""

    def read(self, parts: Sequence[memoryview]) -> Iterator[FrameEvent]:
        """Yield the events that one message makes."""

    def interrupted(self) -> None:
        """Take note that the connection broke."""


def zmq_address(url: str, rest: str) -> str:
    """Return ZeroMQ's address of a source's URL.

    Parameters
    ----------
    url
        `PROTOCOL+tcp://host:port` or `PROTOCOL+ipc://path`, perhaps with options.
    rest
        What of it stands between `://` and the options.

    Raises
    ------
    SourceError
        If the URL has another form.
    """
    scheme = url.partition("://")[0]
    transport = scheme.partition("+")[2]
    host, colon, port = rest.rpartition(":")
    if transport == "tcp" and not (host and colon and port.isdecimal() and int(port) < 65536):
        raise SourceError(f"{url}: not of the form {scheme}://host:port")
    if transport == "ipc" and not 0 < len(rest) <= 100:
        raise SourceError(f"{url}: not of the form {scheme}://path, with a path of at most 100")
    return f"{transport}://{rest}"


class _Link:
    """Whether the sender is there, as ZeroMQ's monitor of the socket tells."""

    def __init__(self, monitor: zmq.Socket[bytes]) -> None:
        self._monitor = monitor
        self._gone: float | None = time.monotonic()
        """Since when nobody is there; None: somebody is."""
        self.breaks = 0
        """How often a connection has ended."""

    @property
    def away(self) -> bool:
        """True when nobody was there for `PATIENCE`."""
        return self._gone is not None and time.monotonic() > self._gone + PATIENCE

    def look(self) -> None:
        """Take note of what the monitor has heard."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_DISCONNECTED:
                self._gone, self.breaks = time.monotonic(), self.breaks + 1
            else:
                self._gone = None


class ZmqSource(Source):
    """Connects to a detector's socket and drains it.

    A PUSH socket deals its messages among all its readers: there should be one.
    A sender that is not there, or goes and comes back, is waited for.

    Parameters
    ----------
    url
        As the operator wrote it.
    address
        ZeroMQ's own, from `zmq_address`.
    subscribes
        The sender publishes (PUB); otherwise it deals (PUSH).
    """

    def __init__(self, url: str, address: str, subscribes: bool = False) -> None:
        super().__init__(url)
        self._address = address
        self._kind = zmq.SUB if subscribes else zmq.PULL

    @abstractmethod
    def reader(self) -> Reader:
        """Return what makes events of the messages, from the first one on."""

    def events(self) -> Iterator[Event]:
        """Yield what the detector sends, until closed."""
        reader = self.reader()
        with (
            zmq.Context() as context,
            self._socket(context) as socket,
            socket.get_monitor_socket(LINK_EVENTS) as monitor,
        ):
            link = _Link(monitor)
            self._connect(socket)
            away, breaks = False, 0
            while not self.closed.is_set():
                message = socket.recv_multipart(copy=False) if socket.poll(POLL) else []
                link.look()
                if link.breaks != breaks:
                    breaks = link.breaks
                    reader.interrupted()
                if message:
                    yield from reader.read([part.buffer for part in message])
                if link.away != away:
                    away = not away
                    yield Away(f"nobody sends at {self._address}; waiting for it" if away else "")

    def _socket(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(self._kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, SILENCE)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, SILENCE)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        if socket.type == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        return socket

    def _connect(self, socket: zmq.Socket[bytes]) -> None:
        """Connect, once the monitor listens: it must not miss the connection."""
        try:
            socket.connect(self._address)
        except zmq.ZMQError as error:
            raise SourceError(f"{self.url} cannot be opened: {error}") from None
