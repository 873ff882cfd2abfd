"""Pictures of a photon detector show every photon once and at its place, and count the missed."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from ronda.clients import photon_panels, pictures
from ronda.clients.photon_truth import Truth, compare, read_truth
from ronda.clients.reading import (
    Accumulated,
    Histogram,
    Photons,
    open_file,
    read_accumulated,
    read_histogram,
    read_photons,
)
from ronda.core.images.photons import DOUBLE, SHARING
from ronda.core.simulation.photons import PhotonKind

SHAPE = (120, 160)
ROI = (20, 10, 130, 100)
"""x, y, width, height."""
CUTS = {"photon_sum_min": 800.0, "view_sum_min": 1100.0, "photon_sum_max": 1400.0}
NO_HOT_PIXELS, NO_STREAKS = np.empty((0, 2), int), np.empty((0, 5))


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Coarse pictures: quick."""
    monkeypatch.setattr(pictures, "DPI", 50)


def axes():
    return Figure().add_subplot()


def legend(panel):
    return [text.get_text() for text in panel.get_legend().get_texts()]


def table(rows=(), kind=None):
    """Photons (frame, y, x), of full energy unless `kind` says otherwise; as found or as true."""
    frame, y, x = np.array(rows, float).reshape(-1, 3).T
    energy = np.full(len(frame), 1200.0)
    if kind is None:
        return Photons(frame.astype(np.uint32), y, x, energy, np.zeros(len(frame), np.uint8))
    kinds = np.broadcast_to(np.uint8(kind), len(frame))
    return Truth(frame.astype(np.uint32), y, x, energy, kinds, NO_HOT_PIXELS, NO_STREAKS)


def grid():
    """Photons that are 10 px apart, all inside the ROI: 5 frames of 20."""
    return [
        (frame, 20 + 10 * (n // 5) + 0.3, 40 + 10 * (n % 5) - 0.2)
        for frame in range(5)
        for n in range(20)
    ]


def energies():
    """Counts in 400 bins: faint ones, the plateau, the peak, some doubles and one beyond."""
    random = np.random.default_rng(1)
    drawn = np.concatenate(
        [
            random.uniform(50, 200, 300),
            random.uniform(200, 1000, 1000),
            random.normal(1200, 40, 3000).clip(1050, 1399),
            random.normal(2400, 60, 30),
            [9999.0],
        ]
    )
    return np.bincount(np.minimum(drawn / 10, 399).astype(int), minlength=400)


def write(path, rows, parameters=None, *, flag=0, histogram=True):
    """Write a file as a Balor's device leaves it."""
    parameters = {**CUTS, "hit_threshold": 110.0, "analysis_roi": ",".join(map(str, ROI))} | (
        parameters or {}
    )
    photons = table(rows)
    clean = np.zeros(SHAPE, np.int64)
    np.add.at(clean, (np.rint(photons.y).astype(int), np.rint(photons.x).astype(int)), 1)
    with h5py.File(path, "w") as file:
        file["entry/process/stage"] = b"balor"
        for name, value in parameters.items():
            if value is not None:
                file[f"entry/process/parameters/{name}"] = value
        for name in ("frame", "y", "x", "energy"):
            file[f"entry/photons/{name}"] = getattr(photons, name)
        file["entry/photons/flag"] = np.full(len(photons.frame), flag, np.uint8)
        if histogram:
            file["entry/histogram/energy"] = np.arange(400) * 10.0 + 5
            file["entry/histogram/counts"] = energies()
            file["entry/histogram/energy"].attrs["units"] = "counts"
        file["entry/accumulated/sum"] = clean
        file["entry/accumulated"].attrs["frames"] = 5
    return path


def write_truth(path, rows, kind=PhotonKind.FULL):
    true = table(rows, kind)
    with h5py.File(path, "w") as file:
        for name in ("frame", "y", "x", "energy", "kind"):
            file[f"truth/photons/{name}"] = getattr(true, name)
        file["truth/hot_pixels"] = np.array([[5, 6]])
    return path


def histogram(**cuts):
    return Histogram(np.arange(400) * 10.0 + 5, energies(), **cuts)


# ------------------------------------------------------------------- the histogram


def test_classes_are_counted_and_shaded_between_the_cuts(tmp_path):
    with open_file(write(tmp_path / "balor.h5", grid())) as file:
        read = read_histogram(file)
    assert (read.least, read.view, read.most, read.unit) == (800, 1100, 1400, "counts")
    panel = axes()
    photon_panels.plot_histogram(panel, read)
    counts = energies()
    below, single, double = counts[:80].sum(), counts[80:140].sum(), counts[140:].sum()
    assert double == 31 and below + single + double == 4331
    assert legend(panel) == [f"below: {below}", f"single: {single}", f"double: {double}"]
    share = 100 * 31 / (single + 31)
    assert panel.get_title() == f"{single + 31} photons, {share:.3g} % of them double"
    shaded = [patch.get_data() for patch in panel.patches[:3]]
    for patch, (low, high) in zip(shaded, [(0, 800), (800, 1400), (1400, 4000)], strict=True):
        filled = patch.values > 0
        assert patch.edges[:-1][filled].min() >= low and patch.edges[1:][filled].max() <= high
    assert sum(patch.values.sum() for patch in shaded) == 4331


def test_cuts_stand_where_they_are_and_equal_ones_share_a_label():
    panel = axes()
    photon_panels.plot_histogram(panel, histogram(least=800.0, view=800.0, most=1405.0))
    assert [line.get_xdata()[0] for line in panel.lines] == [800, 1405]
    texts = {text.get_text() for text in panel.texts}
    assert texts == {
        "photon_sum_min = view_sum_min  800", "photon_sum_max  1405", "1 beyond 3990"
    }  # fmt: skip


def test_peak_plateau_and_doubles_are_all_in_view():
    panel = axes()
    photon_panels.plot_histogram(panel, histogram(least=800.0, view=1100.0, most=1400.0))
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    doubles = 10 * np.flatnonzero(energies()[:-1]).max()
    assert left == 0 and doubles < right < 1.2 * doubles
    assert panel.get_yscale() == "log" and low < 1 and high > 3 * energies().max()


@pytest.mark.parametrize("missing", [None, ""])
def test_histogram_without_cuts_is_drawn_and_makes_no_classes_up(tmp_path, missing):
    path = write(tmp_path / "balor.h5", [], dict.fromkeys(CUTS, missing))
    with open_file(path) as file:
        read = read_histogram(file)
    assert (read.least, read.view, read.most) == (None, None, None)
    panel = axes()
    photon_panels.plot_histogram(panel, read)
    assert panel.get_title() == "4331 candidates" and legend(panel) == ["all: 4331"]
    assert not panel.lines
    pictures.draw_histogram(path, tmp_path / "h.png")


def test_histogram_with_one_cut_shows_that_one():
    panel = axes()
    photon_panels.plot_histogram(panel, histogram(view=1100.0))
    assert [line.get_xdata()[0] for line in panel.lines] == [1100]
    assert panel.get_title() == "4331 candidates"


def test_empty_histogram_is_drawn_without_a_share_of_nothing(tmp_path):
    empty = Histogram(np.arange(400) * 10.0 + 5, np.zeros(400, int), 800.0, 1100.0, 1400.0)
    panel = axes()
    photon_panels.plot_histogram(panel, empty)
    assert panel.get_title() == "0 photons, 0 % of them double"
    assert panel.get_xlim()[1] > 1400
    pictures.draw_histogram(empty, tmp_path / "h.png")


def test_true_energies_of_a_file_are_those_of_its_frames_and_its_roi(tmp_path, monkeypatch):
    path = write(tmp_path / "balor.h5", grid())
    outside = [(0, 5.0, 5.0), (7, 50.0, 50.0)]
    with h5py.File(path, "r+") as file:
        file["entry/detection/frame"] = np.arange(5)
        file["entry/detection/photons_per_frame"] = [20, 20, 20, 20, -1]
    truth = write_truth(tmp_path / "truth.h5", grid() + outside)
    seen = []
    monkeypatch.setattr(pictures, "plot_histogram", lambda *given: seen.append(given))
    pictures.draw_histogram(path, tmp_path / "h.png", truth)
    ((_, _, true),) = seen
    assert len(true.energy) == 80 and set(true.frame) == {0, 1, 2, 3}


def test_true_energies_stand_in_the_same_bins():
    panel = axes()
    true = table([(0, 1, 1), (0, 1, 9)], PhotonKind.FULL)
    photon_panels.plot_histogram(panel, histogram(least=800.0, most=1400.0), true)
    values, edges, _ = panel.patches[-1].get_data()
    assert values.sum() == 2 and values[120] == 2 and edges[120] == 1200
    assert legend(panel)[-1] == "true, all of the charge: 2"


@pytest.mark.parametrize("what", ["nothing", "lengths", "a group", "one bin", "not increasing"])
def test_damaged_histogram_is_none(tmp_path, what):
    path = write(tmp_path / "balor.h5", grid(), histogram=False)
    place = "entry/histogram"
    with h5py.File(path, "r+") as file:
        if what == "a group":
            file.create_group(f"{place}/energy")
            file[f"{place}/counts"] = [1, 2]
        elif what != "nothing":
            values = {"lengths": [5.0, 15, 25], "one bin": [5.0], "not increasing": [5.0, 5.0]}
            file[f"{place}/energy"] = values[what]
            file[f"{place}/counts"] = [1] if what == "one bin" else [1, 2]
    with pytest.raises(ValueError, match=r"balor\.h5 holds no energy histogram"):
        pictures.draw_histogram(path, tmp_path / "no.png")
    pictures.draw_file(path, tmp_path / "rest.png")
    assert not (tmp_path / "no.png").exists()


# ----------------------------------------------------------------- the clean image


def test_each_photon_is_a_dot_and_the_roi_an_outline(tmp_path):
    with open_file(write(tmp_path / "balor.h5", grid()[:20])) as file:
        image = read_accumulated(file)
    assert image.analysis == ROI and image.unit == "photons"
    panel = axes()
    photon_panels.plot_photons(panel, image)
    shown = panel.images[0].get_array()
    dots = shown == 1.0
    assert dots.sum() == 9 * 20 and dots[19:22, 39:42].all()
    assert panel.get_title() == "Clean image of 5 frames: 20 photons"
    (outline,) = panel.patches
    assert outline.get_bbox().bounds == (19.5, 9.5, 130, 100) and not outline.get_fill()
    assert [text.get_text() for text in panel.texts] == ["analysis ROI"]


def test_one_photon_is_seen_in_the_picture_of_a_large_detector():
    total = np.zeros((3010, 1500), np.int64)
    total[3000, 1000] = 1
    panel = axes()
    photon_panels.plot_photons(panel, Accumulated(total, None, 1, "photons"))
    shown = panel.images[0]
    colors = shown.cmap(shown.norm(shown.get_array()))[..., :3].sum(axis=-1)
    bright = np.argwhere(colors > colors.min() + 0.5)
    assert len(bright) == 9 and (bright.mean(axis=0) == [1000, 333]).all()


def test_photons_of_a_shrunk_pixel_add_up_and_dense_ones_are_not_smeared():
    total = np.ones((3, 4500), np.int64)
    panel = axes()
    photon_panels.plot_photons(panel, Accumulated(total, None, 1, "photons"))
    shown = panel.images[0].get_array()
    assert shown.shape == (1, 1500) and (shown == 9).all()
    half = np.tile([0, 0, 0, 1], (8, 10))
    panel = axes()
    photon_panels.plot_photons(panel, Accumulated(half, None, 1, "photons"))
    assert (panel.images[0].get_array() == 1).sum() == half.sum()


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_summed_keeps_the_total_and_greys_only_what_is_all_masked(factor):
    pixels = np.random.default_rng(2).integers(0, 3, (11, 16)).astype(float)
    pixels[:4, :4] = np.nan
    small = photon_panels.summed(pixels, factor)
    assert small.shape == (-(-11 // factor), -(-16 // factor))
    assert np.nansum(small) == np.nansum(pixels)
    assert np.isnan(small).sum() == {1: 16, 2: 4, 3: 1, 7: 0}[factor]


@pytest.mark.parametrize("unset", ["analysis_roi", "photon_sum_min", "hit_threshold"])
def test_image_of_frames_without_photons_is_not_called_one(tmp_path, unset):
    path = write(tmp_path / "balor.h5", [], {unset: ""})
    with open_file(path) as file:
        image = read_accumulated(file)
    assert image.analysis is None and image.unit == ""
    pictures.draw_photons(path, tmp_path / "p.png")


@pytest.mark.parametrize("roi", [None, "", "1,2,3", "a,b,c,d", "1.5,2,3,4"])
def test_roi_that_is_none_has_no_outline(tmp_path, roi):
    path = write(tmp_path / "balor.h5", grid(), {"analysis_roi": roi})
    with open_file(path) as file:
        image = read_accumulated(file)
    panel = axes()
    photon_panels.plot_photons(panel, image)
    assert image.analysis is None and not panel.patches
    pictures.draw_photons(path, tmp_path / "p.png", write_truth(tmp_path / "t.h5", grid()))


def test_clean_image_of_energies_is_not_in_photons(tmp_path):
    path = write(tmp_path / "balor.h5", grid(), {"clean_image": "energy"})
    with open_file(path) as file:
        assert read_accumulated(file).unit == ""


# ------------------------------------------------------------------ with the truth


def test_all_found_at_their_places_is_told():
    comparison = compare(table(grid()), table(grid(), PhotonKind.FULL))
    assert str(comparison) == "100 of 100 isolated photons found, 0 missed, 0 extra"


def test_missed_and_extra_photons_are_counted_as_such():
    rows = grid()
    found = [*rows[1:], (3, 100.0, 120.0)]
    comparison = compare(table(found), table(rows, PhotonKind.FULL))
    assert (
        str(comparison)
        == "99 of 100 isolated photons found, 1 missed, 1 extra (0 on streaks or hot pixels)"
    )
    assert comparison.missed.nonzero()[0] == [0] and comparison.extra.nonzero()[0] == [99]


def test_photon_of_another_frame_is_both_missed_and_extra():
    comparison = compare(table([(4, 50, 50)]), table([(5, 50, 50)], PhotonKind.FULL))
    assert (
        str(comparison)
        == "0 of 1 isolated photons found, 1 missed, 1 extra (0 on streaks or hot pixels)"
    )


def test_photon_found_twice_is_extra_once_and_the_nearer_is_the_one():
    found = table([(0, 50.6, 50.0), (0, 50.1, 50.0)])
    comparison = compare(found, table([(0, 50, 50)], PhotonKind.FULL))
    assert (
        str(comparison)
        == "1 of 1 isolated photons found, 0 missed, 1 extra (0 on streaks or hot pixels)"
    )
    assert list(comparison.extra) == [True, False]


def test_photon_is_found_within_a_pixel_and_no_further():
    true = table([(0, 50, 50)], PhotonKind.FULL)
    assert compare(table([(0, 51, 49)]), true).found.all()
    assert compare(table([(0, 51.01, 50)]), true).missed.all()


def test_streaks_and_hot_pixels_explain_what_is_extra_on_them(tmp_path):
    path = write_truth(tmp_path / "truth.h5", [(1, 50, 60)])
    with h5py.File(path, "r+") as file:
        ends = {"frame": [1], "y0": [40.0], "x0": [40.0], "y1": [60.0], "x1": [80.0]}
        for name, values in ends.items():
            file[f"truth/streaks/{name}"] = values
    on, off = [(1, 50, 60), (1, 45, 52.5), (7, 6, 7)], [(1, 45, 62), (2, 45, 50), (7, 9.1, 7)]
    comparison = compare(table(on + off), read_truth(path))
    assert list(comparison.extra) == [False, True, True, True, True, True]
    assert list(comparison.explained) == [False, True, True, False, False, False]
    assert str(comparison).endswith("5 extra (2 on streaks or hot pixels)")


def test_photons_close_to_one_another_tell_nothing():
    true = table([(0, 50, 50), (0, 53, 50), (1, 50, 50), (1, 50, 53.1)], PhotonKind.FULL)
    comparison = compare(table([(0, 51.5, 50), (1, 50, 50)]), true)
    assert list(comparison.expected) == [False, False, True, True]
    assert str(comparison) == "1 of 2 isolated photons found, 1 missed, 0 extra"


def test_partial_photons_may_be_missed_but_are_never_extra():
    true = table([(0, 50, 50), (0, 80, 80)], PhotonKind.PARTIAL)
    comparison = compare(table([(0, 50, 50)]), true)
    assert str(comparison) == "0 of 0 isolated photons found, 0 missed, 0 extra"


def test_photons_are_expected_only_where_they_were_looked_for():
    rows = [(0, 9.4, 60), (0, 9.6, 30), (0, 50, 19.4), (0, 60, 149.4), (0, 80, 149.6), (2, 50, 50)]
    found = table()
    looked = Photons(*(getattr(found, name) for name in ("frame", "y", "x", "energy", "flag")), ROI)
    true = table(rows, PhotonKind.FULL)
    assert list(compare(looked, true).missed) == [False, True, False, True, False, True]
    some = Photons(*list(vars(looked).values())[:6], np.array([0, 1]))
    assert list(compare(some, true).missed) == [False, True, False, True, False, False]


def test_no_photon_is_expected_next_to_a_masked_pixel_or_at_the_edge():
    valid = np.ones(SHAPE, bool)
    valid[50, 50] = False
    rows = [(0, 51, 51), (1, 52, 52), (2, 0, 60), (3, 1, 60), (4, 60, 159.4), (5, -0.5, -0.5)]
    rows += [(6, 119.9, 160.2)]
    expected = compare(table(), table(rows, PhotonKind.FULL), valid).expected
    assert list(expected) == [False, True, False, True, False, False, False]


@given(st.lists(st.tuples(st.integers(0, 2), *[st.integers(0, 40)] * 2), max_size=25), st.data())
@settings(max_examples=60, deadline=None)
def test_comparison_agrees_with_one_by_one(rows, data):
    picked = data.draw(st.lists(st.sampled_from(rows), unique=True)) if rows else []
    shift = data.draw(st.sampled_from([0.0, 0.9, 1.5]))
    found = [(frame, y + shift, x) for frame, y, x in picked]

    def near(one, other, most):
        return one[0] == other[0] and max(abs(one[1] - other[1]), abs(one[2] - other[2])) <= most

    alone = [sum(near(one, other, 3) for other in rows) == 1 for one in rows]
    hit = [any(near(one, other, 1) for other in found) for one in rows]
    comparison = compare(table(found), table(rows, PhotonKind.FULL))
    assert list(comparison.expected) == alone
    missed = [single and not there for single, there in zip(alone, hit, strict=True)]
    assert list(comparison.missed) == missed
    assert int(comparison.extra.sum()) == sum(
        not any(near(one, other, 1) for other in rows)
        and all(alone[i] for i, other in enumerate(rows) if near(one, other, 3))
        for one in found
    )


def test_part_with_the_truth_shows_found_over_true_missed_and_extra():
    rows = [(0, 50.2, 60.4), (0, 70, 80), (0, 40, 62), (1, 44, 75), (1, 45.5, 75)]
    found = table([(0, 50.1, 60.5), (0, 60, 70), (1, 44, 75), (1, 45.5, 75)])
    flag = np.array([0, 0, DOUBLE | SHARING, SHARING], np.uint8)
    found = Photons(found.frame, found.y, found.x, found.energy, flag)
    true = table(rows, np.array([0, 0, 1, 0, 0]))
    panel = axes()
    photon_panels.plot_found(panel, found, true, compare(found, true), (30, 30, 60, 60))
    places = {
        drawn.get_label(): np.round(drawn.get_offsets(), 3).tolist() for drawn in panel.collections
    }
    assert places == {
        "true, isolated: 2": [[60.4, 50.2], [80, 70]],
        "true, close to another: 2": [[75, 44], [75, 45.5]],
        "true, partial or faint: 1": [[62, 40]],
        "found: 2": [[60.5, 50.1], [70, 60]],
        "found, sharing pixels: 1": [[75, 45.5]],
        "found, double: 1": [[75, 44]],
        "missed: 1": [[80, 70]],
        "extra: 1": [[70, 60]],
        "hot pixel": [],
    }
    assert panel.get_xlim() == (29.5, 89.5) and panel.get_ylim() == (89.5, 29.5)
    assert panel.get_title() == "Where photons are densest, frames up to 1"


def test_part_shows_no_true_photons_of_frames_that_were_not_looked_at():
    true = table([(0, 10, 10), (1, 20, 20)], PhotonKind.FULL)
    found = table([(1, 20, 20)])
    found = Photons(*list(vars(found).values())[:5], None, np.array([1]))
    panel = axes()
    photon_panels.plot_found(panel, found, true, compare(found, true), (0, 0, 60, 60))
    assert "true, isolated: 1" in legend(panel) and "true, close to another: 0" in legend(panel)


def test_part_shows_no_more_frames_than_can_be_told_apart():
    rows = [(frame, y, x) for frame in range(9) for y, x in np.ndindex(5, 5)]
    true, found = table(rows, PhotonKind.FULL), table(rows)
    panel = axes()
    photon_panels.plot_found(panel, found, true, compare(found, true), (0, 0, 60, 60))
    assert panel.get_title().endswith("frames up to 1") and photon_panels.CROWD < 75
    assert "found: 50" in legend(panel)


@pytest.mark.parametrize("shape", [(120, 160), (30, 200), (7, 8), (60, 60), (61, 3)])
def test_densest_part_holds_the_cluster_and_lies_on_the_image(shape):
    y, x = 0.8 * shape[0], 0.9 * shape[1]
    cluster = [(0, y, x)] * 5 + [(0, 0.1, 0.1)]
    left, top, width, height = photon_panels.densest(table(cluster), shape)
    assert left <= x + 0.5 < left + width and top <= y + 0.5 < top + height
    assert 0 <= left < shape[1] and 0 <= top < shape[0]
    assert width <= photon_panels.ZOOM and height <= photon_panels.ZOOM


def test_picture_with_the_truth_holds_both_panels(tmp_path):
    path = write(tmp_path / "balor.h5", grid()[1:], flag=DOUBLE)
    pictures.draw_photons(path, tmp_path / "alone.png")
    pictures.draw_photons(path, tmp_path / "both.png", write_truth(tmp_path / "t.h5", grid()))
    alone, both = imread(tmp_path / "alone.png"), imread(tmp_path / "both.png")
    assert both.shape[1] > 1.4 * alone.shape[1]
    red = (np.abs(both[..., :3] - [0.839, 0.153, 0.157]).max(axis=-1) < 0.02).nonzero()[1]
    assert len(red) > 20 and red.min() > 0.6 * both.shape[1]  # doubles and the missed one


@pytest.mark.parametrize("true", [[], [(0, 50, 50)]])
def test_empty_tables_are_drawn(tmp_path, true):
    path = write(tmp_path / "balor.h5", [])
    with open_file(path) as file:
        assert len(read_photons(file).frame) == 0
    pictures.draw_photons(path, tmp_path / "p.png")
    pictures.draw_photons(path, tmp_path / "t.png", table(true, PhotonKind.FULL))
    pictures.draw_histogram(path, tmp_path / "h.png", table(true, PhotonKind.FULL))
    assert imread(tmp_path / "t.png").std() > 0.01


def test_shifted_roi_moves_outline_and_expectation(tmp_path):
    path = write(tmp_path / "balor.h5", grid(), {"analysis_roi": "55,15,90,90"})
    with open_file(path) as file:
        image, photons = read_accumulated(file), read_photons(file)
    panel = axes()
    photon_panels.plot_photons(panel, image)
    assert panel.patches[0].get_bbox().bounds == (54.5, 14.5, 90, 90)
    assert compare(photons, table(grid(), PhotonKind.FULL)).expected.sum() == 60  # of 5 columns 3


def test_table_that_is_still_growing_is_read_as_far_as_all_columns_go(tmp_path):
    path = write(tmp_path / "balor.h5", grid())
    with h5py.File(path, "r+") as file:
        del file["entry/photons/flag"]
        file["entry/photons/flag"] = np.zeros(97, np.uint8)
    with open_file(path) as file:
        photons = read_photons(file)
    assert {len(column) for column in (photons.frame, photons.x, photons.flag)} == {97}


def test_what_is_no_photon_file_or_no_truth_is_refused_in_a_sentence(tmp_path):
    path = write(tmp_path / "balor.h5", grid())
    with pytest.raises(ValueError, match=r"balor\.h5 holds no true photons"):
        pictures.draw_photons(path, tmp_path / "no.png", path)
    with pytest.raises(ValueError, match=r"there is no file .*gone\.h5"):
        read_truth(tmp_path / "gone.h5")
    with h5py.File(path, "r+") as file:
        del file["entry/photons"]
    with pytest.raises(ValueError, match=r"balor\.h5 holds no clean image of photons"):
        pictures.draw_photons(path, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


# ----------------------------------------------------------------- the whole file


def drawn_panels(path, png, monkeypatch):
    """The titles of the panels of a file's picture."""
    figures = []
    save = pictures._save
    monkeypatch.setattr(
        pictures, "_save", lambda figure, png: (figures.append(figure), save(figure, png))
    )
    pictures.draw_file(path, png)
    return [panel.get_title() for panel in figures[0].axes]


def test_file_shows_clean_image_and_histogram(tmp_path, monkeypatch):
    path = write(tmp_path / "balor.h5", grid())
    image, curve = drawn_panels(path, tmp_path / "f.png", monkeypatch)
    assert image == "Clean image of 5 frames: 100 photons" and curve.endswith("% of them double")


def test_file_without_photons_looked_for_shows_the_sum_alone(tmp_path, monkeypatch):
    path = write(tmp_path / "balor.h5", [], {"analysis_roi": ""})
    with h5py.File(path, "r+") as file:
        file["entry/histogram/counts"][:] = 0
    assert drawn_panels(path, tmp_path / "f.png", monkeypatch) == [
        "Sum of 5 frames: total 0, highest 0"
    ]
