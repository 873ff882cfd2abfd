"""HDF5 files that grow only into room which was reserved for them.

HDF5 does not survive a full disk: it loses pieces that it was given before,
silently, or crashes in its next flush [both measured]. So the room is taken
before HDF5 is asked to write, by allocating the file beyond its end, which
disks and quotas refuse in time; what was not used is given back after a flush.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import h5py

ROOM = 1 << 20
"""Bytes to reserve beyond the values themselves, for HDF5's own."""
VERSION = ("v110", "v110")
"""Oldest and newest format of the files: what SWMR needs, and no newer."""
END_OF_FILE = struct.Struct("<28xQ")
"""Where the superblock says how long the file is (version 3, 8-byte addresses)."""


def create_new(path: Path, room: int) -> h5py.File:
    """Create a file under the first of its possible names that is free, with so much room.

    HDF5 locks nothing: a reader that looks for the file all the time would get a lock
    between two of the writer's, which then fails [seen: 11 of 1500 files]. Readers are
    kept off by the flags in the file, other programs by `SeriesFile`.

    Raises
    ------
    OSError
        If there is none, no room, or the folder cannot be written to.
    """
    for candidate in alternatives(path):
        try:
            _try_room(candidate, room)
            file = h5py.File(candidate, "x", libver=VERSION, locking=False)
        except FileExistsError:  # perhaps since a moment only: another device takes such names too
            continue
        try:
            with candidate.open("r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, room)
        except OSError:
            abandon(file)
            raise
        return file
    raise FileExistsError(errno.EEXIST, f"no free name for {path}")


def _try_room(path: Path, room: int) -> None:
    """Find out whether a new file may be that large, with no HDF5 in it that could fail."""
    with path.open("xb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, room)
        finally:
            path.unlink()


def alternatives(path: Path) -> Iterator[Path]:
    """Yield the names that a file may take: itself, then with `_2`, `_3`..."""
    yield path
    for number in range(2, 10_000):
        yield path.with_name(f"{path.stem}_{number}{path.suffix}")


def reserve(handle: int, room: int) -> None:
    """Make sure that a file can grow by so many bytes, until `give_back`.

    Raises
    ------
    OSError
        If it cannot, because of the disk or a quota.
    """
    (end,) = END_OF_FILE.unpack(os.pread(handle, END_OF_FILE.size, 0))
    os.posix_fallocate(handle, end, room)


def give_back(handle: int) -> None:
    """Give back the room that was reserved for a file and not used, after a flush."""
    os.ftruncate(handle, *END_OF_FILE.unpack(os.pread(handle, END_OF_FILE.size, 0)))


def close(file: h5py.File) -> None:
    """Close a file that room was reserved for."""
    path = Path(file.filename)
    file.close()
    with path.open("r+b") as handle:
        give_back(handle.fileno())


_abandoned: list[h5py.File] = []
"""Files that HDF5 could not write; never closed, which would crash."""


def abandon(file: h5py.File) -> None:
    """Give the name and room of a half-made file back; its handle stays."""
    _abandoned.append(file)
    os.truncate(file.filename, 0)
    Path(file.filename).unlink()


def any_abandoned() -> bool:
    """Tell whether there is a file that HDF5 must not close at exit."""
    return bool(_abandoned)
