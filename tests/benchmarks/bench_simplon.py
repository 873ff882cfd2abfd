"""The Bragg device at the stream of an Eiger 4M: the highest rate at which nothing is lost.

A DetectorSimulator in a process of its own sends 60 frames again and again, bslz4 in
SIMPLON's stream V2; a BraggSparsifier in another one decodes, sparsifies and writes them
with two workers on the CPU, or as it is told. The rate falls from what it does at most until
it keeps up: nothing lost, dropped or rejected, no queue at the end, the sender not kept
waiting. That rate is then held for 1200 frames; what is printed is the rate at which the
sender really sent. Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tango
from ronda.devices.database import LOOPBACK, free_port
from ronda.devices.registration import Server
from ronda.devices.system import System
from tango import DevState

POOL = 60
"""Different frames, compressed once; they are a series."""
SERIES = 4
"""That are sent to see whether a rate is worth the whole number of frames."""
FEW = 10
"""Frames that may be queued when the last one was sent."""
LATE = 1.15
"""The sender may take so much longer than it should; what it did is what counts."""
STEP, LEAST = 0.93, 0.5
"""Share of a rate that is tried after it; where trying ends."""
SENDER, DEVICE = "bench/simplon/detector", "bench/simplon/bragg"


@dataclass(frozen=True)
class Load:
    """What came of a number of frames at a set rate."""

    frames: int
    seconds: float
    """From the first frame sent to the last one."""
    rate: float
    """As asked for, in 1/s; 0: as fast as it goes."""
    missing: int
    """Frames lost, dropped or rejected."""
    queued: int
    """Frames that waited when the last one was sent."""
    latency: tuple[float, float]
    """Median and 99th percentile in s, from the detector's stamp to the end of the reduction."""
    cpu: dict[str, float]
    """Share of one core that each device took, the writer of its files included."""

    @property
    def sustained(self) -> bool:
        """Whether it would go on like this."""
        on_time = self.seconds * self.rate <= LATE * self.frames
        return on_time and not self.missing and self.queued <= FEW


def send(
    simulator: tango.DeviceProxy, bragg: tango.DeviceProxy, rate: float, series: int, name: str = ""
) -> Load:
    """Send the simulator's frames so often at a rate, and wait until all are reduced."""
    simulator.rate, simulator.series, simulator.filename = rate or 100_000.0, series, name
    before, sent = counts(bragg), simulator.images_sent
    simulator.Start()
    while simulator.images_sent == sent:
        time.sleep(0.001)
    begin, used = time.monotonic(), {one.dev_name(): cpu(one) for one in (simulator, bragg)}
    latencies = []
    while simulator.state() == DevState.RUNNING:
        latencies.append(bragg.latency)  # NaN before the first
        time.sleep(0.01)
    seconds, queued = time.monotonic() - begin, bragg.frames_queued
    while bragg.frames_queued or counts(bragg)["received"] < simulator.expected_received:
        time.sleep(0.01)
    whole = time.monotonic() - begin
    after = counts(bragg)
    return Load(
        frames=simulator.images_sent - sent,
        seconds=seconds if rate else whole,
        rate=rate,
        missing=sum(after[kind] - before[kind] for kind in ("lost", "dropped", "rejected")),
        queued=queued,
        latency=(percentile(latencies, 50), percentile(latencies, 99)),
        cpu={
            one.dev_name(): (cpu(one) - used[one.dev_name()]) / whole for one in (simulator, bragg)
        },
    )


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile of the values that are numbers; NaN: there is none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.percentile(known, percent)) if known else np.nan


def counts(bragg: tango.DeviceProxy) -> dict[str, int]:
    """Return the device's counts of frames."""
    names = ("received", "reduced", "rejected", "dropped", "lost")
    return {name: bragg.read_attribute(f"frames_{name}").value for name in names}


def cpu(proxy: tango.DeviceProxy) -> float:
    """Return the seconds of CPU time that a device's processes took so far."""
    server = psutil.Process(proxy.get_device_db().get_device_info(proxy.dev_name()).pid)
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def highest(simulator: tango.DeviceProxy, bragg: tango.DeviceProxy, frames: int) -> Load | None:
    """Find the highest rate that is sustained for so many frames; print what was tried."""
    for _ in range(2):  # the first time kernels are compiled and memory is new
        most = send(simulator, bragg, 0.0, SERIES)
    rate = most.frames / most.seconds
    least = LEAST * rate
    print(f"  as fast as it goes: {rate:.1f} frames/s")
    while rate > least:
        for series in (SERIES, -(-frames // POOL)):
            load = send(simulator, bragg, rate, series, f"/bench/scan-{rate:.2f}-{series}.h5")
            print(
                f"  {rate:6.1f} frames/s, {load.frames} frames: missing {load.missing}, "
                f"queued {load.queued}, sent at {load.frames / load.seconds:.1f} frames/s"
            )
            if not load.sustained:
                break
        else:
            return load
        rate *= STEP
    return None


def measure(bits: int, asked: argparse.Namespace) -> None:
    """Measure with pixels of so many bits, and print it."""
    rows, columns = asked.shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"simplon2+tcp://{LOOPBACK}:{free_port()}"
        source = f"simulated:eiger?frames={POOL}&rows={rows}&columns={columns}&bits={bits}"
        sender = {"SourceUrl": [f"{source}&poni={folder / 'eiger.poni'}"], "PublishUrl": [url]}
        reader = {
            "SourceUrl": [url],
            "Workers": [str(asked.workers)],
            "ComputeDevice": [asked.device],
            "StateDirectory": [str(folder / "state")],
            "OutputRoot": [str(folder / "out")],
            "InputRoots": [name],
        }
        servers = [
            Server("DetectorSimulator", "bench", {SENDER: ("DetectorSimulator", sender)}),
            Server("BraggSparsifier", "bench", {DEVICE: ("BraggSparsifier", reader)}),
        ]
        system = System(servers, folder)
        try:
            simulator, bragg = system.proxy(SENDER), system.proxy(DEVICE)
            while bragg.state() == DevState.INIT:
                time.sleep(0.1)
            simulator.filename = ""
            bragg.Start()
            send(simulator, bragg, 100.0, 1)  # which writes the PONI file
            bragg.poni_file = str(folder / "eiger.poni")
            bragg.Reset()
            print(
                f"{rows} x {columns} uint{bits}, {asked.workers} workers on {asked.device}, "
                f"{os.cpu_count()} cores"
            )
            load = highest(simulator, bragg, asked.frames)
            if load is None:
                print("  nothing was sustained")
                return
            blob = bragg.compression_ratio
            print(
                f"  sustained: {load.frames / load.seconds:.1f} frames/s for {load.frames} frames, "
                f"latency "
                f"{1e3 * load.latency[0]:.0f} ms (99th percentile {1e3 * load.latency[1]:.0f} ms), "
                f"CPU {100 * load.cpu[DEVICE]:.0f} % of a core for the device and its writer, "
                f"{100 * load.cpu[SENDER]:.0f} % for the sender, {blob:.0f} times fewer bytes kept"
            )
        finally:
            system.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1200, help="frames that the rate is held for")
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 16], help="of a pixel")
    parser.add_argument("--shape", type=int, nargs=2, default=(2167, 2070), help="rows, columns")
    parser.add_argument("--workers", type=int, default=2, help="of the device")
    parser.add_argument("--device", default="cpu", help="what computes: cpu, gpu, opencl...")
    asked = parser.parse_args()
    for bits in asked.bits:
        measure(bits, asked)


if __name__ == "__main__":
    main()
