"""Azimuthal integration on a device of OpenCL: a work group for each bin.

Each bin has a list of its pixels in the order of their places, which its work group
gathers. Integers of up to 4 bytes are summed as such, so what is not split is what
the CPU has, to the last bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compute.device import Compute
from ..compute.opencl import LANES, TYPES, Accelerator, Call, Lane, accelerator
from ..marks import Pixels
from .errors import ErrorModel
from .experiment import Experiment
from .formula import Formula
from .integration import Summation
from .limits import pixel_limits
from .splitting import Splitting, Sums

Floats = NDArray[np.float64]

NONE, COUNTS, TOLD, SCATTER = range(4)
"""Where the kernels take the variance of a pixel from."""
SUMS = 6
"""Of a bin: of its pixels, of their variance, and what the constant sums lose."""
MOST = 256 << 20
"""Bytes of frames that are on the device at a time, unless one has more."""


class Entries(NamedTuple):
    """Which pixels lie in which bin. Those of bin b are `start[b]` to `start[b + 1]`."""

    start: NDArray[np.uint32]
    pixel: NDArray[np.uint32]
    share: Floats
    """As the constant sums have them, so that a bin which lost all has none left; empty: all 1."""


def entries(splitting: Splitting) -> Entries:
    """Return the pixels of each bin, in the order of their places."""
    simple = np.flatnonzero(splitting.bin < splitting.bins)
    near = np.ones(simple.size)
    place, pixel, share = [], [], []
    for column, shares in enumerate(splitting.shares):
        further = simple[shares[simple] > 0]
        near -= shares[simple].astype(np.float64)
        place.append(splitting.bin[further].astype(np.int64) + column + 1)
        pixel.append(further)
        share.append(shares[further].astype(np.float64))
    rest = splitting.rest
    places = np.concatenate([splitting.bin[simple].astype(np.int64), *place, rest.bin])
    pixels = np.concatenate([simple, *pixel, rest.pixel])
    order = np.lexsort((pixels, places))
    start = np.searchsorted(places[order], np.arange(splitting.bins + 1))
    parts = np.concatenate([near, *share, rest.share])[order]
    return Entries(
        start.astype(np.uint32),
        pixels[order].astype(np.uint32),
        parts if splitting.split else parts[:0],
    )


class _Room:
    """Memory of one thread for so many frames of one type, and the kernel that works on it."""

    def __init__(self, of: OpenClSummation, dtype: np.dtype[Any], frames: int) -> None:
        device, self.dtype, self.frames = of.accelerator, dtype, frames
        size, bins = of.splitting.pixels, of.splitting.bins
        told = of.variance == TOLD
        self.lane: Lane = device.lane()
        self.pixels = device.room(frames * size * dtype.itemsize)
        self.variance = device.room(frames * size * 8 * told)
        self.told = self.lane.locked((max(frames * told, 1), size if told else 1), np.float64)
        self.out = device.room(frames * SUMS * bins * 8)
        self.sums = self.lane.locked((frames, SUMS, bins), np.float64)
        limits = device.constant(np.array(pixel_limits(dtype, of.setup), dtype))
        arguments = (
            self.pixels, np.uint32(size), limits, *of.buffers, self.variance, np.int32(of.floor),
            of.constants, self.out,
        )  # fmt: skip
        program = of.program(dtype)
        self.call = Call(device, program, "sum_bins", arguments, of.wanted, of.lanes)


class OpenClSummation(Summation):
    """What turns frames into sums over bins on a device. Any number of threads may use it.

    Parameters
    ----------
    experiment, splitting, error_model
        As of `Summation`.
    compute
        The device.

    Raises
    ------
    ValueError
        In one sentence, if the device cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        splitting: Splitting,
        error_model: ErrorModel | Formula,
        compute: Compute,
    ) -> None:
        super().__init__(experiment, splitting, error_model)
        self.accelerator: Accelerator = accelerator(compute)
        self.lend = self.accelerator.lend
        self.splitting, self.setup = splitting, experiment.setup
        self._formula = error_model if isinstance(error_model, Formula) else None
        self.floor = 0.0
        if isinstance(error_model, Formula):
            self.variance = TOLD
        elif error_model is ErrorModel.AZIMUTHAL:
            self.variance = SCATTER
        else:
            self.variance = NONE if error_model.floor is None else COUNTS
            self.floor = error_model.floor or 0.0
        found = entries(splitting)
        self.lanes = _lanes(found.pixel.size / splitting.bins)
        self.wanted = compute.workgroup
        corrections = splitting.corrections
        largest = max(8 * found.pixel.size, 8 * splitting.pixels)
        images = 8 * splitting.pixels * (2 if self.variance == TOLD else 1)
        constants = sum(each.nbytes for each in (*found, *corrections))
        self.accelerator.check_room(largest, images + constants)
        dark, norm = corrections
        constant = self.accelerator.constant
        self.buffers = [constant(each) for each in (*found, norm, dark)]
        self.constants = constant(np.stack([splitting.count, splitting.norm, splitting.dark]))
        self._threads = threading.local()

    def sums(self, frame: Pixels) -> tuple[Sums, Floats | None]:
        """As of `Summation`."""
        return self.sums_of([frame])[0]

    def sums_of(self, frames: Sequence[Pixels]) -> list[tuple[Sums, Floats | None]]:
        """Return the sums over frames of one type, as `sums` does over one, in fewer steps."""
        flat = [self._flat(frame) for frame in frames]
        if any(pixels.dtype != flat[0].dtype for pixels in flat):
            raise ValueError("frames that are summed at once are of one type")
        at_once = max(MOST // max(self.splitting.pixels * 8, 1), 1)
        found = []
        for begin in range(0, len(flat), at_once):
            found += self._sums_of(flat[begin : begin + at_once])
        return found

    def program(self, dtype: np.dtype[Any]) -> Any:
        """Return the program for pixels of a type."""
        constants = {
            "PIXEL": TYPES[dtype.name],
            "TOTAL": "long" if self._is_whole(dtype) else "double",
            "LANES": self.lanes,
            "SHARES": int(self.splitting.split),
            "NORM": int(self.splitting.corrections.normalization.size > 1),
            "DARK": int(self.splitting.corrections.dark.size > 1),
            "VARIANCE": self.variance,
        }
        return self.accelerator.program(("pixels", "rings"), constants)

    def _sums_of(self, flat: list[Pixels]) -> list[tuple[Sums, Floats | None]]:
        dtype = flat[0].dtype
        with self.accelerator.explained():
            room = self._room(dtype, len(flat))
            room.lane.send(room.pixels, *flat)
            if self._formula is not None:
                for told, pixels in zip(room.told, flat, strict=False):
                    told[:] = self._formula(pixels)
                room.lane.send(room.variance, *room.told[: len(flat)])
            room.lane.run(room.call, self.splitting.bins, len(flat))
            room.lane.fetch(room.sums[: len(flat)], room.out)
        return [self._finish(sums, dtype) for sums in room.sums[: len(flat)]]

    def _room(self, dtype: np.dtype[Any], frames: int) -> _Room:
        own = self._threads
        room: _Room | None = getattr(own, "room", None)
        if room is None or room.dtype != dtype or room.frames < frames:
            own.room = room = None  # its memory is free before the next is taken
            own.room = room = _Room(self, dtype, frames)
        return room

    def _is_whole(self, dtype: np.dtype[Any]) -> bool:
        """Tell whether pixels of a type are summed as integers."""
        return not self.splitting.split and dtype.kind in "iu" and dtype.itemsize <= 4

    def _finish(self, found: Floats, dtype: np.dtype[Any]) -> tuple[Sums, Floats | None]:
        """Return the sums that a kernel made of a frame."""
        whole = self._is_whole(dtype)
        signal, variance = (
            (row.view(np.int64) if whole and integer else row).astype(np.float64)
            for row, integer in ((found[0], True), (found[1], self.variance == COUNTS))
        )
        sums = self.splitting.corrected(signal, found[2:])
        return sums, None if self.variance == NONE else variance


def _lanes(mean: float) -> int:
    """Return how many sums a work group has for so many pixels of a bin."""
    return next((lanes for lanes in (8, 32, 128) if mean < 4 * lanes), LANES)
