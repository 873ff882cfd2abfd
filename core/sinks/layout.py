"""What a series' NeXus file holds, derived from the declaration of its stage.

Everything stands under one entry (`Stage.entry`). The stage says where its outputs stand
(`Output.path`), which groups there are (`Stage.groups`) and what else is to be
written (`Stage.update`, `Closing.tree`); the rest is the same for all stages:

- `start_time`, `end_time`, `end_note` (how the file came to its end), `run_id`,
  `title`, `program_name`, `joined_late`, `header` (the stream's own, as JSON);
- `process` (NXprocess): program, version, date, stage, `parameters_version`,
  `parameters` (one dataset each), `configuration` (the same as JSON) and
  `changes`: from which frame on which parameters had other values;
- `instrument/detector`, `raw` (link to the detector's file), `ledger` (counts).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ..frame import Series
from ..parameters import Parameters
from ..stage import SLOTS, Kind, Output, Record, Settings, Stage, Tree
from .cells import Places
from .columns import COUNT, TABLES, Columns, FrameColumns
from .seriesfile import CHANGES, END_NOTE, END_TIME
from .tables import CHUNK_ROWS
from .tree import NAMES, SLOT
from .wire import Message, fixed_text, plain

AnyStage = Stage[Any, Any]
TEXT_BYTES = 256
"""Longest text that can change while the file is open."""
CHANGE_BYTES = 4096
"""Longest change of parameters in the open file, as JSON; cut there, whole after the end."""
BLANK_BYTES = 1 << 20
"""Outputs from this size on are not written at the beginning, only declared: they are replaced
soon. What is no output (an image that never changes) is written whatever its size."""
HEADER_BYTES = 1 << 20
"""Longest stream header that is kept."""
COUNTS = ("received", "reduced", "rejected", "dropped", "lost", "missing_rows")


def below_entry(entry: str, tree: Tree) -> dict[str, Any]:
    """Return a stage's tree with paths from the file's root, ready to be sent."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if key.endswith(">") and "::" not in value:
            value = f"{entry}/{value}"
        out[f"{entry}{key}" if key.startswith("@") else f"{entry}/{key}"] = plain(value)
    return out


def begin_message(
    stage: AnyStage,
    series: Series,
    shape: tuple[int, ...],
    settings: Settings,
    update: Tree,
    places: Places,
    left_out: Collection[str] = (),
) -> Message:
    """Return the layout of a series' file: `tree`, `blanks` and `grids` of a `begin` message.

    Parameters
    ----------
    shape
        Of a frame: (rows, columns).
    update
        What `Stage.update` gave at the first frame, without cells.
    places
        Datasets that cells are written to.
    left_out
        Names of optional outputs that the file has no tables of.
    """
    tree, blanks = _outputs(stage, shape, update, places, left_out)
    entry = stage.entry
    fixed = {
        **_head(stage, series),
        **process_tree(stage, settings),
        **_detector(entry, series, settings.parameters),
        **{f"{entry}/ledger/{name}": 0 for name in COUNTS},
        f"{entry}/header@NX_class": "NXnote",
        f"{entry}/header/type": "application/json",
        f"{entry}/header/data": plain(_json(dict(series.metadata))[:HEADER_BYTES]),
        f"{entry}/process/{CHANGES}@NX_class": "NXcollection",
    }
    tree = {**fixed, **_group_attributes(stage), **tree}
    paths = (*tree, *blanks, *places.layout, *_tables(stage, left_out))
    grids = places.layout
    return {"tree": {**_collections(paths, tree), **tree}, "blanks": blanks, "grids": grids}


def document_tree(stage: AnyStage, settings: Settings | None, tree: Tree) -> dict[str, Any]:
    """Return a document with what every file has around it, from the file's root."""
    content = below_entry(stage.entry, tree)
    groups = set(_ancestors(content))
    out = _root(stage)
    if settings:
        out.update(process_tree(stage, settings))
    for key, value in _group_attributes(stage).items():
        if key.partition("@")[0] in groups:
            out[key] = value
    out.update(content)
    return {**_collections(out, out), **out}


def change_row(first: int, old: Settings, new: Settings) -> dict[str, Any]:
    """Return a row of `changes`: what parameters have other values from a frame on."""
    before, after = old.parameters.to_json(), new.parameters.to_json()
    values = {name: value for name, value in after.items() if before.get(name) != value}
    return {"frame": first, "version": new.version, "values": json.dumps(values)}


def change_columns(entry: str, row: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return such a row as columns of the book of changes."""
    place = f"{entry}/process/{CHANGES}"
    return {
        f"{place}/frame": np.array([row["frame"]], np.int64),
        f"{place}/version": np.array([row["version"]], np.int64),
        f"{place}/values": fixed_text([row["values"]], CHANGE_BYTES),
    }


def last_tree(entry: str, end: str, missing_rows: int, changes: list[str]) -> dict[str, Any]:
    """Return what every series' file gets at its end: when, what is missing, whole changes.

    It is complete unless the last values themselves have another `end_note`.
    """
    whole = {f"{entry}/process/{CHANGES}/values": changes} if changes else {}
    return {
        f"{entry}/ledger/missing_rows": missing_rows,
        f"{entry}/{END_TIME}": end,
        f"{entry}/{END_NOTE}": "complete",
        **whole,
    }


def books(entry: str, tables: Iterable[Columns]) -> dict[str, Any]:
    """Return the tables of a `begin` message: the stage's, and changes of parameters.

    By book and path the first fields of a `ronda.core.sinks.tables.Table`.
    """
    out: dict[str, dict[str, Any]] = {}
    for book in tables:
        rows = book.chunk_rows
        out[book.name] = {
            each.path: (each.dtype.str, each.shape, each.marks, rows, each.compressed)
            for each in book.columns
        }
        for path, events in book.pointers if isinstance(book, FrameColumns) else ():
            names = [each.path.rpartition("/")[2] for each in events.columns]
            out[book.name][path] = (COUNT.str, (), False, rows, False, names)
    changes = change_columns(entry, {"frame": 0, "version": 0, "values": ""})
    out[CHANGES] = {
        path: (column.dtype.str, (), False, CHUNK_ROWS) for path, column in changes.items()
    }
    return out


def raw_link(entry: str, series: Series, file: Path) -> dict[str, Any]:
    """Return the link to the detector's own file, relative where both share a root folder."""
    raw = Path(series.filename)
    if not raw.name or series.metadata.get("save_raw") is False:
        return {}
    together = raw.is_absolute() and raw.parts[:2] == file.absolute().parts[:2]
    name = os.path.relpath(raw, file.absolute().parent) if together else str(raw)
    return {f"{entry}/raw>": plain(f"{name}::/")}


def now() -> str:
    """Return the time as NeXus writes it, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(value: Any) -> str:
    return json.dumps(value, default=str, skipkeys=True)


def _root(stage: AnyStage) -> dict[str, Any]:
    signals = [path for path, group in stage.groups.items() if "signal" in group]
    plots = [path for path in signals if SLOT not in path]
    return {
        "@NX_class": "NXroot",
        "@default": stage.entry,
        "@creator": stage.creator,
        "@file_time": now(),
        f"{stage.entry}@NX_class": "NXentry",
        **({f"{stage.entry}@default": plots[0]} if plots else {}),
        f"{stage.entry}/program_name": "ronda",
    }


def _head(stage: AnyStage, series: Series) -> dict[str, Any]:
    began = datetime.fromtimestamp(series.run_id / 1000, UTC)
    name = Path(series.filename).stem
    entry, number = stage.entry, series.scan_number
    scan = {} if number is None else {f"{entry}/scan_number": number}
    return {
        **_root(stage),
        f"{entry}/title": plain(f"{stage.title}: {name}" if name else stage.title),
        f"{entry}/start_time": began.isoformat(timespec="milliseconds"),
        f"{entry}/{END_TIME}": fixed_text("", 32),
        f"{entry}/{END_NOTE}": fixed_text("", 64),
        f"{entry}/run_id": np.uint64(series.run_id),
        f"{entry}/joined_late": series.joined_late,
        **scan,
    }


def process_tree(stage: AnyStage, settings: Settings) -> dict[str, Any]:
    """Return the NXprocess: what was done to the frames, with every parameter."""
    values = settings.parameters.to_json()
    place = f"{stage.entry}/process"
    out: dict[str, Any] = {
        f"{place}@NX_class": "NXprocess",
        f"{place}/program": "ronda",
        f"{place}/version": __version__,
        f"{place}/date": now(),
        f"{place}/sequence_index": 1,
        f"{place}/stage": stage.name,
        f"{place}/parameters_version": settings.version,
        f"{place}/parameters@NX_class": "NXparameters",
        f"{place}/configuration@NX_class": "NXnote",
        f"{place}/configuration/type": "application/json",
        f"{place}/configuration/data": plain(json.dumps(values)),
    }
    for name, value in values.items():
        path = f"{place}/parameters/{name}"
        out[path] = "" if value is None else plain(value)
        unit = parameter_unit(settings.parameters, name)
        if unit:
            out[f"{path}@units"] = unit
    return out


def parameter_unit(parameters: Parameters, name: str) -> str:
    """Return the unit that a parameter was declared with."""
    extra = type(parameters).model_fields[name].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _detector(entry: str, series: Series, parameters: Parameters) -> dict[str, Any]:
    place = f"{entry}/instrument/detector"
    out: dict[str, Any] = {
        f"{entry}/instrument@NX_class": "NXinstrument",
        f"{place}@NX_class": "NXdetector",
        f"{place}/local_name": plain(series.detector),
    }
    size = getattr(parameters, "pixel_size", None)
    if isinstance(size, float):
        for axis in ("x", "y"):
            out[f"{place}/{axis}_pixel_size"] = size
            out[f"{place}/{axis}_pixel_size@units"] = parameter_unit(parameters, "pixel_size")
    return out


def _outputs(
    stage: AnyStage,
    shape: tuple[int, ...],
    update: Tree,
    places: Places,
    left_out: Collection[str],
) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    """Return values and blanks of what is replaced while the file is open, and attributes."""
    tree: dict[str, Any] = {}
    blanks: dict[str, tuple[str, tuple[int, ...]]] = {}
    changing = {f"{stage.entry}/{output.path}" for output in stage.outputs}
    for key, value in below_entry(stage.entry, update).items():
        large = isinstance(value, np.ndarray) and value.nbytes >= BLANK_BYTES
        if large and key in changing:
            blanks[key] = (value.dtype.str, value.shape)
        else:
            tree[key] = _changeable(key, value)
    for output in stage.outputs:
        if output.record is Record.NO or not output.path or output.name in left_out:
            continue
        path = f"{stage.entry}/{output.path}"
        known = path in tree or path in blanks or output.record in TABLES
        known |= output.path in places.grids
        if output.record is Record.CELL and not known:
            continue
        if not known and output.kind is Kind.SCALAR:
            blanks[path] = (np.dtype(output.dtype).str, ())
        elif not known and output.kind is Kind.IMAGE:
            blanks[path] = (np.dtype(output.dtype).str, shape)
        elif not known:
            continue
        tree.update(_output_attributes(path, output))
    return tree, blanks


def _changeable(key: str, value: Any) -> Any:
    """Return texts in the form that can be overwritten while the file is open."""
    names = key.endswith(f"/{NAMES}")
    if names and not len(value):
        value = [""]
    if "@" in key or key.endswith(">") or not isinstance(value, str | list):
        return value
    length = SLOTS if names else None
    longest = max(map(len, [value] if isinstance(value, str) else value), default=0)
    return fixed_text(value, max(TEXT_BYTES, 4 * longest), length)


def _tables(stage: AnyStage, left_out: Collection[str]) -> list[str]:
    tables = [output for output in stage.outputs if output.record in TABLES]
    there = [output.path for output in tables if output.path and output.name not in left_out]
    return [f"{stage.entry}/{path}" for path in there]


def _output_attributes(path: str, output: Output) -> dict[str, Any]:
    forms = {Kind.IMAGE: "image", Kind.SPECTRUM: "spectrum"}
    attributes = {
        "units": output.unit,
        "long_name": output.label,
        "interpretation": "" if output.record in TABLES else forms.get(output.kind, ""),
    }
    return {f"{path}@{name}": text for name, text in attributes.items() if text}


def _group_attributes(stage: AnyStage) -> dict[str, Any]:
    return {
        f"{stage.entry}/{path}@{name}" if path else f"{stage.entry}@{name}": plain(value)
        for path, group in stage.groups.items()
        for name, value in group.items()
    }


def _ancestors(keys: Iterable[str]) -> Iterable[str]:
    """Yield the groups on the way to each entry of a tree, below the root."""
    for key in keys:
        path = key.partition("@")[0]
        while "/" in path:
            path = path.rpartition("/")[0]
            yield path


def _collections(keys: Iterable[str], tree: Tree) -> dict[str, Any]:
    """Return a class for the groups that have none of their own."""
    groups = {f"{path}@NX_class" for path in _ancestors(keys)}
    return dict.fromkeys(sorted(groups - tree.keys()), "NXcollection")
