"""The chain: what outlives a series, what empties the sum, and that nothing mixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.frame import BadFrame, Frame, Series
from ronda.core.images.orientation import Orientation
from ronda.core.images.partial import ChainPartial
from ronda.core.images.pilatus import PilatusParameters, PilatusStage
from ronda.core.parameters import ParameterError
from ronda.core.positions import ScanPoint, ScanStart
from ronda.core.stage import Kind, Record, Row, Settings, registry
from ronda.tests.core.images.bench import Bench as StageBench

PLACE = {
    "photon_energy": 13.5,
    "detector_distance": 0.1,
    "beam_center_x": 1.0,
    "beam_center_y": 1.0,
}
IMAGES = ("image", "accumulated_image", "valid_count")


class Bench(StageBench):
    """A Pilatus before its first series."""

    def __init__(self, **values: Any) -> None:
        super().__init__(PilatusStage(), begun=False, **values)

    def frame(self, image: Any, dtype: str = "i4", **metadata: Any) -> Row:
        return super().frame(image, dtype, **metadata)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.begin()
    return bench


def test_the_stage_is_known_by_its_name() -> None:
    assert registry.get("pilatus") is PilatusStage
    assert PilatusParameters().pixel_size == 172e-6


def test_every_output_has_a_value_of_its_kind_before_and_after_frames() -> None:
    bench = Bench()
    kinds = {Kind.SCALAR: (), Kind.TEXT: str, Kind.TEXTS: list, Kind.SPECTRUM: 1, Kind.IMAGE: 2}
    for _ in range(2):
        for output in bench.stage.outputs:
            if not output.live:
                continue
            value, kind = bench.value(output.name), kinds[output.kind]
            if isinstance(kind, type):
                assert isinstance(value, kind), output.name
            elif bench.number == 0 and output.name in IMAGES:
                assert value is None
            else:
                assert np.ndim(value) == (kind or 0), output.name
                assert np.can_cast(np.asarray(value).dtype, output.dtype, "same_kind"), output.name
        bench.begin()
        bench.frame([[1, 2], [3, 4]])


def test_what_the_file_gets_is_what_was_declared() -> None:
    bench = Bench(rois={"a": {"x": 0, "y": 0, "width": 1, "height": 1}}, **PLACE)
    bench.begin()
    row = bench.frame([[1, 2], [3, 4]])
    outputs = bench.stage.outputs
    assert set(row) == {o.name for o in outputs if o.record is Record.FRAME}
    update = bench.stage.update()
    declared = {o.path for o in outputs if o.record is Record.SERIES}
    assert declared <= set(update)
    final = bench.stage.finish(bench.series).tree()
    assert declared <= set(final)
    for group in ("accumulated", "scan"):
        for name in ("", "/sum", "/valid_count"):
            assert update[f"{group}{name}@frames"] == 1


# -------------------------------------------------------------------- the sum


def test_the_sum_goes_on_over_series(bench: Bench) -> None:
    bench.frame([[1, -1]])
    bench.begin(2, filename="b.h5")
    bench.frame([[10, 20]])
    bench.frame([[100, -2]])
    assert bench.sum() == [[111, 20]]
    assert bench.value("valid_count").tolist() == [[3, 1]]
    assert bench.value("accumulated_frames") == 3
    assert bench.value("accumulated_total") == 131
    assert bench.value("overflow_pixels") == 1
    assert bench.value("accumulated_series") == ["1 (no file): 1 frames", "2 b.h5: 2 frames"]
    tree = bench.stage.finish(bench.series).tree()
    assert tree["accumulated/sum"].tolist() == [[111, 20]]
    assert tree["scan/sum"].tolist() == [[110, 20]]
    assert tree["scan/valid_count"].tolist() == [[2, 1]]
    assert (tree["accumulated@frames"], tree["scan@frames"]) == (3, 2)
    assert tree["accumulated/sum"].dtype == np.int64


def test_frames_without_a_beginning_are_taken() -> None:
    bench = Bench()
    bench.series = Series(5, joined_late=True)
    bench.frame([[1]])
    bench.series = Series(6, joined_late=True)
    bench.number = 0
    bench.frame([[2]])
    assert bench.sum() == [[3]]
    assert bench.value("roi_frame").tolist() == [0]


def test_switching_accumulation_off_shows_the_newest_and_keeps_the_sum(bench: Bench) -> None:
    bench.frame([[1, 2]])
    bench.change(accumulate=False)
    bench.frame([[10, 20]])
    assert bench.sum() == [[10, 20]]
    assert bench.value("preview").tolist() == [[10, 20]]
    assert bench.value("accumulated_frames") == 1
    assert any("accumulation is off" in text for text in bench.stage.status())
    bench.frame([[7, 7, 7]])
    bench.change(accumulate=True)
    assert bench.sum() == [[1, 2]]
    bench.frame([[10, 20]])
    assert bench.sum() == [[11, 22]]
    assert bench.saved == []


def test_clearing_empties_the_sum_and_nothing_else(bench: Bench) -> None:
    bench.frame([[1, 2]])
    bench.stage.handle("ClearAccumulation", None)
    assert bench.sum() == [[0, 0]]
    assert bench.value("accumulated_frames") == 0 and bench.value("accumulated_series") == []
    assert bench.value("preview").tolist() != [[1, 2]]
    bench.frame([[10, 20]])
    tree = bench.stage.finish(bench.series).tree()
    assert tree["accumulated/sum"].tolist() == [[10, 20]]
    assert tree["scan/sum"].tolist() == [[11, 22]]
    assert bench.saved == [] and bench.value("accumulation_resets") == 0


@pytest.mark.parametrize(
    ("image", "dtype", "about"),
    [
        ([[5], [6]], "i4", "1 x 2 integers"),
        ([[5, 6]], "f4", "2 x 1 floats"),
    ],
)
def test_a_sum_is_saved_before_frames_of_another_form(
    bench: Bench, image: Any, dtype: str, about: str
) -> None:
    bench.frame([[1, -1]])
    bench.frame(image, dtype)
    assert bench.sum() == image
    (document,) = bench.saved
    assert document.tree["accumulated/sum"].tolist() == [[1, 0]]
    assert document.tree["accumulated/valid_count"].tolist() == [[1, 0]]
    assert document.tree["accumulated@frames"] == 1
    assert bench.value("accumulation_resets") == 1
    assert any("1 frames (2 x 1 integers, normal) was saved" in t for t in bench.stage.status())
    assert any(f"because frames are now {about}" in text for text in bench.stage.status())


def test_integers_of_any_size_are_one_sum(bench: Bench) -> None:
    bench.frame([[1, 2**16 - 1]], "u2")
    bench.frame([[1, 2**16 - 1]], "u4")
    bench.frame([[1, -5]], "i1")
    assert bench.sum() == [[3, 2**16 - 6]]
    assert bench.saved == []


def test_turned_frames_are_not_added_to_unturned_ones(bench: Bench) -> None:
    bench.frame([[1, 2], [3, 4]])
    bench.change(orientation=Orientation.FLIP_LEFT_RIGHT)
    bench.frame([[1, 2], [3, 4]])
    assert bench.sum() == [[2, 1], [4, 3]]
    assert len(bench.saved) == 1


def test_an_empty_sum_gives_way_without_a_word(bench: Bench) -> None:
    bench.frame([[1, 2]])
    bench.stage.handle("ClearAccumulation", None)
    bench.frame([[1], [2]])
    assert bench.saved == [] and bench.value("accumulation_resets") == 0


def test_a_frame_that_cannot_be_added_changes_nothing(bench: Bench) -> None:
    bench.frame([[2**61]], "i8")
    before = bench.value("accumulated_frames"), bench.sum()
    with pytest.raises(BadFrame):
        bench.frame([[2**62], [2**62]], "i8")
    with pytest.raises(BadFrame):
        for _ in range(4):
            bench.frame([[2**61]], "i8")
    assert bench.value("accumulated_frames") == 3
    assert (before[0], before[1], bench.saved) == (1, [[2**61]], [])
    assert bench.value("roi_frame").size == 3


def test_saving_writes_what_is_needed_to_understand_the_sum(bench: Bench) -> None:
    with pytest.raises(ValueError, match="nothing is accumulated"):
        bench.stage.handle("SaveAccumulated", "")
    bench.change(**PLACE)
    bench.frame([[1, 2]])
    bench.stage.handle("SaveAccumulated", "my_sum")
    bench.stage.handle("SaveAccumulated", "")
    named, dated = bench.saved
    assert named.name == "my_sum" and dated.name.startswith("accumulated_2")
    assert named.tree["accumulated/sum"].tolist() == [[1, 2]]
    assert named.tree["accumulated/series"] == ["1 (no file): 1 frames"]
    assert named.tree["instrument/detector/local_name"] == "pilatus"
    assert named.tree["instrument/detector/x_pixel_size"] == 172e-6
    assert "Wavelength" in named.tree["geometry/poni"]
    for name in ("../up", "a/b", ".hidden", "a b", "x" * 101):
        with pytest.raises(ValueError, match="no name for a file"):
            bench.stage.handle("SaveAccumulated", name)


def test_the_sum_is_resumed_from_a_checkpoint(bench: Bench) -> None:
    assert bench.stage.state() is None
    bench.frame([[1, -1]])
    state = bench.stage.state()
    assert state is not None
    again = Bench()
    again.stage.restore(state)
    assert again.sum() == [[1, 0]]
    again.begin(2)
    again.frame([[10, 20]])
    assert again.sum() == [[11, 20]]
    assert again.value("valid_count").tolist() == [[2, 1]]
    assert again.stage.finish(again.series).tree()["scan/sum"].tolist() == [[10, 20]]
    assert bench.sum() == [[1, 0]]
    other = Bench(orientation="rotate_180")
    other.stage.restore(state)
    other.begin(2)
    other.frame([[10, 20]])
    assert len(other.saved) == 1 and other.sum() == [[20, 10]]
    for damaged in ({}, {"accumulation/sum": 3}, {**state, "accumulation/frames": "x"}):
        with pytest.raises(ValueError):
            Bench().stage.restore(damaged)


def test_a_cleared_sum_does_not_come_back(bench: Bench) -> None:
    bench.frame([[1, -1]])
    bench.stage.handle("ClearAccumulation", None)
    state = bench.stage.state()
    assert state is not None
    again = Bench()
    again.stage.restore(state)
    assert again.value("accumulated_frames") == 0 and again.sum() == [[0, 0]]


# ------------------------------------------------------ orientation, mask, ROIs


@pytest.mark.parametrize("orientation", Orientation)
def test_everything_is_in_the_turned_frame(tmp_path: Path, orientation: Orientation) -> None:
    raw = np.arange(12, dtype=np.uint16).reshape(3, 4)
    turned = orientation.apply(raw)
    mask = turned == turned[0, 1]
    np.save(tmp_path / "mask.npy", mask)
    bench = Bench(
        orientation=orientation,
        mask_file=str(tmp_path / "mask.npy"),
        rois={"row": {"x": 0, "y": 0, "width": 3, "height": 1}},
    )
    bench.begin()
    bench.frame(raw, "u2")
    np.testing.assert_array_equal(bench.value("image"), turned)
    assert bench.sum() == np.where(mask, 0, turned).tolist()
    assert bench.value("valid_count").tolist() == (~mask).astype(int).tolist()
    assert bench.value("roi_sum").tolist() == [[turned[0, 0] + turned[0, 2]]]
    np.testing.assert_array_equal(bench.value("preview"), np.where(mask, np.nan, turned))
    forwarded = bench.stage.forward()
    assert forwarded is not None and np.array_equal(forwarded.image, turned)
    assert bench.stage.update()["process/mask"].tolist() == mask.astype(int).tolist()


def test_frames_that_a_mask_does_not_fit_are_rejected(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((2, 2)))
    bench = Bench(mask_file=str(tmp_path / "mask.npy"))
    bench.begin()
    with pytest.raises(BadFrame, match="set mask_file to one that fits"):
        bench.frame([[1, 2, 3]])
    assert bench.value("accumulated_frames") == 0


def test_what_does_not_fit_the_frames_is_refused(bench: Bench, tmp_path: Path) -> None:
    far = {"far": {"x": 5, "y": 0, "width": 2, "height": 2}}
    bench.change(rois=far)
    bench.frame(np.ones((2, 3)))
    assert np.isnan(bench.value("roi_mean")).all()
    assert "ROI far (x 5, y 0, 2 x 2) is not wholly on the frame of 3 x 2" in str(
        bench.stage.status()
    )
    bench.change(accumulate=False)
    bench.change(rois={})
    with pytest.raises(ParameterError, match=r"ROI far .* is not wholly on the frame"):
        bench.change(rois=far)
    with pytest.raises(ParameterError, match="is not wholly on the frame of 2 x 3"):
        wide = {"wide": {"x": 0, "y": 0, "width": 3, "height": 1}}
        bench.change(orientation="rotate_90", rois=wide)
    np.save(tmp_path / "mask.npy", np.ones((3, 2)))
    with pytest.raises(ParameterError, match=r"mask .*\(3, 2\) pixels, the frame \(2, 3\)"):
        bench.change(mask_file=str(tmp_path / "mask.npy"))
    bench.change(mask_file=str(tmp_path / "mask.npy"), orientation="transpose")


def test_a_command_changes_the_rois(bench: Bench) -> None:
    changes = {command.name: command.changes for command in bench.stage.commands}
    add = changes["AddRoi"]
    assert add is not None
    bench.frame([[1, 2]])
    bench.change(**add(bench.parameters, "a=0,0,2,1"))
    bench.frame([[3, 4]])
    bench.work()
    assert bench.value("roi_mean").tolist() == [[1.5, 3.5]]


def test_moving_a_roi_does_not_look_at_images_of_another_orientation(bench: Bench) -> None:
    bench.frame([[1, 2]])
    bench.change(orientation="rotate_180")
    bench.change(rois={"a": {"x": 0, "y": 0, "width": 1, "height": 1}})
    bench.frame([[1, 2]])
    bench.work()
    np.testing.assert_array_equal(bench.value("roi_mean"), [[np.nan, 2]])


def test_a_moved_roi_is_looked_for_on_images_of_the_present_shape_only(
    bench: Bench, tmp_path: Path
) -> None:
    np.save(tmp_path / "mask.npy", np.array([[1], [0]]))
    bench.frame([[1, 2]])
    bench.frame([[2], [1]])
    bench.change(mask_file=str(tmp_path / "mask.npy"))
    bench.change(rois={"a": {"x": 0, "y": 0, "width": 1, "height": 2}})
    bench.work()
    np.testing.assert_array_equal(bench.value("roi_mean"), [[np.nan, 1]])


def test_positions_reach_the_curves(bench: Bench) -> None:
    bench.stage.position(ScanStart(None, ("motor",)))
    bench.frame([[1]])
    closing = bench.stage.finish(bench.series)
    assert not closing.settled()
    bench.stage.position(ScanPoint(0, {"motor": 2.5}, 1))
    assert closing.settled()
    assert bench.value("roi_x").tolist() == [2.5]


# ------------------------------------------------------------ geometry, pattern


def test_there_is_no_pattern_without_a_geometry(bench: Bench) -> None:
    bench.frame(np.ones((4, 5)))
    bench.work()
    assert not bench.value("geometry_valid")
    assert bench.value("poni") == "" and bench.value("q_ring_lines").size == 0
    assert np.isnan(bench.value("azimuthal_intensity")).all()
    assert np.isnan(bench.stage.finish(bench.series).tree()["azimuthal/q"]).all()


def test_the_pattern_is_that_of_the_sum(bench: Bench) -> None:
    bench.change(**PLACE, azimuthal_bins=5, q_rings=[1.0, 2.0])
    bench.frame(np.full((200, 300), 3))
    bench.frame(np.full((200, 300), 5))
    bench.work()
    assert bench.value("geometry_valid")
    assert bench.value("azimuthal_q").shape == (5,)
    bench.change(solid_angle=False)
    bench.work()
    np.testing.assert_allclose(bench.value("azimuthal_intensity"), 4)
    sigma = bench.value("azimuthal_sigma")
    bench.frame(np.full((200, 300), 4))
    bench.work()
    np.testing.assert_allclose(bench.value("azimuthal_intensity"), 4)
    assert (bench.value("azimuthal_sigma") < sigma).all()
    tree = bench.stage.finish(bench.series).tree()
    np.testing.assert_allclose(tree["azimuthal/intensity"], 4)
    lines = bench.value("q_ring_lines").reshape(-1, 2)
    assert np.isnan(lines).all(axis=1).sum() == 1
    bench.stage.handle("ClearAccumulation", None)
    bench.work()
    assert np.isnan(bench.value("azimuthal_intensity")).all()


def test_pixels_missing_in_some_frames_do_not_lower_the_pattern(bench: Bench) -> None:
    bench.change(**PLACE, azimuthal_bins=5, solid_angle=False)
    bench.frame(np.full((20, 30), 4))
    half = np.full((20, 30), 4)
    half[:, ::2] = -1
    bench.frame(half)
    bench.work()
    np.testing.assert_allclose(bench.value("azimuthal_intensity"), 4)


def test_a_pattern_is_calculated_only_when_something_changed(bench: Bench) -> None:
    bench.change(**PLACE, azimuthal_bins=5)
    bench.frame(np.ones((20, 30)))
    bench.work()
    assert bench.stage.deferred() is None
    bench.frame(np.ones((20, 30)))
    assert bench.stage.deferred() is not None


def test_the_poni_file_that_is_shown_can_be_used(bench: Bench, tmp_path: Path) -> None:
    bench.change(**PLACE, tilt=3.0, tilt_plane_rotation=20.0)
    bench.frame(np.ones((20, 30)))
    path = tmp_path / "detector.poni"
    path.write_text(bench.value("poni"))
    geometry = bench.parameters.geometry
    clear = {c.name: c.changes for c in bench.stage.commands}["ClearGeometry"]
    assert clear is not None
    bench.change(**clear(bench.parameters, None))
    assert not bench.value("geometry_valid") and bench.value("poni") == ""
    assert bench.parameters.photon_energy == 13.5
    bench.change(poni_file=str(path))
    assert bench.value("geometry_valid")
    assert bench.parameters.geometry.tilt == pytest.approx(geometry.tilt)
    assert bench.parameters.geometry.beam_center_x == pytest.approx(geometry.beam_center_x)
    other = Bench()
    other.begin()
    other.frame(np.ones((20, 31)))
    with pytest.raises(ParameterError, match="poni_file"):
        other.change(poni_file=str(path))


def test_a_poni_file_that_cannot_be_read_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="PONI file"):
        bench.change(poni_file=str(tmp_path / "none.poni"))
    unchecked = PilatusParameters(poni_file=str(tmp_path / "none.poni"))
    bench.stage.adopt(Settings(9, unchecked))
    assert not bench.value("geometry_valid")
    assert "none.poni" in str(bench.stage.status())


# ----------------------------------------------------------------------- Pilatus


def test_energies_become_photons(bench: Bench) -> None:
    with pytest.raises(ParameterError, match="set photon_energy first"):
        bench.change(energy_to_photons=True)
    bench.change(energy_to_photons=True, photon_energy=13.5)
    bench.frame([[13.5, 27.0, -1.0, -2.0]], "f4")
    assert bench.sum() == [[1, 2, 0, 0]]
    assert bench.value("overflow_pixels") == 1
    assert bench.value("image").tolist() == [[1, 2, -1, -2]]
    assert bench.value("image").dtype == np.float32


def test_counts_are_photons_already(bench: Bench) -> None:
    bench.change(energy_to_photons=True, photon_energy=13.5)
    bench.frame([[3, -1]], "i4")
    assert bench.sum() == [[3, 0]]


def test_energies_and_photons_are_not_added(bench: Bench) -> None:
    bench.frame([[13.5]], "f4")
    bench.change(energy_to_photons=True, photon_energy=13.5)
    bench.frame([[13.5]], "f4")
    assert bench.sum() == [[1]]
    bench.change(photon_energy=27.0)
    bench.frame([[13.5]], "f4")
    assert bench.sum() == [[0.5]]
    assert bench.value("accumulation_resets") == 2
    bench.change(detector_distance=1.0)
    bench.frame([[13.5]], "f4")
    assert bench.sum() == [[1.0]] and len(bench.saved) == 2


def test_energies_have_the_statistics_of_their_photons() -> None:
    errors = []
    for energies in (True, False):
        bench = Bench(**PLACE, azimuthal_bins=3, energy_to_photons=not energies)
        bench.begin()
        bench.frame(np.full((20, 30), 27.0), "f4")
        bench.work()
        errors.append(bench.value("azimuthal_sigma") / bench.value("azimuthal_intensity"))
    np.testing.assert_allclose(errors[0], errors[1])


def test_map_is_pure_and_copies_only_what_it_must(bench: Bench) -> None:
    data: NDArray[Any] = np.ones((4, 4), np.float32)
    data.flags.writeable = False
    frame = Frame(bench.series, 0, data)
    one: ChainPartial = bench.stage.map(frame, bench.parameters)
    two: ChainPartial = bench.stage.map(frame, bench.parameters)
    assert np.shares_memory(one.image, data) and np.shares_memory(two.image, data)
    assert bench.value("image") is None


def test_warming_up_leaves_no_trace(bench: Bench) -> None:
    bench.stage.warm_up()
    assert bench.value("accumulated_frames") == 0 and bench.value("image") is None
