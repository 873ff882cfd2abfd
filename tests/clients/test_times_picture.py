"""The picture of `diff_tomo -S` shows every frame, however few or strange they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ronda.clients.times_picture import draw_times


@pytest.mark.parametrize(
    "seconds",
    [[0.003], [0.002] * 5, [0.0, 0.001], [0.5, *np.linspace(0.001, 0.004, 200)]],
    ids=["one", "equal", "none", "many"],
)
def test_every_frame_is_shown(tmp_path: Path, seconds: list[float]) -> None:
    png = tmp_path / "times.png"
    figure = draw_times(seconds, png)
    assert png.read_bytes().startswith(b"\x89PNG")
    of_frames, often = figure.axes
    shown = of_frames.lines[0].get_ydata()
    np.testing.assert_allclose(shown, np.maximum(1000 * np.array(seconds), 1e-3))
    low, high = of_frames.get_ylim()
    assert low < shown.min() <= shown.max() < high
    assert sum(bar.get_width() for bar in often.patches) == len(seconds)
    labels = [text.get_text() for text in of_frames.get_legend().get_texts()]
    assert labels[0] == f"median {np.median(shown):.3g} ms"
