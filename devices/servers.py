"""Device servers: one console script for each class, and `Ronda` for any mix of them."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys

import tango
import tango.server

from . import notify
from .hanging import event_sockets
from .listening import listening_options, tell_where
from .memory import keep_for_frames

ANSWER_TIME = "5000"
"""Milliseconds in which a client must take an answer, else it is hung up on.

Tango keeps an attribute locked until its value is sent: a suspended client that
reads images would hold up everybody else who does, and them the device.
"""


def pilatus_accumulator() -> None:
    """Run the server PilatusAccumulator."""
    from .pilatus import PilatusAccumulator

    serve("PilatusAccumulator", PilatusAccumulator)


def zyla_thresholder() -> None:
    """Run the server ZylaThresholder."""
    from .zyla import ZylaThresholder

    serve("ZylaThresholder", ZylaThresholder)


def balor_photon_detector() -> None:
    """Run the server BalorPhotonDetector."""
    from .balor import BalorPhotonDetector

    serve("BalorPhotonDetector", BalorPhotonDetector)


def bragg_sparsifier() -> None:
    """Run the server BraggSparsifier."""
    from .bragg import BraggSparsifier

    serve("BraggSparsifier", BraggSparsifier)


def diff_tomo_integrator() -> None:
    """Run the server DiffTomoIntegrator."""
    from .difftomo import DiffTomoIntegrator

    serve("DiffTomoIntegrator", DiffTomoIntegrator)


def detector_simulator() -> None:
    """Run the server DetectorSimulator."""
    from .simulator import DetectorSimulator

    serve("DetectorSimulator", DetectorSimulator)


def ronda() -> None:
    """Run the server Ronda, which carries devices of all classes in one process."""
    from .classes import CLASSES

    serve("Ronda", *CLASSES)


def serve(name: str, *classes: type[tango.server.Device]) -> None:
    """Run a server until it is told to stop; end the process with 1 if it cannot run.

    Parameters
    ----------
    name
        Of the server, and of its executable.
    *classes
        What it may carry. The instance and Tango's options are those of the
        command line.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    keep_for_frames()
    os.environ.setdefault("ORBserverCallTimeOutPeriod", ANSWER_TIME)
    faulthandler.enable()  # a crash, or systemd's watchdog, shows in the log where it struck
    try:
        refuse_second(name, sys.argv[1:])
        arguments = [name, *sys.argv[1:], *listening_options(sys.argv[1:])]
        tango.server.run(classes, arguments, post_init_callback=_ready, raises=True)
    except (tango.DevFailed, RuntimeError, ValueError) as error:
        if _told_to_stop():  # while it became ready: Tango calls that an error
            return
        if isinstance(error, RuntimeError):
            raise
        said = error.args[0].desc if isinstance(error, tango.DevFailed) else error
        sys.exit(f"{name}: {said}")
    except KeyboardInterrupt:
        sys.exit(130)


def _ready() -> None:
    host = ""
    if _asks_database(sys.argv[1:]):
        event_sockets.watch(tango.Util.instance().get_dserver_device().get_name())
        with contextlib.suppress(tango.DevFailed):  # it may go away at any time
            host = tango.Database().get_db_host()
    tell_where(host)
    notify.ready()


def _told_to_stop() -> bool:
    """Tell whether the server is on its way out, as after SIGTERM."""
    try:
        return bool(tango.Util.instance(False).is_svr_shutting_down())
    except tango.DevFailed:  # there is no server yet
        return False


def _asks_database(arguments: list[str]) -> bool:
    """Tell whether a server's devices are those that a Tango database knows."""
    options = {word.lstrip("-").partition("=")[0] for word in arguments if word.startswith("-")}
    return not options & {"nodb", "file"}


def refuse_second(name: str, arguments: list[str]) -> None:
    """End the process if this server instance runs already, as its database says.

    Devices that no database knows of are guarded by the lock on their folder.
    """
    instance = next((word for word in arguments if not word.startswith("-")), "")
    if not instance or not _asks_database(arguments):
        return
    with contextlib.suppress(tango.DevFailed):  # Tango itself says what is wrong with a database
        admin = f"dserver/{name}/{instance}"
        entry = tango.Database().get_device_info(admin)
        if not entry.exported:
            return
        proxy = tango.DeviceProxy(admin)
        proxy.ping()
        sys.exit(
            f"{name}/{instance} is running already (process {entry.pid} on "
            f"{proxy.info().server_host}): stop it before starting it again"
        )
