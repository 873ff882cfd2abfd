"""Quantiles against the sums of Poisson's law itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.bragg.quantile import (
    MOST,
    clipping_tables,
    excess,
    limits_of_clipping,
    picking_table,
    solve,
)
from scipy.special import gammainc, gammaincc, ndtr
from scipy.stats import poisson

CUTOFFS = (0.5, 1.0, 3.0, 6.0)


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_a_count_is_above_the_limit_exactly_if_too_few_counts_reach_it(cutoff: float) -> None:
    rng = np.random.default_rng(1)
    table, tail = picking_table(cutoff), ndtr(-cutoff)
    for mean in 10 ** rng.uniform(-6, 5, 2000):
        limit = mean + excess(table, cutoff, mean)
        # Where a count's probability is all but the tail, the table may tell either.
        for count in range(max(int(limit) - 2, 0), int(limit) + 4):
            reached = poisson.sf(count - 1, mean)
            if abs(reached / tail - 1) > 1e-3:
                assert (count > limit) == (reached < tail), (mean, count)


@settings(deadline=None)
@given(mean=st.floats(1e-3, 1e6), cutoff=st.floats(0.6, 6))
def test_limits_of_clipping_lie_at_the_quantiles(mean: float, cutoff: float) -> None:
    below, above = limits_of_clipping(clipping_tables(6.0), cutoff, mean)
    scale = np.sqrt(mean)
    exact = [solve(ndtr(-cutoff), np.array([mean]), upper)[0] for upper in (False, True)]
    assert below == pytest.approx(exact[0], abs=0.02 + 0.005 * scale)
    assert above == pytest.approx(exact[1], abs=0.02 + 0.005 * scale)


def test_the_solution_is_where_the_probability_is_the_tail() -> None:
    mean = np.array([0.01, 0.5, 3.0, 80.0, 1e4])
    above, below = solve(1e-3, mean, True), solve(1e-3, mean, False)
    assert gammainc(mean + above, mean) == pytest.approx(1e-3, rel=1e-9)
    assert gammaincc(mean - below + 1, mean) == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("cutoff", (1.0, 3.0, 6.0, 37.0))
def test_the_table_goes_over_into_the_expansion(cutoff: float) -> None:
    table = picking_table(cutoff)
    inside, beyond = excess(table, cutoff, MOST * (1 - 1e-9)), excess(table, cutoff, MOST)
    assert inside == pytest.approx(beyond, rel=1e-5)
    assert excess(table, cutoff, 1e12) == pytest.approx(cutoff * 1e6, rel=1e-4)


@pytest.mark.parametrize("cutoff", (0.05, *CUTOFFS, 37.0, 1000.0))
def test_the_limit_rises_with_the_mean_and_the_excess_more_slowly(cutoff: float) -> None:
    means = np.exp2(np.linspace(-40, 24, 5000))
    table = picking_table(cutoff)
    above = np.array([excess(table, cutoff, mean) for mean in means])
    assert (np.diff(means + above) > 0).all()
    # What the least threshold of a ring is found by.
    assert (np.diff(above) >= -1e-5 * above[1:]).all()
    assert (np.diff(above / means) <= 1e-5 * (above / means)[1:]).all()


@pytest.mark.parametrize("mean", (0.0, -3.0, 1e-30))
def test_no_mean_has_a_limit_below_one_count(mean: float) -> None:
    assert 0 < excess(picking_table(3.0), 3.0, mean) < 1
    below, above = limits_of_clipping(clipping_tables(4.0), 3.0, mean)
    assert 0 <= above < 1
    assert 0 <= below <= 1 + 1e-6


def test_tables_cannot_be_written() -> None:
    assert not picking_table(3.0).flags.writeable
    assert not clipping_tables(4.0).excess.flags.writeable
