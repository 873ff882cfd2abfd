"""`ronda run`: a stage without Tango, from a source to a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ...core import simulation  # noqa: F401  (makes the scheme simulated: known)
from ...core.history import difference
from ...core.parameters import ParameterError, Parameters, load_yaml, parse_assignments
from ...core.runner import Runner
from ...core.sinks.nexus import NexusWriter
from ...core.sources import open_source
from ...core.stage import Stage
from ...core.stages import registry
from .console import ledger_line, stderr

REFRESH = 0.1
"""Seconds between two looks at the runner."""


@dataclass(frozen=True)
class Job:
    """One call of `ronda run`."""

    stage: str
    source: str
    output: Path
    positions: str | None = None
    params: Path | None = None
    assignments: tuple[str, ...] = ()
    rois: tuple[str, ...] = ()
    workers: int = 2
    force: bool = False

    @property
    def stage_class(self) -> type[Stage[Any, Any]]:
        """The stage.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        return registry.get(self.stage)

    def parameters(self) -> Parameters:
        """Return the defaults, changed by the file, then by `--param`, then by `--roi`.

        Raises
        ------
        ParameterError
            In one sentence, if a name is unknown or a value is refused.
        """
        values: Parameters = self.stage_class.Parameters()
        if self.params is not None:
            values = values.changed(load_yaml(self.params))
        values = values.changed(parse_assignments(values, self.assignments))
        for text in self.rois:
            values = values.changed(self._with_roi(values, text))
        return values

    def _with_roi(self, values: Parameters, text: str) -> Mapping[str, Any]:
        for command in self.stage_class.commands:
            if command.name == "AddRoi" and command.changes:
                return command.changes(values, text)
        raise ParameterError(f"stage {self.stage} has no ROIs: leave out --roi {text}")

    def check_output(self) -> None:
        """Refuse an output that cannot be written.

        Raises
        ------
        OSError
            In one sentence.
        """
        if self.output.exists() and not self.force:
            raise FileExistsError(f"{self.output} exists; --force overwrites it")
        if not self.output.absolute().parent.is_dir():
            raise FileNotFoundError(f"folder {self.output.parent} does not exist; make it first")


def run_stage(job: Job) -> int:
    """Reduce what the source gives; return the exit status.

    Returns
    -------
    int
        0; 1 if no frame could be used or something could not be written; 130 after Ctrl-C.

    Raises
    ------
    OSError, ValueError
        In one sentence: what the user can mend.
    """
    parameters = job.parameters()
    job.check_output()
    for url in filter(None, (job.source, job.positions)):
        if url.startswith("tango:"):  # the one kind that core does not know
            from ...devices import tango_source  # noqa: F401
        open_source(url).close()
    writer = NexusWriter(output_file=job.output, overwrite=job.force)
    runner = Runner(job.stage_class(), parameters, [writer], job.workers)
    chosen = difference(job.stage_class.Parameters().to_json(), parameters.to_json())
    runner.history.add(
        f"{psutil.Process().username()}@localhost", f"ronda run: {chosen or 'the defaults'}"
    )
    failure, interrupted, begin = None, False, time.monotonic()
    console = stderr()
    try:
        positions = partial(open_source, job.positions) if job.positions else None
        with _log_on(console):
            runner.start(partial(open_source, job.source), positions)
            _follow(runner, console)
            runner.wait()
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        failure = error
    finally:
        runner.close()
    good = _summarise(runner, writer, console, time.monotonic() - begin)
    if failure:
        raise failure
    return 130 if interrupted else int(not good)


@contextmanager
def _log_on(console: Console) -> Iterator[None]:
    """Show what is logged above the progress bar: each rejected frame by its number."""
    handler = RichHandler(logging.WARNING, console, show_time=False, show_path=False)
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _follow(runner: Runner, console: Console) -> None:
    """Show the progress until everything that the source gives is reduced."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.fields[all]} frames"),
        TextColumn("{task.fields[rate]:.1f} Hz"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[trouble]}"),
    )
    # Without a terminal there is nothing to redraw: the summary at the end says it all.
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
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


def _summarise(runner: Runner, writer: NexusWriter, console: Console, seconds: float) -> bool:
    """Say what was done and where it is; return True if all is well."""
    counts, health = runner.ledger.counts, runner.health
    console.print(ledger_line(counts))
    for sentence in (*health.alarms, *health.notes):
        console.print(f"note: {sentence}", soft_wrap=True)
    if not writer.file:
        console.print("nothing was written: no frame could be used")
    else:
        rate = counts.reduced / seconds
        console.print(
            f"written: {writer.file} ({seconds:.1f} s, {rate:.1f} frames/s)", soft_wrap=True
        )
    return bool(writer.file) and not writer.problem
