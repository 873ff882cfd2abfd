"""What is counted in a ROI is right but for rounding, and only ROIs that make sense are taken."""

from __future__ import annotations

import json
from fractions import Fraction
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


U = 2.0**-53
"""What a float is rounded by, for each 1 of it."""


def of_roi(
    image: NDArray[Any], mask: NDArray[np.bool_] | None, roi: Roi
) -> dict[tuple[int, int], Fraction]:
    """Return the valid pixels of a ROI by row and column."""
    ok = frames.valid(image) & (np.True_ if mask is None else ~mask)
    top, bottom, left, right = roi.rectangle
    inside = ((y, x) for y in range(top, bottom) for x in range(left, right))
    return {place: Fraction(image[place].item()) for place in inside if ok[place]}


def level(pixels: dict[tuple[int, int], Fraction], dtype: str) -> tuple[Fraction, Fraction]:
    """Return the mean of pixels, and how far from it what we subtract may be.

    A sum of n floats is off by up to n U times the sum of their absolutes. Of
    integers only the mean is rounded, and of those of eight bytes not even that.
    """
    mean, kind = sum(pixels.values()) / Fraction(len(pixels)), np.dtype(dtype)
    if kind.kind == "f":
        return mean, Fraction(U) * (sum(map(abs, pixels.values())) + abs(mean))
    return mean, Fraction(0 if kind.itemsize == 8 else U) * abs(mean)


def assert_right(
    row: NDArray[np.float64],
    dtype: str,
    pixels: dict[tuple[int, int], Fraction],
    background: dict[tuple[int, int], Fraction] | None,
) -> None:
    """Compare with exact fractions; only what follows from rounding may differ."""
    if not pixels:
        assert np.isnan(row).all()
        return
    n, total, (mean, off) = len(pixels), sum(pixels.values()), level(pixels, dtype)
    floats = np.dtype(dtype).kind == "f"  # sums of integers are exact, however much they cancel
    assert row[0] == pytest.approx(float(mean), abs=float(floats * off), rel=0)
    assert row[1] == pytest.approx(float(total), abs=float(floats * n * off), rel=0)
    assert row[2:4].tolist() == [float(min(pixels.values())), float(max(pixels.values()))]
    std = float(sum((v - mean) ** 2 for v in pixels.values()) / n) ** 0.5
    tiny = 1e-150  # its square has fewer digits, or is no float
    assert row[4] == pytest.approx(std, abs=max(float(off), tiny), rel=4 * n * U)
    if background == {}:
        assert np.isnan(row[5:]).all()
        return
    ground, ground_off = (Fraction(0), Fraction(0)) if not background else level(background, dtype)
    loss = floats * 4 * n * (off + ground_off)
    assert row[7] == pytest.approx(float(total - ground * n), abs=float(loss), rel=0)
    weights = {place: max(v - ground, Fraction(0)) for place, v in pixels.items()}
    weight, lost = sum(weights.values()), n * ground_off
    for axis in (0, 1):
        found, places = row[5 + axis], [place[axis] for place in pixels]
        if weight <= lost:  # perhaps nothing is above the background
            assert np.isnan(found) or min(places) - 1e-9 <= found <= max(places) + 1e-9
            continue
        com = float(sum(w * place[axis] for place, w in weights.items()) / weight)
        span = max(places) - min(places) + 1
        assert found == pytest.approx(com, abs=float(span * lost / (weight - lost)), rel=4 * n * U)


def values(dtype: str) -> st.SearchStrategy[Any]:
    """Return a strategy for pixels, integers of any size and such that are alike among them."""
    if np.dtype(dtype).kind == "f":
        return frames.values(dtype)
    limits = np.iinfo(dtype)
    large = min(limits.max, 2**63 - 2)
    alike = st.integers(large - 3, large) | st.integers(large // 2 - 3, large // 2)
    return frames.values(dtype) | st.integers(limits.min, limits.max) | alike


@st.composite
def rois_on(draw: st.DrawFn, shape: tuple[int, int]) -> Roi:
    y, x = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    height, width = draw(st.integers(1, shape[0] - y)), draw(st.integers(1, shape[1] - x))
    return Roi(x=x, y=y, width=width, height=height)


@pytest.mark.parametrize("dtype", frames.DTYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_statistics_are_exact_but_for_rounding(dtype: str, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    image = data.draw(hnp.arrays(dtype, shape, elements=values(dtype)))
    mask = data.draw(st.none() | hnp.arrays(np.bool_, shape))
    plain, ground = data.draw(rois_on(shape)), data.draw(rois_on(shape))
    corrected = plain.model_copy(update={"background": "ground"})
    rois = {"corrected": corrected, "ground": ground, "plain": plain}
    found = statistics(as_pixels(image), mask, rois)
    assert found.shape == (3, len(STATISTICS))
    inside, around = of_roi(image, mask, plain), of_roi(image, mask, ground)
    assert_right(found[0], dtype, inside, around)
    assert_right(found[1], dtype, around, None)
    assert_right(found[2], dtype, inside, None)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u4", 2**32 - 2), ("i4", -(2**31)), ("i8", 2**63 - 2), ("i8", -(2**63)), ("u8", 2**63 - 2)],
)
def test_integer_sums_are_exact(dtype: str, value: int) -> None:
    image = np.full((4, 1024), value, dtype)
    roi = Roi(x=0, y=0, width=1024, height=4)
    row = statistics(as_pixels(image), None, {"all": roi})[0]
    assert row[STATISTICS.index("sum")] == float(4096 * value)
    assert row[STATISTICS.index("mean")] == value
    assert row[STATISTICS.index("std")] == 0


def test_a_peak_stands_out_of_what_no_float_holds() -> None:
    image = np.full((3, 9), 2**62, np.int64)
    image[:, 1::3] += 1
    image[1, 7] += 90
    rois = {
        "peak": Roi(x=6, y=0, width=3, height=3, background="flat"),
        "flat": Roi(x=0, y=0, width=6, height=3),
    }
    peak, flat = statistics(as_pixels(image), None, rois)
    assert peak[5:8] == pytest.approx([1, 7, 90], rel=1e-15)
    assert flat[4] == pytest.approx(np.sqrt(2) / 3, rel=1e-15)


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
