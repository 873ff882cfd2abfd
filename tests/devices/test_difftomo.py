"""The device of diffraction tomography: a scan live is the scan offline, whatever happens in it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.runner import Runner
from ronda.core.sources import open_source
from ronda.devices.difftomo import DiffTomoIntegrator
from ronda.tests.core.tomography.phantom import PHANTOM, write_poni
from ronda.tests.devices.conftest import Served, StartDevice, refusal
from ronda.tests.devices.simulated_tomography import (
    AGAIN,
    POINTS,
    ROTATION,
    SIDE,
    STEP,
    TRANSLATION,
    Beamline,
    TomographyScan,
)
from ronda.tests.waiting import wait_for
from tango import DevState, EventType

MISSING, TWICE = (17, 300, 395), (30, 60)
"""Frames that are lost on their way, and that come twice."""
SETTINGS: dict[str, Any] = {
    "n_translations": SIDE,
    "n_rotations": SIDE,
    "n_diffraction": 60,
    "solid_angle": False,
    "zigzag": True,
}
RANGES = ["first=8.5,11.5", "second=12.5,15.5", "third=16.5,19.5"]
SHOWN = {"radial_ranges": RANGES, "sinogram_of": "second", "reconstruct": True}


@pytest.fixture(scope="module")
def scan() -> TomographyScan:
    """The scan that all tests measure."""
    return TomographyScan()


@pytest.fixture(scope="module")
def poni(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the detector stands."""
    return write_poni(tmp_path_factory.mktemp("geometry"))


@pytest.fixture
def beamline(scan: TomographyScan) -> Iterator[Beamline]:
    """A detector; frames are placed by their numbers."""
    made = Beamline(scan)
    yield made
    made.close()


@pytest.fixture
def tomograph(start_device: StartDevice, beamline: Beamline, poni: str, tmp_path: Path) -> Served:
    """A device that reads that detector, running."""
    device = start_device("DiffTomoIntegrator", **places(beamline, poni, tmp_path))
    put(device, {"poni_file": poni, **SETTINGS})
    device.proxy.Start()
    return device


def places(beamline: Beamline, poni: str, folder: Path) -> dict[str, str]:
    """Return the properties of a device that reads a detector."""
    roots = {"OutputRoot": str(folder / "out"), "InputRoots": str(Path(poni).parent)}
    return {"SourceUrl": beamline.url, **roots}


def put(device: Served, values: dict[str, Any]) -> None:
    """Write parameters as attributes; choices by what they are called."""
    for name, value in values.items():
        labels = list(device.proxy.get_attribute_config(name).enum_labels)
        setattr(device.proxy, name, labels.index(value) if value in labels else value)


def complete(path: Path) -> Path:
    """Wait until a file is complete, so that plain readers can open it."""

    def is_complete() -> bool:
        try:
            with h5py.File(path) as file:
                return "program_name" in file["entry_0000"]
        except OSError:
            return False

    wait_for(is_complete)
    return path


def map_in(path: Path) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the numbers of the frames in a file's map, and the patterns."""
    with h5py.File(complete(path)) as file:
        result = file["entry_0000/pyFAI/result"]
        return result["map_ptr"][()], result["intensity"][()]


# ----------------------------------------------------------------- live, offline


def offline(url: str, values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return what a runner without Tango makes of a recording."""
    runner = Runner(
        DiffTomoIntegrator.stage_class(),
        DiffTomoIntegrator.stage_class.Parameters().changed(values),
        workers=4,
    )
    runner.start(lambda: open_source(url))
    runner.wait()
    found = dict(runner.latch(names).values)
    runner.close()
    return found


def test_a_scan_with_missing_and_repeated_frames_differs_live_from_offline(
    start_device: StartDevice,
    scan: TomographyScan,
    poni: str,
    tmp_path: Path,
    free_ports: list[int],
) -> None:
    url, positions = f"simplon2+tcp://127.0.0.1:{free_ports[0]}", free_ports[1]
    positions_url = f"sardana+http://127.0.0.1:{positions}"
    recording = scan.write(tmp_path / "whole.cbors.gz")
    simulator = start_device(
        "DetectorSimulator", SourceUrl=recording, PublishUrl=url, PositionsUrl=positions_url
    )
    device = start_device(
        "DiffTomoIntegrator",
        SourceUrl=url,
        PositionsUrl=positions_url,
        OutputRoot=str(tmp_path / "out"),
        InputRoots=str(Path(poni).parent),
    )
    values = {"poni_file": poni, **SETTINGS, "zigzag": False, "place_by": "motors"}
    put(device, values)
    shown = device.proxy
    pushed: dict[str, list[Any]] = {"progress": [], "sinogram": []}

    def take(event: Any) -> None:
        if not event.err:
            pushed[event.attr_value.name].append(event.attr_value.value)

    ids = [shown.subscribe_event(name, EventType.CHANGE_EVENT, take) for name in pushed]
    for kind, frames in (("drop", MISSING), ("duplicate", TWICE), ("stall", (200,))):
        for number in frames:
            simulator.proxy.InjectFault(f"{kind} {number} 2")
    simulator.proxy.rate = 300.0
    shown.Start()
    simulator.proxy.Start()
    wait_for(lambda: shown.points_measured > 190)
    # while it pauses: what is set now is of the whole map
    assert 45 < shown.progress < 60
    assert 0 < shown.time_left < 60
    put(device, SHOWN)
    shown.point_rotation, shown.point_translation = 2, 5
    assert np.isfinite(shown.sinogram[5]).all()
    assert np.isnan(shown.sinogram[15]).all()
    device.wait_until_reduced(POINTS - len(MISSING))
    counts = device.ledger()
    assert counts["lost"] == len(MISSING)
    assert counts["rejected"] == len(TWICE)
    wait_for(lambda: shown.points_measured == SIDE * SIDE - len(MISSING))
    assert shown.points_missing == len(MISSING)
    assert shown.frames_repeated == len(AGAIN)
    assert shown.frames_waiting == shown.frames_extra == shown.frames_off_grid == 0
    wait_for(lambda: "3 of 400 positions were not measured" in shown.status())
    assert "2 frames were taken at positions measured before" in shown.status()
    simulator.wait_for_state(DevState.STANDBY)
    path = complete(tmp_path / "out" / "scan-0007_detector_difftomo.h5")
    wanted = scan.frame_map(set(range(POINTS)) - set(MISSING))
    np.testing.assert_array_equal(shown.frame_map, wanted)
    np.testing.assert_array_equal(np.isnan(shown.sinogram), wanted < 0)

    cut = scan.write(tmp_path / "cut.cbors.gz", missing=MISSING)
    asked = {**values, **SHOWN, "point_rotation": 2, "point_translation": 5}
    names = [one.name for one in DiffTomoIntegrator.stage_class.outputs if one.live]
    expected = offline(cut, asked, names)
    wait_for(lambda: same(shown.reconstruction, expected["reconstruction"]))
    for name in names:
        if name not in ("time_left", "pattern"):
            live = shown.read_attribute(name).value
            live = () if live is None else live
            np.testing.assert_array_equal(live, expected[name], err_msg=name)
    frame_map, patterns = map_in(path)
    np.testing.assert_array_equal(frame_map, wanted)
    assert np.isnan(patterns[wanted < 0]).all()
    np.testing.assert_array_equal(patterns[2, 5], np.float32(shown.point_pattern))
    found_where_it_is(shown.reconstruction)
    wait_for(lambda: pushed["progress"][-1] == shown.progress)
    assert len(pushed["sinogram"]) > 3
    for number in ids:
        shown.unsubscribe_event(number)


def same(found: Any, wanted: Any) -> bool:
    """Tell whether two images are the same."""
    return np.shape(found) == np.shape(wanted) and np.array_equal(found, wanted, True)


def found_where_it_is(image: NDArray[np.float64]) -> None:
    """Check that the second disc of the phantom is where it stands in a cross-section."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    there = image > 0.5 * np.nanmax(image)
    place = STEP * x[there].mean(), STEP * y[there].mean()
    assert place == pytest.approx((PHANTOM[1].x, PHANTOM[1].y), abs=0.5)


@pytest.fixture
def free_ports() -> list[int]:
    """Two TCP ports of loopback that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


# ------------------------------------------------------------- what happens meanwhile


def test_a_scan_does_not_go_on_after_stop_and_start_or_a_kill(
    tomograph: Served,
    beamline: Beamline,
    poni: str,
    tmp_path: Path,
    start_device: StartDevice,
) -> None:
    def measure(device: Served, first: int, end: int) -> None:
        """Have the frames of some points measured and reduced."""
        before = device.proxy.frames_reduced
        beamline.measure(range(first, end))
        device.wait_until_reduced(before + end - first)

    beamline.begin()
    measure(tomograph, 0, 100)
    tomograph.proxy.Stop()
    tomograph.wait_for_state(DevState.STANDBY)
    assert tomograph.proxy.points_measured == 100
    tomograph.proxy.Start()
    tomograph.wait_for_state(DevState.RUNNING)
    measure(tomograph, 100, 160)
    said = "scan goes on with frame 100 in the map of 100 positions"
    wait_for(lambda: said in tomograph.proxy.status())
    tomograph.proxy.Stop()
    tomograph.wait_for_state(DevState.STANDBY)
    tomograph.proxy.Start()
    tomograph.wait_for_state(DevState.RUNNING)
    measure(tomograph, 160, 200)
    files = tmp_path / "out"
    wait_for(lambda: len(late_files(files)) == 2)
    time.sleep(1.5)  # what is in the file is not older than that
    tomograph.process.kill()
    again = start_device("DiffTomoIntegrator", tomograph.name, **places(beamline, poni, tmp_path))
    again.wait_for_state(DevState.RUNNING)
    np.testing.assert_array_equal(again.proxy.frame_map, by_number(range(200)))
    measure(again, 200, 400)
    beamline.end()
    wanted = by_number(range(400))
    np.testing.assert_array_equal(again.proxy.frame_map, wanted)
    assert again.proxy.points_missing == again.proxy.frames_missed == 0
    again.proxy.Stop()
    again.wait_for_state(DevState.STANDBY)
    first = files / "scan-0007_detector_difftomo.h5"
    ends = (by_number(range(end)) for end in (100, 160, 200))
    for path, one in zip((first, *late_files(files)), (*ends, wanted), strict=True):
        frame_map, patterns = map_in(path)
        np.testing.assert_array_equal(frame_map, one)
        assert np.isfinite(patterns[frame_map >= 0]).all()
        assert np.isnan(patterns[frame_map < 0]).all()


@pytest.mark.parametrize("azimuthal_bins", [0, 3])
def test_a_killed_device_loses_what_was_in_its_file_or_counts_it_twice(
    tomograph: Served,
    beamline: Beamline,
    poni: str,
    tmp_path: Path,
    start_device: StartDevice,
    azimuthal_bins: int,
) -> None:
    put(tomograph, {"azimuthal_bins": azimuthal_bins, "error_model": "poisson"})
    beamline.begin()
    rate, ended = 100.0, threading.Event()

    def go_on() -> None:
        """Have frames come without a pause, whether or not somebody takes them."""
        begin = time.monotonic()
        for point in range(SIDE * SIDE):
            time.sleep(max(begin + point / rate - time.monotonic(), 0))
            beamline.measure([point])
        beamline.end()
        ended.set()

    stream = threading.Thread(target=go_on, daemon=True)
    stream.start()
    wait_for(lambda: tomograph.proxy.points_measured >= 130)
    reduced = tomograph.proxy.points_measured
    tomograph.process.kill()
    again = start_device("DiffTomoIntegrator", tomograph.name, **places(beamline, poni, tmp_path))
    frame_map, patterns = map_in(tmp_path / "out" / "scan-0007_detector_difftomo.h5")
    kept = frame_map >= 0
    assert kept.sum() > reduced - rate  # no older than a second
    np.testing.assert_array_equal(again.proxy.frame_map[kept], frame_map[kept])
    assert "positions that the checkpoint did not have yet were taken" in again.proxy.status()
    ended.wait(60)
    stream.join()
    shown = again.proxy
    wait_for(lambda: shown.frame_map.max() == SIDE * SIDE - 1)
    assert shown.points_measured + shown.frames_missed == SIDE * SIDE
    assert shown.points_missing == shown.frames_missed
    assert shown.frames_repeated == shown.frames_extra == shown.frames_averaged == 0
    if shown.frames_missed:
        said = f"{shown.frames_missed} frames came before the series was joined late"
        wait_for(lambda: said in shown.status())
    wanted = shown.frame_map
    shown.Stop()
    again.wait_for_state(DevState.STANDBY)
    (path,) = late_files(tmp_path / "out")
    found, both = map_in(path)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(both[frame_map >= 0], patterns[frame_map >= 0])
    assert np.isfinite(both[found >= 0]).any(axis=-1).all()
    assert np.isnan(both[found < 0]).all()
    with h5py.File(path) as file:
        assert file["entry_0000/scan/frames_missed"][()] == shown.frames_missed


@pytest.fixture
def motors(scan: TomographyScan, free_ports: list[int]) -> Iterator[Beamline]:
    """A detector, and motors whose positions are posted to the first of the ports."""
    made = Beamline(scan, free_ports[0])
    yield made
    made.close()


def test_a_device_that_is_killed_forgets_where_the_motors_go(
    start_device: StartDevice,
    motors: Beamline,
    poni: str,
    tmp_path: Path,
    scan: TomographyScan,
    free_ports: list[int],
) -> None:
    url = f"sardana+http://127.0.0.1:{free_ports[0]}"
    where = {**places(motors, poni, tmp_path), "PositionsUrl": url}
    device = start_device("DiffTomoIntegrator", **where)
    put(device, {"poni_file": poni, **SETTINGS, "place_by": "motors"})
    device.proxy.Start()
    wait_for(lambda: accepts(free_ports[0]))
    motors.begin()
    motors.measure(range(150))
    wait_for(lambda: device.proxy.points_measured == 150)  # with no frame after the last position
    time.sleep(1.5)  # what is in the file is not older than that
    device.process.kill()
    again = start_device("DiffTomoIntegrator", device.name, **where)
    np.testing.assert_array_equal(again.proxy.frame_map, scan.frame_map(range(150)))
    axes = again.proxy.rotation_values, again.proxy.translation_values
    np.testing.assert_allclose(axes[0], np.linspace(*ROTATION, SIDE))
    np.testing.assert_allclose(axes[1], np.linspace(*TRANSLATION, SIDE))
    wait_for(lambda: accepts(free_ports[0]))
    motors.measure(range(150, POINTS))
    motors.end()
    wait_for(lambda: again.proxy.frames_repeated == len(AGAIN))
    np.testing.assert_array_equal(again.proxy.frame_map, scan.frame_map())
    assert again.proxy.frames_missed == again.proxy.frames_off_grid == 0
    assert again.proxy.frames_waiting == 0
    again.proxy.Stop()
    again.wait_for_state(DevState.STANDBY)


def accepts(port: int) -> bool:
    """Tell whether somebody listens on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def late_files(folder: Path) -> list[Path]:
    """Return the files of series that were joined late, in the order of their making."""
    return sorted(folder.glob("late_*_difftomo*.h5"))


def measured_in(path: Path) -> int:
    """Return how many positions are measured in a file that is being written."""
    try:
        with h5py.File(path, swmr=True) as file:
            return int((file["entry_0000/pyFAI/result/map_ptr"][()] >= 0).sum())
    except (OSError, KeyError):
        return 0


def by_number(frames: Iterable[int]) -> NDArray[np.int32]:
    """Return the frame at each position of a zig-zag scan; -1: none."""
    order = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    order[1::2] = order[1::2, ::-1]
    return np.where(np.isin(order, list(frames)), order, -1).astype(np.int32)


def test_a_map_is_mixed_with_another_scan_or_with_frames_beyond_it(
    tomograph: Served, beamline: Beamline, tmp_path: Path
) -> None:
    shown = tomograph.proxy
    shown.n_rotations = 5
    beamline.begin("/there/first.h5")
    beamline.measure(range(103))
    tomograph.wait_until_reduced(103)
    assert shown.frames_extra == 3
    wait_for(lambda: "3 frames came after the last of 5 x 20 positions" in shown.status())
    assert (shown.progress, shown.time_left, shown.points_missing) == (100, 0, 0)
    np.testing.assert_array_equal(shown.frame_map, by_number(range(100))[:5])
    beamline.end()
    beamline.begin("/there/second.h5")
    beamline.measure([7])
    tomograph.wait_until_reduced(104)
    wanted = np.full((5, SIDE), -1)
    wanted[0, 7] = 7
    np.testing.assert_array_equal(shown.frame_map, wanted)
    assert (shown.frames_extra, shown.points_measured) == (0, 1)
    beamline.end()
    np.testing.assert_array_equal(
        map_in(tmp_path / "out" / "first_difftomo.h5")[0], by_number(range(100))[:5]
    )
    np.testing.assert_array_equal(map_in(tmp_path / "out" / "second_difftomo.h5")[0], wanted)


def test_what_is_shown_of_a_map_is_not_what_was_measured(
    tomograph: Served, beamline: Beamline, scan: TomographyScan
) -> None:
    shown = tomograph.proxy
    beamline.begin("")
    beamline.measure(range(40))
    tomograph.wait_until_reduced(40)
    shown.radial_ranges = RANGES
    radial = shown.radial
    inside = (radial >= 12.5) & (radial <= 15.5)
    put(tomograph, {"sinogram_of": "second", "point_rotation": 1, "point_translation": 3})
    sinogram, pattern = shown.sinogram, shown.point_pattern
    assert sinogram.shape == (SIDE, SIDE)
    assert sinogram[1, 3] == pytest.approx(pattern[inside].sum(), rel=1e-6)
    assert np.isfinite(sinogram[:2]).all()
    assert np.isnan(sinogram[2:]).all()
    mean = shown.mean_pattern
    total = np.zeros_like(mean)
    for row in range(2):
        for column in range(SIDE):
            put(tomograph, {"point_rotation": row, "point_translation": column})
            total += shown.point_pattern
    np.testing.assert_allclose(mean, total / 40, rtol=1e-6)
    shown.point_rotation = 9
    assert np.isnan(shown.point_pattern).all()
    assert shown.rotation_values.tolist() == list(range(SIDE))
    shown.rotation_range = ROTATION
    shown.translation_range = TRANSLATION
    wait_for(lambda: shown.translation_values[-1] == TRANSLATION[1])
    assert shown.rotation_values[-1] == ROTATION[1]
    shown.ClearMap()
    wait_for(lambda: shown.points_measured == 0)
    assert shown.progress == 0


def test_a_map_that_was_cleared_is_back_after_a_kill(
    tomograph: Served,
    beamline: Beamline,
    poni: str,
    tmp_path: Path,
    start_device: StartDevice,
) -> None:
    beamline.begin()
    beamline.measure(range(30))
    wait_for(lambda: measured_in(tmp_path / "out" / "scan-0007_detector_difftomo.h5") == 30)
    tomograph.proxy.ClearMap()
    wait_for(lambda: tomograph.proxy.points_measured == 0)
    tomograph.process.kill()
    again = start_device("DiffTomoIntegrator", tomograph.name, **places(beamline, poni, tmp_path))
    assert again.proxy.points_measured == 0
    again.wait_for_state(DevState.RUNNING)


REFUSED = {
    "n_diffraction": (0, "n_diffraction"),
    "sinogram_of": ("nowhere", "there is no range named nowhere"),
    "radial_ranges": (["a=2,1"], "the lower end comes first"),
    "rotation_range": ([1.0, 1.0], "two different numbers"),
    "error_model": ("5*q", "5*q"),
    "position_tolerance": (0.6, "position_tolerance"),
    "poni_file": ("/etc/passwd", "poni_file"),
}


def test_a_value_that_makes_no_sense_is_taken_or_changes_something(tomograph: Served) -> None:
    for name, (value, said) in REFUSED.items():
        before = tomograph.proxy.read_attribute(name).value
        sentence = refusal(lambda name=name, value=value: setattr(tomograph.proxy, name, value))
        assert said in sentence
        assert "\n" not in sentence.strip()
        np.testing.assert_array_equal(tomograph.proxy.read_attribute(name).value, before)
    assert tomograph.state == DevState.RUNNING
