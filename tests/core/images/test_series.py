"""ROI curves: each ROI keeps its place, moved ones are found again, and the file keeps its own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series
from ronda.core.growing import Growing
from ronda.core.images.curves import OUTPUTS, SeriesParameters
from ronda.core.images.ring import Ring
from ronda.core.images.roi import Roi, statistics
from ronda.core.images.series import RoiSeries
from ronda.core.images.slots import Slots
from ronda.core.marks import as_pixels
from ronda.core.positions import ScanEnd, ScanPoint, ScanStart
from ronda.core.stage import SLOTS, Row

A = {"x": 0, "y": 0, "width": 2, "height": 2}
B = {"x": 2, "y": 2, "width": 2, "height": 2}
IMAGE = 4 * 4 * 4


class Bench:
    """Feeds a `RoiSeries` as the chain does."""

    def __init__(self, **values: Any) -> None:
        self.parameters = SeriesParameters(**values)
        self.rois = RoiSeries(self.parameters)
        self.number = 0

    def begin(self, **about: Any) -> None:
        self.number = 0
        self.series = Series(len(str(about)) + id(self) % 1000, **about)
        self.rois.begin(self.series)

    def change(self, **values: Any) -> None:
        self.parameters = self.parameters.changed(values)
        self.rois.adopt(self.parameters)

    def frame(self, level: float, frame_id: int | None = None) -> Row:
        """Add a frame whose pixels rise from `level`, 1 a row."""
        image = as_pixels((np.arange(4, dtype=np.float32) + level)[:, None].repeat(4, 1))
        number = self.number if frame_id is None else frame_id
        self.number = number + 1
        frame = Frame(self.series, number, image, timestamp=100.0 + number)
        return self.rois.add(frame, image, statistics(image, None, self.parameters.rois))

    def work(self) -> None:
        """Do what is due."""
        for job in self.rois.jobs():
            job()()

    def mean(self) -> list[list[float]]:
        return np.asarray(self.rois.value("roi_mean")).tolist()


@pytest.fixture
def bench() -> Bench:
    bench = Bench(rois={"a": A, "b": B})
    bench.begin()
    return bench


def test_every_output_has_a_value(bench: Bench) -> None:
    for _ in range(2):
        for output in OUTPUTS:
            value = bench.rois.value(output.name)
            assert value is not None, output.name
            if output.axes == ("roi", "frame"):
                assert value.shape == (2, bench.number), output.name
        bench.frame(1)


def test_curves_grow_by_the_frame(bench: Bench) -> None:
    bench.frame(10)
    row = bench.frame(20)
    assert bench.mean() == [[10.5, 20.5], [12.5, 22.5]]
    assert bench.rois.value("roi_names") == ["a", "b"]
    assert bench.rois.value("roi_x").tolist() == [0, 1]
    assert bench.rois.value("roi_time").tolist() == [100, 101]
    assert row["roi_mean"].shape == (SLOTS,)
    assert row["roi_mean"][:2].tolist() == [20.5, 22.5] and np.isnan(row["roi_mean"][2:]).all()
    assert (row["roi_frame"], row["roi_x"], row["roi_time"], row["roi_version"]) == (1, 1, 101, 0)


def test_a_new_series_begins_anew(bench: Bench) -> None:
    bench.frame(10)
    bench.begin(filename="next")
    assert bench.mean() == [[], []]
    assert bench.rois.value("roi_step_mean").shape == (2, 0)


def test_only_the_newest_frames_are_shown_and_the_file_gets_all() -> None:
    bench = Bench(rois={"a": A}, history_frames=3, ring_bytes=10 * IMAGE, frames_per_point=4)
    bench.begin()
    for level in range(20):
        bench.frame(level)
        shown = bench.mean()[0]
        assert shown == [n + 0.5 for n in range(level + 1)][-3:]
        assert bench.rois.value("roi_frame").tolist() == list(range(level + 1))[-3:]
    assert bench.rois.value("roi_step_mean").tolist() == [[10, 14, 18]]
    assert bench.rois.value("roi_step_point").tolist() == [2, 3, 4]
    assert bench.rois.value("roi_step_n").tolist() == [[4, 4, 4]]
    tree = bench.rois.finish().tree()
    assert tree["rois/slot_00/x"].tolist() == list(range(20))
    assert tree["rois/slot_00/steps/mean"].tolist() == [2, 6, 10, 14, 18]


# ------------------------------------------------------------------------ slots


def test_a_renamed_roi_keeps_its_slot_and_its_curve(bench: Bench) -> None:
    bench.frame(10)
    bench.change(rois={"a": A, "peak": B})
    bench.frame(20)
    assert bench.rois.value("roi_names") == ["a", "peak"]
    assert bench.mean() == [[10.5, 20.5], [12.5, 22.5]]
    assert bench.rois.value("roi_slots")[:3] == ["a", "peak", ""]


def test_the_slot_of_a_deleted_roi_waits_for_the_next_series(bench: Bench) -> None:
    bench.frame(10)
    bench.change(rois={"b": B})
    bench.change(rois={"b": B, "new": {**A, "x": 1}})
    row = bench.frame(20)
    assert np.isnan(row["roi_mean"][0]) and row["roi_mean"][1:3].tolist() == [22.5, 20.5]
    assert bench.rois.value("roi_slots")[:4] == ["a", "b", "new", ""]
    bench.begin(filename="next")
    bench.change(rois={"b": B, "new": {**A, "x": 1}, "third": A})
    assert bench.rois.value("roi_slots")[:4] == ["third", "b", "new", ""]


def test_there_is_no_room_for_more_rois_than_slots_in_one_series() -> None:
    rois = {f"r{n}": {**A, "x": n} for n in range(SLOTS)}
    bench = Bench(rois=rois)
    bench.begin()
    swapped = {name: Roi(**roi) for name, roi in list(rois.items())[1:]}
    assert bench.rois.has_room_for(swapped)
    swapped["new"] = Roi(**{**A, "x": 99})
    assert not bench.rois.has_room_for(swapped)
    bench.change(rois=swapped)
    assert "new" not in bench.rois.value("roi_names")
    assert "ROI new has no place" in bench.rois.status()[0]
    bench.frame(1)
    bench.begin(filename="next")
    assert bench.rois.has_room_for(swapped)
    assert bench.rois.value("roi_names")[-1] == "new" and bench.rois.status() == []


def test_two_rois_that_change_names_change_places() -> None:
    slots = Slots()
    a, b = Roi(**A), Roi(**B)
    slots.change({}, {"a": a, "b": b})
    slots.change({"a": a, "b": b}, {"c": b, "d": a})
    assert slots.of == {"c": 1, "d": 0}


# ---------------------------------------------------------------- moving a ROI


def test_a_moved_roi_is_found_again_on_the_images_that_are_kept(bench: Bench) -> None:
    for level in (10, 20, 30):
        bench.frame(level)
    bench.change(rois={"a": {**A, "y": 1}, "b": B})
    assert np.isnan(bench.mean()[0]).all() and bench.mean()[1] == [12.5, 22.5, 32.5]
    bench.frame(40)
    bench.work()
    assert bench.mean() == [[11.5, 21.5, 31.5, 41.5], [12.5, 22.5, 32.5, 42.5]]
    assert bench.rois.value("roi_version") == 1
    assert bench.rois.value("roi_step_mean").tolist() == bench.mean()


def test_the_file_keeps_what_it_wrote() -> None:
    bench = Bench(rois={"a": A}, frames_per_point=2)
    bench.begin()
    for level in (10, 20, 30):
        assert bench.frame(level)["roi_version"] == 0
    bench.change(rois={"a": {**A, "y": 1}})
    assert bench.frame(40)["roi_version"] == 1
    bench.work()
    assert bench.rois.value("roi_step_mean").tolist() == [[16.5, 36.5]]
    tree = bench.rois.finish().tree()
    assert tree["rois/slot_00/steps/mean"].tolist() == [15.5, 36]
    versions = json.loads(tree["rois/versions"])
    assert [versions[n]["a"]["y"] for n in ("0", "1")] == [0, 1]


def test_frames_no_longer_kept_are_not_shown_for_a_moved_roi() -> None:
    bench = Bench(rois={"a": A, "b": B}, ring_bytes=2 * IMAGE)
    bench.begin()
    for level in (10, 20, 30):
        bench.frame(level)
    bench.change(rois={"a": {**A, "y": 1}, "b": B, "c": {**B, "y": 0}})
    bench.work()
    np.testing.assert_array_equal(
        bench.mean(), [[np.nan, 21.5, 31.5], [12.5, 22.5, 32.5], [np.nan, 20.5, 30.5]]
    )
    np.testing.assert_array_equal(bench.rois.value("roi_step_mean"), bench.mean())


def test_points_that_are_over_are_not_those_of_a_moved_roi() -> None:
    bench = Bench(rois={"a": A}, history_frames=2, ring_bytes=IMAGE, frames_per_point=2)
    bench.begin()
    for level in range(6):
        bench.frame(level)
    bench.change(rois={"a": {**A, "y": 1}})
    bench.frame(6)
    np.testing.assert_array_equal(bench.rois.value("roi_step_mean"), [[np.nan, 7.5]])
    bench.frame(7)
    bench.work()
    np.testing.assert_array_equal(bench.rois.value("roi_step_mean"), [[np.nan, 8]])
    assert bench.rois.value("roi_step_n").tolist() == [[0, 2]]


def test_a_moved_background_changes_those_that_use_it(bench: Bench) -> None:
    bench.change(rois={"a": {**A, "background": "b"}, "b": B})
    bench.frame(10)
    assert bench.rois.value("roi_net").tolist() == [[42 - 4 * 12.5], [50]]
    bench.change(rois={"a": {**A, "background": "b"}, "b": {**B, "y": 0}})
    bench.work()
    assert bench.rois.value("roi_net").tolist() == [[0], [42]]


def test_a_move_while_the_last_one_is_worked_on_wins(bench: Bench) -> None:
    bench.frame(10)
    bench.change(rois={"a": {**A, "y": 1}, "b": B})
    stores = [job() for job in bench.rois.jobs()]
    bench.change(rois={"a": {**A, "y": 2}, "b": B})
    for store in stores:
        store()
    assert np.isnan(bench.mean()[0][0])
    bench.work()
    assert bench.mean() == [[12.5], [12.5]]


def test_work_on_an_old_series_does_not_touch_the_next(bench: Bench) -> None:
    bench.frame(10)
    bench.change(rois={"a": {**A, "y": 1}, "b": B})
    stores = [job() for job in bench.rois.jobs()]
    bench.begin(filename="next")
    bench.frame(50)
    for store in stores:
        store()
    assert bench.mean() == [[51.5], [52.5]]


def test_the_mask_counts_when_a_roi_is_found_again(tmp_path: Any) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1] = 1
    np.save(tmp_path / "mask.npy", mask)
    bench = Bench(rois={}, mask_file=str(tmp_path / "mask.npy"))
    bench.begin()
    bench.frame(10)
    bench.change(rois={"a": A})
    bench.work()
    assert bench.mean() == [[10]]


# ------------------------------------------------------------------------ scans


def scan_of(bench: Bench, *positions: float, frames: int) -> None:
    for number, position in enumerate(positions):
        bench.rois.position(ScanPoint(number, {"motor": position}, frames))


def test_positions_come_before_with_or_after_their_frames(bench: Bench) -> None:
    bench.rois.position(ScanStart(None, ("motor",)))
    bench.frame(10)
    assert np.isnan(bench.rois.value("roi_x")).all()
    scan_of(bench, 1.5, 2.5, frames=2)
    assert bench.rois.value("roi_x").tolist() == [1.5]
    row = bench.frame(20)
    assert row["roi_x"] == 1.5
    bench.frame(30, frame_id=3)
    assert bench.rois.value("roi_x").tolist() == [1.5, 1.5, 2.5]
    assert bench.rois.value("roi_step_x").tolist() == [1.5, 2.5]
    assert bench.rois.value("roi_step_n").tolist() == [[2, 1], [2, 1]]
    assert bench.rois.value("roi_step_expected").tolist() == [2, 2]
    bench.frame(99, frame_id=2)
    assert bench.rois.value("roi_step_mean")[0].tolist() == [15.5, 65]


def test_the_file_waits_for_late_positions_and_gets_every_x(bench: Bench) -> None:
    bench.rois.position(ScanStart(None, ("motor",)))
    for level in (10, 20, 30, 40):
        assert np.isnan(bench.frame(level)["roi_x"])
    ending = bench.rois.finish()
    assert not ending.settled()
    scan_of(bench, 1.5, frames=2)
    assert not ending.settled()
    scan_of(bench, 1.5, 2.5, frames=2)
    assert ending.settled()
    bench.begin(filename="next")
    bench.frame(1)
    tree = ending.tree()
    assert tree["rois/slot_01/x"].tolist() == [1.5, 1.5, 2.5, 2.5]
    assert tree["rois/slot_01/steps/x"].tolist() == [1.5, 2.5]
    assert tree["rois/slot_01/steps/mean"].tolist() == [17.5, 37.5]
    assert tree["rois/slot_01/steps/n"].tolist() == [2, 2]
    assert tree["rois/names"][:3] == ["a", "b", ""]
    assert "rois/slot_02/x" not in tree


def test_gaps_are_looked_for_until_the_positions_are_in(bench: Bench) -> None:
    bench.rois.position(ScanStart(None, ("motor",)))
    bench.frame(10)
    bench.rois.finish()
    scan_of(bench, 1.5, frames=2)
    bench.work()
    assert bench.rois.value("roi_steps_incomplete") == "point 0: 1 of 2 frames"


def test_a_scan_that_ended_settles_a_series(bench: Bench) -> None:
    bench.rois.position(ScanStart(None, ("motor",)))
    bench.frame(10)
    ending = bench.rois.finish()
    bench.rois.position(ScanEnd())
    assert ending.settled()
    assert np.isnan(ending.tree()["rois/slot_00/x"]).all()


def test_points_that_lack_frames_are_named_when_they_are_over() -> None:
    bench = Bench(rois={"a": A}, frames_per_point=2)
    bench.begin()
    bench.frame(1)
    bench.work()
    assert bench.rois.value("roi_steps_incomplete") == ""
    bench.frame(3, frame_id=2)
    bench.work()
    assert bench.rois.value("roi_steps_incomplete") == "point 0: 1 of 2 frames"
    assert bench.rois.status() == ["scan points that lack frames: point 0: 1 of 2 frames"]
    bench.frame(2, frame_id=1)
    bench.work()
    assert bench.rois.value("roi_steps_incomplete") == ""
    ending = bench.rois.finish()
    assert bench.rois.value("roi_steps_incomplete") == "point 1: 1 of 2 frames"
    assert ending.tree()["rois/incomplete"] == "point 1: 1 of 2 frames"


def test_a_movable_that_is_not_there_is_named(bench: Bench) -> None:
    bench.change(movable="gap")
    assert bench.rois.status() == []
    bench.rois.position(ScanStart(None, ("motor", "other")))
    scan_of(bench, 1.0, frames=1)
    assert bench.rois.status() == ["the scan has no movable gap; there are: motor, other"]


# ---------------------------------------------------------------- small helpers


def test_the_ring_holds_no_more_bytes_than_allowed() -> None:
    ring = Ring()
    images = [np.full((2, 2), n, np.float32) for n in range(5)]
    for number, image in enumerate(images):
        ring.add(number, image, 40)
    assert [row for row, _ in ring.images()] == [3, 4]
    ring.add(5, np.zeros((4, 4), np.float32), 40)
    assert len(ring) == 0
    ring.add(6, images[0], 40)
    ring.clear()
    ring.add(7, images[0], 16)
    assert [row for row, _ in ring.images()] == [7]


def test_what_was_looked_at_does_not_change_when_rows_are_added() -> None:
    rows = Growing(np.int64)
    views: list[NDArray[np.int64]] = []
    for number in range(200):
        rows.append(number)
        views.append(rows.values)
    assert all(view.tolist() == list(range(len(view))) for view in views)
    rows.keep_last(100)
    assert rows.values.tolist() == list(range(100, 200)) and views[-1].size == 200
    rows.keep_last(60)
    assert len(rows) == 100
