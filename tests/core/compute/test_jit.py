"""Compiled kernels are kept where this user may write, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ronda.core.compute.jit import cache_directory, kernel


@pytest.fixture
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for a user's cache, with nothing said in the environment."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_users_cache_is_used(nothing_named: Path) -> None:
    assert cache_directory() == nothing_named / "ronda" / "numba"
    assert (nothing_named / "ronda" / "numba").is_dir()


def test_a_service_uses_its_own_cache(nothing_named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", f"{nothing_named}/service:{nothing_named}/other")
    assert cache_directory() == nothing_named / "service" / "numba"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(nothing_named / "named"))
    assert cache_directory() == nothing_named / "named"


def test_without_a_place_nothing_is_kept(
    nothing_named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nothing_named / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(nothing_named / "file" / "below"))
    assert cache_directory() is None


def test_a_folder_of_somebody_else_is_not_trusted(
    nothing_named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert cache_directory() is None


def test_a_kernel_tells_nan_from_numbers_and_divides_by_zero() -> None:
    @kernel
    def reciprocal_sum(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        total = 0.0
        for value in values:
            if not np.isnan(value):
                total += 1.0 / value
        return total

    assert reciprocal_sum(np.array([np.nan, 2.0])) == 0.5
    assert reciprocal_sum(np.array([0.0])) == np.inf
