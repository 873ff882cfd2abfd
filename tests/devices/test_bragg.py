"""The Bragg device: what it makes of a stream is what the same code makes of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from ronda.clients.cli.main import main
from ronda.core.runner import Runner
from ronda.core.simulation.eiger import simulate_eiger
from ronda.core.sinks.recover import recover
from ronda.core.sources.replay import Replay
from ronda.devices.bragg import BraggSparsifier
from ronda.devices.database import LOOPBACK, free_port
from ronda.tests.devices.conftest import (
    Served,
    StartDevice,
    complete,
    offline,
    open_detector,
    refusal,
    send,
)
from ronda.tests.waiting import wait_for
from tango import AttrWriteType, DevState, EventType

FRAMES, SHAPE = 24, (150, 130)
EMPTY = 5
"""Every so many frames one has no spot."""
CLOSED_EARLY = b"closed before the end of the series"
SETTINGS: dict[str, Any] = {
    "radial_bins": 60,
    "cutoff_pick": 4.0,
    "peak_finder": "patch",
    "solid_angle": True,
    "unit": "q_nm^-1",
}


@dataclass(frozen=True)
class Crystal:
    """Simulated frames as files: what is sent, what is written into them, where it stood."""

    pixels: NDArray[np.uint32]
    """[frame, row, column]; the detector marks two columns."""
    url: str
    poni: str
    other_poni: str
    """Of a detector of another shape."""

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters that fit."""
        return {"poni_file": self.poni, **SETTINGS}


@pytest.fixture(scope="module")
def crystal(tmp_path_factory: pytest.TempPathFactory) -> Crystal:
    """Frames of a small Eiger."""
    folder = tmp_path_factory.mktemp("crystal")
    made = simulate_eiger(FRAMES, SHAPE, spots=12.0, background=3.0, seed=7)
    dark = simulate_eiger(FRAMES, SHAPE, spots=0.0, background=3.0, seed=7)
    frames = [(dark if n % EMPTY == 2 else made).frame(n) for n in range(FRAMES)]
    pixels = np.array(frames)
    pixels[:, :, 40:42] = np.iinfo(np.uint32).max
    with h5py.File(folder / "eiger.h5", "w") as file:
        file["data"] = pixels
    (folder / "eiger.poni").write_text(made.geometry.to_poni(SHAPE))
    (folder / "other.poni").write_text(made.geometry.to_poni((SHAPE[0] + 1, SHAPE[1])))
    url = f"hdf5:{folder / 'eiger.h5'}"
    return Crystal(pixels, url, str(folder / "eiger.poni"), str(folder / "other.poni"))


@pytest.fixture(scope="module")
def source() -> Iterator[Replay]:
    """An Eiger for all tests."""
    with open_detector("simplon2+tcp://127.0.0.1:0") as replay:
        yield replay


@pytest.fixture(scope="module")
def shared(start_shared: StartDevice, source: Replay, output: Path, crystal: Crystal) -> Served:
    """A device that reads that detector."""
    return start_shared(
        "BraggSparsifier",
        SourceUrl=f"simplon2+{source.address}",
        RepublishUrl=f"stins+tcp://{LOOPBACK}:{free_port()}",
        OutputRoot=str(output),
        InputRoots=str(Path(crystal.poni).parent),
        Workers="2",
    )


@pytest.fixture
def bragg(shared: Served, crystal: Crystal) -> Served:
    """The same, running, with parameters that fit and no alarm."""
    shared.proxy.min_peaks = 0
    shared.put(crystal.settings)
    shared.proxy.Start()
    shared.proxy.Reset()
    return shared


def whole(path: Path) -> Path:
    """Wait until a sparse file is complete."""

    def is_whole(file: h5py.File) -> bool:
        entry = file["entry_0000"]
        ended = "vetoed" in entry["frames"] or entry["end_note"][()] == CLOSED_EARLY
        return ended and "program_name" in entry

    return complete(path, is_whole)


def sparse_tables(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tables of a file by name, without what depends on when it was made."""
    tables: dict[str, NDArray[Any]] = {}
    with h5py.File(path) as file:
        entry = file["entry_0000"]
        for group in ("sparse_frames", "peaks", "frames"):
            for name, item in entry[group].items():
                if isinstance(item, h5py.Dataset) and (group, name) != ("frames", "time"):
                    tables[f"{group}/{name}"] = item[()]
    return tables


def kept_pixels(path: Path, pixels: NDArray[np.uint32]) -> int:
    """Check that pixels in a file are what the detector counted; return how many they are."""
    with h5py.File(path) as file:
        entry = file["entry_0000"]
        frame_ptr = entry["sparse_frames/frame_ptr"][()]
        index, intensity = (entry[f"sparse_frames/{name}"][()] for name in ("index", "intensity"))
        numbers = entry["frames/number"][()]
        assert frame_ptr[0] == 0
        assert frame_ptr[-1] == index.size == intensity.size == entry["frames/kept"][()].sum()
        for table in ("background_avg", "background_std"):
            assert len(entry["sparse_frames"][table]) == len(numbers) == len(frame_ptr) - 1
    for number, begin, end in zip(numbers, frame_ptr[:-1], frame_ptr[1:], strict=True):
        counted = pixels[number].ravel()[index[int(begin) : int(end)]]
        np.testing.assert_array_equal(intensity[int(begin) : int(end)], counted)
    return int(frame_ptr[-1])


# ----------------------------------------------------------------- live, offline


def test_live_results_differ_from_those_of_the_file(
    start_device: StartDevice, crystal: Crystal, free_port: int, tmp_path: Path
) -> None:
    url = f"simplon2+tcp://127.0.0.1:{free_port}"
    simulator = start_device("DetectorSimulator", SourceUrl=crystal.url, PublishUrl=url)
    bragg = start_device(
        "BraggSparsifier",
        SourceUrl=url,
        OutputRoot=str(tmp_path / "out"),
        InputRoots=str(Path(crystal.poni).parent),
    )
    names = [one.name for one in BraggSparsifier.stage_class.outputs if one.live]
    stage, file = BraggSparsifier.stage_class, tmp_path / "offline.h5"
    runner = Runner(stage(), stage.Parameters().changed(crystal.settings), workers=2)
    expected = offline(runner, crystal.url, names)
    line = ["run", "bragg", "--source", crystal.url, "--output", str(file)]
    assert main(line + [f"--param={name}={value}" for name, value in crystal.settings.items()]) == 0
    assert expected["kept_per_frame"].shape == (FRAMES,)
    assert expected["peaks_per_frame"].max() > 5
    assert expected["preview_kept"].sum() == expected["kept_pixels"] > 20
    bragg.put(crystal.settings)
    simulator.proxy.rate = 500.0
    for workers in ("1", "4"):
        bragg.set_up(Workers=workers)
        simulator.proxy.filename = f"/there/by-{workers}.h5"
        bragg.proxy.Start()
        simulator.proxy.Start()
        bragg.wait_until_reduced(FRAMES)
        bragg.stop()
        bragg.check_shown(expected)
        tables = sparse_tables(whole(tmp_path / "out" / f"by-{workers}_bragg.h5"))
        wanted = sparse_tables(file)
        assert tables.keys() == wanted.keys() >= {"peaks/nPeaks", "sparse_frames/mask"}
        for name, table in wanted.items():
            np.testing.assert_array_equal(tables[name], table, err_msg=name)
    assert kept_pixels(file, crystal.pixels) > 20 * FRAMES


# -------------------------------------------------------------------- attributes


def other_values(folder: Path) -> dict[str, Any]:
    """Return a value that is not the default for every parameter that has one more."""
    np.save(folder / "image.npy", np.ones(SHAPE, np.float32))
    image = str(folder / "image.npy")
    return {
        "poni_file": str(folder / "eiger.poni"),
        "mask_file": image,
        "dark_files": [image, image],
        "flat_files": [image],
        "absorption_file": image,
        "unit": "2th_deg",
        "radial_range": [1.0, 20.0],
        "polarization": 0.99,
        "solid_angle": True,
        "dummy": -3.0,
        "delta_dummy": 0.5,
        "detector_marks": False,
        "error_model": "5*I+8",
        "radial_bins": 77,
        "cycles": 3,
        "cutoff_clip": 2.5,
        "cutoff_pick": 4.5,
        "spot_size": 5,
        "noise": 0.25,
        "peak_finder": "peakfinder8",
        "cutoff_peak": 6.0,
        "peak_patch_size": 5,
        "peak_connected": 3,
        "min_snr": 7.0,
        "min_pixels": 3,
        "max_pixels": 50,
        "local_background_radius": 4,
        "peak_threshold": 10.0,
        "min_peaks": 2,
        "max_peaks": 100,
        "beamline": "BioMAX",
        "save_source": True,
        "preview_binning": "mean",
    }


@pytest.fixture
def idle(shared: Served) -> Iterator[Served]:
    """The device, stopped, with the parameters of its first start, now and afterwards."""
    shared.stop()
    forget_parameters(shared)
    yield shared
    forget_parameters(shared)


def forget_parameters(device: Served) -> None:
    """Begin anew with nothing set."""
    for path in device.state_folder.glob("parameters*"):
        path.unlink()
    device.set_up()


def value_of(device: Served, name: str) -> Any:
    """Return a parameter as it reads: choices by what they are called."""
    labels = list(device.proxy.get_attribute_config(name).enum_labels)
    value = device.proxy.read_attribute(name).value
    if labels:
        return labels[value]
    return list(value) if isinstance(value, np.ndarray | tuple) else value


def test_a_parameter_cannot_be_set_or_is_forgotten_at_a_restart(
    idle: Served, crystal: Crystal
) -> None:
    values = other_values(Path(crystal.poni).parent)
    assert list(values) == list(BraggSparsifier.stage_class.Parameters.model_fields)
    for name, value in values.items():
        config = idle.proxy.get_attribute_config(name)
        assert config.writable == AttrWriteType.READ_WRITE
        assert config.description
        assert value_of(idle, name) != value, name
        idle.put({name: value})
        assert value_of(idle, name) == value, name
    assert idle.proxy.polarization_enabled
    assert idle.proxy.dummy_enabled
    idle.proxy.polarization_enabled = False
    assert not idle.proxy.polarization_enabled
    idle.set_up()
    assert not idle.proxy.polarization_enabled
    assert {name: value_of(idle, name) for name in values} | {"polarization": 0.99} == values


REFUSED = {
    "min_peaks": (3, "min_peaks needs peaks to be looked for; set peak_finder first"),
    "error_model": ("5*q", "5*q"),
    "radial_range": ([5.0, 1.0], "a radial range is two numbers, the smaller one first"),
    "cutoff_pick": (0.0, "cutoff_pick"),
    "radial_bins": (0, "radial_bins"),
    "peak_patch_size": (4, "the side of a patch is odd"),
    "min_pixels": (201, "max_pixels of peaks is 200, less than min_pixels 201"),
    "spot_size": (2, "the side of the squares about pixels is odd"),
    "poni_file": ("/etc/passwd", "poni_file"),
    "beamline": ("../up", "beamline"),
    "dummy": (np.nan, "dummy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_makes_no_sense_is_taken_or_refused_without_a_reason(
    bragg: Served, name: str
) -> None:
    bragg.proxy.peak_finder = 0
    before = value_of(bragg, name)
    value, said = REFUSED[name]
    sentence = refusal(lambda: setattr(bragg.proxy, name, value))
    assert said in sentence
    assert "\n" not in sentence.strip()
    assert value_of(bragg, name) == before
    assert bragg.state == DevState.RUNNING


def test_what_is_shown_is_not_what_came(bragg: Served, source: Replay, crystal: Crystal) -> None:
    send(source, bragg, crystal.url)
    shown, rows = bragg.proxy, SHAPE[0]
    peaks, kept = shown.peaks_per_frame, shown.kept_per_frame
    assert peaks.shape == kept.shape == (FRAMES,)
    assert all(peaks[n] == 0 for n in range(FRAMES) if n % EMPTY == 2)
    assert np.all(np.delete(peaks, range(2, FRAMES, EMPTY)) >= 3)
    assert (shown.kept_pixels, shown.peaks) == (kept[-1], peaks[-1])
    looked_at = crystal.pixels[0].size - 2 * rows
    assert shown.kept_fraction == pytest.approx(100 * kept[-1] / (looked_at + 2 * rows))
    assert shown.compression_ratio > 5
    assert shown.preview.shape == shown.preview_kept.shape == SHAPE
    assert shown.preview_kept.sum() == kept[-1]
    assert (shown.preview_kept[:, 40:42] == 1).all()  # at the top of their type, and not masked
    radius, average, deviation = (
        getattr(shown, f"background_{name}") for name in ("radius", "average", "deviation")
    )
    assert radius.shape == average.shape == deviation.shape == (60,)
    assert shown.empty_rings == np.isnan(average).sum() == 0
    made = simulate_eiger(1, SHAPE, spots=0.0, background=3.0, seed=7)
    q, width = 10 * made.geometry.q_map(SHAPE).ravel(), radius[1] - radius[0]
    ring = np.clip((q - radius[0]) / width + 0.5, 0, 59).astype(int)
    true, solid = (
        np.bincount(ring, weights.ravel(), minlength=60)
        for weights in (made.expected, made.geometry.solid_angle(SHAPE))
    )
    assert np.median(np.abs(average / (true / solid) - 1)) < 0.1
    assert np.all((deviation > 0) & (deviation < 10))
    x, y, intensity = (getattr(shown, f"peak_{name}") for name in ("x", "y", "intensity"))
    assert len(x) == len(y) == len(intensity) == len(shown.peak_snr) == shown.peaks
    assert np.all((x > -0.5) & (x < SHAPE[1]) & (y > -0.5) & (y < rows) & (intensity > 0))


def test_curves_of_peaks_are_not_pushed_to_who_listens(
    bragg: Served, source: Replay, crystal: Crystal
) -> None:
    seen: dict[str, Any] = {}

    def take(event: Any) -> None:
        if not event.err:
            seen[event.attr_value.name] = event.attr_value.value

    names = ("peaks_per_frame", "background_average", "frames_vetoed", "kept_fraction", "preview")
    ids = [bragg.proxy.subscribe_event(n, EventType.CHANGE_EVENT, take) for n in names]
    send(source, bragg, crystal.url)
    wait_for(lambda: len(seen.get("peaks_per_frame", ())) == FRAMES)
    wait_for(lambda: seen.keys() == set(names))
    wait_for(lambda: seen["kept_fraction"] == bragg.proxy.kept_fraction)
    assert seen["preview"].shape == SHAPE
    for number in ids:
        bragg.proxy.unsubscribe_event(number)


# --------------------------------------------------------------- what goes wrong


def test_frames_of_another_detector_than_the_poni_file_s_are_reduced(
    bragg: Served, source: Replay, crystal: Crystal
) -> None:
    before = bragg.ledger()
    bragg.proxy.poni_file = crystal.other_poni
    send(source, bragg, crystal.url)
    counts = bragg.ledger()
    assert counts["rejected"] == before["rejected"] + FRAMES
    assert counts["reduced"] == before["reduced"]
    bragg.wait_for_state(DevState.ALARM)
    for text in (bragg.proxy.status(), bragg.proxy.last_error):
        assert "(151, 130)" in text or "151 x 130" in text, text
    bragg.proxy.poni_file = crystal.poni
    bragg.proxy.Reset()
    send(source, bragg, crystal.url)
    assert bragg.ledger()["reduced"] == before["reduced"] + FRAMES
    assert bragg.state == DevState.RUNNING


def test_a_device_without_a_geometry_does_not_say_what_is_missing(
    idle: Served, source: Replay, crystal: Crystal
) -> None:
    idle.proxy.Start()
    assert "set poni_file" in idle.proxy.status()
    send(source, idle, crystal.url)
    assert idle.ledger()["rejected"] == FRAMES
    assert "set poni_file" in idle.proxy.last_error


def test_vetoed_frames_are_written_or_lost_from_the_ledger(
    bragg: Served, source: Replay, crystal: Crystal, output: Path
) -> None:
    before = bragg.ledger()
    bragg.proxy.min_peaks = 2
    send(source, bragg, crystal.url, "/there/vetoed.h5")
    empty = len(range(2, FRAMES, EMPTY))
    assert bragg.proxy.frames_vetoed == empty
    counts = bragg.ledger()
    assert counts["reduced"] == before["reduced"] + FRAMES
    assert (counts["rejected"], counts["lost"]) == (before["rejected"], before["lost"])
    wait_for(lambda: f"{empty} of {FRAMES} frames have fewer than 2" in bragg.proxy.status())
    assert bragg.state == DevState.RUNNING
    path = whole(output / "vetoed_bragg.h5")
    assert kept_pixels(path, crystal.pixels) > 0
    with h5py.File(path) as file:
        numbers = file["entry_0000/frames/number"][()].tolist()
        assert numbers == [n for n in range(FRAMES) if n % EMPTY != 2]
        assert file["entry_0000/frames/vetoed"][()] == empty
        assert file["entry_0000/peaks/nPeaks"][()].min() >= 2
        assert file["entry_0000/ledger/reduced"][()] == FRAMES


def test_a_file_of_an_earlier_series_is_overwritten(
    bragg: Served, source: Replay, crystal: Crystal, output: Path
) -> None:
    send(source, bragg, crystal.url, "/there/twice.h5")
    first = whole(output / "twice_bragg.h5").read_bytes()
    bragg.proxy.cutoff_pick = 6.0
    send(source, bragg, crystal.url, "/there/twice.h5")
    second = whole(output / "twice_bragg_2.h5")
    assert (output / "twice_bragg.h5").read_bytes() == first
    kept = [kept_pixels(path, crystal.pixels) for path in (output / "twice_bragg.h5", second)]
    assert kept[0] > kept[1] > 0


def test_the_next_device_gets_other_pixels_than_were_kept(
    bragg: Served, source: Replay, crystal: Crystal, start_device: StartDevice, output: Path
) -> None:
    second = start_device("PilatusAccumulator", SourceUrl=bragg.setting("RepublishUrl"))
    second.proxy.Start()
    wait_for(lambda: "nobody sends" not in second.proxy.status())
    send(source, bragg, crystal.url, "/there/forwarded.h5", rate=100.0)
    second.wait_until_reduced(FRAMES)
    assert second.ledger()["lost"] == second.ledger()["rejected"] == 0
    path = whole(output / "forwarded_bragg.h5")
    assert kept_pixels(path, crystal.pixels) > 0
    total = np.zeros(SHAPE, np.float64)
    with h5py.File(path) as file:
        tables = file["entry_0000/sparse_frames"]
        index, intensity = tables["index"][()], tables["intensity"][()]
    counted = intensity < np.iinfo(np.uint32).max  # the other device sums nothing saturated
    np.add.at(total.ravel(), index[counted], intensity[counted])
    np.testing.assert_array_equal(second.proxy.accumulated_image, total)


def test_a_killed_device_or_writer_leaves_a_file_that_cannot_be_read(
    start_device: StartDevice, crystal: Crystal, tmp_path: Path, free_port: int
) -> None:
    url, output = f"simplon2+tcp://127.0.0.1:{free_port}", tmp_path / "process"
    places = {"SourceUrl": url, "OutputRoot": str(output)}
    bragg = start_device("BraggSparsifier", InputRoots=str(Path(crystal.poni).parent), **places)
    bragg.put(crystal.settings)
    bragg.proxy.Start()
    path, copy = output / "cut_bragg.h5", tmp_path / "copy.h5"
    with open_detector(url) as detector:
        [writer] = psutil.Process(bragg.process.pid).children()
        least = send_until_some_are_written(detector, crystal, path)
        writer.kill()
        bragg.process.kill()
        detector.stop(end=False)
    copy.write_bytes(path.read_bytes())
    assert "recovered" in recover(copy)
    assert kept_pixels(copy, crystal.pixels) > 0
    assert least <= rows_in(copy) < FRAMES

    again = start_device("BraggSparsifier", bragg.name, **places)
    assert again.proxy.poni_file == crystal.poni
    again.wait_for_state(DevState.UNKNOWN)  # the detector is away
    with open_detector(url) as detector:
        again.wait_for_state(DevState.RUNNING)
        send(detector, again, crystal.url, "/there/cut.h5")
        assert again.ledger()["reduced"] == FRAMES
        second = whole(output / "cut_bragg_2.h5")
        with h5py.File(second) as file:
            assert file["entry_0000/frames/number"][()].tolist() == list(range(FRAMES))
        assert kept_pixels(second, crystal.pixels) > 0
        third = output / "cut_bragg_3.h5"
        least = send_until_some_are_written(detector, crystal, third)
        again.process.kill()
        assert kept_pixels(whole(third), crystal.pixels) > 0  # by the writer, which lives on
    with h5py.File(third) as file:
        assert least <= len(file["entry_0000/frames/number"]) < FRAMES
        assert file["entry_0000/end_note"][()] == CLOSED_EARLY


def send_until_some_are_written(detector: Replay, crystal: Crystal, path: Path) -> int:
    """Begin a series that lasts; return how many of its frames are in its file."""
    detector.rate = 7.0
    detector.start(crystal.url, filename="/there/cut.h5")
    wait_for(lambda: rows_in(path) >= 4)
    return rows_in(path)


def rows_in(path: Path) -> int:
    """Return how many frames are in a file that is being written."""
    try:
        with h5py.File(path, swmr=True) as file:
            return len(file["entry_0000/frames/number"])
    except (OSError, KeyError):
        return 0


def test_frames_are_lost_or_wait_at_a_rate_that_is_no_trouble(
    start_device: StartDevice, crystal: Crystal, free_port: int, tmp_path: Path
) -> None:
    url = f"simplon2+tcp://127.0.0.1:{free_port}"
    source = "simulated:eiger?frames=10&repeats=30&rows=150&columns=130&spots=12&bits=16"
    simulator = start_device("DetectorSimulator", SourceUrl=source, PublishUrl=url)
    properties = {"OutputRoot": str(tmp_path), "InputRoots": str(Path(crystal.poni).parent)}
    bragg = start_device("BraggSparsifier", SourceUrl=url, Workers="2", **properties)
    bragg.put(crystal.settings)
    simulator.proxy.rate = 150.0
    simulator.proxy.filename = "/there/many.h5"
    bragg.proxy.Start()
    simulator.proxy.Start()
    bragg.wait_until_reduced(300)
    counts = bragg.ledger()
    assert (counts["received"], counts["reduced"], counts["queued"]) == (300, 300, 0)
    assert (counts["lost"], counts["dropped"], counts["rejected"]) == (0, 0, 0)
    assert bragg.proxy.kept_per_frame.shape == (300,)
    pixels = simulate_eiger(10, SHAPE, spots=12.0, bits=16)
    frames = np.tile([pixels.frame(number) for number in range(10)], (30, 1, 1))
    simulator.wait_for_state(DevState.STANDBY)
    assert kept_pixels(whole(tmp_path / "many_bragg.h5"), frames) > 300
