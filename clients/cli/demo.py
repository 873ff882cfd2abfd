"""`ronda demo`: three detectors are played into Tango devices, for people to watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import tango
from rich.console import Console

from ... import __file__ as package
from ...devices.system import System, running
from .console import ledger_line, stderr
from .demo_parts import PARTS, TRUTH
from .powder import write_powder
from .table import Display, Reading, read
from .up import config_path

IMAGES, POSITIONS = "lab6-pilatus.cbors.gz", "lab6-sardana.cbors"
"""The real recording of FemtoMAX."""
SIMULATED = "simulated-lab6.cbors.gz"
REAL_DATA = Path(package).resolve().parents[1] / "shared" / "data"
"""Where it is looked for: beside the clone."""
INTERVAL = 0.2
"""Seconds between two looks at the devices."""
QUIET = 5.0
"""Seconds without a frame after which a detector that complains has ended, too."""
PATIENCE = 60.0
"""Seconds given to each step."""
TIMEOUT = 20_000
"""Milliseconds given to each call of a device, on a machine that is busy with other things."""


class DemoError(OSError):
    """The demo cannot go on; the message is one sentence."""


def run_demo(directory: Path, data: Path | None, simulated: bool) -> int:
    """Play three detectors into their devices and watch; return the exit status.

    Parameters
    ----------
    directory
        The demo writes into a new folder below it.
    data
        Folder of the real recording of a Pilatus; None: beside the clone, if it is there.
    simulated
        Simulate a powder even so.

    Returns
    -------
    int
        0, or 1 if nothing arrived at a device or a ledger does not hold.

    Raises
    ------
    OSError, ValueError
        In one sentence, if it cannot be run.
    """
    console = stderr()
    folder = directory / time.strftime("%Y-%m-%d_%H%M%S")
    recording = None if simulated else _recording(data)
    folder.mkdir(parents=True)
    if recording:
        console.print(f"replaying {recording}, a LaB6 powder measured at FemtoMAX", soft_wrap=True)
    else:
        console.print("simulating a LaB6 powder on a Pilatus; some seconds")
        recording = f"recording:{folder.resolve() / SIMULATED}"
        write_powder(folder / SIMULATED)
    console.print("simulating a Bragg peak on a Zyla and single photons on a Balor meanwhile")
    console.print("starting a Tango database, three detectors, and a device for each")
    try:
        final = _measure(console, folder, recording)
    except tango.DevFailed as error:
        raise DemoError(f"a device did not do what it should: {error.args[0].desc}") from None
    written = [path for part in PARTS for path in part.draw(folder)]
    for reading in final:
        console.print(_outcome(reading), soft_wrap=True)
    console.print("\n".join(["left for you to look at:", *map(str, written)]), soft_wrap=True)
    return 0 if all(map(succeeded, final)) else 1


def _measure(console: Console, folder: Path, recording: str) -> list[Reading]:
    """Run the devices; return what each one's ledger was at the end."""
    values = {"SOURCE": recording, "TRUTH": quote(str(folder.resolve() / TRUTH))}
    with running(config_path("demo"), folder, values) as system:
        proxies = {name: system.proxy(name) for name in system.devices}
        for proxy in proxies.values():
            proxy.set_timeout_millis(TIMEOUT)
        _wait(console, "the devices get ready", lambda: _ready(*proxies.values()))
        for part in PARTS:
            part.set_up(proxies[part.detector], proxies[part.device])
        return _watch(console, system, proxies)


def _recording(data: Path | None) -> str | None:
    """Return the URL of the real recording, or None if it is not here.

    Raises
    ------
    FileNotFoundError
        If it is not in the folder that was named.
    """
    files = [(data or REAL_DATA).resolve() / name for name in (IMAGES, POSITIONS)]
    if all(path.is_file() for path in files):
        return "recording:" + ",".join(map(str, files))
    if data:
        raise FileNotFoundError(f"{data} does not hold {IMAGES} and {POSITIONS}")
    return None


def _ready(*proxies: tango.DeviceProxy) -> bool:
    """Tell whether the devices are initialised.

    Raises
    ------
    DemoError
        If one of them cannot work; with what its Status says.
    """
    for proxy in proxies:
        if proxy.state() == tango.DevState.FAULT:
            raise DemoError(f"{proxy.dev_name()}: {proxy.status()}")
    return all(proxy.state() != tango.DevState.INIT for proxy in proxies)


def _watch(
    console: Console, system: System, proxies: dict[str, tango.DeviceProxy]
) -> list[Reading]:
    """Start everything, show it until all that was sent is reduced; return the last readings."""
    for part in PARTS:
        proxies[part.device].Start()
        proxies[part.detector].Start()
    sent, since = 0.0, time.monotonic()
    with Display(console) as display:
        while True:
            readings = {name: read(name, proxy) for name, proxy in proxies.items()}
            display.show(readings.values())
            if system.ended:
                raise DemoError(system.ended[0])
            now_sent = sum(one.values.get("images_sent", 0.0) for one in readings.values())
            if now_sent > sent:
                sent, since = now_sent, time.monotonic()
            quiet = time.monotonic() - since
            if quiet > PATIENCE or all(
                _arrived(readings[part.detector], readings[part.device], quiet) for part in PARTS
            ):
                break
            time.sleep(INTERVAL)
        devices = [proxies[part.device] for part in PARTS]
        for device in devices:
            device.Stop()
        _wait(console, "", lambda: tango.DevState.RUNNING not in [one.state() for one in devices])
        final = [read(part.device, proxies[part.device]) for part in PARTS]
        display.show(final, last=True)
    return final


def _arrived(detector: Reading, device: Reading, quiet: float) -> bool:
    """Tell whether a detector has ended and all that it sent is done.

    One that complains counts as ended after so many quiet seconds.
    """
    counts = device.counts
    if counts is None or counts.queued or (detector.state != "STANDBY" and quiet <= QUIET):
        return False
    return 0 < detector.values.get("images_sent", 0) <= counts.received


def _wait(console: Console, what: str, ready: Callable[[], bool]) -> None:
    """Wait until something is so.

    Raises
    ------
    DemoError
        If that takes too long.
    """
    if what:
        console.print(f"waiting: {what}")
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise DemoError(f"gave up after {PATIENCE:.0f} s: {what or 'the device stops'}")
        time.sleep(INTERVAL)


def succeeded(final: Reading) -> bool:
    """Tell whether frames arrived and the ledger holds."""
    return final.balanced and final.counts is not None and final.counts.reduced > 0


def _outcome(final: Reading) -> str:
    """Return the ledger of a device in one sentence."""
    if final.counts is None:
        return f"{final.device} showed no ledger: {final.status}"
    verdict = "the ledger holds" if succeeded(final) else "the ledger does NOT hold"
    return f"{final.device}: {ledger_line(final.counts)}: {verdict}"
