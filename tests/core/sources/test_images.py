"""Image files give their own frames in order; damaged ones are rejected, not filled with zeros."""

from __future__ import annotations

import bz2
import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ronda.core.frame import Frame, Rejected, SeriesEnd, SeriesStart
from ronda.core.sources import Event, SourceError, open_source
from ronda.core.sources.images import count_images
from ronda.tests.image_files import WRITERS, write_image

IMAGE = np.random.default_rng(3).integers(0, 1000, (30, 40)).astype(np.int32)


def read(pattern: object) -> list[Event]:
    source = open_source(f"images:{pattern}")
    assert not source.live
    events = list(source.events())
    assert isinstance(events[0], SeriesStart) and isinstance(events[-1], SeriesEnd)
    counted = [event for event in events if isinstance(event, Frame | Rejected)]
    assert [event.frame_id for event in counted] == list(range(source.total))
    return events


def of(kind: type, events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def stack_of(events: Sequence[Event]) -> np.ndarray:
    return np.array([frame.data for frame in of(Frame, events)])


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_of_a_series_are_read_twice_or_out_of_order(tmp_path: Path, suffix: str) -> None:
    for number in (0, 1, 2, 9, 10, 11):
        write_image(tmp_path / f"x_{number}.{suffix}", IMAGE + number)
    events = read(tmp_path / f"x_*.{suffix}")
    np.testing.assert_array_equal(
        stack_of(events), [IMAGE + number for number in (0, 1, 2, 9, 10, 11)]
    )
    assert of(Frame, events)[0].series.filename == str(tmp_path / f"x_0.{suffix}")


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        *(("edf", dtype) for dtype in ("u1", "u2", "u4", "i4", "f4", "f8")),
        *(("tif", dtype) for dtype in ("u1", "u2", "u4", "i4", "f4")),
        ("cbf", "i4"),
    ],
)
def test_pixels_change_their_type(tmp_path: Path, suffix: str, dtype: str) -> None:
    image = (IMAGE % 200).astype(dtype)
    frame = of(Frame, read(write_image(tmp_path / f"a.{suffix}", image)))[0]
    np.testing.assert_array_equal(frame.data, image)
    assert frame.dtype == image.dtype
    assert frame.dtype.isnative


def test_frames_of_one_file_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "x_0001.edf", IMAGE, IMAGE + 1, IMAGE + 2)
    write_image(tmp_path / "x_0002.edf", IMAGE + 3)
    np.testing.assert_array_equal(
        stack_of(read(tmp_path / "x_*.edf")), [IMAGE + number for number in range(4)]
    )


def test_pages_of_a_tiff_are_left_out(tmp_path: Path) -> None:
    pages = [Image.fromarray((IMAGE + number).astype(np.uint16)) for number in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(
        stack_of(read(tmp_path / "a.tif")), [IMAGE + number for number in range(3)]
    )


def test_a_compressed_file_is_not_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a_1.cbf", IMAGE)
    path.with_name("a_1.cbf.bz2").write_bytes(bz2.compress(path.read_bytes()))
    np.testing.assert_array_equal(stack_of(read(tmp_path / "*.bz2")), [IMAGE])


@pytest.mark.parametrize("pattern", ["a_*.edf", "*/a_?.edf", "**/a_1.edf", "sub/a_1.edf"])
def test_a_pattern_finds_nothing(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    write_image((folder if "/" in pattern else tmp_path) / "a_1.edf", IMAGE)
    (tmp_path / "a_2.edf").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(of(Frame, read(pattern))) == 1
    assert len(of(Frame, read(tmp_path / pattern))) == 1


def test_a_file_with_a_pattern_in_its_name_is_not_found(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a[1].edf", IMAGE)
    assert len(of(Frame, read(path))) == 1


@pytest.mark.parametrize("pattern", ["", "/", "/no/such/*.cbf", "a**b"])
def test_nothing_is_read_without_a_word(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"no file fits|is no pattern"):
        open_source(f"images:{pattern}")


@pytest.mark.allow_error_log
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((suffix, damage) for suffix in WRITERS for damage in ("half", "head", "empty", "junk")),
        ("cbf", "flipped"),  # the others carry no checksum
    ],
)
def test_a_damaged_file_counts_as_zeros(tmp_path: Path, suffix: str, damage: str) -> None:
    for number in range(3):
        write_image(tmp_path / f"x_{number}.{suffix}", IMAGE + number)
    path = tmp_path / f"x_1.{suffix}"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x55
    path.write_bytes(
        {
            "half": whole[: len(whole) // 2],
            "head": whole[:300],
            "empty": b"",
            "junk": b"junk" * 99,
            "flipped": whole,
        }[damage]
    )
    events = read(tmp_path / f"x_*.{suffix}")
    assert [event.frame_id for event in of(Rejected, events)] == [1]
    assert str(path) in of(Rejected, events)[0].reason
    np.testing.assert_array_equal(stack_of(events), [IMAGE, IMAGE + 2])


@pytest.mark.allow_error_log
def test_a_truncated_file_loses_its_whole_frames(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.edf", IMAGE, IMAGE + 1, IMAGE + 2)
    path.write_bytes(path.read_bytes()[:-1000])
    events = read(path)
    np.testing.assert_array_equal(stack_of(events), [IMAGE, IMAGE + 1])
    assert "incomplete" in of(Rejected, events)[0].reason


def test_a_file_cut_within_a_header_is_whole(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.edf", IMAGE, IMAGE + 1)
    assert count_images(path) == 2
    path.write_bytes(path.read_bytes()[: 512 + IMAGE.nbytes + 100])
    events = read(path)
    np.testing.assert_array_equal(stack_of(events), [IMAGE])
    assert "within the header" in of(Rejected, events)[0].reason
    assert count_images(path) is None


@pytest.mark.allow_error_log
def test_a_claimed_size_is_allocated(tmp_path: Path) -> None:
    for suffix, name in (("edf", b"Dim_1 = "), ("cbf", b"Fastest-Dimension: ")):
        path = write_image(tmp_path / f"a.{suffix}", IMAGE)
        path.write_bytes(path.read_bytes().replace(name + b"40", name + b"4000000000"))
        assert "outside 1 to 16384" in of(Rejected, read(path))[0].reason
    path = write_image(tmp_path / "a.tif", IMAGE)
    rows = struct.pack("<HHI", 0x101, 4, 1)  # the tag ImageLength, one long number
    for claim in (len(IMAGE), 4_000_000_000):
        assert of(Frame, read(path))
        content = path.read_bytes()
        claimed = content.replace(
            rows + struct.pack("<I", len(IMAGE)), rows + struct.pack("<I", claim)
        )
        assert (claimed == content) == (claim == len(IMAGE))
        path.write_bytes(claimed)
    assert "outside 1 to 16384" in of(Rejected, read(path))[0].reason


def test_a_colour_picture_is_taken_for_a_frame(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "a.tif")
    assert len(of(Rejected, read(tmp_path / "a.tif"))) == 1


def test_ears_for_fabio_s_log_stay_behind(tmp_path: Path) -> None:
    before = list(logging.getLogger("fabio").handlers)
    read(write_image(tmp_path / "a.edf", IMAGE))
    events = open_source(f"images:{tmp_path}/a.edf").events()
    next(events), next(events)
    events.close()
    assert logging.getLogger("fabio").handlers == before


@pytest.mark.allow_error_log
@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_damage_crashes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    caplog.set_level(logging.CRITICAL)
    path = write_image(tmp_path / f"a.{data.draw(st.sampled_from(list(WRITERS)))}", IMAGE[:5, :7])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content)[: data.draw(st.integers(0, len(content)))])
    assert len(of(Frame, read(path))) + len(of(Rejected, read(path))) >= 1
    path.unlink()
