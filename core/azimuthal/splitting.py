"""How pixels are shared out over bins, in a form that a pass over a frame reads fast.

By the bounding box, nearly all pixels of a detector lie in one bin, or two or three
neighbours. These take a bin and the shares of the next ones: 6 or 10 bytes
instead of the 8 for each share of a general matrix. Without splitting they take
the bin only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..marks import Pixels
from .deviations import add_rest_scatter, add_scatter
from .experiment import Experiment, read_only
from .limits import Limits
from .matrix import Matrix, Range, build_matrix
from .once import built_once
from .rings import index_type
from .summing import (
    LANES,
    Corrections,
    Floats,
    Index,
    Notes,
    Rest,
    Singles,
    add_rest,
    add_shared,
    add_whole,
    lose,
    new_notes,
    new_sums,
    total,
)
from .units import Unit

ROUNDING = 1e-6
"""How far the shares of a pixel that lies in the bins as a whole may be from 1 together."""
FEW = 0.02
"""Part of the pixels that may go to the rest because they lie in three bins."""
EMPTIED = 1e-9
"""A bin that kept no more of its pixels than this lost them all; the rest is rounding."""


class Split(Enum):
    """How pixels are shared out over bins."""

    NO = "no"
    """A pixel is where its centre is."""
    BBOX = "bbox"
    """A pixel covers the range of radii (and azimuths) that its corners span, evenly."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over bins, (bins,): of pixels, of pixels less dark, of the normalization..."""

    raw: Floats
    """The dark is still in it."""
    signal: Floats
    norm: Floats
    norm_squared: Floats
    count: Floats


class Splitting:
    """The bins of each pixel, and what is the same for all frames. Arrays are read-only.

    Parameters
    ----------
    experiment
        The detector and its corrections.
    matrix
        Shares of its pixels in the bins.
    bins
        Number of bins in all.
    """

    def __init__(self, experiment: Experiment, matrix: Matrix, bins: int) -> None:
        self.bins = bins
        self.pixels = experiment.mask.size
        self.bin: Index
        """Bin of each pixel, (pixels,); `bins` where it is left out or in the rest."""
        self.shares: Singles
        """Shares of each pixel in the next bin and the one after, (0 to 2, pixels)."""
        self.rest: Rest
        """Pixels that lie in more bins, or partly in none."""
        self._place(matrix)
        self.corrections = Corrections(
            _flat(experiment.dark, 0), _flat(experiment.normalization, 1)
        )
        self.norm, self.norm_squared, self.count, self.dark = self._constants()

    def _constants(self) -> list[Floats]:
        """Return the sums of normalization, of its square, of shares and of dark.

        They are taken from the shares as they are kept here, not from the matrix: what
        is lost with pixels that do not count is to leave nothing of an emptied bin.
        """
        sums = np.zeros((4, self.bins))
        for place, pixel, share in self._entries():
            dark, norm = (_taken(image, pixel) for image in self.corrections)
            for summed, weight in zip(
                sums, (share * norm, (share * norm) ** 2, share, share * dark), strict=True
            ):
                summed += np.bincount(place, weight, minlength=self.bins)
        return [read_only(summed) for summed in sums]

    def _entries(self) -> Iterator[tuple[NDArray[Any], NDArray[Any], Floats]]:
        """Yield bins, pixels and shares, as the passes over a frame take them."""
        pixel = np.flatnonzero(self.bin != self.bins)
        left = np.ones(pixel.size)
        for column, shares in enumerate(self.shares, start=1):
            share = shares[pixel].astype(np.float64)
            left -= share
            further = share > 0
            yield self.bin[pixel[further]].astype(np.int64) + column, pixel[further], share[further]
        yield self.bin[pixel], pixel, left
        yield self.rest.bin, self.rest.pixel, self.rest.share.astype(np.float64)

    def _place(self, matrix: Matrix) -> None:
        """Tell pixels in neighbouring bins from the rest."""
        order = np.lexsort((matrix.bin, matrix.pixel))
        pixel, place, share = (field[order] for field in (matrix.pixel, matrix.bin, matrix.share))
        begins = np.flatnonzero(np.diff(pixel, prepend=-1))
        entries = np.diff(begins, append=pixel.size)
        ends = begins + entries - 1
        whole = np.add.reduceat(share, begins, dtype=np.float64)
        compact = (np.abs(whole - 1) <= ROUNDING) & (place[ends] - place[begins] == entries - 1)
        columns = _columns(entries[compact])
        simple = compact & (entries <= columns + 1)
        bins = np.full(self.pixels, self.bins, index_type(self.bins))
        bins[pixel[begins[simple]]] = place[begins[simple]]
        self.bin = read_only(bins)
        shares = np.zeros((columns, self.pixels), np.float32)
        for column in range(columns):
            reaching = begins[simple & (entries > column + 1)] + column + 1
            shares[column, pixel[reaching]] = share[reaching]
        self.shares = read_only(shares)
        others = np.repeat(~simple, entries)
        self.rest = Rest(
            read_only(pixel[others].astype(np.uint32)),
            read_only(place[others].astype(np.uint32)),
            read_only(share[others]),
        )

    @property
    def split(self) -> bool:
        """True if any pixel lies in more than one bin, or only partly in one."""
        return len(self.shares) > 0 or self.rest.pixel.size > 0

    # ------------------------------------------------------------- a frame

    def sums(self, pixels: Pixels, limits: Limits) -> tuple[Sums, bool]:
        """Return the sums over a frame, and whether a pixel that counts is negative.

        `pixels` are flat, as from `as_pixels`; those that do not count are in no sum.
        Whole numbers of up to 4 bytes that are not split are summed as such.
        """
        if self.split or pixels.dtype.kind == "f" or pixels.dtype.itemsize > 4:
            return self._shared(pixels, None, 0.0, limits)[::2]
        notes = new_notes(self.pixels)
        sums = new_sums(self.bins).astype(np.int64)
        add_whole(pixels, self.bin, limits, sums, notes)
        return self._less(total(sums).astype(np.float64), notes), bool(notes.numbers[1])

    def sums_and_variance(
        self, pixels: Pixels, variance: Pixels, floor: float, limits: Limits
    ) -> tuple[Sums, Floats]:
        """Return the sums over a frame, and those of its variance times share squared.

        Of each pixel the variance is taken for at least `floor`.
        """
        sums, found, _ = self._shared(pixels, variance, floor, limits)
        return sums, found

    def _shared(
        self, pixels: Pixels, variance: Pixels | None, floor: float, limits: Limits
    ) -> tuple[Sums, Floats, bool]:
        notes, lanes = new_notes(self.pixels), LANES[len(self.shares)]
        sums = new_sums(self.bins, len(self.shares), variance is not None)
        add_shared(pixels, variance, floor, self.bin, self.shares, limits, sums, notes)
        found, lost = np.zeros((2, self.bins)), np.zeros((4, self.bins + 1))
        if self.rest.pixel.size:
            add_rest(pixels, variance, floor, self.rest, self.corrections, limits, found, lost)
        found[0] += total(sums[..., :lanes])
        if variance is not None:
            found[1] += total(sums[..., lanes:])
        return self._less(found[0], notes, lost), found[1], bool(notes.numbers[1])

    def _less(self, signal: Floats, notes: Notes, lost: Floats | None = None) -> Sums:
        """Return the sums of a frame whose pixels are summed, less dark.

        The constant sums are corrected for the pixels that did not count: `lost` holds
        what is missing because of those of the rest.
        """
        if lost is None:
            lost = np.zeros((4, self.bins + 1))
        if found := int(notes.numbers[0]):
            lose(notes.odd[:found], self.bin, self.shares, self.corrections, lost)
        return self.corrected(signal, lost[:, :-1])

    def corrected(self, signal: Floats, lost: Floats) -> Sums:
        """Return the sums of a frame whose pixels are summed, less dark.

        Parameters
        ----------
        signal
            Sums of the pixels that counted, (bins,).
        lost
            What the constant sums lose by the pixels that did not count, (4, bins):
            see `summing.lose`.
        """
        if not lost[0].any():
            return Sums(signal, signal - self.dark, self.norm, self.norm_squared, self.count)
        count, norm, norm_squared, dark = lost
        left = self.count - count > EMPTIED * self.count
        return Sums(
            np.where(left, signal, 0),
            np.where(left, signal - (self.dark - dark), 0),
            np.where(left, self.norm - norm, 0),
            np.where(left, self.norm_squared - norm_squared, 0),
            np.where(left, self.count - count, 0),
        )

    def scatter(self, pixels: Pixels, sums: Sums, limits: Limits) -> Floats:
        """Return the sums of the squared distances from the mean of a bin, times share squared."""
        mean = np.zeros(self.bins + 3)
        np.divide(sums.signal, sums.norm, out=mean[: self.bins], where=sums.norm != 0)
        scatter, rest = new_sums(self.bins, len(self.shares)), np.zeros(self.bins)
        add_scatter(pixels, mean, self.corrections, self.bin, self.shares, limits, scatter)
        if self.rest.pixel.size:
            add_rest_scatter(pixels, mean, self.corrections, self.rest, limits, rest)
        return rest + total(scatter)


def _columns(entries: NDArray[np.int64]) -> int:
    """Return how many shares are kept of each pixel: one, two where many pixels need it."""
    if not (entries > 1).any():
        return 0
    return 2 if np.mean(entries > 2) > FEW else 1


def _flat(image: Singles | None, nothing: float) -> Singles:
    """Return an image as the kernels take it; one value where there is none."""
    return np.full(1, nothing, np.float32) if image is None else image.ravel()


def _taken(image: Singles, pixel: NDArray[Any]) -> Floats:
    return (image if image.size == 1 else image[pixel]).astype(np.float64)


@built_once(maxsize=8)
def splitting(
    experiment: Experiment,
    unit: Unit,
    bins: int | tuple[int, int],
    split: Split,
    radial_range: Range | None = None,
    azimuth_range: Range | None = None,
) -> tuple[Splitting, Floats, Floats]:
    """Return a splitting, and the middles of its radial bins (in `unit`) and azimuths (in deg).

    The same ones again for the same settings.
    """
    matrix = build_matrix(experiment, unit, bins, split is Split.BBOX, radial_range, azimuth_range)
    number = bins if isinstance(bins, int) else bins[0] * bins[1]
    built = Splitting(experiment, matrix, number)
    return built, read_only(matrix.centres), read_only(matrix.azimuths)
