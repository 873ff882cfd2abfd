"""`ronda stages` and `ronda describe`: what stages declare, told to people."""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.table import Table

from ...core.parameters import Parameters
from ...core.stage import Command, Kind, Output, Stage
from ...core.stages import registry
from .console import stdout

Entry = dict[str, Any]
"""One row of a table: text or numbers by column name."""


def list_stages() -> None:
    """Print the stages with their titles."""
    rows = [{"name": name, "title": s.title} for name, s in sorted(registry.stages.items())]
    stdout().print(table("Stages", ("name", "title"), rows))


def describe_stage(name: str, form: str) -> None:
    """Print what a stage declares, as `tables`, `json` or `yaml`.

    Raises
    ------
    ValueError
        If there is no such stage.
    """
    stage = registry.get(name)
    if form == "json":
        sys.stdout.write(json.dumps(declaration(stage), indent=2, ensure_ascii=False) + "\n")
    elif form == "yaml":
        sys.stdout.write(yaml_text(stage.Parameters))
    else:
        console = stdout()
        console.print(f"{stage.name}: {stage.title}\n\n{declaration(stage)['doc']}\n")
        for one in tables(stage):
            console.print(one)


def declaration(stage: type[Stage[Any, Any]]) -> dict[str, Any]:
    """Return everything a stage declares, as plain values for JSON.

    Returns
    -------
    dict
        `name`, `title`, `doc`, and the lists `parameters`, `outputs`, `commands`.
    """
    return {
        "name": stage.name,
        "title": stage.title,
        "doc": _paragraphs(stage.__doc__),
        "parameters": list(parameters(stage.Parameters)),
        "outputs": [_output(output, stage.entry) for output in stage.outputs],
        "commands": [_command(command) for command in stage.commands],
    }


def parameters(model: type[Parameters]) -> Iterator[Entry]:
    """Yield one entry for each parameter: name, type, default, bounds, unit, doc, expert."""
    defaults = model().to_json()
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield {
            "name": name,
            "type": type_text(field.annotation),
            "default": defaults[name],
            "bounds": bounds_text(field),
            "unit": extra.get("unit", ""),
            "doc": field.description or "",
            "expert": bool(extra.get("expert", False)),
        }


def yaml_text(model: type[Parameters]) -> str:
    """Return a parameter file with every default, each explained by a comment."""
    lines = []
    for entry in parameters(model):
        notes = [note for note in (entry["unit"], entry["bounds"], entry["type"]) if note]
        text = yaml.safe_dump({entry["name"]: entry["default"]}, allow_unicode=True, width=1000)
        lines.append(f"# {entry['doc']} [{'; '.join(notes)}]\n{text}")
    return "\n".join(lines)


def tables(stage: type[Stage[Any, Any]]) -> Iterator[Table]:
    """Yield the tables of a stage's parameters, outputs and commands."""
    for title, columns, rows in sections(stage):
        yield table(title, columns, rows)


def sections(stage: type[Stage[Any, Any]]) -> Iterator[tuple[str, tuple[str, ...], list[Entry]]]:
    """Yield title, columns and rows of what people are told of a stage."""
    content = declaration(stage)
    for entry in content["parameters"]:
        entry["type"] = ", ".join(filter(None, (entry["type"], entry["bounds"])))
    for entry in content["outputs"]:
        axes = f"[{', '.join(entry['axes'])}]" if entry["axes"] else ""
        entry["form"] = " ".join(filter(None, (entry["kind"], axes, entry["dtype"])))
    columns = {
        "parameters": ("name", "default", "unit", "type", "doc"),
        "outputs": ("name", "form", "unit", "path", "doc"),
        "commands": ("name", "argument", "doc"),
    }
    for title, names in columns.items():
        if content[title]:
            yield title.capitalize(), names, content[title]


def table(title: str, columns: tuple[str, ...], rows: list[Entry]) -> Table:
    """Return a table of entries; the first column is never broken."""
    result = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for column in columns:
        result.add_column(column, no_wrap=column == columns[0], overflow="fold")
    for row in rows:
        result.add_row(*(cell(row[column]) for column in columns))
    return result


def cell(value: Any) -> str:
    """Return a value as it is typed after `name=`; empty text for nothing."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, dict)):
        return yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return str(value)


def type_text(annotation: Any) -> str:
    """Return a type in words: `number`, `one of a, b`, `list of integer`, `text or none`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in arguments)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in arguments)
    if origin in (list, tuple):
        inner = [type_text(part) for part in arguments if part is not Ellipsis]
        return "list of " + (inner[0] if len(set(inner)) == 1 else "(" + ", ".join(inner) + ")")
    if origin is dict:
        return " -> ".join(type_text(part) for part in arguments)
    if isinstance(annotation, type):
        return _class_text(annotation)
    return str(annotation)


def _class_text(kind: type) -> str:
    if issubclass(kind, Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    if issubclass(kind, BaseModel):
        return "{" + ", ".join(kind.model_fields) + "}"
    if issubclass(kind, Path):
        return "path"
    words = {bool: "true/false", int: "integer", float: "number", str: "text", type(None): "none"}
    return words.get(kind, kind.__name__)


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥"}
_SIGNS |= {"max_length": "length ≤", "pattern": "matches"}


def bounds_text(field: FieldInfo) -> str:
    """Return the bounds of a parameter in signs: `> 0, ≤ 90`."""
    found = []
    for item in field.metadata:
        for name, sign in _SIGNS.items():
            value = getattr(item, name, None)
            if value is not None:
                found.append(f"{sign} {value}")
    return ", ".join(found)


def _output(output: Output, entry: str) -> Entry:
    return {
        "name": output.name,
        "kind": output.kind.value,
        "dtype": _type(output),
        "unit": output.unit,
        "axes": list(output.axes),
        "path": f"/{entry}/{output.path}" if output.path else "",
        "doc": output.doc,
    }


def _type(output: Output) -> str:
    """Return the type of an output's numbers; empty for text."""
    if output.kind in (Kind.TEXT, Kind.TEXTS):
        return ""
    return "that of the frames" if output.dtype is None else np.dtype(output.dtype).name


def _command(command: Command) -> Entry:
    names: dict[type | None, str] = {str: "text", int: "integer", float: "number", None: ""}
    kind = names[command.argument]
    argument = f"{kind}: {command.argument_doc}" if command.argument_doc else kind
    return {"name": command.name, "argument": argument, "doc": command.doc}


def _paragraphs(doc: str | None) -> str:
    """Return a docstring without its indentation."""
    return inspect.cleandoc(doc or "")
