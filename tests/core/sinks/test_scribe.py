"""The file writer itself: its messages, checkpoints, trees, and what it does when disturbed."""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ronda.core.sinks import checkpoint, scribe, seriesfile
from ronda.core.sinks.checkpoint import FILES, load_checkpoint, write_checkpoint
from ronda.core.sinks.journal import NEWEST, Journal, newest_file
from ronda.core.sinks.tables import fitted
from ronda.core.sinks.tree import read_tree, write_tree
from ronda.core.sinks.wire import fixed_text, plain, receive, send
from ronda.tests.core.sinks.writing import Drive, rows_seen
from ronda.tests.waiting import wait_for

NUMBERS = arrays.arrays(
    st.one_of(arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes()),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


class TestMessages:
    @given(st.lists(NUMBERS, max_size=4), st.text(), st.integers())
    def test_arrays_of_every_type_cross_unchanged(
        self, given_arrays: list[Any], text: str, number: int
    ) -> None:
        tree = {f"entry/{n}": array for n, array in enumerate(given_arrays)}
        stream = io.BytesIO()
        send(stream, {"do": "update", "text": text, "run": number, "tree": tree})
        send(stream, {"do": "next"})
        stream.seek(0)
        message = receive(stream)
        assert message
        assert (message["text"], message["run"]) == (text, number)
        for key, array in tree.items():
            got = message["tree"][key]
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(got, array)
        assert receive(stream) == {"do": "next"}
        assert receive(stream) is None

    def test_message_that_is_cut_anywhere_is_the_end(self) -> None:
        stream = io.BytesIO()
        send(stream, {"do": "x", "tree": {"a": np.arange(5), "b": np.ones((2, 2))}})
        whole = stream.getvalue()
        for size in range(len(whole)):
            assert receive(io.BytesIO(whole[:size])) is None

    def test_values_take_a_form_that_hdf5_has(self) -> None:
        assert plain(2**70) == str(2**70)
        assert plain(2**63) == np.uint64(2**63)
        assert plain({"a": (1, 2)}) == '{"a": [1, 2]}'
        assert plain([1, "a", None]) == '[1, "a", null]'
        assert plain(("a", "b\0")) == ["a", "b\ufffd"]
        assert plain("\ud800") == "?"
        assert plain([1, 2.5]).tolist() == [1.0, 2.5]
        assert plain(np.array(["x", "y"])) == ["x", "y"]
        assert plain([[1], [2, 3]]) == "[[1], [2, 3]]"
        assert plain(None) is None

    def test_fixed_text_is_cut_between_characters(self) -> None:
        assert fixed_text("aé", 2)[()] == b"a"
        assert fixed_text(["a", "b"], 4, 3).tolist() == [b"a", b"b", b""]

    @given(NUMBERS, st.sampled_from(["i1", "u1", "i8", "u8", "u4", "f4", "f8"]))
    def test_numbers_that_change_type_never_wrap(self, value: Any, name: str) -> None:
        cast = fitted(value, np.dtype(name))
        if cast is not None and cast.dtype.kind in "iu":
            assert value.dtype.kind in "iu"
            assert cast.tolist() == value.tolist()


class TestTrees:
    def test_every_form_comes_back(self, tmp_path: Path) -> None:
        tree = {
            "n": 3,
            "x": 2.5,
            "flag": True,
            "text": "häh",
            "texts": ["a", "b"],
            "image": np.arange(40_000, dtype="u2").reshape(200, 200),
            "deep/er/array": np.arange(3.0),
            "deep@units": "m",
        }
        with h5py.File(tmp_path / "t.h5", "w") as file:
            assert write_tree(file, tree) == []
            assert write_tree(file, tree) == []
            assert file["image"].compression == "gzip"
            back = read_tree(file, 1 << 20)
        assert back.keys() == tree.keys()
        for key, value in tree.items():
            np.testing.assert_array_equal(back[key], value)

    def test_impossible_entries_are_named_and_the_rest_is_written(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "t.h5", "w") as file:
            refused = write_tree(file, {"a": 1, "a/b": 2, "l>": "nowhere", "c": 3})
            assert sorted(key.partition(":")[0] for key in refused) == ["a/b", "l>"]
            assert (file["a"][()], file["c"][()]) == (1, 3)

    def test_links_lead_where_they_say(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "t.h5", "w") as file:
            write_tree(file, {"b>": "a", "a/x": 1, "raw>": "../a::b.h5::/entry", "gone": 1})
            write_tree(file, {"gone": None})
            assert file["b"] == file["a"]
            link = file.get("raw", getlink=True)
            assert (link.filename, link.path) == ("../a::b.h5", "/entry")
            assert "gone" not in file


class TestCheckpoints:
    def test_newest_is_loaded_and_the_one_before_is_kept(self, tmp_path: Path) -> None:
        assert load_checkpoint(tmp_path) is None
        for number in range(5):
            assert write_checkpoint(tmp_path, {"n": number, "sum": np.full((3, 3), number)}) == []
        found = load_checkpoint(tmp_path)
        assert found
        assert found["n"] == 4
        assert (found["sum"] == 4).all()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)

    @pytest.mark.parametrize("damage", ["cut", "empty", "zeroed", "text", "stranger", "folder"])
    def test_torn_or_strange_file_is_skipped_with_a_warning(
        self, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_checkpoint(tmp_path, {"n": 1})
        write_checkpoint(tmp_path, {"n": 2, "x": np.arange(5000)})
        newest = tmp_path / FILES[1]
        content = newest.read_bytes()
        newest.unlink()
        match damage:
            case "folder":
                newest.mkdir()
            case "stranger":
                with h5py.File(newest, "w") as file:
                    file["n"] = 3
            case _:
                broken = {
                    "cut": content[:4000],
                    "empty": b"",
                    "zeroed": content[:200] + bytes(len(content) - 200),
                    "text": b"hello",
                }
                newest.write_bytes(broken[damage])
        with caplog.at_level(logging.WARNING):
            found = load_checkpoint(tmp_path)
        assert found == {"n": 1}
        assert FILES[1] in caplog.text

    def test_next_one_replaces_the_damaged_one(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, {"n": 1})
        (tmp_path / FILES[1]).write_bytes(b"torn")
        write_checkpoint(tmp_path, {"n": 2})
        assert load_checkpoint(tmp_path) == {"n": 2}
        (tmp_path / FILES[1]).unlink()
        assert load_checkpoint(tmp_path) == {"n": 1}

    def test_claimed_size_is_refused_before_it_is_allocated(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with h5py.File(tmp_path / FILES[0], "w") as file:
            file.attrs[checkpoint.SEQUENCE] = 1
            file.create_dataset("x", (1 << 40,), "f8", chunks=(1 << 20,))
        assert load_checkpoint(tmp_path) is None
        assert "too large" in caplog.text

    def test_links_to_other_files_are_not_followed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with h5py.File(tmp_path / FILES[0], "w") as file:
            file.attrs[checkpoint.SEQUENCE] = 1
            file["x"] = h5py.ExternalLink("/etc/passwd", "/")
        assert load_checkpoint(tmp_path) is None
        assert "is a link" in caplog.text

    def test_writer_makes_what_the_next_start_loads(self, write: Any, tmp_path: Path) -> None:
        writer = write()
        total = np.arange(2000, dtype=np.int64).reshape(40, 50)
        writer.checkpoint({"sum": total, "frames": 7, "series": ["a", "b"], "@shape": "x"})
        writer.close()
        found = load_checkpoint(tmp_path / "state")
        assert found
        assert (found["sum"] == total).all()
        assert (found["frames"], found["series"]) == (7, ["a", "b"])

    def test_state_directory_that_cannot_be_written_is_a_sentence_until_it_can(
        self, write: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "state").write_text("in the way")
        writer = write(state_directory=tmp_path / "state")
        writer.checkpoint({"n": 1})
        wait_for(lambda: "checkpoint failed" in writer.problem)
        (tmp_path / "state").unlink()
        wait_for(lambda: writer.problem == "")
        assert load_checkpoint(tmp_path / "state") == {"n": 1}


class TestProcess:
    def test_signals_that_mean_the_device_do_not_end_it(
        self, write: Any, raw: str, reduced: Path
    ) -> None:
        writer = write()
        series = Drive(writer, raw)
        series.frames(3)
        wait_for(lambda: rows_seen(reduced) == 3)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(writer.writer_pid, number)
        series.frames(3)
        series.end()
        assert writer.problem == ""
        with h5py.File(reduced) as file:
            assert len(file["entry/frames/frame"]) == 6

    def test_it_needs_nothing_of_the_house_but_the_files(self) -> None:
        """Keep its start fast, and its memory small."""
        code = "import sys, ronda.core.sinks.scribe; print(*sys.modules)"
        modules = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
        for heavy in (
            "pydantic",
            "zmq",
            "numba",
            "hdf5plugin",
            "ronda.core.stage",
            "ronda.core.frame",
        ):
            assert heavy not in modules

    def test_nonsense_is_answered_and_survived(self) -> None:
        answers: list[dict[str, Any]] = []
        writer = scribe.Scribe(answers.append)
        messages: queue.Queue[Any] = queue.Queue()
        for message in (
            {"do": "dance"},
            {"do": "begin"},
            {"do": "rows", "run": 5, "frames": 4, "books": {"frames": {"x": np.zeros(4)}}},
            {"do": "update", "run": 5, "tree": {}},
        ):
            messages.put(message)
        messages.put(None)
        writer.serve(messages)
        assert [answer["event"] for answer in answers] == ["problem", "problem", "dropped"]
        assert answers[2]["rows"] == 4

    def test_rows_are_dropped_and_counted_when_too_much_waits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, room: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(seriesfile, "create_new", full)
        monkeypatch.setattr(scribe, "MOST_WAITING", 1000)
        monkeypatch.setattr(scribe, "LAST_TRIES", 1)
        monkeypatch.setattr(os, "_exit", lambda code: None)
        answers: list[dict[str, Any]] = []
        messages: queue.Queue[Any] = queue.Queue()
        books = {"frames": {"t": ("<f8", (), False)}}
        path = str(tmp_path / "x.h5")
        messages.put(
            {
                "do": "begin",
                "run": 1,
                "path": path,
                "overwrite": False,
                "tree": {},
                "blanks": {},
                "books": books,
                "slots": 1,
                "grids": {},
            }
        )
        for _ in range(5):
            rows = {"frames": {"t": np.zeros(50)}}
            messages.put({"do": "rows", "run": 1, "frames": 50, "books": rows})
        messages.put(None)
        scribe.Scribe(answers.append).serve(messages)
        assert sum(answer["rows"] for answer in answers if answer["event"] == "dropped") == 150
        problems = [answer["text"] for answer in answers if answer["event"] == "problem"]
        assert problems == [
            f"{path} cannot be written: the disk is full; what waits is written when there is room"
        ]


def test_journal_names_what_the_dead_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    mine = Journal(tmp_path)
    mine.add(Path("/data/mine.h5"))
    (tmp_path / "open_files_1.json").write_text(json.dumps(["/data/dead.h5"]) + "     ")
    (tmp_path / "open_files_2.json").write_text("[torn")
    other = Journal(tmp_path)
    assert other.left_behind() == [Path("/data/dead.h5")]
    assert other.left_behind() == []
    mine.add(Path("/data/a-longer-name.h5"))
    mine.remove(Path("/data/a-longer-name.h5"))
    assert json.loads(next(tmp_path.glob("open_*.json")).read_text()) == ["/data/mine.h5"]
    mine.remove(Path("/data/mine.h5"))
    mine.close()
    assert [path.name for path in tmp_path.iterdir()] == [NEWEST]


def test_the_newest_file_is_named_when_its_writer_is_gone_and_only_then(tmp_path: Path) -> None:
    assert newest_file(tmp_path) is None
    writer, path = Journal(tmp_path), tmp_path / "s\udce9ries.h5"
    path.touch()
    writer.add(tmp_path / "first.h5")
    writer.add(path)
    found: list[Path | None] = []
    looking = threading.Thread(target=lambda: found.append(newest_file(tmp_path)))
    looking.start()
    looking.join(0.3)
    assert looking.is_alive()
    writer.close()
    looking.join()
    assert found == [path]
    path.unlink()
    for content in ("[1]", "{torn", '"a\\u0000b"', "[" * 100_000):
        (tmp_path / NEWEST).write_text(content)
        assert newest_file(tmp_path) is None
