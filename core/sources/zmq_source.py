"""What sources share that drain a detector's ZeroMQ socket, whatever its messages are."""

from __future__ import annotations

import errno
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..frame import MAX_SIDE, Away, FrameEvent
from .base import Event, Source, SourceError, UrlError

MAX_MESSAGE = MAX_SIDE * MAX_SIDE * 8 + (1 << 20)
"""Bytes of the largest part taken; a sender of more is disconnected by ZeroMQ."""
HIGH_WATER = 16
"""Messages that ZeroMQ may hold for us; they wait in the runner's queue, which counts them."""
FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
LINK_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | FAILURES
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CLOSED
)
"""What ZeroMQ tells of the connection."""
POLL = 100
"""Milliseconds after which a silent stream looks whether it was closed."""
NOBODY = "nobody sends at"
"""How it begins that nothing listens at the address."""
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
    UrlError
        If the URL has another form.
    """
    scheme = url.partition("://")[0]
    transport = scheme.partition("+")[2]
    host, colon, port = rest.rpartition(":")
    if transport == "tcp" and not (host and colon and port.isdecimal() and int(port) < 65536):
        raise UrlError(f"{url}: not of the form {scheme}://host:port")
    if transport == "ipc" and not 0 < len(rest) <= 100:
        raise UrlError(f"{url}: not of the form {scheme}://path, with a path of at most 100")
    return f"{transport}://{rest}"


class Peer(IntEnum):
    """What is found at an address without a sender; a later one is surer than those before."""

    NOBODY = 0
    """No connection comes about."""
    CLOSES = 1
    """It takes the connection and closes it: a web server, a tunnel to nowhere. Or a socket of
    another kind, which may find that out before we do: then the next attempts tell."""
    SILENT = 2
    """It takes the connection and never introduces itself."""
    OTHER = 3
    """What it said is not what was expected, as of a socket of another kind."""
    STRANGE = 4
    """It speaks ZeroMQ in another way, as with encryption, or no ZeroMQ."""


class _Link:
    """Whether the sender is there, as ZeroMQ's monitor of the socket tells."""

    def __init__(self, monitor: zmq.Socket[bytes]) -> None:
        self._monitor = monitor
        self._gone: float | None = time.monotonic()
        """Since when nobody is there; None: somebody is."""
        self._connected: float | None = None
        """Since when something listens that did not introduce itself; None: nothing does."""
        self._given_up: float | None = None
        """Since when ZeroMQ has perhaps given up; None: it goes on."""
        self._failed = False
        """True if ZeroMQ told that the introduction failed: it knows why."""
        self.peer = Peer.NOBODY
        self.breaks = 0
        """How often a connection to a sender has ended."""

    @property
    def away(self) -> bool:
        """True when no sender was there for `PATIENCE`."""
        return _is_past(self._gone, PATIENCE)

    def has_given_up(self) -> bool:
        """Return True, once, when ZeroMQ tries no more to connect.

        So it is when it got something that it cannot take: a message that is too long,
        a socket of another kind. Its monitor shows no next attempt then.
        """
        if not _is_past(self._given_up, PATIENCE):
            return False
        self._given_up = None
        return True

    def look(self) -> None:
        """Take note of what the monitor has heard."""
        while self._monitor.poll(0):
            self._hear(parse_monitor_message(self._monitor.recv_multipart())["event"])
        if _is_past(self._connected, PATIENCE / 2):  # before anybody is told
            self._find(Peer.SILENT)

    def _hear(self, event: int) -> None:
        now = time.monotonic()
        self._given_up = now if event == zmq.EVENT_DISCONNECTED else None
        if event == zmq.EVENT_CONNECTED:
            self._connected, self._failed = now, False
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._gone = self._connected = None
            self.peer = Peer.NOBODY
        elif event == zmq.EVENT_CLOSED:
            self.peer = Peer.NOBODY
        elif event & FAILURES:
            self._failed = True
            no_detail = event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            self._find(Peer.CLOSES if no_detail else Peer.STRANGE)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connected = None
            if self._gone is None:
                self._gone, self.breaks = now, self.breaks + 1
            elif not self._failed:
                self._find(Peer.OTHER)

    def _find(self, peer: Peer) -> None:
        """Keep the surest: attempts to connect end in one way and another."""
        self.peer = max(self.peer, peer)


def _is_past(since: float | None, seconds: float) -> bool:
    """Tell whether something has been so for so many seconds."""
    return since is not None and time.monotonic() > since + seconds


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
    expected
        What socket should be there, and what to do if it is of another kind.
    """

    def __init__(
        self,
        url: str,
        address: str,
        subscribes: bool = False,
        expected: str = "PUSH socket of ZeroMQ",
    ) -> None:
        super().__init__(url)
        self._expected = expected
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
            reason, breaks = "", 0
            while not self.closed.is_set():
                message = socket.recv_multipart(copy=False) if socket.poll(POLL) else []
                link.look()
                if link.breaks != breaks:
                    breaks = link.breaks
                    reader.interrupted()
                if message:
                    yield from reader.read([part.buffer for part in message])
                if link.has_given_up():
                    self._connect_again(socket)
                if (found := self._told(link.peer) if link.away else "") != reason:
                    reason = found
                    yield Away(reason)

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

    def _told(self, peer: Peer) -> str:
        """Return what is at the address instead of the sender, as part of a sentence."""
        at = self._address
        match peer:
            case Peer.NOBODY:
                return f"{NOBODY} {at}; waiting for it"
            case Peer.CLOSES:
                return (
                    f"something at {at} takes the connection and closes it: "
                    "it is another program, or a tunnel to a sender that is off"
                )
            case Peer.SILENT:
                return (
                    f"something listens at {at} and does not answer as ZeroMQ does: "
                    "it is another program, or a sender that hangs"
                )
            case Peer.OTHER:
                return f"what is at {at} seems to be no {self._expected}"
            case Peer.STRANGE:
                return f"what is at {at} speaks no ZeroMQ, or wants it encrypted, which is not done"

    def _connect_again(self, socket: zmq.Socket[bytes]) -> None:
        """Connect anew where ZeroMQ has given up; the sender may have been replaced by then."""
        with suppress(zmq.ZMQError):  # it has forgotten the address by itself
            socket.disconnect(self._address)
        self._connect(socket)

    def _connect(self, socket: zmq.Socket[bytes]) -> None:
        """Connect, once the monitor listens: it must not miss the connection."""
        try:
            socket.connect(self._address)
        except zmq.ZMQError as error:
            kind = UrlError if error.errno == errno.EINVAL else SourceError
            raise kind(f"{self.url} cannot be opened: {error}") from None
