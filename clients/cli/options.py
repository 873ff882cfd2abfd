"""Options that several commands share, with the names that pyFAI's programs gave them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ... import __version__
from ...core.azimuthal.errors import ErrorModel
from ...core.azimuthal.units import Unit
from ...core.compute.device import Compute

SETUP, COMPUTE, TALK = "Experimental setup", "Where it is computed", "What is said"
UNITS = tuple(unit.value for unit in Unit)
ERROR_MODELS = tuple(str(model) for model in ErrorModel if model is not ErrorModel.NONE)
WORKERS = min(len(os.sched_getaffinity(0)), 8)
"""By default; more than eight gained nothing on 16 cores (docs/explanation/speed.md)."""
DEVICE_TYPES = ("all", "cpu", "gpu", "acc")


def optional(panel: str, *names: str, **told: Any) -> Any:
    """Return an option of a panel of the help, without a default to show."""
    return typer.Option(*names, show_default=False, rich_help_panel=panel, **told)


def choice(panel: str, *words: str, **told: Any) -> Any:
    """Return an option of a panel of the help; after TAB the shell offers these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return typer.Option(autocompletion=complete, rich_help_panel=panel, **told)


def show_version(wanted: bool) -> None:
    """Say the version, if that is wanted, and end."""
    if wanted:
        typer.echo(f"ronda {__version__}")
        raise typer.Exit


Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Files with images (HDF5, CBF, EDF, TIFF...), FILE.h5::/dataset, or patterns in "
        'quotes: "scan_*.cbf". Each file is read once, in the order of the numbers in the names.',
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]
Poni = Annotated[
    Path | None,
    optional(
        SETUP,
        "-p",
        "--poni",
        metavar="FILE",
        help="Where the detector stands, as pyFAI writes it. Needed.",
    ),
]
Mask = Annotated[
    str | None,
    optional(
        SETUP,
        "-m",
        "--mask",
        metavar="FILE",
        help="Image, or FILE.h5::/dataset, whose nonzero pixels are left out, in place of the "
        "detector's gaps.",
    ),
]
DetectorMarks = Annotated[
    bool,
    typer.Option(
        "--detector-marks/--no-detector-marks",
        help="Leave out the values with which detectors mark pixels: -1 and -2 of signed pixels, "
        "and the top value of the pixel type. Off for frames whose background is subtracted, "
        "where -1 and -2 are counts.",
        rich_help_panel=SETUP,
    ),
]
Dummy = Annotated[
    float | None,
    optional(SETUP, help="Value of pixels that are left out in the frame that has it."),
]
DeltaDummy = Annotated[
    float | None,
    optional(SETUP, min=0.0, help="How near to --dummy pixels are left out."),
]
Polarization = Annotated[
    float | None,
    optional(
        SETUP,
        "-P",
        "--polarization",
        min=-1.0,
        max=1.0,
        help="Polarisation factor of the beam, -1 to 1; 0.99 is a good guess. By default no "
        "correction.",
    ),
]
Device = Annotated[
    tuple[int, int] | None,
    optional(
        COMPUTE,
        metavar="PLATFORM DEVICE",
        help="OpenCL platform and device by number; [bold]clinfo[/bold] lists them. "
        "By default Numba computes on the CPU.",
    ),
]
DeviceType = Annotated[
    str,
    choice(
        COMPUTE,
        *DEVICE_TYPES,
        help="[bold]gpu[/bold] or [bold]acc[/bold]: the first OpenCL device of that kind; "
        "[bold]cpu[/bold] or [bold]all[/bold]: the CPU, by Numba, which needs no OpenCL. "
        "With --device only that device, which must be of this kind.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=1,
        max=256,
        help="Frames that are worked on at the same time; changes the speed, not the result.",
        show_default="one for each core, 8 at most",
        rich_help_panel=COMPUTE,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Say something of each frame.", rich_help_panel=TALK),
]
Debug = Annotated[bool, typer.Option("--debug", help="Say everything.", rich_help_panel=TALK)]
Profile = Annotated[
    bool,
    typer.Option("--profile", help="Say at the end what took how long.", rich_help_panel=TALK),
]
Version = Annotated[
    bool,
    typer.Option(
        "-V",
        "--version",
        help="Say the version.",
        callback=show_version,
        is_eager=True,
        rich_help_panel=TALK,
    ),
]


def experiment(
    poni: Path | None,
    mask: str | None,
    dummy: float | None,
    delta_dummy: float | None,
    polarization: float | None,
    detector_marks: bool,
) -> dict[str, Any]:
    """Return the parameters that these options stand for.

    Raises
    ------
    ValueError
        If there is no PONI file.
    """
    if poni is None:
        raise ValueError("no PONI file: say where the detector stands with -p FILE.poni")
    return {
        "poni_file": str(poni),
        "mask_file": mask or "",
        "dummy": dummy,
        "delta_dummy": delta_dummy or 0.0,
        "polarization": polarization,
        "detector_marks": detector_marks,
    }


def compute(
    device: tuple[int, int] | None,
    device_type: str,
    workgroup: int | None = None,
    profile: bool = False,
) -> Compute:
    """Return where these options have it computed; what is not there is told of at once.

    Raises
    ------
    ValueError
        In one sentence, if there is no such device.
    """
    kind = device_type.lower()
    if kind not in DEVICE_TYPES:
        raise ValueError(f"--device-type {device_type!r} is none of {', '.join(DEVICE_TYPES)}")
    if device is None and kind in ("all", "cpu"):
        return Compute()
    chosen = Compute(
        opencl=True,
        kind="" if kind == "all" else kind,
        number=device,
        workgroup=workgroup,
        profile=profile,
    )
    chosen.device()
    return chosen


def verbosity(verbose: bool, debug: bool) -> int:
    """Return the level of the log that is shown."""
    return logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
