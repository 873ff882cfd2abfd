"""Every orientation puts the pixels where its name says."""

from __future__ import annotations

import numpy as np
import pytest
from ronda.core.images.orientation import Orientation

IMAGE = np.array([[1, 2, 3], [4, 5, 6]])
TURNED = {
    Orientation.NORMAL: [[1, 2, 3], [4, 5, 6]],
    Orientation.ROTATE_90: [[3, 6], [2, 5], [1, 4]],
    Orientation.ROTATE_180: [[6, 5, 4], [3, 2, 1]],
    Orientation.ROTATE_270: [[4, 1], [5, 2], [6, 3]],
    Orientation.FLIP_LEFT_RIGHT: [[3, 2, 1], [6, 5, 4]],
    Orientation.FLIP_UP_DOWN: [[4, 5, 6], [1, 2, 3]],
    Orientation.TRANSPOSE: [[1, 4], [2, 5], [3, 6]],
    Orientation.TRANSVERSE: [[6, 3], [5, 2], [4, 1]],
}


@pytest.mark.parametrize("orientation", Orientation)
def test_pixels_go_where_the_name_says(orientation: Orientation) -> None:
    turned = orientation.apply(IMAGE)
    assert turned.tolist() == TURNED[orientation]
    assert np.shares_memory(turned, IMAGE)
    assert orientation.turned((2, 3)) == turned.shape


def test_all_eight_differ() -> None:
    assert len({str(TURNED[orientation]) for orientation in Orientation}) == 8
