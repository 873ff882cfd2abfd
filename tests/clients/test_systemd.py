"""The units that `ronda systemd` writes, as systemd itself judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ronda.clients.cli.main import main
from ronda.clients.cli.systemd import render, unit_name
from ronda.core.sinks.process import CLOSE_SECONDS
from ronda.devices.control import DRAIN_TIME
from ronda.devices.notify import CLOSING_TIME

PROGRAMS = Path(sys.executable).parent
OLDEST = 250
"""Version of systemd whose judgement is asked for."""
SERVICES = Path(__file__).parents[2] / "docs" / "how-to" / "services.md"


@pytest.fixture
def judge() -> str:
    """The program that knows what systemd thinks of a unit."""
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("there is no systemd-analyze here")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if int(said.stdout.split()[1]) < OLDEST:
        pytest.skip(f"this systemd is older than {OLDEST}")
    return program


def installed(folder: Path, programs: Path = PROGRAMS) -> list[Path]:
    """Write the units, and an instance of the template; return what can be judged."""
    for name, text in render(programs, "ronda").items():
        (folder / name).write_text(text)
    instance = folder / "ronda@PilatusAccumulator-femtomax.service"
    instance.symlink_to(folder / "ronda@.service")
    return [instance, folder / "ronda-database.service", folder / "ronda.target"]


def verdict(judge: str, units: list[Path]) -> str:
    """Return what systemd has to say against units."""
    said = subprocess.run([judge, "verify", *units], capture_output=True, text=True)
    return said.stdout + said.stderr


def setting(unit: str, name: str) -> str:
    """Return the value of a line of a unit."""
    [value] = re.findall(f"^{name}=(.*)$", rendered()[unit], re.MULTILINE)
    return str(value)


def rendered() -> dict[str, str]:
    """Return the files by name."""
    return render(PROGRAMS, "ronda")


def test_systemd_has_nothing_to_say_against_the_units(judge: str, tmp_path: Path) -> None:
    units = installed(tmp_path)
    assert verdict(judge, units) == ""
    units[0].unlink()
    text = (tmp_path / "ronda@.service").read_text()
    units[0].write_text(text.replace("WatchdogSec", "WatchDogSec"))
    assert "WatchDogSec" in verdict(judge, units)


def test_an_installation_may_lie_in_a_folder_of_any_name(judge: str, tmp_path: Path) -> None:
    folder = tmp_path / "50%h of it, $HOME and ü"
    folder.symlink_to(PROGRAMS)
    units = installed(tmp_path, folder)
    assert verdict(judge, units) == ""
    folder.unlink()
    assert "is not executable" in verdict(judge, units)
    with pytest.raises(ValueError, match="systemd runs no program in"):
        render(tmp_path / "it's mine", "ronda")


def test_the_hardening_is_what_the_docs_say(judge: str, tmp_path: Path) -> None:
    page = " ".join(SERVICES.read_text(encoding="utf-8").split())
    [told] = re.findall(
        r"of systemd (\d+) gives `ronda@\.service` an exposure of ([\d.]+) and "
        r"`ronda-database\.service` one of ([\d.]+),",
        page,
    )
    version = subprocess.run([judge, "--version"], capture_output=True, text=True, check=True)
    if version.stdout.split()[1] != told[0]:
        pytest.skip(f"the docs tell the figures of systemd {told[0]}")
    for unit, figure in zip(installed(tmp_path)[:2], told[1:], strict=True):
        said = subprocess.run(
            [judge, "security", "--offline=true", unit], capture_output=True, text=True, check=True
        )
        assert re.findall(r"Overall exposure level for \S+: ([\d.]+) ", said.stdout) == [figure]


def test_the_hardening_hides_who_changed_what() -> None:
    names = {line.partition("=")[0] for line in rendered()["ronda@.service"].splitlines()}
    assert not names & {"ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs"}


def test_systemd_waits_longer_than_files_take_to_close() -> None:
    stop = float(setting("ronda@.service", "TimeoutStopSec"))
    assert stop > DRAIN_TIME + CLOSE_SECONDS
    assert stop >= CLOSING_TIME > DRAIN_TIME + CLOSE_SECONDS


def test_the_reduction_outlives_the_database_and_what_it_computes_with_is_not_taken_away() -> None:
    lines = rendered()["ronda@.service"].splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"Requires", "BindsTo", "PrivateDevices", "MemoryDenyWriteExecute"}
    assert "ronda-database.service" in setting("ronda@.service", "After")
    assert "ronda-database.service" in setting("ronda@.service", "Wants")


def test_without_a_folder_units_are_only_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["systemd", "--database", "embedded"]) == 0
    said = capsys.readouterr().out
    assert f"ExecStart={PROGRAMS}/ronda serve %I" in said
    assert "# /etc/systemd/system/ronda.target" in said
    assert "# /etc/ronda/ronda.env" in said
    assert not list(tmp_path.iterdir())


def test_every_server_of_a_set_up_is_enabled_and_nothing_is_left_to_fill_in(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["systemd", "femtomax", "--output", str(tmp_path / "units"), "--database", "embedded"]
    assert main(command) == 0
    said = capsys.readouterr().out
    enabled = re.findall(r"ronda@([A-Z][A-Za-z]+-[a-z]+)\.service", said)
    assert {"PilatusAccumulator-femtomax", "DetectorSimulator-balor"} < set(enabled)
    assert len(enabled) == 6
    assert "systemctl enable --now ronda-database.service" in said
    assert said.count(": new") == 4
    for path in (tmp_path / "units").iterdir():
        assert not re.search("@[A-Z_]+@", path.read_text())
    (tmp_path / "units" / "ronda.env").write_text("TANGO_HOST=mine:1\n")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count(": as it was") == 3 and "ronda.env: changed" in said


def test_an_existing_database_gets_no_service_of_ours(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "units"
    assert main(["systemd", "--output", str(folder), "--database", "control-1:10000"]) == 0
    assert not (folder / "ronda-database.service").exists()
    assert "ronda-database" not in capsys.readouterr().out
    for path in folder.iterdir():
        assert "ronda-database" not in path.read_text()
    for name in ("ronda.env", "ronda@.service"):
        [host] = re.findall(r"TANGO_HOST=(\S*)", (folder / name).read_text())
        assert host == "control-1:10000"


def test_several_databases_of_a_facility_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systemd", "--database", "control-1:10000,control-2:10000"]) == 0
    said = capsys.readouterr().out
    assert said.count("TANGO_HOST=control-1:10000,control-2:10000\n") == 2


@pytest.mark.parametrize("server", ["PilatusAccumulator/femto-max", "A_b/x.y", "A/1", "A/b--c"])
def test_systemd_makes_another_server_of_a_unit(server: str) -> None:
    program = shutil.which("systemd-escape")
    if not program:
        pytest.skip("there is no systemd-escape here")

    def said(*given: str) -> str:
        done = subprocess.run([program, *given], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    unit = unit_name(server)
    assert unit == said("--template=ronda@.service", server)
    assert said("--unescape", "--instance", unit) == server


def test_a_shell_takes_the_escape_out_of_a_units_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"servers": {"A": {"b-c": {}}}}')
    assert main(["systemd", str(config), "--database", "embedded"]) == 0
    assert r"systemctl enable 'ronda@A-b\x2dc.service'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--user", "a\nExecStartPre=/bin/x"], "is no name of a user"),
        (["--database", "nowhere"], "'nowhere' is no Tango database: give it as HOST:PORT"),
        (["--database", "h:99999"], "'h:99999' is no Tango database"),
        (["--database", "h:1,\nExecStart=/x:1"], "is no Tango database"),
        (["nonsense"], "there is no set-up nonsense"),
    ],
)
def test_what_does_not_fit_into_a_unit_is_refused(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TANGO_HOST", raising=False)
    assert main(["systemd", *given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "server", ["PilatusAccumulator", "../../bin/sh", "A/b c", "/x", "A/", "A/..", "A/-x", "A/b/c"]
)
def test_what_is_no_server_is_not_run(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", server]) == 2
    assert f"{server!r} is no server" in capsys.readouterr().err
