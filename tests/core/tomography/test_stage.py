"""Diffraction tomography: each frame in its place, nothing lost silently, across restarts."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.codecs import encode_bslz4
from ronda.core.frame import BadFrame, Encoded, Frame, Series, SeriesEnd, SeriesStart, new_run_id
from ronda.core.parameters import ParameterError
from ronda.core.positions import ScanEnd, ScanPoint, ScanStart
from ronda.core.runner import Runner
from ronda.core.sinks.checkpoint import load_checkpoint, write_checkpoint
from ronda.core.sources import Event
from ronda.core.sources.sardana import SardanaServer
from ronda.core.stage import Kind, Settings
from ronda.core.tomography.layer import Layer, Profile
from ronda.core.tomography.parameters import DiffTomoParameters
from ronda.core.tomography.scan import Place
from ronda.core.tomography.sinogram import RadialRange, RangeSums, parse_ranges
from ronda.core.tomography.stage import DiffTomoStage
from ronda.tests.core.tomography.phantom import (
    PHANTOM,
    RANGES,
    SIDE,
    Scanner,
    flat,
    phantom_frame,
    write_poni,
)
from ronda.tests.core.tomography.scripted import Script

NaN = np.nan


def run(folder: Path, events: list[Event], *sinks: Any, **values: Any) -> Runner:
    """Run the stage over events to their end."""
    asked = {"poni_file": write_poni(folder), "n_diffraction": 50, "solid_angle": False, **values}
    runner = Runner(
        DiffTomoStage(), DiffTomoParameters().changed(asked), sinks, workers=2, folder=folder
    )
    runner.start(lambda: Script(events))
    runner.wait()
    return runner


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), rtol=1e-5)


# ------------------------------------------------------------------ frames by number


def test_compressed_frames_are_not_mixed_up_between_workers(tmp_path: Path) -> None:
    series = Series(new_run_id())
    frames = []
    for number in range(300):
        blob = encode_bslz4(flat(number + 1, "u4"))
        frames.append(Frame(series, number, Encoded(blob, (SIDE, SIDE), np.dtype("u4"), "bslz4")))
    runner = run(tmp_path, [SeriesStart(series), *frames], n_translations=20, n_rotations=15)
    same(runner.latch(["sinogram"]).values["sinogram"] / 50 - 1, np.arange(300).reshape(15, 20))
    runner.close()


def test_frames_fill_their_places_in_whatever_order_they_come(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=3, n_rotations=2)
    scan.frames(5, 0, 2, 1, 3)
    same(scan.shown, [[0, 1, 2], [3, NaN, 5]])
    assert scan.frame_map == [[0, 1, 2], [3, -1, 5]]
    assert scan.value("points_measured") == 5
    assert scan.value("points_missing") == 1
    assert scan.value("progress") == pytest.approx(500 / 6)
    scan.frame(4)
    same(scan.shown, [[0, 1, 2], [3, 4, 5]])
    assert scan.value("progress") == 100
    assert scan.value("time_left") == 0


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"zigzag": True}, [[0, 1, 2], [5, 4, 3]]),
        ({"fast_axis": "rotation"}, [[0, 2, 4], [1, 3, 5]]),
        ({"fast_axis": "rotation", "zigzag": True}, [[0, 3, 4], [1, 2, 5]]),
        ({"offset": 2}, [[2, 3, 4], [5, 6, 7]]),
        ({"offset": -1}, [[NaN, 0, 1], [2, 3, 4]]),
    ],
)
def test_the_order_of_the_scan_is_unfolded(tmp_path: Path, values: Any, wanted: Any) -> None:
    scan = Scanner(tmp_path, n_translations=3, n_rotations=2, **values)
    scan.frames(*range(8))
    same(scan.shown, wanted)


def test_frames_before_and_after_the_map_are_counted_and_said(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, n_rotations=2, offset=3)
    scan.frames(*range(12))
    same(scan.shown, [[3, 4], [5, 6]])
    assert scan.value("frames_skipped") == 3
    assert scan.value("frames_extra") == 5
    assert "5 frames came after the last of 2 x 2 positions: they are not in the map" in (
        scan.status()
    )


def test_an_offset_larger_than_the_series_is_an_alarm_at_its_end(tmp_path: Path) -> None:
    series = Series(new_run_id())
    frames = [Frame(series, number, flat(1)) for number in range(4)]
    runner = run(tmp_path, [SeriesStart(series), *frames, SeriesEnd(series)], offset=4)
    assert "offset of 4 leaves nothing of a series of 4 frames" in "\n".join(runner.health.alarms)
    runner.close()
    runner = run(tmp_path, [SeriesStart(series), *frames, SeriesEnd(series)], offset=3)
    assert not runner.health.alarms
    runner.close()


def test_a_frame_number_that_comes_twice_is_rejected_not_put_elsewhere(tmp_path: Path) -> None:
    series = Series(new_run_id())
    frames = [Frame(series, number, flat(number + 1)) for number in (0, 1, 1, 2)]
    runner = run(tmp_path, [SeriesStart(series), *frames], n_translations=4)
    assert runner.ledger.counts.rejected == 1
    assert runner.latch(["frame_map"]).values["frame_map"].tolist() == [[0, 1, 2, -1]]
    runner.close()


def test_frames_of_one_point_are_averaged(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, frames_per_point=3, offset=1)
    scan.frames(1, 2, 3, 6, 4)
    same(scan.shown, [[2, 5]])
    assert scan.frame_map == [[3, 6]]
    assert scan.value("frames_averaged") == 3
    assert scan.value("frames_repeated") == 0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(st.sampled_from([NaN, 0.0, 1.0, 5.0, 1000.0]), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_averages_are_those_of_numpy_over_the_frames_that_have_a_value(rows: Any) -> None:
    frames = np.array(rows)
    sigma = np.sqrt(frames + 1)
    layer, place = Layer((2, 2), (3,), errors=True), Place(1, 0)
    layer.set(place, Profile(frames[0], sigma[0]))
    for number, (row, error) in enumerate(zip(frames[1:], sigma[1:], strict=True), 1):
        layer.average(place, Profile(row, error), number)
    there = np.isfinite(frames)
    number = np.where(there.any(axis=0), there.sum(axis=0), NaN)
    mean = np.where(there, frames, 0).sum(axis=0) / number
    error = np.sqrt(np.where(there, sigma**2, 0).sum(axis=0)) / number
    np.testing.assert_allclose(layer.intensity[place], mean, rtol=1e-5)
    assert layer.sigma is not None
    np.testing.assert_allclose(layer.sigma[place], error, rtol=1e-5)
    assert np.isnan(layer.intensity[0]).all()


# -------------------------------------------------------------------------- by motors


def points(count: int, values: Any) -> list[ScanPoint]:
    return [
        ScanPoint(n, {"tx": float(values[n][1]), "rot": float(values[n][0])}) for n in range(count)
    ]


def mesh(rotations: int, translations: int, zigzag: bool = True) -> list[tuple[float, float]]:
    """Positions of a mesh scan in the order in which it visits them: rot 0, 9..; tx -1, -0.9.."""
    return [
        (9.0 * row, -1 + 0.1 * (translations - 1 - n if zigzag and row % 2 else n))
        for row in range(rotations)
        for n in range(translations)
    ]


DESCRIBED = {
    "column_desc": [
        {"name": "tx", "min_value": -1.0, "max_value": 0.9},
        {"name": "rot", "min_value": 0.0, "max_value": 171.0},
    ]
}


def sardana_scan(folder: Path, start: ScanStart, late: bool, **values: Any) -> Runner:
    """A 20 x 20 scan of 402 points, 2 of them repeated, 3 of whose frames are missing."""
    random = np.random.default_rng(3)
    visited = mesh(20, 20)
    visited[250:250] = [visited[249], visited[247]]  # measured again
    noisy = [(r + random.uniform(-0.5, 0.5), t + random.uniform(-4e-3, 4e-3)) for r, t in visited]
    series = Series(new_run_id(), filename="scan-7_detector.h5")
    frames = [Frame(series, n, flat(n + 1)) for n in range(402) if n not in (17, 300, 401)]
    records = points(402, noisy)
    events: list[Event] = [start, SeriesStart(series)]
    if late:
        events += [*frames, *records]
    else:
        by_number = {frame.frame_id: frame for frame in frames}
        for record in records:
            events += [by_number[record.point]] if record.point in by_number else []
            events.append(record)
    return run(
        folder,
        [*events, ScanEnd(), SeriesEnd(series)],
        n_translations=20,
        n_rotations=20,
        place_by="motors",
        **values,
    )


WAYS = {
    "described by the scan": (ScanStart(7, ("tx", "rot"), metadata=DESCRIBED), {}),
    "ranges set": (
        ScanStart(7, ("tx", "rot")),
        {"rotation_range": [0, 171], "translation_range": [-1, 0.9]},
    ),
    "found at the end": (ScanStart(7, ("tx", "rot")), {}),
    "motors named": (
        ScanStart(7, ("rot", "tx"), metadata=DESCRIBED),
        {"rotation_motor": "rot", "translation_motor": "tx"},
    ),
}


@pytest.mark.parametrize("late", [False, True], ids=["in step", "records late"])
@pytest.mark.parametrize("way", WAYS)
def test_a_sardana_scan_with_missing_and_repeated_frames_is_all_in_place(
    tmp_path: Path, way: str, late: bool
) -> None:
    start, values = WAYS[way]
    runner = sardana_scan(tmp_path, start, late, **values)
    wanted = np.full((20, 20), -1)
    visited = mesh(20, 20)
    visited[250:250] = [visited[249], visited[247]]
    for n, (rotation, translation) in enumerate(visited):
        if n not in (17, 300, 401):
            wanted[round(rotation / 9), round((translation + 1) / 0.1)] = n
    names = ["frame_map", "sinogram", "rotation_values", "translation_values"]
    found = runner.latch(names).values
    np.testing.assert_array_equal(found["frame_map"], wanted)
    same(found["sinogram"], np.where(wanted < 0, NaN, 50.0 * (wanted + 1)))
    same(found["rotation_values"].round(0), np.arange(20) * 9)
    same(found["translation_values"].round(1), np.arange(20) * 0.1 - 1)
    counts = {
        name: found[name]
        for name in ("points_measured", "points_missing", "frames_repeated", "frames_waiting")
    }
    assert counts == {
        "points_measured": 397,
        "points_missing": 3,
        "frames_repeated": 2,
        "frames_waiting": 0,
    }
    assert found["frames_off_grid"] == found["frames_extra"] == found["frames_skipped"] == 0
    runner.close()


def post(port: int, path: str, **document: Any) -> None:
    """Post a document as Sardana does."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}", json.dumps(document).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200


def test_positions_that_sardana_posts_place_the_frames_of_another_stream(tmp_path: Path) -> None:
    sardana = SardanaServer("sardana+http://127.0.0.1:0")
    series = Series(new_run_id(), filename="scan-7_detector.h5")
    visited = mesh(4, 5)
    post(sardana.port, "data_desc", serialno=7, ref_moveables=["tx", "rot"])
    for n, (rotation, translation) in enumerate(visited):
        if n != 6:
            post(sardana.port, "record_data", point_nb=n, rot=rotation, tx=translation)
    post(sardana.port, "record_end")
    frames = [Frame(series, n, flat(n + 1)) for n in range(20) if n != 13]
    asked = {
        "poni_file": write_poni(tmp_path),
        "n_diffraction": 50,
        "solid_angle": False,
        "n_translations": 5,
        "n_rotations": 4,
        "place_by": "motors",
    }
    runner = Runner(DiffTomoStage(), DiffTomoParameters().changed(asked), workers=2)
    runner.start(lambda: Script([SeriesStart(series), *frames]), lambda: sardana)
    deadline = time.monotonic() + 30
    while runner.results.values["points_measured"] < 18 and time.monotonic() < deadline:
        time.sleep(0.05)
    runner.stop()
    wanted = np.arange(20).reshape(4, 5)
    wanted[1::2] = wanted[1::2, ::-1]
    wanted[(wanted == 6) | (wanted == 13)] = -1
    np.testing.assert_array_equal(runner.latch(["frame_map"]).values["frame_map"], wanted)
    assert runner.results.values["frames_waiting"] == 1
    runner.close()


def test_a_motor_off_the_grid_is_counted_not_put_to_a_neighbour(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=3, place_by="motors", translation_range=[0, 2])
    scan.stage.position(ScanStart(None, ("tx",)))
    for n, value in enumerate((0.0, 1.45, 2.0, 7.0)):
        scan.frame(n)
        scan.stage.position(ScanPoint(n, {"tx": value}))
    scan.stage.deferred()
    scan.stage.position(ScanEnd())
    scan.stage.finish(scan.series).settled()
    assert scan.frame_map == [[0, -1, 2]]
    assert scan.value("frames_off_grid") == 2
    assert "2 frames were taken beside the grid of 1 x 3 positions" in scan.status()


def test_frames_wait_for_their_positions_and_it_is_said_why(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, place_by="motors")
    scan.frames(0, 1)
    assert scan.value("frames_waiting") == 2
    assert "2 frames wait for positions" in scan.status()
    scan.stage.position(ScanStart(None, ("tx",)))
    scan.stage.position(ScanPoint(0, {"tx": 4.0}))
    scan.stage.position(ScanPoint(1, {"tx": 5.0}))
    assert not scan.stage.finish(scan.series).settled()
    assert "the scan does not say where tx goes" in scan.status()
    scan.stage.position(ScanEnd())
    assert scan.stage.finish(scan.series).settled()
    assert scan.frame_map == [[0, 1]]


def test_frames_without_positions_do_not_pile_up_without_end(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, place_by="motors")
    scan.frames(*range(1007))
    assert scan.value("frames_waiting") == 1000
    assert scan.value("frames_without_position") == 7
    assert "7 frames never got positions: they are not in the map" in scan.status()


def test_a_scan_without_such_a_motor_says_so(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, n_rotations=2, place_by="motors")
    scan.stage.position(ScanStart(None, ("tx",)))
    scan.stage.position(ScanPoint(0, {"tx": 4.0}))
    scan.frame(0)
    assert "the scan moves nothing that could be the rotation" in scan.status()


# --------------------------------------------------- one map after the other, restarts


def test_a_series_begins_with_an_empty_map_unless_the_scan_goes_on(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=4)
    scan.frames(0, 1)
    scan.begin(2)
    scan.frame(3)
    assert scan.frame_map == [[-1, -1, -1, 3]]
    scan.change(continue_scan=True, offset=-1)
    scan.begin(3)
    scan.frames(0, 1)
    assert scan.frame_map == [[-1, 0, 1, 3]]
    scan.begin(4)
    scan.frame(1, flat(100))
    same(scan.shown, [[NaN, 0, 99, 3]])
    assert scan.value("frames_repeated") == 1


def restarted(scan: Scanner, folder: Path) -> Scanner:
    """Another process with the checkpoint of the first."""
    state = scan.stage.state()
    assert state is not None
    assert not write_checkpoint(folder / "state", state)
    loaded = load_checkpoint(folder / "state")
    assert loaded is not None
    new = Scanner(folder, **scan.settings.parameters.model_dump(exclude_defaults=True))
    new.stage.restore(loaded)
    return new


@pytest.mark.parametrize("azimuthal_bins", [0, 4])
def test_a_scan_goes_on_after_a_restart_in_its_middle(tmp_path: Path, azimuthal_bins: int) -> None:
    before = Scanner(
        tmp_path,
        n_translations=3,
        n_rotations=2,
        zigzag=True,
        error_model="poisson",
        azimuthal_bins=azimuthal_bins,
        radial_ranges=["low=5,15"],
    )
    before.frames(0, 1, 2)
    after = restarted(before, tmp_path)
    same(after.shown, [[0, 1, 2], [NaN, NaN, NaN]])
    after.begin(2, joined_late=True)
    same(after.shown, [[0, 1, 2], [NaN, NaN, NaN]])
    after.frames(4, 5)
    same(after.shown, [[0, 1, 2], [5, 4, NaN]])
    assert "goes on with frame 4 in the map of 3 positions" in after.status()
    before.frames(4, 5)
    for name in ("mean_pattern", "sinogram", "radial", "frame_map", "point_pattern"):
        np.testing.assert_array_equal(before.value(name), after.value(name))


def test_another_scan_joined_late_does_not_mix_with_the_map(tmp_path: Path) -> None:
    before = Scanner(tmp_path, n_translations=4)
    before.frames(0, 1, 2)
    after = restarted(before, tmp_path)
    after.begin(2, joined_late=True)
    after.frames(1, 2)
    assert after.frame_map == [[-1, 1, 2, -1]]
    assert "the map of 3 positions was emptied: frame 1 came again" in after.status()


def test_frames_of_one_point_are_averaged_across_a_restart(tmp_path: Path) -> None:
    before = Scanner(tmp_path, n_translations=2, frames_per_point=4)
    before.frames(0, 1)
    after = restarted(before, tmp_path)
    after.begin(2, joined_late=True)
    after.frames(2, 3, 4)
    same(after.shown, [[1.5, 4]])


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    before = Scanner(tmp_path, n_translations=2)
    before.frame(0)
    state = before.stage.state()
    assert state is not None
    for values in ({"n_translations": 3}, {"n_translations": 2, "unit": "r_mm"}):
        with pytest.raises(ValueError, match="other parameters"):
            Scanner(tmp_path, **values).stage.restore(state)
    for name in state:
        damaged = {key: value for key, value in state.items() if key != name}
        with pytest.raises(ValueError):
            Scanner(tmp_path, n_translations=2).stage.restore(damaged)


def test_the_map_is_emptied_on_command(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2)
    scan.frames(0, 1, 2)
    scan.stage.handle("ClearMap", None)
    assert (scan.value("points_measured"), scan.value("frames_extra")) == (0, 0)
    assert scan.value("frame_map") is None
    scan.frame(1)
    assert scan.frame_map == [[-1, 1]]


# --------------------------------------------------------------- parameters change


def test_patterns_move_when_the_order_of_the_scan_is_corrected(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=3, n_rotations=2)
    scan.frames(0, 1, 2, 3, 4)
    scan.change(zigzag=True)
    same(scan.shown, [[0, 1, 2], [NaN, 4, 3]])
    scan.change(offset=1)
    same(scan.shown, [[1, 2, 3], [NaN, NaN, 4]])
    assert scan.value("frames_skipped") == 1
    assert "1 patterns have no place in the map any more" in scan.status()
    scan.change(n_translations=2, n_rotations=3)
    scan.frame(5)
    same(scan.shown, [[1, 2], [4, 3], [5, NaN]])
    same(scan.value("mean_pattern"), [4.0] * 50)


def test_patterns_move_when_the_motors_are_told_apart_late(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, n_rotations=2)
    scan.stage.position(ScanStart(None, ("tx", "rot"), metadata=DESCRIBED))
    for n, (rotation, translation) in enumerate([(171, 0.9), (171, -1), (0, 0.9)]):
        scan.stage.position(ScanPoint(n, {"rot": rotation, "tx": translation}))
        scan.frame(n)
    scan.frame(3)
    scan.change(place_by="motors")
    assert scan.frame_map == [[-1, 2], [1, 0]]
    assert scan.value("frames_waiting") == 1
    scan.stage.position(ScanPoint(3, {"rot": 0.0, "tx": -1.0}))
    scan.stage.finish(scan.series).settled()
    same(scan.shown, [[3, 2], [1, 0]])


@pytest.mark.parametrize(
    "change", [{"unit": "q_A^-1"}, {"n_diffraction": 20}, {"error_model": "poisson"}]
)
def test_patterns_of_different_kinds_are_never_in_one_map(tmp_path: Path, change: Any) -> None:
    scan = Scanner(tmp_path, n_translations=3)
    scan.frames(0, 1)
    scan.change(**change)
    assert f"the map of 2 positions was emptied, because {next(iter(change))} changed" in (
        scan.status()
    )
    scan.frame(2)
    assert scan.frame_map == [[-1, -1, 2]]


def test_what_is_only_shown_leaves_the_map_alone(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=3)
    scan.frames(0, 1)
    scan.change(
        radial_ranges=["low=5,15"],
        sinogram_of="low",
        subtract_background=True,
        reconstruct=True,
        rotation_centre=0.5,
        point_translation=1,
    )
    assert scan.frame_map == [[0, 1, -1]]
    same(scan.value("point_pattern"), [2.0] * 50)
    for place in ({"point_translation": 3}, {"point_translation": 2}, {"point_rotation": 1}):
        scan.change(**{"point_rotation": 0, "point_translation": 0, **place})
        same(scan.value("point_pattern"), [NaN] * 50)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_diffraction": 0}, "n_diffraction: .* greater than or equal to 1, got 0"),
        ({"n_rotations": 16000, "n_translations": 16000}, "256000000 positions are more than"),
        ({"n_rotations": 4000, "n_translations": 4000}, "takes .* GB, more than"),
        ({"sinogram_of": "none"}, "there is no range named none"),
        ({"radial_ranges": ["a=1,2", "a=3,4"]}, "two ranges named a"),
        ({"radial_ranges": ["a=2,1"]}, "the lower end comes first"),
        ({"radial_ranges": ["a=nan,1"]}, "the lower end comes first"),
        ({"radial_ranges": ["a 1,2"]}, "is no name for a range"),
        ({"radial_ranges": ["all=1,2"]}, "is no name for a range"),
        ({"radial_ranges": ["a=1"]}, "not of the form name=low,high"),
        ({"rotation_range": [1, 1]}, "two different numbers"),
        ({"rotation_range": [1]}, "two different numbers"),
        ({"azimuth_range": [0, 400]}, "at most 360 deg further"),
        ({"azimuth_range": [90, 10]}, "to a greater one"),
        ({"azimuth_range": [0, float("inf")]}, "azimuth_range"),
        ({"azimuth_range": [-10, 190]}, "over both 0 and 180 deg"),
        ({"slow_axis": "translation", "reconstruct": True}, "without a rotation"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(change: Any, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence) as raised:
        DiffTomoParameters().changed(change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("sector", [[0, 360], [-180, 180], [170, 190], [-10, 10], [350, 370]])
def test_sectors_across_one_jump_of_azimuths_are_taken(sector: list[float]) -> None:
    assert DiffTomoParameters().changed({"azimuth_range": sector}).azimuths == tuple(sector)


def test_frames_that_do_not_fit_the_geometry_are_refused_in_one_sentence(tmp_path: Path) -> None:
    scan = Scanner(tmp_path)
    with pytest.raises(BadFrame, match="the frames have"):
        scan.frame(0, np.zeros((SIDE, SIDE + 1), "i4"))
    scan.change(poni_file="")
    assert "poni_file is not set" in scan.status()
    with pytest.raises(BadFrame, match="poni_file is not set"):
        scan.frame(0)


def test_files_for_other_frames_are_refused_once_frames_are_known(tmp_path: Path) -> None:
    scan = Scanner(tmp_path)
    scan.frame(0)
    (tmp_path / "other").mkdir()
    with pytest.raises(ParameterError, match="the frames have"):
        scan.change(poni_file=write_poni(tmp_path / "other", side=30))


# ---------------------------------------------------------------- what is derived


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([NaN, 0.0, 1.0, 7.5]), min_size=12, max_size=12),
    st.floats(-1, 13),
    st.floats(0.1, 8),
)
def test_a_range_sums_the_bins_whose_centres_lie_in_it(
    values: list[float], low: float, width: float
) -> None:
    radial = np.arange(12.0)
    bins = [v for r, v in zip(radial, values, strict=True) if low <= r <= low + width]
    known = [v for v in bins if not np.isnan(v)]
    wanted = sum(known) if known else NaN
    one = RadialRange("a", low, low + width)
    two = RangeSums((one, one), radial, background=False).of(np.array([values, values]))
    same(two, [[wanted, wanted]] * 2)


def test_a_peak_on_a_slope_is_summed_without_it() -> None:
    radial = np.linspace(0, 20, 201)
    slope = 100 + 3 * radial
    peak = np.exp(-0.5 * ((radial - 10) / 0.3) ** 2)
    sums = RangeSums(parse_ranges(["peak=8,12"]), radial, background=True)
    same(sums.of(slope + peak), [peak.sum()])
    one_sided = np.where(radial < 8, NaN, 100 + peak)
    same(sums.of(one_sided), [peak.sum()])
    alone = np.where((radial < 8) | (radial > 12), NaN, 100 + peak)
    inside = ((radial >= 8) & (radial <= 12)).sum()
    same(sums.of(alone), [peak.sum() + 100 * inside])


def test_mean_and_sinograms_follow_patterns_that_are_measured_again(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, continue_scan=True, radial_ranges=["low=5,15"])
    random = np.random.default_rng(0)
    for run_id in (2, 3):
        scan.begin(run_id)
        for number in (0, 1):
            scan.frame(number, random.integers(0, 1000, (SIDE, SIDE)))
    scan.change(sinogram_of="low")
    patterns = []
    for number in (0, 1):
        scan.change(point_translation=number)
        patterns.append(scan.value("point_pattern"))
    same(scan.value("mean_pattern"), np.mean(patterns, axis=0))
    radial = scan.value("radial")
    inside = (radial >= 5) & (radial <= 15)
    same(scan.value("sinogram"), [[pattern[inside].sum() for pattern in patterns]])


def test_patterns_in_two_dimensions_come_with_those_in_one(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, azimuthal_bins=6, error_model="poisson")
    row = scan.frame(1, flat(9))
    assert len(scan.value("azimuthal")) == 6
    placed = {name: cells[0] for name, cells in row.items()}
    assert placed["intensity"].index == (0, 1)
    assert np.shape(placed["intensity"].value) == np.shape(placed["errors"].value) == (6, 50)
    assert np.nanmax(np.abs(np.asarray(placed["intensity"].value) - 9)) < 1e-4
    shapes = scan.stage.cells()
    assert shapes["pyFAI/result/intensity"] == (1, 2, 6, 50)


def test_values_of_all_outputs_are_of_their_kinds_before_and_after_a_frame(tmp_path: Path) -> None:
    scan = Scanner(tmp_path, n_translations=2, reconstruct=True)
    for _ in range(2):
        for output in scan.stage.outputs:
            if not output.live:
                continue
            value = scan.value(output.name)
            rank = {Kind.SCALAR: 0, Kind.SPECTRUM: 1, Kind.IMAGE: 2}[output.kind]
            if value is None:
                assert output.kind is Kind.IMAGE
                continue
            assert np.ndim(value) == rank, output.name
            assert np.can_cast(np.asarray(value).dtype, output.dtype, "same_kind"), output.name
        scan.frame(0)
        work = scan.stage.deferred()
        if work:
            work()()
    assert scan.value("reconstruction").shape == (2, 2)


# -------------------------------------------------------------------- the phantom


def phantom_scan(folder: Path, *sinks: Any, **values: Any) -> Runner:
    """Run a zig-zag scan of the phantom with 4 frames before it and gaps in it."""
    random = np.random.default_rng(11)
    rotations, translations, offset = 36, 27, 4
    series = Series(new_run_id(), filename="scan-3_detector.h5")
    frames: list[Event] = [Frame(series, n, flat(500)) for n in range(offset)]
    gaps = set(random.integers(0, rotations * translations, 25).tolist())
    for row in range(rotations):
        for n in range(translations):
            column = translations - 1 - n if row % 2 else n
            number = row * translations + n
            if number not in gaps and row != 20:
                image = phantom_frame(5.0 * row, column - 13, random)
                frames.append(Frame(series, offset + number, image))
    return run(
        folder,
        [SeriesStart(series), *frames, SeriesEnd(series)],
        *sinks,
        **{
            "n_translations": translations,
            "n_rotations": rotations,
            "offset": offset,
            "zigzag": True,
            "rotation_range": [0, 175],
            "radial_ranges": list(RANGES),
            "subtract_background": True,
            "reconstruct": True,
            **values,
        },
    )


def centroid(image: Any) -> tuple[float, float]:
    """x and y of what stands out, from the middle of the image."""
    weight = np.where(image > 0.5 * np.nanmax(image), image, 0)
    rows, columns = np.indices(image.shape) - (image.shape[0] - 1) / 2
    return float((columns * weight).sum() / weight.sum()), float(
        (rows * weight).sum() / weight.sum()
    )


def reconstructed(runner: Runner) -> list[tuple[float, float]]:
    """Where each powder of the phantom is found."""
    found = []
    for number, name in enumerate(("first", "second", "third"), runner.settings.version + 1):
        parameters = runner.settings.parameters.changed({"sinogram_of": name})
        runner.stage.adopt(Settings(number, parameters))
        work = runner.stage.deferred()
        assert work is not None
        work()()
        found.append(centroid(runner.stage.value("reconstruction")))
    return found


def test_each_powder_of_a_phantom_is_where_it_was(tmp_path: Path) -> None:
    runner = phantom_scan(tmp_path)
    for disc, (x, y) in zip(PHANTOM, reconstructed(runner), strict=True):
        assert np.hypot(x - disc.x, y - disc.y) < 0.4
    assert runner.results.values["frames_skipped"] == 4
    runner.close()


@pytest.mark.parametrize("wrong", [{"zigzag": False}, {"offset": 0}, {"rotation_range": [0, -175]}])
def test_the_phantom_is_elsewhere_if_the_scan_is_taken_for_another(
    tmp_path: Path, wrong: Any
) -> None:
    runner = phantom_scan(tmp_path, **wrong)
    away = [
        np.hypot(x - disc.x, y - disc.y)
        for disc, (x, y) in zip(PHANTOM, reconstructed(runner), strict=True)
    ]
    assert max(away) > 1.5
    runner.close()
