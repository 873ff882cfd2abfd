"""What the devices of all stages show, beside what their stages declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tango import CmdArgType

from .. import __version__
from ..core.history import ENTRIES
from ..core.ledger import Counts
from ..core.results import Results, Way
from ..core.stage import Settings
from .served import Events, Served


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a stage's device shows, of one moment."""

    results: Results
    counts: Counts
    settings: Settings
    """The newest ones, which frames from now on come under."""
    remembered: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of optional parameters that are switched off."""
    queue_fill: float = 0.0
    input_rate: float = 0.0
    last_error: str = ""
    history: Sequence[str] = ()
    source_url: str = ""
    way: Way = field(default_factory=Way)


def _count(name: str, doc: str) -> Served[Snapshot]:
    """Return the attribute of one of the ledger's counts."""
    return Served(
        name=f"frames_{name}",
        dtype=CmdArgType.DevLong64,
        value=lambda snapshot: getattr(snapshot.counts, name),
        doc=doc,
    )


COMMON: tuple[Served[Snapshot], ...] = (
    Served(
        name="run_id",
        dtype=CmdArgType.DevULong64,
        value=lambda snapshot: snapshot.results.run_id,
        doc="Series of the newest reduced frame: Unix time in ms at which it began here.",
    ),
    Served(
        name="frame_id",
        dtype=CmdArgType.DevLong64,
        value=lambda snapshot: snapshot.results.frame_id,
        doc="The detector's number of the newest reduced frame; -1: none yet.",
    ),
    _count("received", "Frames that arrived: always reduced + rejected + dropped + queued."),
    _count("reduced", "Frames that are in the results."),
    _count("rejected", "Frames that could not be used; last_error says why."),
    _count("dropped", "Frames given up here, because reduction is slower or by Abort."),
    _count("queued", "Frames that wait or are in work."),
    _count("lost", "Frames missing from the stream, by their message numbers."),
    Served(
        name="source_url",
        dtype=str,
        value=lambda snapshot: snapshot.source_url,
        doc="Where frames come from: the property SourceUrl, as of the last Init.",
    ),
    Served(
        name="last_message_time",
        dtype=float,
        value=lambda snapshot: snapshot.way.last_message_time,
        unit="s",
        doc="Unix time at which the source last sent anything: header, frame or end; "
        "0: nothing since Start.",
    ),
    Served(
        name="in_series",
        dtype=CmdArgType.DevBoolean,
        value=lambda snapshot: snapshot.way.in_series,
        doc="Whether a series has begun and not ended.",
    ),
    Served(
        name="file",
        dtype=str,
        value=lambda snapshot: snapshot.way.file,
        doc="File that is being written, or was completed last; empty: none.",
    ),
    Served(
        name="file_time",
        dtype=float,
        value=lambda snapshot: snapshot.way.file_time,
        unit="s",
        doc="Unix time at which something last came to that file on the disk; 0: never.",
    ),
    Served(
        name="file_complete",
        dtype=CmdArgType.DevBoolean,
        value=lambda snapshot: snapshot.way.file_complete,
        doc="Whether that file is closed for good, so that every reader can open it.",
    ),
    Served(
        name="disk_time_left",
        dtype=float,
        value=lambda snapshot: snapshot.way.disk_time_left,
        unit="s",
        doc="Time until the disk of that file is full, at the present rate; "
        "NaN: unknown, or it does not fill up.",
    ),
    Served(
        name="queue_fill",
        dtype=float,
        value=lambda snapshot: snapshot.queue_fill,
        unit="%",
        doc="Part of the queue's memory that is taken by frames that wait.",
    ),
    Served(
        name="input_rate",
        dtype=float,
        value=lambda snapshot: snapshot.input_rate,
        unit="Hz",
        doc="Frames that arrive per second, over the last 5 s.",
    ),
    Served(
        name="latency",
        dtype=float,
        value=lambda snapshot: snapshot.results.latency,
        unit="s",
        doc="From the stamp of the newest frame to the end of its reduction; see latency_from.",
    ),
    Served(
        name="latency_from",
        dtype=str,
        value=lambda snapshot: snapshot.results.latency_from,
        doc="Where that stamp was made: detector, or receipt where the detector stamps nothing.",
    ),
    Served(
        name="transport_time",
        dtype=float,
        value=lambda snapshot: snapshot.results.transport_time,
        unit="s",
        doc="Part of latency: from the detector's stamp to the arrival of the whole frame here; "
        "NaN where the detector stamps nothing.",
    ),
    Served(
        name="processing_time",
        dtype=float,
        value=lambda snapshot: snapshot.results.processing_time,
        unit="s",
        doc="Time that reducing the newest frame took.",
    ),
    Served(
        name="scan_number",
        dtype=CmdArgType.DevLong64,
        value=lambda snapshot: snapshot.results.scan_number,
        doc="Scan number in the raw file's name; -1: none.",
    ),
    Served(
        name="last_error",
        dtype=str,
        value=lambda snapshot: snapshot.last_error,
        doc="What went wrong last; emptied by Reset.",
    ),
    Served(
        name="history",
        dtype=(str,),
        dimensions=(ENTRIES,),
        value=lambda snapshot: snapshot.history,
        doc="Who changed or asked for what, and when (UTC), oldest first; also in every file.",
        events=Events.ARRAY,
    ),
    Served(
        name="parameters_version",
        dtype=CmdArgType.DevLong64,
        value=lambda snapshot: snapshot.results.parameters_version,
        doc="Number of the parameters that the newest frame was reduced with; "
        "every change makes the next number.",
        expert=True,
    ),
    Served(
        name="software_version",
        dtype=str,
        value=lambda snapshot: __version__,
        doc="Version of Ronda.",
        expert=True,
    ),
)
"""The attributes of every device."""
