"""Pictures show what is in the file, at its place, also of odd and half-written files."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from ronda.clients import panels, pictures
from ronda.clients.reading import (
    Accumulated,
    Curve,
    open_file,
    read_accumulated,
    read_curves,
    read_default,
    read_pattern,
)
from ronda.core.azimuthal.integration import Pattern
from ronda.core.geometry import Geometry

SHAPE = (60, 90)
GEOMETRY = Geometry(
    photon_energy=13.5,
    detector_distance=0.02,
    beam_center_x=20.0,
    beam_center_y=30.0,
    pixel_size=172e-6,
)
ROIS = {"peak": {"x": 40, "y": 10, "width": 8, "height": 6, "background": None}}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Coarse pictures: quick."""
    monkeypatch.setattr(pictures, "DPI", 50)


@pytest.fixture
def image():
    total = np.zeros(SHAPE)
    total[12, 44] = 13.5
    total[20:24] = 999.0
    count = np.full(SHAPE, 6, np.uint32)
    count[20:24] = 0
    return Accumulated(total, count, 6, "keV")


@pytest.fixture
def scan(tmp_path, image):
    """A file as a device leaves it at the end of a series."""
    path = tmp_path / "scan-0007_pilatus_pilatus.h5"
    with h5py.File(path, "w") as file:
        accumulated = file.create_group("entry/accumulated")
        accumulated["sum"], accumulated["valid_count"] = image.total, image.valid_count
        accumulated["sum"].attrs["units"] = "keV"
        accumulated.attrs["frames"] = 6
        azimuthal = file.create_group("entry/azimuthal")
        azimuthal["q"] = np.linspace(0, 2, 50)
        azimuthal["intensity"] = np.append(np.nan, np.ones(49))
        azimuthal["sigma"] = np.append(np.nan, np.full(49, 0.1))
        slot = file.create_group("entry/rois/slot_00")
        slot["mean"], slot["x"] = np.arange(6.0), np.repeat([1.0, 1.5, 2.0], 2)
        steps = slot.create_group("steps")
        steps["point"], steps["x"], steps["n"] = [0, 1, 2], [1.0, 1.5, 2.0], [2, 2, 2]
        steps["mean"], steps["error"] = [0.5, 2.5, 4.5], [0.1, 0.2, 0.3]
        steps["x"].attrs["long_name"] = "dummy_mot_01"
        file["entry/rois/peak"] = slot
        file["entry/rois/names"] = np.array(["peak", ""], object)
        file["entry/rois/versions"] = json.dumps({"9": {}, "10": ROIS})
        file["entry/geometry/poni"] = GEOMETRY.to_poni(SHAPE)
        file["entry/process/parameters/q_rings"] = [1.0, 2.0, 99.0]
    return path


def axes():
    return Figure().add_subplot()


def grey(png):
    """Share of a picture that has the colour of masked pixels."""
    return float((np.abs(imread(png)[..., :3] - 0.4).max(axis=-1) < 0.005).mean())


def test_picture_of_a_scan_holds_image_pattern_and_rois(scan, tmp_path):
    png = tmp_path / "scan.png"
    pictures.draw_file(scan, png)
    drawn = imread(png)
    assert 350 < drawn.shape[0] < 700 and 550 < drawn.shape[1] < 650  # 12 inches wide
    assert 0.01 < grey(png) < 0.1  # 4 masked rows of 60


@pytest.mark.parametrize(
    "draw", [pictures.draw_accumulated, pictures.draw_azimuthal, pictures.draw_rois]
)
def test_each_part_can_be_drawn_alone(scan, tmp_path, draw):
    draw(scan, tmp_path / "part.png")
    assert imread(tmp_path / "part.png").std() > 0.01


def test_arrays_are_drawn_without_a_file(image, tmp_path):
    pictures.draw_accumulated(image, tmp_path / "a.png")
    q = np.linspace(0, 1, 9)
    pictures.draw_azimuthal(Pattern(q, q, q), tmp_path / "b.png", lines=[0.5], unit="keV")
    pictures.draw_rois([Curve("a", q, q), Curve("b", q, q, q)], tmp_path / "c.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_masked_pixels_are_grey_and_not_in_the_total(image):
    panel = axes()
    panels.plot_accumulated(panel, image, {})
    assert panel.get_title() == "Sum of 6 frames: total 13.5 keV, highest 13.5 keV"
    shown = panel.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown).all(axis=1).nonzero()[0], range(20, 24))
    assert np.ma.getmaskarray(shown).sum() == 4 * 90  # zeros are black, not grey


def test_pixel_is_drawn_around_its_whole_numbers(image):
    panel = axes()
    panels.plot_accumulated(panel, image, {})
    assert list(panel.images[0].get_extent()) == [-0.5, 89.5, 59.5, -0.5]
    assert panel.get_ylim() == (59.5, -0.5)


def test_large_image_keeps_its_axes_and_its_photon_when_shrunk():
    total = np.zeros((31, 3200))
    total[30, 3199] = 1.0
    panel = axes()
    panels.plot_accumulated(panel, Accumulated(total, None, 1), {})
    shown = panel.images[0].get_array()
    assert max(shown.shape) <= panels.MOST_PIXELS and shown[-1, -1] == 1.0
    assert (panel.get_xlim(), panel.get_ylim()) == ((-0.5, 3199.5), (30.5, -0.5))
    assert panel.images[0].get_extent()[1] >= 3199.5
    assert panel.get_title() == "Sum of 1 frame: total 1, highest 1"


def test_single_photon_grows_to_nine_pixels_but_not_over_masked_ones():
    pixels = np.zeros((5, 5))
    pixels[2, 2], pixels[1, 1] = 7.0, np.nan
    large = panels.enlarged(pixels)
    assert np.isnan(large[1, 1]) and np.nansum(large == 7.0) == 8
    assert panels.enlarged(np.array([[3.0]])) == 3.0
    assert np.isnan(panels.enlarged(np.full((2, 2), np.nan))).all()


def test_shrunk_block_is_grey_only_if_all_of_it_is():
    pixels = np.full((3, 5), np.nan)
    pixels[0, 0], pixels[2, 4] = 4.0, -1.0
    expected = [[4.0, np.nan, np.nan], [np.nan, np.nan, -1.0]]
    np.testing.assert_array_equal(panels.shrunk(pixels, 2), expected)


@pytest.mark.parametrize("fill", [0.0, np.nan, 1e30])
def test_image_without_contrast_is_drawn(fill, tmp_path):
    pictures.draw_accumulated(Accumulated(np.full(SHAPE, fill), None, 0), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_rings_and_rois_lie_where_the_file_says(scan):
    with open_file(scan) as file:
        image = read_accumulated(file)
    assert list(image.rings) == [1.0, 2.0, 99.0] and len(image.rings[99.0]) == 0
    assert image.rois == {"peak": (40, 10, 8, 6)}
    panel = axes()
    panels.plot_accumulated(panel, image, image.rings)
    columns, rows = panel.lines[0].get_data()
    np.testing.assert_allclose(GEOMETRY.q_at(rows, columns), 1.0, rtol=1e-9)
    (rectangle,) = panel.patches
    assert rectangle.get_bbox().bounds == (39.5, 9.5, 8, 6)
    assert {text.get_text() for text in panel.texts} == {"1.00", "2.00", "peak"}


def test_steps_of_the_motor_come_before_frames(scan):
    with open_file(scan) as file:
        (curve,) = read_curves(file)
    assert (curve.name, curve.x_label) == ("peak", "dummy_mot_01")
    assert list(curve.mean) == [0.5, 2.5, 4.5] and list(curve.error) == [0.1, 0.2, 0.3]


def test_series_without_positions_stands_against_its_frames(scan):
    with h5py.File(scan, "r+") as file:
        del file["entry/rois/slot_00/steps"], file["entry/rois/slot_00/x"]
        file["entry/rois/slot_00/x"] = np.full(6, np.nan)
        file["entry/rois/slot_00/frame"] = np.arange(100, 105)  # one row behind
    with open_file(scan) as file:
        (curve,) = read_curves(file)
    assert curve.error is None and curve.x_label == "frame"
    assert list(curve.x) == [100, 101, 102, 103, 104] and len(curve.mean) == 5


WRITER = """
import h5py, numpy as np, sys
with h5py.File(sys.argv[1], "w", libver="v110") as file:
    file["entry/accumulated/sum"] = np.ones((20, 30))
    file["entry/accumulated"].attrs["frames"] = 3
    file["entry/rois/names"] = np.array(["", "spot"], object)
    for slot in ("slot_00", "slot_01"):
        file.create_dataset(f"entry/rois/{slot}/mean", (0,), float, maxshape=(None,))
    file.swmr_mode = True
    mean = file["entry/rois/slot_01/mean"]
    mean.resize(2, axis=0)
    mean[:] = [1.0, 2.0]
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


def test_file_is_drawn_while_it_is_written(tmp_path):
    path = tmp_path / "live.h5"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"written\n"
        with open_file(path) as file:
            assert file.swmr_mode
            (curve,) = read_curves(file)
        assert curve.name == "spot" and list(curve.mean) == [1.0, 2.0]
        pictures.draw_file(path, tmp_path / "live.png")
        writer.stdin.close()
        assert writer.wait(30) == 0
    assert (tmp_path / "live.png").exists()


def test_file_that_holds_only_a_pattern_of_nan_is_told_apart(tmp_path):
    path = tmp_path / "early.h5"
    with h5py.File(path, "w") as file:
        for name in ("q", "intensity", "sigma"):
            file[f"entry/azimuthal/{name}"] = np.full(5, np.nan)
    with open_file(path) as file:
        assert read_pattern(file) is None
    with pytest.raises(ValueError, match=r"early\.h5 holds no azimuthal pattern"):
        pictures.draw_azimuthal(path, tmp_path / "no.png")
    with pytest.raises(ValueError, match="holds no accumulated image"):
        pictures.draw_accumulated(path, tmp_path / "no.png")
    with pytest.raises(ValueError, match="holds no ROI"):
        pictures.draw_rois(path, tmp_path / "no.png")
    with pytest.raises(ValueError, match="nothing that can be drawn"):
        pictures.draw_file(path, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def damage(file, what):
    if what == "poni":
        del file["entry/geometry/poni"]
        file["entry/geometry/poni"] = "Distance: far"
    elif what == "empty poni":
        file["entry/geometry/poni"][()] = ""
    elif what == "rings":
        del file["entry/process/parameters/q_rings"]
        file["entry/process/parameters/q_rings"] = "many"
    elif what == "rois":
        file["entry/rois/versions"][()] = '{"one": 3}'
    elif what == "roi":
        file["entry/rois/versions"][()] = '{"1": {"a": {"x": "left"}}}'
    elif what == "curve":
        del file["entry/rois/slot_00/mean"], file["entry/rois/slot_00/steps"]
    elif what == "sum":
        del file["entry/accumulated/sum"]
        file["entry/accumulated/sum"] = 5.0


@pytest.mark.parametrize(
    ("what", "lost"),
    [
        ("poni", "rings"),
        ("empty poni", "rings"),
        ("rings", "rings"),
        ("rois", "rois"),
        ("roi", "rois"),
        ("curve", "curves"),
        ("sum", "image"),
    ],
)
def test_damaged_part_does_not_keep_the_rest_from_being_drawn(scan, what, lost):
    with h5py.File(scan, "r+") as file:
        damage(file, what)
    with open_file(scan) as file:
        image, pattern, curves = read_accumulated(file), read_pattern(file), read_curves(file)
    assert pattern is not None and len(curves) == (lost != "curves")
    assert (image is None) == (lost == "image")
    if image:
        assert bool(image.rings) == (lost != "rings") and bool(image.rois) == (lost != "rois")


def test_other_files_are_drawn_by_their_default_plot(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "scan"
        file.create_group("scan").attrs["default"] = "line"
        line, stack = file.create_group("scan/line"), file.create_group("scan/stack")
        line.attrs["signal"], line.attrs["axes"] = "counts", ["angle"]
        line["counts"], line["angle"] = [1.0, 5.0, 2.0], [10.0, 11.0, 12.0]
        line["angle"].attrs["units"], line["counts"].attrs["long_name"] = "deg", "Photons"
        stack.attrs["signal"] = "data"
        stack["data"] = np.arange(2 * 3 * 4).reshape(2, 3, 4) - 13
    with open_file(path) as file:
        plot = read_default(file)
    assert (plot.label, plot.axis_label) == ("Photons", "angle (deg)")
    assert list(plot.values) == [1, 5, 2] and list(plot.axis) == [10, 11, 12]
    pictures.draw_file(path, tmp_path / "line.png")
    with h5py.File(path, "r+") as file:
        file["scan"].attrs["default"] = "stack"
    with open_file(path) as file:
        np.testing.assert_array_equal(read_default(file).values, np.arange(-1, 11).reshape(3, 4))
    pictures.draw_file(path, tmp_path / "stack.png")
    assert grey(tmp_path / "stack.png") > 0.01  # the -1 is a mark


def test_default_that_leads_in_a_circle_ends(tmp_path):
    path = tmp_path / "circle.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a").attrs["default"] = "/a"
        file.attrs["default"] = "a"
    with pytest.raises(ValueError, match=r"circle\.h5 holds nothing that can be drawn"):
        pictures.draw_file(path, tmp_path / "no.png")


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*missing\.h5"):
        pictures.draw_file(tmp_path / "missing.h5", tmp_path / "no.png")
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    with pytest.raises(ValueError, match=r"text\.h5 cannot be read as HDF5"):
        pictures.draw_file(tmp_path / "text.h5", tmp_path / "no.png")


def test_drawing_leaves_pyplot_and_its_windows_alone():
    code = "import sys, ronda.clients.pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
