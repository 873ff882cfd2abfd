"""A Pilatus device at work, alone and with five clients that poll it at 100 Hz.

Prints what the device says of itself (latency from the detector's stamp to the
end of the reduction, time in map and reduce) at 10 and at 50 frames/s, and what
the clients saw. Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import tango
from ronda.core.simulation import simulate_powder
from ronda.devices.system import running
from tango import DevState

CLIENTS, POLLING_RATE, SECONDS = 5, 100.0, 8.0
NAMES = ["frame_id", "frames_reduced", "accumulated_total", "input_rate", "State"]
CONFIG = Path(__file__).parents[2] / "config" / "demo.json"


def poll(trl: str) -> None:
    """Read a few attributes at a set rate for some seconds; print how often that worked."""
    device = tango.DeviceProxy(trl)
    reads, begin = 0, time.monotonic()
    while (now := time.monotonic()) < begin + SECONDS:
        device.read_attributes(NAMES)
        reads += 1
        time.sleep(max(0.0, begin + reads / POLLING_RATE - now))
    print(reads)


def measure(simulator: tango.DeviceProxy, pilatus: tango.DeviceProxy, rate: float, clients: int):
    """Return latencies and processing times in ms, polling rate, and frames not reduced."""
    simulator.rate, simulator.series = rate, 0
    before = pilatus.frames_received
    trl = f"tango://{pilatus.get_db_host()}:{pilatus.get_db_port()}/{pilatus.dev_name()}"
    simulator.Start()
    while pilatus.frames_received < before + 10:
        time.sleep(0.02)
    pollers = [
        subprocess.Popen([sys.executable, __file__, trl], stdout=subprocess.PIPE, text=True)
        for _ in range(clients)
    ]
    seen: dict[int, tuple[float, float]] = {}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        values = pilatus.read_attributes(["frame_id", "latency", "processing_time"])
        frame, latency, processing = (value.value for value in values)
        seen[frame] = (1e3 * latency, 1e3 * processing)
        time.sleep(0.5 / rate)
    polls = sum(int(poller.communicate()[0]) for poller in pollers) / SECONDS
    simulator.Stop()
    while simulator.State() != DevState.STANDBY or pilatus.frames_queued:
        time.sleep(0.02)
    unreduced = pilatus.frames_received - pilatus.frames_reduced + pilatus.frames_lost
    return np.array(list(seen.values())), polls, unreduced


def main() -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "powder.h5"
        with h5py.File(source, "w") as file:
            file["data"] = simulate_powder(frames=30).frames
        values = {"SOURCE": f"hdf5:{source}", "TRUTH": ""}
        with running(CONFIG, Path(folder) / "out", values) as system:
            simulator = system.proxy("demo/detector/pilatus")
            pilatus = system.proxy("demo/reduction/pilatus")
            simulator.filename = ""
            pilatus.AddRoi("ring=100,100,200,150")
            pilatus.Start()
            print("831 x 1475 float32, one worker, sum + one ROI; ms: median / 99th percentile")
            print("frames/s  clients  polls/s      latency        map + reduce   not reduced")
            for rate in (10.0, 50.0):
                for clients in (0, CLIENTS):
                    times, polls, unreduced = measure(simulator, pilatus, rate, clients)
                    middle, most = np.median(times, axis=0), np.percentile(times, 99, axis=0)
                    print(
                        f"{rate:8.0f} {clients:8d} {polls:8.0f}"
                        f" {middle[0]:8.1f} / {most[0]:6.1f} {middle[1]:8.1f} / {most[1]:6.1f}"
                        f" {unreduced:8d}"
                    )


if __name__ == "__main__":
    poll(sys.argv[1]) if len(sys.argv) > 1 else main()
