"""Reduced files stand where the decision says, and never outside their root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.frame import Series
from ronda.core.sinks.paths import NAME_BYTES, PathError, Roots, document_path, series_path

RUN = 1_700_000_000_123


def place(filename: str, roots: Roots, stage: str = "balor") -> Path | None:
    return series_path(Series(RUN, filename=filename), stage, roots)


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    (tmp_path / "visit" / "raw" / "s1").mkdir(parents=True)
    return tmp_path / "visit"


def test_raw_folder_becomes_process_and_the_stage_is_appended(visit: Path) -> None:
    found = place(f"{visit}/raw/s1/scan-0001_balor.h5", Roots())
    assert found == visit / "process" / "s1" / "scan-0001_balor_balor.h5"


def test_only_the_last_raw_folder_is_replaced(visit: Path) -> None:
    (visit / "raw" / "x" / "raw").mkdir(parents=True)
    assert place(f"{visit}/raw/x/raw/a.h5", Roots()) == visit / "raw/x/process/a_balor.h5"


def test_file_called_raw_is_no_raw_folder(visit: Path) -> None:
    assert place(f"{visit}/raw", Roots()) == visit / "process" / "raw_balor.h5"


def test_without_raw_folder_it_goes_beside_or_into_output_root(visit: Path, tmp_path: Path) -> None:
    name = f"{visit}/scan-1.h5"
    assert place(name, Roots()) == visit / "process" / "scan-1_balor.h5"
    out = tmp_path / "out"
    assert place(name, Roots(output=out)) == out / "scan-1_balor.h5"


def test_outside_data_root_is_mapped_below_it(visit: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    found = place("/data/v/raw/a.h5", Roots(data=root))
    assert found == root / "data" / "v" / "process" / "a_balor.h5"
    assert place(f"{visit}/raw/a.h5", Roots(data=visit)) == visit / "process" / "a_balor.h5"


def test_recording_from_elsewhere_goes_below_output_root_or_is_refused(tmp_path: Path) -> None:
    name = "/data/staff/femtomax/2024_autumn/drp-test/scan-123374_pilatus.h5"
    out = tmp_path / "out"
    assert place(name, Roots(output=out)) == out / "scan-123374_pilatus_balor.h5"
    raw = "/data/staff/visit/raw/s1/scan-1.h5"
    assert place(raw, Roots(output=out)) == out / "s1" / "scan-1_balor.h5"
    for each in (name, raw):
        with pytest.raises(PathError, match=r"does not exist here.*set OutputRoot"):
            place(each, Roots())


def test_data_root_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(PathError, match="gone does not exist here"):
        place("/visit/raw/a.h5", Roots(data=gone))
    found = place("/visit/raw/a.h5", Roots(data=gone, output=tmp_path / "out"))
    assert found == tmp_path / "out" / "a_balor.h5"


def test_folder_without_write_permission_goes_below_output_root(
    visit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root, who runs tests in containers, may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != visit)
    out = tmp_path / "out"
    assert place(f"{visit}/raw/a.h5", Roots(output=out)) == out / "a_balor.h5"
    with pytest.raises(PathError, match="cannot be written to"):
        place(f"{visit}/raw/a.h5", Roots())


def test_symbolic_link_does_not_lead_out_of_data_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "visit").symlink_to(outside)
    found = place(f"{root}/visit/raw/a.h5", Roots(data=root))
    assert found
    assert found.resolve().is_relative_to(root)
    (root / "data").symlink_to(outside)
    with pytest.raises(PathError, match="symbolic link"):
        place("/data/raw/a.h5", Roots(data=root))


def test_series_without_name_has_no_file_but_a_late_one_has(tmp_path: Path) -> None:
    late = Series(RUN, joined_late=True)
    out, data, state = tmp_path / "o", tmp_path / "d", tmp_path / "s"
    assert place("", Roots(out, data, state)) is None
    name = "late_20231114T221320Z_balor.h5"
    assert series_path(late, "balor", Roots(out, data, state)) == out / name
    assert series_path(late, "balor", Roots(None, data, state)) == data / "process" / name
    assert series_path(late, "balor", Roots(None, None, state)) == state / name
    assert series_path(late, "balor", Roots()) is None


def test_relative_name_is_below_data_root_or_refused(tmp_path: Path) -> None:
    found = place("raw/a.h5", Roots(data=tmp_path))
    assert found == tmp_path / "process" / "a_balor.h5"
    with pytest.raises(PathError, match="relative"):
        place("raw/a.h5", Roots())


def test_document_is_beside_the_series_or_in_the_default_folder(tmp_path: Path) -> None:
    assert document_path("acc", tmp_path, Roots()) == tmp_path / "acc.h5"
    assert document_path("../../acc", tmp_path, Roots()) == tmp_path / ".._.._acc.h5"
    assert document_path("acc", None, Roots(state=tmp_path)) == tmp_path / "acc.h5"
    with pytest.raises(PathError, match="no folder"):
        document_path("acc", None, Roots())


@pytest.mark.parametrize("roots", ["data", "output", "both", "none"])
def test_what_cannot_be_a_path_is_no_sentence(tmp_path: Path, roots: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    places = {
        "data": Roots(data=tmp_path),
        "output": Roots(output=tmp_path),
        "both": Roots(tmp_path / "out", tmp_path),
        "none": Roots(),
    }
    for name in ("/a" * 32_000, f"{tmp_path}/loop/raw/x.h5", "/" + "/".join(["é" * 100] * 40)):
        try:
            place(name, places[roots])
        except PathError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000


def test_a_loop_of_links_or_a_long_path_gets_a_place(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PathError, match="cannot be followed"):
        place(f"{tmp_path}/loop/raw/x.h5", Roots(data=tmp_path))
    with pytest.raises(PathError, match="is longer than 3500 bytes"):
        place("/a" * 32_000 + "/raw/x.h5", Roots(data=tmp_path))


def test_a_name_of_64_kilobytes_is_cut(tmp_path: Path) -> None:
    found = place("/" + "x" * 65_536, Roots(data=tmp_path))
    assert found and len(os.fsencode(found.name)) == NAME_BYTES


@pytest.mark.parametrize("stage_folder", ["process", "data"])
def test_symbolic_link_of_any_depth_does_not_lead_out(tmp_path: Path, stage_folder: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "visit").mkdir(parents=True)
    (outside / "s1").mkdir(parents=True)
    (root / "visit" / "process").symlink_to(outside)
    for name in (
        f"{root}/visit/raw/s1/a.h5",
        f"{root}/visit/{stage_folder}/raw/a.h5",
        "visit/raw/a",
    ):
        try:
            found = place(name, Roots(data=root))
        except PathError:
            continue
        assert found and found.resolve().is_relative_to(root)


PARTS = st.one_of(
    st.sampled_from(["..", ".", "raw", "", "a", "root", "~", "x" * 300, "é" * 200, "C:\\raw\\b"]),
    st.text(st.characters(exclude_characters="/"), max_size=20),
    st.text(st.sampled_from("\0\n\ud800.."), max_size=4),
)
NAMES = st.builds(
    lambda parts, lead: lead + "/".join(parts),
    st.lists(PARTS, max_size=8),
    st.sampled_from(["", "/", "//", "/tmp/", "../../"]),
)


@given(NAMES)
def test_no_name_leaves_data_root(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz-root"
    root.mkdir(exist_ok=True)
    stays_below(root, name, Roots(data=root))


@given(NAMES)
def test_no_name_leaves_output_root_where_nothing_else_is_there(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz-root"
    root.mkdir(exist_ok=True)
    stays_below(root, "/no-such-folder/" + name.replace("..", ""), Roots(output=root))


def stays_below(root: Path, name: str, roots: Roots) -> None:
    try:
        found = place(name, roots)
    except PathError:
        return
    if found is None:
        assert not name
        return
    assert found.resolve().is_relative_to(root)
    assert ".." not in found.parts
    assert found.name.endswith("_balor.h5")
    assert all(len(os.fsencode(part)) <= NAME_BYTES for part in found.relative_to(root).parts)
    assert b"\0" not in os.fsencode(found)
