"""The NeXus file of each series, written by a process of its own (`ronda.core.sinks.scribe`).

Nothing here touches a file: what is to be written is handed to a thread, which
makes the messages and finds the place of the file.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..frame import Frame, Series
from ..stage import SLOTS, Document, Record, Row, Settings, Stage, Tree
from . import layout
from .base import Sink
from .cells import kept, places, row_size
from .columns import TABLES, check_tables, columns, left_out
from .paths import PathError, Roots, document_path, series_path
from .process import WriterProcess
from .room import ALARMING, NOTED, Room
from .seriesfile import GIVEN_UP
from .sheet import Place, Sheet
from .wire import Message, plain, size

log = logging.getLogger(__name__)

LARGE = 1 << 20
"""Bytes of an image that a series' file goes without when too many wait for the writer."""
SILENT_SECONDS = 10.0
"""Seconds after which a writer that does not answer, which it does once a second, is an alarm."""
SETTLE_SECONDS = 60.0
"""Seconds that the end of a run waits for its files, as long as the writer answers."""
_OF_SERIES = ("path", "layout", "rows", "writer message")
"""Problems that are over when the next series begins."""
_GIVEN_UP = f"writer {GIVEN_UP}"
_PAST = ("lost", "overflow", "message", "died", _GIVEN_UP)
"""Problems that tell what happened, until somebody acknowledges."""


class NexusWriter(Sink):
    """Writes a file for each series, documents that the stage asks for, and checkpoints.

    Where a file goes: `ronda.core.sinks.paths`. What it holds: `ronda.core.sinks.layout`.

    Parameters
    ----------
    output_root, data_root, state_directory
        The device's folders, each optional. Without a state directory there
        are no checkpoints.
    output_file
        Write to this file whatever the raw file's name (offline); further
        series get `_2`, `_3`...
    overwrite
        Replace `output_file`.

    Raises
    ------
    FileExistsError
        If `output_file` exists and is not to be replaced.
    """

    def __init__(
        self,
        output_root: Path | None = None,
        data_root: Path | None = None,
        state_directory: Path | None = None,
        *,
        output_file: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        if output_file and output_file.exists() and not overwrite:
            raise FileExistsError(f"{output_file} exists; choose another name or ask to overwrite")
        self._roots = Roots(output_root, data_root, state_directory)
        self._output_file, self._overwrite = output_file, overwrite
        self._folder = output_file.parent if output_file else None
        self._sheets: dict[int, Sheet] = {}
        self._ending: dict[int, Sheet] = {}
        self._settings: Settings | None = None
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self._state: Tree | None = None
        self._process: WriterProcess | None = None
        self._room = Room()

    # ------------------------------------------------------------------ a sink

    def open(self, stage: Stage[Any, Any]) -> None:
        """Start the writer, for the outputs of this stage.

        Raises
        ------
        ValueError
            If the stage declares tables that cannot be written.
        """
        check_tables(stage.outputs)
        self._stage = stage
        of_rows = (*TABLES, Record.CELL)
        self._row_names = [each.name for each in stage.outputs if each.record in of_rows]
        self._process = WriterProcess(self._roots.state, self._answer)

    @property
    def writer_pid(self) -> int | None:
        """Process number of the file writer; None while there is none."""
        return self._process.pid if self._process else None

    def begin(self, series: Series, frame: Frame, settings: Settings) -> None:
        """Begin a series' file; a series without a file name has none."""
        self._settings = settings
        for about in _OF_SERIES:
            self.note(about, "")
        if series.filename or series.joined_late or self._output_file:
            complain = partial(self.note, "rows")
            self._sheets[series.run_id] = sheet = Sheet(
                series,
                frame.shape,
                frame.dtype,
                settings,
                self._stage.entry,
                partial(self._count_lost, series),
                complain,
            )
            self._take_values(sheet)

    def adopt(self, frame: Frame, settings: Settings) -> None:
        """Record that parameters changed, from this frame on."""
        self._settings = settings
        sheet = self._sheets.get(frame.series.run_id)
        if sheet is None or settings.version == sheet.settings.version:
            return
        change = layout.change_row(frame.frame_id, sheet.settings, settings)
        sheet.settings = settings
        if sheet.begun and self._process:
            sheet.changes.append(change)
            self._process.submit(lambda: sheet.change_message(change), must=True)

    def row(self, frame: Frame, row: Row) -> None:
        """Add one reduced frame; the first one lays the file out."""
        sheet = self._sheets.get(frame.series.run_id)
        if sheet is None or self._process is None:
            return
        self._listen(self._process)
        values = {name: kept(row[name]) for name in self._row_names if name in row}
        if not sheet.begun:
            self._begin_file(sheet, values)
        if not self._process.submit_row(sheet, values, row_size(values)):
            sheet.lost(1)

    def update(self, series: Series, tree: Tree) -> None:
        """Replace values of the series' file; later ones do if the writer is behind."""
        sheet = self._sheets.get(series.run_id)
        if sheet is None or not sheet.begun or self._process is None:
            return
        must = not tree.keys().isdisjoint(sheet.places.paths.values())  # cells come once
        if self._process.submit(lambda: sheet.update_message(tree), row_size(tree), must=must):
            self.note("overflow", "")

    def finish(self, series: Series, tree: Tree) -> None:
        """End a series with its final values and links; one without any row gets its file now."""
        sheet = self._sheets.get(series.run_id)
        if sheet is None or self._process is None:
            return
        self._ending[series.run_id] = sheet
        del self._sheets[series.run_id]
        if sheet.dead:
            self._ending.pop(series.run_id, None)
            return
        if not sheet.begun:
            self._begin_file(sheet, {})
        end = layout.now()
        if self._process.full:
            tree = {key: value for key, value in tree.items() if row_size({key: value}) < LARGE}
            self.note(
                "overflow",
                f"the file writer is too slow: the images of series "
                f"{series.run_id} are not in its file",
            )
        nbytes = row_size(tree)
        self._process.submit(lambda: self._finish_message(sheet, tree, end), nbytes, must=True)

    def save(self, document: Document) -> None:
        """Write a file of its own, beside the newest series' file."""
        if self._process is None:
            return
        settings = self._settings

        def make() -> Message | None:
            try:
                path = document_path(document.name, self._folder, self._roots)
            except (PathError, OSError) as error:
                self.note("save", str(error))
                return None
            tree = layout.document_tree(self._stage, settings, document.tree)
            return {"do": "save", "path": str(path), "tree": tree}

        self._process.submit(make, size(document.tree), starts=True, must=True)

    def checkpoint(self, tree: Tree) -> None:
        """Keep the stage's state in the state directory; of those that wait only the newest."""
        if self._process is None or self._roots.state is None:
            return
        with self._lock:
            waits, self._state = self._state is not None, tree
        if not waits:
            self._process.submit(self._checkpoint_message, size(tree), starts=True, must=True)

    def reset(self) -> None:
        """Forget what went wrong with rows and files that are past."""
        for about in _PAST:
            self.note(about, "")

    def settle(self) -> None:
        """Wait until files of series that ended are complete, or cannot be for now.

        A checkpoint that came before has then reached the writer.
        """
        deadline, process = time.monotonic() + SETTLE_SECONDS, self._process
        while process and (self._ending or not process.idle) and time.monotonic() < deadline:
            if self._process is None or _is_silent(process):
                return
            if any(f"writer {run}" in self._problems for run in list(self._ending)):
                return
            time.sleep(0.01)

    def close(self) -> None:
        """Complete all files and end the writer."""
        if self._process:
            self._process.close()
            self._process = None

    # --------------------------------------------------------------- messages

    def _take_values(self, sheet: Sheet) -> None:
        """Take what the stage has now: when the first row comes, it may be at another series."""
        try:
            sheet.first = self._stage.update()
            sheet.places, cells = places(self._stage, self._stage.cells())
            sheet.first = {**sheet.first, **cells}
        except Exception as error:
            self.note("layout", f"the stage's values for the file could not be taken: {error}")
            log.exception("update of stage %s failed", self._stage.name)

    def _begin_file(self, sheet: Sheet, row: Row) -> None:
        """Lay a file out as its first row says; an empty one: as far as that is known."""
        overwrite, self._overwrite = self._overwrite, False
        settings = sheet.settings
        first, sheet.first = sheet.first, {}
        cells = {key: value for key, value in first.items() if key in sheet.places.grids}
        values = {key: value for key, value in first.items() if key not in cells}

        def make() -> Message | None:
            return self._begin_message(sheet, settings, row, values, overwrite)

        assert self._process
        self._process.submit(make, size(values), starts=True, must=True)
        if cells:
            nbytes = row_size(cells)
            self._process.submit(lambda: sheet.update_message(cells), nbytes, must=True)
        sheet.begun = True  # now only: an update of another thread must not overtake it

    def _begin_message(
        self, sheet: Sheet, settings: Settings, row: Row, update: Tree, overwrite: bool
    ) -> Message | None:
        sheet.books = columns(self._stage, row, sheet.pixels)
        try:
            path = self._output_file or series_path(sheet.series, self._stage.name, self._roots)
        except (PathError, OSError, ValueError) as error:
            sheet.place = Place.REFUSED
            self.note("path", str(error))
            return None
        if path is None:
            sheet.place = Place.NONE
            return None
        sheet.place, self._folder = Place.FOUND, path.parent
        parts = layout.begin_message(
            self._stage,
            sheet.series,
            sheet.shape,
            settings,
            update,
            sheet.places,
            left_out(self._stage, row),
        )
        parts["tree"].update(layout.raw_link(sheet.entry, sheet.series, path))
        return {
            "do": "begin",
            "run": sheet.series.run_id,
            "path": str(path.absolute()),
            "overwrite": overwrite,
            "books": layout.books(sheet.entry, sheet.books),
            "slots": SLOTS,
            **parts,
        }

    def _finish_message(self, sheet: Sheet, tree: Tree, end: str) -> Message | None:
        if sheet.place is not Place.FOUND:
            self._ending.pop(sheet.series.run_id, None)
        return sheet.finish_message(tree, end)

    def _checkpoint_message(self) -> Message | None:
        with self._lock:
            tree, self._state = self._state, None
        if tree is None:
            return None
        return {"do": "checkpoint", "tree": {k: plain(v) for k, v in tree.items()}}

    # ---------------------------------------------------------------- answers

    def note(self, about: str, text: str) -> None:
        """Take note of a problem, or with an empty text that it is solved."""
        with self._lock:
            if text:
                if about not in self._problems:
                    log.warning("%s", text)
                self._problems[about] = text
            else:
                self._problems.pop(about, None)
            self.problem = "; ".join(self._problems.values())

    def _count_lost(self, series: Series, rows: int) -> None:
        """Count frames that are missing in the file of a series."""
        with self._lock:
            self.rows_lost += rows
            total = self.rows_lost
        last = series.filename or f"series {series.run_id}"
        self.note(
            "lost", f"{total} reduced frames are not known to be in their file, the last of {last}"
        )

    def _answer(self, answer: Message) -> None:
        """Take an answer of the writer; runs in its thread."""
        match answer["event"]:
            case "begun":
                self.file, self.file_complete = answer["path"], False
                self._forget_death()
            case "alive":
                self._take_room(answer)
            case "problem":
                self.note(f"writer {answer['about']}", answer["text"])
            case "written" | "dropped" | "finished" | "given_up":
                self._account(answer)
            case "died":
                self._take_room({})
                self.note("died", f"{answer['text']}; a new one starts with the next series")
                for sheet in (*self._sheets.values(), *self._ending.values()):
                    sheet.died()
                self._ending.clear()
            case "recovered":
                log.warning("%s", answer["text"])

    def _listen(self, process: WriterProcess) -> None:
        """Complain while the writer does not answer: it is stuck, or its disk is."""
        silent = _is_silent(process)
        if silent != ("silent" in self._problems):
            text = f"the file writer has not answered for {SILENT_SECONDS:.0f} s; rows wait for it"
            self.note("silent", text if silent else "")

    def _take_room(self, answer: Message) -> None:
        """Take note of when the newest file was written to, and of the room on its disk."""
        self.file_time = answer.get("time", self.file_time)
        if "free" not in answer:
            self._room = Room()
        else:
            self._room.add(answer["folder"], answer["disk"], answer["free"], time.monotonic())
        left = self.disk_time_left = self._room.time_left
        self.note("room", self._room.sentence if left <= ALARMING else "")
        self.notes = (self._room.sentence,) if ALARMING < left <= NOTED else ()

    def _account(self, answer: Message) -> None:
        """Take note of what became of rows."""
        run = answer["run"]
        sheet = self._sheets.get(run) or self._ending.get(run)
        match answer["event"]:
            case "written" if sheet:
                sheet.written(answer["rows"])
            case "dropped" if sheet:
                sheet.dropped(answer["rows"])
            case "finished" | "given_up":
                self.file_complete |= answer.get("path") == self.file
                self._ending.pop(run, None)

    def _forget_death(self) -> None:
        """Forget a dead writer now that a new one has begun a file, but not what was lost."""
        if "died" not in self._problems:
            return
        for about in list(self._problems):
            if about == "died" or (about.startswith("writer ") and about != _GIVEN_UP):
                self.note(about, "")


def _is_silent(process: WriterProcess) -> bool:
    return time.monotonic() - process.heard > SILENT_SECONDS
