"""The file of sparse frames: pyFAI's layout, whole at any time, read by fabio and by us."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.bragg.densify import Densifier
from ronda.core.bragg.sparse_file import SparseFile
from ronda.core.bragg.stage import BraggStage
from ronda.core.frame import Frame, SeriesEnd
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sources.files import FilesSource
from ronda.tests.core.bragg.crystal import (
    SHAPE,
    Crystal,
    bench,
    dense,
    write_sparse,
    writing,
)
from ronda.tests.core.bragg.sparse_files import GROUP
from ronda.tests.core.images.bench import Camera, make_runner, run
from ronda.tests.image_files import write_image


def tree_of(path: Path) -> dict[str, Any]:
    """Return dtype, axes and names of attributes of everything below the entry."""
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        for attribute in item.attrs:
            found[f"{name}@{attribute}"] = None
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype.kind, item.dtype.itemsize, item.ndim)

    with h5py.File(path) as file:
        entry = file["entry_0000"]
        for name in entry.attrs:
            found[f"@{name}"] = None
        entry.visititems(look)
        for name in ("errors",):
            found[f"link {name}"] = (
                entry[f"sparse_frames/{name}"] == entry["sparse_frames/background_std"]
            )
    return found


WIDER = {"sparse_frames/frame_ptr": 8}
"""frame_ptr is uint64 here: pyFAI's overflows at 2^32 pixels."""
THEIRS_ONLY = {"sparsify/argv", "sparsify/cwd", "sparsify/date"}
"""What `process` and `start_time` say in our files."""
OTHER_TYPE = {"sparse_frames/normalization", "sparse_frames/mask", "sparse_frames/dummy"}
"""Images in single precision; a number that is always a float."""


def test_the_file_has_what_pyfais_has(crystal: Crystal, tmp_path: Path) -> None:
    save_sparse = pytest.importorskip("pyFAI.io.sparse_frame").save_sparse
    from pyFAI.containers import SparseFrame
    from pyFAI.units import to_unit

    runs = bench(crystal, solid_angle=True, peak_finder="patch")
    row = runs.frame(crystal.frames[0], "u4")
    rings = runs.stage.map(Frame(runs.series, 1, crystal.frames[0]), runs.parameters).rings
    theirs = SparseFrame(row["sparse_index"], row["sparse_intensity"])
    theirs._mask, theirs._radius = rings.radius, rings.centres
    theirs._background_avg = row["sparse_background_avg"]
    theirs._background_std = row["sparse_background_std"]
    theirs._unit = to_unit("r_m")
    names = ("intensity", "pos0", "pos1", "sigma")
    theirs._peaks = np.zeros(3, [(name, "f4") for name in names])
    theirs._peaks["sigma"] = 1
    extra = {"correctSolidAngle": True, "polarization_factor": None}
    integrator = rings.experiment.new_integrator()
    save_sparse(str(tmp_path / "theirs.h5"), [theirs], ai=integrator, extra=extra)
    write_sparse(
        tmp_path / "ours.h5", crystal.frames[:1], **crystal.settings, solid_angle=True,
        peak_finder="patch",
    )  # fmt: skip
    wanted, there = tree_of(tmp_path / "theirs.h5"), tree_of(tmp_path / "ours.h5")
    missing = {name for name in wanted if name not in there}
    assert {name.partition("@")[0] for name in missing} - {"peaks/nPeaks"} <= THEIRS_ONLY
    assert there["link errors"]
    for name, form in wanted.items():
        if not isinstance(form, tuple) or name in THEIRS_ONLY or form[0] in "OS":
            continue
        kind, size, axes = there[name]
        assert (kind, axes) == (form[0], form[2]) or name in OTHER_TYPE, name
        assert size == WIDER.get(name, form[1]) or name in OTHER_TYPE, name
    with h5py.File(tmp_path / "theirs.h5") as one, h5py.File(tmp_path / "ours.h5") as other:
        assert other.attrs["creator"].startswith("pyFAI")
        assert one.attrs["default"] == other.attrs["default"]
        for name in ("index", "intensity", "frame_ptr", "radius", "background_avg", "dummy"):
            np.testing.assert_array_equal(one[GROUP][name][()], other[GROUP][name][()])
        for name in ("radius", "mask"):
            assert one[GROUP][name].attrs["unit"] == other[GROUP][name].attrs["unit"]
        np.testing.assert_allclose(
            other[f"{GROUP}/normalization"], one[f"{GROUP}/normalization"], atol=2**-16
        )
        place = "entry_0000/beamline/Detector"
        for name in ("distance", "x_pixel_size", "beam_center_x", "beam_center_y"):
            assert other[place][name][()] == pytest.approx(one[place][name][()], abs=1e-6)
            assert other[place][name].attrs["units"] == one[place][name].attrs["units"]


def test_fabio_densifies_what_we_write(crystal: Crystal, tmp_path: Path) -> None:
    path = tmp_path / "ours.h5"
    write_sparse(path, crystal.frames[:3], **crystal.settings)
    with SparseFile(path) as sparse:
        # fabio knows the background, not the mean of what was not kept
        made, frames = Densifier(sparse), sparse.frames(range(3))
        ours = [made.image(replace(frame, fill=None)) for frame in frames]
        assert sparse.radius is not None
        outside = sparse.pixel_radius >= sparse.radius[0]  # fabio has 0 within the first ring
    with fabio.open(str(path)) as file:
        assert type(file).__name__ == "SparseImage"
        assert file.nframes == 3
        for number, image in enumerate(ours):
            theirs = file.getframe(number).data
            assert theirs.dtype == image.dtype
            far = abs(theirs.astype(int) - image)[outside]
            assert far.max() <= 1  # half counts, rounded
            assert (far > 0).mean() < 1e-3


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4"])
def test_a_saturated_pixel_comes_back_with_its_value(
    crystal: Crystal, tmp_path: Path, dtype: str
) -> None:
    top = np.iinfo(dtype).max
    image = np.minimum(crystal.frames[0], 100).astype(dtype)
    image[:, 40:42] = 2
    image[76:79, 30:33] = top - 5
    image[77, 31] = top
    path = tmp_path / "saturated.h5"
    write_sparse(path, [image], **crystal.settings)
    (ours,) = dense(path)
    for rebuilt in (ours, fabio.open(str(path)).data):
        assert rebuilt.dtype == image.dtype
        np.testing.assert_array_equal(rebuilt[76:79, 30:33], image[76:79, 30:33])


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8"])
def test_gaps_that_only_the_detector_marks_do_not_come_back_as_background(
    crystal: Crystal, tmp_path: Path, dtype: str
) -> None:
    first = np.minimum(crystal.frames[0], 100).astype(dtype)
    first[:, 40:42] = 30
    first[50:53], first[60, 5:9] = -1, -2
    if dtype[0] == "f":
        first[70:72] = np.nan
    gaps = (first < 0) | np.isnan(first)
    later = np.where(gaps, 4, first).astype(dtype)
    later[51, 70], later[100, 20] = 90, -1
    path = tmp_path / "gaps.h5"
    write_sparse(path, [first, later], **crystal.settings, dummy=-7.0)
    with SparseFile(path) as file:
        np.testing.assert_array_equal(np.isnan(file.pixel_radius), gaps)
        assert file.radius is not None
        inside = file.pixel_radius < file.radius[0]  # where fabio has no background
        kept = file.frame(1)
        assert kept.intensity[kept.index == 51 * SHAPE[1] + 70] == [90]
    with fabio.open(str(path)) as theirs:
        for number, ours in enumerate(dense(path)):
            for rebuilt in (ours, theirs.getframe(number).data):
                kept_there = number * 90 == rebuilt[51, 70]
                assert kept_there or not number
                rebuilt[51, 70] = -7
                np.testing.assert_array_equal((rebuilt == -7)[~inside], gaps[~inside])
    unheeded = tmp_path / "unheeded.h5"
    write_sparse(unheeded, [first], **crystal.settings, detector_marks=False)
    with SparseFile(unheeded) as file:
        np.testing.assert_array_equal(np.isnan(file.pixel_radius), np.isnan(first))


def test_the_images_in_the_file_are_rounded_less_than_shows(
    crystal: Crystal, tmp_path: Path
) -> None:
    path = tmp_path / "ours.h5"
    write_sparse(path, crystal.frames[:1], **crystal.settings, solid_angle=True)
    runs = bench(crystal, solid_angle=True)
    rings = runs.stage.map(Frame(runs.series, 0, crystal.frames[0]), runs.parameters).rings
    with SparseFile(path) as file:
        assert abs(file.pixel_radius - rings.radius).max() <= rings.width / 1024
        assert rings.experiment.normalization is not None
        assert file.normalization is not None
        assert abs(file.normalization - rings.experiment.normalization).max() <= 2**-17


def test_beamline_detector_and_settings_are_named_in_the_file(
    crystal: Crystal, tmp_path: Path
) -> None:
    path = tmp_path / "named.h5"
    write_sparse(path, crystal.frames[:1], **crystal.settings, beamline="ID29", cutoff_pick=4.5)
    with h5py.File(path) as file:
        entry = file["entry_0000"]
        assert entry["ID29"].attrs["NX_class"] == "NXinstrument"
        assert "beamline" not in entry
        stored = json.loads(entry["sparsify/configuration/data"].asstr()[()])
        assert stored["sparsify"]["cutoff_pick"] == 4.5
        assert stored["geometry"]["setup"]["poni_file"] == crystal.poni
    with SparseFile(path) as sparse:
        assert sparse.instrument.distance == pytest.approx(0.15 * SHAPE[0] / 2167, rel=1e-6)
        assert sparse.instrument.wavelength == pytest.approx(12.398419843e-10 / 12.66, rel=1e-6)


def test_sources_are_named_and_linked_where_they_are_hdf5(crystal: Crystal, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["data"] = np.array(crystal.frames[:2])
    write_image(tmp_path / "raw.edf", crystal.frames[2])
    names = [f"{tmp_path}/raw.h5::/data", f"{tmp_path}/raw.edf"]
    with writing(tmp_path / "out.h5", **crystal.settings, save_source=True) as runner:
        runner.start(lambda: FilesSource(names))
        runner.wait()
        assert runner.ledger.counts.reduced == 3
    with h5py.File(tmp_path / "out.h5") as file:
        entry = file["entry_0000"]
        assert entry["sparsify/source"].asstr()[()].tolist() == names
        assert list(entry["data"]) == ["data_0001"]
        np.testing.assert_array_equal(entry["data/data_0001"], crystal.frames[:2])


def test_a_reader_finds_whole_frames_while_the_file_grows(crystal: Crystal, tmp_path: Path) -> None:
    path, camera = tmp_path / "growing.h5", Camera()
    seen: list[list[NDArray[Any]]] = []

    def look() -> None:
        wanted = 4 * (len(seen) + 1)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), SparseFile(path) as file:  # OSError: not open to readers yet
                if file.count >= wanted:
                    made = Densifier(file)
                    seen.append([made.image(f) for f in file.frames(range(file.count))])
                    return
            time.sleep(0.05)

    steps: list[Any] = [camera.start]
    for first in (0, 4):
        steps += [*camera.frames(*crystal.frames[first : first + 4]), look]
    with writing(path, **crystal.settings) as runner:
        run(runner, *steps, SeriesEnd(camera.series))
    assert [len(frames) for frames in seen] == [4, 8]
    np.testing.assert_array_equal(seen[1][:4], seen[0])
    np.testing.assert_array_equal(dense(path), seen[1])


def test_each_series_has_its_own_images_and_counts(crystal: Crystal, tmp_path: Path) -> None:
    runner = make_runner(BraggStage(), sinks=[NexusWriter(tmp_path)], **crystal.settings)
    steps: list[Any] = []
    for number in (1, 2):
        camera = Camera(f"scan-{number}_eiger.h5")
        steps += [camera.start, *camera.frames(*crystal.frames[:number]), SeriesEnd(camera.series)]
        time.sleep(0.002)
    run(runner, *steps)
    runner.close()
    files = sorted(tmp_path.rglob("*.h5"))
    assert [len(dense(path)) for path in files] == [1, 2]
