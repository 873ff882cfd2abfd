"""Files of any form make one series: each frame once, in order, with its place in the numbering."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame, Rejected, SeriesStart
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
    assert frames(events) == [(0, 1), (1, 2), (3, 5)]
    [rejected] = [event for event in events if isinstance(event, Rejected)]
    assert rejected.frame_id == 2
    assert "x_2.h5" in rejected.reason


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


def test_nothing_fits_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.edf: there is no such file"):
        matching([str(tmp_path / "none.edf")])
    with pytest.raises(SourceError, match="no file fits"):
        FilesSource([])
