"""Subscribers that do not take what they are sent: they are hung up on, so that nobody waits.

Tango sends a large array without a copy, and sends nothing else before ZeroMQ is done with
it. One suspended subscriber to an image (a laptop that sleeps) would so hold up the device, for
everybody. The system is therefore told to break a connection over which nothing has gone for
`PATIENCE`.

Tango's clients connect again when they miss heartbeats, which come over another connection; that
is small enough to outlive the first. So it is broken, too, and a subscriber that wakes up gets
events again after some 10 s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import tango
from tango.utils import PyTangoThread

log = logging.getLogger(__name__)

PATIENCE = 1000
"""Milliseconds: others wait for less than the 3 s that Tango's clients wait for an answer."""
FIRST_INTERVAL, INTERVAL = 0.5, 2.0
"""Seconds between looks whether somebody subscribed, and then at the connections."""
PORTS = re.compile(r"(Heartbeat|Event): tcp://.*:(\d+)")


class EventSockets:
    """The sockets over which this server sends events and heartbeats."""

    def __init__(self) -> None:
        self._server: tango.DeviceProxy | None = None
        self._ports: dict[str, int] = {}
        self._deaf: set[str] = set()
        """Hosts with a client that had no connection for events at the last look."""

    def watch(self, server: str) -> None:
        """Look after them from now on, in a thread: the one that pushes may be held up.

        `server` is the Tango name of this server's own admin device.
        """
        with contextlib.suppress(tango.DevFailed):  # its database went away just now
            self._server = tango.DeviceProxy(server)
            PyTangoThread(target=self._run, name="ronda-subscribers", daemon=True).start()

    def _run(self) -> None:
        while "Event" not in self._ports:
            time.sleep(FIRST_INTERVAL)
            self._bound()
        while True:
            time.sleep(INTERVAL)
            self._wake_deaf()

    def _bound(self) -> None:
        """Bound how long connections may stand still, once somebody subscribed."""
        assert self._server
        try:
            said = self._server.command_inout("ZmqEventSubscriptionChange", ["info"])[1]
        except tango.DevFailed as error:
            log.debug("the event sockets are not known: %s", error.args[0].desc)
            return
        self._ports = {name: int(port) for name, port in PORTS.findall("\n".join(said))}
        if "Event" in self._ports:
            # connections that are accepted later inherit it
            for one in _connections(*self._ports.values()):
                _with(one, _limit)

    def _wake_deaf(self) -> None:
        """Have clients connect again that lost the connection for events alone."""
        there = {
            name: [one for one in _connections(port) if one.status == psutil.CONN_ESTABLISHED]
            for name, port in self._ports.items()
        }
        hearing = Counter(one.raddr.ip for one in there["Event"])
        alive = Counter(one.raddr.ip for one in there["Heartbeat"])
        deaf = {host for host in alive if alive[host] > hearing[host]}
        for one in there["Heartbeat"]:
            if one.raddr.ip in deaf & self._deaf:
                log.warning("a subscriber at %s took no events and was hung up on", one.raddr.ip)
                _with(one, lambda connection: connection.shutdown(socket.SHUT_RDWR))
        self._deaf = deaf - self._deaf


event_sockets = EventSockets()
"""Those of this process."""


def _connections(*ports: int) -> list[Any]:
    """Return the connections to ports of this process, and its listening sockets there."""
    found = psutil.Process().net_connections("tcp")
    return [one for one in found if one.laddr.port in ports and one.fd >= 0]


def _with(one: Any, do: Callable[[socket.socket], object]) -> None:
    """Do something to a connection, if it is still there."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(one.fd)) as connection:
        do(connection)


def _limit(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PATIENCE)
