"""Diffraction tomography: a powder pattern for each position of a scan in two axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frame import Frame, Series
from ..parameters import ParameterError
from ..positions import Position, ScanBooks, ScanEnd, ScanPoint
from ..sinks.journal import forget_newest_file, newest_file
from ..stage import Closing, Row, Settings, Stage, Tree, registry
from .kept_map import KeptMap
from .kept_scan import keep_scan, kept_scan
from .measurement import Measurement
from .outputs import COMMANDS, ENTRY, GROUPS, OUTPUTS
from .parameters import NO_PONI, DiffTomoParameters
from .placing import Placing
from .profiles import warm_up as warm_up_profiles
from .reconstruction import reconstruct
from .scan import Missed
from .shown import shown
from .sinogram import without_bins
from .tomogram import Reduced, Tomogram
from .tree import MapAxes, all_cells, final_tree, form_of, late_cells, open_tree, reconstruction

Floats = NDArray[np.float64]


@registry.register
class DiffTomoStage(Stage[DiffTomoParameters, Reduced]):
    """Integrates each frame of a scan and puts its pattern in its place in a map.

    A frame's place follows from its number, or from the positions of the motors;
    one that has none is counted, never put elsewhere. Of positions measured again
    the newest pattern counts; frames of one point are averaged.

    The map survives a restart. It is emptied by ClearMap; by a series that begins,
    unless `continue_scan` is on or the series was joined late and goes on where the
    map ends (the device was stopped meanwhile); and by parameters on which its
    patterns depend (geometry, unit, points...). If only the places change (zigzag,
    numbers of positions...) the patterns move to where they belong then. With
    `continue_scan` another offset is for the frames to come.
    """

    name = "difftomo"
    title = "Diffraction tomography integrator"
    entry = ENTRY
    Parameters = DiffTomoParameters
    outputs = OUTPUTS
    commands = COMMANDS
    groups = GROUPS

    def __init__(self) -> None:
        super().__init__()
        self._parameters: DiffTomoParameters = self.Parameters()
        self._version = -1
        self._books = ScanBooks()
        self._series = Series(0)
        self._now = Measurement(self._placing())
        self._frame_shape: tuple[int, ...] | None = None
        self._pattern: NDArray[Any] = np.empty(0)
        self._image: Floats | None = None
        self._stale = False
        """Whether the cross-section is of an older sinogram."""
        self._note = ""
        self._offset_problem = ""
        self._joins = False
        """Whether it is open if the series goes on in the map that is there."""
        self._frames = self._blank = 0
        self._ended = False
        """Whether the series is over."""
        self._file_form: tuple[Any, ...] | None = None
        self._kept = (-1, True)
        """Of `KeptMap`, as the map was kept that was there at the start."""

    def _placing(self) -> Placing:
        asked = self._parameters
        return Placing(asked.grid, asked.place_by, asked.motors, self._series, self._books)

    # ------------------------------------------------------------ frame by frame

    def map(self, frame: Frame, parameters: DiffTomoParameters) -> Reduced:
        """Integrate one frame."""
        return parameters.profiles(frame.shape, self.connection.compute).reduce(frame)

    def reduce(self, frame: Frame, partial: Reduced, settings: Settings) -> Row:
        """Put one frame in its place."""
        if settings.version != self._version:
            self.adopt(settings)
        if frame.series.run_id != self._series.run_id:
            self.begin(frame.series, settings)
        if self._joins:
            self._join(frame)
        self._prepare(frame.shape)
        self._frames += 1
        self._pattern = partial.pattern.intensity
        self._blank += not np.isfinite(self._pattern).any()
        self._now.add(frame, partial)
        self._stale |= bool(self._now.changed)
        if self._file_form not in (None, self._form()):
            return {}
        return self._now.cells()

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Have a map for frames of this shape."""
        asked, tomogram = self._parameters, self._now.tomogram
        if shape == self._frame_shape and tomogram is not None:
            return
        bins = asked.profiles(shape, self.connection.compute)
        if tomogram is not None and not np.array_equal(tomogram.radial, bins.radial):
            self._empty("the radial axis of the frames")
        self._frame_shape = shape
        if self._now.tomogram is None:
            axes = bins.radial, bins.azimuthal
            new = Tomogram(asked.grid.shape, *axes, asked.errors, bins.configuration)
            new.choose(asked.ranges, asked.subtract_background)
            self._now.tomogram = new

    def position(self, position: Position) -> None:
        """Take a message of the positions stream; place the frames that waited for it."""
        self._books.add(position)
        if self.connection.folder and not isinstance(position, ScanPoint):
            keep_scan(position, self.connection.folder)
        self._now.place_waiting(now=isinstance(position, ScanEnd))

    # ---------------------------------------------------------------- the series

    def begin(self, series: Series, settings: Settings) -> None:
        """Begin a series: with an empty map, or with that of the one before."""
        if settings.version != self._version:
            self.adopt(settings)
        self._series, self._frames, self._blank, self._file_form = series, 0, 0, None
        self._offset_problem = self._note = ""
        self._ended = False
        self._joins = series.joined_late and not self._parameters.continue_scan
        if not self._joins:
            self._begin_map(self._now if self._parameters.continue_scan else None)

    def _begin_map(self, before: Measurement | None, same_points: bool = False) -> None:
        self._now = Measurement(self._placing(), before, same_points)
        self._stale = True
        if before is None:
            self._pattern, self._image = np.empty(0), None

    def _join(self, frame: Frame) -> None:
        """Decide whether a series that was joined late goes on where the map ends."""
        self._joins = False
        measured = self._now.measured
        goes_on = frame.frame_id > self._now.highest
        self._begin_map(self._now if goes_on else None, same_points=True)
        self._now.join(frame.frame_id)
        if measured and goes_on:
            self._note = (
                f"the scan goes on with frame {frame.frame_id} in the map of {measured} "
                "positions; ClearMap if it is another scan"
            )
        elif measured:
            self._note = (
                f"the map of {measured} positions was emptied: frame {frame.frame_id} came "
                "again, so this is another scan"
            )

    def finish(self, series: Series) -> Closing:
        """End a series; its file gets what is left when its positions are in."""
        now, parameters, form = self._now, self._parameters, self._file_form
        self._ended = True
        now.place_waiting(now=True)
        if self._frames == now.counts[Missed.SKIPPED] and not self._joins:
            try:
                now.placing.grid.check_length(self._frames)
            except ValueError as error:
                self._offset_problem = str(error)

        def settled() -> bool:
            now.place_waiting(now=True)
            return now.placing.settled()

        return Closing(settled, lambda: final_tree(now, parameters, form))

    # ------------------------------------------------------------- what is asked

    def accept(self, parameters: DiffTomoParameters) -> None:
        """Refuse files that do not fit the frames."""
        if self._frame_shape is None or parameters.setup == self._parameters.setup:
            return
        try:
            parameters.setup.experiment(self._frame_shape).check_unit(parameters.unit)
        except ValueError as error:
            raise ParameterError(str(error)) from None

    def adopt(self, settings: Settings) -> None:
        """Take up new parameters; the map is emptied or rearranged if need be."""
        old, new = self._parameters, settings.parameters
        assert isinstance(new, DiffTomoParameters)
        self._parameters, first = new, self._version < 0
        self._version = settings.version
        before, after = old.meaning, new.meaning
        if first:
            self._now = Measurement(self._placing())
        elif before != after:
            self._empty(" and ".join(name for name in after if before[name] != after[name]))
        elif old.arrangement != new.arrangement:
            self._rearrange(old)
        tomogram = self._now.tomogram
        asked = (new.ranges, new.subtract_background)
        if tomogram is not None and asked != (old.ranges, old.subtract_background):
            tomogram.choose(*asked)
        self._stale = True

    def _empty(self, why: str) -> None:
        """Begin another map because of a change; say so if there was something in it."""
        measured, waiting = self._now.measured, len(self._now.placing.waiting)
        if measured or waiting:
            also = (
                f" and {waiting} frames that waited for positions were dropped" if waiting else ""
            )
            self._note = f"the map of {measured} positions was emptied{also}, because {why} changed"
            self._forget()
        self._begin_map(None)

    def _forget(self) -> None:
        """See to it that no restart brings the map back from its file."""
        if self.connection.folder:
            forget_newest_file(self.connection.folder)

    def _rearrange(self, old: DiffTomoParameters) -> None:
        """Move the patterns to where they belong by the present parameters."""
        placing, new = self._placing(), self._parameters
        if new.continue_scan and old.changed({"offset": new.offset}).arrangement == new.arrangement:
            before, self._now.placing = self._now.placing, placing
            placing.waiting, placing.axes = before.waiting, before.axes
            placing.fixed = before.fixed
        elif self._now.can_move(placing):
            lost = self._now.move(placing)
            if lost:
                self._note = f"{lost} patterns have no place in the map any more: they are not kept"
        else:
            self._empty("the order of the positions")

    def handle(self, command: str, argument: Any) -> None:
        """Empty the map."""
        if command != "ClearMap":
            super().handle(command, argument)
        self._note, self._joins = "", False
        self._forget()
        self._begin_map(None)

    # ------------------------------------------------------------- what is shown

    def value(self, name: str) -> Any:
        """Return the present value of an output; None for an image before the first frame."""
        match name:
            case "pattern":
                return self._pattern
            case "reconstruction":
                return self._image
            case "rotation_values":
                return self._axes().rotation.values
            case "translation_values":
                return self._axes().translation.values
        return shown(name, self._now, self._parameters)

    def status(self) -> list[str]:
        """Return what an operator should know."""
        now, notes = self._now, self._now.sentences()
        if self._ended and now.missing:
            notes.append(f"{now.missing} of {now.placing.grid.points} positions were not measured")
        if self._note:
            notes.append(self._note)
        if not self._parameters.poni_file:
            notes.append(NO_PONI)
        if now.tomogram is not None:
            notes += without_bins(self._parameters.ranges, now.tomogram.radial)
        if self._blank:
            notes.append(
                f"{self._blank} frames have no pixel that counts, their patterns are empty: "
                "see mask_file, dummy and detector_marks"
            )
        return notes

    def alarms(self) -> list[str]:
        """Return why there is nothing of a whole series, if that is so."""
        return [self._offset_problem] if self._offset_problem else []

    def _axes(self) -> MapAxes:
        return MapAxes.of(self._parameters, self._now.placing.axes)

    # ------------------------------------------------------------- what is slow

    def warm_up(self) -> None:
        """Compile what is needed for the commonest pixels; load pyFAI, which takes seconds."""
        warm_up_profiles()
        reconstruct(np.ones((2, 4)), np.array([0.0, 90.0]))

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        """Place frames whose positions came; return the reconstruction if it is due."""
        now, asked = self._now, self._parameters
        now.place_waiting()
        self._stale |= bool(now.changed)
        if not self._stale or not asked.reconstruct or now.tomogram is None:
            return None
        self._stale = False
        work = reconstruction(now.tomogram, asked, self._axes())

        def job() -> Callable[[], None]:
            image = work()

            def store() -> None:
                if now is self._now:
                    self._image = image

            return store

        return job

    # ------------------------------------------------------------- what is kept

    def cells(self) -> Mapping[str, tuple[int, ...] | NDArray[Any]]:
        """Return the map for a file that begins: what it holds already, or its shape."""
        tomogram = self._now.tomogram
        if tomogram is None:
            return {}
        self._file_form = self._form()
        filled = self._now.resumed or self._now.rearranged
        self._now.rearranged = self._now.moved = False
        return all_cells(tomogram, self._now.placing.axes, filled)

    def _form(self) -> tuple[Any, ...]:
        """Return what a map must have in common with the file to go into it."""
        return form_of(self._now.tomogram, self._parameters)

    def update(self) -> Tree:
        """Return axes, sinograms, counts and late places for the open file."""
        tomogram, asked = self._now.tomogram, self._parameters
        if tomogram is None:
            return {}
        return open_tree(self._now, tomogram, asked, self._axes(), self._file_form)

    def late(self) -> Tree:
        """Return the cells of frames whose positions came after them."""
        if self._file_form != self._form():
            return {}
        return late_cells(self._now)

    def state(self) -> Tree | None:
        """Return the map and what it is of."""
        in_file = self._file_form in (None, self._form())
        return KeptMap(self._now, self._series.run_id, in_file).tree(self._parameters)

    def restore(self, tree: Tree) -> None:
        """Go on with the map of a checkpoint.

        Raises
        ------
        ValueError
            If it was made with other parameters.
        """
        self._go_on(KeptMap.read(tree, self._parameters, self._placing()))

    def _go_on(self, kept: KeptMap) -> None:
        self._now, self._kept, self._stale = kept.now, (kept.run, kept.in_file), True

    def recover(self, folder: Path) -> None:
        """Take up what the newest file holds beyond the checkpoint, and the scan that went on."""
        if (scan := kept_scan(folder)) is not None:
            self._books.add(scan)
        path = newest_file(folder)
        if path is None:
            return
        before = KeptMap(self._now, *self._kept)
        try:
            kept = before.with_file(path, self._parameters, self._placing())
        except (OSError, ValueError) as error:
            self._note = f"what {path.name} holds was not taken up: {error}"
            return
        self._go_on(kept)
        more = kept.now.measured - (before.now.measured if kept.run == before.run else 0)
        if more > 0:
            self._note = (
                f"{more} positions that the checkpoint did not have yet were taken from {path.name}"
            )
