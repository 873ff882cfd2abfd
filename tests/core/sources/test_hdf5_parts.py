"""Images that a master file has in several data files arrive all, each in its place."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame, Rejected
from ronda.core.sources import Event, SourceError, hdf5_parts, open_source

SHAPE = (5, 6)


def master(folder: Path, *sizes: int, signal: str = "", first: int = 1, **attributes: Any) -> Path:
    """Write a master file and its data files, whose images count on."""
    path, number = folder / "scan_master.h5", 0
    with h5py.File(path, "w") as file:
        data = file.create_group("entry/data")
        file["entry/instrument/detector/detectorSpecific/pixel_mask"] = np.zeros(SHAPE, "u4")
        for at, size in enumerate(sizes, first):
            stack = np.full((size, *SHAPE), np.arange(number, number + size)[:, None, None], "u2")
            with h5py.File(folder / f"scan_data_{at:06d}.h5", "w") as raw:
                raw["entry/data/data"] = stack
                raw["entry/data/data"].attrs["image_nr_low"] = number + 1
            data[f"data_{at:06d}"] = h5py.ExternalLink(f"scan_data_{at:06d}.h5", "entry/data/data")
            number += size
        if signal:
            file.attrs["default"], file["entry"].attrs["default"] = "entry", "data"
            data.attrs["signal"] = signal
    return path


def read(path: Path, inside: str = "") -> list[Event]:
    source = open_source(f"hdf5:{path}{inside}")
    events = list(source.events())
    numbers = [event.frame_id for event in events if isinstance(event, Frame | Rejected)]
    assert numbers == list(range(source.total or 0))
    return events


def places(events: list[Event]) -> list[tuple[int, int]]:
    return [(event.frame_id, int(event.data[0, 0])) for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize("signal", ["", "data_000001", "gone"])
@pytest.mark.parametrize("inside", ["", "::/entry/data"])
def test_only_the_first_data_file_is_read(tmp_path: Path, signal: str, inside: str) -> None:
    path = master(tmp_path, 4, 4, 2, signal=signal)
    assert places(read(path, inside)) == [(n, n) for n in range(10)]


def test_a_single_data_file_is_not_read(tmp_path: Path) -> None:
    path = master(tmp_path, 4, 4, 2)
    assert places(read(path, "::/entry/data/data_000002")) == [(n, n + 4) for n in range(4)]
    assert places(read(master(tmp_path, 3))) == [(n, n) for n in range(3)]


def test_many_data_files_are_mixed_up(tmp_path: Path) -> None:
    assert places(read(master(tmp_path, *[1] * 12))) == [(n, n) for n in range(12)]


def test_a_signal_beside_numbered_datasets_is_not_taken(tmp_path: Path) -> None:
    path = master(tmp_path, 2, 2, signal="all")
    with h5py.File(path, "r+") as file:
        file["entry/data/all"] = np.full((3, *SHAPE), 7)
    assert [value for _, value in places(read(path))] == [7, 7, 7]


@pytest.mark.parametrize("signal", ["", "data_000001"])
@pytest.mark.parametrize(
    ("how", "at"),
    [
        *product(("gone", "damaged", "no dataset"), (1, 2, 3)),
        ("no link", 2),
        ("no link", 3),  # without the first the series begins with the second
    ],
)
def test_a_missing_data_file_shifts_the_frames_after_it(
    tmp_path: Path, signal: str, how: str, at: int
) -> None:
    path = master(tmp_path, 4, 4, 4, 2, signal=signal)
    raw, link = tmp_path / f"scan_data_{at:06d}.h5", f"entry/data/data_{at:06d}"
    if how == "gone":
        raw.unlink()
    elif how == "damaged":
        raw.write_bytes(raw.read_bytes()[:900])
    else:
        with h5py.File(path, "r+") as file:
            del file[link]
            if how == "no dataset":
                file.create_group(link)
    events = read(path)
    missing = range(4 * at - 4, 4 * at)
    assert places(events) == [(n, n) for n in range(14) if n not in missing]
    rejected = [event for event in events if isinstance(event, Rejected)]
    assert [event.frame_id for event in rejected] == list(missing)
    assert f"data_{at:06d}" in rejected[0].reason


def test_the_last_data_file_is_missing_without_a_word(tmp_path: Path) -> None:
    path = master(tmp_path, 4, 4, 2)
    (tmp_path / "scan_data_000003.h5").unlink()
    rejected = [event for event in read(path) if isinstance(event, Rejected)]
    assert {event.reason for event in rejected} == {
        f"there is no file {tmp_path}/scan_data_000003.h5"
    }


def test_frames_after_a_data_file_of_unknown_length_are_placed(tmp_path: Path) -> None:
    """Of two data files the last may hold fewer; where it says its first number, that helps."""
    path = master(tmp_path, 4, 2)
    (tmp_path / "scan_data_000001.h5").unlink()
    assert places(read(path)) == [(4, 4), (5, 5)]
    with h5py.File(tmp_path / "scan_data_000002.h5", "r+") as file:
        del file["entry/data/data"].attrs["image_nr_low"]
    with pytest.raises(SourceError, match=r"no file .*data_000001\.h5; how many frames .* known"):
        open_source(f"hdf5:{path}")
    (tmp_path / "scan_data_000002.h5").unlink()
    with pytest.raises(SourceError, match="no dataset of images"):
        open_source(f"hdf5:{path}")


def test_a_master_file_of_a_few_bytes_names_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = master(tmp_path, 2, 2)
    with h5py.File(path, "r+") as file:
        file["entry/data/data_999999"] = h5py.SoftLink("/entry/data/data_000001")
    with pytest.raises(SourceError, match="more than 10000 data files"):
        open_source(f"hdf5:{path}")
    path = master(tmp_path, 2, 2)
    monkeypatch.setattr(hdf5_parts, "MAX_FRAMES", 3)
    with pytest.raises(SourceError, match="more than 3 frames"):
        open_source(f"hdf5:{path}")
