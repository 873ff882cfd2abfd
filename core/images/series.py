"""ROI values of a series as they grow: frame by frame, and point by point of a scan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frame import Encoded, Frame, Series
from ..marks import Pixels, as_pixels
from ..positions import Position, Scan, ScanBooks
from ..stage import SLOTS, Row, Tree
from .curves import SeriesParameters
from .ending import RoiEnding, pair
from .ring import Ring
from .roi import STATISTICS, Roi, statistics
from .rows import SeriesRows
from .slots import Slots
from .steps import Pairing, Steps

Job = Callable[[], Callable[[], None]]
"""Work to be done without the lock; what it returns stores the result, under the lock."""


class RoiSeries:
    """The ROI values of the present series, or of the last one until the next begins."""

    def __init__(self, parameters: SeriesParameters) -> None:
        self.parameters = parameters
        self.version = 0
        """Number of the present set of ROIs."""
        self._slots = Slots()
        self._slots.change({}, parameters.rois)
        self._books = ScanBooks()
        self._ring = Ring()
        self._start(Series(0))
        self._ended = True

    # ------------------------------------------------------------- what comes

    def begin(self, series: Series) -> None:
        """Begin a series: its rows replace those of the last."""
        self._slots.begin()
        self._slots.change(self.parameters.rois, self.parameters.rois)
        self._ring.clear()
        self._start(series)

    def _start(self, series: Series) -> None:
        self._rows = SeriesRows(series, self.parameters.history_frames)
        self._rows.scan = self._books.scan_for(series)
        self._ended = False
        self._incomplete = ""
        self._moved: set[int] = set()
        self._versions = {self.version: self.parameters.rois}
        self._touch()

    def finish(self) -> RoiEnding:
        """End the series; return what is to be written when its positions are in."""
        self._ended = True
        self._rows.scan = self._books.scan_for(self._rows.series)
        ending = RoiEnding(self._rows, self.parameters, self._slots.names, dict(self._versions))
        self._incomplete = ending.pairing().incomplete(ended=True)
        self._touch()
        return ending

    def adopt(self, parameters: SeriesParameters) -> None:
        """Take up new parameters; what is shown of ROIs that are others now is found again."""
        old, self.parameters = self.parameters, parameters
        self._touch()
        if old.rois == parameters.rois:
            return
        before = {slot: _definition(old.rois, name) for name, slot in self._slots.of.items()}
        self._slots.change(old.rois, parameters.rois)
        self.version += 1
        self._versions[self.version] = parameters.rois
        for name, slot in self._slots.of.items():
            if before.get(slot) != _definition(parameters.rois, name):
                self._rows.forget(slot)
                self._moved.add(slot)

    def add(self, frame: Frame, image: Pixels | Encoded | None, found: NDArray[np.float64]) -> Row:
        """Add a frame; return its row for the tables.

        Parameters
        ----------
        frame
            Whose it is.
        image
            (rows, columns), kept by reference; None: not to be looked at again.
        found
            Statistics of the ROIs, in the order of the parameters.
        """
        placed = np.full((SLOTS, len(STATISTICS)), np.nan)
        for values, name in zip(found, self.parameters.rois, strict=True):
            if name in self._slots.of:
                placed[self._slots.of[name]] = values
        if image is not None:
            self._ring.add(len(self._rows), image, self.parameters.ring_bytes)
        self._rows.add(frame, placed)
        self._touch()
        return self._table_row(placed)

    def _table_row(self, placed: NDArray[np.float64]) -> Row:
        """Return the newest row for the tables of all slots."""
        pairing, last = self._pairing(), slice(-1, None)
        return {
            "roi_time": pairing.times[-1],
            "roi_frame": pairing.frames[-1],
            "roi_x": pairing.x(last)[0],
            "roi_version": self.version,
            **{f"roi_{name}": placed[:, i] for i, name in enumerate(STATISTICS)},
        }

    def position(self, position: Position) -> None:
        """Take a message of the positions stream."""
        self._books.add(position)
        self._rows.scan = self._books.scan_for(self._rows.series)
        self._touch()

    def forget_images(self) -> None:
        """Give up the images kept: they do not compare with those to come."""
        self._ring.clear()

    def has_room_for(self, rois: Mapping[str, Roi]) -> bool:
        """Tell whether each of these ROIs would have a slot."""
        slots = copy.deepcopy(self._slots)
        slots.change(self.parameters.rois, rois)
        return len(slots.of) == len(rois)

    # ------------------------------------------------------------ what is seen

    def value(self, name: str) -> Any:
        """Return the present value of one of `OUTPUTS`."""
        live, names = slice(self._rows.first_live, None), self._names()
        match name.removeprefix("roi_"):
            case "names":
                return names
            case "slots":
                return self._slots.names
            case "version":
                return self.version
            case "steps_incomplete":
                return self._incomplete
            case "time":
                return self._rows.times[live]
            case "frame":
                return self._rows.frames[live]
            case "x":
                return self._pairing().x(live)
            case statistic if statistic in STATISTICS:
                number = STATISTICS.index(statistic)
                rows = [self._rows.live(self._slots.of[roi], number) for roi in names]
                return np.array(rows).reshape(len(rows), len(self._rows.frames[live]))
            case step:
                return getattr(self._shown_steps(), step.removeprefix("step_"))

    def status(self) -> list[str]:
        """Return sentences for the operator."""
        sentences = []
        without = [name for name in self.parameters.rois if name not in self._slots.of]
        if without:
            sentences.append(
                f"ROI {', '.join(without)} has no place in this series' file; it will in the next"
            )
        scan, movable = self._rows.scan, self.parameters.movable
        if movable and scan is not None and not _has_column(scan, movable):
            there = ", ".join(scan.movables)
            sentences.append(f"the scan has no movable {movable}; there are: {there}")
        if self._incomplete:
            sentences.append(f"scan points that lack frames: {self._incomplete}")
        return sentences

    def tree(self) -> Tree:
        """Return what the open file needs."""
        return {"rois/names": self._slots.names, "rois/incomplete": self._incomplete}

    def _names(self) -> list[str]:
        return [name for name in self.parameters.rois if name in self._slots.of]

    def _pairing(self) -> Pairing:
        return pair(self._rows, self.parameters)

    def _touch(self) -> None:
        """Note that what is calculated from the rows is no longer true."""
        self._steps: Steps | None = None
        self._changed = True

    def _shown_steps(self) -> Steps:
        """Return the newest points, as many as frames are shown."""
        if self._steps is None:
            most, pairing = self._rows.history, self._pairing()
            first = 0 if pairing.scan else len(self._rows) - (most + 1) * pairing.frames_per_point
            newest = slice(max(first, 0), None)
            slots = [self._slots.of[name] for name in self._names()]
            means = [self._rows.shown_means(slot)[newest] for slot in slots]
            self._steps = pairing.part(newest).steps(means).newest(most)
        return self._steps

    # ------------------------------------------------------------ what is slow

    def jobs(self) -> list[Job]:
        """Return calculations that are due."""
        jobs = []
        if self._moved and len(self._ring):
            jobs.append(self._look_again())
        if self._changed:
            self._changed = False
            jobs.append(self._look_for_gaps())
        return jobs

    def _look_for_gaps(self) -> Job:
        """Name the points that lack frames."""
        rows, ended, pairing = self._rows, self._ended, self._pairing()
        pairing = replace(pairing, scan=copy.copy(pairing.scan))

        def work() -> Callable[[], None]:
            incomplete = pairing.incomplete(ended)

            def store() -> None:
                if rows is self._rows and ended == self._ended:
                    self._incomplete = incomplete

            return store

        return work

    def _look_again(self) -> Job:
        """Find the values of moved ROIs on the images that are still there."""
        rows, version, images = self._rows, self.version, self._ring.images()
        parameters, rois = self.parameters, self.parameters.rois
        slots = {name: slot for name, slot in self._slots.of.items() if slot in self._moved}
        needed = slots.keys() | {rois[name].background for name in slots}
        wanted = {name: roi for name, roi in rois.items() if name in needed}

        def work() -> Callable[[], None]:
            found = []
            for row, image in images:
                pixels = _pixels(image)
                mask = parameters.mask_for(pixels.shape)
                found.append((row, statistics(pixels, mask, wanted)))

            def store() -> None:
                if version != self.version:
                    return
                for row, values in found:
                    for name, one in zip(wanted, values, strict=True):
                        if name in slots:
                            rows.replace(slots[name], row, one)
                self._moved -= set(slots.values())
                self._touch()

            return store

        return work


def _pixels(image: Pixels | Encoded) -> Pixels:
    return as_pixels(image.decode() if isinstance(image, Encoded) else image)


def _has_column(scan: Scan, name: str) -> bool:
    """Tell whether a scan has any value of a column, as far as it has records."""
    return not scan.points.size or not np.isnan(scan.x(scan.points, name)).all()


def _definition(rois: Mapping[str, Roi], name: str) -> tuple[Any, ...]:
    """Return what a ROI's values depend on, whatever its name."""
    roi = rois[name]
    background = None if roi.background is None else rois[roi.background].rectangle
    return roi.rectangle, background
