"""Zyla frames: nothing below threshold counts, and a dark is never taken for data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ronda.clients.cli.main import main
from ronda.core.frame import BadFrame
from ronda.core.images import dark
from ronda.core.images.cmos import COUNTS, CmosParameters
from ronda.core.images.orientation import Orientation
from ronda.core.images.zyla import ZylaStage
from ronda.core.parameters import ParameterError, load_yaml, save_yaml
from ronda.core.runner import Runner
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.stage import Settings, registry
from ronda.tests.core.images.bench import Bench, Camera, Step, images, make_runner, run
from ronda.tests.core.images.frames import overflown, valid
from ronda.tests.waiting import wait_for

ALL = {"all": {"x": 0, "y": 0, "width": 2, "height": 2}}
SMALL = "rows=64&columns=72"


def flat(value: float, shape: tuple[int, int] = (2, 2), dtype: str = "u2") -> NDArray[Any]:
    """Return a frame that is the same everywhere."""
    return np.full(shape, value, dtype)


def mean(bench: Any) -> list[float]:
    """Return the curve of the only ROI."""
    values: list[float] = bench.value("roi_mean")[0].tolist()
    return values


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ZylaStage(), tmp_path, rois=ALL)


def record(bench: Bench, *values: float) -> None:
    """Record a dark of flat frames, and have it kept."""
    bench.command("RecordDark", len(values))
    for value in values:
        bench.frame(flat(value))
    bench.work()


def test_the_stage_is_known_by_its_name_and_has_the_right_defaults() -> None:
    assert registry.get("zyla") is ZylaStage
    parameters = CmosParameters()
    assert (parameters.dark_level, parameters.threshold) == (100, 12)
    assert parameters.pixel_size == 6.5e-6


def test_every_output_has_a_value_of_its_kind_before_and_after_frames(bench: Bench) -> None:
    bench.check_values(before=True)
    record(bench, 100)
    bench.command("UseDark")
    bench.work()
    bench.frame(flat(300))
    bench.check_values(before=False)


# ------------------------------------------------------------------ the threshold


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4", "i8", "f4", "f8"])
def test_the_threshold_is_inclusive_and_nothing_changes_its_type(dtype: str) -> None:
    bench = Bench(ZylaStage())
    bench.frame([[0, 99, 100, 101], [111, 112, 113, 120]], dtype)
    assert bench.value("image").tolist() == [[0, 0, 0, 0], [0, 12, 13, 20]]
    assert bench.value("image").dtype == np.dtype(dtype)
    assert bench.sum() == [[0, 0, 0, 0], [0, 12, 13, 20]]


def test_a_type_that_cannot_reach_the_threshold_counts_nothing() -> None:
    bench = Bench(ZylaStage(), threshold=300)
    bench.frame([[0, 101, 250]], "u1")
    bench.frame([[399, 400, 250]], "u2")
    assert bench.sum() == [[0, 300, 0]]


@given(
    hnp.arrays("u2", (3, 4)),
    st.integers(0, 70_000),
    st.integers(0, 70_000),
)
def test_every_pixel_is_what_numpy_makes_of_it(raw: Any, level: int, threshold: int) -> None:
    bench = Bench(ZylaStage(), dark_level=level, threshold=threshold)
    bench.frame(raw)
    # The largest value means saturation, so nothing less dark can reach it.
    above = raw.astype(np.int64) - min(level, 65534)
    kept = np.where((above >= threshold) & (above >= 0) & (threshold < 65535), above, 0)
    np.testing.assert_array_equal(bench.value("image"), np.where(valid(raw), kept, raw))
    np.testing.assert_array_equal(bench.value("accumulated_image"), np.where(valid(raw), kept, 0))
    assert bench.value("overflow_pixels") == overflown(raw).sum()


def test_saturated_pixels_are_counted_and_never_summed(bench: Bench) -> None:
    bench.frame([[65535, 65534], [65535, 100]])
    bench.frame([[150, 65535], [65535, 100]])
    assert bench.sum() == [[50, 65434], [0, 0]]
    assert bench.value("valid_count").tolist() == [[1, 1], [0, 2]]
    assert bench.value("overflow_pixels") == 4
    assert bench.value("roi_sum")[0].tolist() == [65434, 50]
    np.testing.assert_array_equal(bench.value("preview"), [[50, 65434], [np.nan, 0]])


def test_a_changed_threshold_begins_no_new_sum(bench: Bench) -> None:
    bench.frame(flat(150))
    bench.change(threshold=60, dark_level=80)
    bench.frame([[139, 140], [141, 150]])
    assert bench.sum() == [[50, 110], [111, 120]]
    assert bench.saved == []


def test_thresholded_pixels_are_what_is_forwarded_with_their_meaning(bench: Bench) -> None:
    bench.frame([[111, 112], [100, 300]])
    forwarded = bench.stage.forward()
    assert forwarded is not None
    assert np.asarray(forwarded.image).tolist() == [[0, 12], [0, 200]]
    assert forwarded.extra == {"quantity": COUNTS}


# -------------------------------------------------- orientation, mask, ROIs, shapes


@pytest.mark.parametrize("orientation", Orientation)
def test_the_dark_is_turned_with_the_frames(tmp_path: Path, orientation: Orientation) -> None:
    offset = np.arange(100, 112, dtype=np.uint16).reshape(3, 4)
    signal = np.arange(20, 32, dtype=np.uint16).reshape(3, 4)
    turned = orientation.apply(signal)
    mask = turned == turned[0, 1]
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "dark.npy", offset)
    bench = Bench(
        ZylaStage(),
        orientation=orientation,
        dark_file=str(tmp_path / "dark.npy"),
        mask_file=str(tmp_path / "mask.npy"),
        rois={"row": {"x": 0, "y": 0, "width": 3, "height": 1}},
    )
    bench.frame(offset + signal)
    np.testing.assert_array_equal(bench.value("image"), turned)
    np.testing.assert_array_equal(bench.value("dark"), orientation.apply(offset))
    assert bench.value("dark_noise") is None
    assert bench.sum() == np.where(mask, 0, turned).tolist()
    assert bench.value("roi_sum").tolist() == [[turned[0, 0] + turned[0, 2]]]
    assert bench.value("dark_valid")


def test_a_dark_of_many_frames_in_a_file_is_averaged_and_noisy(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["data"] = np.stack([flat(100), flat(104), flat(105)])
    bench = Bench(ZylaStage(), dark_file=f"hdf5:{tmp_path / 'dark.h5'}::/data")
    bench.frame(flat(150))
    assert bench.value("image").tolist() == [[47, 47], [47, 47]]
    assert bench.value("dark_frames") == 3
    np.testing.assert_allclose(bench.value("dark_noise"), np.std([100, 104, 105]), rtol=1e-6)


def test_moving_a_roi_does_not_look_at_frames_of_another_shape(bench: Bench) -> None:
    bench.frame(flat(150))
    bench.command("RecordDark", 1)
    bench.frame(flat(100, (4, 5)))
    bench.frame(flat(170, (4, 5)))
    bench.command("MoveRoi", "all=0,0,1,1")
    bench.work()
    np.testing.assert_array_equal(mean(bench), [np.nan, np.nan, 70])


# ------------------------------------------------------------------ recording a dark


def test_dark_frames_are_neither_summed_nor_in_the_curves(bench: Bench) -> None:
    bench.frame(flat(150))
    bench.command("RecordDark", 3)
    assert bench.value("dark_missing") == 3
    assert "a dark is being recorded: 3 frames to come" in bench.status()
    bench.frame(flat(200))
    assert bench.value("dark_missing") == 2 and "2 frames to come" in bench.status()
    assert bench.stage.forward() is None
    bench.frame(flat(203))
    bench.frame(flat(203))
    assert bench.value("dark_missing") == 0 and "recorded" not in bench.status()
    bench.frame(flat(160))
    assert bench.stage.forward() is not None
    assert bench.sum() == [[110, 110], [110, 110]]
    assert bench.value("accumulated_frames") == 2
    assert bench.value("roi_frame").tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(mean(bench), [50, np.nan, np.nan, np.nan, 60])
    bench.command("MoveRoi", "all=0,0,1,1")
    bench.work()
    np.testing.assert_array_equal(mean(bench), [50, np.nan, np.nan, np.nan, 60])


def test_a_recorded_dark_is_used_only_when_it_is_asked_for(bench: Bench) -> None:
    record(bench, 200, 203, 203)
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(200).tolist()
    assert bench.value("dark") is None and not bench.value("dark_valid")
    assert np.isnan(bench.value("dark_age")) and bench.value("dark_frames") == 0
    bench.command("UseDark")
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(98).tolist()
    assert bench.value("dark").tolist() == flat(202).tolist()
    np.testing.assert_allclose(bench.value("dark_noise"), np.std([200, 203, 203]), rtol=1e-6)
    assert bench.value("dark_valid") and bench.value("dark_frames") == 3
    assert 0 <= bench.value("dark_age") < 60
    assert bench.saved == [] and bench.value("accumulated_frames") == 2
    bench.command("RemoveDark")
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(200).tolist()
    assert bench.parameters.dark_file == "" and not bench.value("dark_valid")
    bench.command("UseDark")
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(98).tolist()


@pytest.mark.parametrize("asked_after", [0, 1, 2])
def test_a_dark_may_be_asked_for_before_it_is_complete(bench: Bench, asked_after: int) -> None:
    bench.command("RecordDark", 2)
    for number in range(2):
        if asked_after == number:
            bench.command("UseDark")
        bench.work()
        assert bench.parameters.dark_file == ""
        bench.frame(flat(200))
    if asked_after == 2:
        bench.command("UseDark")
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(100).tolist()
    assert bench.value("dark_valid")


def test_a_dark_that_is_being_written_may_be_asked_for(bench: Bench) -> None:
    bench.command("RecordDark", 1)
    bench.frame(flat(200))
    work = bench.stage.deferred()
    assert work is not None
    bench.command("UseDark")
    work()()
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(100).tolist()


def test_a_dark_that_is_complete_while_another_is_written_is_kept(bench: Bench) -> None:
    bench.command("RecordDark", 1)
    bench.frame(flat(200))
    work = bench.stage.deferred()
    assert work is not None
    bench.command("RecordDark", 1)
    bench.frame(flat(250))
    bench.command("UseDark")
    work()()
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(50).tolist()


def test_a_second_dark_takes_the_place_of_the_first(bench: Bench, tmp_path: Path) -> None:
    record(bench, 200)
    bench.command("UseDark")
    bench.work()
    first = bench.parameters.dark_file
    record(bench, 250, 250)
    assert bench.parameters.dark_file == first
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(100).tolist()
    assert len(list(tmp_path.glob("dark-*.npz"))) == 2
    bench.command("UseDark")
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(50).tolist()
    assert bench.value("dark_frames") == 2
    record(bench, 270)
    assert first not in map(str, tmp_path.glob("dark-*.npz"))
    assert Path(bench.parameters.dark_file).exists()


def test_asking_again_begins_the_dark_anew(bench: Bench) -> None:
    bench.command("RecordDark", 2)
    bench.frame(flat(500))
    bench.command("RecordDark", 2)
    assert bench.value("dark_missing") == 2
    bench.frame(flat(200))
    bench.frame(flat(200))
    bench.command("UseDark")
    bench.work()
    assert bench.value("dark").tolist() == flat(200).tolist()


@pytest.mark.parametrize("other", [{"shape": (2, 3)}, {"dtype": "u4"}, {"exposure_time": 0.5}])
def test_frames_that_change_begin_the_dark_anew(bench: Bench, other: dict[str, Any]) -> None:
    exposure = {"exposure_time": other.pop("exposure_time", 0.1)}
    bench.command("RecordDark", 2)
    bench.frame(flat(500), exposure_time=0.1)
    changed = flat(200, **other)
    bench.frame(changed, changed.dtype.str, **exposure)
    assert bench.value("dark_missing") == 1
    bench.frame(changed, changed.dtype.str, **exposure)
    assert bench.value("dark_missing") == 0
    bench.command("UseDark")
    bench.work()
    assert (bench.value("dark") == 200).all() and bench.value("dark").shape == changed.shape
    assert bench.value("dark_frames") == 2


@pytest.mark.parametrize("frames", [0, -1, dark.MOST_FRAMES + 1])
def test_darks_of_no_frame_or_of_too_many_are_refused(bench: Bench, frames: int) -> None:
    with pytest.raises(ValueError, match=f"a dark of {frames} frames: ask for 1 to 10000"):
        bench.command("RecordDark", frames)
    assert bench.value("dark_missing") == 0
    bench.command("RecordDark", dark.MOST_FRAMES)
    assert bench.value("dark_missing") == dark.MOST_FRAMES


def test_no_dark_is_recorded_without_a_folder_nor_used_before_there_is_one(bench: Bench) -> None:
    with pytest.raises(ValueError, match="RecordDark first"):
        bench.command("UseDark")
    bench.work()
    assert bench.parameters.dark_file == ""
    without = Bench(ZylaStage())
    with pytest.raises(ValueError, match="no folder to keep a dark in: set StateDirectory"):
        without.command("RecordDark", 3)
    with pytest.raises(ValueError, match="RecordDark first"):
        without.command("UseDark")
    without.frame(flat(150))
    assert without.value("accumulated_frames") == 1


def test_a_dark_that_cannot_be_kept_is_an_alarm(bench: Bench, tmp_path: Path) -> None:
    bench.stage.connection.folder = tmp_path / "gone"
    record(bench, 200)
    assert "the dark cannot be kept or used: " in bench.alarms()
    bench.frame(flat(150))
    assert bench.sum() == flat(50).tolist()
    bench.stage.connection.folder = tmp_path
    record(bench, 200)
    assert bench.alarms() == "" and len(list(tmp_path.glob("dark-*.npz"))) == 1


# ---------------------------------------------------------- darks that do not fit


def test_a_dark_of_another_exposure_is_not_used(bench: Bench) -> None:
    bench.begin(2, exposure_time=0.1)
    record(bench, 200)
    bench.command("UseDark")
    bench.work()
    bench.frame(flat(300))
    assert bench.value("dark_valid") and bench.value("image")[0, 0] == 100
    bench.begin(3, exposure_time=0.2)
    bench.frame(flat(300))
    assert not bench.value("dark_valid") and bench.value("image")[0, 0] == 200
    assert "the recorded dark is not used" in bench.status()
    assert "exposed for 0.1 s, the frames for 0.2 s" in bench.status()
    tree = bench.stage.finish(bench.series).tree()
    assert "process/dark/mean" not in tree
    bench.begin(4)
    bench.frame(flat(300))
    assert bench.value("dark_valid") and "not used" not in bench.status()


def test_a_dark_of_another_shape_is_not_used_and_not_taken(bench: Bench, tmp_path: Path) -> None:
    record(bench, 200)
    bench.command("UseDark")
    bench.work()
    bench.frame(flat(300, (2, 3)))
    assert not bench.value("dark_valid")
    assert bench.value("image").tolist() == flat(200, (2, 3)).tolist()
    assert "it has (2, 2) pixels, the frames (2, 3)" in bench.status()
    np.save(tmp_path / "other.npy", flat(100, (3, 2)))
    with pytest.raises(ParameterError, match=r"dark_file: it has \(3, 2\) pixels"):
        bench.change(dark_file=str(tmp_path / "other.npy"))
    bench.change(threshold=5)


def test_a_dark_in_use_survives_a_restart(bench: Bench, tmp_path: Path) -> None:
    record(bench, 200, 203, 203)
    bench.command("UseDark")
    bench.work()
    save_yaml(bench.parameters, tmp_path / "parameters.yaml")
    again = Bench(ZylaStage(), tmp_path, **load_yaml(tmp_path / "parameters.yaml"))
    again.frame(flat(300))
    assert again.value("image").tolist() == flat(98).tolist()
    assert again.value("dark_frames") == 3 and again.value("dark_age") < 60
    np.testing.assert_array_equal(again.value("dark_noise"), bench.value("dark_noise"))


def test_a_dark_that_was_recorded_before_a_restart_can_be_used(tmp_path: Path) -> None:
    record(Bench(ZylaStage(), tmp_path), 200)
    again = Bench(ZylaStage(), tmp_path)
    again.command("UseDark")
    again.work()
    again.frame(flat(300))
    assert again.value("image")[0, 0] == 100


def test_a_dark_that_vanished_refuses_frames_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    missing = str(tmp_path / "dark-0.npz")
    with pytest.raises(ParameterError, match="cannot be used as a dark"):
        bench.change(dark_file=missing)
    unchecked = CmosParameters(dark_file=missing, rois=ALL)
    bench.settings = Settings(9, unchecked)
    bench.stage.adopt(bench.settings)
    bench.check_values(before=True)
    with pytest.raises(BadFrame, match=r"dark-0\.npz cannot be used as a dark"):
        bench.frame(flat(300))
    bench.check_values(before=True)
    bench.stage.finish(bench.series).tree()
    runner = Runner(ZylaStage(), unchecked, folder=tmp_path)
    camera = Camera()
    remove: list[Step] = [
        camera.start,
        *camera.frames(flat(300)),
        lambda: runner.command("RemoveDark"),
        *camera.frames(flat(300)),
    ]
    with pytest.raises(AssertionError, match="cannot be used as a dark"):
        run(runner, *remove)
    assert (runner.ledger.counts.rejected, runner.ledger.counts.reduced) == (1, 1)
    assert runner.stage.value("image")[0, 0] == 200


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\x93NUMPY"])
def test_a_file_that_is_no_dark_is_refused(bench: Bench, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"dark-{1:020d}.npz"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match="cannot be used as a dark"):
        bench.change(dark_file=str(path))
    bench.command("UseDark")
    bench.work()
    assert "the dark cannot be kept or used: dark_file" in bench.alarms()
    bench.frame(flat(150))
    assert bench.sum() == flat(50).tolist()


# ---------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("workers", [1, 4])
def test_a_dark_is_recorded_and_used_in_the_order_of_the_frames(
    tmp_path: Path, workers: int
) -> None:
    writer = NexusWriter(output_file=tmp_path / "out.nxs")
    runner = make_runner(ZylaStage(), tmp_path, [writer], workers, rois=ALL)
    configured: list[str] = []
    runner.configured = lambda: configured.append(runner.settings.parameters.dark_file)
    camera = Camera(exposure_time=0.1)

    def in_use() -> None:
        wait_for(lambda: runner.settings.parameters.dark_file)

    run(
        runner,
        camera.start,
        *camera.frames(flat(150), flat(160)),
        lambda: runner.command("RecordDark", 3),
        *camera.frames(flat(200)),
        lambda: runner.command("UseDark"),
        *camera.frames(flat(203), flat(203)),
        in_use,
        *camera.frames(flat(300), flat(301)),
    )
    (kept,) = tmp_path.glob("dark-*.npz")
    assert configured == [str(kept)]
    assert runner.stage.value("accumulated_image").tolist() == flat(50 + 60 + 98 + 99).tolist()
    assert runner.health.alarms == ()
    runner.close()
    with h5py.File(tmp_path / "out.nxs") as file:
        entry = file["entry"]
        assert (entry["accumulated/sum"][()] == 307).all()
        assert entry["accumulated"].attrs["frames"] == 4
        assert {name: entry[f"ledger/{name}"][()] for name in ("received", "reduced")} == {
            "received": 7,
            "reduced": 7,
        }
        means = entry["rois/all/mean"][:]
        np.testing.assert_array_equal(means, [50, 60, np.nan, np.nan, np.nan, 98, 99])
        recorded = entry["process/dark"]
        assert (recorded["mean"][()] == 202).all() and recorded["mean"].dtype == np.uint16
        np.testing.assert_allclose(recorded["rms"][()], np.std([200, 203, 203]), rtol=1e-6)
        assert recorded["frames"][()] == 3 and recorded["exposure_time"][()] == 0.1
        assert recorded["recorded"][()] == pytest.approx(kept.stat().st_mtime, abs=60)
        assert recorded["recorded"].attrs["units"] == "s"
        assert recorded.attrs["NX_class"] == "NXdata"
        changes = entry["process/changes"]
        assert changes["frame"][:].tolist() == [5]
        assert kept.name in changes["values"].asstr()[0]


def test_a_refused_dark_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    runner = make_runner(ZylaStage())
    camera = Camera()
    run(
        runner,
        camera.start,
        *camera.frames(flat(150)),
        lambda: runner.command("RecordDark", 3),
        *camera.frames(flat(160)),
    )
    assert any("set StateDirectory" in alarm for alarm in runner.health.alarms)
    assert runner.stage.value("accumulated_frames") == 2


def test_a_dark_is_put_in_use_while_nothing_runs(tmp_path: Path) -> None:
    runner = make_runner(ZylaStage(), tmp_path)
    camera = Camera()
    runner.command("RecordDark", 1)
    run(runner, camera.start, *camera.frames(flat(200)))
    runner.command("UseDark")
    wait_for(lambda: runner.settings.parameters.dark_file)
    wait_for(lambda: runner.stage.value("dark_frames") == 1)
    run(runner, *camera.frames(flat(300)))
    assert runner.stage.value("image").tolist() == flat(100).tolist()


@pytest.mark.parametrize("recorded", [False, True])
def test_the_command_line_gives_the_same_with_any_number_of_workers(
    tmp_path: Path, recorded: bool
) -> None:
    level: NDArray[Any] | float = 100.0
    more = []
    if recorded:
        darks = images(f"simulated:zyla?frames=12&dark=yes&{SMALL}")
        with h5py.File(tmp_path / "dark.h5", "w") as file:
            file["data"] = darks
        more = ["--param", f"dark_file=hdf5:{tmp_path / 'dark.h5'}::/data"]
        level = np.rint(darks.mean(axis=0))
    source = f"simulated:zyla?frames=6&photons=100000&{SMALL}"
    sums = []
    for workers in (1, 4):
        out = tmp_path / f"{workers}.nxs"
        arguments = ["run", "zyla", "--source", source, "--output", str(out), "--workers"]
        assert main([*arguments, str(workers), *more]) == 0
        with h5py.File(out) as file:
            sums.append(file["entry/accumulated/sum"][()])
            assert file["entry/ledger/reduced"][()] == 6
            assert ("process/dark" in file["entry"]) == recorded
    above = images(source) - level
    expected = np.where(above >= 12, above, 0).sum(axis=0)
    assert expected.max() > 1000
    for total in sums:
        assert total.dtype == np.int64
        np.testing.assert_array_equal(total, expected)


def test_a_dark_that_was_removed_before_it_was_complete_is_not_used(bench: Bench) -> None:
    bench.command("RecordDark", 2)
    bench.command("UseDark")
    bench.command("RemoveDark")
    for _ in range(2):
        bench.frame(flat(200))
    bench.work()
    bench.frame(flat(300))
    assert bench.value("image").tolist() == flat(200).tolist()
    assert not bench.value("dark_valid")
