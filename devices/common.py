"""What the devices of all stages show, beside what their stages declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
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


def _shown(path: str, dtype: Any, doc: str, name: str = "", **more: Any) -> Served[Snapshot]:
    """Return the attribute of what is at this place of a snapshot; it has the last name of it."""
    name = name or path.rpartition(".")[2]
    return Served(name=name, dtype=dtype, value=attrgetter(path), doc=doc, **more)


def _count(name: str, doc: str) -> Served[Snapshot]:
    """Return the attribute of one of the ledger's counts."""
    return _shown(f"counts.{name}", CmdArgType.DevLong64, doc, f"frames_{name}")


COMMON: tuple[Served[Snapshot], ...] = (
    _shown(
        "results.run_id",
        CmdArgType.DevULong64,
        "Series of the newest reduced frame: Unix time in ms at which it began here.",
    ),
    _shown(
        "results.frame_id",
        CmdArgType.DevLong64,
        "The detector's number of the newest reduced frame; -1: none yet.",
    ),
    _count("received", "Frames that arrived: always reduced + rejected + dropped + queued."),
    _count("reduced", "Frames that are in the results."),
    _count("rejected", "Frames that could not be used; last_error says why."),
    _count("dropped", "Frames given up here, because reduction is slower or by Abort."),
    _count("queued", "Frames that wait or are in work."),
    _count("lost", "Frames missing from the stream, by their message numbers."),
    _shown(
        "source_url", str, "Where frames come from: the property SourceUrl, as of the last Init."
    ),
    _shown(
        "way.last_message_time",
        float,
        "Unix time at which the source last sent anything: header, frame or end; "
        "0: nothing since Start.",
        unit="s",
    ),
    _shown("way.in_series", CmdArgType.DevBoolean, "Whether a series has begun and not ended."),
    _shown("way.file", str, "File that is being written, or was completed last; empty: none."),
    _shown(
        "way.file_time",
        float,
        "Unix time at which something last came to that file on the disk; 0: never.",
        unit="s",
    ),
    _shown(
        "way.file_complete",
        CmdArgType.DevBoolean,
        "Whether that file is closed for good, so that every reader can open it.",
    ),
    _shown(
        "way.disk_time_left",
        float,
        "Time until the disk of that file is full, at the present rate; "
        "NaN: unknown, or it does not fill up.",
        unit="s",
    ),
    _shown(
        "way.rows_lost",
        CmdArgType.DevLong64,
        "Reduced frames that are not known to be in the file that they belong to, since Init.",
    ),
    _shown(
        "queue_fill",
        float,
        "Part of the queue's memory that is taken by frames that wait.",
        unit="%",
    ),
    _shown("input_rate", float, "Frames that arrive per second, over the last 5 s.", unit="Hz"),
    _shown(
        "results.latency",
        float,
        "From the stamp of the newest frame to the end of its reduction; see latency_from.",
        unit="s",
    ),
    _shown(
        "results.latency_from",
        str,
        "Where that stamp was made: detector, or receipt where the detector stamps nothing.",
    ),
    _shown(
        "results.transport_time",
        float,
        "Part of latency: from the detector's stamp to the arrival of the whole frame here; "
        "NaN where the detector stamps nothing.",
        unit="s",
    ),
    _shown("results.processing_time", float, "Time that reducing the newest frame took.", unit="s"),
    _shown(
        "results.scan_number", CmdArgType.DevLong64, "Scan number in the raw file's name; -1: none."
    ),
    _shown("last_error", str, "What went wrong last; emptied by Reset."),
    _shown(
        "history",
        (str,),
        "Who changed or asked for what, and when (UTC), oldest first; also in every file.",
        dimensions=(ENTRIES,),
        events=Events.ARRAY,
    ),
    _shown(
        "results.parameters_version",
        CmdArgType.DevLong64,
        "Number of the parameters that the newest frame was reduced with; "
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
