"""`ronda run`: a stage without Tango, from a source to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...core import simulation  # noqa: F401  (makes the scheme simulated: known)
from ...core.history import difference
from ...core.parameters import ParameterError, Parameters, load_yaml, parse_assignments
from ...core.sources import open_source
from ...core.stage import Stage
from ...core.stages import registry
from .reducing import Work, check_output, reduce_to_file


@dataclass(frozen=True)
class Job:
    """One call of `ronda run`."""

    stage: str
    source: str
    output: Path
    workers: int
    positions: str | None = None
    params: Path | None = None
    assignments: tuple[str, ...] = ()
    rois: tuple[str, ...] = ()
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


def run_stage(job: Job) -> int:
    """Reduce what the source gives; return the exit status, as `reduce_to_file` does.

    Raises
    ------
    OSError, ValueError
        In one sentence: what the user can mend.
    """
    parameters = job.parameters()
    check_output(job.output, job.force)
    for url in filter(None, (job.source, job.positions)):
        if url.startswith(("lima:", "tango:")):  # the kinds that core does not know
            from ...devices import lima_source, tango_source  # noqa: F401
        open_source(url).close()
    chosen = difference(job.stage_class.Parameters().to_json(), parameters.to_json())
    work = Work(
        stage=job.stage_class(),
        parameters=parameters,
        source=partial(open_source, job.source),
        output=job.output,
        said=f"ronda run: {chosen or 'the defaults'}",
        positions=partial(open_source, job.positions) if job.positions else None,
        workers=job.workers,
        force=job.force,
    )
    return reduce_to_file(work)
