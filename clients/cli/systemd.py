"""`ronda systemd`: the units that run Ronda's devices as services of this computer."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ... import systemd as shipped

SYSTEM_UNITS = Path("/etc/systemd/system")
ENVIRONMENT = Path("/etc/ronda/ronda.env")
DATABASE_UNIT = "ronda-database.service"
OWN_DATABASE = "127.0.0.1:10000"
EMBEDDED = "embedded"
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def systemd(
    config: Annotated[
        str,
        typer.Argument(
            metavar="[CONFIG]",
            help="Set-up whose servers run, in dsconfig's JSON form: a file, or one of ours.",
        ),
    ] = "femtomax",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the units; not given: they are only shown.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str, typer.Option(help="Who the services run as: may write where the data goes.")
    ] = "ronda",
    database: Annotated[
        str,
        typer.Option(
            metavar="DATABASE",
            envvar="TANGO_HOST",
            help="The Tango database: [bold]embedded[/bold], a service of its own; or "
            "[bold]HOST:PORT[/bold] of one that runs already.",
        ),
    ] = EMBEDDED,
) -> None:
    """Write systemd's units for this installation, and tell how to put them to use.

    [bold]ronda@.service[/bold] runs any server: ronda@PilatusAccumulator-femtomax is the
    server PilatusAccumulator/femtomax. [bold]ronda.target[/bold] is all of them together,
    [bold]ronda-database.service[/bold] the Tango database if it is ours, and
    [bold]ronda.env[/bold] what all of them get as environment.

    Nothing outside the folder is touched: the commands that follow are shown, not run.
    """
    from ...devices.registration import placeholders, read_config
    from .up import config_path

    path = config_path(config)
    servers = read_config(path, dict.fromkeys(placeholders(path), ""))
    units = render(Path(sys.executable).parent, user, database)
    if output is None:
        for name, text in units.items():
            typer.echo(f"# {ENVIRONMENT if name.endswith('.env') else SYSTEM_UNITS / name}\n{text}")
    else:
        _write(units, output)
    typer.echo("# What to do next, as root:")
    services = [unit_name(server.full_name) for server in servers]
    for line in _next_steps(units, output, user, path, services):
        typer.echo(line)


def render(programs: Path, user: str, database: str = EMBEDDED) -> dict[str, str]:
    """Return the files that systemd needs, by name.

    Parameters
    ----------
    programs
        Folder of Ronda's programs; ExecStart takes no variable.
    user
        Whom the services run as.
    database
        An existing Tango database, `host:port`, or `embedded`, which gets a unit.

    Raises
    ------
    ValueError
        If one of them cannot be written into a unit.
    """
    if not USER_NAME.fullmatch(user):
        raise ValueError(f"{user!r} is no name of a user: small letters, digits, - and _")
    from ...devices.database import is_tango_host

    ours = database == EMBEDDED
    if not ours and not is_tango_host(database):
        raise ValueError(f"{database!r} is no Tango database: give it as HOST:PORT, or embedded")
    values = {
        "@BIN@": escape(programs),
        "@USER@": user,
        "@TANGO_HOST@": OWN_DATABASE if ours else database,
        " @DATABASE_UNIT@": f" {DATABASE_UNIT}" if ours else "",
        " @LISTENS@": f" {DATABASE_UNIT} listens on just this address." if ours else "",
    }
    files = sorted(path for path in Path(*shipped.__path__).iterdir() if "ronda" in path.name)
    return {
        path.name: _replaced(path.read_text(encoding="utf-8"), values)
        for path in files
        if ours or path.name != DATABASE_UNIT
    }


def unit_name(server: str) -> str:
    """Return the unit of a server, `name/instance`; systemd writes a slash as a dash."""
    instance = server.replace("-", "\\x2d").replace("/", "-")
    return f"ronda@{instance}.service"


def escape(path: Path) -> str:
    """Return a path as a unit file spells it.

    Raises
    ------
    ValueError
        If systemd runs no program of such a path.
    """
    text = str(path)
    if not text.isprintable() or set(text) & set("\"'\\"):
        raise ValueError(f"systemd runs no program in {path}: install Ronda in another folder")
    return text.replace("%", "%%").replace(" ", "\\x20")


def _replaced(text: str, values: Mapping[str, str]) -> str:
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _write(units: Mapping[str, str], folder: Path) -> None:
    """Write the files, and tell of each whether it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in units.items():
        path = folder / name
        before = path.read_text(encoding="utf-8") if path.exists() else None
        path.write_text(text, encoding="utf-8")
        how = "new" if before is None else "as it was" if before == text else "changed"
        typer.echo(f"{path}: {how}")


def _next_steps(
    units: Mapping[str, str], output: Path | None, user: str, config: Path, services: list[str]
) -> Iterator[str]:
    """Yield the commands that put the units to use."""
    folder = output or Path("UNITS")
    if output is None:
        yield "# the same command with --output UNITS, which writes them. Then:"
    yield (
        f"id {user} || useradd --system --home-dir /var/lib/ronda --shell /usr/sbin/nologin {user}"
    )
    yield f"install -D --mode=644 {shlex.quote(str(folder / ENVIRONMENT.name))} {ENVIRONMENT}"
    if folder.resolve() != SYSTEM_UNITS:
        files = [shlex.quote(str(folder / name)) for name in units if not name.endswith(".env")]
        yield f"install --mode=644 --target-directory={SYSTEM_UNITS} {' '.join(files)}"
    yield "systemctl daemon-reload"
    yield "systemctl edit ronda@.service  # [Service] ReadWritePaths=/folder/of/the/data"
    if DATABASE_UNIT in units:
        yield f"systemctl enable --now {DATABASE_UNIT}"
    yield f"# Now register the devices of {config}, if the database does not know them. Then:"
    yield f"systemctl enable {' '.join(map(shlex.quote, services))}"
    yield "systemctl enable --now ronda.target"
    yield "systemctl list-dependencies ronda.target"
