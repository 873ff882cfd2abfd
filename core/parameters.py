"""What can be set: the declaration of parameters and their text forms.

A stage declares its parameters once, as fields of a `Parameters` model made
with `parameter`. Tango attributes, command-line assignments, YAML files and the
NXprocess group of an output file are all derived from that declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
)

MAX_TEXT = 4096
"""Longest text of a parameter, in characters."""
MAX_YAML = 1 << 20
"""Longest parameter file, in bytes."""


class ParameterError(ValueError):
    """A value that cannot be taken; the message names the parameter and what is allowed."""


Guard = Callable[[str], None]
"""Raises ValueError, in a sentence, if a file of this name must not be opened."""


def _guarded(name: str, info: ValidationInfo) -> str:
    """Ask the guard of the present set before anything opens the file."""
    if name and info.context:
        info.context(name)
    return name


InputFile = Annotated[str, AfterValidator(_guarded)]
"""Type of a parameter that names a file (or a source of frames) to be read; empty: none."""


class Parameters(BaseModel):
    """An immutable set of values; a change makes a new set."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        str_max_length=MAX_TEXT,
    )
    _guard: Guard | None = PrivateAttr(default=None)

    def guarded(self, guard: Guard) -> Self:
        """Return the same values; a guard may object to files that changes of them name."""
        new = self.model_copy()
        new._guard = guard
        return new

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return the set with some values changed.

        Raises
        ------
        ParameterError
            If a name is unknown or a value is refused; nothing is changed then.
        """
        try:
            present = {name: getattr(self, name) for name in type(self).model_fields}
            new = self.__class__.model_validate({**present, **changes}, context=self._guard)
        except ValidationError as error:
            raise ParameterError(_sentence(error)) from None
        new._guard = self._guard
        new.check()
        return new

    def check(self) -> None:
        """Load and test what the values refer to (files), before they are taken.

        Raises
        ------
        ParameterError
            In one sentence, if something does not fit.
        """

    def to_json(self) -> dict[str, Any]:
        """Return plain values (numbers, text, lists, dictionaries) for YAML, JSON and files."""
        return self.model_dump(mode="json")


def parameter(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    label: str = "",
    expert: bool = False,
    **bounds: Any,
) -> Any:
    """Declare one parameter.

    Parameters
    ----------
    default
        Value until it is set; a dictionary or list is copied.
    doc
        One line: what it does, in words of the field.
    unit
        A unit that pint knows (keV, m, deg, px, counts, s), or empty.
    label
        Short name on a panel; the parameter's own name if empty.
    expert
        Shown to experts only.
    **bounds
        pydantic's `ge`, `gt`, `le`, `lt`, `max_length`, `pattern`.
    """
    extra: dict[str, JsonValue] = {"unit": unit, "label": label, "expert": expert}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


def parse_assignments(parameters: Parameters, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the changes that `name=value` texts ask for; values are read as YAML.

    A text of numbers with commas is a list: `analysis_roi=10,20,30,40`. Of a list of texts,
    in which commas may stand, each text is named by itself, one after the other, or all at once
    in brackets: `radial_ranges=a=1,2` and again `radial_ranges=b=3,4`, or
    `radial_ranges=["a=1,2", "b=3,4"]`.

    Raises
    ------
    ParameterError
        If there is no `=`, the name is unknown, or the value is no YAML.
    """
    known = type(parameters).model_fields
    changes: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{text!r} is not of the form name=value")
        if name not in known:
            raise ParameterError(f"unknown parameter {name!r}; known are {', '.join(known)}")
        if _holds_texts(known[name].annotation) and value[:1] != "[":
            changes[name] = [*changes.get(name, ()), *([value] if value else ())]
        else:
            changes[name] = _yaml_value(name, value, known[name].annotation)
    return changes


def _holds_texts(annotation: Any) -> bool:
    """Tell whether a type is that of lists of texts."""
    if get_origin(annotation) is not list:
        return False
    (item,) = get_args(annotation)
    return item is str or get_args(item)[:1] == (str,)


def _yaml_value(name: str, text: str, annotation: Any) -> Any:
    if annotation is str:
        return text
    try:
        return _safe_load(f"[{text}]" if "," in text and text[:1] not in "[{" else text)
    except UNREADABLE:
        raise ParameterError(f"{name}: {text!r} cannot be read as a value") from None


class _Loader(yaml.SafeLoader):
    """Reads plain values; not aliases, with which a short text can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), which is not read here")
        return super().compose_node(parent, index)


UNREADABLE = (OSError, yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError)
"""What reading YAML raises: its constructors (2001-99-99, !!bool x), and depth, among others."""


def _safe_load(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the values of a parameter file.

    Raises
    ------
    ParameterError
        If the file cannot be read or holds no mapping.
    """
    try:
        content = _safe_load(_read_text(path))
    except UNREADABLE as error:
        raise ParameterError(f"parameter file {path} cannot be read: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ParameterError(f"parameter file {path} holds no `name: value` lines")
    return content


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MAX_YAML + 1)
    if len(raw) > MAX_YAML:
        raise ValueError(f"it is longer than {MAX_YAML} bytes")
    return raw.decode("utf-8")


def save_yaml(parameters: Parameters, path: Path) -> None:
    """Write a parameter file, whole or not at all."""
    text = yaml.safe_dump(parameters.to_json(), sort_keys=False, allow_unicode=True)
    save_text(text, path)


def save_text(text: str, path: Path) -> None:
    """Write a small file so that a crash leaves the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _sentence(error: ValidationError) -> str:
    """Return the first thing pydantic found, as a sentence with the name and the value."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "parameters"
    if first["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}"
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # of several values together, which the sentence names
        return reason
    return f"{name}: {reason}, got {first['input']!r:.80}"
