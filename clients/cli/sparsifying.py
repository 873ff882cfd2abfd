"""What `ronda sparsify-Bragg` does: files to one sparse file, and a list of its peaks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.bragg.cxi import CxiWriter
from ...core.bragg.parameters import BraggParameters
from ...core.bragg.sparse_file import SparseFile
from ...core.bragg.stage import BraggStage, engine
from ...core.compute.device import Compute
from ...core.sources.files import FilesSource, matching
from .reducing import Work, check_output, first_frame, reduce_to_file
from .sparsify import SUFFIX


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
        names = matching(self.images)
        output = self.output or Path(Path(names[0].partition("::")[0]).stem + SUFFIX)
        check_output(output, self.force)
        if self.cxi is not None:
            check_output(self.cxi, self.force)
            if parameters.sparsifying.peaks is None:
                raise ValueError("--cxi lists peaks, and none are looked for: give --cutoff-peak")
        engine(first_frame(FilesSource(names)), parameters, self.compute)
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
            profile=self.profile,
        )
        status = reduce_to_file(work)
        if self.cxi is not None and output.exists():
            write_cxi(output, self.cxi)
        return status


def write_cxi(sparse: Path, path: Path) -> None:
    """Write the peaks of a sparse file as CXI, for CrystFEL.

    Raises
    ------
    OSError, ValueError
        In one sentence, if it cannot be done; then nothing is left behind.
    """
    with SparseFile(sparse) as file:
        writer = CxiWriter(path, file.instrument, np.isnan(file.pixel_radius))
        try:
            for number in range(file.count):
                writer.append(file.peaks(number))
            writer.finish()
        except BaseException:
            writer.discard()
            raise
