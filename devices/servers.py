"""Device servers: one console script for each class, and `Ronda` for any mix of them."""

from __future__ import annotations

import contextlib
import logging
import sys

import tango
import tango.server

from . import notify


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
    try:
        refuse_second(name, sys.argv[1:])
        tango.server.run(
            classes, [name, *sys.argv[1:]], post_init_callback=notify.ready, raises=True
        )
    except tango.DevFailed as error:
        sys.exit(f"{name}: {error.args[0].desc}")
    except KeyboardInterrupt:
        sys.exit(130)


def refuse_second(name: str, arguments: list[str]) -> None:
    """End the process if this server instance runs already, as its database says.

    Devices that no database knows of are guarded by the lock on their folder.
    """
    instance = next((word for word in arguments if not word.startswith("-")), "")
    if not instance or "-nodb" in arguments or any(word.startswith("-file") for word in arguments):
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
