"""What pip installs is complete, and puts nothing but `ronda` among the packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("clients", "config", "core", "devices", "systemd")
"""Folders of the root that are parts of the package `ronda`."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def files_of_the_package() -> set[str]:
    """Return what must be installed, as paths below the package."""
    found = {"__init__.py", "py.typed"}
    for folder in PACKAGES:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(ROOT).as_posix())
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tree, so that the tree stays clean."""
    work = tmp_path_factory.mktemp("wheel")
    hidden = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "demo-*")
    shutil.copytree(ROOT, work / "source", ignore=hidden)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run(
        [*build, work / "wheels", work / "source"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (work / "wheels").glob("*.whl")
    return built


def test_every_package_of_the_tree_is_declared() -> None:
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/**/__init__.py")}
    packages = {".".join(("ronda", *f.parts)) for f in folders if f.parts[0] in PACKAGES}
    assert sorted({"ronda", *packages}) == PROJECT["tool"]["setuptools"]["packages"]


def test_every_module_and_data_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = {name for name in files_of_the_package() if f"ronda/{name}" not in names}
    assert not missing


def test_nothing_but_ronda_lands_at_the_top_level(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ronda"}


def test_tests_and_docs_are_not_installed(wheel: Path) -> None:
    seconds = {name.split("/")[1] for name in zipfile.ZipFile(wheel).namelist() if "/" in name}
    assert not seconds & {"tests", "docs", "demo-output"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a clean environment that sees our libraries, but not our tree."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install"]
    done = subprocess.run([*pip, "--no-deps", "--no-index", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def test_the_installed_package_imports_away_from_the_tree(installed: Path, tmp_path: Path) -> None:
    code = "import ronda.core.runner, ronda.devices, ronda.clients; print(ronda.__file__)"
    done = subprocess.run(
        [installed / "bin" / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_every_console_script_is_there_and_finds_its_function(installed: Path) -> None:
    for name, target in PROJECT["project"]["scripts"].items():
        assert (installed / "bin" / name).is_file()
        module, _, function = target.partition(":")
        code = f"import {module} as m; assert callable(m.{function})"
        done = subprocess.run(
            [installed / "bin" / "python", "-W", "error", "-c", code],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_the_installed_command_knows_its_version(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "bin" / "ronda", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    init = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert done.stdout.split()[1] in init
