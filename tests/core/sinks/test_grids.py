"""Cells that are written together are where they would be one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.sinks import grids
from ronda.core.sinks.grids import Grid, Grids

SHAPE = (3, 5, 2)
places = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 4)),
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 1)),
)
lines = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)).map(
    lambda line: [(line[0], n) for n in range(line[1], line[2], 1 if line[2] > line[1] else -1)]
)
cells = st.lists(
    st.tuples(st.sampled_from("ab"), st.one_of(places.map(lambda place: [place]), lines)),
    max_size=12,
)


@settings(deadline=None)
@given(cells, st.sampled_from([1 << 20, 24]))
def test_cells_that_are_written_together_are_elsewhere_or_older(given_: Any, most: int) -> None:
    before, grids.MOST_TOGETHER = grids.MOST_TOGETHER, most
    waiting = Grids({name: Grid(np.dtype(np.int64), SHAPE) for name in "ab"})
    file = {name: np.full(SHAPE, -1) for name in "ab"}
    wanted = {name: array.copy() for name, array in file.items()}
    number = 0
    for name, found in given_:
        for place in found:
            form = SHAPE[len(place) :]
            value = number + np.arange(np.prod(form, dtype=int)).reshape(form)
            number += value.size
            waiting.take({name: [(place, value)]}, of_frames=True)
            wanted[name][place or ...] = value
    try:
        waiting.write(lambda name: file[name])
    finally:
        grids.MOST_TOGETHER = before
    for name in "ab":
        np.testing.assert_array_equal(file[name], wanted[name])
