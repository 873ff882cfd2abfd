"""Balor frames: every photon once, none outside the analysis ROI, no two things in one sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from ronda.clients.cli.main import main
from ronda.core.codecs import PHOTON
from ronda.core.frame import BadFrame, Encoded, Frame, Series
from ronda.core.images.balor import BalorStage
from ronda.core.images.cmos import COUNTS
from ronda.core.images.hot import load_hot_pixels
from ronda.core.images.orientation import Orientation
from ronda.core.images.photon_parameters import BalorParameters
from ronda.core.images.photons import DOUBLE, SHARING
from ronda.core.images.pilatus import PilatusStage
from ronda.core.parameters import ParameterError, load_yaml, parse_assignments, save_yaml
from ronda.core.runner import Runner
from ronda.core.sinks.checkpoint import load_checkpoint
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sinks.publisher import Publisher
from ronda.core.sources import open_source
from ronda.core.sources.stins import Image, decode_message, encode_image
from ronda.core.stage import Record, Settings, registry
from ronda.tests.core.images.bench import Bench, Camera, images, make_runner, run
from ronda.tests.waiting import wait_for

ROWS, COLUMNS = 40, 50
WHOLE = "0,0,50,40"
ALL = {"all": {"x": 0, "y": 0, "width": COLUMNS, "height": ROWS}}
PLACE = {
    "photon_energy": 13.5,
    "detector_distance": 0.01,
    "beam_center_x": 25.0,
    "beam_center_y": 20.0,
    "azimuthal_bins": 10,
}
TABLE = {"frame": "u4", "y": "f4", "x": "f4", "energy": "f4", "flag": "u1"}
UNITS = {"y": "px", "x": "px", "energy": "counts"}
Hit = tuple[int, int, int]
"""Row, column and energy of a photon."""


def picture(*hits: Hit, shape: tuple[int, int] = (ROWS, COLUMNS)) -> NDArray[np.uint16]:
    """Return a frame with photons on a dark of 100: 90 counts in each of four neighbours."""
    image = np.full(shape, 100, np.uint16)
    for row, column, energy in hits:
        image[row, column] += energy - 360
        for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            image[row + y, column + x] += 90
    return image


def clean(*hits: Hit) -> list[list[int]]:
    """Return the clean image of photons that are all to be seen."""
    image = np.zeros((ROWS, COLUMNS), int)
    for row, column, _ in hits:
        image[row, column] += 1
    pixels: list[list[int]] = image.tolist()
    return pixels


DENSE = np.full((ROWS, COLUMNS), 300, np.uint16)
ONE, TWO = (5, 6, 1200), (20, 30, 1300)
THRESHOLDED = [[200] * COLUMNS] * ROWS


def make(folder: Path | None = None, **values: Any) -> Bench:
    return Bench(BalorStage(), folder, **{"analysis_roi": WHOLE, "rois": ALL, **values})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make(tmp_path)


def test_the_stage_is_known_by_its_name_and_has_the_right_defaults() -> None:
    assert registry.get("balor") is BalorStage
    p = BalorParameters()
    assert (p.hit_threshold, p.photon_sum_min, p.photon_sum_max) == (110, 800, 1400)
    assert (p.view_sum_min, p.hit_density_limit, p.gain) == (1100, 2, 1)
    assert p.pixel_size == 12e-6 and p.analysis_roi == "" and not p.trusted and p.save_raw


def test_every_output_has_a_value_of_its_kind_before_and_after_frames(bench: Bench) -> None:
    bench.check_values(before=True)
    bench.frame(picture(ONE))
    bench.check_values(before=False)
    bench.frame(DENSE)
    bench.check_values(before=False)


def test_what_the_file_gets_is_what_was_declared(bench: Bench) -> None:
    row = bench.frame(picture(ONE))
    outputs = bench.stage.outputs
    assert set(row) == {o.name for o in outputs if o.record in (Record.FRAME, Record.EVENTS)}
    declared = {o.path for o in outputs if o.record is Record.SERIES}
    assert declared <= set(bench.stage.update())
    assert declared <= set(bench.stage.finish(bench.series).tree())


# ------------------------------------------------------ when photons are looked for


@pytest.mark.parametrize(
    "unset",
    [
        ("hit_threshold",),
        ("photon_sum_min",),
        ("analysis_roi",),
        ("hit_threshold", "analysis_roi"),
        ("hit_threshold", "photon_sum_min", "analysis_roi"),
    ],
)
def test_frames_are_thresholded_unless_everything_is_set(unset: tuple[str, ...]) -> None:
    bench = make(**{name: "" if name == "analysis_roi" else None for name in unset})
    row = bench.frame(picture(ONE))
    assert f"frames are thresholded only: set {', '.join(unset)}" in bench.status().splitlines()[0]
    assert bench.value("image").dtype == np.uint16
    assert bench.value("image")[5, 4:9].tolist() == [0, 90, 840, 90, 0]
    assert "photons_energy" not in row and "photons_per_frame" not in row
    assert row["detection_frame"] == 0
    forwarded = bench.stage.forward()
    assert forwarded is not None and forwarded.extra == {"quantity": COUNTS}
    with pytest.raises(ValueError, match=f"set {', '.join(unset)}"):
        bench.stage.connection.folder = Path()
        bench.command("FindHotPixels", 3)
    bench.change(hit_threshold=110, photon_sum_min=800, analysis_roi=WHOLE)
    assert "photons are not looked for" not in bench.status()
    bench.frame(picture(ONE))
    assert bench.value("image").tolist() == clean(ONE)


@pytest.mark.parametrize(
    "form", ["10,20,30,40", [10, 20, 30, 40], (10, 20, 30, 40), " 10 , 20,\t30, 40 "]
)
def test_an_analysis_roi_may_be_written_in_several_forms(form: Any, tmp_path: Path) -> None:
    parameters = BalorParameters().changed({"analysis_roi": form})
    assert parameters.analysis_roi == "10,20,30,40"
    assert parameters.analysis == (20, 60, 10, 40)
    assert parameters.detects and parameters.unset == []
    save_yaml(parameters, tmp_path / "parameters.yaml")
    again = BalorParameters().changed(load_yaml(tmp_path / "parameters.yaml"))
    assert again.to_json() == parameters.to_json()
    (tmp_path / "list.yaml").write_text("analysis_roi: [10, 20, 30, 40]\n")
    words = parse_assignments(parameters, ["analysis_roi=10,20,30,40"])
    for values in (load_yaml(tmp_path / "list.yaml"), words):
        assert BalorParameters().changed(values).to_json() == parameters.to_json()


@pytest.mark.parametrize("nothing", ["", "   ", None, []])
def test_an_empty_analysis_roi_is_none(nothing: Any) -> None:
    parameters = BalorParameters(analysis_roi="0,0,3,3").changed({"analysis_roi": nothing})
    assert parameters.analysis is None and not parameters.detects
    assert parameters.unset == ["analysis_roi"]


@pytest.mark.parametrize(
    "bad",
    ["1,2,3", "1,2,3,4,5", "a,b,c,d", "0,0,0,5", "0,0,5,0", "-1,0,5,5", "1.5,0,5,5", ",,,",
     [1.5, 0, 5, 5], [1, 2, 3], 7, "0,0,99999999,5"],
)  # fmt: skip
def test_a_bad_analysis_roi_is_refused(bad: Any) -> None:
    with pytest.raises(ParameterError, match="analysis_roi"):
        BalorParameters().changed({"analysis_roi": bad})


@pytest.mark.parametrize("outside", ["0,0,51,40", "0,0,50,41", "50,0,1,1", "0,40,1,1"])
def test_an_analysis_roi_outside_the_frame_is_told(outside: str) -> None:
    bench = make(analysis_roi=outside)
    sentence = f"analysis_roi: {outside} is not wholly on the frame of 50 x 40 pixels"
    with pytest.raises(BadFrame, match=sentence):
        bench.frame(picture(ONE))
    bench.change(analysis_roi=WHOLE)
    bench.frame(picture(ONE))
    assert bench.value("accumulated_frames") == 1
    with pytest.raises(ParameterError, match=sentence):
        bench.change(analysis_roi=outside)


def test_an_analysis_roi_is_one_of_the_turned_frame() -> None:
    bench = make(orientation="rotate_90", analysis_roi="0,0,40,50", rois={})
    bench.frame(picture(ONE))
    turned = np.rot90(clean(ONE))
    assert bench.value("image").tolist() == turned.tolist()
    with pytest.raises(ParameterError, match="not wholly on the frame of 40 x 50"):
        bench.change(analysis_roi=WHOLE)
    with pytest.raises(ParameterError, match="not wholly on the frame of 50 x 40"):
        bench.change(orientation="normal")
    bench.change(orientation="normal", analysis_roi=WHOLE)
    bench.frame(picture(ONE))
    assert bench.value("image").tolist() == clean(ONE)


# -------------------------------------------------------------------- the clean image


@pytest.mark.parametrize("orientation", Orientation)
def test_photons_are_found_where_they_are_in_the_turned_frame(orientation: Orientation) -> None:
    rows, columns = orientation.turned((ROWS, COLUMNS))
    bench = make(orientation=orientation, analysis_roi=f"0,0,{columns},{rows}", rois={})
    row = bench.frame(picture(ONE, TWO))
    expected = orientation.apply(np.array(clean(ONE, TWO)))
    assert bench.value("image").tolist() == expected.tolist()
    places = np.argwhere(expected)
    np.testing.assert_array_equal(row["photons_y"], places[:, 0])
    np.testing.assert_array_equal(row["photons_x"], places[:, 1])


def test_the_analysis_roi_bounds_the_hottest_pixel_to_the_pixel() -> None:
    inside = [(10, 20, 1200), (10, 29, 1200), (14, 20, 1200), (14, 29, 1200)]
    outside = [(8, 24, 1200), (12, 18, 1200), (16, 24, 1200), (12, 31, 1200)]
    bench = make(analysis_roi="20,10,10,5", hit_density_limit=100)
    row = bench.frame(picture(*inside, *outside))
    assert bench.value("image").tolist() == clean(*inside)
    assert bench.value("image").dtype == np.uint16
    assert row["photons_y"].tolist() == [10, 10, 14, 14]
    for hit in ((9, 24, 1200), (15, 24, 1200), (12, 19, 1200), (12, 30, 1200)):
        bench.frame(picture(hit))
        assert not bench.value("image").any()
        assert bench.value("photons") == 0


@settings(deadline=None)
@given(st.integers(0, 1 << 32))
def test_the_clean_image_is_empty_outside_the_analysis_roi(seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 700, (ROWS, COLUMNS), np.uint16)
    bench = make(analysis_roi="20,10,10,5", photon_sum_min=1, view_sum_min=1, dark_level=300,
                 hit_density_limit=100)  # fmt: skip
    row = bench.frame(raw)
    image = bench.value("image").copy()
    assert image.shape == raw.shape
    assert image.sum() == len(row["photons_energy"]) == bench.value("photons")
    image[10:15, 20:30] = 0
    assert not image.any()


@pytest.mark.parametrize("down, right", [(0, -1), (0, 1), (-1, 0), (1, 0)])
def test_a_centre_of_gravity_beyond_the_analysis_roi_stays_in_it(down: int, right: int) -> None:
    row, column = 12 + 2 * down, 25 + 5 * right - (right > 0)
    image = picture()
    image[row, column] = 800
    image[row + down, column + right] = 700
    image[row - down, column - right] = 0
    bench = make(analysis_roi="20,10,10,5")
    found = bench.frame(image)
    assert found["photons_y"] == pytest.approx(row + 0.583 * down, abs=0.001)
    assert found["photons_x"] == pytest.approx(column + 0.583 * right, abs=0.001)
    assert bench.value("image").tolist() == clean((row, column, 0))


def test_a_clean_image_may_hold_energies() -> None:
    bench = make(clean_image="energy")
    bench.frame(picture(ONE, TWO, (30, 40, 900)))
    image = bench.value("image")
    assert image.dtype == np.float32
    assert (image[5, 6], image[20, 30], image.sum()) == (1200, 1300, 2500)
    bench.frame(picture(ONE))
    assert bench.value("accumulated_image")[5, 6] == 2400
    bench.change(clean_image="counts")
    bench.frame(picture(ONE))
    assert bench.sum() == clean(ONE)
    assert len(bench.saved) == 1


@pytest.mark.parametrize(
    ("least", "shown"),
    [(1100, [1100, 1300]), (1101, [1300]), (800, [800, 1099, 1100, 1300]), (100, None)],
)
def test_only_photons_are_shown(least: float, shown: list[int] | None) -> None:
    energies = [799, 800, 1099, 1100, 1300]
    hits = [(5, 8 * n + 4, energy) for n, energy in enumerate(energies)]
    bench = make(view_sum_min=least)
    row = bench.frame(picture(*hits))
    seen = [hit for hit in hits if hit[2] in (shown or energies[1:])]
    assert bench.value("image").tolist() == clean(*seen)
    assert row["photons_energy"].tolist() == energies[1:]
    assert bench.value("candidates_below") == 1 and bench.value("photons") == 4


def test_masked_saturated_and_edge_pixels_make_no_photon(bench: Bench, tmp_path: Path) -> None:
    mask = np.zeros((ROWS, COLUMNS))
    mask[6, 7] = 1
    np.save(tmp_path / "mask.npy", mask)
    bench.change(mask_file=str(tmp_path / "mask.npy"))
    image = picture(ONE, TWO, (30, 40, 1200))
    image[21, 31] = 65535
    image[0, 10] = 1500
    bench.frame(image)
    assert bench.value("image").tolist() == clean((30, 40, 1200))
    assert bench.value("candidates_at_edge") == 3
    assert bench.value("valid_count")[6, 7] == 0
    assert bench.value("roi_mean")[0, 0] == 1 / (ROWS * COLUMNS - 1)


def test_gain_turns_the_cameras_counts_into_those_of_the_cuts() -> None:
    bench = make(gain=0.5, clean_image="energy")
    image = picture((5, 6, 600))
    image[20, 30] += 55
    image[30, 10] += 54
    row = bench.frame(image)
    assert row["photons_energy"].tolist() == [1200]
    assert bench.value("image")[5, 6] == 1200
    assert bench.value("candidates_below") == 1
    assert np.flatnonzero(bench.value("histogram_counts")).tolist() == [11, 120]


def test_a_number_that_the_table_cannot_hold_rejects_its_frame(bench: Bench) -> None:
    bench.number = 1 << 32
    with pytest.raises(BadFrame, match="no room for a number over 4294967295"):
        bench.frame(picture(ONE))
    bench.number = (1 << 32) - 1
    assert bench.frame(picture(ONE))["photons_frame"].tolist() == [(1 << 32) - 1]
    assert bench.value("accumulated_frames") == bench.value("photons_single") == 1


def test_energies_that_no_pixel_can_hold_reject_their_frame() -> None:
    bench = make(clean_image="energy")
    image = picture(ONE).astype("f4")
    image[20, 30] = 3e38
    image[20, 31] = 2e38
    with np.errstate(over="ignore"), pytest.raises(BadFrame, match="there is no clean image"):
        bench.frame(image, "f4")
    assert bench.value("accumulated_frames") == 0


# ----------------------------------------------------------- table, histogram, classes


def test_every_photon_is_in_the_table_in_order(bench: Bench) -> None:
    rows = [
        bench.frame(picture(TWO, ONE, (30, 10, 799), (35, 20, 800))),
        bench.frame(picture()),
        bench.frame(picture((10, 10, 1500))),
    ]
    frames = np.concatenate([row["photons_frame"] for row in rows])
    energies = np.concatenate([row["photons_energy"] for row in rows])
    assert frames.tolist() == [0, 0, 0, 2]
    assert energies.tolist() == [1200, 1300, 800, 1500]
    assert rows[0]["photons_y"].tolist() == [5, 20, 35]
    assert rows[0]["photons_x"].tolist() == [6, 30, 20]
    assert rows[2]["photons_flag"].tolist() == [DOUBLE]
    assert [row["photons_per_frame"] for row in rows] == [3, 0, 1]
    assert [row["detection_below"] for row in rows] == [1, 0, 0]
    for row in rows:
        for name, dtype in TABLE.items():
            assert row[f"photons_{name}"].dtype == np.dtype(dtype)
    assert (bench.value("photons_single"), bench.value("photons_double")) == (3, 1)
    assert bench.value("double_fraction") == 25
    assert bench.value("histogram_counts").sum() == 5
    assert bench.value("photons_per_frame").tolist() == [3, 0, 1]


def test_photons_two_pixels_apart_share_pixels(bench: Bench) -> None:
    row = bench.frame(picture((10, 10, 900), (10, 12, 900), (30, 30, 900)))
    assert row["photons_flag"].tolist() == [SHARING, SHARING, 0]
    assert bench.value("photons_sharing") == row["detection_sharing"] == 2
    assert row["photons_energy"].tolist() == [990, 990, 900]


def test_histogram_and_counts_are_of_one_series_only(bench: Bench) -> None:
    bench.frame(picture(ONE, (30, 30, 1500)))
    first = bench.stage.finish(bench.series)
    assert bench.value("histogram_counts").sum() == 2
    bench.begin(2)
    for name in ("photons_single", "photons_double", "candidates_below", "photons"):
        assert bench.value(name) == 0
    assert np.isnan(bench.value("double_fraction"))
    bench.frame(picture(TWO))
    second = bench.stage.finish(bench.series)
    assert np.flatnonzero(second.tree()["histogram/counts"]).tolist() == [130]
    assert np.flatnonzero(first.tree()["histogram/counts"]).tolist() == [120, 150]
    assert bench.sum() == clean(ONE, TWO, (30, 30, 0))


def test_many_double_photons_are_an_alarm_only_when_there_are_enough_photons(bench: Bench) -> None:
    places = [(row, column) for row in range(2, 38, 6) for column in range(2, 48, 6)]
    bench.change(hit_density_limit=100)
    six = [(*place, 1500) for place in places[:6]]
    bench.frame(picture(*six, *((*place, 1200) for place in places[6:48])))
    bench.frame(picture(*((*place, 1200) for place in places[:48])))
    assert bench.value("double_fraction") == 6.25
    bench.frame(picture(*((*place, 1200) for place in places[:3])))
    assert bench.stage._detection.photons == 99 and bench.alarms() == ""  # type: ignore[attr-defined]
    bench.frame(picture((*places[0], 1200)))
    assert "6 % of the photons are double where 5 % is the limit" in bench.alarms()
    bench.frame(picture(*((*place, 1200) for place in places[:20])))
    assert bench.value("double_fraction") == 5 and bench.alarms() == ""
    bench.change(double_fraction_limit=4.9)
    assert "are double where 4.9 % is the limit" in bench.alarms()
    bench.begin(2)
    assert bench.alarms() == ""


def test_another_width_of_bins_begins_another_histogram(bench: Bench) -> None:
    bench.frame(picture(ONE))
    bench.change(histogram_width=20)
    assert bench.value("histogram_counts").sum() == 0
    bench.frame(picture(ONE))
    assert np.flatnonzero(bench.value("histogram_counts")).tolist() == [60]
    assert bench.value("histogram_energy")[60] == 1210
    bench.begin(2)
    assert bench.value("histogram_energy")[60] == 1210


# ------------------------------------------------------------------------- too dense


def test_frames_with_too_many_hits_are_summed_apart(bench: Bench) -> None:
    bench.frame(picture(ONE))
    row = bench.frame(DENSE)
    assert (row["photons_per_frame"], row["detection_fallback"]) == (-1, 1)
    assert "photons_energy" not in row
    assert bench.value("image").tolist() == THRESHOLDED
    assert bench.value("hit_density") == 100 and bench.value("fallback_frames") == 1
    assert "too many hits to tell photons apart: 1e+02 %" in bench.alarms()
    assert bench.stage.forward() is None
    bench.frame(picture(TWO))
    assert bench.alarms() == ""
    assert bench.stage.forward() is not None
    bench.frame(DENSE)
    assert bench.sum() == clean(ONE, TWO)
    assert bench.value("accumulated_frames") == 2 and bench.value("accumulation_resets") == 0
    assert bench.value("fallback_image").tolist() == (2 * np.array(THRESHOLDED)).tolist()
    assert bench.saved == []
    np.testing.assert_array_equal(bench.value("roi_sum"), [[1, np.nan, 1, np.nan]])
    bench.command("MoveRoi", "all=0,0,10,10")
    bench.work()
    np.testing.assert_array_equal(bench.value("roi_sum"), [[1, np.nan, 0, np.nan]])
    tree = bench.stage.finish(bench.series).tree()
    assert (tree["fallback/sum"] == 400).all() and tree["fallback@frames"] == 2
    assert tree["accumulated/sum"].tolist() == clean(ONE, TWO)
    assert tree["scan@frames"] == 2


@pytest.mark.parametrize(("hits", "dense"), [(40, False), (41, True)])
def test_the_density_is_that_of_the_pixels_looked_at(hits: int, dense: bool) -> None:
    bench = make(rois={})
    image = picture()
    image.reshape(-1)[1:hits] = 210
    image[30, 30] = 210
    image[:, 49] = 209
    bench.frame(image)
    assert bench.value("hit_density") == pytest.approx(100 * hits / 2000)
    assert bool(bench.alarms()) == dense
    bench.change(analysis_roi="0,20,50,20", hit_density_limit=0.1)
    bench.frame(image)
    assert bench.value("hit_density") == 0.1 and bench.alarms() == ""


def test_a_cleared_sum_takes_the_fallback_with_it(bench: Bench) -> None:
    bench.frame(DENSE)
    bench.frame(picture(ONE))
    bench.command("ClearAccumulation")
    assert not bench.value("fallback_image").any() and not np.any(bench.sum())
    assert "fallback/sum" not in bench.stage.finish(bench.series).tree()
    bench.frame(DENSE)
    assert bench.value("fallback_image").tolist() == THRESHOLDED


def test_both_sums_come_back_from_a_checkpoint(bench: Bench) -> None:
    assert bench.stage.state() is None
    bench.frame(DENSE)
    only_dense = bench.stage.state()
    bench.frame(picture(ONE))
    state = bench.stage.state()
    assert state is not None and only_dense is not None
    again, dense = make(), make()
    again.stage.restore(state)
    dense.stage.restore(only_dense)
    for each in (again, dense):
        each.frame(DENSE)
        each.frame(picture(TWO))
        assert (each.value("fallback_image") == 400).all()
        assert each.saved == []
    assert again.sum() == clean(ONE, TWO) and dense.sum() == clean(TWO)


def test_both_sums_come_back_after_a_restart(tmp_path: Path) -> None:
    for day in (1, 2):
        writer = NexusWriter(state_directory=tmp_path)
        runner = make_runner(BalorStage(), sinks=[writer], analysis_roi=WHOLE)
        if (state := load_checkpoint(tmp_path)) is not None:
            runner.stage.restore(state)
        camera = Camera("")
        run(runner, camera.start, *camera.frames(picture(ONE), DENSE))
        assert runner.stage.value("accumulated_image")[5, 6] == day
        assert (runner.stage.value("fallback_image") == 200 * day).all()
        assert runner.stage.value("accumulated_frames") == day
        runner.close()


def test_the_fallback_is_saved_before_frames_of_another_form(bench: Bench) -> None:
    bench.frame(DENSE)
    bench.change(orientation="rotate_180")
    bench.frame(DENSE)
    (document,) = bench.saved
    assert (document.tree["accumulated/sum"] == 200).all()
    assert bench.value("fallback_image").tolist() == THRESHOLDED


def test_the_fallback_waits_while_accumulation_is_off(bench: Bench) -> None:
    bench.frame(DENSE)
    bench.change(accumulate=False)
    bench.frame(DENSE)
    assert bench.value("fallback_image").tolist() == THRESHOLDED


def test_switching_the_search_for_photons_begins_a_new_sum(bench: Bench) -> None:
    bench.frame(picture(ONE))
    bench.change(analysis_roi="")
    bench.frame(picture(ONE))
    (document,) = bench.saved
    assert document.tree["accumulated/sum"].tolist() == clean(ONE)
    assert bench.value("accumulated_image")[5, 6] == 840
    assert bench.value("accumulated_frames") == 1 and bench.value("fallback_image") is None
    bench.change(analysis_roi=WHOLE)
    bench.frame(picture(TWO))
    assert len(bench.saved) == 2 and bench.sum() == clean(TWO)
    assert bench.value("photons_single") == 2


def test_a_dark_is_recorded_of_dense_frames_too(bench: Bench) -> None:
    bench.command("RecordDark", 2)
    row = bench.frame(DENSE)
    assert "photons_energy" not in row and row["detection_frame"] == 0
    bench.frame(DENSE)
    assert bench.value("fallback_image") is None and bench.value("fallback_frames") == 0
    bench.command("UseDark")
    bench.work()
    bench.frame(picture(ONE) + 200)
    assert bench.sum() == clean(ONE) and bench.value("photons_single") == 1


# ---------------------------------------------------------------- for other devices


def test_a_clean_image_is_forwarded_as_photons_or_as_an_image(bench: Bench) -> None:
    bench.frame(picture(ONE, TWO, (30, 40, 900)))
    forwarded = bench.stage.forward()
    assert forwarded is not None and isinstance(forwarded.image, Encoded)
    assert forwarded.image.codec == "photons" and forwarded.extra == {"quantity": "photons"}
    photons = np.frombuffer(forwarded.image.blob, PHOTON)
    assert photons["energy"].tolist() == [1200, 1300]
    assert forwarded.image.decode().tolist() == clean(ONE, TWO)
    bench.change(republish_photons=False)
    whole = bench.stage.forward()
    assert whole is not None and np.asarray(whole.image).tolist() == clean(ONE, TWO)
    assert whole.extra == forwarded.extra
    bench.change(clean_image="energy", republish_photons=True)
    bench.frame(picture(ONE))
    energies = bench.stage.forward()
    assert energies is not None and energies.extra != forwarded.extra
    assert isinstance(energies.image, Encoded) and energies.image.decode()[5, 6] == 1200


def passed_on(bench: Bench, other: Bench) -> None:
    """Send what a stage forwards as a message, and give it to another."""
    forwarded = bench.stage.forward()
    if forwarded is None:
        return
    message = decode_message(encode_image(1, other.number, forwarded.image, None, forwarded.extra))
    assert isinstance(message, Image)
    frame = Frame(other.series, other.number, message.pixels, metadata=message.metadata)
    other.number += 1
    other.stage.reduce(frame, other.stage.map(frame, other.parameters), other.settings)


@pytest.mark.parametrize("image", ["counts", "energy"])
@pytest.mark.parametrize("photons", [True, False])
def test_another_device_makes_the_same_of_the_photons(image: str, photons: bool) -> None:
    rois = {**ALL, "part": {"x": 3, "y": 2, "width": 20, "height": 10, "background": "all"}}
    bench = make(clean_image=image, republish_photons=photons, rois=rois, **PLACE)
    other = Bench(PilatusStage(), rois=rois, pixel_size=12e-6, **PLACE)
    for each in (picture(ONE), picture(ONE, TWO), DENSE, picture(TWO, (3, 4, 1400))):
        bench.frame(each)
        passed_on(bench, other)
    assert other.number == 3
    for device in (bench, other):
        device.work()
    assert other.sum() == bench.sum() and np.sum(bench.sum()) > 0
    for name in ("mean", "sum", "max", "std", "com_y", "net"):
        mine = bench.value(f"roi_{name}")[:, [0, 1, 3]]
        np.testing.assert_array_equal(other.value(f"roi_{name}"), mine)
    assert np.nansum(other.value("azimuthal_intensity")) > 0
    np.testing.assert_allclose(
        other.value("azimuthal_intensity"), bench.value("azimuthal_intensity")
    )
    assert other.saved == []


def test_frames_of_two_quantities_do_not_enter_one_sum_elsewhere(bench: Bench) -> None:
    other = Bench(PilatusStage())
    bench.frame(picture(ONE))
    passed_on(bench, other)
    bench.change(analysis_roi="")
    bench.frame(picture(TWO))
    passed_on(bench, other)
    (document,) = other.saved
    assert document.tree["accumulated/sum"].tolist() == clean(ONE)
    assert other.value("accumulated_image")[20, 30] == 1300 - 360
    assert other.value("accumulated_frames") == 1


def listened(publisher: Publisher) -> bool:
    """Tell whether somebody takes what is published."""
    sent = publisher.sent
    publisher.begin(Series(0), Frame(Series(0), 0, DENSE), Settings(0, BalorParameters()))
    return publisher.sent > sent


def test_photons_reach_another_device_through_a_socket(tmp_path: Path) -> None:
    publisher = Publisher("stins+tcp://127.0.0.1:0?socket=push")
    runner = make_runner(BalorStage(), sinks=[publisher], analysis_roi=WHOLE)
    other = make_runner(PilatusStage())
    other.start(lambda: open_source(publisher.url.replace("push", "pull")))
    camera = Camera()
    wait_for(lambda: listened(publisher))
    dropped = publisher.dropped
    run(runner, camera.start, *camera.frames(picture(ONE), DENSE, picture(TWO)))
    wait_for(lambda: other.ledger.counts.reduced == 2)
    assert other.ledger.counts.rejected == 0 and other.ledger.counts.lost == 0
    assert other.stage.value("accumulated_image").tolist() == clean(ONE, TWO)
    runner.close()
    other.close()
    assert publisher.dropped == dropped


# ------------------------------------------------------------------------ moved ROIs


def test_a_moved_roi_is_found_again_on_the_photon_lists(bench: Bench) -> None:
    # Three whole images would be too much for the ring, a hundred lists are not.
    bench.change(ring_bytes=3 * ROWS * COLUMNS * 2 - 1)
    for number in range(100):
        bench.frame(picture((5, 6, 1100 + number), TWO) if number % 2 else picture(ONE))
    bench.command("MoveRoi", "all=20,10,20,20")
    bench.work()
    assert bench.value("roi_sum")[0].tolist() == [0, 1] * 50
    bench.command("MoveRoi", "all=6,5,1,1")
    bench.work()
    assert bench.value("roi_mean")[0].tolist() == [1] * 100


def test_a_moved_roi_leaves_hot_pixels_out(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "hot.csv").write_text("row,column\n30,40\n")
    bench.change(hot_pixel_file=str(tmp_path / "hot.csv"))
    bench.frame(picture(ONE))
    bench.command("MoveRoi", "all=40,30,2,1")
    bench.work()
    assert bench.value("roi_sum").tolist() == [[0]]
    bench.command("MoveRoi", "all=40,30,1,1")
    bench.work()
    assert np.isnan(bench.value("roi_sum")).all()


# ------------------------------------------------------------- hot pixels, noise, raw


def test_listed_hot_pixels_are_left_out(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "hot.csv").write_text("row,column\n5,6\n")
    bench.frame(picture(ONE, TWO))
    bench.change(hot_pixel_file=str(tmp_path / "hot.csv"))
    bench.frame(picture(ONE, TWO))
    assert bench.value("image").tolist() == clean(TWO)
    assert bench.value("valid_count")[5, 6] == 1
    assert bench.stage.update()["process/mask"][5, 6] == 1
    with pytest.raises(ParameterError, match="no list of pixels"):
        bench.change(hot_pixel_file=str(tmp_path / "none.csv"))
    (tmp_path / "far.csv").write_text("40,6\n")
    with pytest.raises(ParameterError, match="row 40, column 6 is not on a frame"):
        bench.change(hot_pixel_file=str(tmp_path / "far.csv"))


def test_hot_pixels_are_found_joined_and_left_out(tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("row,column\n1,2\n")
    folder = tmp_path / "state"
    folder.mkdir()
    runner = make_runner(
        BalorStage(), folder, analysis_roi=WHOLE, hot_pixel_file=str(known), workers=4
    )
    camera = Camera()
    random = np.random.default_rng(1)

    def hot_frames(count: int) -> list[Frame]:
        hits = [(int(random.integers(18, 38)), int(random.integers(3, 47)), 1200)
                for _ in range(count)]  # fmt: skip
        return camera.frames(*(picture(ONE, hit) for hit in hits))

    run(
        runner,
        camera.start,
        *hot_frames(2),
        lambda: runner.command("FindHotPixels", 20),
        *hot_frames(20),
        lambda: wait_for(lambda: runner.settings.parameters.hot_pixel_file != str(known)),
        *hot_frames(3),
    )
    (found,) = folder.glob("hot-pixels-*.csv")
    assert runner.settings.parameters.hot_pixel_file == str(found)
    assert load_hot_pixels(found).tolist() == [[1, 2], [5, 6]]
    assert known.read_text() == "row,column\n1,2\n"
    assert runner.stage.value("accumulated_image")[5, 6] == 22
    assert runner.stage.value("valid_count")[5, 6] == 22
    assert runner.stage.value("hot_pixels_missing") == 0
    assert runner.health.alarms == ()


def test_the_search_for_hot_pixels_says_how_far_it_is(bench: Bench, tmp_path: Path) -> None:
    for frames in (2, 0, -1, 60_001):
        with pytest.raises(ValueError, match=f"hot pixels in {frames} frames: ask for 3 to 60000"):
            bench.command("FindHotPixels", frames)
    bench.command("FindHotPixels", 3)
    assert bench.value("hot_pixels_missing") == 3
    bench.frame(DENSE)
    assert bench.value("hot_pixels_missing") == 3
    bench.frame(picture(ONE))
    assert "hot pixels are looked for: 2 frames to come" in bench.status()
    bench.frame(picture(ONE))
    bench.frame(picture(ONE))
    bench.work()
    assert bench.value("hot_pixels_missing") == 0 and "looked for:" not in bench.status()
    assert bench.parameters.hot_pixel_file and bench.alarms() == ""
    with pytest.raises(ValueError, match="no folder to keep a list in: set StateDirectory"):
        make().command("FindHotPixels", 3)


def test_a_list_that_cannot_be_kept_is_an_alarm(bench: Bench, tmp_path: Path) -> None:
    bench.stage.connection.folder = tmp_path / "gone"
    bench.command("FindHotPixels", 3)
    for _ in range(3):
        bench.frame(picture(ONE))
    bench.work()
    assert "the list of hot pixels cannot be kept" in bench.alarms()
    assert bench.parameters.hot_pixel_file == ""


def test_save_raw_is_switched_off_only_with_trust() -> None:
    with pytest.raises(ParameterError, match="save_raw can only be switched off while trusted"):
        BalorParameters().changed({"save_raw": False})
    without = BalorParameters().changed({"save_raw": False, "trusted": True})
    with pytest.raises(ParameterError, match="save_raw can only be switched off"):
        without.changed({"trusted": False})
    without.changed({"trusted": False, "save_raw": True})


def test_a_noise_map_needs_a_recorded_dark_with_noise(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="noise_sigmas needs a recorded dark"):
        bench.change(noise_sigmas=5)
    np.save(tmp_path / "dark.npy", picture())
    bench.change(noise_sigmas=5, dark_file=str(tmp_path / "dark.npy"))
    bench.frame(picture(ONE))
    assert bench.sum() != clean(ONE), "counts: there is no noise to look for photons with"
    assert "noise_sigmas needs the noise of a recorded dark that fits" in bench.status()
    with pytest.raises(ParameterError, match="noise_sigmas needs a recorded dark"):
        bench.command("RemoveDark")
    bench.change(noise_sigmas=None)
    bench.frame(picture(ONE))
    assert bench.sum() == clean(ONE)


def test_a_dark_can_be_recorded_where_the_noise_of_the_last_one_does_not_fit(
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["data"] = np.array([picture(), picture()])[:, :5]
    bench = make(noise_sigmas=9, dark_file=f"hdf5:{tmp_path / 'dark.h5'}::/data")
    bench.stage.connection.folder = tmp_path
    bench.command("RecordDark", 2)
    for _ in range(2):
        bench.frame(picture())
    assert bench.value("dark_missing") == 0


def test_each_pixel_has_a_threshold_of_its_own_noise(tmp_path: Path) -> None:
    quiet = np.array([picture(), picture()])
    quiet[1, 5, 6] += 200
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["data"] = quiet
    bench = make(noise_sigmas=9, photon_sum_min=20, view_sum_min=20, rois={},
                 dark_file=f"hdf5:{tmp_path / 'dark.h5'}::/data")  # fmt: skip
    image = picture()
    image[5, 6] = 200 + 899
    image[20, 30] = 130
    bench.frame(image)
    assert bench.value("image").tolist() == clean((20, 30, 0))
    image[5, 6] += 1
    row = bench.frame(image)
    assert bench.value("image").tolist() == clean((5, 6, 0), (20, 30, 0))
    assert row["photons_energy"].tolist() == [900, 30]


# ----------------------------------------------------------------- the command line


def reduced(tmp_path: Path, workers: int, stage: str, source: str, *parameters: str) -> Path:
    """Run a stage from the command line; return its file."""
    out = tmp_path / f"{stage}-{workers}.nxs"
    arguments = ["run", stage, "--source", source, "--output", str(out), "--workers", str(workers)]
    assert main(arguments + [word for each in parameters for word in ("--param", each)]) == 0
    return out


def test_the_command_line_writes_the_same_table_with_any_number_of_workers(tmp_path: Path) -> None:
    source = "simulated:balor?frames=8&rows=200&columns=220&photons=60&seed=3"
    tables = []
    for workers in (1, 4):
        out = reduced(tmp_path, workers, "balor", source, "analysis_roi=0,0,220,200")
        with h5py.File(out) as file:
            entry = file["entry"]
            assert set(entry["photons"]) == set(TABLE)
            assert set(entry["histogram"]) == {"energy", "counts"}
            for name, dtype in TABLE.items():
                column = entry[f"photons/{name}"]
                assert column.dtype == np.dtype(dtype)
                assert column.attrs.get("units", "") == UNITS.get(name, "")
            assert entry["histogram/energy"].attrs["units"] == "counts"
            tables.append({name: entry[f"photons/{name}"][:] for name in TABLE})
            tables[-1] |= {f"detection/{name}": entry[f"detection/{name}"][:]
                           for name in entry["detection"]}  # fmt: skip
            tables[-1] |= {name: entry[name][()] for name in
                           ("histogram/counts", "histogram/energy", "accumulated/sum")}  # fmt: skip
            assert entry["ledger/received"][()] == entry["ledger/reduced"][()] == 8
            assert entry["ledger/rejected"][()] == entry["ledger/dropped"][()] == 0
            assert entry["end_note"].asstr()[()] == "complete"
    for name, values in tables[0].items():
        np.testing.assert_array_equal(values, tables[1][name], err_msg=name)
    table = tables[0]
    per_frame = table["detection/photons_per_frame"]
    np.testing.assert_array_equal(np.bincount(table["frame"], minlength=8), per_frame)
    assert (np.diff(table["frame"].astype(int)) >= 0).all() and per_frame.sum() > 100
    assert table["histogram/counts"].sum() == per_frame.sum() + table["detection/below"].sum()
    shown = table["energy"] >= 1100
    assert table["accumulated/sum"].sum() == shown.sum() > 100
    assert table["detection/frame"].tolist() == list(range(8))


def test_dense_frames_are_apart_in_the_file(tmp_path: Path) -> None:
    writer = NexusWriter(output_file=tmp_path / "out.nxs")
    runner = make_runner(BalorStage(), sinks=[writer], workers=4, analysis_roi=WHOLE, rois=ALL)
    camera = Camera()
    alternating = [DENSE if number % 2 else picture(ONE, TWO) for number in range(20)]
    run(runner, camera.start, *camera.frames(*alternating))
    assert any("too many hits" in alarm for alarm in runner.health.alarms)
    runner.close()
    with h5py.File(tmp_path / "out.nxs") as file:
        entry = file["entry"]
        assert (entry["fallback/sum"][()] == 2000).all()
        assert entry["fallback"].attrs["frames"] == 10
        assert entry["fallback"].attrs["NX_class"] == "NXdata"
        assert entry["accumulated/sum"][()].tolist() == (10 * np.array(clean(ONE, TWO))).tolist()
        assert entry["accumulated"].attrs["frames"] == 10
        assert entry["detection/fallback"][:].tolist() == [0, 1] * 10
        assert entry["detection/photons_per_frame"][:].tolist() == [2, -1] * 10
        np.testing.assert_array_equal(entry["rois/all/sum"][:], [2, np.nan] * 10)
        assert entry["photons/frame"][:].tolist() == [n for n in range(0, 20, 2) for _ in "12"]


def test_frames_that_were_not_looked_at_keep_their_row(tmp_path: Path) -> None:
    writer = NexusWriter(output_file=tmp_path / "out.nxs")
    runner = make_runner(BalorStage(), tmp_path, [writer], analysis_roi=WHOLE)
    camera = Camera()
    run(
        runner,
        camera.start,
        *camera.frames(picture(ONE)),
        lambda: runner.command("RecordDark", 1),
        *camera.frames(picture(ONE), picture(TWO)),
        lambda: runner.configure({"analysis_roi": ""}),
        *camera.frames(picture(ONE)),
    )
    runner.close()
    with h5py.File(tmp_path / "out.nxs") as file:
        detected = file["entry/detection"]
        assert detected["frame"][:].tolist() == [0, 1, 2, 3]
        assert detected["photons_per_frame"][:].tolist() == [1, -1, 1, -1]
        assert detected["fallback"][:].tolist() == [0, 0, 0, 0]
        assert file["entry/photons/frame"][:].tolist() == [0, 2]


def test_a_series_without_photons_has_empty_tables(tmp_path: Path) -> None:
    writer = NexusWriter(output_file=tmp_path / "out.nxs")
    runner = make_runner(BalorStage(), sinks=[writer], analysis_roi=WHOLE)
    camera = Camera()
    run(runner, camera.start, *camera.frames(picture(), picture()))
    runner.close()
    with h5py.File(tmp_path / "out.nxs") as file:
        for name, dtype in TABLE.items():
            assert file[f"entry/photons/{name}"].shape == (0,)
            assert file[f"entry/photons/{name}"].dtype == np.dtype(dtype)
        assert file["entry/histogram/counts"][:].sum() == 0
        assert file["entry/detection/photons_per_frame"][:].tolist() == [0, 0]


@pytest.mark.parametrize("detector", ["zyla", "balor"])
def test_photons_are_found_over_the_noise_of_a_recorded_dark(tmp_path: Path, detector: str) -> None:
    size = "rows=100&columns=110&seed=5"
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["data"] = images(f"simulated:{detector}?frames=24&dark=yes&{size}")
    light = "photons=20000" if detector == "zyla" else "photons=40&streaks=0"
    source = f"simulated:{detector}?frames=4&{light}&{size}"
    out = reduced(
        tmp_path,
        2,
        "balor",
        source,
        f"dark_file=hdf5:{tmp_path / 'dark.h5'}::/data",
        "noise_sigmas=8",
        "analysis_roi=0,0,110,100",
        "gain=1.5",
        "photon_sum_min=10",
        "view_sum_min=10",
        "hit_density_limit=100",
    )
    darks, frames = (images(f"simulated:{detector}?frames={count}&{what}&{size}")
                     for count, what in ((24, "dark=yes"), (4, light)))  # fmt: skip
    above = frames - np.rint(darks.mean(axis=0))
    hits = above >= np.maximum(8 * darks.std(axis=0), 1)
    with h5py.File(out) as file:
        density = file["entry/detection/hit_density"][:]
        np.testing.assert_allclose(density, 100 * hits.mean(axis=(1, 2)))
        assert (file["entry/process/dark/rms"][()] > 0).any()
        energy = file["entry/photons/energy"][:]
        y, x = (np.rint(file[f"entry/photons/{axis}"][:]).astype(int) for axis in "yx")
        number = file["entry/photons/frame"][:]
    assert len(energy) > 4 and energy.min() >= 10
    padded = np.pad(above, ((0, 0), (2, 2), (2, 2)))
    for n, row, column, value in zip(number, y, x, energy, strict=True):
        near = padded[n, row : row + 5, column : column + 5]
        sums = sliding_window_view(near, (3, 3)).sum(axis=(2, 3)) / 1.5
        assert np.isclose(sums, value, rtol=1e-6).any()


def test_the_runner_drops_nothing_and_ends_idle(no_thread_left: None) -> None:
    runner = Runner(BalorStage(), BalorParameters(analysis_roi=WHOLE), workers=4)
    camera = Camera()
    run(runner, camera.start, *camera.frames(*[picture(ONE)] * 50))
    assert runner.stage.value("accumulated_image")[5, 6] == 50
    assert runner.stage.value("photons_single") == 50
    assert runner.health.activity.value == "idle" and runner.health.alarms == ()
    runner.close()
