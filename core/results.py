"""What a runner shows of itself: results that belong together, and its health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Results:
    """Values that all belong to one frame."""

    run_id: int = 0
    frame_id: int = -1
    """Newest reduced frame; -1: none yet."""
    timestamp: float = 0.0
    """Unix time in s: the detector's stamp of that frame, else its receipt."""
    latency: float = float("nan")
    """Seconds from that stamp to the end of its reduction."""
    latency_from: str = ""
    """`detector` or `receipt`: where the stamp was made."""
    transport_time: float = float("nan")
    """Seconds of it from the detector's stamp to its arrival here; NaN: not known."""
    processing_time: float = float("nan")
    """Seconds that the frame's map and reduce took."""
    parameters_version: int = 0
    filename: str = ""
    scan_number: int = -1
    values: Mapping[str, Any] = field(default_factory=dict)
    """Outputs by name."""


@dataclass(frozen=True, slots=True)
class Way:
    """The two ends of the way of frames: the source that they come from, the file they go to."""

    last_message_time: float = 0.0
    """Unix time in s at which the source last sent something; 0: nothing since the start."""
    in_series: bool = False
    """True from the start of a series until its end, as far as it is reduced."""
    file: str = ""
    """Path of the file that is being written, or was completed last; empty: none."""
    file_time: float = 0.0
    """Unix time in s at which something last came to that file on the disk; 0: never."""
    file_complete: bool = False
    """True once that file is closed for good."""
    disk_time_left: float = float("nan")
    """Seconds until the disk of that file is full; NaN: unknown, or it does not fill up."""
    rows_lost: int = 0
    """Frames that were reduced and are not known to be in a file that they belong to."""


class Activity(Enum):
    """What a runner is doing."""

    IDLE = "idle"
    RUNNING = "running"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Health:
    """How a runner is."""

    activity: Activity
    failure: str = ""
    """Why it cannot go on (a file that cannot be read); empty: it can."""
    lasting: bool = False
    """True if trying again is no use then: the address of the source has to be corrected."""
    source_lost: str = ""
    """Why the source is gone; it is being reopened."""
    alarms: tuple[str, ...] = ()
    """What an operator should look at, in sentences."""
    notes: tuple[str, ...] = ()
    """What else there is to say."""


@dataclass
class Spent:
    """Seconds that were spent on frames, all together."""

    map: float = 0.0
    """By all workers."""
    reduce: float = 0.0

    def add(self, map: float, reduce: float) -> None:  # noqa: A002 - as the fields
        """Add what one frame took."""
        self.map += map
        self.reduce += reduce
