"""A real device says when the beam goes, and is no less well for it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import StartDevice
from ronda.tests.waiting import wait_for
from tango import DevState


def test_no_beam_is_not_said_or_taken_for_a_fault(
    start_device: StartDevice, detector: Replay, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["lit"] = np.full((60, 4, 5), 7, np.int32)
        file["dark"] = np.zeros((30, 4, 5), np.int32)
    served = start_device("PilatusAccumulator", SourceUrl=f"stins+{detector.address}")
    proxy, frames = served.proxy, 0

    def send(name: str, number: int) -> None:
        nonlocal frames
        frames += number
        detector.start(f"hdf5:{tmp_path}/frames.h5::/{name}", filename="")
        assert detector.wait(30), detector.problem
        wait_for(lambda: served.ledger()["reduced"] == frames)

    proxy.Start()
    send("lit", 60)
    assert proxy.beam and "no beam" not in proxy.Status().lower()
    send("dark", 30)
    wait_for(lambda: not proxy.beam)
    assert proxy.counts_mean == 0 and proxy.counts_ratio == 0
    wait_for(lambda: "No beam: the last 20 frames hold 0 % of the counts" in proxy.Status())
    assert proxy.State() == DevState.RUNNING
    send("lit", 60)
    wait_for(lambda: proxy.beam)
    wait_for(lambda: "There was no beam from" in proxy.Status())
    assert ", for 30 frames." in proxy.Status()
    assert proxy.counts_per_frame.tolist() == [140] * 60 + [0] * 30 + [140] * 60
    assert (np.diff(proxy.counts_time) >= 0).all()
