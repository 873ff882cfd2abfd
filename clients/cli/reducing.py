"""What every command that reduces frames to a file does: run, show the progress, sum up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...core.compute.device import CPU, Compute
from ...core.frame import Frame, Rejected
from ...core.parameters import Parameters
from ...core.results import Spent
from ...core.runner import Runner
from ...core.sinks.base import Sink
from ...core.sinks.nexus import NexusWriter
from ...core.sources import Source
from ...core.stage import Row, Stage
from .console import ledger_line, stderr

log = logging.getLogger(__name__)

REFRESH = 0.1
"""Seconds between two looks at the runner."""


@dataclass(frozen=True)
class Work:
    """Frames to be reduced to one file."""

    stage: Stage[Any, Any]
    parameters: Parameters
    source: Callable[[], Source]
    output: Path
    said: str
    """What was asked for, for the history in the file."""
    positions: Callable[[], Source] | None = None
    workers: int = 2
    force: bool = False
    quiet: bool = False
    """Say nothing but what is wrong."""
    compute: Compute = CPU
    verbosity: int = logging.WARNING
    """Level of the log that is shown; with INFO something is said of each frame."""
    profile: bool = False
    """Say at the end what took how long."""
    picture: Path | None = None
    """PNG that shows how long frames took; None: none is drawn."""


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that cannot be written.

    Raises
    ------
    OSError
        In one sentence.
    """
    folder = path.absolute().parent
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; --force overwrites it")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"folder {path.parent} cannot be written to; choose another")


@dataclass
class Times(Spent):
    """What every single frame took, too."""

    each: list[float] = field(default_factory=list)
    """Seconds of map and reduce."""

    def add(self, map: float, reduce: float) -> None:  # noqa: A002 - as in Spent
        """Add what one frame took."""
        super().add(map, reduce)
        self.each.append(map + reduce)


class Teller(Sink):
    """Says something of each frame: the numbers of its row."""

    def row(self, frame: Frame, row: Row) -> None:
        """Log one reduced frame."""
        numbers = {name: value for name, value in row.items() if np.ndim(value) == 0}
        said = ", ".join(f"{name} {value}" for name, value in numbers.items())
        log.info("frame %d: %s", frame.frame_id, said)


def first_frame(source: Source) -> Frame:
    """Return the first frame that can be used, to see whether what is set fits to it.

    Raises
    ------
    OSError
        In one sentence, if there is none.
    """
    reason = "it holds no frame"
    with closing(source.events()) as events:
        for event in events:
            if isinstance(event, Frame):
                return event
            if isinstance(event, Rejected):
                reason = event.reason
    raise OSError(f"nothing can be read: {reason}")


def reduce_to_file(work: Work) -> int:
    """Reduce what a source gives; return the exit status.

    Returns
    -------
    int
        0; 1 if no frame could be used or something could not be written; 130 after Ctrl-C.

    Raises
    ------
    OSError, ValueError
        In one sentence: what the user can mend.
    """
    check_output(work.output, work.force)
    writer = NexusWriter(output_file=work.output, overwrite=work.force)
    sinks = [writer, Teller()] if work.verbosity <= logging.INFO else [writer]
    runner = Runner(work.stage, work.parameters, sinks, work.workers, compute=work.compute)
    times = runner.spent = Times()
    runner.history.add(f"{psutil.Process().username()}@localhost", work.said)
    failure, interrupted, begin = None, False, time.monotonic()
    console = stderr()
    try:
        with _log_on(console, work.verbosity):
            runner.start(work.source, work.positions)
            _follow(runner, console, work.quiet)
            runner.wait()
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        failure = error
    finally:
        runner.close()
    seconds = time.monotonic() - begin
    good = _summarise(runner, writer, console, seconds, work.quiet)
    if work.profile:
        _profile(runner, console, seconds)
    if work.picture and times.each:
        from ..times_picture import draw_times

        draw_times(times.each, work.picture)
        console.print(f"drawn: {work.picture}", soft_wrap=True)
    if failure:
        raise failure
    return 130 if interrupted else int(not good)


@contextmanager
def _log_on(console: Console, level: int) -> Iterator[None]:
    """Show what is logged above the progress bar: each rejected frame by its number."""
    handler = RichHandler(level, console, show_time=False, show_path=False)
    logger = logging.getLogger(__name__.partition(".")[0])
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def _follow(runner: Runner, console: Console, quiet: bool) -> None:
    """Show the progress until everything that the source gives is reduced."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.fields[all]} frames"),
        TextColumn("{task.fields[rate]:.1f} Hz"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[trouble]}"),
    )
    hidden = quiet or not console.is_terminal
    # Without a terminal there is nothing to redraw: the summary at the end says it all.
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task("frames", total=None, all="?", rate=0.0, trouble="")
        while not (runner.ended and runner.ledger.counts.queued == 0):
            counts = runner.ledger.counts
            bad = {"rejected": counts.rejected, "dropped": counts.dropped, "lost": counts.lost}
            progress.update(
                task,
                total=runner.total,
                completed=counts.received - counts.queued,
                all="?" if runner.total is None else runner.total,
                rate=runner.ledger.input_rate,
                trouble=", ".join(f"{number} {name}" for name, number in bad.items() if number),
            )
            time.sleep(REFRESH)


def _summarise(
    runner: Runner, writer: NexusWriter, console: Console, seconds: float, quiet: bool
) -> bool:
    """Say what was done and where it is; return True if all is well."""
    counts, health = runner.ledger.counts, runner.health
    if not quiet:
        console.print(ledger_line(counts))
    for sentence in (*health.alarms, *(() if quiet else health.notes)):
        console.print(f"note: {sentence}", soft_wrap=True)
    if not writer.file:
        console.print("nothing was written: no frame could be used")
    elif not quiet:
        rate = counts.reduced / seconds
        console.print(
            f"written: {writer.file} ({seconds:.1f} s, {rate:.1f} frames/s)", soft_wrap=True
        )
    return bool(writer.file) and not writer.problem


def _profile(runner: Runner, console: Console, seconds: float) -> None:
    """Say what took how long."""
    frames, spent = runner.ledger.counts.reduced, runner.spent
    table = Table("step", "seconds", "ms a frame", "share of the time", title="Profile")
    for step, took in (
        (f"decode and map, {runner.workers} workers", spent.map),
        ("reduce, in order", spent.reduce),
        ("all, with reading and writing", seconds),
    ):
        each = f"{1000 * took / frames:.2f}" if frames else "-"
        table.add_row(step, f"{took:.2f}", each, f"{100 * took / seconds:.0f} %")
    console.print(table)
