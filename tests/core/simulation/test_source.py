"""Simulated frames come through a URL like a file's, and silly ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Frame, SeriesEnd, SeriesStart
from ronda.core.runner import Runner
from ronda.core.simulation import (
    PhotonKind,
    simulate_balor,
    simulate_powder,
    simulate_zyla,
)
from ronda.core.sources import SourceError, open_source
from ronda.core.sources.replay import Replay
from ronda.tests.toy import ToyStage
from ronda.tests.waiting import wait_for

SMALL = "rows=70&columns=90"


def read(url: str) -> np.ndarray:
    """Return the frames of a URL after a look at what comes around them."""
    source = open_source(url)
    assert not source.live
    start, *frames, end = source.events()
    assert isinstance(start, SeriesStart) and isinstance(end, SeriesEnd)
    assert source.total == len(frames)
    for number, frame in enumerate(frames):
        assert isinstance(frame, Frame)
        assert (frame.series, frame.frame_id) == (start.series, number)
    detector = url.partition(":")[2].partition("?")[0]
    assert start.series.filename == f"/simulated/scan-000001_{detector}.h5"
    assert start.series.scan_number == 1
    assert start.series.metadata == {"exposure_time": 0.1}
    return np.array([frame.data for frame in frames if isinstance(frame, Frame)])


@pytest.mark.parametrize("sigma", ["0.47", "0.3,0.6"])
def test_a_balor_is_not_the_one_of_its_options(sigma: str) -> None:
    frames = read(f"simulated:balor?frames=3&photons=12.5&sigma={sigma}&seed=4&streaks=1&{SMALL}")
    widths = 0.47 if sigma == "0.47" else (0.3, 0.6)
    expected = simulate_balor(3, (70, 90), 12.5, widths, 4, streaks=1)
    np.testing.assert_array_equal(frames, expected.frames)


def test_a_zyla_is_not_the_one_of_its_options() -> None:
    frames = read(f"simulated:zyla?frames=3&photons=500&drift=2&jitter=0.3&seed=4&{SMALL}")
    np.testing.assert_array_equal(frames, simulate_zyla(3, (70, 90), 500, 2, 0.3, 4).frames)


def test_frames_that_come_again_are_others_or_take_more_memory() -> None:
    url = f"simulated:zyla?frames=3&repeats=4&{SMALL}"
    frames = read(url)
    assert len(frames) == 12
    np.testing.assert_array_equal(
        frames.reshape(4, 3, 70, 90), np.broadcast_to(frames[:3], (4, 3, 70, 90))
    )
    made = [event for event in open_source(url).events() if isinstance(event, Frame)]
    assert len({id(frame.payload) for frame in made}) == 3


def test_frames_that_come_again_are_simulated_anew_for_every_series(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def opening(url: str) -> Any:
        opened.append(url)
        return open_source(url)

    monkeypatch.setattr("ronda.core.sources.replay_pool.POOL_BYTES", 4 * 70 * 90 * 2)
    monkeypatch.setattr("ronda.core.sources.replay.open_source", opening)
    monkeypatch.setattr("ronda.core.sources.replay_pool.open_source", opening)
    detector = Replay("stins+tcp://127.0.0.1:0?socket=pub")
    detector.rate = 100_000.0
    detector.start(f"simulated:zyla?frames=3&repeats=4&{SMALL}", series=5)
    assert detector.wait(30), detector.problem
    detector.close()
    assert detector.sent.images == 5 * 12
    assert len(opened) == 2, "to look at it, and to read it once"


def test_a_pilatus_is_not_the_one_of_its_options() -> None:
    frames = read(f"simulated:pilatus?frames=3&seed=4&{SMALL}")
    np.testing.assert_array_equal(frames, simulate_powder(3, (70, 90), seed=4).frames)


def test_shapes_are_not_those_of_the_detectors() -> None:
    shapes = {"balor": (4104, 4128), "zyla": (2048, 2048), "pilatus": (831, 1475)}
    for detector, shape in shapes.items():
        source = open_source(f"simulated:{detector}?frames=1")
        _, frame, _ = source.events()
        assert isinstance(frame, Frame) and frame.shape == shape


@pytest.mark.parametrize(
    ("detector", "simulate"), [("balor", simulate_balor), ("zyla", simulate_zyla)]
)
def test_darks_have_light_or_another_sensor(detector: str, simulate: Any, tmp_path: Path) -> None:
    truth = tmp_path / "truth.h5"
    darks = read(f"simulated:{detector}?dark=yes&frames=4&seed=9&truth={truth}&{SMALL}")
    np.testing.assert_array_equal(darks, simulate(1, (70, 90), seed=9).darks(4))
    with h5py.File(truth) as file:  # no photon that is not in the frames
        assert file["truth"].attrs["dark"]
        name = {"balor": "photons/energy", "zyla": "peaks/counts"}[detector]
        assert file["truth"][name][:].sum() == 0


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("simulated:", "'' is no simulated detector; balor, zyla, pilatus, eiger are"),
        ("simulated:jungfrau?frames=2", "'jungfrau' is no simulated detector"),
        ("simulated:balor?colour=red", "unknown parameter 'colour'; known are frames, rows"),
        ("simulated:zyla?sigma=0.4", "unknown parameter 'sigma'"),
        ("simulated:pilatus?dark=yes", "unknown parameter 'dark'"),
        ("simulated:balor?frames=0", "frames: .* greater than or equal to 1, got 0"),
        ("simulated:balor?frames=many", "frames: .* integer.*, got 'many'"),
        ("simulated:balor?frames=", "frames: .*integer, got None"),
        ("simulated:balor?frames=1000", "frames: 1000 of 4104 x 4128 pixels are .* more than"),
        ("simulated:balor?frames=9999999999", "frames: .* less than or equal to 10000"),
        ("simulated:balor?rows=16385&frames=1", "rows: .* less than or equal to 16384"),
        ("simulated:pilatus?columns=3", "columns: .* greater than or equal to 32, got 3"),
        ("simulated:balor?seed=-1", "seed: .* greater than or equal to 0, got -1"),
        ("simulated:balor?photons=-1", "photons: .* greater than or equal to 0"),
        ("simulated:balor?photons=.nan", "photons: .* finite"),
        ("simulated:balor?photons=1000000", "photons: 1e.06 in each of 16 frames are more than"),
        ("simulated:balor?photons=1,2", "photons: .* number"),
        ("simulated:balor?sigma=3", "sigma.*less than or equal to 1, got 3"),
        ("simulated:balor?sigma=0", "sigma.*greater than or equal to 0.1, got 0"),
        ("simulated:balor?sigma=0.6,0.3", "sigma: 0.6,0.3: write the least first"),
        ("simulated:balor?sigma=0.3,0.4,0.5", "sigma.*at most 2 items"),
        ("simulated:balor?sigma={a", "sigma: '{a' cannot be read"),
        ("simulated:balor?streaks=1e9", "streaks: .* less than or equal to 1000"),
        ("simulated:zyla?drift=1000", "drift: .* less than or equal to 100"),
        ("simulated:zyla?truth=/nowhere/x.h5", "truth: folder /nowhere does not exist"),
    ],
)
def test_a_silly_url_is_taken(url: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence) as refusal:
        open_source(url)
    assert str(refusal.value).startswith(url) and "\n" not in str(refusal.value)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["balor", "zyla", "pilatus"]),
    st.sampled_from(["frames", "rows", "columns", "seed", "photons", "sigma", "dark", "drift"]),
    st.text(max_size=20),
)
def test_a_url_of_noise_raises_anything_but_a_sentence(
    detector: str, name: str, value: str
) -> None:
    try:
        source = open_source(f"simulated:{detector}?{name}={value}")
    except SourceError:
        return
    assert source.total and source.total <= 10_000


def table(group: h5py.Group) -> dict[str, np.ndarray]:
    return {name: column[:] for name, column in group.items()}


def test_the_file_is_not_the_truth(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    url = f"simulated:balor?frames=4&photons=30&sigma=0.47&seed=2&{SMALL}&truth={path}"
    events = open_source(url).events()
    next(events)
    balor = simulate_balor(4, (70, 90), 30, 0.47, 2)
    with h5py.File(path) as file:  # whole before the first frame comes
        truth = file["truth"]
        assert truth.attrs["NX_class"] == "NXcollection"
        expected = {"detector": "balor", "frames": 4, "photons": 30, "seed": 2, "rows": 70}
        assert {name: truth.attrs[name] for name in expected} == expected
        assert list(truth.attrs["sigma"]) == [0.47, 0.47]
        np.testing.assert_array_equal(truth["hot_pixels"], balor.hot_pixels)
        for name, rows in (("photons", balor.photons), ("streaks", balor.streaks)):
            columns = table(truth[name])
            assert set(columns) == set(rows.dtype.names)
            for column, values in columns.items():
                np.testing.assert_array_equal(values, rows[column])
                assert values.dtype == rows.dtype[column]
        assert truth["photons/y"].attrs["units"] == "px"
        assert set(truth["photons/kind"][:]) <= set(PhotonKind)
    assert [child.name for child in tmp_path.iterdir()] == ["truth.h5"]


def test_the_truth_of_a_zyla_or_pilatus_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "truth.h5"
    read(f"simulated:zyla?frames=4&{SMALL}&truth={path}")
    peaks = simulate_zyla(4, (70, 90)).peaks
    with h5py.File(path) as file:
        columns = table(file["truth/peaks"])
        assert {name: list(column) for name, column in columns.items()} == {
            name: list(peaks[name]) for name in peaks.dtype.names
        }
    read(f"simulated:pilatus?frames=1&{SMALL}&truth={path}")  # an older truth is replaced
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["truth/rings/q"], simulate_powder(1, (70, 90)).q)


def test_a_file_that_is_no_truth_is_replaced(tmp_path: Path) -> None:
    text, raw = tmp_path / "notes.h5", tmp_path / "raw.h5"
    text.write_text("mine")
    with h5py.File(raw, "w") as file:
        file["entry/data"] = 1
    before = raw.read_bytes()
    for path in (text, raw, tmp_path):
        with pytest.raises(SourceError, match="is no older truth"):
            open_source(f"simulated:zyla?truth={path}")
    assert text.read_text() == "mine" and raw.read_bytes() == before


def test_a_truth_that_cannot_be_written_is_no_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    source = open_source(f"simulated:zyla?frames=1&{SMALL}&truth={folder}/t.h5")
    folder.rmdir()
    with pytest.raises(SourceError, match="cannot be written"):
        next(source.events())


def test_a_closed_source_goes_on() -> None:
    source = open_source(f"simulated:balor?frames=100&{SMALL}")
    events = source.events()
    seen = [next(events) for _ in range(3)]
    source.close()
    assert list(events) == [] and isinstance(seen[-1], Frame)


class KeepingStage(ToyStage):
    """Keeps the frames it reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[np.ndarray] = []

    def reduce(self, frame: Frame, partial: float, settings: Any) -> Any:
        self.frames.append(frame.data.copy())
        return super().reduce(frame, partial, settings)


@pytest.fixture
def replay(no_thread_left: None) -> Iterator[Replay]:
    detector = Replay("stins+tcp://127.0.0.1:0")
    detector.rate = 1e6
    yield detector
    detector.close()


@pytest.mark.parametrize("detector", ["balor", "zyla", "pilatus"])
def test_frames_change_on_their_way_through_replay_and_runner(
    detector: str, replay: Replay
) -> None:
    url = f"simulated:{detector}?frames=5&seed=3&{SMALL}"
    stage = KeepingStage()
    runner = Runner(stage)
    runner.start(lambda: open_source(f"stins+{replay.address}"))
    replay.start(url, series=2)
    assert replay.wait(20), replay.problem
    assert not replay.problem
    wait_for(lambda: runner.ledger.counts == replay.sent.expected)
    runner.stop()
    assert replay.sent.images == 10
    np.testing.assert_array_equal(stage.frames, np.concatenate([read(url)] * 2))
