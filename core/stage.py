"""Stages: what is done to frames, declared once.

A stage says what can be set (`Parameters`), what comes out (`outputs`), what an
operator may ask for (`commands`), and two functions: `map`, pure and run by any
worker in any order; `reduce`, run in the order of the stream by one thread.
Tango attributes and commands, the command line, parameter files and the layout
of output files follow from the declaration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import __version__
from .compute.device import CPU, Compute
from .frame import Encoded, Frame, Series
from .parameters import Parameters
from .positions import Position

P = TypeVar("P", bound=Parameters)
Partial = TypeVar("Partial")
Row = Mapping[str, Any]
"""What one frame adds to the tables: values by name of output."""
Tree = Mapping[str, Any]
"""A piece of an HDF5 file: `path` -> value, `path@name` -> attribute."""
SLOTS = 32
"""Number of ROIs that a file has room for."""


class Kind(Enum):
    """Form of an output."""

    SCALAR = "scalar"
    SPECTRUM = "spectrum"
    IMAGE = "image"
    TEXT = "text"
    TEXTS = "texts"


class Record(Enum):
    """How an output is written to the series' file."""

    NO = "no"
    """Not at all: live only."""
    FRAME = "frame"
    """One row a frame, appended to a table at `path`."""
    EVENTS = "events"
    """Any number of rows a frame, appended together to the tables of its group."""
    POINTER = "pointer"
    """Where each frame's events end in the tables of its group; the file writer counts them."""
    CELL = "cell"
    """A dataset of fixed shape, of which a frame writes what it has at its place."""
    SERIES = "series"
    """One value, replaced at every checkpoint and final at the series' end."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A value and its place in a dataset: `dataset[index] = value`."""

    index: tuple[int, ...]
    """Of the first axes, none negative; () is the whole dataset."""
    value: ArrayLike
    """Of the shape of the axes that are left."""


@dataclass(frozen=True, slots=True)
class Output:
    """One thing that comes out of a stage.

    `path` is where it stands below the file's entry. A path with `{slot}` in it is a
    table for each of `SLOTS` named slots; its row is then an array of `SLOTS`.

    With `Record.EVENTS` its row is an array of n values, the same n for all
    such outputs of a group; left out, n is 0. The group has tables of frames
    (`Record.FRAME`) as well only if it has a `Record.POINTER`.

    A `Record.POINTER` has no row of its own. The file writer makes a table of
    (frames + 1,), uint64, that begins with 0: the events of frame i are the
    rows pointer[i] to pointer[i + 1] of the other tables of its group, and they
    are on the disk before the pointer says so.

    With `Record.CELL` its row is a `Placed`, or a list of them; left out, the
    frame writes nothing. In a tree of `Stage.update` or `Closing` it may be the
    same, or an array: the whole. Its shape comes from `Stage.cells`; where
    nothing was written there is NaN, -1 or, for unsigned integers, 0.
    """

    name: str
    kind: Kind
    dtype: DTypeLike = float
    """None, for events only: that of the first frame's array, else of the frame's pixels."""
    unit: str = ""
    label: str = ""
    doc: str = ""
    axes: tuple[str, ...] = ()
    path: str = ""
    record: Record = Record.NO
    live: bool = True
    """Served as an attribute; False for what only the file holds."""
    compressed: bool = False
    """Stored with bitshuffle and LZ4 (HDF5 filter 32008): tables and cells, not `Record.SERIES`."""
    optional: bool = False
    """`Record.FRAME` only: the file has no such table if the first row has no value for it."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something an operator may ask of a stage; it travels in the queue with the frames.

    A command with `changes` is a change of parameters in disguise (AddRoi): it
    returns the changes from the present parameters and the argument, or raises
    `ParameterError`. One without goes to `Stage.handle`, and so does one that is
    `handled` as well.
    """

    name: str
    doc: str
    argument: type | None = None
    """`str`, `float`, `int`; None: no argument."""
    argument_doc: str = ""
    changes: Callable[[Any, Any], Mapping[str, Any]] | None = None
    handled: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """A numbered snapshot of the parameters; every frame carries the one it came in under."""

    version: int
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Document:
    """A file of its own that a stage asks for, beside the series' file."""

    name: str
    """Stem of the file, without folder or suffix."""
    tree: Tree


@dataclass(slots=True)
class Closing:
    """What is still to be done for a series that has ended."""

    settled: Callable[[], bool] = lambda: True
    """True when nothing more can change (every position is in); cheap."""
    tree: Callable[[], Tree] = dict
    """The final values and links for the file; may be slow."""


def _no_document(document: Document) -> None:
    """Drop a document where no sink takes any."""


def _no_change(changes: Mapping[str, Any]) -> object:
    """Refuse a change where nobody keeps parameters."""
    raise ValueError("parameters cannot be changed from here")


@dataclass
class Connection:
    """What a runner gives its stage."""

    save: Callable[[Document], None] = _no_document
    configure: Callable[[Mapping[str, Any]], object] = _no_change
    """Changes parameters, as an operator would; from `deferred` work only, outside the lock."""
    folder: Path | None = None
    """Where the stage may keep files of its own; None: nowhere."""
    compute: Compute = CPU
    """Where the stage computes, if it can choose."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """An image for the next device of a chain."""

    image: NDArray[Any] | Encoded
    """(rows, columns)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Entries that go with it."""


class Stage(ABC, Generic[P, Partial]):
    """Base of all stages.

    A subclass states in its docstring what outlives a series and what empties it.
    All methods but `map` are called under the runner's lock by one thread.
    """

    name: ClassVar[str]
    """Short name on the command line."""
    title: ClassVar[str]
    """What it is, in a few words."""
    Parameters: ClassVar[type[Parameters]]
    outputs: ClassVar[tuple[Output, ...]] = ()
    commands: ClassVar[tuple[Command, ...]] = ()
    groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """HDF5 attributes (NX_class, signal, axes) of groups below the entry, by path; "": its own."""
    entry: ClassVar[str] = "entry"
    """Name of the NXentry that holds everything in its files."""
    creator: ClassVar[str] = f"Ronda {__version__}"
    """Attribute `creator` of its files, by which some readers choose what they do."""

    def __init__(self) -> None:
        self.connection = Connection()

    def accept(self, parameters: P) -> None:
        """Object to parameters that do not fit what is known, before they are taken.

        Raises
        ------
        ParameterError
            In one sentence (a ROI outside the frame, a mask of another shape).
        """

    def warm_up(self) -> None:
        """Compile what will be needed, so that the first frame need not wait."""

    @abstractmethod
    def map(self, frame: Frame, parameters: P) -> Partial:
        """Reduce one frame to something small. Pure: no state, any worker, any order.

        Raises
        ------
        BadFrame
            If the frame cannot be used: it is rejected and counted.
        """

    @abstractmethod
    def reduce(self, frame: Frame, partial: Partial, settings: Settings) -> Row | None:
        """Fold one frame's partial into the outputs; return its row for the tables.

        None: the frame counts as reduced, but is not to be written.

        Raises
        ------
        BadFrame
            If the frame cannot be used: it is rejected and counted, and the
            outputs are as before.
        """

    @abstractmethod
    def value(self, name: str) -> Any:
        """Return the present value of an output: a copy, or something that never changes."""

    def begin(self, series: Series, settings: Settings) -> None:
        """Take note that a series begins."""

    def finish(self, series: Series) -> Closing:
        """Take note that a series ended; return what is left to do for its file."""
        return Closing()

    def adopt(self, settings: Settings) -> None:
        """Take up new parameters, at their place in the order of the frames."""

    def position(self, position: Position) -> None:
        """Take a message of the positions stream."""

    def handle(self, command: str, argument: Any) -> None:
        """Carry out one of `commands`, at its place in the order of the frames.

        Raises
        ------
        ValueError
            In one sentence, if it cannot be done.
        """
        raise NotImplementedError(command)

    def forward(self) -> Forwarded | None:
        """Return the newest frame's image for the next device of a chain, or None."""
        return None

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        """Return slow work that is due, or None.

        The work runs outside the lock, at most once a second; what it returns
        is called under the lock to store the result.
        """
        return None

    def update(self) -> Tree:
        """Return the values of `Record.SERIES` outputs and whatever else the open file needs.

        What never changes needs to be there only when a series begins, at its first frame.
        """
        return {}

    def cells(self) -> Mapping[str, tuple[int, ...] | NDArray[Any]]:
        """Return the shapes of `Record.CELL` outputs, by path, for a file that begins.

        An array instead of a shape holds what is there already (a scan that is
        resumed); it is not copied, and is written once.
        """
        return {}

    def kept_texts(self, parameters: P) -> Mapping[str, str]:
        """Return texts that a device keeps as files beside its parameters, by file name.

        An empty text stands for a file that is not to be there.
        """
        return {}

    def state(self) -> Tree | None:
        """Return what must survive a restart, or None if there is nothing."""
        return None

    def restore(self, tree: Tree) -> None:
        """Take back what `state` gave, read from a checkpoint; after the first `adopt`.

        Raises
        ------
        ValueError
            If the checkpoint does not fit.
        """

    def recover(self, folder: Path) -> None:
        """Take back what files of the run before hold beyond the checkpoint; after `restore`.

        `folder` is that of `Connection`, and of checkpoints.
        """

    def late(self) -> Tree:
        """Return cells, by path, that no row had; asked once a second while a series is open."""
        return {}

    def status(self) -> list[str]:
        """Return sentences for Status, the most important first."""
        return []

    def alarms(self) -> list[str]:
        """Return sentences about the results that put the device in ALARM while they hold."""
        return []


@dataclass
class Registry:
    """The stages that are known, by name."""

    stages: dict[str, type[Stage[Any, Any]]] = field(default_factory=dict)

    def register(self, stage: type[Stage[Any, Any]]) -> type[Stage[Any, Any]]:
        """Add a stage; used as a class decorator."""
        if stage.name in self.stages:
            raise ValueError(f"a stage named {stage.name!r} exists already")
        self.stages[stage.name] = stage
        return stage

    def get(self, name: str) -> type[Stage[Any, Any]]:
        """Return the stage of this name.

        Raises
        ------
        ValueError
            If there is none; the message lists the known ones.
        """
        try:
            return self.stages[name]
        except KeyError:
            known = ", ".join(sorted(self.stages))
            raise ValueError(f"unknown stage {name!r}; known are {known}") from None


registry = Registry()
