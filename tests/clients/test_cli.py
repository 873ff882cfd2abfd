"""The command line teaches, refuses in one sentence, and reduces as the device does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.clients.cli import describe
from ronda.clients.cli.main import app
from ronda.core.parameters import load_yaml
from ronda.core.stage import registry
from ronda.core.stages import pilatus
from ronda.tests.clients.commands import Said, offered, refusal
from ronda.tests.toy import ToyStage

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
    "status",
    "systemd",
    "serve",
    "demo",
)
STAGE = pilatus.PilatusStage


@pytest.fixture
def toy() -> Iterator[None]:
    """Have a toy stage among the others."""
    registry.register(ToyStage)
    yield
    del registry.stages[ToyStage.name]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A file of 12 frames of 20 x 30 pixels."""
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.random.default_rng(0).poisson(3, (12, 20, 30)).astype(np.int32)
    return path


# ----------------------------------------------------------------------- help


def test_every_command_is_in_the_help_and_has_an_example(said: Said) -> None:
    status, out, _ = said("--help")
    assert status == 0
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == set(COMMANDS)
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", out)
        assert f"Example: ronda {command}" in said(command, "--help")[1]


def test_no_arguments_show_the_help(said: Said) -> None:
    assert said()[:2] == said("--help")[:2]


def test_the_version_is_said(said: Said) -> None:
    assert re.fullmatch(r"ronda \d+\.\d+\.\d+\n", said("--version")[1])


def test_help_and_completion_import_nothing_heavy() -> None:
    code = (
        "import sys, ronda.clients.cli.main; "
        "print({'numba', 'pyFAI', 'tango', 'matplotlib', 'h5py', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("ronda run pi", "pilatus"),
        ("ronda describe pi", "pilatus"),
        ("ronda run pilatus --param photon_e", "photon_energy="),
    ],
)
def test_the_shell_completes_stages_and_parameters(typed: str, word: str) -> None:
    assert offered(typed) == {word}


# ------------------------------------------------------------------- describe


def test_stages_lists_those_that_exist(said: Said, toy: None) -> None:
    out = said("stages")[1]
    assert "pilatus" in out
    assert "sum of pixels" in out


def test_describe_shows_everything_that_is_declared(said: Said) -> None:
    status, out, _ = said("describe", "pilatus")
    assert status == 0
    declared = [*STAGE.Parameters.model_fields, *(output.name for output in STAGE.outputs)]
    declared += [command.name for command in STAGE.commands]
    assert [name for name in declared if name not in out] == []
    assert "keV" in out


def test_describe_as_json_is_for_programs(said: Said) -> None:
    content = json.loads(said("describe", "pilatus", "--json")[1])
    energy = next(p for p in content["parameters"] if p["name"] == "photon_energy")
    assert energy["unit"] == "keV"
    assert energy["default"] is None
    assert energy["bounds"] == "> 0"
    assert {"name", "kind", "dtype", "unit", "axes", "path"} <= set(content["outputs"][0])


def test_describe_as_yaml_is_a_parameter_file_of_the_defaults(said: Said, tmp_path: Path) -> None:
    file = tmp_path / "pilatus.yaml"
    file.write_text(said("describe", "pilatus", "--yaml")[1], encoding="utf-8")
    defaults = STAGE.Parameters()
    assert set(load_yaml(file)) == set(STAGE.Parameters.model_fields)
    assert defaults.changed(load_yaml(file)) == defaults


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float | None, "number or none"),
        (list[int], "list of integer"),
        (tuple[int, float], "list of (integer, number)"),
        (dict[str, bool], "text -> true/false"),
        (Path, "path"),
    ],
)
def test_types_are_told_in_words(annotation: object, text: str) -> None:
    assert describe.type_text(annotation) == text


# ------------------------------------------------------------------------ run


def test_run_writes_what_numpy_finds(said: Said, toy: None, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    status, _, err = said(
        "run", "toy", "--source", f"hdf5:{frames}", "--output", out, "--param", "gain=2"
    )
    assert status == 0
    assert "12 frames received = 12 reduced + 0 rejected + 0 dropped + 0 queued; 0 lost" in err
    assert f"written: {out}" in err
    with h5py.File(frames) as raw, h5py.File(out) as file:
        expected = 2.0 * raw["data"][()].sum(axis=(1, 2))
        np.testing.assert_array_equal(file["entry/toy/total"][()], expected)


def test_run_accumulates_and_looks_at_rois(said: Said, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    source = f"hdf5:{frames}"
    assert said("run", "pilatus", "--source", source, "--output", out, "--roi", "a=2,3,4,5")[0] == 0
    with h5py.File(frames) as raw, h5py.File(out) as file:
        data = raw["data"][()]
        np.testing.assert_array_equal(file["entry/accumulated/sum"][()], data.sum(axis=0))
        means = data[:, 3:8, 2:6].mean(axis=(1, 2))
        np.testing.assert_allclose(file["entry/rois/a/mean"][()], means, rtol=1e-12)


def test_parameters_come_from_the_file_and_then_from_the_line(
    said: Said, toy: None, frames: Path, tmp_path: Path
) -> None:
    params, out = tmp_path / "toy.yaml", tmp_path / "out.h5"
    params.write_text("gain: 5\n", encoding="utf-8")
    arguments = ["run", "toy", "--source", f"hdf5:{frames}", "--output", out, "--params", params]
    assert said(*arguments)[0] == 0
    with h5py.File(frames) as raw, h5py.File(out) as file:
        first = float(raw["data"][0].sum())
        assert file["entry/toy/total"][0] == 5 * first
    assert said(*arguments, "--force", "--param", "gain=3")[0] == 0
    with h5py.File(out) as file:
        assert file["entry/toy/total"][0] == 3 * first


def test_any_number_of_workers_gives_the_same(said: Said, frames: Path, tmp_path: Path) -> None:
    sums = []
    for workers in (1, 4):
        out = tmp_path / f"{workers}.h5"
        source = f"hdf5:{frames}"
        said("run", "pilatus", "--source", source, "--output", out, "--workers", workers)
        with h5py.File(out) as file:
            sums.append(file["entry/accumulated/sum"][()])
    np.testing.assert_array_equal(*sums)


def test_frames_in_the_source_of_positions_are_not_counted_again(
    said: Said, toy: None, frames: Path, tmp_path: Path
) -> None:
    url, out = f"hdf5:{frames}", tmp_path / "out.h5"
    err = said("run", "toy", "--source", url, "--positions", url, "--output", out)[2]
    assert "12 frames received = 12 reduced" in err


def test_nothing_usable_is_a_failure_that_says_why(said: Said, toy: None, tmp_path: Path) -> None:
    damaged, out = tmp_path / "damaged.cbors", tmp_path / "out.h5"
    # one record of dranspose (tags 55799 and 42877), with a stream that is none
    damaged.write_bytes(bytes.fromhex("d9d9f7d9a77d8200a161782a"))
    status, _, err = said("run", "toy", "--source", f"recording:{damaged}", "--output", out)
    assert status == 1
    assert "0 reduced" in err
    assert "nothing was written" in err
    assert not out.exists()


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["describe", "nosuch"], "unknown stage 'nosuch'; known are"),
        (["describe", "toy", "--json", "--yaml"], "not both"),
        (["run", "toy", "--source", "hdf5:x"], "Missing option '--output'"),
        (["run", "nosuch", "--source", "S", "--output", "O"], "unknown stage 'nosuch'"),
        (["run", "toy", "--source", "hdf5:none.h5", "--output", "O"], "there is no file none.h5"),
        (["run", "toy", "--source", "ftp://x", "--output", "O"], "begins with none of"),
        (["run", "toy", "--source", "S", "--output", "no/folder.h5"], "folder no does not exist"),
        (["run", "toy", "--source", "S", "--output", "O", "--workers", "0"], "--workers"),
        (["run", "toy", "--source", "S", "--output", "O", "--param", "gain"], "name=value"),
        (["run", "toy", "--source", "S", "--output", "O", "--param", "gian=1"], "known are gain"),
        (["run", "toy", "--source", "S", "--output", "O", "--param", "gain=-1"], "got -1"),
        (["run", "toy", "--source", "S", "--output", "O", "--params", "no.yaml"], "no.yaml"),
        (["run", "toy", "--source", "S", "--output", "O", "--roi", "a=1,2,3,4"], "has no ROIs"),
        (["run", "pilatus", "--source", "S", "--output", "O", "--roi", "a=1,2"], "NAME=x,y"),
        (["view", "none.h5", "--png", "O"], "does not exist"),
        (["recover", "none.h5"], "does not exist"),
        (["up", "nosuch"], "there is no set-up nosuch"),
        (["demo", "--data", "none"], "none does not hold"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    said: Said, toy: None, arguments: list[str], part: str
) -> None:
    assert part in refusal(said, *arguments)


def test_an_existing_file_is_not_overwritten_unasked(
    said: Said, toy: None, frames: Path, tmp_path: Path
) -> None:
    out = tmp_path / "precious.h5"
    out.write_text("precious", encoding="utf-8")
    sentence = refusal(said, "run", "toy", "--source", f"hdf5:{frames}", "--output", out)
    assert "--force overwrites it" in sentence


# --------------------------------------------------------------- view, recover


def test_a_written_file_is_drawn_and_needs_no_recovery(
    said: Said, frames: Path, tmp_path: Path
) -> None:
    out, png = tmp_path / "out.h5", tmp_path / "out.png"
    said("run", "pilatus", "--source", f"hdf5:{frames}", "--output", out)
    assert said("view", out, "--png", png)[:2] == (0, f"{png}\n")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert said("recover", out)[:2] == (0, f"{out} needs no recovery\n")


def test_what_is_no_file_of_ours_is_refused(said: Said, tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("text", encoding="utf-8")
    for arguments in (["view", text, "--png", tmp_path / "x.png"], ["recover", text]):
        assert str(text) in refusal(said, *arguments)
