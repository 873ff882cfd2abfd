"""pyFAI's matrix, built once: which share of each pixel falls into which bin."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .experiment import Experiment, Floats
from .once import PYFAI
from .units import Unit

MAX_BINS = 1_000_000
"""Bins of a pattern, or of a cake in all."""
Range = tuple[float, float]


class Matrix(NamedTuple):
    """Shares of pixels in bins, sorted by bin. All have one length, but `centres`."""

    bin: NDArray[np.int64]
    """Number of the bin; in a cake the azimuth runs fastest."""
    pixel: NDArray[np.int32]
    """Number of the pixel, in C order."""
    share: NDArray[np.float32]
    """Share of the pixel that falls into the bin."""
    centres: Floats
    """Middle of each bin of the radial axis in its unit, (bins,)."""
    width: float
    """Of a bin of the radial axis in its unit."""
    azimuths: Floats
    """Middle of each bin of the azimuthal axis in deg; empty but for a cake."""


def build_matrix(
    experiment: Experiment,
    unit: Unit,
    bins: int | tuple[int, int],
    split: bool,
    radial_range: Range | None = None,
    azimuth_range: Range | None = None,
) -> Matrix:
    """Return the matrix as pyFAI builds it.

    Parameters
    ----------
    experiment
        The detector; what its mask leaves out is in no bin.
    unit
        Of the radial axis.
    bins
        Number of bins, or (radial, azimuthal) of a cake.
    split
        Share a pixel out over the bins by its bounding box; else all of it is where
        its centre is.
    radial_range, azimuth_range
        Least and greatest in `unit` and in deg; None: all that is on the detector.

    Raises
    ------
    ValueError
        In one sentence, if there can be no such bins.
    """
    experiment.check_unit(unit)
    _check_bins(bins)
    _check_range("radial_range", radial_range)
    _check_range("azimuth_range", azimuth_range)
    if experiment.mask.all():
        raise ValueError(_all_masked(experiment))
    cake = isinstance(bins, tuple)
    with PYFAI, _warning_of_nothing_unsaid():
        from pyFAI.units import to_unit

        integrator, sector, turned = experiment.integrator, None, 0.0
        if azimuth_range is not None:
            integrator, found = _for_sector(experiment, azimuth_range)
            sector = math.radians(found[0]), math.radians(found[1])
            turned = azimuth_range[0] - found[0]
        span = _in_si(radial_range, to_unit(unit.value).scale)
        built = integrator.setup_sparse_integrator(
            experiment.shape,
            bins,
            mask=experiment.mask.astype(np.int8),
            pos0_range=span,
            pos1_range=sector,
            unit=(unit.value, "chi_deg") if cake else unit.value,
            split="bbox" if split else "no",
            algo="CSR",
            scale=False,
        )
        keep = np.ones(experiment.mask.size, np.bool_)
        if not split:
            for quantity, limits in ((unit.value, span), ("chi_rad", sector)):
                keep &= _not_below(integrator, experiment, quantity, limits)
    scale = to_unit(unit.value).scale
    radial = built.bin_centers0 if cake else built.bin_centers
    centres = np.array(radial, np.float64) * scale
    place = np.repeat(np.arange(len(built.indptr) - 1), np.diff(built.indptr))
    kept = keep[built.indices]
    if not kept.any():
        raise ValueError(_nothing_there(experiment, unit, radial_range, azimuth_range))
    return Matrix(
        bin=place[kept],
        pixel=np.array(built.indices)[kept],
        share=np.array(built.data, np.float32)[kept],
        centres=centres,
        width=float(built.delta0 if cake else built.delta) * scale,
        azimuths=np.degrees(np.array(built.bin_centers1)) + turned if cake else np.empty(0),
    )


def _all_masked(experiment: Experiment) -> str:
    """Say what leaves out every pixel."""
    setup = experiment.setup
    images = {
        "mask": setup.mask_file,
        "dark": setup.dark_files,
        "flat": setup.flat_files,
        "absorption": setup.absorption_file,
    }
    what = " or ".join(name for name, files in images.items() if files) or "detector"
    return f"the {what} leaves out every pixel: there is nothing to integrate"


def _nothing_there(
    experiment: Experiment, unit: Unit, radial_range: Range | None, azimuth_range: Range | None
) -> str:
    """Say which ranges hold no pixel, and what there is."""
    used = ~experiment.mask
    radius, azimuth = experiment.radius(unit)[used], np.degrees(experiment.azimuth()[used])
    ranges = (
        (f"radial_range {radial_range} in {unit}", radial_range),
        (f"azimuth_range {azimuth_range} in deg", azimuth_range),
    )
    asked = " and ".join(text for text, limits in ranges if limits is not None)
    there = f"the detector has radii from {radius.min():.6g} to {radius.max():.6g} {unit.units}"
    if azimuth_range is not None:
        there += f" at azimuths from {azimuth.min():.6g} to {azimuth.max():.6g} deg"
    return f"no pixel lies in {asked}: {there}"


@contextmanager
def _warning_of_nothing_unsaid() -> Iterator[None]:
    """Keep pyFAI from logging that a matrix is empty, which is told of in a sentence here."""
    logger = logging.getLogger("pyFAI.ext.sparse_builder")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _for_sector(experiment: Experiment, sector: Range) -> tuple[Any, Range]:
    """Return an integrator whose azimuths do not jump within a sector, and the sector for it.

    The integrator is one of its own, as azimuths go from -180 to 180 deg or from 0
    to 360. The sector may be turned by 360 deg.
    """
    integrator = experiment.new_integrator()
    for least, adapt in ((-180, integrator.setChiDiscAtPi), (0, integrator.setChiDiscAtZero)):
        begin = (sector[0] - least) % 360 + least
        end = begin + (sector[1] - sector[0])
        if end <= least + 360:
            adapt()
            return integrator, (begin, end)
    raise ValueError(f"azimuth_range is {sector}; it cannot reach over both 0 and 180 deg")


def _not_below(
    integrator: Any, experiment: Experiment, quantity: str, limits: Range | None
) -> NDArray[np.bool_]:
    """Return which pixels do not lie below a range.

    Without splitting, pyFAI counts those up to a bin below it to the first bin.
    """
    if limits is None:
        return np.ones(experiment.mask.size, np.bool_)
    place = integrator.array_from_unit(experiment.shape, "center", quantity, scale=False)
    return np.asarray(place.ravel() >= limits[0])


def _in_si(limits: Range | None, scale: float) -> Range | None:
    """Return a range of radii in the units in which pyFAI calculates."""
    return None if limits is None else (limits[0] / scale, limits[1] / scale)


def _check_bins(bins: int | tuple[int, int]) -> None:
    numbers = bins if isinstance(bins, tuple) else (bins,)
    if min(numbers) < 1:
        raise ValueError(f"bins is {bins}; a pattern has at least one")
    if math.prod(numbers) > MAX_BINS:
        raise ValueError(f"bins is {bins}; a pattern has at most {MAX_BINS} in all")


def _check_range(name: str, limits: Range | None) -> None:
    if limits is not None and not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError(f"{name} is {limits}; it goes from a number to a greater one")
    if name == "azimuth_range" and limits is not None and limits[1] - limits[0] > 360:
        raise ValueError(f"{name} is {limits}; it is no more than 360 deg wide")
