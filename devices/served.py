"""Attributes as data: what each is in Tango, and how its value is taken from a snapshot.

All values of one request come from one snapshot, so that values read together
belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import tango
import tango.server
from tango import AttrWriteType, DispLevel

S = TypeVar("S")
"""What values are taken from: everything that a device shows, of one moment."""


class Events(Enum):
    """Which changes are pushed to clients, at most how often."""

    NONE = "none"
    """None: full images are read, never pushed."""
    SCALAR = "scalar"
    """Every change, for archiving too."""
    ARRAY = "array"
    """Changes while somebody listens."""


@dataclass(frozen=True, kw_only=True)
class Served(Generic[S]):
    """One attribute.

    `dtype` is what `tango.server.attribute` takes; `changes` turns a written
    value into changes of parameters.
    """

    name: str
    dtype: Any
    value: Callable[[S], Any]
    doc: str
    unit: str = ""
    label: str = ""
    expert: bool = False
    enumeration: tuple[str, ...] = ()
    bounds: tuple[float | None, float | None] = (None, None)
    dimensions: tuple[int, ...] = ()
    """Most columns, and most rows."""
    output: str = ""
    """Output of the stage that must be in the snapshot."""
    events: Events = Events.SCALAR
    changes: Callable[[S, Any], Mapping[str, Any]] | None = None

    def attribute(self) -> Any:
        """Return the attribute for a device class.

        The device has `latched`, the snapshot of the present request, and
        `write(served, value)`, which applies what is written.
        """

        def read(device: Any) -> Any:
            return self.value(device.latched)

        def write(device: Any, value: Any) -> None:
            device.write(self, value)

        options: dict[str, Any] = {
            "name": self.name,
            "dtype": self.dtype,
            "fget": read,
            "doc": self.doc,
            "unit": self.unit,
            "label": self.label or self.name.replace("_", " "),
            "display_level": DispLevel.EXPERT if self.expert else DispLevel.OPERATOR,
        }
        if self.changes:
            options |= {"fset": write, "access": AttrWriteType.READ_WRITE}
        if self.enumeration:
            options["enum_labels"] = list(self.enumeration)
        options |= dict(zip(("max_dim_x", "max_dim_y"), self.dimensions, strict=False))
        limits = zip(("min_value", "max_value"), self.bounds, strict=True)
        options |= {name: bound for name, bound in limits if bound is not None}
        if self.events is not Events.NONE:
            options |= {"change_event_implemented": True, "change_event_detect": False}
        if self.events is Events.SCALAR:
            options |= {"archive_event_implemented": True, "archive_event_detect": False}
        return tango.server.attribute(**options)


@contextmanager
def refusing(origin: str) -> Iterator[None]:
    """Tell a client what was refused in one sentence, instead of a stack of calls."""
    try:
        yield
    except (ValueError, OSError) as error:
        tango.Except.throw_exception("Ronda_Refused", str(error), origin)
