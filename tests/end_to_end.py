"""A whole set at work, in real processes: three detectors, their devices, positions, clients.

`run_set` is what `tests/benchmarks/bench_end_to_end.py` prints and what
`tests/test_end_to_end.py` looks at. Run as a program this module is the polling clients.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import psutil
import tango
from numpy.typing import NDArray
from ronda.clients.cli.demo_parts import PARTS, Part
from ronda.clients.cli.powder import write_powder
from ronda.core.frame import MAX_SIDE
from ronda.devices.database import LOOPBACK, free_port
from ronda.devices.registration import Server
from ronda.devices.system import System
from ronda.tests.waiting import wait_for
from tango import DevState

RATE = 10.0
"""Frames a second of each detector."""
POOL = 8
"""Frames of a camera that are simulated; they come again and again."""
REPEATS = 25
"""How often, in one series."""
SOURCES = {
    "pilatus": "recording:{folder}/powder.cbors.gz",
    "zyla": f"simulated:zyla?frames={POOL}&repeats={REPEATS}&photons=30000",
    "balor": f"simulated:balor?frames={POOL}&repeats={REPEATS}&photons=2000",
}
CLASSES = {
    "pilatus": "PilatusAccumulator",
    "zyla": "ZylaThresholder",
    "balor": "BalorPhotonDetector",
}
CLIENTS = 5
"""Clients, each with a thread of its own; the last one reads previews, too."""
POLLING_RATE = 10.0
"""How often a second each of them reads from each device."""
POLLED = (
    "State",
    "run_id",
    "frame_id",
    "frames_received",
    "frames_reduced",
    "frames_lost",
    "frames_dropped",
    "queue_fill",
    "input_rate",
    "latency",
    "accumulated_total",
)
T = TypeVar("T")
COUNTS = ("received", "reduced", "rejected", "dropped", "queued", "lost")
TIMES = ("latency", "transport", "here", "map + reduce")
"""What is seen of every frame: from stamp to result; of it to the arrival, and from there on;
and the work alone."""
LOOKS = 30.0
"""How often a second this program looks at a device to see every frame's times."""
PATIENCE = 180.0
"""Seconds that each step may take on a machine that is busy with other things."""


@dataclass
class Files:
    """What the files of a device hold together."""

    number: int = 0
    bytes: int = 0
    rows: int = 0
    """Frames in their tables."""
    photons: int = 0
    ledger: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What is not as it must be, in sentences."""


@dataclass
class Outcome:
    """What became of one detector's frames."""

    name: str
    sent: Mapping[str, int]
    """The simulator's own counts: images, series, positions, and what a receiver must count."""
    counts: Mapping[str, int]
    """The device's ledger at the end."""
    accumulated: int
    """Frames in its sum."""
    state: str
    status: str
    rate: float
    """Frames a second that were sent while it was measured."""
    measured: int
    """Frames that were reduced in that time."""
    slowed: float
    """Rate that the detector was slowed down to because the queue filled; `RATE`: it was not."""
    times: NDArray[np.float64]
    """(frames seen of those measured, len(TIMES)) in s."""
    files: Files


@dataclass
class Usage:
    """What one process took."""

    name: str
    before: float
    """Least memory in MB (resident) in the second third of the time."""
    after: float
    """Least memory in the last third."""
    most: float
    cpu: float
    """Share of one core."""


@dataclass
class Run:
    """What `run_set` saw."""

    seconds: float
    outcomes: list[Outcome]
    usage: list[Usage]
    polls: list[float]
    """Requests a second of each client that were answered."""
    refused: int
    """Requests of the clients that were not: the device was held up for over 3 s."""
    others: float
    """What all other programs of this machine took meanwhile, in cores."""
    errors: list[str]
    """Error lines in the servers' logs."""


def run_set(seconds: float, folder: Path, say: Callable[[str], None]) -> Run:
    """Run the whole set for some seconds; return what was sent, received and written.

    Parameters
    ----------
    seconds
        From the moment on that all three detectors send.
    folder
        For the database, logs and files.
    say
        Is told what is being done.
    """
    say("simulating a powder")
    write_powder(folder / "powder.cbors.gz")
    say("starting a database and six servers")
    system = System(_servers(folder), folder)
    try:
        parts = [_Part(system, part) for part in PARTS]
        return _run(system, parts, seconds, folder, say)
    finally:
        system.stop()


def _servers(folder: Path) -> list[Server]:
    """Return the set: a simulator and a device for each detector."""
    positions = f"sardana+http://{LOOPBACK}:{free_port()}"
    servers = []
    for part in PARTS:
        url = f"stins+tcp://{LOOPBACK}:{free_port()}?socket="
        source = SOURCES[part.name].format(folder=folder)
        simulator = {"SourceUrl": [source], "PublishUrl": [f"{url}push"]}
        device = {
            "SourceUrl": [f"{url}pull"],
            "StateDirectory": [str(folder / "state")],
            "OutputRoot": [str(folder / "process" / part.name)],
        }
        if part.name == "pilatus":
            simulator["PositionsUrl"] = device["PositionsUrl"] = [positions]
        name, reducer = "DetectorSimulator", CLASSES[part.name]
        servers.append(Server(name, part.name, {part.detector: (name, simulator)}))
        servers.append(Server(reducer, "end_to_end", {part.device: (reducer, device)}))
    return servers


class _Part:
    """A detector and its device, as they are watched from here."""

    def __init__(self, system: System, part: Part) -> None:
        self.part, self.name = part, part.name
        self.detector, self.device = system.proxy(part.detector), system.proxy(part.device)
        for proxy in (self.detector, self.device):
            proxy.set_timeout_millis(60_000)
        self.trl = f"tango://{system.tango_host}/{part.device}"
        self.rate = RATE
        self._first = self._last = (0, 0)
        self._seen: dict[tuple[int, int], tuple[float, ...]] = {}

    def set_up(self) -> None:
        """Set both up as in the demo, with a file for every series."""
        wait_for(lambda: patiently(self.device.state) != DevState.INIT, PATIENCE)
        self.part.set_up(self.detector, self.device)
        self.detector.rate = RATE
        self.detector.series = 0
        self.detector.filename = f"/simulated/scan-{{series}}_{self.name}.h5"

    def start(self) -> None:
        """Start both."""
        self.device.Start()
        self.detector.Start()

    def begin(self) -> None:
        """Begin to measure."""
        self._seen.clear()
        self._first = self.detector.images_sent, self.counts()["reduced"]

    def end(self) -> None:
        """Measure no more, and have the detector end its series."""
        self._last = self.detector.images_sent, self.counts()["reduced"]
        self.detector.Stop()

    def look(self) -> None:
        """Note the times of the newest frame."""
        names = ["run_id", "frame_id", "latency", "transport_time", "processing_time"]
        with suppress(tango.DevFailed):  # held up; what goes by unseen shows in the share
            run, frame, *times = (one.value for one in self.device.read_attributes(names))
            if frame >= 0:
                self._seen[run, frame] = times[0], times[1], times[0] - times[1], times[2]

    def keep_up(self) -> None:
        """Slow the detector down when the queue is half full: this machine is too slow."""
        with suppress(tango.DevFailed):
            if self.device.queue_fill > 50:
                self.rate *= 0.8
                self.detector.rate = self.rate

    def done(self) -> bool:
        """Tell whether the detector has ended and all that it sent is done."""
        if self.detector.state() == DevState.RUNNING:
            return False
        counts = self.counts()
        return not counts["queued"] and counts["received"] >= self.detector.images_sent

    def counts(self) -> dict[str, int]:
        """Return the device's ledger."""
        names = [f"frames_{name}" for name in COUNTS]
        values = patiently(lambda: self.device.read_attributes(names))
        return {name: one.value for name, one in zip(COUNTS, values, strict=True)}

    def outcome(self, seconds: float, folder: Path) -> Outcome:
        """Return what became of the frames, when everything has ended."""
        names = ("images_sent", "series_sent", "positions_sent", *_EXPECTED)
        sent = {name: int(self.detector.read_attribute(name).value) for name in names}
        return Outcome(
            name=self.name,
            sent=sent,
            counts=self.counts(),
            accumulated=int(self.device.accumulated_frames),
            state=str(self.device.state()),
            status=self.device.status(),
            rate=(self._last[0] - self._first[0]) / seconds,
            measured=self._last[1] - self._first[1],
            slowed=self.rate,
            times=np.array(list(self._seen.values())).reshape(-1, len(TIMES)),
            files=read_files(self.name, folder / "process" / self.name),
        )


def patiently(request: Callable[[], T]) -> T:
    """Return the answer to a request that is repeated while the device is held up."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return request()
        except tango.DevFailed:
            if time.monotonic() > deadline:
                raise


_EXPECTED = tuple(f"expected_{name}" for name in ("received", "reduced", "rejected", "lost"))


def _run(
    system: System, parts: Sequence[_Part], seconds: float, folder: Path, say: Callable[[str], None]
) -> Run:
    say("setting up: darks, regions, geometry; simulating frames")
    for part in parts:
        part.set_up()
    for part in parts:
        part.start()
    wait_for(lambda: all(part.counts()["reduced"] for part in parts), PATIENCE)
    say(f"measuring for {seconds:g} s")
    begin, watch = time.monotonic(), _Watch()
    with _polling([part.trl for part in parts]) as clients:
        with _looking(parts):
            for part in parts:
                part.begin()
            while (passed := time.monotonic() - begin) < seconds:
                watch.look(passed)
                for part in parts:
                    part.keep_up()
                assert not system.ended, system.ended[0]
                time.sleep(min(0.5, seconds / 100))
        sending = time.monotonic() - begin
        usage, others = watch.usage(sending)
        for part in parts:
            part.end()
        say("waiting until all that was sent is reduced and written")
        for part in parts:
            wait_for(part.done, PATIENCE)
        polling = time.monotonic() - begin
    *polls, refused = map(int, clients)
    for part in parts:
        patiently(part.device.Stop)
    for part in parts:
        wait_for(lambda part=part: patiently(part.device.state) != DevState.RUNNING, PATIENCE)
    outcomes = [part.outcome(sending, folder) for part in parts]
    lines = [
        f"{log.stem}: {line}"
        for log in (folder / "log").glob("*.log")
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    errors = [line for line in lines if " ERROR " in line or "Traceback" in line]
    return Run(sending, outcomes, usage, [n / polling for n in polls], refused, others, errors)


@contextmanager
def _looking(parts: Sequence[_Part]) -> Iterator[None]:
    """Look at the devices so often that no frame goes by unseen, while the context lasts."""
    enough = threading.Event()

    def look(part: _Part) -> None:
        with tango.EnsureOmniThread():
            while not enough.wait(1 / LOOKS):
                part.look()

    threads = [threading.Thread(target=look, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


# ------------------------------------------------------------------- clients


@contextmanager
def _polling(trls: Sequence[str]) -> Iterator[list[str]]:
    """Run the polling clients; the list is what they say at the end: see `_poll`."""
    said: list[str] = []
    command = [sys.executable, "-m", "ronda.tests.end_to_end", *trls]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield said
        finally:
            said += process.communicate()[0].split()
    assert process.returncode == 0, "a polling client failed; its trace stands above"


def _poll(trls: Sequence[str]) -> None:
    """Poll with several clients until the standard input ends.

    Print the requests of each that were answered, and of all that were not.
    """
    enough = threading.Event()
    requests = [0] * CLIENTS
    refused = [0] * CLIENTS

    def poll(client: int) -> None:
        with tango.EnsureOmniThread():
            proxies = [tango.DeviceProxy(trl) for trl in trls]
            for proxy in proxies:
                proxy.set_timeout_millis(60_000)
            names = [*POLLED, *(["preview"] if client == CLIENTS - 1 else [])]
            due = time.monotonic()
            while not enough.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / POLLING_RATE, time.monotonic())
                for proxy in proxies:
                    try:
                        proxy.read_attributes(names)
                        requests[client] += 1
                    except tango.DevFailed:
                        refused[client] += 1

    threads = [threading.Thread(target=poll, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    enough.set()
    for thread in threads:
        thread.join()
    print(*requests, sum(refused))


# ----------------------------------------------------------------- processes


class _Watch:
    """Memory and time of all processes below this one, and of this one."""

    def __init__(self) -> None:
        self._memory: dict[int, list[tuple[float, float]]] = {}
        self._processes: dict[int, tuple[psutil.Process, str, float]] = {}
        self._busy = _busy()

    def look(self, passed: float) -> None:
        """Note what each takes now."""
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            try:
                if process.pid not in self._processes:
                    used = sum(process.cpu_times()[:2])
                    self._processes[process.pid] = process, _name(process), used
                memory = process.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
            self._memory.setdefault(process.pid, []).append((passed, memory))

    def usage(self, seconds: float) -> tuple[list[Usage], float]:
        """Return what each took that is still there, and what all others of the machine did."""
        found = []
        for pid, (process, name, before) in self._processes.items():
            samples = np.array(self._memory[pid])
            middle = samples[(samples[:, 0] >= seconds / 3) & (samples[:, 0] < seconds * 2 / 3), 1]
            last = samples[samples[:, 0] >= seconds * 2 / 3, 1]
            if process.is_running() and middle.size and last.size:
                cpu = (sum(process.cpu_times()[:2]) - before) / seconds
                found.append(Usage(name, middle.min(), last.min(), samples[:, 1].max(), cpu))
        others = (_busy() - self._busy) / seconds - sum(usage.cpu for usage in found)
        return sorted(found, key=lambda usage: usage.name), max(0.0, others)


def _busy() -> float:
    """Return the time in s that all cores were busy."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _name(process: psutil.Process) -> str:
    """Return what a process is, by its command line."""
    words = process.cmdline()
    if "ronda.core.sinks.scribe" in words:
        return f"file writer of {Path(words[-1]).name}"
    if "ronda.tests.end_to_end" in words:
        return f"{CLIENTS} polling clients"
    if process.pid == psutil.Process().pid:
        return "this program"
    script = next((word for word in words[1:] if not word.startswith("-")), words[0])
    after = words[words.index(script) + 1 :]
    return " ".join([Path(script).name, *after[:1]])


# --------------------------------------------------------------------- files


def read_files(detector: str, folder: Path) -> Files:
    """Return what the files of a device hold, and what is wrong with them."""
    files = Files(ledger=dict.fromkeys((*_LEDGER, "missing_rows"), 0))
    for path in sorted(folder.glob("*.h5"), key=lambda path: path.stat().st_mtime):
        with h5py.File(path) as file:
            entry = file["entry"]
            ledger = {name: int(entry[f"ledger/{name}"][()]) for name in files.ledger}
            photons = entry["photons/frame"].shape[0] if "photons" in entry else 0
            problems = list(_problems(detector, entry, ledger))
        files.number += 1
        files.bytes += path.stat().st_size
        files.rows += ledger["reduced"] - ledger["missing_rows"]
        files.photons += photons
        files.ledger = {name: files.ledger[name] + ledger[name] for name in ledger}
        files.problems += [f"{path.name}: {problem}" for problem in problems]
    return files


_LEDGER = ("received", "reduced", "rejected", "dropped", "lost")


def _problems(detector: str, entry: h5py.Group, ledger: Mapping[str, int]) -> Iterator[str]:
    """Yield what is not as it must be in one file."""
    reduced = ledger["reduced"]
    if (note := _text(entry["end_note"])) != "complete":
        yield f"it ends with {note!r}"
    if ledger["received"] != reduced + ledger["rejected"] + ledger["dropped"]:
        yield f"its ledger does not hold: {ledger}"
    for path, frames in _frame_tables(entry).items():
        if len(frames) != reduced:
            yield f"{path} has {len(frames)} rows of {reduced} frames"
        elif not np.array_equal(frames, np.arange(reduced)):
            yield f"{path} does not count from 0 to {reduced - 1}"
    if (frames := entry["scan/sum"].attrs["frames"]) != reduced:
        yield f"its sum is of {frames} frames, not {reduced}"
    if detector == "balor":
        yield from _photon_problems(entry)
    if detector == "pilatus":
        if not np.nansum(entry["azimuthal/intensity"][()]) > 0:
            yield "there is no powder pattern"
        if not np.isfinite(next(iter(_rois(entry).values()))["x"][()]).all():
            yield "frames have no position"


def _photon_problems(entry: h5py.Group) -> Iterator[str]:
    """Yield where photons are not those of the frame: the same frames come again and again."""
    per_frame = entry["detection/photons_per_frame"][()]
    table = np.bincount(entry["photons/frame"][()], minlength=len(per_frame))
    if not np.array_equal(table, per_frame):
        yield "the photon table does not have the photons of its frames"
    again = per_frame[: len(per_frame) // POOL * POOL].reshape(-1, POOL)
    if not (again == again[:1]).all() or not (per_frame > 0).all():
        yield "the same frame has different photons"


def _frame_tables(entry: h5py.Group) -> dict[str, NDArray[np.int64]]:
    tables = {f"rois/{name}": group["frame"][()] for name, group in _rois(entry).items()}
    if "detection" in entry:
        tables["detection"] = entry["detection/frame"][()]
    return tables


def _rois(entry: h5py.Group) -> dict[str, Any]:
    names = [name.decode() for name in entry["rois/names"][()] if name]
    return {name: entry[f"rois/{name}"] for name in names}


def _text(dataset: h5py.Dataset) -> str:
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)


assert POOL * REPEATS < MAX_SIDE, "the curves of a whole series are served"


if __name__ == "__main__":
    _poll(sys.argv[1:])
