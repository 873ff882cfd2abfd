"""What every command that reduces frames to a file does: run, show the progress, sum up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...core.compute.device import CPU, Compute
from ...core.frame import Frame, Rejected
from ...core.parameters import Parameters
from ...core.results import Spent
from ...core.runner import QUEUE_BYTES, Runner
from ...core.sinks.base import Sink
from ...core.sinks.nexus import NexusWriter
from ...core.sources import Event, Source
from ...core.stage import Row, Stage, Tree
from .console import ledger_line, stderr

log = logging.getLogger(__name__)

REFRESH = 0.1
"""Seconds between two looks at the runner."""
LEAST_QUEUE = 32 << 20
"""Bytes of frames that may always wait."""


@dataclass(frozen=True)
class Work:
    """Frames to be reduced to one file."""

    stage: Stage[Any, Any]
    parameters: Parameters
    source: Callable[[], Source]
    output: Path
    said: str
    """What was asked for, for the history in the file."""
    workers: int
    positions: Callable[[], Source] | None = None
    force: bool = False
    quiet: bool = False
    """Say nothing but what is wrong."""
    compute: Compute = CPU
    verbosity: int = logging.WARNING
    """Level of the log that is shown; with INFO something is said of each frame."""
    tell: Callable[[Row], str] = str
    """Says what became of a frame, from its row."""
    state: Tree | None = None
    """What the stage goes on with, as its own `state` gives it; None: it begins anew.

    The output then stays as it is until the new file is whole.
    """
    queue_bytes: int = QUEUE_BYTES
    """Bytes of frames that may wait."""
    profile: bool = False
    """Say at the end what took how long."""
    picture: Path | None = None
    """PNG that shows how long frames took; None: none is drawn."""


def check_output(path: Path, force: bool, sources: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, or that one of the files to read would become.

    Raises
    ------
    OSError
        In one sentence.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; --force overwrites it")
    if path.exists() and any(path.samefile(name.partition("::")[0]) for name in sources):
        raise FileExistsError(f"{path} is one of the files to read; choose another output")
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"folder {path.parent} cannot be written to; choose another")


@dataclass
class Times(Spent):
    """What every single frame took, too, and what reading and writing took."""

    each: list[float] = field(default_factory=list)
    """Seconds of map and reduce."""
    read: float = 0.0
    """Seconds that the files took, in their own thread."""
    write: float = 0.0
    """Seconds that the process that writes computed."""

    def reading(self, events: Iterator[Event]) -> Iterator[Event]:
        """Pass events on; note how long they took."""
        begin = time.perf_counter()
        for event in events:
            self.read += time.perf_counter() - begin
            yield event
            begin = time.perf_counter()

    def add(self, map: float, reduce: float) -> None:  # noqa: A002 - as in Spent
        """Add what one frame took."""
        super().add(map, reduce)
        self.each.append(map + reduce)


class Teller(Sink):
    """Says something of each frame."""

    def __init__(self, tell: Callable[[Row], str]) -> None:
        self._tell = tell

    def row(self, frame: Frame, row: Row) -> None:
        """Log one reduced frame."""
        log.info("frame %d: %s", frame.frame_id, self._tell(row))


class Passing(Source):
    """A source of files whose events go through a function.

    Parameters
    ----------
    change
        Takes the events and yields those that go on.
    left_out
        Frames that it keeps back.
    """

    live = False

    def __init__(
        self,
        source: Source,
        change: Callable[[Iterator[Event]], Iterator[Event]],
        left_out: int = 0,
    ) -> None:
        super().__init__(source.url)
        self._source, self._change, self._left_out = source, change, left_out

    @property
    def total(self) -> int | None:
        """Frames that go on, where that is known."""
        total = self._source.total
        return None if total is None else max(total - self._left_out, 0)

    def events(self) -> Iterator[Event]:
        """Yield what goes on."""
        with closing(self._source.events()) as events:
            yield from self._change(events)

    def close(self) -> None:
        """End the source."""
        super().close()
        self._source.close()


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
        0; 1 if a frame could not be used or something could not be written; 130 after Ctrl-C.

    Raises
    ------
    OSError, ValueError
        In one sentence: what the user can mend.
    """
    from ...devices.memory import keep_for_frames

    goes_on = work.state is not None
    check_output(work.output, work.force or goes_on)
    path = draft_of(work.output) if goes_on else work.output
    keep_for_frames()
    writer = NexusWriter(output_file=path, overwrite=work.force or goes_on)
    sinks = [writer, Teller(work.tell)] if work.verbosity <= logging.INFO else [writer]
    runner = Runner(
        work.stage,
        work.parameters,
        sinks,
        work.workers,
        work.queue_bytes,
        compute=work.compute,
    )
    if work.state is not None:
        runner.stage.restore(work.state)
    times = runner.report.spent = Times()
    runner.history.add(f"{psutil.Process().username()}@localhost", work.said)
    failure, interrupted, begin = None, False, time.monotonic()
    console = stderr()
    try:
        with _log_on(console, work.verbosity):
            timed = partial(_timed, work.source, times) if work.profile else work.source
            runner.start(timed, work.positions)
            _follow(runner, console, work.quiet)
            runner.wait()
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        failure = error
    finally:
        times.write = _seconds_of(writer)
        runner.close()
    seconds = time.monotonic() - begin
    if goes_on and not runner.ledger.counts.received and not failure:
        console.print(f"{work.output} is as it was: no frame is left to be done", soft_wrap=True)
        return 130 if interrupted else 0
    if goes_on and writer.file_complete and not writer.problem:
        path.replace(work.output)
    good = _summarise(runner, writer, console, seconds, work)
    if work.profile:
        _profile(runner, times, console, seconds, work.compute)
    if work.picture and times.each:
        from ..times_picture import draw_times

        draw_times(times.each, work.picture)
        console.print(f"drawn: {work.picture}", soft_wrap=True)
    if failure:
        raise failure
    return 130 if interrupted else int(not good)


def queue_of(frame: Frame, workers: int) -> int:
    """Return the bytes of frames that may wait: for each worker one beside that in work."""
    rows, columns = frame.shape
    return max(2 * workers * rows * columns * frame.dtype.itemsize, LEAST_QUEUE)


def draft_of(path: Path) -> Path:
    """Return where a file is written that takes the place of one that is there."""
    return path.with_name(f"{path.name}.part")


def _timed(opened: Callable[[], Source], times: Times) -> Source:
    """Return a source of files whose reading is timed."""
    return Passing(opened(), times.reading)


def _seconds_of(writer: NexusWriter) -> float:
    """Return how long the writing process computed so far, in s."""
    with suppress(psutil.Error):
        if writer.writer_pid is not None:
            spent = psutil.Process(writer.writer_pid).cpu_times()
            return float(spent.user + spent.system)
    return 0.0


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
    runner: Runner, writer: NexusWriter, console: Console, seconds: float, work: Work
) -> bool:
    """Say what was done and where it is; return True if all is well."""
    counts, health = runner.ledger.counts, runner.health
    if not work.quiet:
        console.print(ledger_line(counts))
    for sentence in (*health.alarms, *health.notes):
        console.print(f"note: {sentence}", soft_wrap=True)
    if not writer.file:
        lost = f"{counts.reduced} frames were reduced, but there is no file to hold them"
        why = lost if counts.reduced else "no frame could be used"
        console.print(f"nothing was written: {why}", soft_wrap=True)
    elif not work.quiet:
        rate = counts.reduced / seconds
        console.print(
            f"written: {work.output} ({seconds:.1f} s, {rate:.1f} frames/s)", soft_wrap=True
        )
    return bool(writer.file) and not writer.problem and not counts.rejected


def _profile(
    runner: Runner, times: Times, console: Console, seconds: float, compute: Compute
) -> None:
    """Say what took how long."""
    frames, workers = runner.ledger.counts.reduced, runner.workers
    table = Table("step", "seconds", "ms a frame", "share of the time", title="Profile")
    for step, took in (
        ("read (and decode what is no HDF5), one thread", times.read),
        (f"decode and map, {workers} worker{'s' if workers > 1 else ''}", times.map),
        ("reduce, in order", times.reduce),
        ("write, a process of its own", times.write),
        *_on_device(compute),
        ("all", seconds),
    ):
        each = f"{1000 * took / frames:.2f}" if frames else "-"
        table.add_row(step, f"{took:.2f}", each, f"{100 * took / seconds:.0f} %")
    console.print(table)


def _on_device(compute: Compute) -> Iterator[tuple[str, float]]:
    """Yield what copies and kernels took, in s; nothing without OpenCL."""
    if compute.opencl:
        from ...core.compute.opencl import accelerator

        for name, spent in accelerator(compute).spent().items():
            yield f"  OpenCL: {name}, {spent.times} times", spent.seconds
