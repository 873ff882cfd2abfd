"""Sparse files are read exactly, frame by frame, and believed only where they are right."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ronda.core.bragg.sparse_file import PEAK, SparseFile
from ronda.tests.core.bragg.sparse_files import GROUP, Sparse, rings

INDEX = [[5, 0, 40], [], [47, 3]]
INTENSITY = [[9, 8, 7], [], [6, 5]]


@pytest.mark.parametrize("pointer", [np.uint32, np.uint64, np.int64])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4", ">i4", "u8", "f4", "f8"])
def test_pixels_are_read_exactly_and_in_their_own_type(
    tmp_path: Path, dtype: str, pointer: Any
) -> None:
    kind = np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind in "ui" else np.finfo(kind).max
    values = [[9, top, 7], [], [6, 5]]
    with SparseFile(Sparse(INDEX, values, kind, pointer=pointer).write(tmp_path / "s.h5")) as file:
        assert (file.count, file.shape, file.unit) == (3, (6, 8), "q_nm^-1")
        assert file.dtype == kind.newbyteorder("=")
        for frame, index, expected in zip(file.frames(range(3)), INDEX, values, strict=True):
            assert frame.index.tolist() == index
            assert frame.intensity.dtype == file.dtype
            assert frame.intensity.tolist() == np.array(expected, kind).tolist()


def test_the_background_of_each_frame_is_its_own(tmp_path: Path) -> None:
    average = np.arange(24, dtype=np.float32).reshape(3, 8)
    path = Sparse(INDEX, INTENSITY, average=average, deviation=average + 1).write(tmp_path / "s.h5")
    with SparseFile(path) as file:
        frame = file.frame(2)
        assert np.array_equal(frame.average, average[2])
        assert np.array_equal(frame.deviation, average[2] + 1)


def test_without_a_background_there_is_none(tmp_path: Path) -> None:
    with SparseFile(Sparse(INDEX, INTENSITY, radius=None).write(tmp_path / "xpcs.h5")) as file:
        assert not file.has_background
        assert file.frame(0).average is None


@pytest.mark.parametrize(
    ("stored", "dtype", "read"),
    [
        (None, "i4", 0),
        (np.nan, "u2", 0),
        (-2.0, "i4", -2),
        (-2.0, "u2", 65535),
        (1e30, "i4", -1),
        (0.5, "i4", -1),
        (4294967295.0, "u4", 4294967295),
        (7, "f4", 7.0),
    ],
)
def test_a_dummy_is_what_the_pixels_can_hold(
    tmp_path: Path, stored: Any, dtype: str, read: float
) -> None:
    sparse = Sparse(INDEX, INTENSITY, dtype, change={"dummy": stored})
    with SparseFile(sparse.write(tmp_path / "s.h5")) as file:
        assert file.dummy == read
        assert file.dummy.dtype == file.dtype


def test_floats_without_a_dummy_have_nan(tmp_path: Path) -> None:
    sparse = Sparse(INDEX, INTENSITY, "f4", change={"dummy": None})
    with SparseFile(sparse.write(tmp_path / "s.h5")) as file:
        assert np.isnan(file.dummy)


def test_the_instrument_is_read_in_metres(tmp_path: Path) -> None:
    with SparseFile(Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")) as file:
        read = file.instrument
    assert read.name == "Eiger_4M"
    assert (read.distance, read.x_pixel_size, read.y_pixel_size) == (0.3, 75e-6, 150e-6)
    assert (read.beam_center_x, read.beam_center_y) == (4.25, 2.5)
    assert read.wavelength == pytest.approx(1.5e-10, rel=1e-7)


def test_a_second_detector_that_tells_nothing_hides_nothing(tmp_path: Path) -> None:
    path = Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        file.create_group("entry_0000/instrument").attrs["NX_class"] = "NXinstrument"
        detector = file.create_group("entry_0000/instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
    with SparseFile(path) as file:
        assert (file.instrument.name, file.instrument.distance) == ("Eiger_4M", 0.3)


def test_a_file_without_instrument_has_an_unknown_one(tmp_path: Path) -> None:
    path = Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        del file["entry_0000/beamline"]
        file["entry_0000/broken"] = h5py.SoftLink("/nowhere")
        file["entry_0000/gone"] = h5py.ExternalLink("gone.h5", "/entry")
    with SparseFile(path) as file:
        assert file.instrument.distance is None


def test_peaks_come_without_their_padding(tmp_path: Path) -> None:
    peaks = [[(10.0, 1.5, 2.5, 3.0), (20.0, 4.0, 5.0, 6.0)], [], [(7.0, 7.0, 0.0, 1.0)]]
    with SparseFile(Sparse(INDEX, INTENSITY, peaks=peaks).write(tmp_path / "s.h5")) as file:
        for number, expected in enumerate(peaks):
            assert file.peaks(number).tolist() == np.array(expected, PEAK).tolist()


# ------------------------------------------------------------------ bad files


def _pointer(*values: int, kind: str = "i8") -> dict[str, Any]:
    return {"frame_ptr": np.array(values, kind)}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "falls": (_pointer(0, 3, 2, 5), "falls"),
    "is negative": (_pointer(-1, 3, 3, 5), "falls"),
    "claims pixels that are not there": (_pointer(0, 3, 3, 6), "only 2 are there"),
    "wraps": (_pointer(0, 3, 3, 2**64 - 1, kind="u8"), "only 2 are there"),
    "is empty": ({"frame_ptr": np.zeros(0, "u4")}, "-1 frames"),
    "is floats": (_pointer(0, 3, 3, 5, kind="f8"), "frame_ptr is float64"),
    "is an image": ({"frame_ptr": np.zeros((2, 2), "u4")}, "frame_ptr is uint32"),
    "is missing": ({"frame_ptr": None}, "no sparse frames"),
    "no index": ({"index": None}, "no dataset index"),
    "no intensity": ({"intensity": None}, "no dataset intensity"),
    "intensity of complex numbers": ({"intensity": np.zeros(5, "c8")}, "complex64"),
    "intensity of half floats": ({"intensity": np.zeros(5, "f2")}, "float16"),
    "intensity too short": ({"intensity": np.zeros(4, "i4")}, "only 2 are there"),
    "no mask": ({"mask": None}, "no dataset mask"),
    "mask of integers": ({"mask": np.zeros((6, 8), "i4")}, "mask is int32"),
    "mask of texts": ({"mask": "radius"}, "mask is object"),
    "mask too wide": ({"mask": np.zeros((1, 20000), "f4")}, "20000"),
    "normalization of another image": ({"normalization": np.ones((8, 6))}, "does not fit"),
    "radius falls": ({"radius": np.arange(8, dtype="f4")[::-1]}, "does not rise"),
    "radius not finite": ({"radius": np.append(np.arange(7.0), np.inf)}, "does not rise"),
    "radius empty": ({"radius": np.zeros(0)}, "0 bins"),
    "bins differ": ({"background_std": np.ones((3, 7), "f4")}, "7 bins where radius has 8"),
    "background too short": ({"background_avg": np.ones((2, 8), "f4")}, "only 2 are there"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_what_it_claims_is_refused_in_one_sentence(
    tmp_path: Path, name: str
) -> None:
    change, why = BAD[name]
    path = Sparse(INDEX, INTENSITY, change=change).write(tmp_path / "bad.h5")
    with pytest.raises(ValueError, match=why) as caught:
        SparseFile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.attrs.pop("default") and file.move("entry_0000", "entry"),
        lambda file: file["entry_0000"].attrs.pop("pyFAI_sparse_frames"),
        lambda file: file["entry_0000"].attrs.create("pyFAI_sparse_frames", b"/nowhere"),
        lambda file: file["entry_0000"].attrs.create("pyFAI_sparse_frames", np.arange(3)),
        lambda file: file.attrs.create("default", f"{GROUP}/mask"),
    ],
)
def test_what_is_no_sparse_file_is_said_to_be_none(
    tmp_path: Path, spoil: Callable[[h5py.File], object]
) -> None:
    path = Sparse(INDEX, INTENSITY).write(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(ValueError, match="this is no sparse file"):
        SparseFile(path)


def test_what_is_no_hdf5_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    for name in ("text.h5", "missing.h5"):
        with pytest.raises(OSError, match=name):
            SparseFile(tmp_path / name)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises((OSError, ValueError), match=r"s\.h5"):
        SparseFile(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    bounds=st.lists(st.integers(-2, 60), min_size=2, max_size=5),
    index=st.lists(st.integers(-3, 60), max_size=12),
)
def test_whatever_bounds_and_pixels_a_file_claims_none_is_outside(
    tmp_path: Path, bounds: list[int], index: list[int]
) -> None:
    change = _pointer(*bounds) | {
        "index": np.array(index, "i8"),
        "background_avg": np.ones((len(bounds) - 1, 8), "f4"),
        "background_std": np.ones((len(bounds) - 1, 8), "f4"),
        "intensity": np.arange(len(index), dtype="i4"),
    }
    path = Sparse([], [], change=change).write(tmp_path / "any.h5")
    right = bounds == sorted(bounds) and bounds[0] >= 0 and bounds[-1] <= len(index)
    try:
        with SparseFile(path) as file:
            assert right
            for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
                inside = all(0 <= place < 48 for place in index[start:stop])
                try:
                    frame = file.frame(number)
                except ValueError as error:
                    assert not inside and "outside" in str(error)
                else:
                    assert inside and frame.index.tolist() == index[start:stop]
    except ValueError as error:
        assert not right, error


def test_a_claim_of_very_many_frames_or_pixels_is_refused_before_it_is_read(
    tmp_path: Path,
) -> None:
    path = Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")
    for name, shape, why in (
        ("frame_ptr", (2**40,), "frames"),
        ("radius", (2**40,), "bins"),
        ("mask", (2**20, 2**20), "outside 1 to"),
    ):
        with h5py.File(path, "r+") as file:
            kind = file[GROUP][name].dtype
            kept = file[GROUP][name][()]
            del file[GROUP][name]
            file[GROUP].create_dataset(name, shape, kind, chunks=True)
        with pytest.raises(ValueError, match=why):
            SparseFile(path)
        with h5py.File(path, "r+") as file:
            del file[GROUP][name]
            file[GROUP][name] = kept


def test_only_the_frame_that_is_asked_for_is_read(tmp_path: Path) -> None:
    path = Sparse([[1]], [[1]], change=_pointer(2**36 - 3, 2**36)).write(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        for name, kind in (("index", "u4"), ("intensity", "i4")):
            del file[GROUP][name]
            file[GROUP].create_dataset(name, (2**36,), kind, chunks=(4096,), fillvalue=7)
    with SparseFile(path) as file:
        assert file.frame(0).intensity.tolist() == [7, 7, 7]


def test_a_frame_that_cannot_be_decoded_does_not_hide_the_others(tmp_path: Path) -> None:
    path = Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        values = file[GROUP]["intensity"][()]
        del file[GROUP]["intensity"]
        dataset = file[GROUP].create_dataset(
            "intensity", data=values, chunks=(3,), **hdf5plugin.Bitshuffle()
        )
        dataset.id.write_direct_chunk((3,), b"\xff" * 20)
    with SparseFile(path) as file:
        assert file.frame(0).intensity.tolist() == INTENSITY[0]
        with pytest.raises(ValueError, match=r"frame 2 of .* cannot be read"):
            file.frame(2)


def test_lists_of_peaks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = Sparse(INDEX, INTENSITY, peaks=[[(1, 1, 1, 1)]] * 3).write(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        file["entry_0000/peaks/nPeaks"][1] = 5
    with SparseFile(path) as file, pytest.raises(ValueError, match="claims 5 peaks"):
        file.peaks(1)
    with h5py.File(path, "r+") as file:
        del file["entry_0000/peaks/peakSNR"]
        file["entry_0000/peaks/peakSNR"] = np.ones((2, 1), "f4")
    with pytest.raises(ValueError, match="claims 3 frames, but only 2 are there"):
        SparseFile(path)


def test_a_frame_that_is_not_there_is_an_index_error(tmp_path: Path) -> None:
    with SparseFile(Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")) as file:
        for number in (-1, 3):
            with pytest.raises(IndexError, match="frames 0 to 2"):
                file.frame(number)


WRITER = """
import sys, h5py, numpy as np
lists = int(sys.argv[2])
with h5py.File(sys.argv[1], "w", libver=("v110", "v110")) as file:
    file.attrs["default"] = "entry_0000"
    group = file.create_group("entry_0000/sparse_frames")
    file["entry_0000"].attrs["pyFAI_sparse_frames"] = "/entry_0000/sparse_frames"
    group["mask"] = np.arange(48, dtype="f4").reshape(6, 8)
    group["radius"] = np.arange(4, dtype="f4")
    more = dict(maxshape=(None,), chunks=(8,))
    pointer = group.create_dataset("frame_ptr", data=np.array([0, 2, 4, 9], "u8"), **more)
    index = group.create_dataset("index", data=np.arange(6, dtype="u4"), **more)
    group.create_dataset("intensity", data=np.arange(6, dtype="i4"), **more)
    group.create_dataset("background_avg", data=np.ones((3, 4), "f4"), maxshape=(None, 4))
    peaks = file.create_group("entry_0000/peaks")
    peaks.create_dataset("nPeaks", data=np.zeros(lists, "i4"), **more)
    for name in ("peakTotalIntensity", "peakXPosRaw", "peakYPosRaw", "peakSNR"):
        peaks.create_dataset(name, data=np.zeros((lists, 1), "f4"), maxshape=(None, 1))
    file.swmr_mode = True
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("lists", "complete"), [(3, 2), (1, 1)])
def test_of_a_file_that_is_being_written_the_complete_frames_are_read(
    tmp_path: Path, lists: int, complete: int
) -> None:
    path = tmp_path / "growing.h5"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(lists)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        with SparseFile(path) as file:  # frame_ptr is ahead of the pixels, as when it is flushed
            assert file.count == complete
            for number in range(complete):
                assert file.frame(number).intensity.tolist() == [2 * number, 2 * number + 1]
        writer.communicate()
    assert writer.returncode == 0
    with pytest.raises(ValueError, match=f"claims 3 frames, but only {complete} are there"):
        SparseFile(path)


def test_masked_pixels_are_those_without_a_radius(tmp_path: Path) -> None:
    with SparseFile(Sparse(INDEX, INTENSITY).write(tmp_path / "s.h5")) as file:
        assert np.array_equal(file.pixel_radius, rings((6, 8)), equal_nan=True)
