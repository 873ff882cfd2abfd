"""The file writer: a process of its own that writes what a device sends it.

Started as `python -m ronda.core.sinks.scribe [STATE_DIRECTORY]`. It reads
messages (`ronda.core.sinks.wire`) from its standard input and answers in lines
of JSON on its standard output. It knows trees and tables, no stage. It is
separate because HDF5 can crash, and because a device that is killed leaves its
files in good hands: when the input ends, the writer completes them and exits.

| message    | entries                                                            |
|------------|--------------------------------------------------------------------|
| begin      | run, path, overwrite, tree, blanks, books: tables by path, slots,  |
|            | grids: by path                                                     |
| rows       | run, frames: how many these rows belong to, books: columns by path,|
|            | cells: places and values by path                                   |
| update     | run, tree, cells                                                   |
| finish     | run, tree, cells                                                   |
| save       | path, tree                                                         |
| checkpoint | tree                                                               |

| answer    | entries                                                             |
|-----------|---------------------------------------------------------------------|
| begun     | run, path                                                           |
| finished  | run, path                                                           |
| saved     | path                                                                |
| written   | run, rows: all that are safe now                                    |
| dropped   | run, rows                                                           |
| given_up  | run                                                                 |
| problem   | about (a run, "checkpoint"...), text: a sentence, empty when solved |
| recovered | text                                                                |
| alive     | file, time: of the newest file's last flush, folder, disk, free:    |
|           | bytes on its disk; at every flush, all but the event only if known  |
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .checkpoint import write_checkpoint
from .grids import Grid
from .journal import Journal
from .recover import recover
from .reserved import ROOM, abandon, any_abandoned, close, create_new
from .seriesfile import GIVEN_UP, SeriesFile, State
from .tables import Table
from .tree import write_tree
from .wire import Message, receive, size

FLUSH_INTERVAL = 1.0
"""Seconds between flushes."""
MOST_WAITING = 256 << 20
"""Bytes kept while a disk is full; then rows are dropped, and counted."""
MOST_FILES = 16
"""Ended series kept while a disk is full; then the oldest is given up."""
LAST_TRIES = 5
"""Flushes tried at the end, a second apart, before what cannot be written is given up."""
NOTE = "closed before the end of the series"


class Scribe:
    """Carries out messages.

    Parameters
    ----------
    answer
        Called with each answer.
    state_directory
        Where checkpoints and the list of open files are kept; None: nowhere.
    """

    def __init__(
        self, answer: Callable[[Message], None], state_directory: Path | None = None
    ) -> None:
        self._answer, self._state_directory = answer, state_directory
        self._files: dict[int, SeriesFile] = {}
        self._problems: dict[str, str] = {}
        self._journal = Journal(state_directory)
        self._saves: list[tuple[Path, dict[str, Any]]] = []
        self._state: dict[str, Any] | None = None
        self._newest: int | None = None
        self._flushed: dict[str, Any] = {}

    def recover_left_behind(self) -> None:
        """Recover what writers that were killed left open."""
        try:
            paths = self._journal.left_behind()
        except OSError as error:
            self._problem("journal", _sentence("the list of open files cannot be read", error))
            return
        for path in filter(Path.exists, paths):
            try:
                self._answer({"event": "recovered", "text": recover(path)})
            except OSError as error:
                self._problem(f"recovery of {path.name}", str(error))

    def serve(self, messages: queue.Queue[Message | None]) -> None:
        """Carry out messages, flush once a second, until None comes."""
        due = time.monotonic() + FLUSH_INTERVAL
        while True:
            with contextlib.suppress(queue.Empty):
                message = messages.get(timeout=max(due - time.monotonic(), 0.0))
                if message is None:
                    break
                self._carry_out(message)
            if time.monotonic() >= due:
                due = time.monotonic() + FLUSH_INTERVAL
                self._flush_all()
                self._answer({"event": "alive", **self._flushed, **self._room()})
        self._end()

    # ----------------------------------------------------------------- messages

    def _carry_out(self, message: Message) -> None:
        what = message["do"]
        try:
            getattr(self, f"_do_{what}")(message)
        except Exception as error:
            self._problem(str(message.get("run", what)), _sentence(f"{what} failed", error))

    def _do_begin(self, message: Message) -> None:
        books = {
            book: {
                path: Table(np.dtype(dtype), tuple(shape), *more)
                for path, (dtype, shape, *more) in tables.items()
            }
            for book, tables in message["books"].items()
        }
        grids = {
            path: Grid(np.dtype(dtype), tuple(shape), compressed)
            for path, (dtype, shape, compressed) in message["grids"].items()
        }
        blanks = {path: (dtype, tuple(shape)) for path, (dtype, shape) in message["blanks"].items()}
        self._files[message["run"]] = SeriesFile(
            Path(message["path"]),
            message["tree"],
            blanks,
            books,
            message["slots"],
            message["overwrite"],
            grids,
        )
        self._newest = message["run"]
        self._flush(message["run"])

    def _do_rows(self, message: Message) -> None:
        run, frames = message["run"], message["frames"]
        file = self._files.get(run)
        if file is None:
            self._answer({"event": "dropped", "run": run, "rows": frames})
            return
        file.rows(message["books"], frames, message.get("cells"))
        if sum(each.nbytes for each in self._files.values()) > MOST_WAITING:
            self._flush(run)
            if not file.idle:
                self._answer({"event": "dropped", "run": run, "rows": file.drop_frames()})

    def _do_update(self, message: Message) -> None:
        if message["run"] in self._files:
            self._files[message["run"]].update(message["tree"], message.get("cells"))

    def _do_finish(self, message: Message) -> None:
        if message["run"] in self._files:
            self._files[message["run"]].finish(message["tree"], message.get("cells"))
            self._flush(message["run"])

    def _do_save(self, message: Message) -> None:
        self._saves.append((Path(message["path"]), message["tree"]))
        if len(self._saves) > MOST_FILES:
            path, _ = self._saves.pop(0)
            self._problem(GIVEN_UP, f"{path} was given up")
        self._save_all()

    def _do_checkpoint(self, message: Message) -> None:
        self._state = message["tree"]
        self._keep_state()

    # ------------------------------------------------------------------- flushes

    def _flush_all(self) -> None:
        self._save_all()
        self._keep_state()
        for run in list(self._files):
            self._flush(run)
        ended = [run for run, file in self._files.items() if file.ending]
        for run in ended[: max(len(ended) - MOST_FILES, 0)]:
            self._give_up(run)

    def _keep_state(self) -> None:
        """Write the checkpoint that waits; if that fails it is tried again, or a newer one is."""
        if self._state is None or self._state_directory is None:
            return
        try:
            refused = write_checkpoint(self._state_directory, self._state)
        except (OSError, RuntimeError) as error:
            self._problem("checkpoint", _sentence("checkpoint failed", error))
        else:
            self._state = None
            self._problem("checkpoint", _refusal(refused))

    def _save_all(self) -> None:
        """Write the documents that wait; what fails is tried again."""
        while self._saves:
            path, tree = self._saves[0]
            try:
                name, refused = _write_document(path, tree)
            except (OSError, RuntimeError) as error:
                self._problem("save", _sentence(f"{path} cannot be written", error))
                return
            self._saves.pop(0)
            self._problem("save", _refusal(refused))
            self._answer({"event": "saved", "path": name})

    def _flush(self, run: int) -> None:
        file = self._files[run]
        before, frames, idle = file.state, file.frames, file.idle
        try:
            file.flush()
        except Exception as error:
            self._problem(str(run), _sentence(f"{file.path} cannot be written", error))
        else:
            self._problem(str(run), _refusal(file.refused))
            if run == self._newest and not idle:
                self._flushed = {"file": str(file.path), "time": time.time()}
        if before is State.NEW and file.state not in (State.NEW, State.BROKEN):
            self._note(file, begun=True)
            self._answer({"event": "begun", "run": run, "path": str(file.path)})
        if file.frames > frames:
            self._answer({"event": "written", "run": run, "rows": file.frames})
        if file.state is State.BROKEN:
            self._give_up(run)
        elif file.state is State.COMPLETE:
            self._note(file, begun=False)
            self._answer({"event": "finished", "run": run, "path": str(file.path)})
            del self._files[run]

    def _room(self) -> dict[str, Any]:
        """Return how much room there is on the disk of the newest file, if that is known."""
        if not self._flushed:
            return {}
        folder = Path(self._flushed["file"]).parent
        try:
            room, disk = os.statvfs(folder), folder.stat().st_dev
        except OSError:  # the folder is gone
            return {}
        return {"folder": str(folder), "disk": disk, "free": room.f_bavail * room.f_frsize}

    def _note(self, file: SeriesFile, begun: bool) -> None:
        """Keep the list of open files."""
        try:
            (self._journal.add if begun else self._journal.remove)(file.path)
            self._problem("journal", "")
        except OSError as error:
            self._problem("journal", _sentence("the list of open files cannot be kept", error))

    def _give_up(self, run: int) -> None:
        """Leave a file as it is on the disk; the next start recovers it."""
        file = self._files.pop(run)
        _given_up.append(file)
        reason, lost = self._problems.get(str(run), ""), file.drop_frames()
        what = f"{reason}; given up with {file.frames} frames in it"
        if file.frames and _is_gone(file.path):
            lost += file.frames
            what = f"{file.path} was deleted or moved while it was written"
            self._answer({"event": "written", "run": run, "rows": 0})
        self._answer({"event": "dropped", "run": run, "rows": lost})
        self._answer({"event": "given_up", "run": run})
        self._problem(GIVEN_UP, what)
        self._problem(str(run), "")

    def _end(self) -> None:
        """Complete all files; where the disk is full, try for a while."""
        end = datetime.now(UTC).isoformat(timespec="seconds")
        for file in self._files.values():
            if not file.ending:
                file.finish_early(NOTE, end)
        for trial in range(LAST_TRIES):
            self._flush_all()
            if not self._files and not self._saves and self._state is None:
                self._journal.close()
                break
            if trial + 1 < LAST_TRIES:
                time.sleep(FLUSH_INTERVAL)
        if self._files or any_abandoned() or _given_up:
            os._exit(1)

    def _problem(self, about: str, text: str) -> None:
        """Tell what is wrong, or that it no longer is; each change once."""
        if text != self._problems.get(about, ""):
            self._problems[about] = text
            self._answer({"event": "problem", "about": about, "text": text})


_given_up: list[SeriesFile] = []
"""Files that could not be closed; kept from HDF5, which would crash."""


def _write_document(path: Path, tree: dict[str, Any]) -> tuple[str, list[str]]:
    """Write a file at once; return its name and what was refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = create_new(path, size(tree) + ROOM)
    try:
        refused = write_tree(file, tree)
        file.flush()
    except Exception:
        abandon(file)
        raise
    name = str(file.filename)
    close(file)
    return name, refused


def _is_gone(path: Path) -> bool:
    """Tell whether there is no such file; one that cannot be looked for may be there."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _refusal(refused: list[str]) -> str:
    return f"not written: {'; '.join(refused)}" if refused else ""


def _sentence(what: str, error: Exception) -> str:
    """Return why something failed, in words where the reason is a common one."""
    found = re.search(r"errno = (\d+)", str(error))
    number = int(found.group(1)) if found else getattr(error, "errno", None)
    reasons = {
        errno.ENOSPC: "the disk is full; what waits is written when there is room",
        errno.EDQUOT: "the quota is used up; what waits is written when there is room",
        errno.EACCES: "the folder may not be written to",
        errno.EROFS: "the disk is read-only",
    }
    text = " ".join(str(error).split())
    return f"{what}: {reasons.get(number or 0, text[:300] or type(error).__name__)}"


def _read(stream: BinaryIO, messages: queue.Queue[Message | None]) -> None:
    """Pass messages on until the stream ends; runs in a thread."""
    try:
        while (message := receive(stream)) is not None:
            messages.put(message)
    finally:
        messages.put(None)


def main() -> None:
    """Serve standard input until it ends. Signals that mean the device are ignored."""
    # SIGABRT is how systemd's watchdog ends a device that hangs
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            answers.write(json.dumps(message) + "\n")

    messages: queue.Queue[Message | None] = queue.Queue(maxsize=4)
    threading.Thread(target=_read, args=(sys.stdin.buffer, messages), daemon=True).start()
    scribe = Scribe(answer, Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    try:
        scribe.recover_left_behind()
        scribe.serve(messages)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main()
