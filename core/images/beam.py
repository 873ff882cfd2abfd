"""Is there a beam? The counts of each frame, their trend, and what it says.

Frames with beam are taken together in stretches of `no_beam_frames`, of which
the newest are kept. A stretch tells a level if its mean is well above its own
scatter; the weakest of those levels is what newer frames are compared with, so
that a scan from a peak to its tail is no loss of the beam.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ..frame import Frame
from ..growing import Growing
from ..marks import as_mask, as_pixels
from ..parameters import Parameters, parameter
from ..stage import Kind, Output, Record, Row
from .dark import exposure_time
from .partial import ChainPartial
from .pixels import first_moments

STRETCHES = 50
"""Newest stretches of frames with beam that are compared with."""
ERRORS = 4
"""Standard errors by which a stretch must be above the limit that it sets, to count."""
BACK = 4
"""The beam is back once one in so many frames has enough counts."""


class BeamParameters(Parameters):
    """When it is said that there is no beam."""

    no_beam_fraction: float = parameter(
        1.0,
        "Share of the counts of earlier frames below which the newest are said to have no beam; "
        "0: never.",
        unit="%",
        ge=0,
        lt=100,
    )
    no_beam_frames: int = parameter(
        20, "Newest frames that are looked at for that, on average.", ge=5, le=1000
    )


OUTPUTS = (
    Output(
        "counts_per_frame",
        Kind.SPECTRUM,
        label="Counts per frame",
        doc="Sum over the valid pixels of each frame, in what a pixel of image holds (counts, "
        "keV, photons), of one series after the other; NaN: neither summed nor in the curves.",
        axes=("frame",),
        path="counts/total",
        record=Record.FRAME,
    ),
    Output(
        "counts_time",
        Kind.SPECTRUM,
        unit="s",
        doc="Unix time of each frame in counts_per_frame.",
        axes=("frame",),
        path="counts/time",
        record=Record.FRAME,
    ),
    Output(
        "counts_mean",
        Kind.SCALAR,
        label="Counts, newest frames",
        doc="Mean counts of the newest no_beam_frames frames.",
    ),
    Output(
        "counts_ratio",
        Kind.SCALAR,
        unit="%",
        label="Counts, compared",
        doc=f"counts_mean compared with the median of the last {STRETCHES} times as many frames "
        "with beam; NaN: none yet.",
    ),
    Output(
        "beam",
        Kind.SCALAR,
        np.bool_,
        label="Beam",
        doc="False while the newest frames hold (next to) no counts: less than no_beam_fraction "
        "of those before, or none at all since there are frames. True before that can be told.",
    ),
)
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "counts": {
        "NX_class": "NXdata",
        "signal": "total",
        "axes": "time",
        "title": "Counts per frame",
    },
}


class Taken(NamedTuple):
    """A frame as it is looked at here."""

    number: int
    """Frames before it."""
    time: float
    """Unix time in s."""
    counts: float
    """Infinite: more than can be counted."""


class Stretch(NamedTuple):
    """Frames with beam, one after the other, taken together."""

    mean: float
    """Mean counts of a frame."""
    error: float
    """Its standard error, std / sqrt(n)."""

    @classmethod
    def of(cls, counts: list[float]) -> Stretch:
        """Return what there is to know of the counts of some frames."""
        mean = sum(counts) / len(counts)
        squares = sum((each - mean) * (each - mean) for each in counts)
        return cls(mean, math.sqrt(squares) / len(counts))

    def tells_level(self, share: float) -> bool:
        """Tell whether its counts are well above a share of them, beside their scatter."""
        return (1 - share) * self.mean > ERRORS * self.error


class BeamWatch:
    """The counts of the newest frames, of whatever series, and whether they come from a beam.

    What frames are compared with is forgotten when something else is counted
    (`forget`), and by a restart.
    """

    def __init__(self, parameters: BeamParameters, history: int) -> None:
        self.parameters = parameters
        self.history = history
        """Newest frames whose counts are shown."""
        self._form = ""
        self._frames = 0
        self._begin_curve()
        self.forget()

    def _begin_curve(self) -> None:
        self._times, self._counts = Growing(np.float64), Growing(np.float64)

    def forget(self) -> None:
        """Compare with no earlier frame any more."""
        self._recent: deque[Taken] = deque(maxlen=self.parameters.no_beam_frames)
        self._stretch: list[float] = []
        self._pending: Stretch | None = None
        """The last stretch; the beam may have gone within it."""
        self._stretches: deque[Stretch] = deque(maxlen=STRETCHES)
        self._mean = math.nan
        """Mean counts of the newest frames."""
        self._level, self._limit = math.nan, -math.inf
        self._empty: int | None = 0
        """Frames so far, if none of them held any counts."""
        self._empty_since = math.nan
        self._gone: Taken | None = None
        """The first frame without beam; None: there is one."""
        self._past = ""

    # ------------------------------------------------------------ frame by frame

    def add(self, frame: Frame, counts: float, form: str) -> Row:
        """Take a frame; return its row for the tables.

        Parameters
        ----------
        frame
            Whose counts they are.
        counts
            Sum over its valid pixels.
        form
            What was counted, in words; when that changes, everything begins anew.
        """
        if self._form not in ("", form):
            self._begin_curve()
            self.forget()
        self._form = form
        self._judge(frame, counts)
        return self._shown(frame, counts)

    def add_bright(self, frame: Frame) -> Row:
        """Take a frame with more light than can be counted; return its row."""
        self._judge(frame, math.inf)
        return self._shown(frame, math.nan)

    def set_aside(self, frame: Frame) -> Row:
        """Take no note of a frame that says nothing about the beam (a dark); return its row."""
        return self._shown(frame, math.nan)

    def _shown(self, frame: Frame, counts: float) -> Row:
        for kept, value in ((self._times, frame.taken), (self._counts, counts)):
            kept.append(value)
            kept.keep_last(self.history)
        return {"counts_per_frame": counts, "counts_time": frame.taken}

    def _judge(self, frame: Frame, counts: float) -> None:
        """Tell whether the beam went, or came back, with this frame."""
        taken = Taken(self._frames, frame.taken, counts)
        self._frames += 1
        self._look_for_any(taken)
        self._recent.append(taken)
        self._mean = sum(each.counts for each in self._recent) / len(self._recent)
        full = len(self._recent) == self.parameters.no_beam_frames
        if self._gone is not None:
            self._look_for_return(self._gone)
        elif full and self._mean < self._limit:
            self._gone, self._past = self._recent[0], ""
            self._stretch, self._pending = [], None
        else:
            self._extend(counts)

    def _look_for_any(self, taken: Taken) -> None:
        """Note whether any frame held counts so far, or since one that was too bright."""
        if taken.counts == math.inf:
            self._empty = 0
        elif taken.counts:
            self._empty = None
        elif self._empty is not None:
            self._empty_since = self._empty_since if self._empty else taken.time
            self._empty += 1

    def _look_for_return(self, gone: Taken) -> None:
        lit = [taken for taken in self._recent if taken.counts >= self._limit]
        if self._mean >= self._limit and BACK * len(lit) >= len(self._recent):
            self._gone = None
            self._past = (
                f"there was no beam from {clock(gone.time)} to {clock(lit[0].time)}, "
                f"for {lit[0].number - gone.number} frames"
            )

    def _extend(self, counts: float) -> None:
        """Add a frame to what later ones are compared with."""
        if math.isfinite(counts):
            self._stretch.append(counts)
        if len(self._stretch) < self.parameters.no_beam_frames:
            return
        done, self._stretch = Stretch.of(self._stretch), []
        before, self._pending = self._pending, done if done.mean else None
        if before:
            self._compare_with(before)

    def _compare_with(self, stretch: Stretch) -> None:
        self._stretches.append(stretch)
        share = self.parameters.no_beam_fraction / 100
        self._level = median(each.mean for each in self._stretches)
        # With few photons now and then, most stretches tell no level: nothing is concluded.
        levels = [each.mean for each in self._stretches if each.tells_level(share)]
        known = share > 0 and 2 * len(levels) >= len(self._stretches)
        self._limit = share * min(levels) if known else -math.inf

    # ------------------------------------------------------------- what is shown

    def value(self, name: str) -> Any:
        """Return the present value of one of `OUTPUTS`."""
        match name:
            case "counts_per_frame":
                return self._counts.values[-self.history :].copy()
            case "counts_time":
                return self._times.values[-self.history :].copy()
            case "counts_mean":
                return self._mean
            case "counts_ratio":
                return self._ratio()
            case "beam":
                return self._gone is None and not self._nothing_yet
        raise KeyError(name)

    def status(self) -> list[str]:
        """Return a sentence if there is no beam, or was none."""
        newest = len(self._recent)
        if self._gone is not None:
            return [
                f"no beam: the last {newest} frames hold {self._ratio():.2g} % of the counts of "
                f"the frames before, since {clock(self._gone.time)}; is the shutter open?"
            ]
        if self._nothing_yet:
            return [
                f"no counts at all in {self._empty} frames, since {clock(self._empty_since)}: "
                "is the shutter open, does the threshold or mask leave anything?"
            ]
        return [self._past] if self._past else []

    @property
    def _nothing_yet(self) -> bool:
        """True if there were enough frames, and none held any counts."""
        wanted = self.parameters.no_beam_frames
        return self.parameters.no_beam_fraction > 0 and (self._empty or 0) >= wanted

    def _ratio(self) -> float:
        """Return the newest frames' mean in percent of the level before; NaN: not known."""
        return 100 * self._mean / self._level if self._level > 0 else math.nan


def counted(frame: Frame, partial: ChainPartial, meaning: Iterable[str]) -> str:
    """Return what the counts of a frame depend on besides the beam and parameters, in words."""
    image = partial.image
    about = (frame.series.detector, image.shape, image.dtype, exposure_time(frame))
    return ", ".join([*map(str, about), *meaning])


def frame_counts(partial: ChainPartial) -> float:
    """Return the sum over the valid pixels of a frame's image."""
    image, mask = partial.image, as_mask(partial.mask, partial.image.shape)
    if partial.support is not None:
        image = as_pixels(image.ravel()[np.newaxis, partial.support])
        mask = as_mask(mask.ravel()[np.newaxis, partial.support], image.shape)
    return float(first_moments(image, mask, (0, image.shape[0], 0, image.shape[1])).total)


def clock(moment: float) -> str:
    """Return the time of day of a Unix time in s, as it is said; a stamp may be any number."""
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return f"{moment:g} s"
