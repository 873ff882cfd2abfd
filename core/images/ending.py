"""What is written of ROI curves when a series is over and its positions are in."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..sinks.tree import slot_name
from ..stage import Tree
from .curves import SeriesParameters
from .roi import Roi
from .rows import SeriesRows
from .steps import Pairing, Steps


@dataclass(frozen=True)
class RoiEnding:
    """The rows of a series that has ended, until its positions are in and it is written."""

    rows: SeriesRows
    parameters: SeriesParameters
    names: list[str]
    """Name of the ROI in each slot."""
    versions: Mapping[int, Mapping[str, Roi]]
    """The sets of ROIs that there were, by number."""

    def settled(self) -> bool:
        """Tell whether no position can change any more."""
        return self.pairing().settled()

    def pairing(self) -> Pairing:
        """Return the frames' points, as known now."""
        return pair(self.rows, self.parameters)

    def tree(self) -> Tree:
        """Return the last values for the file: x of every row, and the steps.

        Steps are those of the rows as they stand in the file.
        """
        scan = copy.copy(self.rows.scan)  # the book itself may get records meanwhile
        pairing = replace(self.pairing(), scan=scan)
        slots = [slot for slot, name in enumerate(self.names) if name]
        steps = pairing.steps([self.rows.written_means(slot) for slot in slots])
        versions = {
            version: {name: roi.model_dump() for name, roi in rois.items()}
            for version, rois in self.versions.items()
        }
        tree: dict[str, Any] = {
            "rois/names": self.names,
            "rois/incomplete": pairing.incomplete(ended=True),
            "rois/versions": json.dumps(versions),
        }
        x = pairing.x()
        for row, slot in enumerate(slots):
            group = f"rois/{slot_name(slot)}"
            tree |= {f"{group}/x": x, **_steps_tree(f"{group}/steps", steps, row)}
            for table in (group, f"{group}/steps"):
                tree[f"{table}/x@long_name"] = pairing.x_name
        return tree


def pair(rows: SeriesRows, parameters: SeriesParameters) -> Pairing:
    """Return which points the frames of a series belong to, as the parameters say."""
    return Pairing(
        frames=rows.frames,
        events=rows.events,
        times=rows.times,
        began=float(rows.times[0]) if len(rows) else 0.0,
        scan=rows.scan,
        frames_per_point=parameters.frames_per_point,
        x_axis=parameters.x_axis,
        movable=parameters.movable,
        joined_late=rows.series.joined_late,
    )


def _steps_tree(group: str, steps: Steps, row: int) -> Tree:
    return {
        f"{group}/point": steps.point,
        f"{group}/x": steps.x,
        f"{group}/mean": steps.mean[row],
        f"{group}/error": steps.error[row],
        f"{group}/n": steps.n[row],
        f"{group}/expected": steps.expected,
        f"{group}/mean_errors>": f"{group}/error",
        f"{group}@NX_class": "NXdata",
        f"{group}@signal": "mean",
        f"{group}@axes": "x",
    }
