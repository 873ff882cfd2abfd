"""The command `ronda`: what it offers, and what becomes of errors.

Commands import what they need when they run, so that `ronda --help` and shell
completion stay quick.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from . import completion, options
from .densify import densify
from .diff_tomo import diff_tomo
from .serve import serve
from .sparsify import sparsify_bragg
from .status import status
from .systemd import systemd

app = typer.Typer(
    name="ronda",
    help="Live reduction of X-ray detector frames, as Tango devices and offline.",
    epilog="Start with: ronda stages; ronda describe pilatus; ronda demo",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

SAME_WISH = 1.0
"""Seconds in which a second signal to end says nothing new."""

StageName = Annotated[
    str,
    typer.Argument(
        metavar="STAGE",
        help="Name of the stage, from [bold]ronda stages[/bold].",
        autocompletion=completion.stages,
    ),
]
ReducedFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A file that Ronda wrote.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; return the exit status.

    What a user can mend ends with one sentence on stderr and status 2, Ctrl-C with 130.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _end_in_order()
    try:
        status = app(args=given or ["--help"], prog_name="ronda", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(error.format_message())
    except typer.Abort:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (OSError, ValueError) as error:
        return _complain(str(error))
    return status if isinstance(status, int) else 0


def _end_in_order() -> None:
    """Have all that asks us to end do what Ctrl-C does: files are closed, programs stopped.

    Beside Ctrl-C, that is a batch system or systemd, and a terminal that is closed.
    What follows at once means no more than the first: the shell and the terminal both
    hang up, and half of an orderly end could be left out.
    """
    last = -SAME_WISH

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > SAME_WISH:
            last = now
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell that put us aside
            signal.signal(number, end)


def _complain(sentence: str) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        typer.echo(f"ronda: {' '.join(sentence.split())}", err=True)
    return 2


@app.callback()
def _ronda(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say the version.", callback=options.show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Live reduction of X-ray detector frames, as Tango devices and offline."""


@app.command(epilog="Example: ronda stages")
def stages() -> None:
    """List the stages: what can be done to frames."""
    from .describe import list_stages

    list_stages()


@app.command(epilog="Example: ronda describe pilatus --yaml > pilatus.yaml")
def describe(
    stage: StageName,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="As a parameter file with the defaults.")
    ] = False,
) -> None:
    """Tell what a stage takes and what comes out of it."""
    from .describe import describe_stage

    if json and yaml:
        raise typer.BadParameter("give --json or --yaml, not both")
    describe_stage(stage, "json" if json else "yaml" if yaml else "tables")


@app.command(
    epilog="Example: ronda run pilatus --source recording:scan.cbors.gz "
    "--positions recording:sardana.cbors --output scan.h5 --param photon_energy=13.5"
)
def run(
    stage: StageName,
    source: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where frames come from: [bold]recording:FILE[/bold], "
            "[bold]hdf5:FILE::/path[/bold], [bold]images:GLOB[/bold], "
            "[bold]simulated:balor[/bold], "
            "[bold]stins+tcp://HOST:PORT[/bold]...",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="The NeXus file to write.", show_default=False, dir_okay=False)
    ],
    positions: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where motor positions come from.", show_default=False),
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Parameters from a file.", show_default=False),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="One parameter, as often as wanted; stronger than the file's. A list of numbers "
            "has commas: q_rings=1.5,2.1; of a list of texts each is given by itself: "
            "radial_ranges=a=1,2 and again radial_ranges=b=3,4.",
            autocompletion=completion.assignments,
            show_default=False,
        ),
    ] = None,
    roi: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X,Y,W,H",
            help="A region of interest, as often as wanted; "
            "[bold];background=OTHER[/bold] names the one that is its background.",
            show_default=False,
        ),
    ] = None,
    workers: options.Workers = options.WORKERS,
    force: options.Force = False,
) -> None:
    """Reduce frames to a file with the very code that the Tango device runs.

    Ctrl-C ends it early; the file then holds what was done.
    """
    from .offline import Job, run_stage

    job = Job(
        stage,
        source,
        output,
        workers,
        positions,
        params,
        tuple(param or ()),
        tuple(roi or ()),
        force,
    )
    raise typer.Exit(run_stage(job))


@app.command(epilog="Example: ronda view scan.h5 --png scan.png")
def view(
    file: ReducedFile,
    png: Annotated[
        Path, typer.Option(metavar="OUT.png", help="The picture to write.", show_default=False)
    ],
) -> None:
    """Draw what a file holds: the image, the pattern, the ROIs."""
    from ..pictures import draw_file

    draw_file(file, png)
    typer.echo(png)


@app.command(epilog="Example: ronda recover scan.h5")
def recover(file: ReducedFile) -> None:
    """Make a file readable again whose writer was killed."""
    from ...core.sinks.recover import recover as recover_file

    typer.echo(recover_file(file))


@app.command(epilog="Example: ronda up femtomax --directory /var/lib/ronda")
def up(
    config: Annotated[
        str,
        typer.Argument(
            metavar="[CONFIG]", help="Set-up in dsconfig's JSON form: a file, or one of ours."
        ),
    ] = "femtomax",
    directory: Annotated[
        Path, typer.Option(help="Where the database, states and logs are kept.", file_okay=False)
    ] = Path("ronda-state"),
    database: Annotated[
        str,
        typer.Option(
            metavar="DATABASE",
            envvar="TANGO_HOST",
            help="The Tango database: [bold]embedded[/bold], in one file; [bold]mariadb[/bold], "
            "as Debian packages it; or [bold]HOST:PORT[/bold] of one that runs already. "
            "The first two are started here, and know at the next start what was registered.",
        ),
    ] = "embedded",
) -> None:
    """Start one process for each device, with a Tango database, until Ctrl-C.

    What ends by itself is started again. The file tango-host in the directory
    names the database while it runs.
    """
    from .up import keep_up

    raise typer.Exit(keep_up(config, directory, database))


app.command(epilog="Example: ronda densify scan_sparse.h5 --format eiger")(densify)
app.command(
    "sparsify-Bragg",
    epilog='Example: ronda sparsify-Bragg -p eiger.poni -o scan_sparse.h5 "scan_*.h5"',
)(sparsify_bragg)
app.command(
    "diff_tomo",
    epilog='Example: ronda diff_tomo -p pilatus.poni -t 100 -r 180 -c 1000 "scan_*.edf"',
)(diff_tomo)
app.command(epilog="Example: ronda status; ronda status --json")(status)
app.command(epilog="Example: ronda systemd femtomax --output units")(systemd)
app.command(epilog="Example: ronda serve PilatusAccumulator/femtomax")(serve)


@app.command(epilog="Example: ronda demo --directory demo-output")
def demo(
    directory: Annotated[Path, typer.Option(help="Where pictures and files go.")] = Path(
        "demo-output"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="RONDA_DEMO_DATA",
            help="Folder with lab6-pilatus.cbors.gz and lab6-sardana.cbors; "
            "by default ../shared/data beside the clone, if it is there.",
            show_default=False,
        ),
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Simulate a powder even where the recording is.")
    ] = False,
) -> None:
    """Play a Pilatus, a Zyla and a Balor into their devices and watch them for a minute.

    The Pilatus replays a LaB6 powder of FemtoMAX where that recording is; where it
    is not, one at the same geometry is simulated, as the other two are.
    """
    from .demo import run_demo

    raise typer.Exit(run_demo(directory, data, simulated))


if __name__ == "__main__":
    sys.exit(main())
