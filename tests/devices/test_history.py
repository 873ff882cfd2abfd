"""Whoever changes something is named: by user, program and process, for every way to change it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tango
from ronda.core.sources.replay import Replay
from ronda.tests.devices.conftest import Served, StartDevice, refusal
from ronda.tests.waiting import wait_for

ME = f"{psutil.Process().username()}@localhost"


@pytest.fixture
def pilatus(start_device: StartDevice, detector: Replay, tmp_path: Path) -> Served:
    """A device that reads the detector."""
    return start_device(
        "PilatusAccumulator", SourceUrl=f"stins+{detector.address}", OutputRoot=str(tmp_path)
    )


def said(device: Served) -> list[str]:
    """Return what was done, without the times."""
    return [line.partition(" ")[2] for line in device.proxy.history]


def test_every_way_to_change_something_names_its_client(pilatus: Served) -> None:
    pilatus.proxy.photon_energy = 13.5
    pilatus.proxy.AddRoi("peak=1,1,2,2")
    pilatus.proxy.mask = [[0, 1], [1, 0]]
    pilatus.proxy.Start()
    pilatus.proxy.ClearAccumulation()
    pilatus.proxy.Stop()
    pilatus.proxy.Reset()
    process = psutil.Process()
    me = f"{ME} ({process.name()}, process {process.pid})"
    started, energy, roi, mask, *asked = said(pilatus)
    assert started == "the device itself: started"
    assert energy == f"{me}: parameters 1: photon_energy null -> 13.5"
    assert roi.startswith(f"{me}, AddRoi peak=1,1,2,2: parameters 2: rois")
    assert mask.startswith(f'{me}: parameters 3: mask_file "" ->')
    assert asked == [f"{me}: {what}" for what in ("Start", "ClearAccumulation", "Stop", "Reset")]


def test_two_clients_are_told_apart(pilatus: Served) -> None:
    change = f"import tango; tango.DeviceProxy('{pilatus.trl}').photon_energy = 8"
    other = subprocess.Popen([sys.executable, "-c", change])
    assert other.wait(30) == 0
    pilatus.proxy.photon_energy = 9
    theirs, mine = said(pilatus)[-2:]
    assert theirs.endswith("photon_energy null -> 8.0")
    assert f"process {other.pid})" in theirs
    assert f"process {os.getpid()})" in mine


def test_who_began_it_anew_in_a_series_and_with_what_is_not_said(
    pilatus: Served, detector: Replay, frames_file: Path
) -> None:
    detector.start(f"hdf5:{frames_file}", series=0, filename="")
    pilatus.proxy.Start()
    pilatus.wait_until_reduced(10)
    begin_anew = (
        f"import tango; device = tango.DeviceProxy('{pilatus.trl}'); "
        "device.put_property({'Workers': '2', 'InputRoots': '/there'}); device.Init()"
    )
    other = subprocess.Popen([sys.executable, "-c", begin_anew])
    assert other.wait(30) == 0
    detector.stop()
    pilatus.proxy.Init()
    theirs, mine = said(pilatus)[-2:]
    assert f"process {other.pid})" in theirs
    assert theirs.endswith('): Init: InputRoots [] -> ["/there"], Workers 4 -> 2')
    assert mine.endswith(f"process {os.getpid()}): Init")


def test_what_was_refused_is_not_said_to_be_done(pilatus: Served) -> None:
    before = said(pilatus)
    assert "photon_energy" in refusal(lambda: setattr(pilatus.proxy, "photon_energy", -1))
    assert said(pilatus) == before


def test_it_outlives_the_device_and_reaches_a_subscriber(pilatus: Served) -> None:
    pilatus.proxy.photon_energy = 13.5
    pilatus.set_up(Workers="2")
    started, _, begun_anew = said(pilatus)
    assert started.endswith(": started")
    assert begun_anew.endswith(": Init: Workers 4 -> 2")
    seen: list[tuple[str, ...]] = []

    def note(event: tango.EventData) -> None:
        seen.append(tuple(event.attr_value.value))

    number = pilatus.proxy.subscribe_event("history", tango.EventType.CHANGE_EVENT, note)
    pilatus.proxy.photon_energy = 14
    wait_for(lambda: bool(seen) and seen[-1][-1].endswith("13.5 -> 14.0"))
    pilatus.proxy.unsubscribe_event(number)
