"""Stacks of images are read by fabio, and hold what XDS's plug-ins neggia and durin look for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.bragg import dense_file
from ronda.core.bragg.dense_file import DenseWriter, EigerWriter, LimaWriter
from ronda.core.bragg.dense_layout import Stack
from ronda.core.bragg.instrument import Instrument

from .places import nxmx_place

INSTRUMENT = Instrument("Eiger_4M", 0.3, 75e-6, 150e-6, 4.25, 2.5, 1.0332e-10)
MASK = np.zeros((6, 8), bool)
MASK[1, 2] = True
BITSHUFFLE = 32008


def stack(count: int, dtype: Any = np.uint32, **more: Any) -> Stack:
    return Stack(count, (6, 8), np.dtype(dtype), MASK, INSTRUMENT, **more)


def images(count: int, dtype: Any = np.uint32) -> NDArray[Any]:
    """Return images with the largest and smallest value of their type."""
    kind = np.dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    data = np.arange(count * 48).reshape(count, 6, 8).astype(kind)
    data[:, 0, 0], data[:, 5, 7] = limits.max, limits.min
    return data


def write(writer: DenseWriter, data: NDArray[Any]) -> None:
    for image in data:
        writer.write(image)
    writer.finish()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have three images in a data file."""
    monkeypatch.setattr(dense_file, "IMAGES_PER_FILE", 3)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "f4", "i8"])
def test_fabio_reads_the_same_pixels_from_lima_style(tmp_path: Path, dtype: str) -> None:
    data = images(4, dtype)
    write(LimaWriter(tmp_path / "s_dense.h5", stack(4, dtype)), data)
    with fabio.open(str(tmp_path / "s_dense.h5")) as file:
        assert type(file).__name__ == "LimaImage"
        assert file.nframes == 4
        for number in range(4):
            read = file.getframe(number).data
            assert read.dtype == dtype
            assert np.array_equal(read, data[number])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", ["u2", "i4", "u4", "f4"])
def test_fabio_reads_the_same_pixels_from_eiger_style(tmp_path: Path, dtype: str) -> None:
    data = images(7, dtype)
    write(EigerWriter(tmp_path / "s", stack(7, dtype)), data)
    names = ["s_000001.h5", "s_000002.h5", "s_000003.h5", "s_master.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, first, last in (("s_master.h5", 0, 7), ("s_000002.h5", 3, 6)):
        with fabio.open(str(tmp_path / name)) as file:
            assert type(file).__name__ == "EigerImage"
            read = [file.getframe(number).data for number in range(file.nframes)]
        assert np.array_equal(read, data[first:last])


@pytest.mark.usefixtures("small")
def test_a_master_file_holds_what_neggia_demands(tmp_path: Path) -> None:
    """As neggia's README and bin/check_h5_compatibility.py say."""
    write(EigerWriter(tmp_path / "s", stack(7)), images(7))
    for path in tmp_path.iterdir():
        assert path.read_bytes()[8] in (0, 2, 3)  # versions of the superblock
    with h5py.File(tmp_path / "s_master.h5") as file:
        detector = file["entry/instrument/detector"]
        for name, size in (("x_pixel_size", 75e-6), ("y_pixel_size", 150e-6)):
            assert detector[name].dtype in (np.float32, np.float64)
            assert detector[name][()] == size
        specific = detector["detectorSpecific"]
        for name, value in (("nimages", 7), ("ntrigger", 1)):
            assert specific[name].dtype.kind in "ui"
            assert specific[name][()] == value
        mask = specific["pixel_mask"]
        assert mask.dtype == np.uint32
        assert np.array_equal(mask, MASK)
        assert list(_filters(mask)) in ([], [BITSHUFFLE])
        assert list(file["entry/data"]) == [f"data_{number:06d}" for number in (1, 2, 3)]
        sizes = []
        for name in file["entry/data"]:
            data = file["entry/data"][name]
            assert data.chunks == (1, 6, 8)
            assert list(_filters(data)) == [BITSHUFFLE]
            sizes.append(data.shape[0])
        assert sizes == [3, 3, 1]  # all but the last as long as the first


def _filters(dataset: h5py.Dataset) -> list[int]:
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]


def test_a_master_file_holds_what_durin_looks_for(tmp_path: Path) -> None:
    """It takes the last NXdata and NXdetector of the file, and asks for units."""
    peaks = np.zeros(0, [(name, "f4") for name in ("intensity", "x", "y", "snr")])
    writer = EigerWriter(tmp_path / "s", stack(2, peaks=True))
    for image in images(2):
        writer.write(image, peaks)
    writer.finish()
    classes: dict[str, list[str]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group):
            classes.setdefault(item.attrs["NX_class"], []).append(name)

    with h5py.File(tmp_path / "s_master.h5") as file:
        file.visititems(note)
        assert classes["NXdata"] == ["entry/data"]
        assert classes["NXdetector"] == ["entry/instrument/detector"]
        detector = file["entry/instrument/detector"]
        assert detector["x_pixel_size"].attrs["units"] == "m"
        assert detector["pixel_mask"] == detector["detectorSpecific/pixel_mask"]


def test_a_master_file_is_nxmx_with_its_axes(tmp_path: Path) -> None:
    write(EigerWriter(tmp_path / "s", stack(1, start_time="2026-01-02T03:04:05Z")), images(1))
    with h5py.File(tmp_path / "s_master.h5") as file:
        assert file["entry/definition"][()] == b"NXmx"
        assert file["entry/start_time"][()] == b"2026-01-02T03:04:05Z"
        beam = file["entry/instrument/beam/incident_wavelength"]
        assert beam[()] == pytest.approx(1.0332)
        assert beam.attrs["units"] == "angstrom"
        detector = file["entry/instrument/detector"]
        assert detector["beam_center_x"].attrs["units"] == "pixel"
        assert (detector["beam_center_x"][()], detector["beam_center_y"][()]) == (4.25, 2.5)
        # the pixel that the beam hits lies on the beam
        assert nxmx_place(file, 4.25, 2.5) == pytest.approx([0, 0, 0.3])


def test_a_detector_of_unknown_place_has_none(tmp_path: Path) -> None:
    unknown = Stack(1, (6, 8), np.dtype(np.uint32), MASK)
    write(EigerWriter(tmp_path / "s", unknown), images(1))
    write(LimaWriter(tmp_path / "l.h5", unknown), images(1))
    with h5py.File(tmp_path / "s_master.h5") as file:
        assert "distance" not in file["entry/instrument/detector"]
        assert "module" not in file["entry/instrument/detector"]
        assert "beam" not in file["entry/instrument"]


def test_what_made_the_images_is_recorded(tmp_path: Path) -> None:
    made = stack(1, process={"noise": 0.5, "seed": 3, "source": "here.h5"})
    write(EigerWriter(tmp_path / "s", made), images(1))
    write(LimaWriter(tmp_path / "l.h5", made), images(1))
    for name, entry in (("s_master.h5", "entry"), ("l.h5", "entry_0000")):
        with h5py.File(tmp_path / name) as file:
            process = file[entry]["densify"]
            assert process.attrs["NX_class"] == "NXprocess"
            assert process["noise"][()] == 0.5
            assert process["source"][()] == b"here.h5"


@pytest.mark.usefixtures("small")
def test_the_peaks_of_each_image_are_in_its_file(tmp_path: Path) -> None:
    writer = EigerWriter(tmp_path / "s", stack(4, peaks=True))
    for number, image in enumerate(images(4)):
        peaks = np.zeros(number, [(name, "f4") for name in ("intensity", "x", "y", "snr")])
        peaks["x"] = np.arange(number)
        writer.write(image, peaks)
    writer.finish()
    with h5py.File(tmp_path / "s_000001.h5") as file:
        assert file["entry/peaks/nPeaks"][()].tolist() == [0, 1, 2]
        assert file["entry/peaks/peakXPosRaw"][()].tolist() == [[0, 0], [0, 0], [0, 1]]
    with h5py.File(tmp_path / "s_000002.h5") as file:
        assert file["entry/peaks/nPeaks"][()].tolist() == [3]


# --------------------------------------------------- what does not go as expected

WRITERS: dict[str, Callable[[Path, Stack], DenseWriter]] = {
    "lima": lambda folder, stack: LimaWriter(folder / "s.h5", stack),
    "eiger": lambda folder, stack: EigerWriter(folder / "s", stack),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("style", WRITERS)
@pytest.mark.parametrize("came", [1, 3, 4, 9])
def test_files_are_as_long_as_what_came(tmp_path: Path, style: str, came: int) -> None:
    data = images(came)
    writer = WRITERS[style](tmp_path, stack(7))
    for image in data:
        writer.write(image)
    links = writer.finish()
    assert sum(link.shape[0] for link in links) == came
    read: list[NDArray[Any]] = []
    for link in links:
        with h5py.File(link.file) as file:
            assert file[link.dataset].shape == link.shape
            read += list(file[link.dataset][()])
    assert np.array_equal(read, data)
    if style == "eiger":
        with h5py.File(tmp_path / "s_master.h5") as file:
            assert file["entry/instrument/detector/detectorSpecific/nimages"][()] == came
            assert len(file["entry/data"]) == len(links)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("style", WRITERS)
def test_nothing_has_its_name_before_all_is_written(tmp_path: Path, style: str) -> None:
    writer = WRITERS[style](tmp_path, stack(7))
    for image in images(5):
        writer.write(image)
    assert all(path.suffix == ".part" for path in tmp_path.iterdir())
    assert not any(path.exists() for path in writer.paths)
    writer.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("style", WRITERS)
def test_without_any_image_nothing_is_left(tmp_path: Path, style: str) -> None:
    assert WRITERS[style](tmp_path, stack(7)).finish() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("style", WRITERS)
def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path, style: str) -> None:
    for path in WRITERS[style](tmp_path, stack(2)).paths:
        path.with_name(f"{path.name}.part").write_text("half written")
    write(WRITERS[style](tmp_path, stack(2)), images(2))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("style", WRITERS)
def test_a_full_disk_is_found_before_hdf5_meets_it(
    tmp_path: Path, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = WRITERS[style](tmp_path, stack(3))
    writer.write(images(1)[0])

    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"s.*\.h5 cannot grow: No space left on device"):
        writer.write(images(1)[0])
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="cannot grow"):
        WRITERS[style](tmp_path, stack(3)).write(images(1)[0])
    assert list(tmp_path.iterdir()) == []


def test_more_images_than_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too many"):
        EigerWriter(tmp_path / "s", stack(1_000_000_000))
