"""`ronda status`: how each hop of the way from detector to file is, and what to do next."""

from __future__ import annotations

import json as json_text
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from ..hops import Hop

INTERVAL = 3.0
"""Seconds between two looks."""
STYLES = {"ok": "green", "look": "yellow", "wrong": "bold red"}


def status(
    tango_host: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar="TANGO_HOST",
            help="The Tango database; not given: that of [bold]ronda up[/bold] in the directory.",
            show_default=False,
        ),
    ] = "",
    directory: Annotated[
        Path, typer.Option(help="The directory that [bold]ronda up[/bold] was given.")
    ] = Path("ronda-state"),
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 3 s, until Ctrl-C.")
    ] = False,
) -> None:
    """Tell how the detectors, streams, devices and files are, a line each, and what to do.

    It begins with ok, look or wrong; below it stands the next thing to do.
    The time is that since the last message, or since the file was written.

    Exit status: 0 all is well, 1 it is not, 2 the database cannot be asked.
    """
    if json and watch:
        raise typer.BadParameter("give --json or --watch, not both")
    host = tango_host or _host_of(directory)
    if watch:
        _watch(host)
    else:
        raise typer.Exit(_tell_once(host, json))


def _host_of(directory: Path) -> str:
    """Return the database of a `ronda up` that runs.

    Raises
    ------
    OSError
        If none runs in this directory.
    """
    from .up import TANGO_HOST_FILE

    file = directory / TANGO_HOST_FILE
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        raise FileNotFoundError(
            f"no database to ask: no ronda up runs in {directory} (there is no {file}); start it, "
            "or name one with --directory, --tango-host or TANGO_HOST"
        ) from None


def _tell_once(host: str, json: bool) -> int:
    from .console import stdout

    chains = _look(host)
    if json:
        sys.stdout.write(json_text.dumps(_plain(host, chains), indent=2, ensure_ascii=False) + "\n")
    else:
        stdout().print(_page(host, chains), soft_wrap=True)
    return _exit_status(chains)


def _watch(host: str) -> None:
    from rich.text import Text

    from ..answers import DatabaseError
    from .console import stdout

    console = stdout()
    if not console.is_terminal:
        raise typer.BadParameter("--watch needs a terminal; for programs there is --json")
    while True:
        try:
            page = _page(host, _look(host))
        except DatabaseError as error:
            page = Text(f"wrong  {error}", STYLES["wrong"])
        console.clear()
        console.print(page)
        console.print(time.strftime("%H:%M:%S, Ctrl-C ends"), style="dim")
        time.sleep(INTERVAL)


def _look(host: str) -> list[list[Hop]]:
    from ..answers import ask_all
    from ..hops import hops

    return list(hops(ask_all(host)))


def _exit_status(chains: Sequence[Sequence[Hop]]) -> int:
    """Return 0 if all is well; nothing to look at is not well."""
    well = all(hop.mark.value == "ok" for chain in chains for hop in chain)
    return 0 if chains and well else 1


def _plain(host: str, chains: Sequence[Sequence[Hop]]) -> dict[str, object]:
    """Return what is told, as plain values for JSON."""
    lists = [
        [
            {name: getattr(hop, name) for name in hop.__slots__} | {"mark": hop.mark.value}
            for hop in chain
        ]
        for chain in chains
    ]
    return {"tango_host": host, "status": _exit_status(chains), "chains": lists}


def _page(host: str, chains: Sequence[Sequence[Hop]]) -> Text:
    """Return all lines, a blank one between two detectors."""
    from rich.text import Text

    if not chains:
        return Text(
            f"look   no device of Ronda is registered at {host}: ronda up or json2tango does it",
            STYLES["look"],
        )
    width = max(len(_place(hop)) for chain in chains for hop in chain)
    blocks = [Text("\n").join(_line(hop, width) for hop in chain) for chain in chains]
    return Text("\n\n").join(blocks)


def _place(hop: Hop) -> str:
    return f"{'  ' * hop.depth}{hop.hop:8}  {hop.name}"


def _line(hop: Hop, width: int) -> Text:
    """Return the line of a hop, and below it what to do."""
    from rich.text import Text

    from ..hops import duration

    style = STYLES[hop.mark.value]
    age = "" if hop.age is None else duration(hop.age)
    line = Text().append(f"{hop.mark.value:5}", style)
    line.append(f"  {_place(hop):{width}}  {age:>8}  {hop.says}")
    if hop.next_step:
        indent = " " * (7 + 2 * hop.depth + 10)
        line.append(f"\n{indent}-> {hop.next_step}", style)
    return line
