"""`ronda diff_tomo`: the options of pyFAI's program, done by the tomography integrator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

SCAN, RESULT, CORRECTIONS = "The scan", "The patterns", "Corrections"
OUTPUT = Path("diff_tomo.h5")


def diff_tomo(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Files with images, FILE.h5::/dataset, folders, or patterns in quotes: "
            '"scan_*.edf". Each file is read once, in the order of the numbers in the names.',
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The HDF5 file to write.", dir_okay=False)
    ] = OUTPUT,
    force: options.Force = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an output that was left unfinished: frames that it holds are not "
            "integrated again. It stays as it is until the new one is whole.",
        ),
    ] = False,
    prefix: Annotated[
        str,
        typer.Option(
            "-P",
            "--prefix",
            help="How the names of all files begin: in the folders given, or with no IMAGE the "
            "beginning of their paths.",
            show_default=False,
        ),
    ] = "",
    extension: Annotated[
        str,
        typer.Option(
            "-e",
            "--extension",
            help="Only files with this extension.",
            show_default=False,
        ),
    ] = "",
    n_translations: Annotated[
        int | None,
        options.optional(SCAN, "-t", "--nTrans", help="Positions in translation. Needed."),
    ] = None,
    n_rotations: Annotated[
        int | None, options.optional(SCAN, "-r", "--nRot", help="Positions in rotation. Needed.")
    ] = None,
    n_diffraction: Annotated[
        int | None,
        options.optional(SCAN, "-c", "--nDiff", help="Points of a powder pattern. Needed."),
    ] = None,
    offset: Annotated[
        int,
        typer.Option(
            "-O",
            "--offset",
            help="Frames at the beginning to leave out; negative: so many positions are not "
            "measured at the beginning.",
            rich_help_panel=SCAN,
        ),
    ] = 0,
    zigzag: Annotated[
        bool,
        typer.Option(
            "--zigzag", help="Every second line was measured backwards.", rich_help_panel=SCAN
        ),
    ] = False,
    fast: Annotated[
        str,
        options.choice(
            SCAN, "translation", "rotation", help="The fast axis: translation or rotation."
        ),
    ] = "translation",
    slow_axis: Annotated[
        str,
        options.choice(
            SCAN,
            "rotation",
            "translation",
            help="What -r counts: rotation, or translation (a plain map).",
        ),
    ] = "rotation",
    rotation_range: Annotated[
        tuple[float, float] | None,
        options.optional(
            SCAN,
            metavar="FIRST LAST",
            help="Of the rotation, in deg (of a plain map: in the unit of the translation).",
        ),
    ] = None,
    translation_range: Annotated[
        tuple[float, float] | None,
        options.optional(SCAN, metavar="FIRST LAST", help="Of the translation, in mm."),
    ] = None,
    positions: Annotated[
        str | None,
        options.optional(
            SCAN,
            metavar="URL",
            help="Take the places from motor positions: [bold]recording:FILE[/bold] of a Sardana "
            "stream.",
        ),
    ] = None,
    poni: options.Poni = None,
    mask: options.Mask = None,
    dark: Annotated[
        list[str] | None,
        options.optional(
            CORRECTIONS,
            "-d",
            "--dark",
            metavar="FILES",
            help="Dark images, all of each file or FILE.h5::/dataset, which are averaged and "
            "subtracted; with commas, patterns, or as often as wanted.",
        ),
    ] = None,
    flat: Annotated[
        list[str] | None,
        options.optional(
            CORRECTIONS,
            "-f",
            "--flat",
            metavar="FILES",
            help="Flat-field images, likewise, which frames are divided by.",
        ),
    ] = None,
    dummy: options.Dummy = None,
    delta_dummy: options.DeltaDummy = None,
    detector_marks: options.DetectorMarks = True,
    polarization: Annotated[
        float | None,
        options.optional(CORRECTIONS, min=-1.0, max=1.0, help="Polarisation factor of the beam."),
    ] = None,
    no_solidangle: Annotated[
        bool,
        typer.Option(
            "--no-solidangle",
            help="Do not correct for the solid angle of a pixel.",
            rich_help_panel=CORRECTIONS,
        ),
    ] = False,
    unit: Annotated[
        str,
        options.choice(
            RESULT, *options.UNITS, help=f"Unit of the radial axis: {', '.join(options.UNITS)}."
        ),
    ] = "2th_deg",
    radial_range: Annotated[
        tuple[float, float] | None,
        options.optional(
            RESULT, metavar="LOW HIGH", help="Of the patterns, in --unit; by default all."
        ),
    ] = None,
    azimuthal_bins: Annotated[
        int,
        typer.Option(
            min=0,
            help="Points around the beam, for patterns in two dimensions.",
            rich_help_panel=RESULT,
        ),
    ] = 0,
    split: Annotated[
        str,
        options.choice(
            RESULT,
            "bbox",
            "no",
            help="How a pixel is shared by the points that it touches: bbox or no.",
        ),
    ] = "bbox",
    error_model: Annotated[
        str,
        options.choice(
            RESULT,
            "none",
            *options.ERROR_MODELS,
            help="none, poisson, poisson-classic, azimuthal, hybrid or a formula as '5*I+8'.",
        ),
    ] = "none",
    roi: Annotated[
        list[str] | None,
        options.optional(
            RESULT,
            metavar="NAME=LOW,HIGH",
            help="A radial range whose sinogram is written too, as often as wanted.",
        ),
    ] = None,
    gpu: Annotated[
        bool,
        typer.Option(
            "-g",
            "--gpu",
            help="Compute on the first GPU that OpenCL has.",
            rich_help_panel=options.COMPUTE,
        ),
    ] = False,
    workers: options.Workers = options.WORKERS,
    stats: Annotated[
        bool,
        typer.Option(
            "-S",
            "--stats",
            help="At the end, draw how long frames took beside the output: NAME_stats.png.",
            rich_help_panel=options.TALK,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v",
            "--verbose",
            "--debug",
            help="Say what is done, and something of each frame; by default quiet.",
            rich_help_panel=options.TALK,
        ),
    ] = False,
    version: options.Version = False,
) -> None:
    """Integrate the frames of a diffraction tomography or map into one 3-D dataset.

    The file holds a powder pattern for each rotation and translation: PyMca's roitool
    and whatever reads NeXus can open it, also while it grows. Positions that were not
    measured hold NaN. Ctrl-C leaves a whole file with what was done.
    """
    for name, value in (("-t", n_translations), ("-r", n_rotations), ("-c", n_diffraction)):
        if value is None:
            raise ValueError(f"say with {name} how many positions or points there are")
    changes: dict[str, Any] = {
        "n_translations": n_translations,
        "n_rotations": n_rotations,
        "n_diffraction": n_diffraction,
        "offset": offset,
        "zigzag": zigzag,
        "fast_axis": fast,
        "slow_axis": slow_axis,
        "rotation_range": list(rotation_range or ()),
        "translation_range": list(translation_range or ()),
        "place_by": "motors" if positions else "frame number",
        "solid_angle": not no_solidangle,
        "unit": unit,
        "radial_range": list(radial_range or ()),
        "azimuthal_bins": azimuthal_bins,
        "split": split,
        "error_model": error_model,
        "radial_ranges": list(roi or ()),
        **options.experiment(poni, mask, dummy, delta_dummy, polarization, detector_marks),
    }
    from .tomography import Integration

    raise typer.Exit(
        Integration(
            images=tuple(images or ()),
            prefix=prefix,
            extension=extension,
            output=output,
            changes=changes,
            darks=tuple(dark or ()),
            flats=tuple(flat or ()),
            positions=positions,
            compute=options.compute(None, "gpu" if gpu else "all"),
            workers=workers,
            force=force,
            resume=resume,
            verbose=verbose,
            stats=stats,
        ).run()
    )
