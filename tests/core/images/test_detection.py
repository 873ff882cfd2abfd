"""Counts, histogram and table of a series' photons agree with each other and the candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.frame import Frame, Series
from ronda.core.images.detection import BINS, OUTPUTS, Detection
from ronda.core.images.photons import DOUBLE, SHARING, Candidates, Cuts, Hits
from ronda.core.stage import Kind, Record

CUTS = Cuts(800, 1400)
FLAGS = (0, DOUBLE, SHARING, DOUBLE | SHARING)


def candidates(*energies: float, flags: tuple[int, ...] = (), touching: int = 0) -> Candidates:
    """Return candidates side by side in row 7, with flags or none."""
    count = len(energies)
    pixel = np.array([(7, 10 * column) for column in range(count)], np.int32).reshape(count, 2)
    energy = np.array(energies, np.float32)
    flag = np.array(flags or [DOUBLE * (e > CUTS.most) for e in energies], np.uint8)
    place = (pixel + np.array([0.25, -0.5])).astype(np.float32)
    return Candidates(3 * count, 1000, pixel, place, energy, flag, touching, CUTS)


def frame(number: int) -> Frame:
    return Frame(Series(1), number, np.zeros((10, 90), np.uint16))


@pytest.fixture
def detection() -> Detection:
    return Detection(10.0, 100)


@given(st.lists(st.lists(st.tuples(st.floats(-500, 5000, width=32), st.sampled_from(FLAGS)))))
def test_classes_histogram_and_table_add_up(series: list[list[tuple[float, int]]]) -> None:
    detection = Detection(10.0, 3)
    rows = []
    for number, found in enumerate(series):
        energies, flags = [e for e, _ in found], tuple(f for _, f in found)
        rows.append(detection.add(frame(number), candidates(*energies, flags=flags)))
    every = [each for found in series for each in found]
    photons = [(e, f) for e, f in every if e >= 800]
    below, single, double, sharing = (
        detection.value(name)
        for name in ("candidates_below", "photons_single", "photons_double", "photons_sharing")
    )
    assert below == len(every) - len(photons)
    assert single + double == detection.photons == len(photons)
    assert double == sum(flag & DOUBLE > 0 for _, flag in photons)
    assert sharing == sum(flag & SHARING > 0 for _, flag in photons)
    counts = detection.value("histogram_counts")
    assert counts.sum() == len(every)
    expected = np.zeros(BINS, np.int64)
    for energy, _ in every:
        expected[int(min(max(np.float32(energy) / 10 // 1, 0), BINS - 1))] += 1
    np.testing.assert_array_equal(counts, expected)
    table = [(int(n), e, f) for row in rows for n, e, f in zip(*_table(row), strict=True)]
    wanted = [(n, e, f) for n, found in enumerate(series) for e, f in found if e >= 800]
    assert table == wanted
    assert (
        detection.value("photons_per_frame").tolist()
        == [sum(e >= 800 for e, _ in found) for found in series][-3:]
    )


def _table(row: Any) -> tuple[Any, Any, Any]:
    return row["photons_frame"], row["photons_energy"].tolist(), row["photons_flag"].tolist()


@pytest.mark.parametrize(
    ("energy", "place"),
    [
        (-3.0, 0),
        (0.0, 0),
        (9.9, 0),
        (10.0, 1),
        (3989.9, BINS - 2),
        (3990.0, BINS - 1),
        (1e9, BINS - 1),
    ],
)
def test_bins_are_half_open_and_the_ends_hold_all_beyond(
    detection: Detection, energy: float, place: int
) -> None:
    detection.add(frame(0), candidates(energy))
    assert np.flatnonzero(detection.value("histogram_counts")).tolist() == [place]
    assert detection.energies[place] == 10 * place + 5


def test_the_table_has_the_columns_that_were_promised(detection: Detection) -> None:
    row = detection.add(frame(70_000), candidates(900, 100, 1500, touching=4))
    types = {"frame": "u4", "y": "f4", "x": "f4", "energy": "f4", "flag": "u1"}
    declared = {o.path.removeprefix("photons/"): o for o in OUTPUTS if o.record is Record.EVENTS}
    assert list(declared) == list(types)
    for name, dtype in types.items():
        assert np.dtype(declared[name].dtype) == row[f"photons_{name}"].dtype == np.dtype(dtype)
        assert len(row[f"photons_{name}"]) == 2
    assert {name: output.unit for name, output in declared.items() if output.unit} == {
        "y": "px",
        "x": "px",
        "energy": "counts",
    }
    assert row["photons_frame"].tolist() == [70_000, 70_000]
    assert row["photons_y"].tolist() == [7.25, 7.25]
    assert row["photons_x"].tolist() == [-0.5, 19.5]
    assert row["photons_flag"].tolist() == [0, DOUBLE]
    assert row["detection_frame"] == 70_000 and row["detection_fallback"] == 0
    assert (row["photons_per_frame"], row["detection_below"], row["detection_double"]) == (2, 1, 1)
    assert (row["detection_at_edge"], detection.value("candidates_at_edge")) == (4, 4)
    assert row["detection_hit_density"] == pytest.approx(0.9)


def test_every_row_fits_its_declared_types(detection: Detection) -> None:
    rows = [
        detection.add(frame(1), candidates()),
        detection.add(frame(2), candidates(900, 2000)),
        detection.add_fallback(frame(3), Hits(900, 1000)),
    ]
    tables = {o.name: o for o in OUTPUTS if o.record in (Record.FRAME, Record.EVENTS)}
    assert set(rows[0]) == set(rows[1]) == set(tables)
    for row in rows:
        for name, value in row.items():
            kind = np.dtype(tables[name].dtype)
            assert np.can_cast(np.asarray(value).dtype, kind, "same_kind") or kind == np.uint8
            assert np.array_equal(np.asarray(value).astype(kind), value)
    for output in OUTPUTS:
        if output.live:
            kind = 1 if output.kind is Kind.SPECTRUM else 0
            assert np.ndim(detection.value(output.name)) == kind, output.name


def test_frames_with_too_many_hits_have_no_photons(detection: Detection) -> None:
    detection.add(frame(0), candidates(900, 1000))
    before = detection.value("histogram_counts")
    row = detection.add_fallback(frame(1), Hits(500, 1000))
    assert (row["photons_per_frame"], row["detection_fallback"]) == (-1, 1)
    assert row["detection_hit_density"] == 50 == detection.value("hit_density")
    assert detection.value("fallback_frames") == 1
    assert detection.value("photons") == 0
    assert detection.value("photons_per_frame").tolist() == [2, -1]
    assert detection.photons == 2
    np.testing.assert_array_equal(detection.value("histogram_counts"), before)


def test_the_double_fraction_is_of_all_photons(detection: Detection) -> None:
    assert np.isnan(detection.double_fraction)
    detection.add(frame(0), candidates(100, 200))
    assert np.isnan(detection.double_fraction)
    detection.add(frame(1), candidates(100, 900, 1000, 1400, 1401))
    assert detection.double_fraction == 25


def test_another_width_begins_another_histogram_and_the_same_width_does_not(
    detection: Detection,
) -> None:
    detection.add(frame(0), candidates(900))
    detection.rebin(10.0)
    assert detection.value("histogram_counts")[90] == 1
    detection.rebin(20.0)
    assert detection.value("histogram_counts").sum() == 0
    detection.add(frame(1), candidates(905))
    assert np.flatnonzero(detection.value("histogram_counts")).tolist() == [45]
    assert detection.energies[45] == 910
    tree = detection.tree()
    assert tree["histogram/energy"][45] == 910 and tree["histogram/counts"][45] == 1
    assert tree["histogram/energy@units"] == "counts"


def test_what_is_shown_or_written_does_not_grow_afterwards(detection: Detection) -> None:
    shown, written = detection.value("histogram_counts"), detection.tree()["histogram/counts"]
    detection.add(frame(0), candidates(900))
    assert shown.sum() == written.sum() == 0
