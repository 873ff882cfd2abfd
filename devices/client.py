"""Who calls: the client of the present Tango request, in words."""

from __future__ import annotations

import re

import psutil
import tango

from .listening import is_this_computer

ADDRESS = re.compile(r"giop:tcp:\[?([^\]]+?)\]?:\d+$")
"""How omniORB names the other end of a connection."""


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
    if not address.startswith("unix") and not is_this_computer(address):
        return f"{address} (process {ident.client_pid})"
    try:
        process = psutil.Process(ident.client_pid)
        return f"{process.username()}@localhost ({process.name()}, process {process.pid})"
    except psutil.Error:
        return f"localhost (process {ident.client_pid})"
