"""The source lima: against a device that speaks the interface of LimaCCDs."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.frame import Away, Frame, Lost, Notice, Rejected, SeriesEnd, SeriesStart
from ronda.core.sources import SourceError, open_source
from ronda.core.sources.base import Event
from ronda.devices.lima_camera import raw_file
from ronda.tests.clients.commands import RONDA
from ronda.tests.devices import lima_device
from ronda.tests.devices.conftest import Served, StartDevice
from ronda.tests.waiting import wait_for

PROGRAM = Path(lima_device.__file__)


class Reading:
    """A source that is read in a thread, from now on."""

    def __init__(self, camera: Served) -> None:
        self.source = open_source(url(camera))
        self.events: list[Event] = []
        self.error = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        looks = camera.proxy.looks
        self._thread.start()
        # one look to know it, one to join; then it listens
        wait_for(lambda: self.error or camera.proxy.looks >= looks + 3)

    def _read(self) -> None:
        try:
            for event in self.source.events():
                self.events.append(event)
        except SourceError as error:
            self.error = str(error)

    def of(self, *kinds: type) -> list[Any]:
        """Return the events of some kinds so far."""
        return [event for event in self.events if isinstance(event, kinds)]

    def wait_for(self, kind: type, number: int = 1) -> None:
        """Wait until so many events of a kind came."""
        wait_for(lambda: len(self.of(kind)) >= number)

    def stop(self) -> None:
        """Close the source, and wait until it ended."""
        self.source.close()
        self._thread.join(60)
        assert not self._thread.is_alive()


def url(camera: Served) -> str:
    """Return the URL of a camera as a source."""
    return "lima" + camera.trl.removeprefix("tango")


@pytest.fixture(scope="module")
def shared(start_shared: StartDevice) -> Served:
    """One camera for all tests that do not break it."""
    return start_shared("LimaCCDs", program=PROGRAM)


@pytest.fixture
def camera(shared: Served) -> Served:
    """A camera at rest, as after switching on."""
    shared.proxy.stopAcq()
    wait_for(lambda: shared.proxy.acq_status == "Ready")
    shared.proxy.Init()
    return shared


@pytest.fixture
def reading(camera: Served) -> Iterator[Reading]:
    """A source that reads the camera."""
    running = Reading(camera)
    yield running
    running.stop()


def begin(camera: Served, images: int, **settings: float | str) -> None:
    """Have the camera begin to take images."""
    for name, value in {"acq_nb_frames": images, **settings}.items():
        camera.proxy.write_attribute(name, value)
    camera.proxy.prepareAcq()
    camera.proxy.startAcq()


def acquire(camera: Served, images: int, **settings: float | str) -> None:
    """Have the camera take images, and wait until it has."""
    begin(camera, images, **settings)
    wait_for(lambda: camera.proxy.acq_status == "Ready")


@pytest.mark.parametrize("rate", [0.0, 2000.0, 100.0])
def test_an_image_is_not_read_or_twice(camera: Served, reading: Reading, rate: float) -> None:
    images = 300 if rate != 100.0 else 30
    acquire(camera, images, rate=rate, first=5.0)
    reading.wait_for(SeriesEnd)
    kinds = [type(event) for event in reading.events]
    assert kinds == [SeriesStart, *[Frame] * images, SeriesEnd]
    frames = reading.of(Frame)
    assert [frame.frame_id for frame in frames] == list(range(images))
    for frame in frames:
        np.testing.assert_array_equal(frame.data, np.full((5, 6), 5 + frame.frame_id))
    assert frames[0].dtype == np.int32
    assert not reading.events[0].series.joined_late


def test_images_that_were_overwritten_are_not_counted(camera: Served, reading: Reading) -> None:
    acquire(camera, 300, rate=1000.0, buffer_max_number=8, hanging=0.02)
    reading.wait_for(SeriesEnd)
    frames, lost = reading.of(Frame), sum(event.count for event in reading.of(Lost))
    assert lost > 0
    assert len(frames) + lost == 300
    numbers = [frame.frame_id for frame in frames]
    assert numbers == sorted(set(numbers))
    assert all(frame.data[0, 0] == 1 + frame.frame_id for frame in frames)


def test_acquisitions_run_into_each_other(camera: Served, reading: Reading) -> None:
    for number in (1, 2, 3):
        acquire(camera, 7, first=100.0 * number)
        reading.wait_for(SeriesEnd, number)
    series = [event.series for event in reading.of(SeriesStart)]
    assert len({one.run_id for one in series}) == 3
    for number, one in enumerate(series):
        frames = [frame for frame in reading.of(Frame) if frame.series is one]
        assert [frame.frame_id for frame in frames] == list(range(7))
        assert [frame.data[0, 0] for frame in frames] == [
            100 * (number + 1) + place for place in range(7)
        ]
    assert not reading.of(Lost, Rejected)


def test_images_of_an_acquisition_that_another_followed_at_once_are_not_counted(
    camera: Served, reading: Reading
) -> None:
    for number in range(10):
        acquire(camera, 5, rate=200.0, first=100.0 * number)
    reading.wait_for(SeriesEnd, 10)
    values = [int(frame.data[0, 0]) for frame in reading.of(Frame)]
    assert values == sorted(set(values))
    assert len(values) + sum(event.count for event in reading.of(Lost)) == 50


def test_an_acquisition_that_is_broken_off_does_not_end(camera: Served, reading: Reading) -> None:
    begin(camera, 0, rate=100.0)
    reading.wait_for(Frame, 5)
    camera.proxy.stopAcq()
    reading.wait_for(SeriesEnd)
    assert len(reading.of(Frame)) == camera.proxy.last_image_ready + 1


def test_images_from_before_we_came_are_read(camera: Served) -> None:
    begin(camera, 0, rate=100.0)
    wait_for(lambda: camera.proxy.last_image_ready >= 10)
    reading = Reading(camera)
    reading.wait_for(Frame, 5)
    camera.proxy.stopAcq()
    reading.wait_for(SeriesEnd)
    reading.stop()
    numbers = [frame.frame_id for frame in reading.of(Frame)]
    assert reading.events[0].series.joined_late
    assert numbers[0] > 10
    assert numbers == list(range(numbers[0], camera.proxy.last_image_ready + 1))


def test_an_old_acquisition_is_read(camera: Served) -> None:
    acquire(camera, 5)
    reading = Reading(camera)
    acquire(camera, 3, first=50.0)
    reading.wait_for(SeriesEnd)
    reading.stop()
    assert [frame.data[0, 0] for frame in reading.of(Frame)] == [50, 51, 52]


def test_a_series_does_not_say_what_it_is(camera: Served, reading: Reading) -> None:
    acquire(camera, 2, saving_mode="AUTO_FRAME", saving_directory="/data/raw/", saving_prefix="a_")
    reading.wait_for(SeriesEnd)
    series = reading.events[0].series
    assert series.filename == "/data/raw/a_0000.h5"
    assert series.detector == "Simulated 6x5"
    assert series.metadata["acq_nb_frames"] == 2
    assert series.metadata["acq_expo_time"] == 0.001
    acquire(camera, 2, saving_mode="MANUAL")
    reading.wait_for(SeriesEnd, 2)
    assert reading.of(SeriesStart)[1].series.filename == ""


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_lima_is_not_understood(camera: Served, reading: Reading, version: int) -> None:
    acquire(camera, 3, version=version)
    reading.wait_for(SeriesEnd)
    assert [frame.data[0, 0] for frame in reading.of(Frame)] == [1, 2, 3]


def test_an_image_that_is_cut_off_ends_the_source(camera: Served, reading: Reading) -> None:
    acquire(camera, 3, truncating=1)
    reading.wait_for(SeriesEnd)
    assert [event.frame_id for event in reading.of(Rejected)] == [0, 1, 2]
    assert "119 bytes of pixels" in reading.of(Rejected)[0].reason
    acquire(camera, 3, truncating=0)
    reading.wait_for(Frame, 3)


def test_closing_waits_for_a_camera_that_hangs(camera: Served, reading: Reading) -> None:
    begin(camera, 1, hanging=2.5)
    reading.wait_for(SeriesStart)
    reading.stop()
    left = [thread for thread in threading.enumerate() if thread.name == "ronda-lima"]
    assert left, "the source ended only after the call that hung"
    for thread in left:
        thread.join()
    assert not reading.of(Frame)


def test_a_camera_without_events_is_not_read(start_device: StartDevice) -> None:
    camera = start_device("LimaCCDs", program=PROGRAM, TangoEvent="False")
    reading = Reading(camera)
    for number, first in enumerate((1.0, 101.0), 1):
        acquire(camera, 60, rate=100.0, first=first)
        reading.wait_for(SeriesEnd, number)
    reading.stop()
    values = [int(frame.data[0, 0]) for frame in reading.of(Frame)]
    assert values == [*range(1, 61), *range(101, 161)]
    (notice,) = reading.of(Notice)
    assert "TangoEvent" in notice.text
    assert not reading.of(Lost)


@pytest.mark.allow_error_log
def test_a_camera_that_is_started_anew_is_lost(start_device: StartDevice) -> None:
    camera = start_device("LimaCCDs", program=PROGRAM)
    reading = Reading(camera)
    begin(camera, 0, rate=100.0)
    reading.wait_for(Frame, 5)
    camera.process.kill()
    reading.wait_for(Away)
    assert "waiting for it" in reading.of(Away)[0].reason
    again = start_device("LimaCCDs", camera.name, program=PROGRAM)
    acquire(again, 300, first=1000.0)
    reading.wait_for(SeriesEnd, 2)
    reading.stop()
    assert [event.reason == "" for event in reading.of(Away)] == [False, True]
    last = reading.of(SeriesStart)[1].series
    frames = [frame for frame in reading.of(Frame) if frame.series is last]
    assert [frame.data[0, 0] for frame in frames] == list(range(1000, 1300))
    assert not last.joined_late


def test_a_camera_that_is_not_there_is_waited_for_without_a_word(camera: Served) -> None:
    for wrong in (url(camera) + "x", url(camera).replace(camera.name, "sys/database/2")):
        with pytest.raises(SourceError, match="cannot be read: "):
            list(open_source(wrong).events())


@pytest.mark.parametrize(
    "wrong", ["lima://a/b", "lima://h:1/a/b/c/d", "lima:a/b/c", "lima://a b/c/d"]
)
def test_a_url_of_another_form_is_taken(wrong: str) -> None:
    with pytest.raises(SourceError, match="not of the form lima://"):
        open_source(wrong)


def test_the_sum_of_a_live_device_is_wrong(camera: Served, start_device: StartDevice) -> None:
    pilatus = start_device("PilatusAccumulator", SourceUrl=url(camera))
    pilatus.proxy.Start()
    wait_for(lambda: camera.proxy.looks > 3)
    acquire(camera, 300, rate=1000.0)
    pilatus.wait_until_reduced(300)
    acquire(camera, 100, first=1000.0)
    pilatus.wait_until_reduced(400)
    total = sum(range(1, 301)) + sum(range(1000, 1100))
    np.testing.assert_array_equal(pilatus.proxy.accumulated_image, np.full((5, 6), total))
    ledger = pilatus.ledger()
    assert ledger["received"] == ledger["reduced"] == 400
    assert ledger["lost"] == ledger["rejected"] == ledger["dropped"] == 0
    pilatus.stop()


def test_ronda_run_knows_no_cameras(camera: Served, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    process = subprocess.Popen(
        [*RONDA, "run", "pilatus", "--source", url(camera), "--output", out],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: camera.proxy.looks > 3 or process.poll() is not None)
    acquire(camera, 20)
    wait_for(lambda: out.exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "20 frames received = 20 reduced" in said
    with h5py.File(out) as file:
        assert file["entry"]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "/d/p_0003.edf"),
        ({"saving_mode": "MANUAL"}, ""),
        ({"saving_mode": "AUTO_HEADER"}, "/d/p_0003.edf"),
        ({"saving_directory": ""}, ""),
        ({"saving_index_format": "%d"}, "/d/p_3.edf"),
        ({"saving_index_format": "%06d"}, "/d/p_000003.edf"),
        ({"saving_index_format": "%s%s%n%999999999d"}, "/d/p_0003.edf"),
        ({"last_image_saved": 1, "saving_frame_per_file": 1}, "/d/p_0001.edf"),
        ({"last_image_saved": 1, "saving_frame_per_file": 10}, "/d/p_0003.edf"),
        ({"last_image_saved": 1, "saving_frame_per_file": 0}, "/d/p_0001.edf"),
        ({"last_image_saved": 9, "saving_overwrite_policy": "APPEND"}, "/d/p_0003.edf"),
        ({"last_image_saved": 9}, "/d/p_0000.edf"),
        ({"saving_prefix": "x\ny"}, ""),
        ({"saving_prefix": "x" * 5000}, ""),
        ({"saving_next_number": "many"}, "/d/p_0000.edf"),
    ],
)
def test_the_raw_file_has_another_name(values: dict[str, Any], name: str) -> None:
    usual = {
        "saving_mode": "AUTO_FRAME",
        "saving_directory": "/d",
        "saving_prefix": "p_",
        "saving_suffix": ".edf",
        "saving_next_number": 3,
        "last_image_saved": -1,
    }
    assert raw_file({**usual, **values}) == name
