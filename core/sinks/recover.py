"""Makes a file readable by everything again after its writer was killed.

Such a file carries flags in its superblock that say it is being written, and
only readers with `swmr=True` open it. The work is done on a copy, which takes
the file's place when every value in it was read: whatever happens meanwhile,
the file is as it was or recovered.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from .compression import make_readable
from .reserved import ROOM, VERSION, abandon, close, reserve
from .seriesfile import END_NOTE, END_TIME, ENTRY, complete, early_end
from .tables import POINTS_INTO
from .tree import write_tree

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")
"""Version 2 and 3 (HDF5 File Format Specification 3.0, II.A): signature, version,
bytes of an address, bytes of a length, flags, base, extension, end of file, root."""
NOTE = "recovered after the file writer was killed"


class RecoveryError(OSError):
    """A file that cannot be recovered; it is as it was. The message is one sentence."""


def recover(path: Path) -> str:
    """Recover a file; return what was done, in one sentence.

    Also completes a file whose writer was killed between its last values and
    its last links. Nothing is done to a file that is complete.

    Raises
    ------
    RecoveryError
        If it is no HDF5 file of a known form, is in use, or there is no room for the copy.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            _claim(file, path)
            flags, *_ = _superblock(file, path)
            if not flags and _is_complete(path):
                return f"{path} needs no recovery"
            return _recover_copy(path)
    except RecoveryError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise RecoveryError(f"{path} cannot be recovered and is as it was: {error}") from None


def _recover_copy(path: Path) -> str:
    draft = path.with_name(f".{path.name}.recovering")
    ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    shutil.copyfile(path, draft)
    shutil.copymode(path, draft)
    try:
        with draft.open("r+b") as file:
            _clear_flags(file, path)
            reserve(file.fileno(), ROOM)
        rows, damaged = _complete_copy(draft, ended)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    lost = f"; unreadable: {', '.join(damaged)}" if damaged else ""
    return f"{path} recovered, with {rows} rows{lost}"


def _complete_copy(draft: Path, ended: datetime) -> tuple[int, list[str]]:
    """Read everything, note the end and complete; return rows, and what could not be read."""
    make_readable()
    file = h5py.File(draft, "r+", libver=VERSION)
    try:
        tables, damaged = _read_all(file)
        note, time = (f"{_entry(file)}/{name}" for name in (END_NOTE, END_TIME))
        cut = not damaged and note in file and not file[note][()]
        if cut:
            _even_out(tables)
        rows = max((len(table) for group in tables for table in group), default=0)
        end: dict[str, Any] = early_end(_entry(file), NOTE, ended.isoformat(timespec="seconds"))
        if not cut:  # its last values came, or nothing more can be trusted to it
            end = {key: end[key] for key in (note, time)}
        finishing = write_tree if damaged else complete
        finishing(file, {k: value for k, value in end.items() if k.partition("@")[0] in file})
        file.flush()
    except Exception:
        abandon(file)
        raise
    close(file)
    with draft.open("rb") as handle:
        os.fsync(handle.fileno())
    return rows, damaged


def _read_all(file: h5py.File) -> tuple[list[list[h5py.Dataset]], list[str]]:
    """Read every value once; return the tables of each group, and what failed."""
    tables: list[list[h5py.Dataset]] = []
    damaged: list[str] = []
    groups = [file["/"]]
    while groups:
        group = groups.pop()
        tables.append([])
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            try:
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                    continue
                _read_values(item)
            except (OSError, RuntimeError, KeyError):
                damaged.append(f"{group.name}/{name}")
            else:
                if item.ndim and item.maxshape[0] is None:
                    tables[-1].append(item)
    return tables, damaged


def _read_values(dataset: h5py.Dataset) -> None:
    """Read a dataset piece by piece; what was never written is no piece."""
    if not dataset.chunks:
        dataset[()]
        return
    pieces: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda stored: pieces.append(stored.chunk_offset))
    for place in pieces:
        ends = zip(place, dataset.chunks, strict=True)
        dataset[tuple(slice(start, start + length) for start, length in ends)]


def _even_out(tables: list[list[h5py.Dataset]]) -> None:
    """Cut the tables of a group, which grow together, to the shortest.

    Rows beyond belong to a flush that the kill cut short. Only for a file whose
    series had not ended: after that there may be links to tables of other groups.
    """
    for group in tables:
        pointers = [table for table in group if POINTS_INTO in table.attrs]
        if pointers:
            _even_out_events(group, pointers[0])
            continue
        for table in group:
            table.resize(min(map(len, group)), axis=0)


def _even_out_events(group: list[h5py.Dataset], pointer: h5py.Dataset) -> None:
    """Cut tables of frames and of events to the frames that have all their rows."""
    names = set(pointer.attrs[POINTS_INTO])
    events = [table for table in group if table.name.rpartition("/")[2] in names]
    frames = [table for table in group if table not in (pointer, *events)]
    ends = pointer[: min([len(pointer), *(len(table) + 1 for table in frames)])]
    there = (ends[1:] >= ends[:-1]) & (ends[1:] <= min(map(len, events), default=0))
    count = len(there) if there.all() else int(np.argmin(there))
    pointer.resize(count + 1, axis=0)
    for table in frames:
        table.resize(count, axis=0)
    for table in events:
        table.resize(int(ends[count]), axis=0)


def _entry(file: h5py.File) -> str:
    """Return the name of the group that holds everything."""
    name = file.attrs.get("default")
    return name if isinstance(name, str) and name.strip("/") else ENTRY


def _is_complete(path: Path) -> bool:
    with h5py.File(path, "r", locking=False) as file:
        note = f"{_entry(file)}/{END_NOTE}"
        return note not in file or bool(file[note][()])


def _claim(file: BinaryIO, path: Path) -> None:
    """Make sure that nobody writes or reads the file (readers with swmr=True cannot be seen)."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RecoveryError(f"{path} is being written or read; close it there first") from None
    except OSError:
        return


def _superblock(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Return flags and end of file, from a superblock whose checksum is right."""
    file.seek(0)
    block = file.read(SUPERBLOCK.size + 4)
    if len(block) < SUPERBLOCK.size + 4 or not block.startswith(SIGNATURE):
        raise RecoveryError(f"{path} is no HDF5 file")
    _, version, address, length, flags, _, _, end, _ = SUPERBLOCK.unpack_from(block)
    if version < 2:
        return 0, 0
    if (address, length) != (8, 8) or block[-4:] != checksum(block[:-4]):
        raise RecoveryError(f"{path} has a damaged superblock")
    return flags, end


def _clear_flags(file: BinaryIO, path: Path) -> None:
    """Say that nobody writes, and that the file ends where it ends."""
    _superblock(file, path)
    file.seek(0)
    fields = list(SUPERBLOCK.unpack(file.read(SUPERBLOCK.size)))
    fields[4], fields[7] = 0, file.seek(0, os.SEEK_END)
    block = SUPERBLOCK.pack(*fields)
    file.seek(0)
    file.write(block + checksum(block))
    file.flush()


def checksum(data: bytes) -> bytes:
    """Return HDF5's checksum of a block: Jenkins' lookup3 (hashlittle), 4 bytes."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data + bytes(-len(data) % 12))
    for start in range(0, len(words), 3):
        a, b, c = ((x + y) & 0xFFFFFFFF for x, y in zip((a, b, c), words[start:], strict=False))
        a, b, c = _mix(a, b, c) if start + 3 < len(words) else _final(a, b, c)
    return struct.pack("<I", c)


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c & 0xFFFFFFFF) ^ _rotated(c, bits)
        c = c + b & 0xFFFFFFFF
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, bits) & 0xFFFFFFFF
        a, b, c = b, c, a
    return c, a, b
