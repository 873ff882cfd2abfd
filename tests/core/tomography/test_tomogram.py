"""What a map takes is what is measured of it, however large it is."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
from ronda.core.tomography.layer import Layer, Profile
from ronda.core.tomography.scan import Place, Spot
from ronda.core.tomography.sinogram import WHOLE, RadialRange
from ronda.core.tomography.tomogram import Reduced, Tomogram
from ronda.core.tomography.tree import all_cells

RANGES = (RadialRange("peak", 10, 20),)


def _resident() -> int:
    """Return the memory that this process has, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _reduced(value: float, bins: int) -> Reduced:
    values = np.full(bins, value, np.float32)
    return Reduced(Profile(values, values / 10))


def test_positions_that_are_not_measured_take_no_memory() -> None:
    before = _resident()
    tomogram = Tomogram((300, 300), np.arange(2000.0), errors=True)  # 1.44 GB when it is full
    tomogram.choose(RANGES, background=True)
    for number in range(20):
        tomogram.add(Place(number, 7), number, _reduced(number, 2000), number)
    tomogram.choose(RANGES, background=False)
    copy = tomogram.copy()
    spots = [Spot(Place(7, place.rotation), 0) for place in copy.places]
    moved = copy.rearranged((300, 200), spots)
    shapes = all_cells(moved, None, filled=False)
    assert shapes["pyFAI/result/intensity"] == (300, 200, 2000)
    assert moved.sinogram("peak")[7, 5] == 5 * 11
    assert np.isnan(moved.pattern(Place(0, 0))).all()
    assert moved.whole_mean()[3] == moved.mean[3] == 9.5
    assert _resident() - before < 500e6  # a page may have 2 MB


def test_what_is_not_measured_is_nan_whoever_looks_first() -> None:
    def fresh() -> Layer:
        layer = Layer((2, 3), (4,), errors=True)
        layer.set(Place(1, 1), Profile(np.ones(4), np.ones(4)))
        return layer

    layer = fresh()
    assert layer.sigma is not None
    assert np.isnan(layer.intensity).sum() == np.isnan(layer.sigma).sum() == 5 * 4
    there, empty = Place(1, 1), Place(0, 2)
    layer = fresh()
    for intensity in (layer.profile(empty).intensity, layer.arrays([there, empty])[0][empty]):
        assert np.isnan(intensity).all()
    assert layer.profile(there).intensity.tolist() == [1] * 4
    tomogram = Tomogram((2, 3), np.arange(4.0))
    tomogram.add(there, 0, _reduced(2, 4), 0)
    assert np.isnan(tomogram.sinogram(WHOLE)).sum() == 5
    assert tomogram.sinogram(WHOLE)[there] == 8
