"""The margin keeps what lies beside spots: nothing that is left out, nothing off the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ronda.core.bragg.stage import BraggStage
from ronda.tests.core.bragg.crystal import SHAPE, Crystal, make_crystal
from ronda.tests.core.images.bench import Bench
from scipy.ndimage import binary_dilation


@pytest.fixture(scope="module")
def crystal(tmp_path_factory: pytest.TempPathFactory) -> Crystal:
    return make_crystal(tmp_path_factory.mktemp("margin"), 1)


@pytest.mark.parametrize("margin", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["u4", "i4", "f4", "u8"])
def test_the_margin_is_numpys_dilation_of_usable_pixels(
    crystal: Crystal, margin: int, dtype: Any
) -> None:
    image = crystal.frames[0].copy()
    image[:, 40:42] = 3
    image = image.astype(dtype)
    top = -1 if np.dtype(dtype).kind in "if" else np.iinfo(dtype).max
    image[30:33, 60:64] = top
    image[0, 0] = image[-1, -1] = image[33, 62] = 5000
    rows = [
        Bench(BraggStage(), **crystal.settings, margin=each).frame(image, dtype)
        for each in (0, margin)
    ]
    kept = np.zeros(SHAPE, np.bool_)
    kept.flat[rows[0]["sparse_index"]] = True
    wanted = binary_dilation(kept, np.ones((2 * margin + 1,) * 2)) & (image != top)
    np.testing.assert_array_equal(rows[1]["sparse_index"], np.flatnonzero(wanted))
    np.testing.assert_array_equal(rows[1]["sparse_intensity"], image[wanted])
    assert rows[1]["sparse_intensity"].dtype == np.dtype(dtype)
    assert rows[1]["sparse_index"].dtype == np.uint32
    np.testing.assert_array_equal(
        rows[0]["sparse_background_avg"], rows[1]["sparse_background_avg"]
    )
