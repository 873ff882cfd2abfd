"""What is counted in a ROI is what NumPy counts, and only ROIs that make sense are taken."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import ValidationError
from ronda.core.images.roi import (
    COMMANDS,
    STATISTICS,
    Roi,
    RoiParameters,
    outside,
    parse_roi,
    statistics,
)
from ronda.core.marks import as_pixels
from ronda.core.parameters import ParameterError
from ronda.core.stage import SLOTS
from ronda.tests.core.images import frames

DO = {command.name: command.changes for command in COMMANDS}


def expected(
    image: NDArray[Any], mask: NDArray[np.bool_] | None, roi: Roi, background: Roi | None
) -> list[float]:
    """Return the statistics by NumPy alone."""
    ok = frames.valid(image) & (np.True_ if mask is None else ~mask)
    level = 0.0
    if background is not None:
        level = expected(image, mask, background, None)[0]
    top, bottom, left, right = roi.rectangle
    rows, columns = np.mgrid[top:bottom, left:right]
    inside = ok[top:bottom, left:right]
    if not inside.any():
        return [np.nan] * len(STATISTICS)
    pixels = image[top:bottom, left:right][inside].astype(np.float64)
    weight = np.maximum(pixels - level, 0)
    com = [np.nan, np.nan]
    if weight.sum() > 0:
        com = [(weight * axis[inside]).sum() / weight.sum() for axis in (rows, columns)]
    basic = [pixels.mean(), pixels.sum(), pixels.min(), pixels.max(), pixels.std()]
    return [*basic, *com, pixels.sum() - level * pixels.size]


@st.composite
def rois_on(draw: st.DrawFn, shape: tuple[int, int]) -> Roi:
    y, x = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    height, width = draw(st.integers(1, shape[0] - y)), draw(st.integers(1, shape[1] - x))
    return Roi(x=x, y=y, width=width, height=height)


@pytest.mark.parametrize("dtype", frames.DTYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_statistics_are_numpys_over_valid_pixels(dtype: str, data: st.DataObject) -> None:
    image = data.draw(frames.images(dtype))
    mask = data.draw(st.none() | hnp.arrays(np.bool_, image.shape))
    plain, ground = data.draw(rois_on(image.shape)), data.draw(rois_on(image.shape))
    corrected = plain.model_copy(update={"background": "ground"})
    rois = {"corrected": corrected, "ground": ground, "plain": plain}
    found = statistics(as_pixels(image), mask, rois)
    assert found.shape == (3, len(STATISTICS))
    for row, (roi, background) in zip(
        found, [(plain, ground), (ground, None), (plain, None)], strict=True
    ):
        wanted = expected(image, mask, roi, background)
        scale = np.nanmax(np.abs([*wanted, 1.0]))
        if background is not None and np.nanmax(np.abs([*found[1], 0])) > 1e9 * scale:
            wanted[5:] = row[5:]  # of huge pixels that cancel each other a background is rounded
        np.testing.assert_allclose(row, wanted, rtol=1e-9, atol=1e-9 * scale)


def test_integer_sums_are_exact() -> None:
    image = np.full((4, 1024), 2**32 - 2, np.uint32)
    roi = Roi(x=0, y=0, width=1024, height=4)
    row = statistics(as_pixels(image), None, {"all": roi})[0]
    assert row[STATISTICS.index("sum")] == float(4096 * (2**32 - 2))
    assert row[STATISTICS.index("mean")] == 2**32 - 2
    assert row[STATISTICS.index("std")] == 0


def test_zeros_are_valid() -> None:
    image = as_pixels(np.array([[0, 0, 0, 8]], np.uint16))
    row = statistics(image, None, {"all": Roi(x=0, y=0, width=4, height=1)})[0]
    assert row[:4].tolist() == [2, 8, 0, 8]


def test_the_centre_is_that_of_the_peak_and_not_of_the_background() -> None:
    image = np.full((20, 30), 50, np.int32)
    image[4:7, 10:13] += 100
    rois = {
        "raw": Roi(x=5, y=2, width=20, height=10),
        "peak": Roi(x=5, y=2, width=20, height=10, background="flat"),
        "flat": Roi(x=0, y=15, width=30, height=5),
    }
    raw, peak, flat = statistics(as_pixels(image), None, rois)
    assert peak[5:7].tolist() == [5, 11]
    assert raw[5:7].tolist() != [5, 11]
    assert peak[7] == 900
    assert flat[7] == flat[1] == 50 * 150


def test_a_roi_that_is_not_on_the_frame_gives_nothing() -> None:
    image = as_pixels(np.ones((4, 4), np.uint16))
    rois = {
        "in": Roi(x=0, y=0, width=4, height=4),
        "out": Roi(x=1, y=0, width=4, height=4, background="in"),
        "leaning": Roi(x=0, y=0, width=2, height=2, background="out"),
    }
    found = statistics(image, None, rois)
    assert not np.isnan(found[0]).any()
    assert np.isnan(found[1]).all()
    assert found[2, :5].tolist() == [1, 4, 1, 1, 0] and np.isnan(found[2, 5:]).all()
    assert outside(rois, (4, 4)) == [
        "ROI out (x 1, y 0, 4 x 4) is not wholly on the frame of 4 x 4 pixels"
    ]


def test_no_roi_gives_no_row() -> None:
    assert statistics(as_pixels(np.ones((4, 4), np.uint16)), None, {}).shape == (0, 8)


# ------------------------------------------------------------------ declaration

BOX: dict[str, Any] = {"x": 1, "y": 2, "width": 3, "height": 4}


@pytest.mark.parametrize(
    ("rois", "reason"),
    [
        ({"": BOX}, "no name for a ROI"),
        ({"9x": BOX}, "'9x' is no name"),
        ({"a" * 33: BOX}, "no name for a ROI"),
        ({"a/b": BOX}, "no name for a ROI"),
        ({"a\n": BOX}, "no name for a ROI"),
        ({"a": {**BOX, "width": 0}}, "width"),
        ({"a": {**BOX, "x": -1}}, "rois.a.x"),
        ({"a": {**BOX, "x": 1.5}}, "rois.a.x"),
        ({"a": {**BOX, "x": 10**30}}, "rois.a.x"),
        ({"a": {**BOX, "colour": 1}}, "rois.a.colour"),
        ({"a": {**BOX, "background": "a"}}, "its own background"),
        ({"a": {**BOX, "background": "b"}}, "background 'b' of ROI a does not exist"),
        ({f"r{n}": BOX for n in range(SLOTS + 1)}, f"room for {SLOTS}"),
        ([1, 2], "rois"),
    ],
)
def test_rois_that_make_no_sense_are_refused(rois: Any, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        RoiParameters().changed({"rois": rois})
    with pytest.raises(ValidationError):
        RoiParameters(rois=rois)


def test_rois_survive_their_plain_form() -> None:
    rois = {"a_-9": {**BOX, "background": "b"}, "b": BOX}
    parameters = RoiParameters().changed({"rois": rois})
    assert RoiParameters().changed(json.loads(json.dumps(parameters.to_json()))) == parameters


@pytest.mark.parametrize(
    "text",
    [
        "peak=1,2,3,4;background=flat",
        " peak = 1, 2 ,3,4 ; background = flat ",
        '{"name": "peak", "x": 1, "y": 2, "width": 3, "height": 4, "background": "flat"}',
    ],
)
def test_a_roi_is_read_from_text(text: str) -> None:
    assert parse_roi(text) == ("peak", Roi(**BOX, background="flat"))
    assert parse_roi("peak=1,2,3,4") == ("peak", Roi(**BOX))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "peak",
        "peak=1,2,3",
        "peak=1,2,3,x",
        "peak=1,2,3,4,5",
        "peak=1.5,2,3,4",
        "=1,2,3,4",
        "peak=1,2,3,4;other=2",
        "peak=-1,2,3,4",
        "peak=1,2,0,4",
        "peak=1,2,3,99999999",
        "peak=1,2,3," + "9" * 5000,
        "{",
        "{}",
        '{"name": "peak"}',
        '{"name": 3, "x": 1}',
        '{"a":' * 5000,
        "[" * 10000,
    ],
)
def test_text_that_is_no_roi_is_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_roi(text)


def run(parameters: RoiParameters, command: str, text: str) -> RoiParameters:
    change = DO[command]
    assert change is not None
    return parameters.changed(change(parameters, text))


def test_rois_are_added_moved_renamed_and_deleted() -> None:
    parameters = run(RoiParameters(), "AddRoi", "flat=0,0,5,5")
    parameters = run(parameters, "AddRoi", "peak=1,2,3,4;background=flat")
    parameters = run(parameters, "RenameRoi", "flat = ground")
    assert list(parameters.rois) == ["ground", "peak"]
    assert parameters.rois["peak"].background == "ground"
    parameters = run(parameters, "MoveRoi", "peak=7,8,9,10")
    assert parameters.rois["peak"] == Roi(x=7, y=8, width=9, height=10, background="ground")
    with pytest.raises(ParameterError, match="ROI ground is the background of peak"):
        run(parameters, "DeleteRoi", "ground")
    parameters = run(run(parameters, "DeleteRoi", "peak"), "DeleteRoi", "ground")
    assert parameters.rois == {}


@pytest.mark.parametrize(
    ("command", "text", "reason"),
    [
        ("AddRoi", "a=1,2,3,4", "there is a ROI a already"),
        ("AddRoi", "b=1,2,3,4;background=c", "background 'c'"),
        ("MoveRoi", "b=1,2,3,4", "there is no ROI 'b'; there are: a"),
        ("RenameRoi", "a", "no name for a ROI"),
        ("RenameRoi", "b=c", "there is no ROI 'b'"),
        ("RenameRoi", "a=a", "there is a ROI a already"),
        ("DeleteRoi", "b", "there is no ROI 'b'"),
    ],
)
def test_commands_that_cannot_be_done_are_refused(command: str, text: str, reason: str) -> None:
    parameters = RoiParameters(rois={"a": BOX})
    with pytest.raises(ParameterError, match=reason):
        run(parameters, command, text)
