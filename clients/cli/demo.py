"""`ronda demo`: a recording is replayed into a Tango device, for people to watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import tango
from rich.console import Console

from ... import __file__ as package
from ...core.simulation import FEMTOMAX, lab6_lines
from ...devices.database import System, running
from .. import pictures
from .console import ledger_line, stderr
from .powder import write_powder
from .table import Display, Reading, read
from .up import config_path

IMAGES, POSITIONS = "lab6-pilatus.cbors.gz", "lab6-sardana.cbors"
"""The real recording of FemtoMAX."""
SIMULATED = "simulated-lab6.cbors.gz"
REAL_DATA = Path(package).resolve().parents[1] / "shared" / "data"
"""Where it is looked for: beside the clone."""
DETECTOR, DEVICE = "demo/detector/pilatus", "demo/reduction/pilatus"
"""The devices of `config/demo.json`."""
RATE = 3.0
"""Frames a second: slow enough to watch."""
Q_MAX = 6.1
"""Rings are drawn up to here, in 1/angstrom."""
ROIS = (
    "background=390,430,25,40",
    "ring_100=360,300,30,80;background=background",
    "ring_110=435,300,35,80;background=background",
)
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
    """Replay a recording into a PilatusAccumulator and watch; return the exit status.

    Parameters
    ----------
    directory
        The demo writes into a new folder below it.
    data
        Folder of the real recording; None: beside the clone, if it is there.
    simulated
        Simulate a powder even so.

    Returns
    -------
    int
        0, or 1 if nothing arrived or the ledger does not hold.

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
        console.print("simulating a LaB6 powder; some seconds")
        recording = f"recording:{folder.resolve() / SIMULATED}"
        write_powder(folder / SIMULATED)
    console.print("starting a Tango database, a detector and a PilatusAccumulator")
    try:
        final = _measure(console, folder, recording)
    except tango.DevFailed as error:
        raise DemoError(f"a device did not do what it should: {error.args[0].desc}") from None
    written = _draw(folder)
    console.print(_outcome(final))
    console.print("\n".join(["left for you to look at:", *map(str, written)]), soft_wrap=True)
    return 0 if succeeded(final) else 1


def _measure(console: Console, folder: Path, recording: str) -> Reading:
    """Run the devices on a recording; return what the ledger was at the end."""
    with running(config_path("demo"), folder, {"SOURCE": recording}, tango_host="") as system:
        detector, device = system.proxy(DETECTOR), system.proxy(DEVICE)
        for proxy in (detector, device):
            proxy.set_timeout_millis(TIMEOUT)
        _wait(console, "the devices get ready", lambda: _ready(detector, device))
        _set_up(detector, device)
        return _watch(console, system, detector, device)


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


def _set_up(detector: tango.DeviceProxy, device: tango.DeviceProxy) -> None:
    """Tell the device where the detector stands, and where to look."""
    detector.rate = RATE
    device.photon_energy = FEMTOMAX.photon_energy
    device.detector_distance = FEMTOMAX.detector_distance
    device.beam_center_x = FEMTOMAX.beam_center_x
    device.beam_center_y = FEMTOMAX.beam_center_y
    device.q_rings = lab6_lines(Q_MAX)[0]
    for roi in ROIS:
        device.AddRoi(roi)


def _watch(
    console: Console, system: System, detector: tango.DeviceProxy, device: tango.DeviceProxy
) -> Reading:
    """Start both, show them until everything that was sent is reduced; return the last reading."""
    device.Start()
    detector.Start()
    sent, since = 0.0, time.monotonic()
    with Display(console) as display:
        while True:
            readings = [read(DETECTOR, detector), read(DEVICE, device)]
            display.show(readings)
            if system.ended:
                raise DemoError(system.ended[0])
            now_sent = readings[0].values.get("images_sent", sent)
            if now_sent > sent:
                sent, since = now_sent, time.monotonic()
            quiet = time.monotonic() - since
            ended = readings[0].state == "STANDBY" or quiet > QUIET
            if (ended and _arrived(*readings)) or quiet > PATIENCE:
                break
            time.sleep(INTERVAL)
        device.Stop()
        _wait(console, "", lambda: device.state() != tango.DevState.RUNNING)
        final = read(DEVICE, device)
        display.show([read(DETECTOR, detector), final], last=True)
    return final


def _arrived(detector: Reading, device: Reading) -> bool:
    """Tell whether all that the detector has sent so far is done."""
    counts = device.counts
    if counts is None or counts.queued:
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


def _draw(folder: Path) -> list[Path]:
    """Draw what was measured; return the files that are worth looking at."""
    files = sorted(folder.glob("scan-*.h5"))
    if not files:
        return []
    newest = files[-1]
    images: dict[str, Callable[[Path, Path], None]] = {
        "accumulated.png": pictures.draw_accumulated,
        "pattern.png": pictures.draw_azimuthal,
        "rois.png": pictures.draw_rois,
        "demo.png": pictures.draw_file,
    }
    for name, draw in images.items():
        draw(newest, folder / name)
    return [newest, *(folder / name for name in images)]


def succeeded(final: Reading) -> bool:
    """Tell whether frames arrived and the ledger holds."""
    return final.balanced and final.counts is not None and final.counts.reduced > 0


def _outcome(final: Reading) -> str:
    """Return the ledger in one sentence."""
    if final.counts is None:
        return f"the device showed no ledger: {final.status}"
    verdict = "the ledger holds" if succeeded(final) else "the ledger does NOT hold"
    return f"{ledger_line(final.counts)}: {verdict}"
