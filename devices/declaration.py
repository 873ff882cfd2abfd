"""From a stage's declaration to Tango attributes and commands: no list is written twice."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
import tango.server
from pydantic.fields import FieldInfo
from tango import CmdArgType

from ..core.frame import MAX_SIDE
from ..core.parameters import ParameterError, Parameters
from ..core.stage import Command, Kind, Output, Stage
from .common import COMMON, Snapshot
from .served import Events, Served, refusing

MAX_LIST = 4096
"""Most entries of a list."""
MAX_SPECTRUM = 1 << 20
"""Most values of a spectrum."""
MAX_TEXT = 1 << 16
"""Longest text that is taken as JSON, or as the argument of a command, in characters."""
DETECTOR_AXES = ("row", "column")
"""Axes of an image of the detector; curves of many ROIs have others."""
PREVIEW = "preview"
"""The one image that is pushed, and small enough to need no windows."""
SCALARS = {
    bool: CmdArgType.DevBoolean,
    int: CmdArgType.DevLong64,
    float: CmdArgType.DevDouble,
    str: CmdArgType.DevString,
    Path: CmdArgType.DevString,
}
PIXELS = {
    "bool": CmdArgType.DevBoolean,
    "uint8": CmdArgType.DevUChar,
    "int16": CmdArgType.DevShort,
    "uint16": CmdArgType.DevUShort,
    "int32": CmdArgType.DevLong,
    "uint32": CmdArgType.DevULong,
    "int64": CmdArgType.DevLong64,
    "uint64": CmdArgType.DevULong64,
    "float32": CmdArgType.DevFloat,
    "float64": CmdArgType.DevDouble,
}
"""Tango's types by the names of NumPy's."""


def served_by(stage: type[Stage[Any, Any]]) -> dict[str, Served[Snapshot]]:
    """Return the attributes of a stage's device by name: common ones, outputs, parameters.

    Raises
    ------
    TypeError
        If two would have one name, or a type has no counterpart in Tango.
    """
    served: dict[str, Served[Snapshot]] = {}
    outputs = (_output(output) for output in stage.outputs if output.live)
    for one in (*COMMON, *outputs, *settings_of(stage.Parameters)):
        if one.name in served:
            raise TypeError(f"{stage.title}: two attributes would be named {one.name}")
        served[one.name] = one
    return served


def commands_of(stage: type[Stage[Any, Any]]) -> dict[str, Any]:
    """Return a stage's commands for a device class: declared ones, and windows of its images."""
    windows = (_window(one) for one in stage.outputs if one.live and _is_large(one))
    declared = (_command(command) for command in stage.commands)
    return {method.__name__: method for method in (*declared, *windows)}


# -------------------------------------------------------------------- outputs


def _output(output: Output) -> Served[Snapshot]:
    """Return the attribute of one output."""
    scalar = output.kind in (Kind.SCALAR, Kind.TEXT)
    events = Events.SCALAR if scalar else Events.ARRAY
    if _is_large(output):
        events = Events.NONE
    dtype, dimensions, convert = _form(output)
    return Served(
        name=output.name,
        dtype=dtype,
        value=lambda snapshot: convert(snapshot.results.values[output.name]),
        doc=output.doc,
        unit=output.unit,
        label=output.label,
        dimensions=dimensions,
        output=output.name,
        events=events,
    )


def _is_large(output: Output) -> bool:
    """Tell whether an output is a full image of the detector: read whole or in part, not pushed."""
    return output.axes[-2:] == DETECTOR_AXES and output.name != PREVIEW


def _form(output: Output) -> tuple[Any, tuple[int, ...], Callable[[Any], Any]]:
    """Return an output's Tango type, its largest dimensions, and how a value is converted."""
    if output.kind is Kind.TEXT:
        return str, (), lambda value: value or ""
    if output.kind is Kind.TEXTS:
        return (str,), (MAX_LIST,), lambda value: list(value or ())
    wanted = np.dtype(output.dtype)
    if wanted.name not in PIXELS:
        raise TypeError(f"output {output.name}: Tango has no type for {wanted}")
    dtype = PIXELS[wanted.name]
    if output.kind is Kind.SCALAR:
        return dtype, (), wanted.type
    rank = 1 if output.kind is Kind.SPECTRUM else 2
    empty = np.empty((0,) * rank, wanted)

    def convert(value: Any) -> Any:
        if value is None or not np.size(value):
            return empty
        return np.asarray(value).astype(wanted, "C", "same_kind", copy=False)

    if rank == 1:
        return (dtype,), (MAX_SPECTRUM,), convert
    return ((dtype,),), (MAX_SIDE, MAX_SIDE), convert


# ----------------------------------------------------------------- parameters


def settings_of(parameters: type[Parameters]) -> Iterator[Served[Any]]:
    """Yield the attributes of all parameters, in the order of their declaration.

    Their snapshots need only `settings` and `remembered`.
    """
    for name, declared in parameters.model_fields.items():
        kind, optional = _without_none(declared.annotation)
        if _is(kind, Enum):
            yield _enumeration(name, declared, kind)
        elif kind in SCALARS and optional and kind not in (str, Path):
            yield from _optional_number(name, declared, kind)
        elif kind in SCALARS:
            yield _scalar(name, declared, kind, optional)
        elif (item := _item(kind)) is not None:
            yield _list(name, declared, item, optional)
        else:
            yield _nested(name, declared)


def _setting(
    name: str,
    declared: FieldInfo,
    dtype: Any,
    value: Callable[[Snapshot], Any],
    changes: Callable[[Snapshot, Any], Mapping[str, Any]],
    **options: Any,
) -> Served[Snapshot]:
    """Return the attribute of a parameter, with what its declaration says for people."""
    extra = declared.json_schema_extra if isinstance(declared.json_schema_extra, dict) else {}
    said: dict[str, Any] = {
        "doc": declared.description or "",
        "unit": extra.get("unit", ""),
        "label": extra.get("label", ""),
        "expert": bool(extra.get("expert", False)),
    }
    return Served(name=name, dtype=dtype, value=value, changes=changes, **{**said, **options})


def _scalar(name: str, declared: FieldInfo, kind: type, optional: bool) -> Served[Snapshot]:
    """Return the attribute of a number, a switch or a text; an optional text is empty for none."""

    def value(snapshot: Snapshot) -> Any:
        present = getattr(snapshot.settings.parameters, name)
        return str(present or "") if kind in (str, Path) else present

    return _setting(
        name,
        declared,
        SCALARS[kind],
        value,
        lambda _, written: {name: None if optional and written == "" else written},
        bounds=_bounds(declared, kind),
    )


def _optional_number(name: str, declared: FieldInfo, kind: type) -> Iterator[Served[Snapshot]]:
    """Yield the two attributes of a number that may be off: `..._enabled`, and the number."""
    bounds = _bounds(declared, kind)
    lowest = kind(bounds[0] or 0)

    def number(snapshot: Snapshot) -> Any:
        present = getattr(snapshot.settings.parameters, name)
        return snapshot.remembered.get(name, lowest) if present is None else present

    yield _setting(
        f"{name}_enabled",
        declared,
        CmdArgType.DevBoolean,
        lambda snapshot: getattr(snapshot.settings.parameters, name) is not None,
        lambda snapshot, on: {name: number(snapshot) if on else None},
        doc=f"Whether {name} is used: {declared.description}",
        label=f"{name.replace('_', ' ')} enabled",
        unit="",
    )
    yield _setting(
        name,
        declared,
        SCALARS[kind],
        number,
        lambda _, written: {name: written},
        bounds=bounds,
        doc=f"{declared.description} Writing it enables it.",
    )


def _enumeration(name: str, declared: FieldInfo, kind: type[Enum]) -> Served[Snapshot]:
    """Return the attribute of a choice."""
    members = list(kind)

    def changes(_: Snapshot, written: int) -> Mapping[str, Any]:
        return {name: members[written]}

    return _setting(
        name,
        declared,
        CmdArgType.DevEnum,
        lambda snapshot: members.index(getattr(snapshot.settings.parameters, name)),
        changes,
        enumeration=tuple(str(member.value) for member in members),
    )


def _list(name: str, declared: FieldInfo, item: type, optional: bool) -> Served[Snapshot]:
    """Return the attribute of a list; an optional one is empty for none."""

    def changes(_: Snapshot, written: Sequence[Any]) -> Mapping[str, Any]:
        values = np.asarray(written).tolist()
        return {name: values if values or not optional else None}

    return _setting(
        name,
        declared,
        (SCALARS[item],),
        lambda snapshot: list(getattr(snapshot.settings.parameters, name) or ()),
        changes,
        dimensions=(MAX_LIST,),
    )


def _nested(name: str, declared: FieldInfo) -> Served[Snapshot]:
    """Return the attribute of anything with a structure: JSON text."""

    def changes(_: Snapshot, written: str) -> Mapping[str, Any]:
        text = _bounded(name, written)
        try:
            return {name: json.loads(text)}
        except (ValueError, RecursionError):
            raise ParameterError(f"{name}: {written!r:.80} is no JSON") from None

    return _setting(
        name,
        declared,
        str,
        lambda snapshot: json.dumps(snapshot.settings.parameters.to_json()[name]),
        changes,
        doc=f"{declared.description} As JSON.",
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Return the type of a parameter, and whether None is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [one for one in get_args(annotation) if one is not type(None)]
        if len(others) == 1:
            return others[0], True
    return annotation, False


def _item(annotation: Any) -> type | None:
    """Return the one type of a list's or tuple's entries, if Tango knows it."""
    if get_origin(annotation) not in (list, tuple):
        return None
    items = {_plain(one) for one in get_args(annotation) if one is not Ellipsis}
    item = items.pop() if len(items) == 1 else None
    return item if item in SCALARS else None


def _plain(annotation: Any) -> Any:
    """Return a type without what is checked besides (`parameters.InputFile`)."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _bounds(declared: FieldInfo, kind: type) -> tuple[float | None, float | None]:
    """Return the least and the greatest number allowed; an open bound counts as its end."""
    found: dict[str, float] = {}
    if kind in (int, float):
        for rule in declared.metadata:
            for bound in ("ge", "gt", "le", "lt"):
                if getattr(rule, bound, None) is not None:
                    found[bound] = getattr(rule, bound)
    return found.get("ge", found.get("gt")), found.get("le", found.get("lt"))


def _is(annotation: Any, parent: type) -> bool:
    """Tell whether an annotation is a class of this kind."""
    return isinstance(annotation, type) and issubclass(annotation, parent)


# ------------------------------------------------------------------- commands


def _command(declared: Command) -> Any:
    """Return one command of a stage, which the device's `carry_out` does."""

    def with_argument(device: Any, argument: Any) -> None:
        with refusing(declared.name):
            bounded = _bounded(declared.name, argument)
        device.carry_out(declared.name, bounded)

    def without_argument(device: Any) -> None:
        device.carry_out(declared.name)

    method = with_argument if declared.argument else without_argument
    method.__name__ = declared.name
    method.__doc__ = declared.doc
    # the wrapper reads types from annotations, which are text here
    method.__annotations__ = {}
    if declared.argument is None:
        return tango.server.command(method)
    return tango.server.command(
        method, dtype_in=SCALARS[declared.argument], doc_in=declared.argument_doc
    )


def _bounded(name: str, value: Any) -> Any:
    """Return what a client wrote, unless it is a text of unreasonable length.

    Raises
    ------
    ParameterError
        If it is.
    """
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ParameterError(f"{name}: a text of {len(value)} characters, more than {MAX_TEXT}")
    return value


def _window(output: Output) -> Any:
    """Return the command that reads part of an image: `image` -> `ReadImageWindow`."""

    def method(device: Any, window: Any) -> Any:
        return device.read_window(output.name, window)

    words = output.name.split("_")
    method.__name__ = f"Read{''.join(word.capitalize() for word in words)}Window"
    method.__doc__ = f"Part of {output.name} at full resolution."
    method.__annotations__ = {}
    return tango.server.command(
        method,
        dtype_in=(CmdArgType.DevLong64,),
        doc_in="First row, end row, first column, end column; half open.",
        dtype_out=(PIXELS[np.dtype(output.dtype).name],),
        doc_out="The pixels, row after row.",
    )
