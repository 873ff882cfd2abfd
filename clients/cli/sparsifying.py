"""What `ronda sparsify-Bragg` does: files to one sparse file, and a list of its peaks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...core.bragg.cxi import CxiWriter, DataLink, crystfel_geometry
from ...core.bragg.file_layout import ENTRY
from ...core.bragg.parameters import BraggParameters
from ...core.bragg.sparse_file import PEAK, SparseFile
from ...core.bragg.stage import BraggStage, engine
from ...core.compute.device import Compute
from ...core.sources.files import FilesSource, matching
from ...core.stage import Row
from .console import stderr
from .reducing import Work, check_output, first_frame, queue_of, reduce_to_file
from .sparsify import BASENAME, SUFFIX

PACKED = (".gz", ".bz2")


@dataclass(frozen=True)
class Sparsification:
    """One call of `ronda sparsify-Bragg`."""

    images: Sequence[str]
    output: Path | None
    changes: Mapping[str, Any]
    """Of the parameters' defaults."""
    compute: Compute
    workers: int
    force: bool
    cxi: Path | None
    verbosity: int
    """Level of the log that is shown."""
    profile: bool

    def run(self) -> int:
        """Do it; return the exit status, as `reduce_to_file` does.

        Raises
        ------
        OSError, ValueError
            In one sentence: what the user can mend.
        """
        parameters = BraggParameters().changed(self.changes)
        for image in self.images:
            if Path(image).is_dir():
                raise ValueError(f"{image} is a folder: name its files, as in '{image}/*'")
        names = matching(self.images)
        output = _output(self.output, names[0])
        check_output(output, self.force, names)
        if self.cxi is not None:
            self._check_cxi(self.cxi, output, parameters, names)
        frame = first_frame(FilesSource(names))
        engine(frame, parameters, self.compute)
        work = Work(
            stage=BraggStage(),
            parameters=parameters,
            source=partial(FilesSource, names),
            output=output,
            said=f"ronda sparsify-Bragg: {json.dumps(dict(self.changes), default=str)}",
            workers=self.workers,
            force=self.force,
            compute=self.compute,
            verbosity=self.verbosity,
            tell=_tell,
            queue_bytes=queue_of(frame, self.workers),
            profile=self.profile,
        )
        before = output.stat() if output.exists() else None
        status = reduce_to_file(work)
        # Where no frame could be used, what is there is an older file.
        if self.cxi is not None and output.exists() and before != output.stat():
            write_cxi(output, self.cxi, list(_stacks(names)))
        return status

    def _check_cxi(
        self, path: Path, output: Path, parameters: BraggParameters, names: Sequence[str]
    ) -> None:
        """Refuse a list of peaks, or its geometry, that cannot be written."""
        if parameters.sparsifying.peaks is None:
            raise ValueError("--cxi lists peaks, and none are looked for: give --cutoff-peak")
        for each in (path, geometry_path(path)):
            check_output(each, self.force, names)
        if path.absolute() == output.absolute():
            raise ValueError(f"--cxi and --output are both {path}; choose another name for one")


def _output(asked: Path | None, first: str) -> Path:
    """Return where to write, from what was asked for and the first image."""
    path = Path(first.partition("::")[0])
    stem = Path(path.stem).stem if path.suffix in PACKED else path.stem
    return Path(str(asked or f"{BASENAME}{SUFFIX}").replace(BASENAME, stem))


def _tell(row: Row) -> str:
    """Say what was found in a frame."""
    peaks = f", peaks: {row['peaks_count']}" if "peaks_count" in row else ""
    return f"pixels kept: {row['frames_kept']}{peaks}"


# --------------------------------------------------------------------- CrystFEL


def _stacks(names: Sequence[str]) -> Iterator[DataLink]:
    """Yield the stacks of images in HDF5 files; none if not all files are such."""
    parts = FilesSource(names).parts()
    for part in parts if all(len(part.shape) == 3 for part in parts) else ():
        rows, columns = part.shape[-2:]
        yield DataLink(part.file, part.dataset, (part.frames, rows, columns), part.dtype)


def write_cxi(sparse: Path, path: Path, images: Sequence[DataLink]) -> None:
    """Write the peaks of a sparse file as CXI, and the geometry beside, for CrystFEL.

    Parameters
    ----------
    images
        All that frames were read from, in order. Those that are not in the sparse
        file (rejected, vetoed, not reached) have no peaks in the list. Without
        any the list has the frames of the sparse file only.

    Raises
    ------
    OSError, ValueError
        In one sentence, if it cannot be done; then nothing is left behind.
    """
    with SparseFile(sparse) as file:
        rows: dict[int, int] = dict(enumerate(range(file.count)))
        if images:
            with h5py.File(sparse) as stored:
                rows = {n: row for row, n in enumerate(stored[f"{ENTRY}/frames/number"][()])}
        frames = sum(link.shape[0] for link in images) or file.count
        writer = CxiWriter(path, file.instrument, np.isnan(file.pixel_radius))
        try:
            for number in range(frames):
                row = rows.get(number)
                writer.append(np.zeros(0, PEAK) if row is None else file.peaks(row))
            writer.finish(images)
        except BaseException:
            writer.discard()
            raise
        written = [path, *_write_geometry(file, geometry_path(path))]
    console = stderr()
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    if not images:
        console.print(
            f"note: {path} has no links to images, which only stacks in HDF5 files can be",
            soft_wrap=True,
        )


def geometry_path(cxi: Path) -> Path:
    """Return where the geometry stands that goes with a list of peaks."""
    return cxi.with_suffix(".geom")


def _write_geometry(file: SparseFile, path: Path) -> Iterator[Path]:
    """Write CrystFEL's geometry, if all that it needs is known."""
    try:
        text = crystfel_geometry(file.instrument, file.shape)
    except ValueError as error:
        stderr().print(f"note: there is no {path}: {error}", soft_wrap=True)
        return
    path.write_text(text, encoding="utf-8")
    yield path
