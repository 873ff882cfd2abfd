"""The Balor device: photons are found live as offline, and go on to the next device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.images.balor import BalorStage
from ronda.core.images.photon_parameters import BalorParameters
from ronda.core.runner import Runner
from ronda.core.sources import open_source
from ronda.core.sources.replay import Replay
from ronda.devices.database import LOOPBACK, free_port
from ronda.tests.devices.conftest import (
    Served,
    StartDevice,
    complete,
    offline,
    refusal,
    send,
)
from ronda.tests.waiting import wait_for
from tango import DevState

FRAMES = 8
OPTIONS = f"frames={FRAMES}&rows=300&columns=400&streaks=0.5"
SPARSE = f"simulated:balor?{OPTIONS}&photons=100"
DENSE = f"simulated:balor?{OPTIONS}&photons=4000"
WHOLE = "0,0,400,300"
SAME = [
    "accumulated_image",
    "photons_per_frame",
    "photons_single",
    "photons_double",
    "photons_sharing",
    "candidates_below",
    "candidates_at_edge",
    "histogram_counts",
    "histogram_energy",
    "hit_density",
    "image",
]


def start(start_device: StartDevice, detector: Replay, folder: Path, **properties: str) -> Served:
    """Return a running device that reads a detector and looks for photons on whole frames."""
    device = start_device(
        "BalorPhotonDetector",
        SourceUrl=f"stins+{detector.address}",
        OutputRoot=str(folder),
        **properties,
    )
    device.proxy.analysis_roi = WHOLE
    device.proxy.Start()
    return device


@pytest.fixture
def balor(start_device: StartDevice, detector: Replay, tmp_path: Path) -> Served:
    """Such a device."""
    return start(start_device, detector, tmp_path / "out")


@pytest.mark.parametrize("workers", ["1", "4"])
def test_photons_are_the_same_live_as_offline_and_all_in_the_table(
    start_device: StartDevice, detector: Replay, tmp_path: Path, workers: str
) -> None:
    balor = start(start_device, detector, tmp_path, Workers=workers)
    send(detector, balor, SPARSE, filename="/there/scan-0005_balor.h5")
    runner = Runner(BalorStage(), BalorParameters(analysis_roi=WHOLE))
    expected = offline(runner, SPARSE, SAME)
    balor.check_shown(expected)
    assert expected["photons_per_frame"].sum() > 40 * FRAMES
    with h5py.File(complete(tmp_path / "scan-0005_balor_balor.h5")) as file:
        photons = file["entry/photons"]
        forms = {name: photons[name].dtype.str for name in photons}
        assert forms == {"frame": "<u4", "y": "<f4", "x": "<f4", "energy": "<f4", "flag": "|u1"}
        per_frame = np.bincount(photons["frame"][()], minlength=FRAMES)
        np.testing.assert_array_equal(per_frame, expected["photons_per_frame"])
        counts = file["entry/histogram/counts"][()]
        np.testing.assert_array_equal(counts, expected["histogram_counts"])


def test_frames_with_too_many_hits_are_an_alarm_and_in_a_sum_of_their_own(
    balor: Served, detector: Replay
) -> None:
    proxy = balor.proxy
    send(detector, balor, SPARSE)
    photons = proxy.accumulated_image
    send(detector, balor, DENSE)
    assert proxy.fallback_frames == FRAMES
    wait_for(lambda: proxy.state() == DevState.ALARM)
    assert "too many hits to tell photons apart" in proxy.status().lower()
    assert proxy.hit_density > proxy.hit_density_limit
    np.testing.assert_array_equal(proxy.accumulated_image, photons)
    assert proxy.fallback_image.sum() > 1000 * FRAMES * 4000 / 2
    send(detector, balor, SPARSE)
    wait_for(lambda: "too many hits" not in proxy.status().lower())
    np.testing.assert_array_equal(proxy.accumulated_image, 2 * photons)


def test_without_an_analysis_roi_frames_are_thresholded_and_status_says_so(
    balor: Served, detector: Replay
) -> None:
    proxy = balor.proxy
    proxy.analysis_roi = ""
    wait_for(lambda: "set analysis_roi" in proxy.status())
    send(detector, balor, SPARSE)
    assert proxy.accumulated_image.max() > 100, "counts, not photons"
    assert "whole pixels" in refusal(lambda: setattr(proxy, "analysis_roi", "1,2,3"))
    assert "not wholly on the frame" in refusal(
        lambda: setattr(proxy, "analysis_roi", "0,0,401,300")
    )
    assert "only be switched off while trusted" in refusal(
        lambda: setattr(proxy, "save_raw", False)
    )


def test_hot_pixels_that_were_found_are_left_out(balor: Served, detector: Replay) -> None:
    proxy = balor.proxy
    truth = open_source(SPARSE)
    hot = truth._options.simulate().truth["hot_pixels"]
    assert len(hot) > 3
    proxy.FindHotPixels(FRAMES)
    wait_for(lambda: proxy.hot_pixels_missing == FRAMES)
    send(detector, balor, SPARSE)
    wait_for(lambda: proxy.hot_pixel_file != "")
    found = {tuple(map(int, line.split(","))) for line in
             Path(proxy.hot_pixel_file).read_text().splitlines()[1:]}  # fmt: skip
    assert found and found <= {(int(y), int(x)) for y, x in hot}
    before = proxy.photons_single + proxy.photons_double + proxy.candidates_below
    send(detector, balor, SPARSE)
    after = proxy.photons_single + proxy.photons_double + proxy.candidates_below
    assert after <= before - FRAMES * len(found) / 2


@pytest.fixture(params=[True, False], ids=["photons", "images"])
def chain(
    request: pytest.FixtureRequest, start_device: StartDevice, detector: Replay, tmp_path: Path
) -> Iterator[tuple[Served, Served]]:
    """Two devices: the second, which knows no photons, reads the first one's clean images."""
    url = f"stins+tcp://{LOOPBACK}:{free_port()}?socket=push"
    first = start(start_device, detector, tmp_path / "first", RepublishUrl=url)
    first.proxy.republish_photons = request.param
    second = start_device(
        "PilatusAccumulator",
        SourceUrl=url.replace("push", "pull"),
        OutputRoot=str(tmp_path / "second"),
    )
    yield first, second


def test_another_device_goes_on_with_the_clean_image(
    chain: tuple[Served, Served], detector: Replay
) -> None:
    first, second = chain
    for device in chain:
        device.proxy.AddRoi("part=50,60,200,150")
    second.put(
        {
            "pixel_size": 12e-6,
            "photon_energy": 8.0,
            "detector_distance": 0.05,
            "beam_center_x": 200.0,
            "beam_center_y": 150.0,
        }
    )
    second.proxy.Start()
    send(detector, first, SPARSE, rate=50.0)
    second.wait_until_reduced(FRAMES)
    total = first.proxy.accumulated_image
    assert total.sum() > 30 * FRAMES
    np.testing.assert_array_equal(second.proxy.accumulated_image, total)
    np.testing.assert_array_equal(second.proxy.roi_sum, first.proxy.roi_sum)
    wait_for(lambda: np.nansum(second.proxy.azimuthal_intensity) > 0)
    send(detector, first, DENSE, rate=50.0)
    assert first.proxy.fallback_frames == FRAMES
    np.testing.assert_array_equal(second.proxy.accumulated_image, total)


def test_raw_frames_are_saved_unless_photons_are_trusted_and_all_is_well(
    start_device: StartDevice, tmp_path: Path
) -> None:
    camera = start_device("Andor3")
    source = f"stins+{camera.proxy.publishes_at}"
    balor = start_device("BalorPhotonDetector", SourceUrl=source, DetectorDevice=camera.trl)
    proxy = balor.proxy
    proxy.trusted = True
    proxy.save_raw = False
    proxy.Start()
    wait_for(lambda: proxy.state() == DevState.RUNNING)
    assert camera.proxy.SaveRaw, "photons are not even looked for"
    proxy.analysis_roi = "0,0,5,6"
    wait_for(lambda: not camera.proxy.SaveRaw)
    wait_for(lambda: "raw frames are not saved by" in proxy.status().lower())
    camera.proxy.truncating = True
    camera.proxy.Arm()
    wait_for(lambda: proxy.state() == DevState.ALARM)
    wait_for(lambda: camera.proxy.SaveRaw)
    camera.proxy.truncating = False
    proxy.Reset()
    wait_for(lambda: not camera.proxy.SaveRaw)
    assert list(camera.proxy.armed) == [False]
    proxy.save_raw = True
    wait_for(lambda: camera.proxy.SaveRaw)
    proxy.trusted = False
