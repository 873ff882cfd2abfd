"""The Bragg stage: what it shows, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray
from ronda.core.bragg import (
    boxes,
    candidates,
    filling,
    guessing,
    overloads,
    peaks,
    picking,
    thresholds,
)
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.parameters import BraggParameters
from ronda.core.bragg.sparse_file import SparseFile
from ronda.core.bragg.stage import BraggStage
from ronda.core.codecs import decode
from ronda.core.frame import BadFrame, Encoded, Frame, Rejected, Series, SeriesEnd
from ronda.core.geometry import Geometry
from ronda.core.parameters import ParameterError
from ronda.core.stage import Settings
from ronda.tests.core.bragg.crystal import (
    RINGS,
    SHAPE,
    Crystal,
    bench,
    dense,
    write_sparse,
    writing,
)
from ronda.tests.core.bragg.sparse_files import GROUP
from ronda.tests.core.images.bench import Bench, Camera, Script, run
from ronda.tests.image_files import write_image

MARK = np.iinfo(np.uint32).max


def reason(crystal: Crystal, image: NDArray[Any], **values: Any) -> str:
    """Return why a frame is refused."""
    with pytest.raises(BadFrame) as caught:
        bench(crystal, **values).frame(image, image.dtype.str)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --------------------------------------------------------------------- what is shown


def test_every_output_has_a_value_of_its_kind_before_and_after_a_frame(crystal: Crystal) -> None:
    runs = bench(crystal, peak_finder="patch")
    runs.check_values(before=True)
    runs.frame(crystal.frames[0], "u4")
    runs.check_values(before=False)


def test_results_do_not_depend_on_the_number_of_workers(crystal: Crystal, tmp_path: Path) -> None:
    found = []
    for workers in (1, 4):
        path = tmp_path / f"{workers}.h5"
        values = {**crystal.settings, "peak_finder": "patch", "solid_angle": True}
        found.append(write_sparse(path, crystal.frames * 3, workers, **values))
    one, four = found
    for name, value in one.items():
        np.testing.assert_array_equal(value, four[name], err_msg=name)
    with h5py.File(tmp_path / "1.h5") as first, h5py.File(tmp_path / "4.h5") as second:
        for group in ("sparse_frames", "peaks", "beamline"):
            names: list[str] = []
            first["entry_0000"][group].visit(names.append)
            for name in names:
                data, other = (file["entry_0000"][group][name] for file in (first, second))
                if isinstance(data, h5py.Dataset):
                    assert data.dtype == other.dtype
                    np.testing.assert_array_equal(data[()], other[()], err_msg=name)
        numbers = second["entry_0000/frames/number"][()]
        np.testing.assert_array_equal(numbers, np.arange(24))
        np.testing.assert_array_equal(np.diff(second[f"{GROUP}/frame_ptr"]), four["kept_per_frame"])


def test_counts_and_shares_are_what_they_say(crystal: Crystal) -> None:
    runs = bench(crystal)
    rows = [runs.frame(image, "u4") for image in crystal.frames[:3]]
    kept = [row["sparse_index"].size for row in rows]
    for row, image in zip(rows, crystal.frames, strict=False):
        np.testing.assert_array_equal(row["sparse_intensity"], image.flat[row["sparse_index"]])
        assert (np.diff(row["sparse_index"].astype(int)) > 0).all()
        # what is at the top of its type is kept: nobody but a mask says that it is a gap
        assert (row["sparse_intensity"] == MARK).sum() == (image == MARK).sum()
        assert row["frames_kept"] == row["sparse_index"].size > 20
    assert runs.value("kept_pixels") == kept[-1]
    assert runs.value("kept_per_frame").tolist() == kept
    # static pixels only: those that this detector's frames mark are looked at
    assert runs.value("kept_fraction") == pytest.approx(100 * kept[-1] / (SHAPE[0] * SHAPE[1]))
    raw, bins = 3 * SHAPE[0] * SHAPE[1] * 4, 3 * RINGS * 3 * 4
    assert runs.value("compression_ratio") == pytest.approx(raw / (sum(kept) * 8 + bins))
    runs.begin(2)
    assert runs.value("kept_per_frame").size == 0
    assert np.isnan(runs.value("compression_ratio"))


def test_rings_without_a_valid_pixel_are_counted_and_bridged(crystal: Crystal) -> None:
    image = crystal.frames[0].copy()
    runs = bench(crystal)
    runs.frame(image, "u4")
    radius, average = runs.value("background_radius"), runs.value("background_average")
    y, x = np.indices(SHAPE)
    place = np.hypot(y - SHAPE[0] / 2 + 0.2, x - SHAPE[1] / 2 - 0.3) * 75e-6
    image[abs(place - radius[20]) < 2 * (radius[1] - radius[0])] = MARK
    row = runs.frame(image, "u4")
    empty = runs.value("empty_rings")
    assert empty == np.isnan(runs.value("background_average")).sum() >= 2
    assert f"{empty} of {RINGS} rings have no usable pixel" in runs.status()
    stored = row["sparse_background_avg"]
    assert np.isfinite(stored).all()
    assert average[18:23].min() * 0.8 < stored[20] < average[18:23].max() * 1.2


def test_a_frame_of_marked_pixels_only_keeps_nothing(crystal: Crystal) -> None:
    runs = bench(crystal)
    row = runs.frame(np.full(SHAPE, -1), "i4")
    assert row["sparse_index"].size == runs.value("kept_pixels") == 0
    assert "no usable pixel" in runs.status()
    assert runs.value("empty_rings") == RINGS
    assert (row["sparse_background_avg"] == 0).all()
    runs.check_values(before=False)


def test_a_mask_of_every_pixel_is_refused_with_a_reason(crystal: Crystal, tmp_path: Path) -> None:
    mask = write_image(tmp_path / "all.edf", np.ones(SHAPE, np.uint8))
    assert "pixel" in reason(crystal, crystal.frames[0], mask_file=str(mask))


@pytest.mark.parametrize("rows", [150, 1024, 1025, 2049, 3000])
def test_each_kept_pixel_is_marked_under_its_preview_pixel(tmp_path: Path, rows: int) -> None:
    shape = (rows, 40)
    place = Geometry(
        photon_energy=10, detector_distance=0.1, beam_center_x=20, beam_center_y=rows / 2,
        pixel_size=1e-4,
    )  # fmt: skip
    poni = tmp_path / "long.poni"
    poni.write_text(place.to_poni(shape))
    image = np.random.default_rng(1).poisson(5, shape).astype(np.uint16)
    image[[0, 1, rows // 2, rows - 1], [0, 39, 7, 39]] = 5000
    runs = Bench(BraggStage(), poni_file=str(poni), radial_bins=20)
    row = runs.frame(image)
    marked, preview = runs.value("preview_kept"), runs.value("preview")
    factor = -(-rows // preview.shape[0])
    wanted = np.zeros(preview.shape, int)
    for pixel in row["sparse_index"]:
        wanted[pixel // 40 // factor, pixel % 40 // factor] += 1
    np.testing.assert_array_equal(marked, wanted)
    assert marked.dtype == np.uint16
    assert marked[rows // 2 // factor, 7 // factor] >= 1
    assert preview[0, 0] == preview[-1, -1] == 5000


def test_the_forwarded_image_holds_the_kept_pixels_only(crystal: Crystal) -> None:
    runs = bench(crystal)
    assert runs.stage.forward() is None
    row = runs.frame(crystal.frames[0], "u4")
    forwarded = runs.stage.forward()
    assert forwarded is not None
    assert isinstance(forwarded.image, Encoded)
    image = forwarded.image
    assert image.codec == "sparse"
    wanted = np.zeros(SHAPE, np.uint32)
    wanted.flat[row["sparse_index"]] = crystal.frames[0].flat[row["sparse_index"]]
    found = decode(image.blob, image.codec, image.shape, image.dtype)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.uint32


# ------------------------------------------------------------------------- peaks


def test_frames_with_few_peaks_are_counted_but_not_written(
    crystal: Crystal, tmp_path: Path
) -> None:
    quiet = np.full(SHAPE, 3, np.uint32)
    frames = [crystal.frames[0], quiet, crystal.frames[1], quiet, quiet]
    path, values = tmp_path / "v.h5", {**crystal.settings, "peak_finder": "patch"}
    shown = write_sparse(path, frames, min_peaks=3, **values)
    assert shown["frames_vetoed"] == 3
    assert len(shown["peaks_per_frame"]) == 5
    with h5py.File(path) as file:
        entry = file["entry_0000"]
        assert entry["frames/number"][()].tolist() == [0, 2]
        assert entry["frames/vetoed"][()] == 3
        assert entry["ledger/reduced"][()] == 5
        assert entry["ledger/missing_rows"][()] == 0
        assert entry["peaks/nPeaks"][()].tolist() == shown["peaks_per_frame"][[0, 2]].tolist()
    assert len(dense(path)) == 2


def test_a_frame_of_just_enough_peaks_is_written(crystal: Crystal) -> None:
    runs = bench(crystal, peak_finder="patch")
    runs.frame(crystal.frames[0], "u4")
    peaks = runs.value("peaks")
    enough, one_short = (
        bench(crystal, peak_finder="patch", min_peaks=least).frame(crystal.frames[0], "u4")
        for least in (peaks, peaks + 1)
    )
    assert enough["peaks_count"] == peaks
    assert one_short is None


def test_a_file_of_vetoed_frames_only_says_that_it_has_none(
    crystal: Crystal, tmp_path: Path
) -> None:
    path = tmp_path / "none.h5"
    quiet = [np.full(SHAPE, 3, np.uint32)] * 2
    write_sparse(path, quiet, **crystal.settings, peak_finder="patch", min_peaks=3)
    with pytest.raises(ValueError, match="there is no frame in it"):
        SparseFile(path)


def test_of_too_many_peaks_the_strongest_are_written_in_their_order(crystal: Crystal) -> None:
    runs = bench(crystal, peak_finder="patch", max_peaks=4)
    row = runs.frame(crystal.frames[0], "u4")
    intensity, x = runs.value("peak_intensity"), runs.value("peak_x")
    total = runs.value("peaks")
    assert total > 4
    strongest = np.sort(np.argsort(intensity)[-4:])
    np.testing.assert_array_equal(row["peaks_peakTotalIntensity"], intensity[strongest])
    np.testing.assert_array_equal(row["peaks_peakXPosRaw"], x[strongest])
    assert row["peaks_count"] == 4
    assert runs.value("peaks_beyond") == total - 4
    assert "did not fit" in runs.status()


def test_a_file_says_nothing_of_peaks_that_were_not_looked_for(
    crystal: Crystal, tmp_path: Path
) -> None:
    write_sparse(tmp_path / "no.h5", crystal.frames[:2], **crystal.settings)
    write_sparse(tmp_path / "yes.h5", crystal.frames[:2], **crystal.settings, peak_finder="patch")
    with h5py.File(tmp_path / "no.h5") as file:
        assert "peaks" not in file["entry_0000"]
    with SparseFile(tmp_path / "no.h5") as without, SparseFile(tmp_path / "yes.h5") as found:
        assert not without.has_peaks
        assert len(found.peaks(0)) > 3
        assert found.peaks(0)["snr"].min() > 0


# ------------------------------------------------------------------- what is refused


def test_a_frame_is_refused_with_the_reason(crystal: Crystal, tmp_path: Path) -> None:
    image = crystal.frames[0]
    assert "set poni_file" in reason(crystal, image, poni_file="")
    assert "Pilatus100k" in reason(crystal, image, poni_file=crystal.other_poni)
    wrong = write_image(tmp_path / "mask.edf", np.zeros((3, 4), np.uint8))
    assert "(3, 4)" in reason(crystal, image, mask_file=str(wrong))
    text = [line for line in Path(crystal.poni).read_text().splitlines() if "Wave" not in line]
    dark = tmp_path / "nolight.poni"
    dark.write_text("\n".join(text) + "\n")
    assert "wavelength" in reason(crystal, image, poni_file=str(dark), unit="q_nm^-1")
    runs = bench(crystal, poni_file=str(dark))
    runs.frame(image, "u4")
    assert "beamline/monchromator/wavelength" not in runs.stage.update()


def test_what_a_file_says_once_cannot_change_within_a_series(crystal: Crystal) -> None:
    runs = bench(crystal)
    runs.change(radial_bins=50)
    row = runs.frame(crystal.frames[0], "u4")
    for change in (
        {"radial_bins": 40}, {"unit": "2th_deg"}, {"radial_range": [0.0, 0.003]},
        {"solid_angle": True}, {"polarization": 0.9}, {"poni_file": crystal.other_poni},
        {"peak_finder": "patch"}, {"max_peaks": 7}, {"beamline": "elsewhere"}, {"dummy": 3.0},
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=f"^{next(iter(change))}: .* series"):
            runs.change(**change)
    runs.change(radial_bins=50, cutoff_pick=5.0, noise=0.0)
    later = runs.frame(crystal.frames[0], "u4")
    assert later["sparse_background_avg"].shape == row["sparse_background_avg"].shape == (50,)
    assert later["sparse_index"].size < row["sparse_index"].size
    runs.stage.finish(runs.series)
    runs.change(radial_bins=40)
    runs.begin(2)
    assert runs.frame(crystal.frames[0], "u4")["sparse_background_avg"].shape == (40,)


@pytest.mark.parametrize("finder", [{}, {"peak_finder": "patch", "max_peaks": 9}])
def test_frames_already_under_way_with_other_rings_are_rejected_and_leave_no_trace(
    crystal: Crystal, finder: dict[str, Any]
) -> None:
    runs = bench(crystal)
    runs.frame(crystal.frames[0], "u4")
    before = {name: runs.value(name) for name in ("kept_per_frame", "preview", "peaks")}
    other = runs.parameters.changed({"radial_bins": 40, **finder})
    frame = Frame(runs.series, 1, crystal.frames[1])
    partial = runs.stage.map(frame, other)
    with pytest.raises(BadFrame, match=r"radial_bins.* differs from that of the series' first"):
        runs.stage.reduce(frame, partial, Settings(7, other))
    for name, value in before.items():
        np.testing.assert_array_equal(runs.value(name), value)


def test_a_frame_of_another_form_is_rejected_also_when_the_poni_file_fits_it(
    crystal: Crystal, tmp_path: Path
) -> None:
    poni = tmp_path / "any.poni"
    poni.write_text(Path(crystal.poni).read_text().replace('"max_shape": [150, 130], ', ""))
    runs = bench(crystal, poni_file=str(poni))
    runs.frame(crystal.frames[0], "u4")
    for image in (crystal.frames[1].astype("u2"), crystal.frames[1][:100]):
        with pytest.raises(BadFrame, match=r"form \(\(1.0, 130\) uint"):
            runs.frame(image, image.dtype.str)


def test_a_geometry_file_replaced_within_a_series_does_not_mix_rings(
    crystal: Crystal, tmp_path: Path
) -> None:
    poni = tmp_path / "moving.poni"
    text = Path(crystal.poni).read_text()
    poni.write_text(text)
    runs = bench(crystal, poni_file=str(poni))
    runs.frame(crystal.frames[0], "u4")
    poni.write_text(text.replace("Distance: ", "Distance: 1"))
    assert poni.read_text() != text
    other = [line.replace("Poni1: 0", "Poni1: 1") for line in text.splitlines()]
    poni.write_text("\n".join(other) + "\n")
    with pytest.raises(BadFrame, match="PONI or mask file"):
        runs.frame(crystal.frames[1], "u4")


def test_other_parameters_in_mid_series_are_recorded_and_the_file_stays_whole(
    crystal: Crystal, tmp_path: Path
) -> None:
    path, camera = tmp_path / "changed.h5", Camera()
    first, last = camera.frames(*crystal.frames[:4]), camera.frames(*crystal.frames[4:])
    change = {"cutoff_pick": 6.0, "error_model": "hybrid"}
    with writing(path, **crystal.settings) as runner:
        steps = (*first, lambda: runner.configure(change), *last, SeriesEnd(camera.series))
        run(runner, camera.start, *steps)
    with h5py.File(path) as file:
        changes = file["entry_0000/process/changes"]
        assert changes["frame"][()].tolist() == [4]
        assert json.loads(changes["values"].asstr()[0]) == change
        kept = np.diff(file[f"{GROUP}/frame_ptr"])
    runs = [bench(crystal), bench(crystal, **change)]
    rows = [
        runs[number // 4].frame(image, "u4")["sparse_index"].size
        for number, image in enumerate(crystal.frames)
    ]
    assert kept.tolist() == rows
    assert len(dense(path)) == 8


def test_a_rejected_frame_leaves_no_gap_in_the_file(crystal: Crystal, tmp_path: Path) -> None:
    path, camera = tmp_path / "gap.h5", Camera()
    one, two = camera.frames(crystal.frames[0][:100], crystal.frames[1])
    good = camera.frames(*crystal.frames[2:4])
    steps = (camera.start, two, one, *good, Rejected("broken", 9), SeriesEnd(camera.series))
    with writing(path, **crystal.settings) as runner:
        runner.start(lambda: Script(steps))
        runner.wait()
        counts = runner.ledger.counts
        assert (counts.received, counts.reduced, counts.rejected) == (5, 3, 2)
    with h5py.File(path) as file:
        assert file["entry_0000/frames/number"][()].tolist() == [1, 2, 3]
        assert len(file[f"{GROUP}/frame_ptr"]) == 4
        assert file["entry_0000/ledger/rejected"][()] == 2


def test_parameters_out_of_their_range_are_refused_in_a_sentence() -> None:
    for values, about in (
        ({"peak_patch_size": 4}, "odd"),
        ({"min_pixels": 9, "max_pixels": 3}, "min_pixels"),
        ({"spot_size": 2}, "odd"),
        ({"spot_size": 0}, "spot_size"),
        ({"min_peaks": 2}, "peak_finder"),
        ({"error_model": "none"}, "deviation"),
        ({"radial_bins": 0}, "radial_bins"),
        ({"cutoff_pick": 0.0}, "cutoff_pick"),
        ({"beamline": "a/b"}, "beamline"),
    ):
        with pytest.raises(ParameterError, match=about):
            BraggParameters().changed(values)


# ------------------------------------------------------------------ what is corrected


@pytest.mark.parametrize("dtype", ["u2", "i4", "i8", "u8", "f4", "f8"])
def test_pixels_of_any_type_keep_type_and_value(crystal: Crystal, dtype: str) -> None:
    image = np.where(crystal.frames[0] == MARK, 3, crystal.frames[0]).astype(dtype)
    spot = {"i": -7, "f": 0.5}.get(np.dtype(dtype).kind, 0)
    image[10, 10], image[77, 20] = spot, 60_000
    row = bench(crystal).frame(image, dtype)
    wanted = bench(crystal).frame(np.where(image == spot, 0, image), "u4")
    assert row["sparse_intensity"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(row["sparse_index"], wanted["sparse_index"])
    np.testing.assert_array_equal(row["sparse_intensity"], image.flat[row["sparse_index"]])


def test_half_precision_is_written_as_single_which_fabio_opens(
    crystal: Crystal, tmp_path: Path
) -> None:
    image = np.minimum(np.where(crystal.frames[0] == MARK, 0, crystal.frames[0]), 60_000)
    path = tmp_path / "half.h5"
    write_sparse(path, [image.astype("f2")], **crystal.settings)
    with h5py.File(path) as file:
        assert file[f"{GROUP}/intensity"].dtype == np.float32
    (ours,) = dense(path)
    for rebuilt in (ours, fabio.open(str(path)).data):
        assert rebuilt.dtype == np.float32
        assert np.nanmax(rebuilt) == np.float16(image.max())


def test_nothing_outside_the_radial_range_is_kept(crystal: Crystal) -> None:
    whole = bench(crystal).frame(crystal.frames[0], "u4")["sparse_index"]
    low, high = 0.001, 0.003
    inside = bench(crystal, radial_range=[low, high]).frame(crystal.frames[0], "u4")["sparse_index"]
    y, x = np.divmod(inside.astype(int), SHAPE[1])
    radius = np.hypot(y - SHAPE[0] / 2 + 0.2, x - SHAPE[1] / 2 - 0.3) * 75e-6
    assert 0 < inside.size < whole.size
    assert low - 75e-6 < radius.min() < radius.max() < high + 75e-6


def test_corrections_are_in_the_file_and_whole_frames_come_back_as_they_were(
    crystal: Crystal, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    dark = random.uniform(50, 200, SHAPE).astype(np.float32)
    dark_file = write_image(tmp_path / "dark.edf", dark)
    values = {**crystal.settings, "solid_angle": True, "polarization": 0.95}
    normalization = BraggParameters().changed(values).setup.experiment(SHAPE).normalization
    assert normalization is not None
    y, x = np.indices(SHAPE)
    mean = 400.0 * np.exp(-np.hypot(y - 75, x - 65) / 60) * normalization
    image = random.poisson(mean + dark).astype(np.uint16)
    image[100, 30] = 40_000
    path = tmp_path / "corrected.h5"
    write_sparse(path, [image], dark_files=[str(dark_file)], **values)
    with SparseFile(path) as file:
        assert file.normalization is not None
        assert file.normalization.min() < 0.999
        np.testing.assert_array_equal(file.dark, dark)
        assert 30 + SHAPE[1] * 100 in file.frame(0).index
        noisy = Densifier(file).image(file.frame(0), 1.0, np.random.default_rng(1))
    (rebuilt,) = dense(path)
    assert rebuilt[100, 30] == 40_000
    image[100, 30] = rebuilt[100, 30] = noisy[100, 30] = mean[100, 30] + dark[100, 30]
    for made in (rebuilt, noisy):
        assert abs((made.astype(float) - mean - dark).mean()) < 0.5
    assert np.std(rebuilt.astype(float) - mean - dark) < 6
    assert np.std(noisy.astype(float) - image) < 1.6 * np.sqrt((mean + dark).mean())


def test_pixels_of_the_dummy_value_are_never_kept(crystal: Crystal, tmp_path: Path) -> None:
    image = crystal.frames[0].copy()
    image[20, 20], image[21, 21] = 70_000, 70_002
    index = bench(crystal, dummy=70_001.0, delta_dummy=1.0).frame(image, "u4")["sparse_index"]
    everything = bench(crystal).frame(image, "u4")["sparse_index"]
    pixels = [20 * SHAPE[1] + 20, 21 * SHAPE[1] + 21]
    assert np.isin(pixels, everything).all()
    assert not np.isin(pixels, index).any()
    corner = np.zeros(SHAPE, np.uint8)
    corner[:5, :6] = 1
    mask = write_image(tmp_path / "mask.edf", corner)
    path = tmp_path / "dummy.h5"
    write_sparse(path, [image], **crystal.settings, dummy=9.0, mask_file=str(mask))
    assert (dense(path)[0][corner > 0] == 9).all()


def test_a_series_number_does_not_carry_over(crystal: Crystal) -> None:
    runs = bench(crystal, peak_finder="patch", max_peaks=1)
    runs.frame(crystal.frames[0], "u4")
    assert runs.value("peaks_beyond") > 0
    runs.stage.begin(Series(5), runs.settings)
    assert runs.value("peaks_beyond") == runs.value("frames_vetoed") == 0
    assert runs.stage.update() == {}


# ------------------------------------------------------------------- before the first frame


@pytest.mark.parametrize("finder", ["none", "patch", "peakfinder8"])
def test_the_first_frame_waits_for_no_compiler(crystal: Crystal, finder: str) -> None:
    BraggStage().warm_up()
    dispatchers = {
        id(value): value
        for module in (boxes, candidates, filling, guessing, overloads, peaks, picking, thresholds)
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    }
    known = {key: len(value.signatures) for key, value in dispatchers.items()}
    values = {"peak_finder": finder, "spot_size": 5, "min_pixels": 1}
    for dtype in ("u2", "u4", "i4"):
        image = np.minimum(crystal.frames[0], 3000).astype(dtype)
        run = bench(crystal, **values)
        run.frame(image, dtype)
        assert run.stage.value("kept_pixels") > 0
        assert (run.stage.value("peaks") > 0) == (finder != "none")
    assert {key: len(value.signatures) for key, value in dispatchers.items()} == known
    assert len(known) > 20
