"""A series of frames on its way into a map, with an account of what became of each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..frame import Frame
from ..stage import Placed
from .placing import PlaceBy, Placing, Waiting
from .scan import Missed, MotorGrid, Place, Spot
from .tomogram import Added, Reduced, Tomogram, remaining_seconds

NEWEST = 100
"""Newest frames whose pace tells the time that is left."""
SERIES_BITS = 40
"""Points of different series have different numbers; a scan has fewer than 2^40."""
KINDS: tuple[Missed | Added, ...] = (*Missed, *Added)


class Measurement:
    """The map of a scan and the frames of the present series.

    Parameters
    ----------
    placing
        Finds the places of the series' frames.
    before
        What the series goes on with; None: an empty map.
    same_points
        The points are numbered as before: it is the same series, joined again.
    """

    def __init__(
        self, placing: Placing, before: Measurement | None = None, same_points: bool = False
    ) -> None:
        self.placing = placing
        self.tomogram: Tomogram | None = None
        self.counts: Counter[Missed | Added] = Counter()
        self.highest = -1
        """Highest frame number so far."""
        self.resumed = False
        """Whether the map held something before this series."""
        self.changed: set[Place] = set()
        """Places that changed and are not on their way to the file."""
        self.rearranged = False
        """Whether patterns moved, so that the whole map is to be written at the end."""
        self.moved = False
        """Whether it is to be written now."""
        self._grid_sent: MotorGrid | None = None
        """The positions of the motors, as they are on their way to the file."""
        self._serial = 0
        self._times: deque[float] = deque(maxlen=NEWEST)
        if before is not None and before.tomogram is not None:
            # The file of the series before may still be waiting for its last values.
            self.tomogram, self.resumed = before.tomogram.copy(), before.tomogram.measured > 0
            self.counts, self.highest = before.counts.copy(), before.highest
            self._serial = before._serial + (not same_points)
            if self.resumed:
                self._keep_axes(before.placing.axes)

    def _keep_axes(self, axes: MotorGrid | None) -> None:
        """Have frames to come placed on the axes of those that are in the map."""
        if axes is not None and self.placing.by is PlaceBy.MOTORS:
            self.placing.axes, self.placing.fixed = axes, True

    # ---------------------------------------------------------- frames on their way

    def add(self, frame: Frame, reduced: Reduced) -> None:
        """Put a frame in its place, or have it wait; `tomogram` must be there."""
        self.highest = max(self.highest, frame.frame_id)
        self._times.append(frame.arrived)
        where = self.placing.add(frame, reduced)
        if where is not None:
            event = -1 if frame.event_number is None else frame.event_number
            self._put(where, reduced, frame.frame_id, event)
        self.place_waiting()

    def place_waiting(self, now: bool = False) -> None:
        """Put frames in their places that are known by now."""
        for each, where in self.placing.found(now):
            self._put(where, each.reduced, each.frame_id, each.event_number)

    def _put(self, where: Spot | Missed, reduced: Reduced, frame_id: int, event: int) -> None:
        """Put a frame in its place, if it has one, and count it."""
        if isinstance(where, Missed):
            self.counts[where] += 1
            return
        assert self.tomogram is not None
        point = self._number(where)
        self.counts[self.tomogram.add(where.place, point, reduced, frame_id, event)] += 1
        self.changed.add(where.place)

    def join(self, first: int) -> None:
        """Count the frames before the first of a series joined late that are not accounted for."""
        grid = self.placing.grid
        begin, end = max(grid.offset, 0), first
        known = self.counts.total() - self.counts[Missed.SKIPPED]
        if self.placing.by is PlaceBy.FRAME_NUMBER:
            end = min(end, grid.offset + grid.points * grid.frames_per_point)
            known -= self.counts[Missed.EXTRA]
        self.counts[Missed.BEFORE] += max(end - begin - known, 0)

    def _number(self, spot: Spot) -> int:
        return (self._serial << SERIES_BITS) + spot.point

    # ----------------------------------------------------------------- other places

    def can_move(self, placing: Placing) -> bool:
        """Tell whether the frames can be told apart that a change of places moves."""
        single = self.placing.grid.frames_per_point == placing.grid.frames_per_point == 1
        return single and not self._serial

    def move(self, placing: Placing) -> int:
        """Move all patterns to where they belong now; return how many have no place any more."""
        placing.waiting, self.placing = self.placing.waiting, placing
        old = self.tomogram
        if old is None:
            return 0
        spots: list[Spot | None] = []
        lost = 0
        for (frame_id, event), place, spot in zip(
            old.frames, old.places, placing.find(old.frames), strict=True
        ):
            spots.append(None if spot is None or isinstance(spot, Missed) else spot)
            if spot is None:
                placing.waiting.append(Waiting(frame_id, event, old.reduced(place)))
            elif isinstance(spot, Missed):
                self.counts[spot] += 1
                lost += 1
        self.tomogram = old.rearranged(placing.grid.shape, spots)
        self.rearranged = self.moved = True
        return lost

    # -------------------------------------------------------------------- how it goes

    @property
    def measured(self) -> int:
        """Positions that are measured."""
        return 0 if self.tomogram is None else self.tomogram.measured

    @property
    def missing(self) -> int:
        """Positions that are not."""
        return self.placing.grid.points - self.measured

    @property
    def seconds_left(self) -> float:
        """Time that the missing positions take, in s; NaN: not known."""
        frames = self.missing * self.placing.grid.frames_per_point
        return remaining_seconds(list(self._times), frames)

    def sentences(self) -> list[str]:
        """Return what happened to frames that are not in the map, or replaced others."""
        rotations, translations = self.placing.grid.shape
        shape = f"{rotations} x {translations} positions"
        said: dict[Missed | Added, str] = {
            Added.AGAIN: "frames were taken at positions measured before: the newest count",
            Missed.EXTRA: f"frames came after the last of {shape}: they are not in the map",
            Missed.OFF_GRID: f"frames were taken beside the grid of {shape}: they are not in the "
            "map; see rotation_range, translation_range and position_tolerance",
            Missed.NOT_FOUND: "frames never got positions: they are not in the map",
            Missed.BEFORE: "frames came before the series was joined late: they are not in the map",
        }
        notes = [f"{self.counts[why]} {text}" for why, text in said.items() if self.counts[why]]
        if self.placing.waiting:
            waiting = f"{len(self.placing.waiting)} frames wait for positions"
            notes.append(self.placing.problem or waiting)
        return notes

    def cells(self) -> Mapping[str, list[Placed]]:
        """Return the places that changed, for the file, by name of output; they are taken then.

        What tells that a pattern is there comes after the pattern.
        """
        tomogram = self.tomogram
        if tomogram is None:
            return {}
        cells: dict[str, list[Placed]] = {}
        axes = self.placing.axes
        if axes is not None and axes != self._grid_sent:
            self._grid_sent, cells["motor_grid"] = axes, [Placed((), axes.ends)]
        changed = sorted(self.changed)
        layers = {("intensity", "errors", "numbers"): tomogram.layer}
        if tomogram.cakes is not None:
            layers["patterns", "pattern_errors", "pattern_numbers"] = tomogram.patterns
        for names, layer in layers.items():
            arrays = *layer.arrays(changed), layer.numbers
            for name, values in zip(names, arrays, strict=True):
                if values is not None:
                    cells[name] = [Placed(place, values[place]) for place in changed]
        cells["frame_map"] = [Placed(place, int(tomogram.frame[place])) for place in changed]
        cells["places"] = [Placed(place, tomogram.entry(place)) for place in changed]
        self.changed.clear()
        return {name: found for name, found in cells.items() if found}

    # ------------------------------------------------------------------ what is kept

    def tree(self) -> dict[str, Any]:
        """Return the map and its account for a checkpoint."""
        if self.tomogram is None:
            return {}
        axes = {"radial": self.tomogram.radial}
        if self.tomogram.azimuthal is not None:
            axes["azimuthal"] = self.tomogram.azimuthal
        if self.placing.axes is not None:
            axes["ends"] = self.placing.axes.ends
        return {
            **axes,
            "origin": self.tomogram.origin,
            **self.tomogram.tree(),
            "counts": np.array([self.counts[kind] for kind in KINDS], np.int64),
            "highest": self.highest,
            "serial": self._serial,
        }

    def take(self, other: Measurement) -> None:
        """Take over the positions that only another map of the same series has, or has newer."""
        mine, its = self.tomogram, other.tomogram
        if mine is None or its is None or not np.array_equal(mine.radial, its.radial):
            return
        mine.take(its, its.frame > mine.frame)
        self.highest = max(self.highest, other.highest)

    def restore(self, tree: Mapping[str, Any], errors: bool) -> None:
        """Take back what `tree` gave.

        Raises
        ------
        ValueError
            If it is of another form.
        """
        try:
            radial, azimuthal = np.asarray(tree["radial"]), tree.get("azimuthal")
            origin = str(tree["origin"])
            new = Tomogram(self.placing.grid.shape, radial, azimuthal, errors, origin)
            new.restore(tree)
            counts = [int(count) for count in tree["counts"]]
            self.counts = Counter(dict(zip(KINDS, counts, strict=True)))
            self.highest, self._serial = int(tree["highest"]), int(tree["serial"])
            if "ends" in tree:
                placing, ends = self.placing, np.asarray(tree["ends"], np.float64)
                tolerance = placing.motors.tolerance
                self._keep_axes(MotorGrid.between(ends, placing.grid.shape, tolerance))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the map in the checkpoint is of another form ({error})") from None
        self.tomogram = new
