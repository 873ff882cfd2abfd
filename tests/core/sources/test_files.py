"""Files of any form make one series: each frame once, in order, with its place in the numbering."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame, Lost, Notice, Rejected, SeriesStart
from ronda.core.sources import Event, SourceError, open_source
from ronda.core.sources.files import SOURCE_FILES, FilesSource, matching
from ronda.tests.image_files import write_image

SHAPE = (6, 7)


def image(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.int32)


def edf(path: Path, value: int) -> Path:
    return write_image(path, image(value))


def hdf5(path: Path, *values: int) -> Path:
    with h5py.File(path, "w") as file:
        file["data"] = np.array([image(value) for value in values])
    return path


def read(*patterns: object) -> list[Event]:
    return list(FilesSource(matching([str(pattern) for pattern in patterns])).events())


def frames(events: list[Event]) -> list[tuple[int, int]]:
    """Return number and value of each frame."""
    return [(e.frame_id, int(e.data[0, 0])) for e in events if isinstance(e, Frame)]


def test_files_of_several_forms_are_several_series(tmp_path: Path) -> None:
    names = [edf(tmp_path / "a_1.edf", 10), hdf5(tmp_path / "b.h5", 20, 21, 22)]
    names.append(edf(tmp_path / "c_1.edf", 30))
    events = read(*names)
    assert frames(events) == [(0, 10), (1, 20), (2, 21), (3, 22), (4, 30)]
    assert sum(isinstance(event, SeriesStart) for event in events) == 1
    [series] = [event.series for event in events if isinstance(event, SeriesStart)]
    assert series.metadata[SOURCE_FILES] == [str(name) for name in names]


def test_numbered_files_that_several_patterns_name_are_read_more_than_once(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11):
        edf(tmp_path / f"x_{number}.edf", number)
    events = read(tmp_path / "x_*.edf", tmp_path / "x_10.edf", tmp_path / "x_1*.edf")
    assert frames(events) == [(0, 1), (1, 2), (2, 9), (3, 10), (4, 11)]


def test_a_damaged_file_shifts_the_numbers_of_those_after_it(tmp_path: Path) -> None:
    hdf5(tmp_path / "x_1.h5", 1, 2)
    (tmp_path / "x_2.h5").write_bytes(b"no HDF5")
    hdf5(tmp_path / "x_3.h5", 5)
    events = read(tmp_path / "x_*.h5")
    assert frames(events) == [(0, 1), (1, 2), (4, 5)]
    rejected = [event for event in events if isinstance(event, Rejected)]
    assert [event.frame_id for event in rejected] == [2, 3]
    assert all("x_2.h5" in event.reason for event in rejected)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 9])


def stacked(path: Path, *values: int) -> Path:
    return write_image(path, *map(image, values)) if path.suffix == ".edf" else hdf5(path, *values)


@pytest.mark.allow_error_log
@pytest.mark.parametrize("suffix", ["h5", "edf"])
@pytest.mark.parametrize("damaged", [(0,), (1,), (0, 1), (3,), (1, 2)])
def test_a_damaged_file_of_several_frames_counts_as_one(
    tmp_path: Path, suffix: str, damaged: tuple[int, ...]
) -> None:
    for number in range(4):
        begin = 10 * number
        stacked(tmp_path / f"a_{number}.{suffix}", *range(begin, begin + (10 if number < 3 else 4)))
        if number in damaged:
            halve(tmp_path / f"a_{number}.{suffix}")
    events = read(tmp_path / f"a_*.{suffix}")
    placed = frames(events)
    assert all(number == value for number, value in placed)
    whole = {value for value in range(34) if value // 10 not in damaged}
    assert whole <= {value for _, value in placed}
    rejected = [event.frame_id for event in events if isinstance(event, Rejected)]
    taken = sorted([*rejected, *(number for number, _ in placed)])
    assert taken == list(range(40 if damaged == (3,) else 34))


@pytest.mark.parametrize("sizes", [(2, 0, 3, 2), (0, 5), (1, 0, 2), (0, 0, 0, 0, 0, 0, 7, 7)])
def test_frames_after_a_file_of_unknown_length_are_placed(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    for number, size in enumerate(sizes):
        path = hdf5(tmp_path / f"a_{number}.h5", *range(size or 1))
        if size == 0:
            halve(path)
    bad = sizes.index(0)
    source = FilesSource(matching([f"{tmp_path}/a_*.h5"]))
    found = []
    with pytest.raises(SourceError, match=rf"a_{bad}\.h5 cannot be read.*leave it out"):
        found.extend(source.events())
    assert len(frames(found)) == sum(sizes[:bad])
    rejected = [event.frame_id for event in found if isinstance(event, Rejected)]
    assert rejected == [sum(sizes[:bad])]


def test_a_file_cut_between_two_frames_shifts_those_after_it_without_a_word(tmp_path: Path) -> None:
    """Nothing in it shows the cut: its frames alone are there."""
    for number, size in enumerate((2, 2, 1, 2, 1)):
        stacked(tmp_path / f"a_{number}.edf", *[number] * size)
    assert told(read(tmp_path / "a_*.edf")) == [
        f"{tmp_path}/a_2.edf holds 1 frames, other than the files before it"
    ]


def test_files_of_another_form_say_how_long_a_damaged_one_was(tmp_path: Path) -> None:
    edf(tmp_path / "a_1.edf", 0)
    hdf5(tmp_path / "a_2.h5", 1, 2, 3)
    halve(edf(tmp_path / "a_3.edf", 9))
    hdf5(tmp_path / "a_4.h5", 5, 6)
    edf(tmp_path / "a_5.edf", 7)
    assert frames(read(tmp_path / "a_*")) == [(n, n) for n in (0, 1, 2, 3, 5, 6, 7)]


def told(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_a_missing_number_shifts_the_frames_after_it(tmp_path: Path) -> None:
    for number in (1, 2, 4, 5, 8):
        edf(tmp_path / f"scan_{number:04d}.edf", number - 1)
    events = read(tmp_path / "scan_*.edf")
    assert frames(events) == [(0, 0), (1, 1), (3, 3), (4, 4), (7, 7)]
    assert sum(event.count for event in events if isinstance(event, Lost)) == 3
    assert told(events) == [
        "files are missing by their numbers: 1 after scan_0002.edf, 2 after scan_0005.edf; "
        "their places stay empty"
    ]
    assert FilesSource(matching([f"{tmp_path}/scan_*.edf"])).count() == 8


def test_a_missing_number_of_files_with_several_frames_goes_unsaid(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        hdf5(tmp_path / f"scan_{number}.h5", number, number)
    events = read(tmp_path / "scan_*.h5")
    assert [number for number, _ in frames(events)] == list(range(6))
    assert told(events) == [
        "files are missing by their numbers: 1 after scan_1.h5; the others follow without a gap"
    ]


def test_notices_of_several_files_replace_each_other(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        with h5py.File(tmp_path / f"a_{number}.h5", "w") as file:
            dataset = file.create_dataset("data", (2, *SHAPE), "i4", chunks=(1, *SHAPE))
            dataset[0] = number
    last = told(read(tmp_path / "a_*.h5"))[-1]
    assert all(f"1 frames of {tmp_path}/a_{number}.h5" in last for number in (1, 2, 4))
    assert "1 after a_2.h5" in last


def test_a_dataset_cannot_be_chosen(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "two.h5", 1)
    with h5py.File(path, "a") as file:
        file["other"] = np.array([image(7), image(8)])
    assert frames(read(f"{path}::/other")) == [(0, 7), (1, 8)]
    [rejected] = [event for event in read(path) if isinstance(event, Rejected)]
    assert "several datasets" in rejected.reason


def test_how_many_frames_there_are_is_wrong(tmp_path: Path) -> None:
    hdf5(tmp_path / "x_1.h5", 1, 2, 3)
    edf(tmp_path / "x_2.edf", 4)
    source = open_source(f"images:{tmp_path}/x_*")
    totals = [source.total for event in source.events() if isinstance(event, Frame)]
    assert totals == [4, 4, 4, 4]
    assert source.total == 4


def test_frames_of_one_file_are_counted_as_one(tmp_path: Path) -> None:
    for suffix in ("edf", "h5"):
        stacked(tmp_path / f"multi.{suffix}", 1, 2, 3)
    assert FilesSource([f"{tmp_path}/multi.edf"]).count() == 3
    both = FilesSource([f"{tmp_path}/multi.edf", f"{tmp_path}/multi.h5", f"{tmp_path}/none.edf"])
    assert both.count() == 7
    assert both.count(most=2) == 3


def test_a_file_named_in_two_ways_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edf").mkdir()
    for number in (1, 2, 3):
        edf(tmp_path / "edf" / f"x_{number}.edf", number)
    (tmp_path / "edf" / "x_4.edf").symlink_to("x_3.edf")  # in the place of one that was lost
    monkeypatch.chdir(tmp_path)
    names = ("edf/x_2.edf", f"{tmp_path}/edf/x_*.edf", "./edf/../edf/x_1.edf", "edf/x_1.edf")
    assert frames(read(*names)) == [(0, 1), (1, 2), (2, 3), (3, 3)]


def test_datasets_of_the_frames_are_not_those_that_are_read(tmp_path: Path) -> None:
    for number in range(3):
        path = hdf5(tmp_path / f"a_{number}.h5", *[number] * 2)
        if number == 1:
            halve(path)
    source = FilesSource(matching([f"{tmp_path}/a_*.h5"]))
    places = [(part.file.name, part.frames, bool(part.problem)) for part in source.parts()]
    assert places == [("a_0.h5", 2, False), ("a_1.h5.missing", 2, True), ("a_2.h5", 2, False)]
    for number in (1, 2, 4):
        hdf5(tmp_path / f"b_{number}.h5", number)
    source = FilesSource(matching([f"{tmp_path}/b_*.h5"]))
    assert [part.file.name for part in source.parts()] == [
        "b_1.h5",
        "b_2.h5",
        "b_4.h5.missing",
        "b_4.h5",
    ]
    assert FilesSource([str(edf(tmp_path / "c.edf", 1))]).parts() == []


def test_nothing_fits_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.edf: there is no such file"):
        matching([str(tmp_path / "none.edf")])
    with pytest.raises(SourceError, match="no file fits"):
        FilesSource([])
