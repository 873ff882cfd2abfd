"""What a runner tells of itself: counts, what went wrong, the newest results, its health."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .frame import Frame
from .history import History
from .latency import latency
from .ledger import Ledger
from .receiver import Receiver
from .results import Activity, Health, Results, Spent, Way
from .sinks.base import Sink
from .sparing import SparingLog
from .stage import Kind, Settings, Stage

log = logging.getLogger(__name__)

_CHEAP = (Kind.SCALAR, Kind.TEXT, Kind.TEXTS)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the parts of a runner work on together."""

    stage: Stage[Any, Any]
    sinks: Sequence[Sink]
    history: History
    """Goes into every file."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Under it alone the stage may be touched."""


class Report:
    """Keeps what is shown of one runner, over all its runs; readable from any thread."""

    def __init__(self, shared: Shared) -> None:
        self._stage, self._sinks, self._lock = shared.stage, shared.sinks, shared.lock
        self.ledger = Ledger()
        self.spent = Spent()
        self.results = Results()
        """The newest results, scalars and texts only; replaced whole, never changed."""
        self.last_error = ""
        """Why a frame was rejected last, or a command not carried out; empty if neither."""
        self.notices: dict[str, str] = {}
        """What else there is to say, by what it is about; an empty one is not shown."""
        self._alarms: dict[str, str] = {}
        self._rejections = SparingLog(log)
        self._cheap = [o.name for o in shared.stage.outputs if o.live and o.kind in _CHEAP]

    # ------------------------------------------------------- counts and alarms

    def count(self, tally: Ledger | None, **frames: int) -> None:
        """Count frames, for the device and for their series."""
        self.ledger.add(**frames)
        if tally:
            tally.add(**frames)

    def reject(
        self,
        tally: Ledger | None,
        reason: str,
        frame_id: int | None = None,
        message_number: int | None = None,
    ) -> None:
        """Count a frame that could not be used, and say why, with what is known of it."""
        self.count(tally, rejected=1)
        names = {"frame": frame_id, "message": message_number}
        known = [f"{name} {number}" for name, number in names.items() if number is not None]
        self.last_error = f"{reason} ({', '.join(known)})" if known else reason
        self._alarms["rejected"] = (
            f"frames rejected: {self.ledger.counts.rejected}, the last because: {self.last_error}"
        )
        self._rejections.warn(f"frame rejected: {self.last_error}")

    def drop(self, tally: Ledger, frame: Frame) -> None:
        """Count a frame that came too soon, and say so."""
        self.count(tally, dropped=1)
        self._alarms["dropped"] = (
            f"frames dropped: {self.ledger.counts.dropped}, the last {frame.frame_id}; "
            "reduction is slower than the detector"
        )

    def refuse(self, reason: str) -> None:
        """Say why something that was asked for was not done."""
        self.last_error = self._alarms["command"] = reason

    def begin_series(self) -> None:
        """Forget what was wrong with the frames of the series before."""
        self._alarms.pop("rejected", None)
        self._alarms.pop("dropped", None)

    def reset(self) -> None:
        """Forget alarms and the last error."""
        self._alarms.clear()
        self.last_error = ""

    # ----------------------------------------------------------- newest results

    def publish(self, frame: Frame, settings: Settings, seconds: float, live: bool) -> None:
        """Show the results that end with this frame, which took so many seconds.

        Call it under the lock, as `publish_values`.
        """
        age = latency(frame)
        self.notices["clock"] = age.doubt if live else ""
        scan = frame.series.scan_number
        self.results = Results(
            run_id=frame.series.run_id,
            frame_id=frame.frame_id,
            timestamp=frame.taken,
            latency=age.seconds,
            latency_from=age.since,
            transport_time=age.transport,
            processing_time=seconds,
            parameters_version=settings.version,
            filename=frame.series.filename,
            scan_number=-1 if scan is None else scan,
            values={name: self._stage.value(name) for name in self._cheap},
        )

    def publish_values(self) -> None:
        """Show what the stage's outputs are now, without a new frame."""
        values = {name: self._stage.value(name) for name in self._cheap}
        self.results = replace(self.results, values=values)

    def latch(self, names: Collection[str]) -> Results:
        """Return results with these outputs, all of one frame."""
        if all(name in self.results.values for name in names):
            return self.results
        with self._lock:
            values = {name: self._stage.value(name) for name in names}
            return replace(self.results, values={**self.results.values, **values})

    # ------------------------------------------------------------ how it stands

    def way(self, receivers: Sequence[Receiver], in_series: bool) -> Way:
        """Return where frames come from and go to, now; the first receiver is that of frames."""
        sink = next((sink for sink in self._sinks if sink.file), Sink())
        return Way(
            last_message_time=receivers[0].last_message_time if receivers else 0.0,
            in_series=in_series,
            file=sink.file,
            file_time=sink.file_time,
            file_complete=sink.file_complete,
            disk_time_left=sink.disk_time_left,
            rows_lost=sum(each.rows_lost for each in self._sinks),
        )

    def health(
        self,
        activity: Activity,
        receivers: Sequence[Receiver],
        problem: str,
        notes: Iterable[str],
    ) -> Health:
        """Return how the runner is, now.

        Parameters
        ----------
        activity
            What it is doing.
        receivers
            Its sources.
        problem
            What went wrong beside the reduction; empty if nothing did.
        notes
            What there is to say of the open series.
        """
        failed = next((receiver for receiver in receivers if receiver.failure), None)
        lost = [receiver.lost for receiver in receivers if receiver.lost]
        problems = [sink.problem for sink in self._sinks if sink.problem]
        kept = [note for sink in self._sinks for note in sink.notes]
        if problem:
            problems.append(problem)
        with self._lock:
            of_stage, alarms = self._stage.status(), self._stage.alarms()
        return Health(
            activity=activity,
            failure=failed.failure if failed else "",
            lasting=failed is not None and failed.lasting,
            source_lost=lost[0] if lost else "",
            alarms=(*problems, *alarms, *self._alarms.values()),
            notes=(*filter(None, self.notices.values()), *notes, *kept, *of_stage),
        )
