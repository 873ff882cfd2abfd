"""`DetectorSimulator`: a detector that replays recorded frames, with faults on request."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tango import CmdArgType, DevState
from tango.server import command, device_property

from ..core.parameters import Parameters, parameter
from ..core.sources.replay import RECORDED, Fault, Replay, Sent
from ..core.stage import Settings
from .condition import Condition
from .declaration import settings_of
from .served import Events, Served, refusing
from .serving import ServingDevice


class ReplayParameters(Parameters):
    """How it is replayed."""

    rate: float = parameter(10.0, "Frames sent per second.", unit="Hz", gt=0, le=100_000)
    series: int = parameter(1, "How often everything is sent after a Start; 0: until Stop.", ge=0)
    filename: str = parameter(
        RECORDED,
        "Raw file that the headers name; in it {recorded} stands for the recording's own, {series} "
        "for the number of the series since Start. Empty: nothing is to be saved.",
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the simulator shows, of one moment."""

    sent: Sent
    settings: Settings
    pending: list[str]
    last_error: str
    remembered: Mapping[str, Any] = field(default_factory=dict)


def _sent(name: str, doc: str) -> Served[Snapshot]:
    """Return the attribute of one of the counts of what was sent."""
    return Served(
        name=name if name.endswith("_sent") else f"{name}_sent",
        dtype=CmdArgType.DevLong64,
        value=lambda snapshot: getattr(snapshot.sent, name),
        doc=doc,
    )


def _expected(name: str) -> Served[Snapshot]:
    """Return the attribute of a count that the receiver must come to."""
    return Served(
        name=f"expected_{name}",
        dtype=CmdArgType.DevLong64,
        value=lambda snapshot: getattr(snapshot.sent.expected, name),
        doc=f"What a receiver that keeps up counts as frames_{name} for what was sent so far.",
    )


SERVED: tuple[Served[Snapshot], ...] = (
    _sent("series", "Series begun."),
    _sent("images", "Images put on the wire."),
    _sent("positions", "Scan records that were accepted where they are posted."),
    _sent("dropped", "Images left out, on request."),
    _sent("duplicated", "Images sent twice, on request."),
    _sent("reordered", "Images sent after the next one, on request."),
    _sent("truncated", "Images sent without their end, on request."),
    _sent("misshapen", "Images sent with a row too few, on request."),
    *map(_expected, ("received", "reduced", "rejected", "lost")),
    Served(
        name="pending_faults",
        dtype=(str,),
        dimensions=(1000,),
        value=lambda snapshot: snapshot.pending,
        doc="Faults that are still to strike.",
        events=Events.ARRAY,
    ),
    Served(
        name="last_error",
        dtype=str,
        value=lambda snapshot: snapshot.last_error,
        doc="What went wrong last; emptied by Reset.",
    ),
    *settings_of(ReplayParameters),
)


class DetectorSimulator(ServingDevice):
    """Replays a recording over STINS or SIMPLON V2 as a detector does, at a set rate.

    Scan records in the recording are posted as Sardana does. It counts what it
    sent, so that a receiver's ledger can be compared with the truth.
    """

    served: ClassVar[Mapping[str, Served[Snapshot]]] = {one.name: one for one in SERVED}

    SourceUrl = device_property(
        str,
        "What is replayed: recording:FILE[,FILE...], hdf5:FILE::/path, images:GLOB, "
        "simulated:balor|zyla|pilatus[?frames=16&seed=0...].",
        True,
    )
    PublishUrl = device_property(
        str,
        "Where frames are sent: stins+tcp://host:port?socket=push|pub, stins+ipc://path or "
        "simplon2+tcp://host:port.",
        True,
    )
    PositionsUrl = device_property(
        str,
        "Where scan records are posted: sardana+http://host:port; empty: nowhere.",
        default_value="",
    )

    def init_device(self) -> None:
        """Begin to listen, so that a reader can connect before the first Start."""
        super().init_device()
        self._parameters = ReplayParameters()
        self._replay: Replay | None = None
        self._fault = ""
        try:
            self._replay = Replay(self.PublishUrl, self.PositionsUrl)
        except OSError as error:
            self._fault = f"{error}: change the property, then Init"
        self.begin_to_serve()
        self.refresh()

    def delete_device(self) -> None:
        """Stop, and stop listening."""
        super().delete_device()
        if self._replay:
            self._replay.close()

    def snapshot(self, outputs: Collection[str]) -> Snapshot:
        """Return everything that attributes show."""
        replay, settings = self._replay, Settings(0, self._parameters)
        if replay is None:
            return Snapshot(Sent(), settings, [], self._fault)
        pending = [str(fault) for fault in replay.pending]
        return Snapshot(replay.sent, settings, pending, replay.problem)

    def write(self, served: Served[Snapshot], written: Any) -> None:
        """Change how it is replayed; a new rate counts at once, the rest from the next Start."""
        assert served.changes
        with refusing(served.name):
            changes = served.changes(self.snapshot(()), written)
            self._parameters = self._parameters.changed(changes)
        if self._replay:
            self._replay.rate = self._parameters.rate

    @command
    def Start(self) -> None:
        """Begin to send; State is RUNNING when this returns."""
        replay = self._usable()
        parameters = self._parameters
        replay.rate = parameters.rate
        with refusing("Start"), suppress(RuntimeError):  # it is sending already: no harm done
            replay.start(self.SourceUrl, parameters.series, parameters.filename)
        self.refresh()

    @command
    def Stop(self) -> None:
        """Send no more frames, and end the series."""
        self._usable().stop()

    @command
    def Abort(self) -> None:
        """Send nothing more: the series is left without its end, as a crash would leave it."""
        self._usable().stop(end=False)

    @command
    def Reset(self) -> None:
        """Acknowledge what went wrong."""
        self._usable().problem = ""
        self.refresh()

    @command(
        dtype_in=str, doc_in="drop, duplicate, reorder, truncate, shape or stall, and a number."
    )
    def InjectFault(self, text: str) -> None:
        """Have a fault strike the next frame of this number, once: `drop 5`, `stall 5 2.5`."""
        with refusing("InjectFault"):
            self._usable().inject(Fault.parse(text))

    def _usable(self) -> Replay:
        with refusing(self.get_name()):
            if self._replay is None:
                raise ValueError(self._fault)
        return self._replay

    def refresh(self) -> None:
        """Make State and Status anew."""
        replay = self._replay
        if replay is None:
            self.condition = Condition(DevState.FAULT, self._fault)
        elif replay.problem:
            doing = "Still sending." if replay.running else "Not sending."
            self.condition = Condition(DevState.ALARM, f"{replay.problem}. {doing}")
        elif replay.running:
            rate = self._parameters.rate
            self.condition = Condition(
                DevState.RUNNING, f"Sending {self.SourceUrl} at {rate:g} frames a second."
            )
        else:
            self.condition = Condition(
                DevState.STANDBY, f"Ready: Start sends {self.SourceUrl} at {replay.address}."
            )
