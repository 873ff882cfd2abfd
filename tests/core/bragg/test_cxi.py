"""Lists of peaks are what CrystFEL reads, at the places where CrystFEL looks for them.

The reader here is written from crystfel_geometry(5) and what indexamajig documents.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.bragg import cxi
from ronda.core.bragg.cxi import CxiWriter, DataLink, crystfel_geometry
from ronda.core.bragg.instrument import Instrument
from ronda.core.bragg.sparse_file import PEAK

INSTRUMENT = Instrument("Eiger", 0.3, 75e-6, 150e-6, 4.25, 2.5, 1.0332e-10)
MASK = np.zeros((6, 8), bool)
MASK[1, 2] = True


class CrystFel:
    """Reads a file as indexamajig does with --peaks=cxi and a geometry of one panel."""

    def __init__(self, file: Path, geometry: str) -> None:
        self._file = file
        self.geometry: dict[str, str] = {}
        for line in geometry.splitlines():
            name, equals, value = line.partition(";")[0].partition("=")
            assert bool(name.strip()) == bool(equals), line
            if equals:
                self.geometry[name.strip().removeprefix("panel/")] = value.strip()

    def number(self, name: str) -> float:
        """Return a value without its unit."""
        return float(self.geometry[name].split()[0])

    def peaks(self, frame: int) -> list[tuple[float, float, float]]:
        """Return fs, ss, in px from the panel's corner, and the intensity of each peak."""
        assert self.geometry["peak_list_type"] == "cxi"
        with h5py.File(self._file) as file:
            group = file[self.geometry["peak_list"]]
            names = ("nPeaks", "peakXPosRaw", "peakYPosRaw", "peakTotalIntensity")
            count, *lists = (group[name] for name in names)
            assert count.ndim == 1 and count.dtype.kind == "i"
            assert all(values.ndim == 2 and frame < values.shape[0] for values in lists)
            x, y, intensity = (values[frame, : count[frame]] for values in lists)
        found = [(fs + 0.5, ss + 0.5, i) for fs, ss, i in zip(x, y, intensity, strict=True)]
        for fs, ss, _ in found:  # "Failed to convert to panel-relative coordinates"
            assert self.number("min_fs") <= fs < self.number("max_fs") + 1
            assert self.number("min_ss") <= ss < self.number("max_ss") + 1
        return found

    def place(self, fs: float, ss: float) -> tuple[float, float, float]:
        """Return where a point of the panel is, in m: +z along the beam, +y up."""
        found = [self.number("corner_x"), self.number("corner_y"), 0.0]
        for name, along in (("fs", fs), ("ss", ss)):
            number = r"([+-][\d.]+)"
            vector = re.fullmatch(f"{number}x {number}y {number}z", self.geometry[name])
            assert vector, self.geometry[name]
            for axis in range(3):
                found[axis] += along * float(vector[axis + 1])
        assert self.geometry["clen"].endswith(" m")
        x, y, z = (value / self.number("res") for value in found)
        return x, y, z + self.number("clen") + self.number("coffset")

    def image(self, frame: int) -> NDArray[Any]:
        """Return an image; bad pixels are -1."""
        axes = [self.geometry[f"dim{axis}"] for axis in range(3)]
        assert axes == ["%", "ss", "fs"]
        with h5py.File(self._file) as file:
            data, mask = file[self.geometry["data"]], file[self.geometry["mask0_data"]][()]
            assert data.ndim == 3
            image = data[frame].astype(np.int64)
        good, bad = (int(self.geometry[f"mask0_{name}bits"], 16) for name in ("good", "bad"))
        assert mask.shape == image.shape
        image[((mask & good) != good) | ((mask & bad) != 0)] = -1
        return image


def peaks(*rows: tuple[float, float, float, float]) -> NDArray[Any]:
    """Return peaks with the fields that the picker has; rows are intensity, x, y, snr."""
    fields = [*PEAK.descr, ("sigma", "f4"), ("pixels", "i4")]
    found = np.zeros(len(rows), fields)
    for name, values in zip(PEAK.names or (), np.array(rows, float).reshape(-1, 4).T, strict=True):
        found[name] = values
    return found


def _write(path: Path, frames: list[NDArray[Any]], data: list[DataLink] | None = None) -> None:
    writer = CxiWriter(path, INSTRUMENT, MASK, {"cutoff_peak": 3.0})
    for frame in frames:
        writer.append(frame)
    writer.finish(data or [])


def test_a_peak_is_where_its_pixel_is(tmp_path: Path) -> None:
    path = tmp_path / "peaks.cxi"
    _write(path, [peaks(), peaks((100, 3, 2, 9), (50, 7.25, 0, 4))])
    crystfel = CrystFel(path, crystfel_geometry(INSTRUMENT, (6, 8)))
    assert crystfel.peaks(0) == []
    assert crystfel.peaks(1) == [(3.5, 2.5, 100), (7.75, 0.5, 50)]
    # the centre of pixel (row 2, column 3) is 2.5 and 3.5 px from the corner, the beam 2.5 and 4.25
    x, y, z = crystfel.place(3.5, 2.5)
    assert (x, y, z) == pytest.approx(((4.25 - 3.5) * 75e-6, 0, 0.3), abs=1e-12)
    x, y, _ = crystfel.place(4.25, 4.5)
    assert (x, y) == pytest.approx((0, -2 * 150e-6), abs=1e-12)


def test_the_photon_energy_is_right_in_both_units(tmp_path: Path) -> None:
    _write(tmp_path / "peaks.cxi", [peaks()])
    energy = 12398.4198 / 1.0332  # h c / wavelength in eV and angstrom
    crystfel = CrystFel(tmp_path / "peaks.cxi", crystfel_geometry(INSTRUMENT, (6, 8)))
    assert crystfel.geometry["photon_energy"].endswith(" eV")
    assert crystfel.number("photon_energy") == pytest.approx(energy, rel=1e-7)
    with h5py.File(tmp_path / "peaks.cxi") as file:
        instrument = file["entry_1/instrument_1"]
        joule = instrument["source_1/energy"][()]
        assert joule == pytest.approx(energy * 1.602176634e-19, rel=1e-7)
        assert instrument["beam_1/incident_energy"][()] == pytest.approx(energy, rel=1e-7)
        assert file["cxi_version"][()] == 160


def test_the_panels_corner_is_the_same_in_file_and_geometry(tmp_path: Path) -> None:
    _write(tmp_path / "peaks.cxi", [peaks()])
    crystfel = CrystFel(tmp_path / "peaks.cxi", crystfel_geometry(INSTRUMENT, (6, 8)))
    with h5py.File(tmp_path / "peaks.cxi") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        corner = detector["corner_position"][()]
        slow, fast = detector["basis_vectors"][()]
        assert np.array_equal(detector["geometry_1/translation"], corner)
    assert crystfel.place(0, 0) == pytest.approx(corner)
    assert crystfel.place(3, 5) == pytest.approx(corner + 3 * fast + 5 * slow)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(counts=st.lists(st.integers(0, 150), min_size=1, max_size=300))
def test_lists_of_any_length_are_read_back(tmp_path: Path, counts: list[int]) -> None:
    path = tmp_path / "any.cxi"
    frames = [
        peaks(*((number, place % 8, place % 6, 1) for place in range(count)))
        for number, count in enumerate(counts)
    ]
    _write(path, frames)
    with h5py.File(path) as file:
        result = file["entry_1/result_1"]
        assert result["nPeaks"][()].tolist() == counts
        x, snr = result["peakXPosRaw"][()], result["peakSNR"][()]
    assert x.shape == (len(counts), max([*counts, 1]))
    for number, frame in enumerate(frames):
        assert x[number, : counts[number]].tolist() == frame["x"].tolist()
        assert not snr[number, counts[number] :].any()


def test_images_of_one_file_are_linked(tmp_path: Path) -> None:
    images = np.arange(2 * 48, dtype="u2").reshape(2, 6, 8)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data/images.h5", "w") as file:
        file["entry/data"] = images
    link = DataLink(tmp_path / "data/images.h5", "/entry/data", images.shape, images.dtype)
    _write(tmp_path / "peaks.cxi", [peaks()] * 2, [link])
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}_moved"))
    crystfel = CrystFel(moved / "peaks.cxi", crystfel_geometry(INSTRUMENT, (6, 8)))
    assert np.array_equal(crystfel.image(1), np.where(MASK, -1, images[1].astype(int)))


def test_images_of_several_files_are_one_dataset(tmp_path: Path) -> None:
    images = np.arange(5 * 48, dtype="u4").reshape(5, 6, 8)
    links = []
    for number, part in enumerate((images[:2], images[2:4], images[4:])):
        path = tmp_path / f"part{number}.h5"
        with h5py.File(path, "w") as file:
            file["entry/data/data"] = part
        links.append(DataLink(path, "/entry/data/data", part.shape, part.dtype))
    _write(tmp_path / "peaks.cxi", [peaks()] * 5, links)
    crystfel = CrystFel(tmp_path / "peaks.cxi", crystfel_geometry(INSTRUMENT, (6, 8)))
    for number, image in enumerate(images):
        assert np.array_equal(crystfel.image(number), np.where(MASK, -1, image.astype(int)))


def test_an_unfinished_file_has_no_name_and_a_discarded_one_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "peaks.cxi"
    path.write_text("the former one")
    writer = CxiWriter(path, INSTRUMENT, MASK)
    writer.append(peaks())
    assert path.read_text() == "the former one"
    writer.discard()
    assert [file.name for file in tmp_path.iterdir()] == ["peaks.cxi"]


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    writer = CxiWriter(tmp_path / "peaks.cxi", Instrument(), MASK)
    writer.finish()
    with h5py.File(tmp_path / "peaks.cxi") as file:
        assert "distance" not in file[cxi.DETECTOR]
        assert "source_1" not in file["entry_1/instrument_1"]
        assert file["entry_1/result_1/nPeaks"].shape == (0,)
    with pytest.raises(ValueError, match="not all known"):
        crystfel_geometry(Instrument(distance=1.0), (6, 8))
