"""From a device's properties to its runner: what is checked, opened and restored."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.compute.device import Compute
from ..core.fence import Fence
from ..core.history import History
from ..core.parameters import Parameters
from ..core.runner import Policy, Runner
from ..core.sinks.base import Sink
from ..core.sinks.checkpoint import load_checkpoint
from ..core.sinks.nexus import NexusWriter
from ..core.sinks.publisher import Publisher
from ..core.stage import Settings, Stage
from .keeping import FolderError, FolderInUse, StateFolder
from .registration import PLACEHOLDER

log = logging.getLogger(__name__)

MOST_WORKERS = 256
HISTORY = "history.log"
"""File, in the device's folder, that tells who changed what."""


@dataclass(frozen=True, slots=True)
class Properties:
    """How a device is set up; the names are those of its Tango properties."""

    source_url: str
    positions_url: str
    republish_url: str
    state_directory: str
    data_root: str
    output_root: str
    input_roots: tuple[str, ...]
    workers: int
    compute_device: str
    queue_bytes: int
    policy: str

    def fault(self) -> str:
        """Return what is wrong with them, in one sentence; empty if nothing is."""
        for value in (self.source_url, self.republish_url, self.data_root, self.output_root):
            if PLACEHOLDER.search(value):
                return f"a property is {value!r}: put what that stands for there, then Init"
        policies = [policy.value for policy in Policy]
        try:
            compute = Compute.parse(self.compute_device)
            _ = compute.device() if compute.opencl else None
        except ValueError as error:
            return f"ComputeDevice: {error}: change it, then Init"
        if self.policy not in policies:
            return _refusal("Policy", self.policy, policies)
        if not 1 <= self.workers <= MOST_WORKERS:
            return f"Workers is {self.workers}: set it to 1 to {MOST_WORKERS}, then Init"
        if self.queue_bytes < 1:
            return f"QueueBytes is {self.queue_bytes}: set it to a positive number, then Init"
        return ""

    def fence(self, folder: StateFolder | None) -> Fence:
        """Return what clients may have files read from: the device's own folder is always in."""
        named = self.input_roots or (self.data_root, self.output_root)
        own = (folder.path,) if folder else ()
        return Fence((*own, *(Path(name) for name in named if name)))


@dataclass(slots=True)
class Assembly:
    """A runner that is ready, and what stood in the way of more."""

    runner: Runner
    folder: StateFolder | None = None
    fault: str = ""
    """Why the device cannot be started, and what to do."""
    problems: dict[str, str] = field(default_factory=dict)
    """What an operator should look at, in sentences by subject."""


def assemble(stage_class: type[Stage[Any, Any]], device: str, properties: Properties) -> Assembly:
    """Return the runner of a device; with a fault it can be read and configured, not started.

    Raises
    ------
    FolderInUse
        If the device is running already.
    """
    stage = stage_class()
    problems: dict[str, str] = {}
    folder, fault = _open_folder(properties, device)
    parameters: Parameters = stage_class.Parameters().guarded(properties.fence(folder))
    if folder:
        parameters, problems["parameters"] = folder.load(parameters)
        stage.adopt(Settings(0, parameters))  # a checkpoint may only fit its own parameters
        problems["checkpoint"] = _restore(stage, folder)
        stage.recover(folder.path)
    fault = properties.fault() or fault
    sinks: list[Sink] = []
    if folder and not fault:
        try:
            sinks = _open_sinks(properties, folder)
        except OSError as error:
            fault = f"{error}: change the property, then Init"
    place = folder.path if folder else None
    history = History(place / HISTORY if place else None)
    if fault:
        runner = Runner(stage, parameters, folder=place, history=history)
        return Assembly(runner, folder, fault, problems)
    if not properties.data_root:
        log.warning("%s: DataRoot is not set: the stream says where files are written", device)
    runner = Runner(
        stage,
        parameters,
        sinks,
        properties.workers,
        properties.queue_bytes,
        Policy(properties.policy),
        place,
        history,
        Compute.parse(properties.compute_device),
    )
    return Assembly(runner, folder, "", problems)


def _open_folder(properties: Properties, device: str) -> tuple[StateFolder | None, str]:
    """Return the device's folder, or why there is none.

    Raises
    ------
    FolderInUse
        If the device is running already.
    """
    try:
        return StateFolder(properties.state_directory, device), ""
    except FolderInUse:
        raise
    except FolderError as error:
        return None, str(error)


def _restore(stage: Stage[Any, Any], folder: StateFolder) -> str:
    """Give a stage its last checkpoint; return why it did not take it, or nothing."""
    tree = load_checkpoint(folder.path)
    if tree is None:
        return ""
    try:
        stage.restore(tree)
    except ValueError as error:
        return f"the checkpoint of the last run is not used: {error}"
    return ""


def _open_sinks(properties: Properties, folder: StateFolder) -> list[Sink]:
    """Return the sinks that the properties ask for.

    Raises
    ------
    OSError
        If one cannot be opened, in one sentence.
    """
    writer = NexusWriter(
        output_root=Path(properties.output_root) if properties.output_root else None,
        data_root=Path(properties.data_root) if properties.data_root else None,
        state_directory=folder.path,
    )
    sinks: list[Sink] = [writer]
    if properties.republish_url:
        sinks.append(Publisher(properties.republish_url))
    return sinks


def _refusal(name: str, value: str, allowed: tuple[str, ...] | list[str]) -> str:
    return f"{name} is {value!r}: set it to {' or '.join(allowed)}, then Init"
