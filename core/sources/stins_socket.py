"""The source `stins+tcp://host:port` and `stins+ipc://path`: a detector's stream, live."""

from __future__ import annotations

from collections.abc import Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from ..frame import MAX_SIDE, Notice
from .base import Event, Source, SourceError, source
from .parsing import split_url
from .stins_reader import StinsReader

MAX_MESSAGE = MAX_SIDE * MAX_SIDE * 8 + (1 << 20)
"""Bytes of the largest part taken; a sender of more is disconnected by ZeroMQ."""
HIGH_WATER = 16
"""Messages that ZeroMQ may hold for us; they wait in the runner's queue, which counts them."""
LINK_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
"""What ZeroMQ tells of the connection."""
POLL = 100
"""Milliseconds after which a silent stream looks whether it was closed."""


def endpoint(url: str, sockets: tuple[str, str]) -> tuple[str, dict[str, str]]:
    """Return ZeroMQ's address and the options of a `stins+...` URL.

    Parameters
    ----------
    url
        `stins+tcp://host:port` or `stins+ipc://path`, with `?socket=` and `detector=`.
    sockets
        Kinds of socket allowed, the default first.

    Raises
    ------
    SourceError
        If the URL has another form.
    """
    rest, options = split_url(url, {"socket": sockets, "detector": ()})
    transport = url.partition("://")[0].removeprefix("stins+")
    host, colon, port = rest.rpartition(":")
    if transport == "tcp" and not (host and colon and port.isdecimal() and int(port) < 65536):
        raise SourceError(f"{url}: not of the form stins+tcp://host:port")
    if transport == "ipc" and not 0 < len(rest) <= 100:
        raise SourceError(f"{url}: not of the form stins+ipc://path, with a path of at most 100")
    return f"{transport}://{rest}", options


def _answered(monitor: zmq.Socket[bytes], before: bool) -> bool:
    """Tell whether the other side is there, from what the socket's monitor heard since."""
    while monitor.poll(0):
        event = parse_monitor_message(monitor.recv_multipart())["event"]
        before = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
    return before


@source("stins+tcp", "stins+ipc")
class StinsSource(Source):
    """Connects to a detector's PUSH or PUB socket and drains it.

    `?socket=pull` (the default) or `sub`; `detector=NAME` names the detector.
    A PUSH socket deals its messages among all its readers: there should be one.
    A sender that is not there, or goes and comes back, is waited for.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._address, self._options = endpoint(url, ("pull", "sub"))

    def events(self) -> Iterator[Event]:
        """Yield what the detector sends, until closed."""
        reader = StinsReader(self._options["detector"])
        said = ""
        with (
            zmq.Context() as context,
            self._connect(context) as socket,
            socket.get_monitor_socket(LINK_EVENTS) as monitor,
        ):
            answered = False
            while not self.closed.is_set():
                message = socket.recv_multipart(copy=False) if socket.poll(POLL) else []
                answered = bool(message) or _answered(monitor, answered)
                say = "" if answered else f"nobody sends at {self._address}; waiting for it"
                if say != said:
                    said = say
                    yield Notice(say)
                if message:
                    yield from reader.read([part.buffer for part in message])

    def _connect(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.PULL if self._options["socket"] == "pull" else zmq.SUB)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
            if socket.type == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self._address)
        except zmq.ZMQError as error:
            socket.close()
            raise SourceError(f"{self.url} cannot be opened: {error}") from None
        return socket
