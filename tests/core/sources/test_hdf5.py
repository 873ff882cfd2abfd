"""Frames of HDF5 files arrive whatever the layout; what is unreadable or missing is counted."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.frame import (
    BadFrame,
    Encoded,
    Frame,
    Lost,
    Notice,
    Rejected,
    SeriesEnd,
    SeriesStart,
)
from ronda.core.sources import Event, SourceError, hdf5_chunks, open_source

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


# ---------------------------------------------------------------------- compressed frames

BSLZ4: dict[str, Any] = dict(hdf5plugin.Bitshuffle(cname="lz4"))


def packed(path: Path, stack: np.ndarray = STACK, **more: Any) -> None:
    """Write a stack with a frame a chunk, compressed."""
    chunks = (*(1 for _ in stack.shape[:-2]), *stack.shape[-2:])
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=stack, chunks=chunks, **(BSLZ4 | more))


def codecs(events: Sequence[Event]) -> list[str]:
    """Return how the frames came: their codec, or `array`."""
    payloads = [frame.payload for frame in of(Frame, events)]
    return [p.codec if isinstance(p, Encoded) else "array" for p in payloads]


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "f2"]),
    before=st.sampled_from([(), (1,), (3,), (1, 1), (2, 1), (2, 2)]),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    block=st.sampled_from([0, 8, 64, 1024, 4096, 1 << 20]),
    raw=st.integers(0, 15),
    seed=st.integers(0, 99),
)
def test_compressed_frames_are_other_than_hdf5_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    before: tuple[int, ...],
    shape: tuple[int, int],
    block: int,
    raw: int,
    seed: int,
) -> None:
    """Chunks that were stored uncompressed among them (a bit of `raw` each)."""
    path = tmp_path_factory.getbasetemp() / "packed.h5"
    stack = np.random.default_rng(seed).poisson(1.5, (*before, *shape)).astype(dtype)
    chunks = (*(1 for _ in before), *shape)
    filters = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("frames", stack.shape, dtype, chunks=chunks, **filters)
        for number, index in enumerate(np.ndindex(before)):
            if raw >> number & 1:
                dataset.id.write_direct_chunk((*index, 0, 0), stack[index].tobytes(), 1)
            else:
                dataset[index] = stack[index]
    with h5py.File(path) as file:
        plain = file["frames"][()].reshape(-1, *shape)
    events = read(path, "::/frames")
    np.testing.assert_array_equal(stack_of(events), plain, strict=True)
    np.testing.assert_array_equal(plain, stack.reshape(-1, *shape))
    frame = shape[0] * shape[1] * stack.itemsize
    large = block * stack.itemsize > max(1 << 20, frame)  # such a block is nothing for `decode`
    ways = ["array", "array"] if large else ["bslz4", "none"]
    assert codecs(events) == [ways[raw >> number & 1] for number in range(len(plain))]


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (">u2", {"chunks": (1, 5, 6), **BSLZ4}),
        ("u2", {"chunks": (2, 5, 6), **BSLZ4}),
        ("u2", {"chunks": (1, 5, 3), **BSLZ4}),
        ("u2", {"chunks": (1, 4, 6), **BSLZ4}),
        ("u2", {"chunks": (1, 5, 6), **hdf5plugin.Bitshuffle(cname="zstd")}),
        ("u2", {"chunks": (1, 5, 6), **hdf5plugin.Bitshuffle(cname="none")}),
        ("u2", {"chunks": (1, 5, 6), **hdf5plugin.LZ4()}),
        ("u2", {"chunks": (1, 5, 6), "fletcher32": True, **BSLZ4}),
        ("u2", {"chunks": (1, 5, 6), "shuffle": True, **BSLZ4}),
        ("u2", {"chunks": (1, 5, 6)}),
    ],
)
def test_frames_stored_in_another_way_are_decoded_as_bitshuffle(
    path: Path, dtype: str, layout: dict[str, Any]
) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=STACK.astype(dtype), **layout)
    events = read(path)
    assert codecs(events) == ["array"] * 4
    np.testing.assert_array_equal(stack_of(events), STACK)


def test_integers_of_fewer_bits_are_not_masked(path: Path) -> None:
    """HDF5 knows integers of 12 bits in two bytes; what stands in the others is no count."""
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(12)
    with h5py.File(path, "w") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((1, 5, 6))
        create.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, (0, 2))
        space = h5py.h5s.create_simple((4, 5, 6))
        h5py.h5d.create(file.id, b"data", kind, space, create)
        file["data"][...] = STACK
    events = read(path)
    assert codecs(events) == ["array"] * 4
    np.testing.assert_array_equal(stack_of(events), STACK)


def test_compressed_frames_that_were_never_written_count_as_zeros(path: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", (4, 5, 6), np.uint16, chunks=(1, 5, 6), **BSLZ4)
        dataset[0], dataset[2] = STACK[1], 0
    events = read(path)
    assert [type(event) for event in events[1:-2]] == [Frame, Lost, Frame, Lost]
    assert of(Notice, events)[0].text == f"2 frames of {path} were never written or are gone"
    np.testing.assert_array_equal(stack_of(events), [STACK[1], STACK[0] * 0])


@pytest.mark.parametrize("layout", [{}, {"compression": "gzip"}, BSLZ4])
def test_frames_written_after_the_first_was_read_are_lost(path: Path, layout: Any) -> None:
    """The dataset has its full length from the beginning, as some writers make it."""
    with h5py.File(path, "w", libver="v110") as file:
        dataset = file.create_dataset("data", (4, 5, 6), np.uint16, chunks=(1, 5, 6), **layout)
        dataset[0] = STACK[0]
        file.swmr_mode = True
        events = open_source(f"hdf5:{path}").events()
        seen = [next(events), next(events)]
        dataset[1:] = STACK[1:]
        dataset.flush()
        seen += events
    np.testing.assert_array_equal(stack_of(seen), STACK)


@pytest.mark.parametrize(
    ("chunk", "mask"),
    [
        (b"\xff" * 11, 0),
        (b"\0" * 30, 0),
        ((59).to_bytes(8, "big") + (8192).to_bytes(4, "big") + b"\0" * 30, 0),
        ((60).to_bytes(8, "big") + (1 << 31).to_bytes(4, "big") + b"\0" * 30, 0),
        (b"\1" * 59, 1),
        (b"\1" * 61, 1),
    ],
    ids=["short", "no header", "other size", "large block", "raw short", "raw long"],
)
def test_a_damaged_chunk_is_handed_to_hdf5(path: Path, chunk: bytes, mask: int) -> None:
    """Its filter reads beyond such a chunk, and has been seen to die."""
    packed(path)
    with h5py.File(path, "r+") as file:
        file["frames"].id.write_direct_chunk((2, 0, 0), chunk, mask)
    events = read(path)
    assert [event.frame_id for event in of(Rejected, events)] == [2]
    np.testing.assert_array_equal(stack_of(events), STACK[[0, 1, 3]])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_within_a_chunk_crashes_or_ends_the_series(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    stack = np.random.default_rng(3).poisson(2, (3, 30, 41)).astype(np.uint16)
    packed(path, stack)
    with h5py.File(path) as file:
        blob = bytearray(file["frames"].id.read_direct_chunk((1, 0, 0))[1])
    for _ in range(data.draw(st.integers(0, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(1, len(blob)) | st.just(len(blob)))]
    with h5py.File(path, "r+") as file:
        file["frames"].id.write_direct_chunk((1, 0, 0), bytes(blob))
    events = read(path)
    rejected = [event.frame_id for event in of(Rejected, events)]
    for frame in of(Frame, events):
        try:
            assert frame.data.shape == (30, 41)
        except BadFrame as error:
            rejected.append(frame.frame_id)
            assert "\n" not in str(error)
        if frame.frame_id != 1:
            np.testing.assert_array_equal(frame.data, stack[frame.frame_id])
    assert rejected in ([], [1])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_the_usual_block_is_not_known_when_lima_leaves_it_out(path: Path, dtype: str) -> None:
    stack = np.random.default_rng(3).poisson(2, (2, 100, 150)).astype(dtype)
    packed(path, stack)
    with h5py.File(path, "r+") as file:
        for number in range(2):
            chunk = file["frames"].id.read_direct_chunk((number, 0, 0))[1]
            zero = chunk[:8] + bytes(4) + chunk[12:]
            file["frames"].id.write_direct_chunk((number, 0, 0), zero)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["frames"][()], stack)
    events = read(path)
    assert codecs(events) == ["bslz4"] * 2
    np.testing.assert_array_equal(stack_of(events), stack)


def test_compressed_frames_behind_links_are_decoded_here(path: Path) -> None:
    packed(path.with_name("raw.h5"))
    with h5py.File(path, "w") as file:
        file["entry/data"] = h5py.ExternalLink("raw.h5", "/frames")
    events = read(path)
    assert codecs(events) == ["bslz4"] * 4
    np.testing.assert_array_equal(stack_of(events), STACK)


# ---------------------------------------------------------------------- chunks of several frames

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_frames_that_share_chunks_are_other_than_hdf5_reads_them(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Chunks of several frames, of pieces of them, beyond the edges, and uncompressed ones."""
    path = tmp_path_factory.getbasetemp() / "shared.h5"
    dtype = np.dtype(data.draw(st.sampled_from(["u1", "u2", ">u2", "u4", "i4", "i8", ">f4", "f8"])))
    shape = *data.draw(st.sampled_from([(), (1,), (7,), (2, 3)])), *data.draw(SIDES)
    chunks = tuple(data.draw(st.integers(-(-length // 4), length)) for length in shape)
    stack = np.random.default_rng(5).poisson(1.5, shape).astype(dtype)
    raw = data.draw(st.integers(0, 15))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("frames", shape, dtype, chunks=chunks, **BSLZ4)
        axes = [range(0, length, step) for length, step in zip(shape, chunks, strict=True)]
        for number, first in enumerate(product(*axes)):
            here = tuple(slice(i, i + n) for i, n in zip(first, chunks, strict=True))
            if raw >> number & 1:
                whole = np.zeros(chunks, dtype)
                whole[tuple(slice(0, n) for n in stack[here].shape)] = stack[here]
                dataset.id.write_direct_chunk(first, whole.tobytes(), 1)
            else:
                dataset[here] = stack[here]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["frames"][()], stack)
    found = stack_of(read(path, "::/frames"))
    want = stack.astype(dtype.newbyteorder("=")).reshape(-1, *shape[-2:])
    np.testing.assert_array_equal(found, want, strict=True)


@pytest.mark.parametrize("kept", [hdf5_chunks.KEPT, 0])
@pytest.mark.parametrize("chunks", [(4, 30, 40), (4, 15, 40), (3, 16, 9), (1, 15, 40)])
def test_chunks_are_decoded_once_for_each_frame(
    path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, ...], kept: int
) -> None:
    """Unless there is no room for all that frames share."""
    monkeypatch.setattr(hdf5_chunks, "KEPT", kept)
    decoded: list[tuple[int, ...]] = []
    packed_chunk = hdf5_chunks.packed_chunk

    def count(dataset: h5py.Dataset, first: tuple[int, ...]) -> Encoded:
        decoded.append(first)
        return packed_chunk(dataset, first)

    monkeypatch.setattr(hdf5_chunks, "packed_chunk", count)
    stack = np.random.default_rng(5).poisson(1.5, (10, 30, 40)).astype("u2")
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=stack, chunks=chunks, **BSLZ4)
    np.testing.assert_array_equal(stack_of(read(path)), stack)
    if kept or chunks[1] == 30:
        assert len(decoded) == len(set(decoded))


READ_DAMAGED = """
import sys
import h5py, numpy
from ronda.core.frame import Frame
from ronda.core.sources import open_source

random = numpy.random.default_rng(int(sys.argv[2]))
with h5py.File(sys.argv[1]) as file:
    blob = file["data"].id.read_direct_chunk((4, 0, 0))[1]
for number in range(60):
    damaged = bytearray(blob)
    for place in random.integers(0, len(blob), random.integers(1, 5)):
        damaged[place] = random.integers(0, 256)
    if number % 3 == 0:
        damaged = damaged[: random.integers(1, len(blob))]
    elif number % 3 == 1:
        damaged[:12] = random.bytes(12) if number % 2 else blob[:8] + bytes([0, 64, 0, 0])
    with h5py.File(sys.argv[1], "r+") as file:
        file["data"].id.write_direct_chunk((4, 0, 0), bytes(damaged))
    events = list(open_source(f"hdf5:{sys.argv[1]}").events())[1:-1]
    assert len(events) == 10, events
    for k, event in enumerate(events):
        if isinstance(event, Frame):
            assert k // 4 == 1 or (event.data == 7 * k).all(), k
        else:
            assert k // 4 == 1 and event.frame_id == k, event
            print(event.reason)
"""


@pytest.mark.parametrize("rows", [30, 15])
def test_a_damaged_chunk_of_several_frames_kills_the_process(path: Path, rows: int) -> None:
    """HDF5's filter does: it is read in a process of its own."""
    stack = np.repeat(7 * np.arange(10, dtype="u2"), 30 * 41).reshape(10, 30, 41)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=stack, chunks=(4, rows, 41), **BSLZ4)
    command = [sys.executable, "-c", READ_DAMAGED, str(path), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    reasons = set(done.stdout.splitlines())
    assert any("cannot be decompressed" in reason for reason in reasons)
    assert any("does not say that it holds" in reason for reason in reasons)
    assert all(reason.startswith("it cannot be read: ") for reason in reasons)


def test_pieces_that_were_never_written_count_as_zeros(path: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", (9, 6, 6), "u2", chunks=(4, 3, 6), **BSLZ4)
        dataset[:4], dataset[4:8, :3] = 5, 6
    events = read(path)
    assert [event.frame_id for event in of(Rejected, events)] == [4, 5, 6, 7]
    assert "part of it was never written" in of(Rejected, events)[0].reason
    assert len(of(Lost, events)) == 1
    np.testing.assert_array_equal(stack_of(events), np.full((4, 6, 6), 5))


# ---------------------------------------------------------------------- virtual datasets

LONG = np.arange(12 * 5 * 6, dtype=np.uint16).reshape(12, 5, 6)


def virtual(path: Path, shape: tuple[int, ...], *parts: Any, dtype: Any = "u2") -> None:
    """Write a virtual dataset; a part is (where, source, selection of it or None)."""
    layout = h5py.VirtualLayout(shape, dtype)
    for where, source, selection in parts:
        layout[where] = source if selection is None else source[selection]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)


def as_hdf5_reads(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        found = file["data"][()]
    return found.reshape(-1, *found.shape[-2:])


def source(name: str, *shape: int, dtype: Any = "u2") -> h5py.VirtualSource:
    return h5py.VirtualSource(name, "frames", shape or (12, 5, 6), dtype)


every = slice(None)
VIRTUAL: dict[str, Any] = {
    "whole": ((12, 5, 6), (every, source("a.h5"), None)),
    "a part": ((5, 5, 6), (every, source("a.h5"), slice(3, 8))),
    "every third": ((4, 5, 6), (every, source("a.h5"), slice(1, 12, 3))),
    "interleaved": (
        (12, 5, 6),
        (slice(0, 12, 2), source("a.h5"), slice(6, 12)),
        (slice(1, 12, 2), source("b.h5"), slice(0, 6)),
    ),
    "three then four": ((3, 4, 5, 6), (every, source("a.h5"), every)),
    "whole, of four axes": ((3, 4, 5, 6), (every, source("c.h5", 3, 4, 5, 6), None)),
    "four then three": ((12, 5, 6), (every, source("c.h5", 3, 4, 5, 6), every)),
    "a block of four axes": (
        (3, 4, 5, 6),
        ((slice(0, 2), slice(1, 3)), source("c.h5", 3, 4, 5, 6), (slice(1, 3), slice(2, 4))),
        ((slice(0, 3), 0), source("a.h5"), slice(3, 6)),
        ((slice(0, 3), 3), source("b.h5"), slice(3, 6)),
        ((2, slice(1, 3)), source("b.h5"), slice(0, 2)),
    ),
    "images": (
        (2, 5, 6),
        (0, source("one.h5", 5, 6), None),
        (1, source("one.h5", 5, 6), None),
    ),
    "one image": ((5, 6), (every, source("a.h5"), 7)),
    "point by point": (
        (4, 3, 5, 6),
        *(((i, k), source("a.h5"), 3 * i + k) for i in range(4) for k in range(3)),
    ),
}
PIECES: dict[str, Any] = {
    "halves": (
        (12, 5, 6),
        ((every, every, slice(0, 2)), source("a.h5"), (every, every, slice(4, 6))),
        ((every, every, slice(2, 6)), source("b.h5"), (every, every, slice(0, 4))),
    ),
    "a window": ((12, 3, 4), (every, source("a.h5"), (every, slice(1, 4), slice(2, 6)))),
    "mapped twice": (
        (12, 5, 6),
        (every, source("a.h5"), None),
        (slice(2, 12), source("b.h5"), slice(2, 12)),
        (slice(0, 2), source("b.h5"), slice(2, 4)),
    ),
    "reshaped": ((12, 6, 5), (every, source("a.h5"), every)),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write the files that virtual datasets are made of."""
    packed(tmp_path / "a.h5", LONG)
    packed(tmp_path / "b.h5", LONG + 1000)
    packed(tmp_path / "c.h5", (LONG + 2000).reshape(3, 4, 5, 6))
    packed(tmp_path / "one.h5", LONG[3] + 3000)
    return tmp_path


@pytest.mark.parametrize("case", VIRTUAL)
def test_frames_of_virtual_datasets_come_from_elsewhere(raw: Path, path: Path, case: str) -> None:
    shape, *parts = VIRTUAL[case]
    virtual(path, shape, *parts)
    want = as_hdf5_reads(path)
    assert want.any(axis=(1, 2)).all()
    events = read(path, "::/data")
    np.testing.assert_array_equal(stack_of(events), want)
    assert codecs(events) == ["bslz4"] * len(want)
    for name in ("a", "b", "c", "one"):
        with h5py.File(raw / f"{name}.h5", "r+"):
            pass  # nothing holds it open


@pytest.mark.parametrize("case", PIECES)
def test_pieces_of_frames_are_taken_for_frames(raw: Path, path: Path, case: str) -> None:
    shape, *parts = PIECES[case]
    virtual(path, shape, *parts)
    events = read(path, "::/data")
    np.testing.assert_array_equal(stack_of(events), as_hdf5_reads(path))
    assert "array" in codecs(events)


def test_values_are_not_converted_as_the_virtual_dataset_says(raw: Path, path: Path) -> None:
    virtual(path, LONG.shape, (every, source("a.h5"), None), dtype="f4")
    events = read(path)
    assert codecs(events) == ["array"] * 12
    np.testing.assert_array_equal(stack_of(events), LONG.astype("f4"), strict=True)


def test_a_missing_file_takes_frames_of_others_with_it(raw: Path, path: Path) -> None:
    _, *parts = VIRTUAL["interleaved"]
    virtual(path, LONG.shape, *parts)
    (raw / "b.h5").unlink()
    events = read(path)
    assert [frame.frame_id for frame in of(Frame, events)] == [0, 2, 4, 6, 8, 10]
    np.testing.assert_array_equal(stack_of(events), LONG[6:])
    assert len(of(Lost, events)) == 6


def test_half_of_a_frame_is_there(raw: Path, path: Path) -> None:
    _, *parts = PIECES["halves"]
    virtual(path, LONG.shape, *parts)
    (raw / "b.h5").unlink()
    assert of(Lost, read(path)) == [Lost(1)] * 12


def test_frames_of_a_virtual_dataset_that_nobody_wrote_count_as_zeros(
    raw: Path, path: Path
) -> None:
    """Not written into the source, beyond its end, mapped to nothing, in no dataset there is."""
    with h5py.File(raw / "short.h5", "w") as file:
        dataset = file.create_dataset(
            "frames", (3, 5, 6), "u2", maxshape=(None, 5, 6), chunks=(1, 5, 6), **BSLZ4
        )
        dataset[0], dataset[2] = LONG[0], LONG[2]
    with h5py.File(raw / "other.h5", "w") as file:
        file["else"] = LONG
    virtual(
        path,
        (12, 5, 6),
        (slice(0, 5), source("short.h5", 5, 5, 6), every),
        (slice(6, 8), source("other.h5"), slice(0, 2)),
        (slice(8, 12), source("a.h5"), slice(8, 12)),
    )
    events = read(path)
    assert [frame.frame_id for frame in of(Frame, events)] == [0, 2, 8, 9, 10, 11]
    np.testing.assert_array_equal(stack_of(events), LONG[[0, 2, 8, 9, 10, 11]])


def test_a_damaged_raw_file_counts_as_zeros(raw: Path, path: Path) -> None:
    _, *parts = VIRTUAL["interleaved"]
    virtual(path, LONG.shape, *parts)
    (raw / "b.h5").write_bytes(b"no HDF5")
    events = read(path)
    assert [event.frame_id for event in of(Rejected, events)] == [1, 3, 5, 7, 9, 11]
    assert all("b.h5" in event.reason for event in of(Rejected, events))
    np.testing.assert_array_equal(stack_of(events), LONG[6:])


def test_a_raw_file_claims_any_number_of_frames(raw: Path, path: Path) -> None:
    """Nothing of that size is allocated."""
    with h5py.File(raw / "huge.h5", "w") as file:
        file.create_dataset("frames", (1 << 50, 5, 6), "u2", chunks=(1, 5, 6), **BSLZ4)
    virtual(
        path,
        (8, 5, 6),
        (slice(0, 4), source("huge.h5", 1 << 50, 5, 6), slice(1 << 40, (1 << 40) + 4)),
        (slice(4, 8), source("a.h5"), slice(0, 4)),
    )
    events = read(path)
    assert [event.frame_id for event in of(Rejected, events)] == [0, 1, 2, 3]
    np.testing.assert_array_equal(stack_of(events), LONG[:4])


def test_more_raw_files_than_are_kept_open(path: Path) -> None:
    names = [f"raw-{number}.h5" for number in range(20)]
    for name, image in zip(names, np.concatenate([LONG, LONG + 500])[:20], strict=True):
        packed(path.with_name(name), image[None])
    virtual(path, (20, 5, 6), *((k, source(name, 1, 5, 6), 0) for k, name in enumerate(names)))
    events = read(path)
    assert codecs(events) == ["bslz4"] * 20
    np.testing.assert_array_equal(stack_of(events), as_hdf5_reads(path))


def test_virtual_datasets_of_virtual_datasets_are_not_followed(raw: Path, path: Path) -> None:
    virtual(raw / "middle.h5", (6, 5, 6), (every, source("a.h5"), slice(2, 8)))
    with h5py.File(raw / "middle.h5", "r+") as file:
        file["frames"] = h5py.SoftLink("/data")
    virtual(path, (3, 5, 6), (every, source("middle.h5", 6, 5, 6), slice(1, 4)))
    events = read(path)
    assert codecs(events) == ["bslz4"] * 3
    np.testing.assert_array_equal(stack_of(events), LONG[3:6])


def test_a_virtual_dataset_of_itself_is_followed_for_ever(path: Path) -> None:
    itself = h5py.VirtualSource(".", "data", (4, 5, 6))
    virtual(path, (4, 5, 6), (every, itself, None))
    events = read(path, "::/data")
    assert ["circle" in event.reason for event in of(Rejected, events)] == [True] * 4
    left, right = (every, every, slice(0, 3)), (every, every, slice(3, 6))
    virtual(path, (4, 5, 6), (left, itself, right), (right, itself, left))
    assert len(of(Rejected, read(path, "::/data"))) == 4


def test_datasets_that_need_each_other_are_followed_for_ever(path: Path) -> None:
    left, right = (every, every, slice(0, 3)), (every, every, slice(3, 6))
    other = h5py.VirtualSource("other.h5", "data", (4, 5, 6))
    virtual(path, (4, 5, 6), (left, other, right), (right, other, left))
    back = h5py.VirtualSource(path.name, "/data", (4, 5, 6))
    virtual(path.with_name("other.h5"), (4, 5, 6), (left, back, left))
    assert len(of(Rejected, read(path, "::/data"))) == 4


@pytest.mark.parametrize(("length", "read_well"), [(4, True), (12, False)])
def test_a_long_chain_of_virtual_datasets_overflows(
    path: Path, length: int, read_well: bool
) -> None:
    packed(path.with_name("link-0.h5"))
    with h5py.File(path.with_name("link-0.h5"), "r+") as file:
        file["data"] = file["frames"]
    left, right = (every, every, slice(0, 3)), (every, every, slice(3, 6))
    for number in range(1, length):
        name = "link-%d.h5"
        before = h5py.VirtualSource(name % (number - 1), "data", (4, 5, 6))
        virtual(
            path.with_name(name % number), (4, 5, 6), (left, before, left), (right, before, right)
        )
    events = read(path.with_name(f"link-{length - 1}.h5"), "::/data")
    assert len(of(Frame, events)) == 4 * read_well
    assert len(of(Rejected, events)) == 4 * (not read_well)
    if read_well:
        np.testing.assert_array_equal(stack_of(events), STACK)


def test_datasets_of_the_same_file_are_not_found(path: Path) -> None:
    packed(path, LONG)
    layout = h5py.VirtualLayout((4, 5, 6), "u2")
    layout[...] = h5py.VirtualSource(".", "frames", LONG.shape)[4:8]
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("data", layout)
    events = read(path, "::/data")
    assert codecs(events) == ["bslz4"] * 4
    np.testing.assert_array_equal(stack_of(events), LONG[4:8])


def test_a_mapping_without_end_is_taken_apart(raw: Path, path: Path) -> None:
    """As writers make them that do not know how many frames there will be."""
    with h5py.File(raw / "grows.h5", "w") as file:
        file.create_dataset("frames", data=LONG, maxshape=(None, 5, 6), chunks=(1, 5, 6), **BSLZ4)
    endless = h5py.h5s.UNLIMITED
    space = h5py.h5s.create_simple((12, 5, 6), (endless, 5, 6))
    space.select_hyperslab((0, 0, 0), (1, 1, 1), (1, 1, 1), (endless, 5, 6))
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_virtual(space, b"grows.h5", b"frames", space)
    with h5py.File(path, "w") as file:
        whole = h5py.h5s.create_simple((12, 5, 6), (endless, 5, 6))
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, whole, create)
    np.testing.assert_array_equal(stack_of(read(path)), LONG)


def test_the_unwritten_frames_of_a_real_file_count_as_darks(shared_data: Path) -> None:
    dark = shared_data / "scmos" / "marana-dark.h5"
    if not dark.is_file():
        pytest.skip("the sCMOS dark is not among the real data")
    events = read(dark)
    frames = of(Frame, events)
    assert (len(frames), len(of(Lost, events))) == (2, 98)
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((2048, 2048), "uint16")}
    assert all(90 < frame.data.mean() < 110 for frame in frames)
