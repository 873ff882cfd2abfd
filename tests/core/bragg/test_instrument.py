"""Who reads what is written finds every pixel where pyFAI has it, however the detector stands."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ronda.core.bragg.cxi import DETECTOR, CxiWriter, crystfel_geometry
from ronda.core.bragg.dense_file import EigerWriter
from ronda.core.bragg.dense_layout import Stack
from ronda.core.bragg.instrument import Instrument
from ronda.core.bragg.sparse_file import SparseFile

from .crystal import write_sparse
from .places import Standing, nxmx_place
from .test_cxi import CrystFel

turns = st.floats(-1.2, 1.2)
standings = st.builds(
    Standing,
    orientation=st.sampled_from([1, 2, 3, 4]),
    turns=st.tuples(turns, turns, st.floats(-3.1, 3.1)),
    pixel=st.sampled_from([(1e-4, 1e-4), (50e-6, 75e-6)]),
)
CORNERS = [(row, column) for row in (0, 150, 299) for column in (0, 70, 199)]
anywhere = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def _instrument(standing: Standing, folder: Path) -> Instrument:
    with SparseFile(standing.sparse(folder / "sparse.h5")) as file:
        return file.instrument


@anywhere
@given(standings)
def test_crystfel_finds_pixels_of_a_tilted_detector_where_pyfai_does(
    tmp_path: Path, standing: Standing
) -> None:
    text = crystfel_geometry(_instrument(standing, tmp_path), standing.shape)
    crystfel, places = CrystFel(tmp_path / "none.cxi", text), standing.places()
    for row, column in CORNERS:
        off = np.array(crystfel.place(column + 0.5, row + 0.5)) - places[row, column]
        assert np.abs(off).max() < 1e-3 * min(standing.pixel)


@anywhere
@given(standings)
def test_nxmx_and_cxi_have_pixels_of_a_tilted_detector_where_pyfai_does(
    tmp_path: Path, standing: Standing
) -> None:
    instrument, places = _instrument(standing, tmp_path), standing.places()
    mask = np.zeros(standing.shape, bool)
    writer = EigerWriter(
        tmp_path / "s", Stack(1, standing.shape, np.dtype(np.uint8), mask, instrument)
    )
    writer.write(mask.astype(np.uint8))
    writer.finish()
    lists = CxiWriter(tmp_path / "peaks.cxi", instrument, mask)
    lists.finish()
    with h5py.File(tmp_path / "s_master.h5") as master, h5py.File(tmp_path / "peaks.cxi") as cxi:
        detector = cxi[DETECTOR]
        slow, fast = detector["basis_vectors"][()]
        directions = detector["geometry_1/orientation"][()].reshape(2, 3)
        sizes = detector["x_pixel_size"][()], detector["y_pixel_size"][()]
        assert np.allclose(directions * np.array(sizes)[:, None], (fast, slow), rtol=1e-9, atol=0)
        for row, column in CORNERS:
            nxmx = nxmx_place(master, column + 0.5, row + 0.5)
            place = detector["corner_position"][()] + (column + 0.5) * fast + (row + 0.5) * slow
            for off in (nxmx - places[row, column], place - places[row, column]):
                assert np.abs(off).max() < 1e-3 * min(standing.pixel)


def test_the_camera_length_is_where_the_beam_meets_a_tilted_detector(tmp_path: Path) -> None:
    standing = Standing(3, (0.0, np.radians(30), 0.0))
    plane = _instrument(standing, tmp_path).plane
    assert plane is not None
    assert plane.distance == pytest.approx(0.21 / np.cos(np.radians(30)))
    edge_on = _instrument(Standing(3, (np.pi / 2, 0.0, 0.0)), tmp_path).plane
    assert edge_on is not None
    assert edge_on.distance == edge_on.corner[2]


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_a_tilt_in_a_poni_file_comes_through_a_sparse_file(
    tmp_path: Path, orientation: int
) -> None:
    standing = Standing(orientation, (0.11, -0.07, 0.4))
    poni, path = tmp_path / "tilted.poni", tmp_path / "sparse.h5"
    standing.pyfai().save(str(poni))
    write_sparse(path, [np.ones(standing.shape, np.uint32)], poni_file=str(poni), radial_bins=50)
    with SparseFile(path) as file:
        text = crystfel_geometry(file.instrument, standing.shape)
    crystfel, places = CrystFel(tmp_path / "none.cxi", text), standing.places()
    for row, column in CORNERS:
        off = np.array(crystfel.place(column + 0.5, row + 0.5)) - places[row, column]
        assert np.abs(off).max() < 1e-3 * min(standing.pixel)


@pytest.mark.parametrize("orientation", [2, 3])
def test_an_upright_detector_begins_at_the_top_left(tmp_path: Path, orientation: int) -> None:
    plane = _instrument(Standing(orientation, (0.0, 0.0, 0.0)), tmp_path).plane
    assert plane is not None
    assert plane.fast == pytest.approx([-1e-4, 0, 0])
    assert plane.slow == pytest.approx([0, -1e-4, 0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[" * 100_000,
        "[]",
        '{"geometry": 3}',
        '{"geometry": {"dist": 1}}',
        '{"geometry": {"dist": NaN, "poni1": 0, "poni2": 0, "rot1": 0, "rot2": 0, "rot3": 0}}',
        '{"geometry": {"dist": 1, "poni1": 0, "poni2": 0, "rot1": 0, "rot2": 0, "rot3": 0,'
        ' "detector_config": {"orientation": 7}}}',
        '{"geometry": {"dist": 1, "poni1": [], "poni2": 0, "rot1": 0, "rot2": 0, "rot3": 0}}',
    ],
)
def test_what_does_not_tell_a_tilt_is_passed_over(tmp_path: Path, text: str) -> None:
    path = Standing(3, (0.1, 0.2, 0.3)).sparse(tmp_path / "sparse.h5")
    with h5py.File(path, "r+") as file:
        del file["entry_0000/sparsify/configuration/data"]
        file["entry_0000/sparsify/configuration/data"] = text
    with SparseFile(path) as sparse:
        assert sparse.instrument.tilted is None
        assert sparse.instrument.plane is not None
