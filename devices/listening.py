"""Where a server listens: on loopback, unless it is told otherwise."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Sequence

import psutil
import tango
from tango.test_context import parse_ior

from .database import LOOPBACK

log = logging.getLogger(__name__)

VARIABLE = "RONDA_LISTEN"
"""Environment variable: an address or name of this host, 0.0.0.0 for all of its addresses."""


def listening_options(arguments: Sequence[str]) -> list[str]:
    """Return Tango's options for where to listen, as far as the arguments leave it open.

    Requests and events follow the same option.

    Raises
    ------
    ValueError
        If RONDA_LISTEN is no address.
    """
    options = {word.lstrip("-").partition("=")[0] for word in arguments if word.startswith("-")}
    if "ORBendPoint" in os.environ or any(name.startswith("ORBendPoint") for name in options):
        return []
    missing = []
    if "host" not in options:
        missing += ["-host", _address(os.environ.get(VARIABLE) or LOOPBACK)]
    if "port" not in options:
        missing += ["-port", "0"]
    return missing


def tell_where(database_host: str = "") -> None:
    """Log where this server, which runs, is reached; warn if its clients will not reach it.

    Parameters
    ----------
    database_host
        Host of the Tango database, where clients look the server up; empty: none.
    """
    util = tango.Util.instance()
    ior = parse_ior(util.get_dserver_ior(util.get_dserver_device()))
    host = ior.host.decode()
    log.info("listening on %s:%d", host, ior.port)
    if advice := reachability(host, database_host):
        log.warning(advice)


def reachability(host: str, database_host: str) -> str:
    """Return what to do if clients find a server at this address and cannot reach it, or nothing.

    The database tells its clients, wherever they are, the address of the server.
    """
    if not _loopback([host]) or not database_host or is_this_computer(database_host):
        return ""
    return (
        f"only clients on this computer reach this server, while its Tango database is on "
        f"{database_host}: set {VARIABLE}={socket.gethostname()} (or 0.0.0.0) in its environment "
        "and start it again"
    )


def _address(name: str) -> str:
    """Return the address of a host; with a name Tango would send events on every interface.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"{VARIABLE} is {name!r}, which is no address ({error}): "
            "set it to an address or name of this host, or to 0.0.0.0 for all of its addresses"
        ) from None


def is_this_computer(name: str) -> bool:
    """Tell whether a host is this one; one that is unknown is not."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError):
        return False
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    return _loopback(addresses) or bool(addresses & own)


def _loopback(hosts: Iterable[str]) -> bool:
    """Tell whether all these are loopback."""
    return all(name in ("localhost", "::1") or name.startswith("127.") for name in hosts)
