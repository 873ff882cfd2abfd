"""`ronda serve`: what systemd runs for a device server."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

DATABASE_TIME = 60.0
"""Seconds that the Tango database has to answer; systemd then tries again."""
INTERVAL = 1.0
"""Seconds between two questions to it."""


def serve(
    server: Annotated[
        str,
        typer.Argument(
            metavar="SERVER/INSTANCE",
            help="As the Tango database knows it: PilatusAccumulator/femtomax.",
            show_default=False,
        ),
    ],
) -> None:
    """Become a device server, once the Tango database answers: what systemd runs.

    It waits a minute for the database that TANGO_HOST names. The process is then
    the server's own program, as if [bold]PilatusAccumulator femtomax[/bold] had been called.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # to end while waiting is no failure
    from ...devices.database import executable
    from ...devices.registration import SERVER_NAME

    if not SERVER_NAME.fullmatch(server):
        raise ValueError(f"{server!r} is no server: give it as SERVER/INSTANCE")
    name, _, instance = server.partition("/")
    program = executable(name)
    _wait_for_database()
    os.execv(program, [str(program), instance])  # noqa: S606 - no shell is what we want


def _wait_for_database() -> None:
    """Return when the Tango database answers.

    Raises
    ------
    OSError
        If it does not in time.
    """
    import tango

    begin, told = time.monotonic(), False
    while True:
        try:
            tango.Database().get_info()
            return
        except tango.DevFailed as error:
            why = " ".join(error.args[-1].desc.split())
        if time.monotonic() - begin > DATABASE_TIME:
            raise OSError(f"no Tango database answers after {DATABASE_TIME:.0f} s: {why}")
        if not told:
            typer.echo(f"waiting for the Tango database: {why}", err=True)
            told = True
        time.sleep(INTERVAL)
