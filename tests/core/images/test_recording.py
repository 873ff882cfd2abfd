"""A real recording of LaB6 on a Pilatus comes out with NumPy's numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.frame import Frame
from ronda.core.images.pilatus import PilatusParameters, PilatusStage
from ronda.core.runner import Runner
from ronda.core.sources import open_source
from ronda.core.stage import Kind

ROIS = {
    "ring": {"x": 100, "y": 100, "width": 200, "height": 150, "background": "flat"},
    "flat": {"x": 400, "y": 100, "width": 50, "height": 50},
    "all": {"x": 0, "y": 0, "width": 1475, "height": 831},
}
PLACE = {
    "photon_energy": 13.5,
    "detector_distance": 0.131,
    "beam_center_x": 210,
    "beam_center_y": 373,
}
LAB6 = 4.15689
"""Lattice constant in angstrom (NIST SRM 660)."""
MOVING = {"roi_time", "accumulated_series"}
"""What depends on when the recording is read."""


def url(folder: Path) -> str:
    return f"recording:{folder}/lab6-pilatus.cbors.gz,{folder}/lab6-sardana.cbors"


@cache
def frames_in(folder: Path) -> NDArray[np.float32]:
    """Return all frames, (30, 831, 1475)."""
    events = open_source(url(folder)).events()
    return np.stack([event.data for event in events if isinstance(event, Frame)])


def reduced(folder: Path, workers: int = 1, **values: Any) -> dict[str, Any]:
    """Return all live outputs after the recording."""
    stage = PilatusStage()
    runner = Runner(stage, PilatusParameters().changed({**PLACE, **values}), workers=workers)
    runner.start(lambda: open_source(url(folder)))
    runner.wait()
    counts = runner.ledger.counts
    assert (counts.received, counts.reduced, counts.lost) == (30, 30, 0)
    names = [output.name for output in stage.outputs if output.live]
    results = dict(runner.latch(names).values)
    runner.close()
    return results


@cache
def reduced_with_rois(folder: Path) -> dict[str, Any]:
    return reduced(folder, rois=ROIS)


@pytest.fixture
def stack(lab6: Path) -> NDArray[np.float32]:
    return frames_in(lab6)


@pytest.fixture
def results(lab6: Path) -> dict[str, Any]:
    return reduced_with_rois(lab6)


def test_the_sum_is_numpys_over_valid_pixels(
    stack: NDArray[np.float32], results: dict[str, Any]
) -> None:
    valid = stack >= 0
    assert ((stack == -1) | (stack == -2))[~valid].all()
    expected = np.where(valid, stack, 0).sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(results["accumulated_image"], expected, rtol=1e-12)
    np.testing.assert_array_equal(results["valid_count"], valid.sum(axis=0))
    assert results["accumulated_total"] == pytest.approx(1.5555e6, rel=1e-4)
    assert results["accumulated_total"] == pytest.approx(expected.sum(), rel=1e-12)
    assert stack.sum(dtype=np.float64) == pytest.approx(-1.70e6, rel=0.01)
    assert results["overflow_pixels"] == (stack == -2).sum()
    assert results["accumulated_frames"] == 30


def test_rois_are_numpys_frame_by_frame(
    stack: NDArray[np.float32], results: dict[str, Any]
) -> None:
    whole = results["roi_names"].index("all")
    masked = np.ma.masked_less(stack.astype(np.float64), 0)
    np.testing.assert_allclose(results["roi_mean"][whole], masked.mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(results["roi_std"][whole], masked.std(axis=(1, 2)), rtol=1e-9)
    np.testing.assert_allclose(results["roi_max"][whole], masked.max(axis=(1, 2)))
    box, flat = np.s_[:, 100:250, 100:300], np.s_[:, 100:150, 400:450]
    level = masked[flat].mean(axis=(1, 2))
    net = masked[box].sum(axis=(1, 2)) - level * masked[box].count(axis=(1, 2))
    np.testing.assert_allclose(results["roi_net"][0], net, rtol=1e-9)


def test_five_points_of_six_frames(results: dict[str, Any]) -> None:
    assert results["roi_step_x"].tolist() == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert results["roi_step_n"].tolist() == [[6] * 5] * 3
    assert results["roi_step_expected"].tolist() == [6] * 5
    grouped = results["roi_mean"].reshape(3, 5, 6)
    np.testing.assert_allclose(results["roi_step_mean"], grouped.mean(axis=2), rtol=1e-12)
    np.testing.assert_allclose(
        results["roi_step_error"], grouped.std(axis=2) / np.sqrt(6), rtol=1e-9
    )
    assert results["roi_x"].tolist() == np.repeat([1.0, 1.25, 1.5, 1.75, 2.0], 6).tolist()
    assert results["roi_steps_incomplete"] == ""


def test_energies_lie_at_whole_numbers_of_photons(stack: NDArray[np.float32]) -> None:
    for photons, energy in ((1, 13.5), (2, 27), (3, 41)):
        near = stack[abs(stack - energy) < 5]
        between = stack[abs(stack - energy - 6.75) < 1]
        assert np.median(near) == pytest.approx(energy, abs=1.0)
        assert near.size > 5 * between.size or photons == 3


def test_energies_are_divided_into_photons(lab6: Path, results: dict[str, Any]) -> None:
    photons = reduced(lab6, energy_to_photons=True)
    np.testing.assert_allclose(
        photons["accumulated_image"], results["accumulated_image"] / 13.5, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_array_equal(photons["valid_count"], results["valid_count"])
    np.testing.assert_allclose(
        photons["azimuthal_sigma"] * 13.5, results["azimuthal_sigma"], rtol=1e-4
    )


def test_the_pattern_shows_the_lines_of_lab6(results: dict[str, Any]) -> None:
    q, intensity = results["azimuthal_q"], results["azimuthal_intensity"]
    squares = [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 16]
    lines = 2 * np.pi / LAB6 * np.sqrt(squares)
    inner = intensity[1:-1]
    tops = q[1:-1][(inner > intensity[:-2]) & (inner >= intensity[2:])]
    heights = inner[(inner > intensity[:-2]) & (inner >= intensity[2:])]
    found = 0
    for line in lines:
        window = abs(q - line) < 0.12
        strong = tops[(abs(tops - line) < 0.12) & (heights >= intensity[window].max())]
        found += bool(strong.size and abs(strong[0] - line) < 0.035)
    assert found >= 13


def test_four_workers_give_what_one_gives(results: dict[str, Any], lab6: Path) -> None:
    four = reduced(lab6, workers=4, rois=ROIS)
    kinds = {output.name: output.kind for output in PilatusStage.outputs}
    for name in four.keys() - MOVING:
        if kinds[name] in (Kind.TEXT, Kind.TEXTS):
            assert four[name] == results[name], name
        else:
            np.testing.assert_array_equal(four[name], results[name], err_msg=name)
