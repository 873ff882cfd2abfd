"""Recovery loses nothing, refuses what it does not know, and leaves files as they were."""

from __future__ import annotations

import fcntl
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ronda.core.sinks.recover import RecoveryError, checksum, recover
from ronda.core.sinks.seriesfile import END_NOTE, END_TIME, SeriesFile
from ronda.core.sinks.tables import Table
from ronda.core.sinks.wire import plain
from ronda.tests.core.sinks.writing import end_values, flushed_when_killed

WRITER = """
import os, sys
import numpy as np
from pathlib import Path
from ronda.core.sinks.seriesfile import END_NOTE, END_TIME, SeriesFile
from ronda.core.sinks.tables import Table
from ronda.core.sinks.wire import fixed_text
tables = {f"entry/t{i}": Table(np.dtype("f8"), ()) for i in range(8)}
tables["entry/rois/{slot}/mean"] = Table(np.dtype("f8"), (), marks=True)
tree = {f"entry/{END_TIME}": fixed_text("", 32), f"entry/{END_NOTE}": fixed_text("", 64),
        "entry@frames": 0,
        "entry/rois/names": fixed_text(["peak"], 64, 4)}
blanks = {"entry/sum": ("<i8", (100, 100))}
file = SeriesFile(Path(sys.argv[1]), tree, blanks, {"frames": tables}, 4)
row = 0
for _ in range(int(sys.argv[2])):
    values = np.arange(row, row + 10.0)
    columns = {path: values for path in tables}
    columns["entry/rois/{slot}/mean"] = np.stack([values] + [values * np.nan] * 3, axis=1)
    file.rows({"frames": columns}, 10)
    row += 10
    file.update({"entry/sum": np.full((100, 100), row), "entry@frames": row})
    file.flush()
    print(row, flush=True)
if len(sys.argv) > 3:
    file.finish({})
    file.flush()
else:
    sys.stdin.read()
os._exit(0)
"""


def written(path: Path, flushes: int, *more: str) -> None:
    """Have a file written; unless told to finish, its writer ends as if killed."""
    command = [sys.executable, "-c", WRITER, str(path), str(flushes), *more]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True)


@pytest.fixture(scope="module")
def torn_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torn") / "torn.h5"
    written(path, 5)
    return path


@pytest.fixture
def torn(torn_original: Path, tmp_path: Path) -> Path:
    """A file whose writer was killed after 50 rows."""
    return Path(shutil.copy(torn_original, tmp_path))


def test_torn_file_opens_plainly_and_completely(torn: Path) -> None:
    with pytest.raises(OSError, match="already open"):
        h5py.File(torn)
    assert recover(torn) == f"{torn} recovered, with 50 rows"
    with h5py.File(torn, "r+") as file:
        for number in range(8):
            assert file[f"entry/t{number}"][...].tolist() == list(range(50))
        assert (file["entry/sum"][...] == 50).all()
        assert file["entry"].attrs["frames"] == 50
        assert set(file["entry/rois"]) == {"names", "slot_00", "peak"}
        assert file[f"entry/{END_NOTE}"].asstr()[()].startswith("recovered")
        assert file[f"entry/{END_TIME}"].asstr()[()].startswith("20")
    assert list(torn.parent.iterdir()) == [torn]


UNEVEN = """
import os, sys, h5py
file = h5py.File(sys.argv[1], "r+", libver=("v110", "v110"))
file.swmr_mode = True
for path, rows in {"entry/t3": 60, "entry/rois/slot_00/mean": 55}.items():
    file[path].resize(rows, axis=0)
    file[path][50:] = 7.0
file.flush()
os._exit(0)
"""


def test_tables_that_the_kill_left_uneven_are_cut_to_what_all_have(torn: Path) -> None:
    """Those of a group grow together; what one has more is of a flush that was not."""
    recover(torn)
    with h5py.File(torn, "r+") as file:
        file[f"entry/{END_NOTE}"][()] = np.bytes_(b"")
    subprocess.run([sys.executable, "-c", UNEVEN, str(torn)], check=True)
    assert recover(torn) == f"{torn} recovered, with 55 rows"
    with h5py.File(torn) as file:
        assert {len(file[f"entry/t{number}"]) for number in range(8)} == {50}
        assert file["entry/t3"][...].tolist() == list(range(50))
        assert file["entry/rois/slot_00/mean"][50:].tolist() == [7.0] * 5


def test_tables_of_others_are_not_cut(torn: Path) -> None:
    recover(torn)
    with h5py.File(torn, "r+") as file:
        del file[f"entry/{END_NOTE}"]
    subprocess.run([sys.executable, "-c", UNEVEN, str(torn)], check=True)
    assert recover(torn) == f"{torn} recovered, with 60 rows"
    with h5py.File(torn) as file:
        assert len(file["entry/t3"]) == 60


def test_second_recovery_changes_nothing(torn: Path) -> None:
    recover(torn)
    content = torn.read_bytes()
    assert recover(torn) == f"{torn} needs no recovery"
    assert torn.read_bytes() == content


def test_file_killed_before_its_last_links_is_completed(torn: Path) -> None:
    recover(torn)
    with h5py.File(torn, "r+") as file:
        del file["entry/rois/peak"]
        file[f"entry/{END_NOTE}"][()] = np.bytes_(b"")
    assert "recovered" in recover(torn)
    with h5py.File(torn) as file:
        assert "peak" in file["entry/rois"]


def test_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "live.h5"
    command = [sys.executable, "-c", WRITER, str(path), "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as writer:
        assert writer.stdout
        assert [writer.stdout.readline() for _ in range(2)] == ["10\n", "20\n"]
        with pytest.raises(RecoveryError, match="being written"):
            recover(path)
        writer.communicate()


def test_reader_that_looks_for_a_file_too_early_does_not_keep_it_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "early.h5"
    lay_out = SeriesFile._lay_out

    def watched(self: SeriesFile, file: h5py.File) -> None:
        with path.open("rb") as reader:
            fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as HDF5 does for readers
            with pytest.raises(RecoveryError, match="being written"):
                recover(path)
            lay_out(self, file)

    monkeypatch.setattr(SeriesFile, "_lay_out", watched)
    file = SeriesFile(path, {}, {}, {"frames": {"t": Table(np.dtype("i4"), ())}}, 1)
    file.rows({"frames": {"t": np.arange(3, dtype="i4")}}, 3)
    file.finish({})
    file.flush()
    with h5py.File(path) as opened:
        assert opened["t"][...].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\0" * 4096])
def test_what_is_no_hdf5_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(content)
    with pytest.raises(RecoveryError, match="no HDF5 file"):
        recover(path)
    assert path.read_bytes() == content


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match=r"nothing\.h5 cannot be recovered"):
        recover(tmp_path / "nothing.h5")


def test_damaged_superblock_is_refused(torn: Path) -> None:
    content = bytearray(torn.read_bytes())
    content[30] ^= 1
    torn.write_bytes(content)
    with pytest.raises(RecoveryError, match="damaged superblock"):
        recover(torn)
    assert torn.read_bytes() == content


def test_file_cut_short_is_refused_or_named_and_kept(torn: Path) -> None:
    content = torn.read_bytes()
    assert int.from_bytes(content[28:36], "little") == len(content), "room was not given back"
    for size in (len(content) // 3, len(content) - 2000):
        torn.write_bytes(content[:size])
        try:
            said = recover(torn)
        except RecoveryError:
            assert torn.read_bytes() == content[:size]
        else:
            assert "unreadable" in said


def test_files_of_others_need_nothing(tmp_path: Path) -> None:
    for libver in ("earliest", "v110"):
        path = tmp_path / f"{libver}.h5"
        with h5py.File(path, "w", libver=libver) as file:
            file["x"] = 1
        assert "needs no recovery" in recover(path)


def test_kill_at_any_moment_keeps_every_flushed_row(tmp_path: Path) -> None:
    chance = random.Random(1)
    for trial in range(3):
        path = tmp_path / f"{trial}.h5"
        flushed = flushed_when_killed(WRITER, chance.randrange(5, 30), str(path), "100000")
        recover(path)
        with h5py.File(path) as file:
            for number in range(8):
                rows = file[f"entry/t{number}"][...]
                assert len(rows) >= flushed
                assert rows[:flushed].tolist() == list(range(flushed))


def test_checksum_is_that_of_hdf5(torn: Path) -> None:
    block = torn.read_bytes()[:48]
    assert checksum(block[:44]) == block[44:]
    # Published with the algorithm (Jenkins, lookup3.c): hashlittle of these with 0.
    assert checksum(b"Four score and seven years ago") == (0x17770551).to_bytes(4, "little")
    assert checksum(b"") == (0xDEADBEEF).to_bytes(4, "little")


KEYS = ("a", "b", "b/c", "a@n", "b/c@t", "rois/names", "e")
FULL = """
import os, sys
import numpy as np
from pathlib import Path
from ronda.core.sinks import seriesfile
from ronda.core.sinks.tables import Table
seriesfile.reserve = lambda handle, room: None  # HDF5 runs into the wall, as with a quota
disk = Path(sys.argv[1])
tables = {f"entry/t{i}": Table(np.dtype("f8"), ()) for i in range(20)}
blanks = {"entry/sum": ("<i8", (200, 200))}
file = seriesfile.SeriesFile(disk / "a.h5", {}, blanks, {"frames": tables}, 1)
file.flush()
(disk / "ballast").write_bytes(bytes(4_500_000))
row = 0
while file.state is seriesfile.State.OPEN:
    values = np.arange(row, row + 500.0)
    file.rows({"frames": {path: values for path in tables}}, 500)
    file.update({"entry/sum": np.random.default_rng(row).integers(0, 1 << 60, (200, 200))})
    row += 500
    try:
        file.flush()
    except (OSError, RuntimeError):
        print(file.frames, file.state.value, flush=True)
os._exit(0)
"""


def test_disk_that_hdf5_itself_finds_full_costs_nothing_that_was_flushed(small_disk: Path) -> None:
    command = [sys.executable, "-c", FULL, str(small_disk)]
    rows, state = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert state == "broken"
    assert int(rows) >= 500
    (small_disk / "ballast").unlink()
    recover(small_disk / "a.h5")
    with h5py.File(small_disk / "a.h5") as file:
        for number in range(20):
            assert file[f"entry/t{number}"][: int(rows)].tolist() == list(range(int(rows)))


TREES = st.builds(
    lambda values, links: {**{k: plain(v) for k, v in values.items()}, **links},
    st.dictionaries(
        st.sampled_from(KEYS),
        st.one_of(st.integers(-5, 5), st.just("text"), st.just(["x", "y"]), st.just([1.5, 2])),
    ),
    st.dictionaries(st.sampled_from(["d>", "b/f>"]), st.sampled_from(["b", "nowhere", "x::/"])),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=TREES, last=TREES)
def test_no_tree_of_values_breaks_a_file(tmp_path: Path, first: Any, last: Any) -> None:
    path = tmp_path / "tree.h5"
    path.unlink(missing_ok=True)
    tables = {"frames": {"t": Table(np.dtype("i4"), ())}}
    file = SeriesFile(path, {**end_values("entry"), **first}, {}, tables, 2)
    file.rows({"frames": {"t": np.arange(3, dtype="i4")}}, 3)
    file.flush()
    file.finish(last)
    file.flush()
    with h5py.File(path) as opened:
        assert opened["t"][...].tolist() == [0, 1, 2]
        for key, value in last.items():
            if not {"@", ">"} & set(key) and not any(key in refusal for refusal in file.refused):
                stored = opened[key]
                texts = isinstance(value, str | list)
                got = stored.asstr()[...] if texts else stored[...]
                np.testing.assert_array_equal(got, value)
