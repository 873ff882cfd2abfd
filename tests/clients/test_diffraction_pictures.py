"""Pictures of sparse frames and of maps show what the file holds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.clients.diffraction_pictures import is_map, is_sparse, map_figure, sparse_figure
from ronda.clients.pictures import draw_file
from ronda.core.bragg.stage import BraggStage
from ronda.core.runner import Runner
from ronda.core.simulation import simulate_eiger
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sources import open_source
from ronda.core.tomography.stage import DiffTomoStage

SHAPE = (300, 280)
URL = f"simulated:eiger?frames=6&rows={SHAPE[0]}&columns={SHAPE[1]}&spots=30"
PNG = b"\x89PNG"


@pytest.fixture
def poni(tmp_path: Path) -> Path:
    path = tmp_path / "eiger.poni"
    path.write_text(simulate_eiger(1, SHAPE).geometry.to_poni(SHAPE))
    return path


def reduced(stage: BraggStage | DiffTomoStage, path: Path, **changes: object) -> Path:
    """Reduce six simulated frames to a file."""
    runner = Runner(stage, stage.Parameters().changed(changes), [NexusWriter(output_file=path)])
    runner.start(partial(open_source, URL))
    runner.wait()
    runner.close()
    return path


def test_sparse_frames_are_drawn_as_the_image_of_a_table(tmp_path: Path, poni: Path) -> None:
    stage = BraggStage()
    path = reduced(
        stage, tmp_path / "s.h5", poni_file=str(poni), radial_bins=60, peak_finder="patch"
    )
    with h5py.File(path) as file:
        assert is_sparse(file) and not is_map(file)
    image, background, kept = sparse_figure(path).axes[:3]
    counts = stage.value("kept_per_frame")
    assert image.get_title() == (
        f"Frame {counts.argmax()} of 6: background and {counts.max()} kept pixels"
    )
    [peaks] = [line for line in image.lines if line.get_marker() == "o"]
    assert len(peaks.get_xdata()) == stage.value("peaks_per_frame")[counts.argmax()]
    [profile] = background.lines
    assert len(profile.get_ydata()) == 60
    [curve] = kept.lines
    np.testing.assert_array_equal(curve.get_ydata(), counts)
    draw_file(path, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(PNG)


def test_a_map_is_drawn_with_its_gaps(tmp_path: Path, poni: Path) -> None:
    stage = DiffTomoStage()
    path = reduced(
        stage, tmp_path / "t.h5", poni_file=str(poni),
        n_translations=4, n_rotations=2, n_diffraction=50, reconstruct=True,
    )  # fmt: skip
    with h5py.File(path) as file:
        assert is_map(file) and not is_sparse(file)
        figure = map_figure(path, file)
    titles = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert set(titles) == {
        "Sinogram of the whole pattern", "Cross-section", "All patterns",
        "Mean pattern, and where 98 % of them lie",
    }  # fmt: skip
    shown = titles["Sinogram of the whole pattern"].images[0].get_array()
    np.testing.assert_array_equal(np.isnan(np.ma.filled(shown, np.nan))[1], [0, 0, 1, 1])
    [line] = titles["Mean pattern, and where 98 % of them lie"].lines
    assert np.isfinite(line.get_ydata()).all()
    draw_file(path, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(PNG)


def test_a_sinogram_stands_at_its_positions_beside_those_of_ranges(
    tmp_path: Path, poni: Path
) -> None:
    path = reduced(
        DiffTomoStage(), tmp_path / "t.h5", poni_file=str(poni),
        n_translations=3, n_rotations=2, n_diffraction=50, radial_ranges=["ring=2,6"],
        rotation_range=[0, 90], translation_range=[1.0, 3.0], translation_unit="um",
    )  # fmt: skip
    with h5py.File(path) as file:
        figure = map_figure(path, file)
        ring = file["entry_0000/pyFAI/sinograms/ring"][()]
    titles = {axes.get_title(): axes for axes in figure.axes}
    drawn = titles["Sinogram of ring"]
    np.testing.assert_array_equal(np.ma.filled(drawn.images[0].get_array(), np.nan), ring)
    assert drawn.images[0].get_extent() == [0.5, 3.5, 135, -45]
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("translation (um)", "rotation (deg)")
    bars = [axes.get_ylabel() for axes in figure.axes if not axes.get_title()]
    assert bars.count("summed intensity") == 2


def test_a_plain_map_is_no_sinogram_and_has_numbers_that_are_whole(
    tmp_path: Path, poni: Path
) -> None:
    path = reduced(
        DiffTomoStage(), tmp_path / "m.h5", poni_file=str(poni),
        n_translations=3, n_rotations=2, n_diffraction=50, slow_axis="translation",
    )  # fmt: skip
    with h5py.File(path) as file:
        figure = map_figure(path, file)
    drawn = figure.axes[0]
    assert drawn.get_title() == "Map of the whole pattern"
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("fast number", "slow number")
    for ticks in (drawn.get_xticks(), drawn.get_yticks()):
        assert (ticks == np.round(ticks)).all()


def test_of_patterns_in_two_dimensions_those_in_one_beside_are_drawn(
    tmp_path: Path, poni: Path
) -> None:
    path = reduced(
        DiffTomoStage(), tmp_path / "c.h5", poni_file=str(poni),
        n_translations=3, n_rotations=2, n_diffraction=20, azimuthal_bins=8,
    )  # fmt: skip
    draw_file(path, tmp_path / "c.png")
    with h5py.File(path, "r+") as file:
        titles = {axes.get_title() for axes in map_figure(path, file).axes}
        assert {"Sinogram of the whole pattern", "All patterns"} < titles
        del file["entry_0000/pyFAI/patterns"]
    with pytest.raises(ValueError, match="two dimensions"):
        draw_file(path, tmp_path / "c.png")
