"""Names of new files, where others take names too."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import h5py
import pytest
from ronda.core.sinks import reserved
from ronda.core.sinks.reserved import close, create_new


def test_a_name_that_another_device_takes_a_moment_before_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, try_room = tmp_path / "scan.h5", reserved._try_room

    def others_come_first(candidate: Path, room: int) -> None:
        try_room(candidate, room)
        if candidate == path:
            candidate.write_bytes(b"of another device")

    monkeypatch.setattr(reserved, "_try_room", others_come_first)
    close(create_new(path, 1000))
    assert path.read_bytes() == b"of another device"
    with h5py.File(tmp_path / "scan_2.h5") as file:
        assert list(file) == []


def _make(path: Path, number: int) -> list[str]:
    names = []
    for turn in range(20):
        file = create_new(path, 1000)
        file["of"] = [number, turn]
        names.append(file.filename)
        close(file)
    return names


def test_devices_that_name_their_files_alike_get_a_file_each(tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        made = pool.starmap(_make, [(tmp_path / "scan.h5", number) for number in range(2)])
    for number, names in enumerate(made):
        for turn, name in enumerate(names):
            with h5py.File(name) as file:
                assert file["of"][()].tolist() == [number, turn]
