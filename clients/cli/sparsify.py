"""`ronda sparsify-Bragg`: the options of pyFAI's program, done by the Bragg sparsifier."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.bragg.finders import PeakFinder
from . import options

ONLY_PEAKFINDER8 = {"min_snr", "min_pixels", "max_pixels", "local_background_radius"}
"""Settings that the search in patches does not have."""
BASENAME, SUFFIX = "{basename}", "_sparse.h5"
"""What stands for the first image's name in the output's; what follows it where none is given."""
FINDERS = tuple(finder.value for finder in PeakFinder)
MAIN, SETUP, CLIPPING, PEAKS, COMPUTE = (
    "Main arguments",
    "Experimental setup",
    "Sigma clipping",
    "Peak search",
    "Where it is computed",
)


def sparsify_bragg(
    images: options.Images,
    output: Annotated[
        Path | None,
        options.optional(
            MAIN,
            "-o",
            "--output",
            help="The HDF5 file to write; by default "
            f"[bold]{BASENAME}{SUFFIX}[/bold] in this folder. [bold]{BASENAME}[/bold] stands for "
            "the name of the first image.",
            dir_okay=False,
        ),
    ] = None,
    save_source: Annotated[
        bool,
        typer.Option(
            "--save-source",
            help="Keep the names of the files that were read, and links to them.",
            rich_help_panel=MAIN,
        ),
    ] = False,
    cxi: Annotated[
        Path | None,
        options.optional(
            MAIN,
            help="Write the peaks to this CXI file as well, for CrystFEL: with links to the "
            "images where these are stacks in HDF5, and its geometry beside (.geom).",
            dir_okay=False,
        ),
    ] = None,
    force: options.Force = False,
    beamline: Annotated[
        str,
        typer.Option("-b", "--beamline", help="Name of the instrument.", rich_help_panel=SETUP),
    ] = "beamline",
    poni: options.Poni = None,
    mask: options.Mask = None,
    dummy: options.Dummy = None,
    delta_dummy: options.DeltaDummy = None,
    detector_marks: options.DetectorMarks = True,
    radial_range: Annotated[
        tuple[float, float] | None,
        options.optional(
            SETUP,
            metavar="LOW HIGH",
            help="Radii that are looked at, in [bold]--unit[/bold] (not in pixels, and in m for "
            "r_m); by default all.",
        ),
    ] = None,
    polarization: options.Polarization = None,
    solidangle: Annotated[
        bool,
        typer.Option(
            "-A",
            "--solidangle",
            help="Correct for the solid angle of a pixel (matters if the detector is not mounted "
            "normally to the beam); by default not.",
            rich_help_panel=SETUP,
        ),
    ] = False,
    bins: Annotated[
        int, typer.Option(min=1, help="Rings of the background.", rich_help_panel=CLIPPING)
    ] = 800,
    unit: Annotated[
        str,
        options.choice(
            CLIPPING, *options.UNITS, help=f"Unit of the radius: {', '.join(options.UNITS)}."
        ),
    ] = "r_m",
    cycle: Annotated[
        int,
        typer.Option(min=0, help="Most cycles of sigma clipping.", rich_help_panel=CLIPPING),
    ] = 5,
    cutoff_clip: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Deviations from which on a pixel is clipped; never fewer than Chauvenet's "
            "criterion has for the ring, which 0 leaves alone to decide.",
            rich_help_panel=CLIPPING,
        ),
    ] = 0.0,
    cutoff_pick: Annotated[
        float,
        typer.Option(
            help="Deviations above the background from which on a pixel is kept.",
            rich_help_panel=CLIPPING,
        ),
    ] = 3.0,
    spot_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=15,
            help="Side of the squares that are kept whole where their pixels together stand out "
            "by --cutoff-pick: 3 keeps weak spots. Odd; 1: single pixels only.",
            rich_help_panel=CLIPPING,
        ),
    ] = 1,
    error_model: Annotated[
        str,
        options.choice(
            CLIPPING,
            *options.ERROR_MODELS,
            help="poisson (with the right threshold at low counts), poisson-classic (as pyFAI's "
            "poisson), azimuthal, hybrid, or the variance of a pixel of I counts as a formula: "
            "'5*I+8'.",
        ),
    ] = "poisson",
    noise: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Noise of a pixel in counts, added in quadrature to the background's deviation.",
            rich_help_panel=CLIPPING,
        ),
    ] = 1.0,
    cutoff_peak: Annotated[
        float | None,
        options.optional(
            PEAKS, help="Look for peaks: deviations that their highest pixel has at least."
        ),
    ] = None,
    peak_patch_size: Annotated[
        int, typer.Option(help="Side of the patch of a peak in pixels.", rich_help_panel=PEAKS)
    ] = 3,
    peak_connected: Annotated[
        int,
        typer.Option(help="Pixels of a peak over their threshold.", rich_help_panel=PEAKS),
    ] = 2,
    peak_finder: Annotated[
        str | None,
        options.choice(
            PEAKS,
            *FINDERS,
            help="none, patch (pyFAI's, by default with --cutoff-peak) or peakfinder8 (Cheetah's).",
            show_default=False,
        ),
    ] = None,
    min_peaks: Annotated[
        int, typer.Option(min=0, help="Leave out frames with fewer peaks.", rich_help_panel=PEAKS)
    ] = 0,
    max_peaks: Annotated[
        int | None,
        options.optional(
            PEAKS,
            help="Peaks of a frame that the file has room for, up to 4096; of more, the most "
            "intense are written. By default 1024.",
        ),
    ] = None,
    min_snr: Annotated[
        float | None,
        options.optional(
            PEAKS,
            help="peakfinder8: least ratio of a peak's intensity to its error; by default 5.0.",
        ),
    ] = None,
    min_pixels: Annotated[
        int | None,
        options.optional(PEAKS, help="peakfinder8: least pixels of a peak; by default 2."),
    ] = None,
    max_pixels: Annotated[
        int | None,
        options.optional(PEAKS, help="peakfinder8: most pixels of a peak; by default 200."),
    ] = None,
    local_background_radius: Annotated[
        int | None,
        options.optional(
            PEAKS,
            help="peakfinder8: half the side, in pixels, of the square that the background is "
            "taken from; by default 3.",
        ),
    ] = None,
    peak_threshold: Annotated[
        float | None,
        options.optional(
            PEAKS,
            help="Least counts of a peak's pixel (the ADC threshold of peakfinder8); by default "
            "0.0.",
        ),
    ] = None,
    workgroup: Annotated[
        int | None,
        options.optional(
            COMPUTE,
            min=1,
            help="Work items of an OpenCL work group; changes the speed, not the result.",
        ),
    ] = None,
    device: options.Device = None,
    device_type: options.DeviceType = "all",
    workers: options.Workers = options.WORKERS,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    profile: options.Profile = False,
    _: options.Version = False,
) -> None:
    """Keep the Bragg peaks of single-crystal frames and the background's radial profile.

    Pixels that stand out of the background of their ring are kept as they are; the
    background is found by sigma clipping on rings. All frames of all images go into
    one file, which fabio's [bold]densify[/bold], [bold]ronda densify[/bold] and whatever
    reads pyFAI's files can read. Ctrl-C leaves a whole file with what was done.
    """
    finder = peak_finder or ("none" if cutoff_peak is None else "patch")
    search = {
        "cutoff_peak": cutoff_peak,
        "max_peaks": max_peaks,
        "peak_threshold": peak_threshold,
        "min_snr": min_snr,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "local_background_radius": local_background_radius,
        "min_peaks": min_peaks or None,
    }
    search = {name: value for name, value in search.items() if value is not None}
    _check_search(finder, search)
    changes: dict[str, Any] = {
        "unit": unit,
        "radial_range": list(radial_range or ()),
        "solid_angle": solidangle,
        "radial_bins": bins,
        "cycles": cycle,
        "cutoff_clip": cutoff_clip,
        "cutoff_pick": cutoff_pick,
        "spot_size": spot_size,
        "error_model": error_model,
        "noise": noise,
        "peak_finder": finder,
        "peak_patch_size": peak_patch_size,
        "peak_connected": peak_connected,
        "beamline": beamline,
        "save_source": save_source,
        **options.experiment(poni, mask, dummy, delta_dummy, polarization, detector_marks),
        **search,
    }
    from .sparsifying import Sparsification

    raise typer.Exit(
        Sparsification(
            images=images,
            output=output,
            changes=changes,
            compute=options.compute(device, device_type, workgroup, profile),
            workers=workers,
            force=force,
            cxi=cxi,
            verbosity=options.verbosity(verbose, debug),
            profile=profile,
        ).run()
    )


def _check_search(finder: str, asked: Collection[str]) -> None:
    """Refuse settings of a search for peaks that is not made.

    Raises
    ------
    ValueError
        In one sentence.
    """
    for name in asked:
        option = f"--{name.replace('_', '-')}"
        if finder == PeakFinder.NONE.value:
            cure = (
                "leave out --peak-finder none" if "cutoff_peak" in asked else "give --cutoff-peak"
            )
            raise ValueError(f"{option} is about peaks, and none are looked for: {cure}")
        if finder == PeakFinder.PATCH.value and name in ONLY_PEAKFINDER8:
            raise ValueError(f"{option} is of peakfinder8 only: give --peak-finder peakfinder8")
