"""`ronda densify`: whole images from the sparse files of sparsify-Bragg."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ...core.bragg.cxi import CxiWriter
    from ...core.bragg.dense_file import DenseWriter
    from ...core.bragg.densify import Densifier
    from ...core.bragg.sparse_file import SparseFile

FORMATS = ("lima", "eiger")
BASENAME = "{basename}"
PARTS = re.compile(r"(_master|(_data)?_\d{6})$")
"""What Eiger style appends to the stem of its files."""


@dataclass(frozen=True)
class Job:
    """One call of `ronda densify`, for one file."""

    file: Path
    output: str | None
    format: str
    dummy: float | None
    noise: float
    seed: int
    frames: str
    cxi: bool
    workers: int
    force: bool

    @property
    def stem(self) -> Path:
        """Path of what is written, without what the format appends."""
        if self.output is None:
            return self.file.with_suffix("")
        path = Path(self.output.replace(BASENAME, self.file.stem))
        path = path.with_suffix("") if path.suffix in (".h5", ".hdf5", ".nxs") else path
        return path.with_name(PARTS.sub("", path.name)) if self.format == "eiger" else path

    @property
    def dense(self) -> Path:
        """Of Lima style: the file."""
        return Path(f"{self.stem}_dense.h5" if self.output is None else f"{self.stem}.h5")

    @property
    def cxi_path(self) -> Path:
        """The list of peaks."""
        return self.stem.with_name(f"{self.stem.name}.cxi")

    def numbers(self, count: int) -> range:
        """Return the frames that are wanted of so many.

        Raises
        ------
        ValueError
            If there is none, or the text is no A:B.
        """
        match = re.fullmatch(r"(\d*):(\d*)", self.frames)
        if match is None:
            raise ValueError(f"frames {self.frames!r} are not A:B; the first frame is 0")
        wanted = range(count)[slice(*(int(part) if part else None for part in match.groups()))]
        if not wanted:
            raise ValueError(f"{self.file} has {count} frames, none of them in {self.frames}")
        return wanted


def densify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="Sparse files of pyFAI's sparsify-Bragg or of Ronda.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="What to write; [bold]{basename}[/bold] stands for the name of the sparse file. "
            "By default FILE_dense.h5, or FILE_master.h5 and FILE_000001.h5... beside it.",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "-O",
            "--output-format",
            "--format",
            metavar="FORMAT",
            help="[bold]lima[/bold], or [bold]eiger[/bold] (for XDS with neggia or durin).",
        ),
    ] = "lima",
    show_formats: Annotated[
        bool, typer.Option("-l", "--list", help="List the formats and end.")
    ] = False,
    dummy: Annotated[
        float | None,
        typer.Option(
            "-D",
            "--dummy",
            help="Value of masked pixels; by default what the file says.",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(
            "-N",
            "--noise",
            min=0,
            max=1,
            help="Noise of the background: 0 for none, 1 for as much as was measured.",
        ),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the noise: the same seed gives the same images.")
    ] = 0,
    frames: Annotated[
        str, typer.Option(metavar="A:B", help="Only frames A to B - 1; the first is 0.")
    ] = ":",
    cxi: Annotated[
        bool,
        typer.Option("--cxi", help="Write the peaks beside, as CXI and geometry for CrystFEL."),
    ] = False,
    workers: options.Workers = options.WORKERS,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Rebuild all images, but write nothing.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", "--debug", help="Say what each file holds.")
    ] = False,
) -> None:
    """Rebuild whole images from sparse files: background, and the kept pixels exactly.

    Ctrl-C ends it early; the files then hold what was done.
    """
    if show_formats:
        typer.echo("\n".join(FORMATS))
        return
    chosen = [name for name in FORMATS if output_format and name.startswith(output_format.lower())]
    if len(chosen) != 1:
        raise ValueError(f"there is no format {output_format!r}; there are {', '.join(FORMATS)}")
    if not files:
        raise ValueError("name at least one sparse file")
    if len(files) > 1 and output is not None and BASENAME not in output:
        raise ValueError(f"of several files, one --output needs {BASENAME} in its name")
    for file in files:
        job = Job(
            file, output, chosen[0], dummy, noise, seed, frames, cxi, workers, force or dry_run
        )
        if status := run_densify(job, dry_run, verbose):
            raise typer.Exit(status)


def run_densify(job: Job, dry_run: bool, verbose: bool) -> int:
    """Rebuild the images of one file; return the exit status.

    Returns
    -------
    int
        0, or 130 after Ctrl-C.

    Raises
    ------
    OSError, ValueError
        In one sentence: what the user can mend. Then nothing is left behind.
    """
    from ...core.bragg.densify import Densifier
    from ...core.bragg.sparse_file import SparseFile

    with SparseFile(job.file) as file:
        numbers = job.numbers(file.count)
        if job.cxi and not file.has_peaks:
            raise ValueError(f"{job.file} has no peaks for --cxi; look for them when sparsifying")
        if job.noise and file.has_background and not file.has_deviation:
            raise ValueError(f"{job.file} does not tell how much noise there was")
        densifier = Densifier(file, job.dummy)
        if verbose:
            _describe(file)
        with _told_to_stop() as stop:
            outputs = _Outputs(job, file, densifier, numbers, dry_run)
            begin = time.monotonic()
            try:
                _rebuild(job, file, densifier, numbers, outputs, stop)
                outputs.finish(time.monotonic() - begin)
            except BaseException:
                outputs.discard()
                raise
    return 130 if stop.is_set() else 0


@contextmanager
def _told_to_stop() -> Iterator[Event]:
    """Give an event that Ctrl-C sets, so that it interrupts no writing; the second one does."""
    stop = Event()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _rebuild(
    job: Job,
    file: SparseFile,
    densifier: Densifier,
    numbers: range,
    outputs: _Outputs,
    stop: Event,
) -> None:
    """Write every image until told to stop, with the progress shown."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ...core.bragg.densify import dense_frames
    from .console import stderr

    console = stderr()
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} frames"),
        TimeElapsedColumn(),
    )
    images = dense_frames(file, densifier, numbers, job.workers, job.noise, job.seed)
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        closing(images),
    ):
        for number, image in progress.track(zip(numbers, images, strict=True), len(numbers)):
            outputs.write(image, file.peaks(number) if file.has_peaks else None)
            if stop.is_set():
                break


class _Outputs:
    """What is written for one sparse file.

    Raises
    ------
    OSError
        In one sentence, if something is there already or cannot be written.
    """

    def __init__(
        self, job: Job, file: SparseFile, densifier: Densifier, numbers: range, dry_run: bool
    ) -> None:
        self._job, self._file, self._shape = job, file, file.shape
        self._dense: DenseWriter | None = None
        self._cxi: CxiWriter | None = None
        self._count = 0
        process = _process(job, numbers)
        if dry_run:
            return
        folder = job.stem.absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"folder {folder} does not exist; make it first")
        from ...core.bragg.cxi import CxiWriter
        from ...core.bragg.dense_file import EigerWriter, LimaWriter
        from ...core.bragg.dense_layout import Stack

        stack = Stack(
            len(numbers),
            file.shape,
            file.dtype,
            densifier.mask,
            file.instrument,
            file.start_time,
            process,
            file.has_peaks,
        )
        kind = {"lima": LimaWriter, "eiger": EigerWriter}[job.format]
        self._dense = kind(job.dense if job.format == "lima" else job.stem, stack)
        try:
            self._check()
            if job.cxi:
                self._cxi = CxiWriter(job.cxi_path, file.instrument, densifier.mask, process)
        except BaseException:
            self.discard()
            raise

    def _check(self) -> None:
        """Refuse to overwrite: the sparse file always, others without --force."""
        assert self._dense is not None
        paths = [*self._dense.paths, *([self._job.cxi_path] if self._job.cxi else ())]
        for path in paths:
            if path.exists() and path.samefile(self._job.file):
                raise FileExistsError(f"{path} is the sparse file itself; choose another --output")
            if path.exists() and not self._job.force:
                raise FileExistsError(f"{path} exists; --force overwrites it")

    def write(self, image: Any, peaks: Any) -> None:
        """Add an image and its peaks."""
        if self._dense is not None:
            self._dense.write(image, peaks)
        if self._cxi is not None:
            self._cxi.append(peaks)
        self._count += 1

    def finish(self, seconds: float) -> None:
        """Give the files their names and say what there is."""
        from .console import stderr

        if self._dense is None:
            stderr().print(f"{self._count} frames of {self._file.path} rebuilt, nothing written")
            return
        links = self._dense.finish()
        written = [link.file for link in links]
        if self._cxi is not None:
            self._cxi.finish(links)
            written += [self._job.cxi_path, *self._geometry()]
        if self._job.format == "eiger":
            written.insert(0, self._dense.paths[-1])
        rate = self._count / max(seconds, 1e-9)
        names = ", ".join(map(str, written))
        stderr().print(
            f"written: {names} ({self._count} frames, {seconds:.1f} s, {rate:.1f} frames/s)",
            soft_wrap=True,
        )

    def _geometry(self) -> Iterator[Path]:
        """Write CrystFEL's geometry beside the peaks, if all that it needs is known."""
        from ...core.bragg.cxi import crystfel_geometry
        from .console import stderr

        path = self._job.cxi_path.with_suffix(".geom")
        try:
            text = crystfel_geometry(self._file.instrument, self._shape)
        except ValueError as error:
            stderr().print(f"note: there is no {path}: {error}", soft_wrap=True)
            return
        path.write_text(text, encoding="utf-8")
        yield path

    def discard(self) -> None:
        """Leave nothing behind."""
        for writer in (self._dense, self._cxi):
            if writer is not None:
                writer.discard()


def _process(job: Job, numbers: range) -> dict[str, Any]:
    """Return what is recorded about how the images were made."""
    return {
        "source": str(job.file.absolute()),
        "first_frame": numbers.start,
        "noise": job.noise,
        "seed": job.seed,
    }


def _describe(file: SparseFile) -> None:
    """Say what a sparse file holds."""
    from .console import stderr

    bins = "no background" if file.radius is None else f"background in {len(file.radius)} bins"
    corrected = "" if file.normalization is None else ", normalization"
    peaks = ", peaks" if file.has_peaks else ""
    creator = file.creator or "an unknown program"
    rows, columns = file.shape
    stderr().print(
        f"{file.path}: {file.count} frames of {rows} x {columns} {file.dtype}, {bins}"
        f"{corrected}{peaks}, dummy {file.dummy}, written by {creator}",
        soft_wrap=True,
    )
