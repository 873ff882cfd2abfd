"""Who calls: the client of the present Tango request, in words."""

from __future__ import annotations

import re
import socket

import psutil
import tango

ADDRESS = re.compile(r"giop:tcp:\[?([^\]]+?)\]?:\d+$")
"""How omniORB names the other end of a connection."""
OURSELVES = ("unix", "127.0.0.1", "::1")


def calling(device: tango.server.Device) -> str:
    """Return who makes the present request, such as `anna@localhost (spock, process 123)`.

    Tango tells the address and the process of a client, and no user; on this
    machine the process tells the user. A client that cannot be known is `unknown`.
    """
    ident = device.get_client_ident()
    if not ident.client_ident:
        return "unknown"
    found = ADDRESS.search(ident.client_ip)
    address = found[1] if found else ident.client_ip.removeprefix("giop:")
    if str(ident.client_lang).startswith("JAVA"):
        return f"{address} ({ident.java_main_class})"
    if not address.startswith(OURSELVES) and address not in _own_addresses():
        return f"{address} (process {ident.client_pid})"
    try:
        process = psutil.Process(ident.client_pid)
        return f"{process.username()}@localhost ({process.name()}, process {process.pid})"
    except psutil.Error:
        return f"localhost (process {ident.client_pid})"


def _own_addresses() -> set[str]:
    """Return the addresses of this machine."""
    found = psutil.net_if_addrs().values()
    kinds = (socket.AF_INET, socket.AF_INET6)
    return {one.address.partition("%")[0] for each in found for one in each if one.family in kinds}
