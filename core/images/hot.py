"""Hot pixels: those that look like photons again and again, listed or found."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from ..frame import BadFrame
from ..kept import Kept
from ..marks import Mask
from ..mask import MaskParameters
from ..parameters import InputFile, ParameterError, parameter

MOST = 1_000_000
"""Hot pixels in a list, at most."""
LINE = 16
"""Bytes of a line of a list, at most on average."""
LISTS = Kept("hot-pixels", ".csv")
"""Lists that were found, in a device's folder."""
HEADER = "row,column"
LEAST = 3
"""Frames in which a pixel must have looked like a photon, at least, to be hot."""
FALSE_ALARMS = 0.01
"""Good pixels of a whole frame that are taken for hot ones by chance, on average."""
MOST_FRAMES = 60_000
"""Frames that are looked at, at most: a pixel's count has 16 bits."""
REACH = 2
"""Pixels around one whose counts tell what it should count."""


class HotPixelParameters(MaskParameters):
    """Which pixels are hot."""

    hot_pixel_file: InputFile = parameter(
        "",
        "List of hot pixels, left out as masked ones are: text with a line `row,column` for each, "
        "of the turned frame; FindHotPixels writes one. Empty: none.",
    )

    @cached_property
    def hot_pixels(self) -> NDArray[np.intp]:
        """The hot pixels (n, 2) [row, column]; read once for each set of parameters.

        Raises
        ------
        ParameterError
            If the file cannot be used.
        """
        if not self.hot_pixel_file:
            return np.empty((0, 2), np.intp)
        return load_hot_pixels(Path(self.hot_pixel_file))

    @cached_property
    def _masks(self) -> dict[tuple[int, ...], Mask]:
        """The mask with the hot pixels, for each shape of frames."""
        return {}

    def check(self) -> None:
        """Read the list before it is taken."""
        super().check()
        _ = self.hot_pixels

    def mask_for(self, shape: tuple[int, ...]) -> Mask | None:
        """Return the mask for frames of this shape, hot pixels included.

        Raises
        ------
        BadFrame
            If the mask or a hot pixel does not fit, or a file cannot be read.
        """
        mask = super().mask_for(shape)
        try:
            hot = self.hot_pixels
        except ParameterError as error:
            raise BadFrame(str(error)) from None
        if not len(hot):
            return mask
        if shape not in self._masks:
            self._masks[shape] = with_hot_pixels(mask, hot, shape)
        return self._masks[shape]


def with_hot_pixels(mask: Mask | None, hot: NDArray[np.intp], shape: tuple[int, ...]) -> Mask:
    """Return a mask (None: nothing masked) that leaves hot pixels (n, 2) out, too.

    Raises
    ------
    BadFrame
        If one lies outside the frame.
    """
    if (hot >= shape).any():
        row, column = hot[(hot >= shape).any(axis=1)][0]
        raise BadFrame(
            f"the hot pixel in row {row}, column {column} is not on a frame of {shape} pixels; "
            "set hot_pixel_file to a list that fits, or to nothing"
        )
    joined = np.zeros(shape, np.bool_) if mask is None else mask.copy()
    joined[tuple(hot.T)] = True
    joined.flags.writeable = False
    return joined


def load_hot_pixels(path: Path) -> NDArray[np.intp]:
    """Return the hot pixels (n, 2) [row, column] of a list.

    Raises
    ------
    ParameterError
        In one sentence, if it is none.
    """
    try:
        if not path.is_file() or path.stat().st_size > MOST * LINE:
            raise ValueError(f"it is no file of at most {MOST * LINE} bytes")
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ParameterError(f"hot_pixel_file: {path} is no list of pixels ({error})") from None
    lines = [line for line in text.splitlines() if line.strip()]
    pixels = [line.split(",") for line in lines if line.strip() != HEADER]
    try:
        hot = np.array(pixels, np.intp).reshape(len(pixels), 2)
    except (ValueError, OverflowError):  # whose text would show what is in the file
        raise ParameterError(
            f"hot_pixel_file: {path} is no list of pixels (it has lines that are not `row,column`)"
        ) from None
    if len(hot) > MOST or (hot < 0).any():
        raise ParameterError(f"hot_pixel_file: {path} holds negative numbers, or over {MOST} lines")
    return hot


def keep_hot_pixels(hot: NDArray[np.intp], folder: Path, in_use: str = "") -> Path:
    """Write a list into a folder; older ones but that in use are removed."""

    def write(file: BinaryIO) -> None:
        np.savetxt(file, hot, "%d", ",", header=HEADER, comments="")

    path = LISTS.add(folder, write)
    LISTS.remove_older(folder, in_use)
    return path


class Occupancy:
    """How often each pixel looked like a photon.

    Parameters
    ----------
    wanted
        Number of frames to look at.
    shape
        (rows, columns).
    """

    def __init__(self, wanted: int, shape: tuple[int, ...]) -> None:
        self.frames, self.wanted, self.shape = 0, wanted, shape
        self._counts = np.zeros(shape, np.uint16)

    @property
    def missing(self) -> int:
        """Frames still to come."""
        return self.wanted - self.frames

    def add(self, pixels: NDArray[np.int32]) -> None:
        """Add the pixels (n, 2) [row, column] of one frame's candidates; each is there once."""
        self._counts[tuple(pixels.T)] += 1
        self.frames += 1

    def hot(self, known: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the known hot pixels (n, 2) [row, column] and those that count too often.

        That is more often than chance allows where a pixel counts as its surroundings
        do, as the whole frame if that counts more, or twice as often as the third most
        frequent pixel around it if that is more: the edge of what is looked at has no hot
        pixels, nor has a bright spot, and up to two others nearby may be hot, too.
        """
        counts, mean = self._counts, self._counts.mean()
        pixels = np.argwhere(counts >= LEAST)
        pixels = pixels[gammainc(counts[tuple(pixels.T)], mean) * counts.size < FALSE_ALARMS]
        own = counts[tuple(pixels.T)].astype(np.float64)
        padded, side = np.pad(counts, REACH), range(2 * REACH + 1)
        near = [(dy, dx) for dy in side for dx in side if (dy, dx) != (REACH, REACH)]
        around = np.stack([padded[tuple((pixels + shift).T)] for shift in near])
        third = np.partition(around, -3, axis=0)[-3]
        # One count more, so that a surrounding without any is no proof of nothing.
        alike = (around.sum(axis=0) + 1) / len(near)
        expected = np.maximum(np.maximum(alike, 2.0 * third), mean)
        chance = gammainc(own, expected)  # of a Poisson number to be so large or larger
        found = pixels[chance * counts.size < FALSE_ALARMS]
        return np.unique(np.concatenate([known, found]), axis=0)


class HotPixelSearch:
    """Looks for hot pixels when asked to."""

    def __init__(self) -> None:
        self._wanted = 0
        self._occupancy: Occupancy | None = None

    @property
    def missing(self) -> int:
        """Frames still to be looked at; 0: nothing is looked for."""
        return self._occupancy.missing if self._occupancy else self._wanted

    def start(self, frames: int) -> None:
        """Begin anew with so many frames.

        Raises
        ------
        ValueError
            If they are too few or too many.
        """
        if not LEAST <= frames <= MOST_FRAMES:
            raise ValueError(f"hot pixels in {frames} frames: ask for {LEAST} to {MOST_FRAMES}")
        self._wanted, self._occupancy = frames, None

    def add(self, pixels: NDArray[np.int32], shape: tuple[int, ...]) -> None:
        """Look at the candidates' pixels (n, 2) of a frame of (rows, columns), if asked to."""
        if not self._wanted:
            return
        if self._occupancy is None or self._occupancy.shape != shape:
            self._occupancy = Occupancy(self._wanted, shape)
        if self._occupancy.missing:
            self._occupancy.add(pixels)

    def take(self) -> Occupancy | None:
        """Return what was found when all frames were looked at, once; else None."""
        found = self._occupancy
        if found is None or found.missing:
            return None
        self._wanted, self._occupancy = 0, None
        return found
