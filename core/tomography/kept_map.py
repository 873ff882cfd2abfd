"""The map that outlives its device: kept in checkpoints, taken up from them and from its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..stage import Tree
from .map_file import left_map
from .measurement import Measurement
from .outputs import STATE
from .parameters import DiffTomoParameters
from .placing import Placing


@dataclass(frozen=True, slots=True)
class KeptMap:
    """A map, and where it is from."""

    now: Measurement
    run: int = -1
    """Number of the newest series that is in it."""
    in_file: bool = True
    """Whether it is the map in the file of that series."""

    def tree(self, parameters: DiffTomoParameters) -> Tree:
        """Return it for a checkpoint; an empty one too, where another was before."""
        tree = self.now.tree()
        return {
            **{f"{STATE}{name}": value for name, value in tree.items()},
            f"{STATE}of": parameters.identity,
            f"{STATE}empty": not tree,
            f"{STATE}run": self.run,
            f"{STATE}in_file": self.in_file,
        }

    @classmethod
    def read(cls, tree: Tree, parameters: DiffTomoParameters, placing: Placing) -> KeptMap:
        """Return the map of a checkpoint; frames to come are placed by `placing`.

        Raises
        ------
        ValueError
            If it was made with other parameters.
        """
        entries = {k.removeprefix(STATE): v for k, v in tree.items() if k.startswith(STATE)}
        if entries.get("of") != parameters.identity:
            raise ValueError("the map in the checkpoint was made with other parameters")
        now = Measurement(placing)
        try:
            kept = cls(now, int(entries["run"]), bool(entries["in_file"]))
            empty = bool(entries["empty"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the checkpoint is of another form ({error})") from None
        if not empty:
            now.restore(entries, parameters.errors)
            assert now.tomogram is not None
            now.tomogram.choose(parameters.ranges, parameters.subtract_background)
        return kept

    def with_file(self, path: Path, parameters: DiffTomoParameters, placing: Placing) -> KeptMap:
        """Return it with what a file holds beyond it, or the file's, which is of a newer series.

        Returns itself if the file is older.

        Raises
        ------
        OSError, ValueError
            In one sentence, if the map in the file cannot be taken up.
        """
        left = left_map(path, parameters, self.run if self.in_file else self.run + 1)
        if left is None:
            return self
        found = KeptMap.read(left.state, parameters, placing)
        if found.run == self.run:
            found.now.take(self.now)
        return found
