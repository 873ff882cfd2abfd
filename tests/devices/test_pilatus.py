"""The Pilatus device against a detector that tells the truth about what it sent."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.geometry import Geometry
from ronda.core.sources.replay import FaultKind, Replay
from ronda.devices.database import LOOPBACK, EmbeddedDatabase, free_port
from ronda.devices.registration import Server
from ronda.devices.system import System
from ronda.tests.devices.conftest import (
    Served,
    StartDevice,
    complete,
    open_detector,
    refusal,
    send,
)
from ronda.tests.waiting import wait_for
from tango import DevState, EventType

FRAMES = 20
SHAPE = (40, 50)


@pytest.fixture(scope="module")
def frames() -> NDArray[np.float32]:
    """Frames of a small Pilatus, [frame, row, column], with masked and overflown pixels."""
    random = np.random.default_rng(5)
    pixels = random.poisson(3, (FRAMES, *SHAPE)).astype(np.float32)
    pixels[:, 10:12] = -1
    pixels[:, 20, 30] = -2
    return pixels


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, frames: NDArray[np.float32]) -> str:
    """URL of those frames."""
    path = tmp_path_factory.mktemp("pilatus") / "pilatus.h5"
    with h5py.File(path, "w") as file:
        file["data"] = frames
    return f"hdf5:{path}"


@pytest.fixture(scope="module")
def shared(start_shared: StartDevice, source: Replay, output: Path) -> Served:
    """A device that reads that detector."""
    return start_shared(
        "PilatusAccumulator",
        SourceUrl=f"stins+{source.address}",
        RepublishUrl=f"stins+tcp://{LOOPBACK}:{free_port()}",
        OutputRoot=str(output),
    )


@pytest.fixture
def pilatus(shared: Served) -> Served:
    """The same, running, with nothing accumulated and no alarm."""
    shared.proxy.Start()
    shared.proxy.ClearAccumulation()
    wait_for(lambda: shared.proxy.accumulated_frames == 0)
    shared.proxy.Reset()
    return shared


def expected_sum(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return NumPy's sum over valid pixels."""
    return np.where(frames < 0, 0, frames).sum(axis=0, dtype=np.float64)


def test_the_sum_is_numpys_over_valid_pixels_and_is_kept_in_the_file(
    pilatus: Served, source: Replay, recording: str, frames: NDArray[np.float32], output: Path
) -> None:
    send(source, pilatus, recording, filename="/there/scan-0007_pilatus.h5")
    total = expected_sum(frames)
    np.testing.assert_array_equal(pilatus.proxy.accumulated_image, total)
    window = pilatus.proxy.ReadAccumulatedImageWindow([5, 15, 0, 50])
    np.testing.assert_array_equal(window.reshape(10, 50), total[5:15])
    assert pilatus.proxy.scan_number == 7
    assert pilatus.proxy.accumulated_frames == FRAMES
    assert pilatus.proxy.preview.shape == SHAPE
    with h5py.File(complete(output / "scan-0007_pilatus_pilatus.h5")) as file:
        np.testing.assert_array_equal(file["entry/accumulated/sum"][()], total)
        assert file["entry/ledger/reduced"][()] == FRAMES


def test_the_real_recording_is_reduced_live_as_it_is_offline(
    pilatus: Served, source: Replay, lab6: Path
) -> None:
    before = pilatus.ledger()
    url = f"recording:{lab6 / 'lab6-pilatus.cbors.gz'}"
    send(source, pilatus, url, rate=60.0)
    counts = pilatus.ledger()
    assert counts["reduced"] == before["reduced"] + 30
    assert counts["rejected"] == before["rejected"]
    assert pilatus.proxy.accumulated_total == pytest.approx(1.55e6, rel=0.01)
    assert pilatus.proxy.latency_from == "detector"
    image = pilatus.proxy.accumulated_image
    assert image.shape == (831, 1475)
    assert image.sum() == pytest.approx(pilatus.proxy.accumulated_total)


def test_another_shape_saves_the_sum_and_begins_a_new_one(
    pilatus: Served,
    source: Replay,
    recording: str,
    frames: NDArray[np.float32],
    output: Path,
    tmp_path: Path,
) -> None:
    send(source, pilatus, recording, filename="/there/first.h5")
    resets = pilatus.proxy.accumulation_resets
    saved = set(output.glob("accumulated_*.h5"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.ones((3, 8, 9), np.float32)
    send(source, pilatus, f"hdf5:{tmp_path / 'other.h5'}", filename="/there/second.h5")
    assert pilatus.proxy.accumulated_image.shape == (8, 9)
    assert pilatus.proxy.accumulated_frames == 3
    assert pilatus.proxy.accumulation_resets == resets + 1
    wait_for(lambda: "begun anew" in pilatus.proxy.status())
    wait_for(lambda: set(output.glob("accumulated_*.h5")) - saved)
    [path] = set(output.glob("accumulated_*.h5")) - saved
    with h5py.File(complete(path)) as file:
        np.testing.assert_array_equal(file["entry/accumulated/sum"][()], expected_sum(frames))


def test_rois_and_geometry_are_set_while_it_runs(
    pilatus: Served, source: Replay, recording: str
) -> None:
    proxy = pilatus.proxy
    send(source, pilatus, recording)
    proxy.AddRoi("spot=5,6,10,12")
    pilatus.put(
        {
            "photon_energy": 13.5,
            "detector_distance": 0.131,
            "beam_center_x": 25.0,
            "beam_center_y": 20.0,
            "q_rings": [1.0, 2.0],
        }
    )
    assert proxy.beam_center_x_enabled
    wait_for(lambda: proxy.geometry_valid and list(proxy.roi_names) == ["spot"])
    wait_for(lambda: proxy.roi_mean.shape == (1, FRAMES))
    wait_for(lambda: np.isfinite(proxy.azimuthal_intensity).any())
    poni = pilatus.state_folder / "geometry.poni"
    assert Geometry.from_poni(poni, SHAPE).photon_energy == pytest.approx(13.5)
    assert "ROI far" in refusal(lambda: proxy.AddRoi("far=48,6,10,12"))
    proxy.ClearGeometry()
    assert not proxy.beam_center_x_enabled
    assert not poni.exists()
    wait_for(lambda: not proxy.geometry_valid)


def test_a_mask_that_is_written_counts_at_once_and_one_that_does_not_fit_changes_nothing(
    pilatus: Served, source: Replay, recording: str, frames: NDArray[np.float32]
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:7] = 1
    send(source, pilatus, recording)
    pilatus.proxy.mask = mask
    assert "pixels, the frame" in refusal(
        lambda: setattr(pilatus.proxy, "mask", np.ones((3, 4), np.uint8))
    )
    np.testing.assert_array_equal(pilatus.proxy.mask, mask)
    pilatus.proxy.ClearAccumulation()
    send(source, pilatus, recording)
    masked = np.where(mask, 0, expected_sum(frames))
    np.testing.assert_array_equal(pilatus.proxy.accumulated_image, masked)
    assert pilatus.proxy.valid_count[:7].max() == 0
    pilatus.proxy.mask_file = ""
    assert pilatus.proxy.mask.size == 0


def test_curves_of_rois_are_pushed_to_who_listens(
    pilatus: Served, source: Replay, recording: str
) -> None:
    seen: list[tuple[int, ...]] = []
    pilatus.proxy.AddRoi("pushed=5,6,10,12")
    event = pilatus.proxy.subscribe_event(
        "roi_mean",
        EventType.CHANGE_EVENT,
        lambda event: event.err or seen.append(event.attr_value.value.shape),
    )
    send(source, pilatus, recording)
    wait_for(lambda: seen and seen[-1][-1] == FRAMES)
    pilatus.proxy.unsubscribe_event(event)
    pilatus.proxy.DeleteRoi("pushed")


def test_the_ledger_of_every_fault_equals_the_simulators_truth(
    database: EmbeddedDatabase, recording: str, tmp_path: Path
) -> None:
    url = f"stins+tcp://{LOOPBACK}:{free_port()}"
    devices = {
        "test/mixed/detector": (
            "DetectorSimulator",
            {"SourceUrl": [recording], "PublishUrl": [url]},
        ),
        "test/mixed/pilatus": (
            "PilatusAccumulator",
            {"SourceUrl": [url], "StateDirectory": [str(tmp_path)]},
        ),
    }
    mixed = System([Server("Ronda", "test", devices)], tmp_path, database.tango_host)
    try:
        simulator, pilatus = (
            Served(f"tango://{mixed.tango_host}/{name}", mixed.proxy(name), None)
            for name in mixed.devices
        )
        pilatus.wait_for_state(DevState.STANDBY)
        compare_ledgers(simulator, pilatus)
    finally:
        mixed.stop()


def compare_ledgers(simulator: Served, pilatus: Served) -> None:
    """Have every fault strike once, and compare what was sent with what was counted."""
    simulator.proxy.rate = 300.0
    simulator.proxy.filename = ""
    for number, kind in enumerate(FaultKind, start=1):
        simulator.proxy.InjectFault(f"{kind.value} {3 * number} 0.1")
    assert simulator.proxy.pending_faults[0] == "drop 3"
    pilatus.proxy.Start()
    simulator.proxy.Start()
    assert simulator.state == DevState.RUNNING

    def done() -> bool:
        counts = pilatus.ledger()
        parts = ("reduced", "rejected", "dropped", "queued")
        assert counts["received"] == sum(counts[part] for part in parts)
        sent = simulator.state == DevState.STANDBY
        return sent and counts["received"] == simulator.proxy.expected_received

    wait_for(done)
    wait_for(lambda: pilatus.ledger()["queued"] == 0)
    counts = pilatus.ledger()
    for name in ("received", "reduced", "rejected", "lost"):
        assert counts[name] == getattr(simulator.proxy, f"expected_{name}"), name
    assert (counts["rejected"], counts["lost"], counts["dropped"]) == (3, 1, 0)
    for kind in ("dropped", "duplicated", "reordered", "truncated", "misshapen"):
        assert simulator.proxy.read_attribute(f"{kind}_sent").value == 1
    assert pilatus.proxy.accumulated_frames == counts["reduced"]
    assert simulator.proxy.pending_faults == ()
    assert "no fault" in refusal(lambda: simulator.proxy.InjectFault("explode 3"))


def test_a_detector_that_restarts_mid_series_is_taken_up_again(
    start_device: StartDevice, recording: str, free_port: int
) -> None:
    url = f"stins+tcp://127.0.0.1:{free_port}"
    pilatus = start_device("PilatusAccumulator", SourceUrl=url)
    pilatus.proxy.Start()
    with open_detector(url) as first:
        first.rate = 100.0
        first.start(recording, filename="")
        pilatus.wait_until_reduced(5)
        first.stop(end=False)
    before = first.sent.images
    with open_detector(url) as second:
        second.start(recording, filename="")
        wait_for(lambda: pilatus.ledger()["reduced"] == before + FRAMES)
        assert pilatus.state == DevState.RUNNING
    counts = pilatus.ledger()
    assert (counts["rejected"], counts["lost"], counts["queued"]) == (0, 0, 0)


def test_a_killed_device_leaves_readable_files_and_resumes_its_sum(
    start_device: StartDevice,
    detector: Replay,
    recording: str,
    frames: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    url, output = f"stins+{detector.address}", tmp_path / "process"
    pilatus = start_device("PilatusAccumulator", SourceUrl=url, OutputRoot=str(output))
    pilatus.proxy.AddRoi("spot=5,6,10,12")
    pilatus.proxy.Start()
    send(detector, pilatus, recording, filename="/there/whole.h5")
    wait_for(lambda: list(pilatus.state_folder.glob("checkpoint_?.h5")))
    detector.rate = 20.0
    detector.start(recording, filename="/there/cut.h5")
    pilatus.wait_until_reduced(FRAMES + 10)
    pilatus.process.kill()
    detector.stop(end=False)
    assert detector.wait(10)

    again = start_device("PilatusAccumulator", pilatus.name, SourceUrl=url, OutputRoot=str(output))
    again.wait_for_state(DevState.RUNNING)
    for name, least in (("whole", FRAMES), ("cut", 5)):
        with h5py.File(complete(output / f"{name}_pilatus.h5")) as file:
            assert len(file["entry/rois/spot/time"]) >= least
    assert again.proxy.accumulated_frames == FRAMES
    np.testing.assert_array_equal(again.proxy.accumulated_image, expected_sum(frames))
    detector.rate = 1000.0
    detector.start(recording, filename="/there/next.h5")
    again.wait_until_reduced(FRAMES)
    assert again.proxy.accumulated_frames == 2 * FRAMES
    np.testing.assert_array_equal(again.proxy.accumulated_image, 2 * expected_sum(frames))


def test_republished_images_are_the_next_devices_frames(
    pilatus: Served, source: Replay, start_device: StartDevice, recording: str
) -> None:
    second = start_device("PilatusAccumulator", SourceUrl=pilatus.setting("RepublishUrl"))
    second.proxy.Start()
    send(source, pilatus, recording, rate=50.0)
    second.wait_until_reduced(FRAMES)
    np.testing.assert_array_equal(second.proxy.accumulated_image, pilatus.proxy.accumulated_image)
