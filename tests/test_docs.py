"""The documentation is true: its commands exist, its links resolve, its code runs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from ronda.clients.cli import reference
from ronda.clients.cli.main import app, main
from ronda.clients.cli.powder import write_powder
from ronda.core.sources.files import SOURCE_FILES
from ronda.core.stage import registry
from ronda.devices.base import StageDevice
from ronda.devices.registration import read_config
from ronda.tests.core.bragg.crystal import make_crystal, write_sparse
from ronda.tests.image_files import write_image

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL)


def tracked_files() -> list[Path]:
    """Return the files of the project, those not yet added included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git clone: nobody knows which files are the project's")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


# ---------------------------------------------------------------- commands, links


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test", "bench", "soak", "lint"} <= targets
    assert named
    assert named <= targets


def test_every_ronda_command_that_is_named_exists() -> None:
    commands = {each.name or each.callback.__name__ for each in app.registered_commands}
    named = {
        command
        for page in PAGES
        for command in re.findall(
            r"(?:^|`|/)ronda ([a-z]+(?:[_-][A-Za-z]+)?)", page.read_text(), re.MULTILINE
        )
    }
    assert named == commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    assert "make test" in code_blocks("README.md", "sh")[0]
    assert "exec make test" in text_of(".ci/run")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_stage_is_in_the_readme() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| `(\w+)` \| (.*) \|$", text_of("README.md"), re.MULTILINE)
    scripts = text_of("pyproject.toml")
    for stage, device, what in rows:
        exists = "*planned*" not in what
        assert exists == (stage in registry.stages)
        assert exists == (f"\n{device} = " in scripts)
    assert set(registry.stages) <= {stage for stage, _, _ in rows}


# --------------------------------------------------------------------- generated


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_the_reference_is_what_the_code_declares(name: str) -> None:
    assert text_of(f"docs/reference/{name}") == reference.PAGES[name](), "run `make docs`"


# ------------------------------------------------------------------------ tutorial


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walk through the tutorial's commands in a folder of their own."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_powder(folder / "powder.cbors.gz")
    lines = "".join(code_blocks("docs/tutorial/first-steps.md", "sh")).splitlines()
    commands = [line for line in lines if line.startswith("ronda ") and "demo" not in line]
    assert len(commands) >= 6
    for command in commands:
        line, _, target = command.partition(" > ")
        said = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(said):
            assert main(shlex.split(line)[1:]) == 0, command
        if target:
            (folder / target).write_text(said.getvalue(), encoding="utf-8")
    return folder


def test_the_tutorial_leads_to_a_file_and_a_picture(walked: Path) -> None:
    assert (walked / "powder.png").read_bytes().startswith(b"\x89PNG")
    with h5py.File(walked / "powder.h5") as file:
        steps = file["entry/rois/ring/steps"]
        np.testing.assert_allclose(steps["x"], [1.0, 1.25, 1.5, 1.75, 2.0])
        assert np.argmax(steps["mean"]) == 2


def test_the_tutorial_s_python_runs(walked: Path) -> None:
    (code,) = code_blocks("docs/tutorial/first-steps.md", "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=walked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "30 frames" in done.stdout


def test_every_path_of_the_file_reference_is_in_a_file(walked: Path) -> None:
    paths = re.findall(r"^\| `(/entry/\S+)` \|", text_of("docs/reference/files.md"), re.MULTILINE)
    assert len(paths) > 20
    frames = "simulated:balor?frames=2&rows=64&columns=64"
    dark = f"dark_file={frames}&dark=yes"
    there: set[str] = set()
    for photons, output in ((5, "sparse.h5"), (500, "dense.h5")):
        source, target = f"{frames}&photons={photons}", str(walked / output)
        roi = "analysis_roi=0,0,64,64"
        line = ["balor", "--source", source, "--output", target, "--param", dark, "--param", roi]
        assert main(["run", *line]) == 0
        there |= paths_in(walked / output)
    there |= paths_in(walked / "powder.h5")
    assert [path for path in paths if path.replace("NAME", "ring") not in there] == []


def test_every_path_of_sparse_frames_and_maps_is_in_a_file(tmp_path: Path) -> None:
    page = text_of("docs/reference/files.md")
    paths = re.findall(r"^\| `/(entry_0000/\S+)` \|", page, re.MULTILINE)
    assert len(paths) > 25
    crystal = make_crystal(tmp_path, 4)
    raw = tmp_path / "raw.h5"
    with h5py.File(raw, "w") as file:
        file["data"] = np.array(crystal.frames)
    dark = write_image(tmp_path / "dark.edf", np.ones(crystal.frames[0].shape, np.float32))
    write_sparse(
        tmp_path / "sparse.h5",
        crystal.frames,
        metadata={SOURCE_FILES: [str(raw)]},
        **crystal.settings,
        dark_files=[str(dark)],
        solid_angle=True,
        peak_finder="patch",
        save_source=True,
    )
    scan = ["-t", "2", "-r", "2", "-c", "50", "--error-model", "poisson"]
    output = tmp_path / "map.h5"
    assert main(["diff_tomo", str(raw), "-p", crystal.poni, *scan, "-o", str(output)]) == 0
    cakes = tmp_path / "cakes.h5"
    wide = ("--azimuthal-bins", "4", "-o", str(cakes))
    assert main(["diff_tomo", str(raw), "-p", crystal.poni, *scan, *wide]) == 0
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(h5py.File(each)) for each in (tmp_path / "sparse.h5", output, cakes)
        ]
        missing = [path for path in paths if not any(f.get(path, getlink=True) for f in files)]
    assert missing == []


def paths_in(path: Path) -> set[str]:
    """Return the paths of all that is in a file."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visit(lambda name: found.append(f"/{name}"))
    return set(found)


def test_the_set_up_of_the_how_to_can_be_read(tmp_path: Path) -> None:
    (code,) = code_blocks("docs/how-to/real-detector.md", "json")
    config = tmp_path / "config.json"
    config.write_text(code, encoding="utf-8")
    (server,) = read_config(config, {})
    assert server.full_name == "PilatusAccumulator/mybeamline"
    assert "SourceUrl" in server.devices["mybeamline/reduction/pilatus"][1]


# -------------------------------------------------------------- a stage of one's own


@pytest.fixture
def bright(tmp_path: Path) -> Iterator[ModuleType]:
    """The stage of CONTRIBUTING, as a module."""
    code = code_blocks("CONTRIBUTING.md", "python")[0]
    assert len(code.splitlines()) <= 80
    path = tmp_path / "bright.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("bright", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bright"] = module
    spec.loader.exec_module(module)
    yield module
    del registry.stages["bright"], sys.modules["bright"]


def test_the_stage_of_contributing_shows_its_faces(
    bright: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.random.default_rng(0).integers(0, 500, (7, 5, 6), np.uint16)
    frames, out, params = (tmp_path / name for name in ("frames.h5", "bright.h5", "bright.yaml"))
    with h5py.File(frames, "w") as file:
        file["data"] = data
    assert main(["describe", "bright", "--json"]) == 0
    declared = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in declared["parameters"]] == ["least"]
    assert main(["describe", "bright", "--yaml"]) == 0
    params.write_text(capsys.readouterr().out, encoding="utf-8")
    run = ["run", "bright", "--source", f"hdf5:{frames}", "--output", str(out)]
    assert main([*run, "--params", str(params), "--param", "least=100"]) == 0
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["entry/brightest/value"], data.max(axis=(1, 2)))
        places = np.ravel_multi_index(
            (file["entry/brightest/row"][()], file["entry/brightest/column"][()]), (5, 6)
        )
        np.testing.assert_array_equal(places, data.reshape(7, -1).argmax(axis=1))
        assert file["entry/process/parameters/least"][()] == 100


def test_the_stage_of_contributing_is_a_device(bright: ModuleType) -> None:
    namespace = {"BrightStage": bright.BrightStage, "__name__": "bright"}
    exec(code_blocks("CONTRIBUTING.md", "python")[1], namespace)  # noqa: S102 (our own page)
    device = namespace["BrightFinder"]
    assert issubclass(device, StageDevice)
    assert {"least", "brightest_value", "bright_frames", "frames_received"} <= set(device.served)
    assert {"Clear", "Start"} <= set(device.TangoClassClass.cmd_list)


# ------------------------------------------------------------------------ the tree


def test_no_registry_and_no_machine_is_named_in_the_tree() -> None:
    hosts = ("py" + "pi.org", "python" + "hosted", "anaconda" + ".org", "conda" + "-forge.org")
    places = ("/" + "work/", "/" + "root/", "/home" + "/")
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        assert [word for word in (*hosts, *places) if word in text] == [], path


def test_pins_are_names_and_versions_only() -> None:
    lines = text_of("constraints.txt").splitlines()
    pin = re.compile(r"[A-Za-z0-9._-]+==[0-9][\w.+]*")
    assert [line for line in lines if not (line.startswith("#") or pin.fullmatch(line))] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    pins = {line.partition("==")[0].lower() for line in text_of("constraints.txt").splitlines()}
    names = {re.split(r"[<>=;\[ ]", requirement)[0].lower() for requirement in wanted}
    assert names <= pins


def test_every_test_that_the_page_on_faults_names_is_there() -> None:
    page, tests = text_of("docs/explanation/faults.md"), ROOT / "tests"
    written = "".join(path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
    functions, files = (re.findall(form, page) for form in (r"`(test_\w+)`", r"`(tests/\S+)`"))
    assert len(functions) >= 40
    assert [name for name in functions if f"def {name}(" not in written] == []
    assert [name for name in files if not (ROOT / name).is_file()] == []
