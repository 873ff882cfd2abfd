"""Frames of HDF5 files arrive whatever the layout; what is unreadable or missing is counted."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import Frame, Lost, Notice, Rejected, SeriesEnd, SeriesStart
from ronda.core.sources import Event, SourceError, open_source

STACK = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


def read(path: Path, inside: str = "") -> list[Event]:
    source = open_source(f"hdf5:{path}{inside}")
    assert not source.live
    events = list(source.events())
    assert isinstance(events[0], SeriesStart) and isinstance(events[-1], SeriesEnd)
    counted = [event for event in events if isinstance(event, Frame | Rejected | Lost)]
    assert source.total == len(counted)
    for number, event in enumerate(counted):
        assert isinstance(event, Lost) or event.frame_id == number
    return events


def of(kind: type, events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def stack_of(events: Sequence[Event]) -> np.ndarray:
    return np.array([frame.data for frame in of(Frame, events)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan-0007_x.h5"


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "i4", "i8", "f4", ">f8"])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"chunks": (1, 5, 6)},
        {"chunks": (3, 2, 6), "compression": "gzip"},
        {"chunks": (1, 5, 6), **hdf5plugin.Bitshuffle(cname="lz4")},
    ],
    ids=["contiguous", "frames", "blocks", "bitshuffle"],
)
def test_pixels_depend_on_the_layout(path: Path, dtype: str, layout: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("a/b", data=STACK.astype(dtype), **layout)
    events = read(path, "::/a/b")
    np.testing.assert_array_equal(stack_of(events), STACK.astype(dtype))
    frame = of(Frame, events)[0]
    assert frame.dtype.isnative
    assert frame.series.filename == str(path)
    assert frame.series.scan_number == 7


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (4, 1, 5, 6), (2, 2, 5, 6), (0, 5, 6)])
def test_frames_depend_on_the_axes_before_them(path: Path, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape[:-2]))
    with h5py.File(path, "w") as file:
        file["data"] = STACK[:count].reshape(shape)
    found = stack_of(read(path, "::/data"))
    np.testing.assert_array_equal(found.reshape(count, 5, 6), STACK[:count])


def test_the_default_signal_is_not_found(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["entry/data/frames"] = STACK
        file["entry/other"] = STACK
        file.attrs["default"] = "entry"
        file["entry"].attrs["default"] = "data"
        file["entry/data"].attrs["signal"] = "frames"
    np.testing.assert_array_equal(stack_of(read(path)), STACK)
    np.testing.assert_array_equal(stack_of(read(path, "::/entry/data")), STACK)


@pytest.mark.parametrize("signal", ["missing", 5, ""])
def test_a_broken_default_hides_the_only_images(path: Path, signal: Any) -> None:
    with h5py.File(path, "w") as file:
        file["entry/data/frames"] = STACK
        file["entry/data/curve"] = np.arange(3)
        file["entry/data/same"] = file["entry/data/frames"]
        file["entry/data/loop"] = h5py.SoftLink("/entry")
        file["entry/data/gone"] = h5py.ExternalLink("no.h5", "/x")
        file.attrs["default"] = "entry/data"
        file["entry/data"].attrs["signal"] = signal
    np.testing.assert_array_equal(stack_of(read(path)), STACK)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("", "several datasets of images; choose one with ::PATH: /a, /b/c"),
        ("::/no", "has nothing to read at /no"),
        ("::/b", "has no dataset at /b"),
        ("::/curve", "is no image or stack of images"),
        ("::/text", "is no image or stack of images"),
        ("::/complex", "is not an integer or float"),
        ("::/flags", "is not an integer or float"),
        ("::/wide", "outside 1 to 16384"),
        ("::/chunky", "has chunks"),
        ("::/endless", "more than 100000000 frames"),
    ],
)
def test_something_else_is_read_as_images(path: Path, inside: str, reason: str) -> None:
    with h5py.File(path, "w") as file:
        file["a"], file["b/c"], file["curve"], file["text"] = STACK, STACK, np.arange(9), "x"
        file["complex"], file["flags"] = STACK[0] * 1j, STACK[0] > 3
        file.create_dataset("wide", shape=(1, 2, 20_000), dtype="u1")
        huge = {"chunks": (60_000, 300, 300), "dtype": "u1", "maxshape": (None, 300, 300)}
        file.create_dataset("chunky", shape=(3, 300, 300), **huge)
        file.create_dataset("endless", shape=(1 << 50, 2, 2), chunks=(1, 2, 2), dtype="u1")
    with pytest.raises(SourceError, match=reason):
        open_source(f"hdf5:{path}{inside}")


def test_a_file_without_images_is_read(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["curve"] = np.arange(9)
    with pytest.raises(SourceError, match="has no dataset of images"):
        open_source(f"hdf5:{path}")


def test_external_links_are_not_followed(path: Path) -> None:
    with h5py.File(path.with_name("raw.h5"), "w") as file:
        file["entry/frames"] = STACK
    with h5py.File(path, "w") as file:
        file["entry/data"] = h5py.ExternalLink("raw.h5", "/entry/frames")
    np.testing.assert_array_equal(stack_of(read(path)), STACK)
    np.testing.assert_array_equal(stack_of(read(path, "::/entry/data")), STACK)


def test_missing_raw_files_of_a_virtual_dataset_count_as_zeros(path: Path) -> None:
    for name in ("a", "b"):
        with h5py.File(path.with_name(f"{name}.h5"), "w") as file:
            file["frames"] = STACK + 1
    layout = h5py.VirtualLayout((8, 5, 6), np.uint16)
    layout[:4] = h5py.VirtualSource("a.h5", "frames", STACK.shape)
    layout[4:] = h5py.VirtualSource("b.h5", "frames", STACK.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(stack_of(read(path)), np.concatenate([STACK + 1] * 2))
    path.with_name("a.h5").unlink()
    events = read(path)
    assert of(Lost, events) == [Lost(1)] * 4
    assert [event.text for event in of(Notice, events)] == [
        "raw files of the virtual dataset are missing: a.h5",
        f"4 frames of {path} were never written or are gone",
    ]
    assert of(Frame, events)[0].frame_id == 4
    np.testing.assert_array_equal(stack_of(events), STACK + 1)


def test_frames_that_were_never_written_count_as_zeros(path: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", (4, 5, 6), np.uint16, chunks=(1, 5, 6))
        dataset[0], dataset[2] = STACK[1], 0
    events = read(path)
    assert len(of(Lost, events)) == 2
    assert [frame.frame_id for frame in of(Frame, events)] == [0, 2]
    assert of(Notice, events)[0].text == f"2 frames of {path} were never written or are gone"
    np.testing.assert_array_equal(stack_of(events), [STACK[1], STACK[0] * 0])


@pytest.mark.parametrize("compression", ["gzip", "bitshuffle"])
def test_an_unreadable_chunk_ends_the_series(path: Path, compression: str) -> None:
    filters = hdf5plugin.Bitshuffle() if compression == "bitshuffle" else {"compression": "gzip"}
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", data=STACK, chunks=(1, 5, 6), **filters)
        dataset.id.write_direct_chunk((2, 0, 0), b"\xff" * 30)
    events = read(path)
    assert [event.frame_id for event in of(Rejected, events)] == [2]
    assert "cannot be read" in of(Rejected, events)[0].reason
    np.testing.assert_array_equal(stack_of(events), STACK[[0, 1, 3]])


WRITE_AND_DIE = """
import os, signal, sys
import h5py, numpy

file = h5py.File(sys.argv[1], "w", libver="v110")
dataset = file.create_dataset("data", (0, 5, 6), "u2", maxshape=(None, 5, 6), chunks=(1, 5, 6))
file.swmr_mode = True
for number, image in enumerate(numpy.arange(4 * 5 * 6).reshape(4, 5, 6)):
    dataset.resize(number + 1, 0)
    dataset[number] = image
    dataset.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_of_a_killed_writer_is_lost(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(stack_of(read(path)), STACK)


def test_a_file_that_is_being_written_cannot_be_read(path: Path) -> None:
    with h5py.File(path, "w", libver="v110") as file:
        file.create_dataset("data", data=STACK, chunks=(1, 5, 6), maxshape=(None, 5, 6))
        file.swmr_mode = True
        np.testing.assert_array_equal(stack_of(read(path)), STACK)


def test_closing_is_not_heeded(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = STACK
    source = open_source(f"hdf5:{path}")
    seen = 0
    for _ in source.events():
        seen += 1
        source.close()
    assert seen <= 2
    with h5py.File(path, "r+"):
        pass  # nothing holds it open


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 600])
def test_another_file_is_read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(f"hdf5:{path}")


def test_a_missing_file_is_read() -> None:
    with pytest.raises(SourceError, match="there is no file /no/such"):
        open_source("hdf5:/no/such::/data")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_damage_to_pixels_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In the compressed chunks and behind: the file's own structure is HDF5's affair."""
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", data=STACK, chunks=(1, 5, 6), compression="gzip")
        first = min(dataset.id.get_chunk_info(k).byte_offset for k in range(4))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(first, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    events = read(path)
    assert not of(Lost, events)
    assert len(of(Frame, events)) + len(of(Rejected, events)) == 4


def test_the_unwritten_frames_of_a_real_file_count_as_darks(shared_data: Path) -> None:
    dark = shared_data / "scmos" / "marana-dark.h5"
    if not dark.is_file():
        pytest.skip("the sCMOS dark is not among the real data")
    events = read(dark)
    frames = of(Frame, events)
    assert (len(frames), len(of(Lost, events))) == (2, 98)
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((2048, 2048), "uint16")}
    assert all(90 < frame.data.mean() < 110 for frame in frames)
