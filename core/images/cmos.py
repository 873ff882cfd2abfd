"""The chain of sCMOS cameras: dark and threshold before everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ..frame import BadFrame, Frame, Series
from ..marks import Mask, Pixels, as_pixels
from ..parameters import ParameterError, parameter
from ..stage import Closing, Command, Kind, Output, Row
from . import roi, threshold
from .chain import ImageChain
from .dark import DARKS, MOST_FRAMES, Dark, DarkParameters, DarkRecording, exposure_time, keep_dark
from .declaration import ChainParameters, chain_outputs
from .partial import ChainPartial, turn
from .threshold import Correction

COUNTS = "counts above dark"
"""What the value of a thresholded pixel is."""


class CmosParameters(DarkParameters, ChainParameters):
    """What can be set of an sCMOS camera's chain."""

    pixel_size: float = parameter(6.5e-6, "Side of a square pixel.", unit="m", gt=0)
    threshold: float = parameter(
        12.0, "Counts above dark from which on a pixel counts; below it is 0.", unit="counts", ge=0
    )

    def dark_for(self, frame: Frame) -> tuple[Dark | None, str]:
        """Return the recorded dark if it fits a frame, else why it does not.

        Raises
        ------
        BadFrame
            If its file cannot be read.
        """
        try:
            dark = self.recorded_dark
        except ParameterError as error:
            raise BadFrame(str(error)) from None
        if dark is None:
            return None, ""
        misfit = dark.misfit(frame.shape, exposure_time(frame))
        return (None, misfit) if misfit else (dark, "")

    def correction(
        self, dark: Dark | None, image: Pixels, above: float, sigmas: float | None = None
    ) -> Correction:
        """Return what to subtract from a turned image with this dark (None: the uniform one)."""
        if dark is None:
            return threshold.uniform(self.dark_level, above, image.shape[1], image.dtype)
        return threshold.recorded(dark, self.orientation, above, sigmas, image.dtype)


C = TypeVar("C", bound=CmosParameters)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CmosPartial(ChainPartial):
    """One frame of a camera after `map`."""

    dark: Dark | None = None
    """The recorded dark that was subtracted; None: the uniform one."""
    misfit: str = ""
    """Why the recorded dark was not."""


DARK_OUTPUTS = (
    Output(
        "dark",
        Kind.IMAGE,
        np.float32,
        unit="counts",
        label="Recorded dark",
        doc="Mean of the recorded dark that is in use, turned as the frames are.",
        axes=("row", "column"),
    ),
    Output(
        "dark_noise",
        Kind.IMAGE,
        np.float32,
        unit="counts",
        label="Noise of the recorded dark",
        doc="Its standard deviation; NaN where it is not known.",
        axes=("row", "column"),
    ),
    Output(
        "dark_valid",
        Kind.SCALAR,
        np.bool_,
        doc="A recorded dark is in use and fits the newest frame (shape, exposure time).",
    ),
    Output("dark_age", Kind.SCALAR, unit="s", doc="Age of the recorded dark in use; NaN: none."),
    Output("dark_frames", Kind.SCALAR, np.int64, doc="Frames of the recorded dark in use."),
    Output("dark_missing", Kind.SCALAR, np.int64, doc="Dark frames that are still to be recorded."),
)
DARK_COMMANDS = (
    Command(
        "RecordDark",
        "Average the next frames into a dark; they are neither summed nor in the curves. "
        "UseDark puts it in use.",
        int,
        f"Number of frames, 1 to {MOST_FRAMES}.",
    ),
    Command("UseDark", "Subtract the dark that was recorded last, once it is complete."),
    Command(
        "RemoveDark",
        "Subtract the uniform dark_level again; the recorded dark is kept for UseDark.",
        changes=lambda parameters, _: {"dark_file": ""},
        handled=True,
    ),
)


def camera_outputs(dtype: DTypeLike) -> tuple[Output, ...]:
    """Declare the outputs of a camera whose newest image is served in a type of pixels."""
    return (*chain_outputs(dtype), *DARK_OUTPUTS)


class CmosChain(ImageChain[C]):
    """What is done to the frames of every sCMOS camera: dark, threshold, and the image chain.

    A dark that is being recorded begins anew when frames change. Dark and
    threshold may change while a sum grows: its pixels stay counts above dark.
    """

    commands = (*ImageChain.commands, *DARK_COMMANDS)

    def __init__(self) -> None:
        super().__init__()
        self._wanted = 0
        self._recording: DarkRecording | None = None
        self._complete: DarkRecording | None = None
        self._use_newest = False
        self._problem = ""

    # ------------------------------------------------------------ frame by frame

    def map(self, frame: Frame, parameters: C) -> ChainPartial:
        """Turn one frame, subtract the dark, and find the statistics of its ROIs."""
        return self.thresholded(parameters, *self.prepared(frame, parameters))

    def thresholded(
        self, parameters: C, image: Pixels, mask: Mask | None, dark: Dark | None, misfit: str
    ) -> CmosPartial:
        """Return what becomes of a frame that is `prepared`."""
        clean = parameters.correction(dark, image, parameters.threshold).subtracted(image)
        values = roi.statistics(clean, mask, parameters.rois)
        return CmosPartial(clean, mask, values, COUNTS, dark=dark, misfit=misfit)

    def prepared(self, frame: Frame, parameters: C) -> tuple[Pixels, Mask | None, Dark | None, str]:
        """Return a turned frame and its mask, and the recorded dark that fits or why none does."""
        image = as_pixels(turn(frame, parameters))
        return image, parameters.mask_for(image.shape), *parameters.dark_for(frame)

    def take(self, frame: Frame, partial: ChainPartial) -> Row:
        """Add one frame to the sum and the curves, or to the dark while one is recorded."""
        if not self.recording:
            return super().take(frame, partial)
        if self._recording is None or not self._recording.takes(frame):
            self._recording = DarkRecording(self._wanted, frame)
        self._recording.add(frame)
        if not self._recording.missing:
            self._complete, self._recording, self._wanted = self._recording, None, 0
        return self.set_aside(frame, partial)

    @property
    def recording(self) -> bool:
        """True while frames are taken for a dark."""
        return self._wanted > 0

    def handle(self, command: str, argument: Any) -> None:
        """Record a dark, or use it."""
        self._problem = ""
        match command:
            case "RecordDark":
                if not 1 <= argument <= MOST_FRAMES:
                    raise ValueError(f"a dark of {argument} frames: ask for 1 to {MOST_FRAMES}")
                if self.connection.folder is None:
                    raise ValueError("there is no folder to keep a dark in: set StateDirectory")
                self._wanted, self._recording = argument, None
            case "UseDark":
                coming = self._wanted or self._complete
                if not coming and self._recorded() is None:
                    raise ValueError("no dark was recorded that could be used: RecordDark first")
                self._use_newest = True
            case "RemoveDark":
                self._use_newest = False
            case _:
                super().handle(command, argument)

    def _recorded(self) -> Path | None:
        folder = self.connection.folder
        return DARKS.newest(folder) if folder else None

    def accept(self, parameters: C) -> None:
        """Refuse a dark for frames of another shape."""
        super().accept(parameters)
        dark = parameters.recorded_dark
        if dark is None or self._raw_shape is None:
            return
        if (
            parameters.dark_file != self._parameters.dark_file
            and dark.mean.shape != self._raw_shape
        ):
            raise ParameterError(f"dark_file: {dark.misfit(self._raw_shape, None)}")

    # ------------------------------------------------------------- what is shown

    def value(self, name: str) -> Any:
        """Return the present value of an output."""
        dark = self._dark() if name.startswith("dark") else None
        match name:
            case "dark":
                return None if dark is None else self._turned(dark.mean)
            case "dark_noise":
                return None if dark is None or dark.rms is None else self._turned(dark.rms)
            case "dark_valid":
                return isinstance(self._newest, CmosPartial) and self._newest.dark is not None
            case "dark_age":
                return np.nan if dark is None else time.time() - dark.recorded
            case "dark_frames":
                return 0 if dark is None else dark.frames
            case "dark_missing":
                return self._wanted if self._recording is None else self._recording.missing
        return super().value(name)

    def _dark(self) -> Dark | None:
        """Return the recorded dark in use; None: there is none, or it cannot be read any more."""
        try:
            dark: Dark | None = self._parameters.recorded_dark
        except ParameterError:
            return None
        return dark

    def _turned(self, image: Pixels) -> Pixels:
        return np.ascontiguousarray(self._parameters.orientation.apply(image))

    def status(self) -> list[str]:
        """Return what an operator should know."""
        notes = super().status()
        if self.recording:
            missing = self.value("dark_missing")
            notes.insert(0, f"a dark is being recorded: {missing} frames to come")
        if isinstance(self._newest, CmosPartial) and self._newest.misfit:
            notes.insert(0, f"the recorded dark is not used, because {self._newest.misfit}")
        return notes

    def alarms(self) -> list[str]:
        """Return what went wrong with the dark."""
        return [*super().alarms(), *([self._problem] if self._problem else [])]

    # ------------------------------------------------------------- what is slow

    def warm_up(self) -> None:
        """Compile the kernels for the pixels that the camera sends."""
        super().warm_up()
        for dtype in self.pixel_types:
            image = as_pixels(np.zeros((2, 2), dtype))
            threshold.uniform(100.0, 12.0, 2, image.dtype).subtracted(image)
            frame = Frame(self._series, 0, image)
            DarkRecording(1, frame).add(frame)

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        """Return what is due: a dark to be kept or put in use, and what the chain has."""
        chain_work = super().deferred()
        complete, use = self._complete, self._use_newest and not self.recording
        if complete is None and not use:
            return chain_work
        self._use_newest = self._use_newest and not use

        def work() -> Callable[[], None]:
            problem = self._keep(complete, use)
            store_chain = chain_work() if chain_work else nothing

            def store() -> None:
                self._problem = problem
                # Only now: until its file is there, UseDark must know that it is coming.
                if self._complete is complete:
                    self._complete = None
                store_chain()

            return store

        return work

    def _keep(self, complete: DarkRecording | None, use: bool) -> str:
        """Write a dark that is complete, put the newest in use; return what went wrong."""
        folder, in_use = self.connection.folder, self._parameters.dark_file
        try:
            if complete and folder:
                keep_dark(complete.dark(), folder, in_use)
            if use:
                self.connection.configure({"dark_file": str(self._recorded() or "")})
        except (OSError, ValueError) as error:
            return f"the dark cannot be kept or used: {error}"
        return ""

    # ------------------------------------------------------------- what is kept

    def finish(self, series: Series) -> Closing:
        """End a series; its file gets the recorded dark that was subtracted, too."""
        closing, newest = super().finish(series), self._newest
        dark = newest.dark if isinstance(newest, CmosPartial) else None
        return (
            closing
            if dark is None
            else replace(closing, tree=lambda: {**closing.tree(), **dark.tree()})
        )


def nothing() -> None:
    """Store nothing."""
