"""The simulated Eiger counts as a detector does: Poisson, gaps marked, spots as in the truth."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame
from ronda.core.geometry import Geometry
from ronda.core.simulation import simulate_eiger
from ronda.core.sources import SourceError, open_source

SHAPE = (600, 700)


def test_counts_are_not_those_of_poisson() -> None:
    made = simulate_eiger(1, SHAPE, spots=0, background=3.0)
    seen = ~made.gaps & (made.hot == 0)
    mean, counts = made.expected[seen].astype(float), made.frame(0)[seen].astype(float)
    deviates = (counts - mean) / np.sqrt(mean)
    assert abs(deviates.mean()) < 5 / np.sqrt(seen.sum())
    # The variance of a squared Poisson deviate is 2 + 1/mean.
    error = np.sqrt(np.mean(2 + 1 / mean) / seen.sum())
    assert abs((deviates**2).mean() - 1) < 5 * error


@pytest.mark.parametrize("bits", [16, 32])
def test_gaps_are_not_marked(bits: int) -> None:
    made = simulate_eiger(1, SHAPE, bits=bits)
    frame = made.frame(0)
    assert frame.dtype == np.dtype(f"u{bits // 8}")
    np.testing.assert_array_equal(frame == np.iinfo(frame.dtype).max, made.gaps)
    rows = np.flatnonzero(made.gaps.all(axis=1))
    np.testing.assert_array_equal(rows, np.arange(514, 551))


def test_spots_are_not_where_the_truth_says() -> None:
    made = simulate_eiger(3, SHAPE, spots=30, background=0.0, seed=5)
    for number in range(3):
        counts = np.where(made.gaps | (made.hot > 0), 0, made.frame(number)).astype(float)
        inside = made.spots[made.spots["frame"] == number]
        places = np.stack([inside["y"], inside["x"]])
        whole = ((places > 7) & (places < np.array(SHAPE)[:, None] - 8)).all(axis=0)
        gap = np.array([made.gaps[int(y) - 7 : int(y) + 9, int(x) - 7 : int(x) + 9].any()
                        for y, x in places.T])  # fmt: skip
        apart = np.array([np.sort(np.hypot(*(places - place[:, None])))[1] > 14
                          for place in places.T])  # fmt: skip
        for spot in inside[whole & ~gap & apart]:
            y, x = round(spot["y"]), round(spot["x"])
            patch = counts[y - 6 : y + 7, x - 6 : x + 7]
            assert abs(patch.sum() - spot["energy"]) < 6 * np.sqrt(spot["energy"] + 1)
        assert (whole & ~gap & apart).sum() > 3


def test_another_call_gives_other_frames() -> None:
    first, second = (simulate_eiger(2, SHAPE, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first.frame(1), second.frame(1))
    assert (first.frame(0) != first.frame(1)).mean() > 0.2
    assert (first.frame(0) != simulate_eiger(2, SHAPE, seed=10).frame(0)).mean() > 0.2


def test_the_source_does_not_say_where_the_detector_stands(tmp_path: Path) -> None:
    files = f"truth={tmp_path}/t.h5&poni={tmp_path}/e.poni"
    url = f"simulated:eiger?rows=600&columns=700&frames=2&{files}"
    frames = [event for event in open_source(url).events() if isinstance(event, Frame)]
    assert [frame.frame_id for frame in frames] == [0, 1]
    geometry = Geometry.from_poni(tmp_path / "e.poni", SHAPE)
    made = simulate_eiger(2, SHAPE)
    assert geometry.beam_center_x == pytest.approx(made.geometry.beam_center_x)
    assert geometry.photon_energy == pytest.approx(made.geometry.photon_energy)
    with h5py.File(tmp_path / "t.h5") as file:
        np.testing.assert_array_equal(file["truth/spots/y"][()], made.spots["y"])
    list(open_source(url).events())  # again: the files are ours


def test_a_file_of_somebody_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.poni").write_text("Distance: 1\n")
    with pytest.raises(SourceError, match="none of ours"):
        open_source(f"simulated:eiger?poni={tmp_path}/mine.poni")
    with pytest.raises(SourceError, match="make it first"):
        open_source(f"simulated:eiger?poni={tmp_path}/nowhere/mine.poni")
