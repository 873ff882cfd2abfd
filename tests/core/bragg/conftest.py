"""What tests of Bragg spots share: frames of a small simulated Eiger."""

from __future__ import annotations

import pytest
from ronda.tests.core.bragg.crystal import Crystal, make_crystal


@pytest.fixture(scope="module")
def crystal(tmp_path_factory: pytest.TempPathFactory) -> Crystal:
    """Eight frames with spots."""
    return make_crystal(tmp_path_factory.mktemp("crystal"))
