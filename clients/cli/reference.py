"""The generated pages of docs/reference: `make docs` writes them, a test compares them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tango import CmdArgType

from ...core.stages import registry
from ...devices.base import StageDevice
from ...devices.classes import CLASSES
from ...devices.common import COMMON
from ...devices.served import Served
from . import describe

NOTE = "<!-- Written by `make docs` from the declarations in the code; do not edit. -->\n"
COMMANDS = (
    "stages",
    "describe",
    "run",
    "view",
    "recover",
    "sparsify-Bragg",
    "densify",
    "diff_tomo",
    "up",
    "demo",
)

_STAGES = """\
A stage is declared once, as a class in `ronda.core`. From the declaration come the
attributes of its Tango device, the names that `ronda run --param` takes, the parameter
files, and what is recorded in the NeXus file. In the terminal: `ronda describe STAGE`.

Types are those of YAML; *none* is an empty value. A path `/entry/rois/{slot}/...` stands
for a table of each ROI; when the file is closed it has the ROI's name.
"""
_DEVICES = """\
Every class is a server of its own name (`PilatusAccumulator INSTANCE`); the server `Ronda`
carries any mix of them. What an attribute means is the same offline, see [stages](stages.md).

States: INIT (getting ready), STANDBY (ready), RUNNING, ALARM (delivering, but Status names
something to look at), FAULT (stopped; Reset, then Start), UNKNOWN (the source is away and is
being reopened). Status says why in a sentence. `Reset` acknowledges and touches no data.
"""


def write(folder: Path) -> None:
    """Write the generated pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def stages_page() -> str:
    """Return the page of all stages: parameters, outputs, commands."""
    parts = [NOTE, "# Stages\n", _STAGES]
    for name, stage in sorted(registry.stages.items()):
        parts += [f"## {name}: {stage.title}\n", inspect.cleandoc(stage.__doc__ or "") + "\n"]
        for title, columns, rows in describe.sections(stage):
            parts += [f"### {title} of {name}\n", _table(columns, rows)]
    return "\n".join(parts)


def devices_page() -> str:
    """Return the page of the device classes: properties, attributes, commands."""
    parts = [NOTE, "# Devices\n", _DEVICES, "## What every stage's device has\n"]
    parts += ["### Properties\n", _properties(StageDevice), "### Attributes\n", _attributes(COMMON)]
    parts += ["### Commands\n", _commands(StageDevice)]
    for device in CLASSES:
        parts += [f"## {device.__name__}\n", inspect.cleandoc(device.__doc__ or "") + "\n"]
        shared = issubclass(device, StageDevice)
        properties = _properties(device, shared)
        if properties:
            parts += [f"### Properties of {device.__name__}\n", properties]
        own = [one for one in device.served.values() if not (shared and one in COMMON)]
        parts += [f"### Attributes of {device.__name__}\n", _attributes(own)]
        parts += [f"### Commands of {device.__name__}\n", _commands(device, shared)]
    return "\n".join(parts)


def _properties(device: Any, own: bool = False) -> str:
    rows = []
    for name, (_, doc, default, needed) in device.TangoClassClass.device_property_list.items():
        if own and name in StageDevice.TangoClassClass.device_property_list:
            continue
        rows.append({"name": name, "default": "needed" if needed else default, "doc": doc})
    return _table(("name", "default", "doc"), rows) if rows else ""


def _attributes(served: Iterable[Served[Any]]) -> str:
    rows = [
        {
            "name": one.name,
            "type": _dtype(one.dtype, one.enumeration),
            "access": "read, write" if one.changes else "read",
            "unit": one.unit,
            "doc": one.doc,
        }
        for one in served
    ]
    return _table(("name", "type", "access", "unit", "doc"), rows)


def _dtype(dtype: Any, labels: Sequence[str] = ()) -> str:
    """Return a type as Tango calls it."""
    if isinstance(dtype, tuple):
        (inner,) = dtype
        form, inner = ("image", inner[0]) if isinstance(inner, tuple) else ("spectrum", inner)
        return f"{form} of {_dtype(inner)}"
    if labels:
        return f"DevEnum: {', '.join(labels)}"
    return _PLAIN.get(dtype) or str(CmdArgType(dtype))


_PLAIN: dict[Any, str] = {
    str: "DevString",
    bool: "DevBoolean",
    int: "DevLong64",
    float: "DevDouble",
}


def _commands(device: Any, own: bool = False) -> str:
    rows = []
    for name, ((kind, doc), (answer, told), _) in device.TangoClassClass.cmd_list.items():
        if own and name in StageDevice.TangoClassClass.cmd_list:
            continue
        takes = "" if kind == CmdArgType.DevVoid else f"{kind}: {doc}"
        gives = "" if answer == CmdArgType.DevVoid else f"{answer}: {told}"
        said = inspect.cleandoc(getattr(device, name).__doc__ or "").partition("\n\n")[0]
        rows.append({"name": name, "takes": takes, "gives": gives, "doc": said})
    return _table(("name", "takes", "gives", "doc"), rows)


def command_line_page() -> str:
    """Return the page of the command line: what `--help` says."""
    parts = [NOTE, "# Command line\n", "Also in the terminal: `ronda --help`.\n"]
    for command in ("", *COMMANDS):
        parts += [f"## ronda {command}".rstrip() + "\n", f"```text\n{_help(command)}\n```\n"]
    return "\n".join(parts)


def _help(command: str) -> str:
    """Return a command's help as a terminal of 100 columns without colours shows it."""
    fixed = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    program = [sys.executable, "-m", "ronda.clients.cli.main"]
    done = subprocess.run(
        [*program, *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if "PATH" in key} | fixed,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def _table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Return a table in Markdown."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[_cell(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return " ".join(describe.cell(value).split()).replace("|", "\\|")


PAGES = {
    "stages.md": stages_page,
    "devices.md": devices_page,
    "command-line.md": command_line_page,
}
"""What makes each page, by its file name."""

if __name__ == "__main__":
    write(Path(sys.argv[1]))
