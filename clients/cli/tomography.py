"""What `ronda diff_tomo` does: the files of a scan to one map of powder patterns."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...core.compute.device import Compute
from ...core.sources import open_source
from ...core.sources.files import FilesSource, matching
from ...core.tomography.parameters import DiffTomoParameters
from ...core.tomography.profiles import profiles
from ...core.tomography.stage import DiffTomoStage
from .reducing import Work, check_output, first_frame, reduce_to_file


@dataclass(frozen=True)
class Integration:
    """One call of `ronda diff_tomo`."""

    images: Sequence[str]
    prefix: str
    extension: str
    output: Path
    changes: Mapping[str, Any]
    """Of the parameters' defaults, but darks and flats."""
    darks: Sequence[str]
    flats: Sequence[str]
    positions: str | None
    """URL of motor positions; None: frames are placed by their numbers."""
    compute: Compute
    workers: int
    force: bool
    verbose: bool
    stats: bool

    def run(self) -> int:
        """Do it; return the exit status, as `reduce_to_file` does.

        Raises
        ------
        OSError, ValueError
            In one sentence: what the user can mend.
        """
        changes = {
            **self.changes,
            "dark_files": _listed(self.darks),
            "flat_files": _listed(self.flats),
        }
        parameters = DiffTomoParameters().changed(changes)
        names = self.names()
        check_output(self.output, self.force)
        self._check_length(parameters, names)
        frame = first_frame(FilesSource(names))
        profiles(parameters.setup.experiment(frame.shape), parameters.bins)
        if self.positions:
            open_source(self.positions).close()
        work = Work(
            stage=DiffTomoStage(),
            parameters=parameters,
            source=partial(FilesSource, names),
            output=self.output,
            said=f"ronda diff_tomo: {json.dumps(changes, default=str)}",
            positions=partial(open_source, self.positions) if self.positions else None,
            workers=self.workers,
            force=self.force,
            quiet=not self.verbose,
            compute=self.compute,
            verbosity=logging.INFO if self.verbose else logging.WARNING,
            picture=self.output.with_name(f"{self.output.stem}_stats.png") if self.stats else None,
        )
        return reduce_to_file(work)

    def names(self) -> list[str]:
        """Return the files to read.

        Raises
        ------
        SourceError
            If there is none.
        """
        suffix = f".{self.extension.lstrip('.')}" if self.extension else ""
        if not self.images:
            if not (self.prefix or suffix):
                raise ValueError("no images: name files, folders or patterns in quotes")
            return matching([f"{self.prefix}*{suffix}"])
        patterns = [self._pattern(image, suffix) for image in self.images]
        names = matching(patterns)
        fitting = [name for name in names if name.partition("::")[0].endswith(suffix)]
        if not fitting:
            raise ValueError(f"none of the {len(names)} files ends in {suffix}")
        return fitting

    def _pattern(self, image: str, suffix: str) -> str:
        """Return the pattern of an argument: of a folder, what prefix and extension choose."""
        return f"{image}/{self.prefix}*{suffix}" if Path(image).is_dir() else image

    def _check_length(self, parameters: DiffTomoParameters, names: Sequence[str]) -> None:
        """Refuse an offset that leaves out every frame."""
        if self.positions is None:
            parameters.grid.check_length(FilesSource(names).count())


def _listed(texts: Iterable[str]) -> list[str]:
    """Return the files that lists with commas and patterns name."""
    patterns = [name for text in texts for name in text.split(",") if name]
    return matching(patterns) if patterns else []
