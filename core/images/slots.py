"""Which place of the file each ROI has."""

from __future__ import annotations

from collections.abc import Mapping

from ..stage import SLOTS
from .roi import Roi


class Slots:
    """The slots of ROIs; one keeps its slot while it exists, also under another name.

    The slot of a deleted ROI is used again in the next series only, lest a table
    of the file hold two ROIs.
    """

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        """Slot of each ROI by name; a ROI for which there is no room has none."""
        self._used: set[int] = set()
        self._names = [""] * SLOTS

    @property
    def names(self) -> list[str]:
        """Name of the ROI in each slot, also of one deleted in this series; or empty."""
        return self._names.copy()

    def begin(self) -> None:
        """Begin a series: slots of deleted ROIs are free again."""
        self._used = set(self.of.values())
        self._names = [""] * SLOTS
        for name, slot in self.of.items():
            self._names[slot] = name

    def change(self, old: Mapping[str, Roi], new: Mapping[str, Roi]) -> None:
        """Follow from one set of ROIs to the next.

        A ROI that vanishes while a like one appears was renamed.
        """
        kept = {name: slot for name, slot in self.of.items() if name in new}
        gone = [name for name in self.of if name not in new]
        for name in (name for name in new if name not in kept):
            former = next((g for g in gone if old[g].rectangle == new[name].rectangle), None)
            if former is not None:
                gone.remove(former)
                kept[name] = self.of[former]
            elif len(self._used) < SLOTS:
                kept[name] = min(set(range(SLOTS)) - self._used)
                self._used.add(kept[name])
        self.of = kept
        for name, slot in kept.items():
            self._names[slot] = name
