"""What listens where a sender should: each is told apart, and the sender is found when it comes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
import zmq
from ronda.core.frame import Away, Frame
from ronda.core.sources import open_source, zmq_source
from ronda.core.sources.base import UrlError
from ronda.core.sources.stins import encode_image
from ronda.tests.waiting import wait_for

IMAGE = np.arange(12, dtype=np.uint16).reshape(3, 4)
LOOPBACK = "127.0.0.1"
SCHEMES = ("stins+tcp", "simplon1+tcp", "simplon2+tcp")
CLOSES = "takes the connection and closes it: it is another program, or a tunnel"
SILENT = "does not answer as ZeroMQ does: it is another program, or a sender that hangs"
NO_PUSH = "seems to be no PUSH socket of ZeroMQ"
IF_IT_PUBLISHES = f"{NO_PUSH}: if it publishes, SourceUrl needs ?socket=sub"


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sources find out sooner than operators need it."""
    monkeypatch.setattr(zmq_source, "PATIENCE", 0.3)


@pytest.fixture
def opened(free_port: int) -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Return a function that opens a socket of ZeroMQ at the port, once the one before is gone."""
    with zmq.Context() as context, ExitStack() as stack:

        def open_socket(kind: int, **options: Any) -> zmq.Socket[bytes]:
            made = stack.enter_context(context.socket(kind))
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.SNDTIMEO, 20_000)
            for name, value in options.items():
                setattr(made, name, value)

            def bound() -> bool:
                try:
                    made.bind(f"tcp://{LOOPBACK}:{free_port}")
                except zmq.ZMQError:
                    return False
                return True

            wait_for(bound)
            return made

        yield open_socket


@pytest.fixture
def serve(free_port: int) -> Iterator[Callable[[Callable[[socket.socket], Any]], int]]:
    """Return a function that has a server at a port do something with every connection."""
    with ExitStack() as stack:

        def listen(behave: Callable[[socket.socket], Any]) -> int:
            listener = stack.enter_context(socket.create_server((LOOPBACK, free_port)))
            taken: list[socket.socket] = []

            def run() -> None:
                with suppress(OSError):
                    while True:
                        taken.append(listener.accept()[0])
                        behave(taken[-1])

            thread = threading.Thread(target=run)
            thread.start()

            def end() -> None:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
                for one in taken:
                    one.close()

            stack.callback(end)
            return free_port

        yield listen


def as_a_web_server(connection: socket.socket) -> None:
    """Take whatever comes for a request that is none, as web servers do."""
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<h1>Bad</h1>" * 9)
    connection.close()


def reasons(reader: Any) -> list[str]:
    """Return why there is no sender, in the order in which it was found."""
    return [away.reason for away in reader.of(Away)]


@pytest.mark.parametrize("kind", ["PUB", "REP", "PULL", "ROUTER"])
def test_a_socket_of_another_kind_is_told_as_an_absent_sender(
    opened: Any, collect: Any, free_port: int, kind: str
) -> None:
    opened(getattr(zmq, kind))
    reader = collect(open_source(f"stins+tcp://{LOOPBACK}:{free_port}"))
    wait_for(lambda: [reason for reason in reasons(reader) if IF_IT_PUBLISHES in reason])
    assert "nobody" not in "".join(reasons(reader))


def test_a_sender_that_pushes_is_told_as_absent_to_who_subscribes(
    opened: Any, collect: Any, free_port: int
) -> None:
    opened(zmq.PUSH)
    reader = collect(open_source(f"stins+tcp://{LOOPBACK}:{free_port}?socket=sub"))
    wait_for(lambda: "SourceUrl must be without socket=sub" in "".join(reasons(reader)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_simplon_sources_advise_an_option_that_they_do_not_know(
    opened: Any, collect: Any, free_port: int, scheme: str
) -> None:
    opened(zmq.PUB)
    reader = collect(open_source(f"{scheme}://{LOOPBACK}:{free_port}"))
    wait_for(lambda: NO_PUSH in "".join(reasons(reader)))
    assert ("?socket=sub" in "".join(reasons(reader))) == (scheme == "stins+tcp")


@pytest.mark.parametrize(
    ("scheme", "behave", "reason"),
    [
        ("stins", as_a_web_server, CLOSES),
        ("simplon1", as_a_web_server, CLOSES),
        ("stins", socket.socket.close, CLOSES),
        ("stins", lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), SILENT),
        ("simplon2", lambda connection: None, SILENT),
        (
            "stins",
            lambda one: one.sendall(b"\xff" + bytes(8) + b"\x7f\x03\0GARBAGE" * 99),
            "encrypt",
        ),
    ],
    ids=["web", "web as a SIMPLON", "closes at once", "ssh", "says nothing", "a bad greeting"],
)
def test_another_program_at_the_address_is_told_as_an_absent_sender(
    serve: Any, collect: Any, scheme: str, behave: Callable[[socket.socket], Any], reason: str
) -> None:
    port = serve(behave)
    reader = collect(open_source(f"{scheme}+tcp://{LOOPBACK}:{port}"))
    wait_for(lambda: reasons(reader))
    [told] = reasons(reader)
    assert reason in told and f"tcp://{LOOPBACK}:{port}" in told
    assert "nobody" not in told


def test_a_sender_that_wants_encryption_is_told_as_absent(
    opened: Any, collect: Any, free_port: int
) -> None:
    _, secret = zmq.curve_keypair()
    opened(zmq.PUSH, curve_server=True, curve_secretkey=secret)
    reader = collect(open_source(f"stins+tcp://{LOOPBACK}:{free_port}"))
    wait_for(lambda: "encrypt" in "".join(reasons(reader)))


def test_the_reason_flickers_while_it_stays_the_same(
    opened: Any, collect: Any, free_port: int
) -> None:
    """Attempts end in one way and another; each change would be a line in the log."""
    opened(zmq.REP)
    reader = collect(open_source(f"stins+tcp://{LOOPBACK}:{free_port}"))
    wait_for(lambda: IF_IT_PUBLISHES in "".join(reasons(reader)))
    found = len(reasons(reader))
    assert found <= 2
    reader.thread.join(3)
    assert len(reasons(reader)) == found


@pytest.mark.parametrize("before", ["PUB", "REP", "PULL", "another program"])
def test_a_sender_that_replaces_something_else_is_never_found(
    opened: Any, serve: Any, collect: Any, free_port: int, before: str
) -> None:
    """ZeroMQ gives up for good where it met a socket of another kind."""
    if before == "another program":
        listener = socket.create_server((LOOPBACK, free_port))
        other: Any = listener
    else:
        other = opened(getattr(zmq, before))
    reader = collect(open_source(f"stins+tcp://{LOOPBACK}:{free_port}"))
    wait_for(lambda: reasons(reader))
    other.close()
    sender = opened(zmq.PUSH)
    sender.send_multipart(encode_image(1, 0, IMAGE))
    wait_for(lambda: reader.of(Frame))
    wait_for(lambda: reasons(reader)[-1] == "")


def test_a_message_that_is_too_long_ends_the_reading_for_good(
    opened: Any, collect: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmq_source, "MAX_MESSAGE", 10_000)
    sender = opened(zmq.PUSH)
    reader = collect(open_source(f"stins+tcp://{LOOPBACK}:{free_port}"))
    sender.send_multipart(encode_image(1, 0, IMAGE))
    wait_for(lambda: len(reader.of(Frame)) == 1)
    sender.send(bytes(20_000))
    reader.thread.join(0.5)  # what waits at the sender when the connection breaks is gone
    sender.send_multipart(encode_image(3, 2, IMAGE))
    wait_for(lambda: len(reader.of(Frame)) == 2)
    assert [frame.frame_id for frame in reader.of(Frame)] == [0, 2]


def test_an_address_that_is_none_is_opened_again_and_again() -> None:
    with pytest.raises(UrlError, match="cannot be opened"):
        list(open_source("stins+tcp://bad host name:1").events())
