"""Values that people type: read, refused with a sentence, and kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ronda.core.parameters import (
    InputFile,
    ParameterError,
    Parameters,
    load_yaml,
    parameter,
    parse_assignments,
    save_yaml,
)


class Sample(Parameters):
    distance: float | None = parameter(None, "Distance.", unit="m", gt=0)
    bins: int = parameter(100, "Bins.", ge=1)
    name: str = parameter("", "Name.")
    rings: list[float] = parameter([], "Rings.", unit="1/angstrom")
    ranges: list[str] = parameter([], "Ranges.")
    darks: list[InputFile] = parameter([], "Dark files.")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bins=7", 7),
        ("distance=0.131", 0.131),
        ("distance=", None),
        ("name=12", "12"),
        ("name=a, b: c", "a, b: c"),
        ("rings=1.5,2", [1.5, 2]),
        ("rings=[3]", [3]),
    ],
)
def test_assignments_are_read_by_the_type_of_the_parameter(text: str, value: Any) -> None:
    changes = parse_assignments(Sample(), [text])
    assert getattr(Sample().changed(changes), text.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bins", "not of the form name=value"),
        ("bin=3", "unknown parameter 'bin'; known are distance, bins, name, rings, ranges, darks"),
        ("bins=0", "bins: .*greater than or equal to 1, got 0"),
        ("bins=many", "bins: .*integer"),
        ("distance=.nan", "distance"),
        ("rings=[1", "rings: .* cannot be read"),
        ("bins=!!python/object/apply:os.getcwd []", "bins: .* cannot be read"),
    ],
)
def test_what_cannot_be_taken_is_named(text: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Sample().changed(parse_assignments(Sample(), [text]))


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["ranges=ring=20,30"], ["ring=20,30"]),
        (["ranges=a=1,2", "bins=7", "ranges=b=3,4"], ["a=1,2", "b=3,4"]),
        (['ranges=["a=1,2", "b=3,4"]'], ["a=1,2", "b=3,4"]),
        (["ranges=[a, b]", "ranges=c"], ["a", "b", "c"]),
        (["ranges=007"], ["007"]),
        (["ranges="], []),
    ],
)
def test_texts_of_a_list_are_given_one_by_one_and_keep_their_commas(
    texts: list[str], values: list[str]
) -> None:
    changes = parse_assignments(Sample(), texts)
    assert Sample().changed(changes).ranges == values
    files = parse_assignments(Sample(), [text.replace("ranges=", "darks=", 1) for text in texts])
    assert Sample().changed(files).darks == values


def test_a_set_never_changes() -> None:
    old = Sample()
    new = old.changed({"bins": 5})
    assert (old.bins, new.bins) == (100, 5)
    with pytest.raises(Exception, match="frozen"):
        new.bins = 6


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sample.yaml"
    values = Sample(distance=0.5, name="é", rings=[1.25])
    save_yaml(values, path)
    assert Sample().changed(load_yaml(path)) == values
    assert [p.name for p in path.parent.iterdir()] == ["sample.yaml"]


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [", b"\xff\xfe", b"1: 2"])
def test_a_file_that_is_no_parameter_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=r"bad\.yaml"):
        load_yaml(path)
    with pytest.raises(ParameterError, match="cannot be read"):
        load_yaml(tmp_path / "missing.yaml")
