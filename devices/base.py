"""`StageDevice`: everything that the devices of all stages have in common.

A Tango call only copies or enqueues. The work is done by the runner's threads,
started and stopped by `Control`; events are pushed by the server's one `Pusher`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tango import DevState
from tango.server import command, device_property

from ..core.history import difference
from ..core.results import Activity
from ..core.runner import QUEUE_BYTES, Policy
from ..core.sources.base import Source, open_source
from ..core.stage import Stage
from .assembly import Properties, assemble
from .client import calling
from .common import Snapshot
from .condition import condition
from .control import Control
from .declaration import commands_of, served_by
from .resuming import Resumption
from .served import Served, refusing
from .serving import ServingDevice, ServingMeta

log = logging.getLogger(__name__)


class StageDeviceMeta(ServingMeta):
    """Makes a class's attributes and commands from its stage's declaration."""

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        stage: type[Stage[Any, Any]] | None = None,
    ) -> StageDeviceMeta:
        """Make the class of `class Name(StageDevice, stage=SomeStage)`."""
        if stage is not None:
            declared = {"stage_class": stage, "served": served_by(stage)}
            namespace = {**declared, **commands_of(stage), **namespace}
        made: StageDeviceMeta = super().__new__(cls, name, bases, namespace)
        return made

    def __init__(self, name: str, bases: Any, namespace: Any, stage: Any = None) -> None:
        super().__init__(name, bases, namespace)


class StageDevice(ServingDevice, metaclass=StageDeviceMeta):
    """A stage as a Tango device; a subclass names the stage and says what it is for."""

    stage_class: ClassVar[type[Stage[Any, Any]]]
    went_on = ""
    """When and why it went on by itself after a crash, in one sentence; Reset forgets it."""
    _properties_before: dict[str, Any] | None = None

    SourceUrl = device_property(
        str,
        "Where frames come from: stins+tcp://host:port, simplon2+tcp://host:port, lima://a/b/c, "
        "recording:FILE, hdf5:FILE::/path ...",
        default_value="",
    )
    PositionsUrl = device_property(
        str,
        "Where positions come from: sardana+http://host:port, recording:FILE; empty: nowhere.",
        default_value="",
    )
    RepublishUrl = device_property(
        str,
        "Where reduced images are offered to the next device, as stins+tcp://host:port?socket=push "
        "or stins+ipc://path; empty: nowhere.",
        default_value="",
    )
    StateDirectory = device_property(
        str,
        "Folder below which the device keeps its parameters and checkpoints.",
        default_value="",
    )
    DataRoot = device_property(
        str,
        "Files that the stream names are only written below this folder; empty: wherever it says.",
        default_value="",
    )
    OutputRoot = device_property(
        str,
        "Folder for reduced files whose place does not follow from the raw file's.",
        default_value="",
    )
    InputRoots = device_property(
        (str,),
        "Folders below which clients may name files to be read (masks, darks), beside the device's "
        "own; empty: DataRoot and OutputRoot.",
        default_value=[],
    )
    Workers = device_property(int, "Threads that reduce frames.", default_value=4)
    ComputeDevice = device_property(
        str,
        "What computes: cpu (Numba), gpu, acc, opencl or opencl:PLATFORM,DEVICE.",
        default_value="cpu",
    )
    QueueBytes = device_property(int, "Bytes of frames that may wait.", default_value=QUEUE_BYTES)
    Policy = device_property(
        str,
        "When the queue is full: lossless drops the newest frame and raises an alarm, "
        "latest drops the oldest (for display).",
        default_value=Policy.LOSSLESS.value,
    )

    # ------------------------------------------------------------------ life

    def init_device(self) -> None:
        """Build the runner; what takes long is done by its control thread, in state INIT."""
        super().init_device()
        self._alive = False
        self._refreshing = threading.Lock()
        self._remembered: dict[str, Any] = {}
        with refusing("Init"):
            assembly = assemble(self.stage_class, self.get_name(), self._properties())
        self.runner, self._folder = assembly.runner, assembly.folder
        self._fault, self._problems = assembly.fault, assembly.problems
        self._problems["properties"] = self.properties_problem
        self._remember()
        self._note_beginning()
        self.runner.configured = self._keep_parameters
        positions = partial(open_source, self.PositionsUrl) if self.PositionsUrl else None
        self._control = Control(
            self.runner,
            self._open_source,
            positions,
            prepare=self.runner.stage.warm_up,
            changed=self.refresh,
        )
        self._go_on()
        self._alive = True
        self.begin_to_serve()

    def delete_device(self) -> None:
        """Stop, close the files and let go of everything, in bounded time."""
        super().delete_device()
        if self._alive:
            self._alive = False
            self._resumption.end()
            self._control.close()
            if self._folder:
                self._folder.close()

    def _note_beginning(self) -> None:
        """Take note of who had it begin anew, and with which properties."""
        names = type(self).TangoClassClass.device_property_list
        values = ((name, getattr(self, name)) for name in names)
        scalar = (str, int, float)  # Tango has its own lists
        after = {name: one if isinstance(one, scalar) else list(one) for name, one in values}
        before, self._properties_before = self._properties_before, after
        if before is None:
            self.runner.history.add("", "started")
        else:
            self._note(": ".join(filter(None, ("Init", difference(before, after)))))

    def _go_on(self) -> None:
        """Start if the process before ended while it was running, without being told to."""
        self._resumption = Resumption(self._folder)
        self.went_on = ""
        if self._fault or not (self._resumption.due and self.SourceUrl):
            return
        begin = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        why = "because it was running when it ended without being told to"
        self.went_on = f"it went on by itself at {begin}, {why}; Reset acknowledges"
        log.warning("%s goes on by itself, %s", self.get_name(), why)
        self.runner.history.add("", f"goes on by itself, {why}")
        self._resumption.start(by_itself=True)
        self._control.start()

    def _open_source(self) -> Source:
        source = open_source(self.SourceUrl)
        if not source.live:  # a file would be read from its beginning: its frames would count twice
            self._resumption.end()
        return source

    def _properties(self) -> Properties:
        return Properties(
            source_url=self.SourceUrl,
            positions_url=self.PositionsUrl,
            republish_url=self.RepublishUrl,
            state_directory=self.StateDirectory,
            data_root=self.DataRoot,
            output_root=self.OutputRoot,
            input_roots=tuple(self.InputRoots),
            workers=self.Workers,
            compute_device=self.ComputeDevice,
            queue_bytes=self.QueueBytes,
            policy=self.Policy,
        )

    # --------------------------------------------------------------- reading

    def snapshot(self, outputs: Collection[str]) -> Snapshot:
        """Return everything that attributes show, with these outputs, all of one frame."""
        runner = self.runner
        return Snapshot(
            results=runner.latch(outputs),
            counts=runner.ledger.counts,
            settings=runner.settings,
            remembered=self._remembered,
            queue_fill=100 * runner.queue.fill,
            input_rate=runner.ledger.input_rate,
            last_error=runner.last_error or next(self.complaints(), ""),
            history=runner.history.lines,
            source_url=self.SourceUrl,
            way=runner.way,
        )

    def read_window(self, output: str, window: Sequence[int]) -> NDArray[Any]:
        """Return part of an image, flattened; window: first and end row, first and end column."""
        with refusing(output):
            image = np.asarray(self.served[output].value(self.snapshot([output])))
            rows, columns = image.shape
            if len(window) != 4:
                raise ValueError(
                    f"a window is first row, end row, first column, end column, not {list(window)}"
                )
            top, bottom, left, right = (int(edge) for edge in window)
            if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
                raise ValueError(
                    f"rows {top} to {bottom}, columns {left} to {right} are not a part of "
                    f"{output}, which has {rows} rows and {columns} columns"
                )
            return image[top:bottom, left:right].ravel()

    # ----------------------------------------------------------- configuring

    def write(self, served: Served[Snapshot], written: Any) -> None:
        """Change parameters as a written attribute asks."""
        with refusing(served.name):
            assert served.changes
            changes = served.changes(self.snapshot(()), written)
            self.runner.configure(changes, calling(self))

    def carry_out(self, name: str, argument: Any = None) -> None:
        """Have the stage do one of its commands, in the order of the frames."""
        with refusing(name):
            self.runner.command(name, argument, calling(self))
        self.refresh()

    def _keep_parameters(self) -> None:
        """Keep the parameters for the next start; what was taken stays taken if that fails."""
        if self._folder:
            parameters = self.runner.settings.parameters
            texts = self.runner.stage.kept_texts(parameters)
            self._folder.save(parameters, texts)
            self._problems["parameters"] = ""
        self._remember()
        self.show_written()

    def _remember(self) -> None:
        """Remember values, for when an optional number is switched off and on again."""
        parameters = self.runner.settings.parameters
        for name in type(parameters).model_fields:
            if (value := getattr(parameters, name)) is not None:
                self._remembered[name] = value

    # -------------------------------------------------------------- commands

    @command
    def Start(self) -> None:
        """Begin to read the source; State is RUNNING when this returns."""
        with refusing("Start"):
            self._check_startable()
        self._note("Start")
        with self._refreshing:
            self._resumption.start()
            self._control.start()
        self.refresh()

    @command
    def Stop(self) -> None:
        """Read no more; what has arrived is still reduced and the files are closed."""
        self._note("Stop")
        self._resumption.end()
        self._control.stop()
        self.refresh()

    @command
    def Abort(self) -> None:
        """Read no more, and drop what is queued; it is counted as dropped."""
        self._note("Abort")
        self._resumption.end()
        self._control.abort()
        self.refresh()

    @command
    def Reset(self) -> None:
        """Acknowledge: leave ALARM or FAULT. No data and no parameter is touched."""
        self._note("Reset")
        self.forget_problems()
        self.refresh()

    def forget_problems(self) -> None:
        """Forget what there was to complain about."""
        self.runner.reset()
        self._resumption.acknowledge()
        self.went_on = ""
        self._control.problem = ""
        self._problems.clear()

    def _note(self, command: str) -> None:
        """Take note of who asked for something."""
        self.runner.history.add(calling(self), command)

    def _check_startable(self) -> None:
        if self._fault:
            raise ValueError(self._fault)
        if self.condition.state is DevState.FAULT:
            first = "" if self.runner.health.lasting else "Reset first. "
            raise ValueError(first + self.condition.status)
        if not self.SourceUrl:
            raise ValueError("SourceUrl is not set: say where frames come from, then Init")

    # ------------------------------------------------------------- condition

    def refresh(self) -> None:
        """Make State and Status anew."""
        if not self._alive:
            return
        control = self._control
        if self._folder:
            self._folder.save_again()
        with self._refreshing:
            # in this order: a start that is done between the two shows in the runner
            starting, ready, health = control.starting, control.ready, self.runner.health
            if starting:
                health = replace(health, activity=Activity.RUNNING)
            elif not ready:
                return
            else:
                self._resumption.look(health.activity)
            health = replace(health, notes=(*health.notes, *self.notes()))
            queued = self.runner.ledger.counts.queued
            complaints = tuple(self.complaints())
            self.condition = condition(health, self._fault, complaints, self.SourceUrl, queued)

    def notes(self) -> Iterator[str]:
        """Yield what else the device itself has to say."""
        if self.went_on:
            yield self.went_on

    def complaints(self) -> Iterator[str]:
        """Yield what the device itself has to complain about."""
        yield from (problem for problem in list(self._problems.values()) if problem)
        if self._folder and self._folder.problem:
            yield self._folder.problem
        if self._alive:
            yield from filter(None, (self._control.problem, self._resumption.problem))
