"""Sparsification on a device of OpenCL: only what is kept comes back.

A work group clips each ring: it gathers the ring's pixels into memory of their own and
takes all cycles from there. Then the frame is gone through in its order, so what is
kept comes out sorted: each work group marks what stands out of one segment, and the
numbers of the segments before tell it where its own go. Peaks are taken from the kept
pixels by the CPU.

The figures are the CPU's but for the order of sums, where these are not of whole
numbers, and for the last bits of logarithms.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.formula import Formula
from ..azimuthal.limits import Limits
from ..azimuthal.once import built_once
from ..azimuthal.rings import Rings
from ..compute.device import Compute
from ..compute.opencl import LANES, TYPES, Accelerator, Call, accelerator
from .clipping import Background, Clipping, clipping_model
from .layout import Index, Layout
from .picking import Sparsifier, Sparsifying
from .thresholds import Rule

SEGMENT = 4096
"""Pixels that a work group picks from; the kernels are written for so many."""
FEW = 1 << 14
"""Kept pixels that are fetched with the background; more, if the frame before had more."""


class _Constants(NamedTuple):
    """Buffers that are the same for all frames."""

    start: Any
    order: Any
    norm: Any
    """In the order of `order`, as `dark`."""
    dark: Any
    sums: Any
    """Sums of the normalization of each ring and of its square, [2][rings]."""
    tables: Any
    """Quantiles of the clipping, [2][cutoffs][means]: shortfall, excess."""
    ring: Any
    radius: Any
    norm_at: Any
    """In the order of places, as `dark_at`."""
    dark_at: Any
    largest_norm: Any


def _send(device: Accelerator, layout: Layout, clipping: Clipping) -> _Constants:
    one, nothing = np.ones(1, np.float32), np.zeros(1, np.float32)
    norm, dark, order = layout.norm, layout.dark, layout.order
    send = device.constant
    return _Constants(
        start=send(layout.start.astype(np.uint32)),
        order=send(order),
        norm=send(one if norm is None else norm[order]),
        dark=send(nothing if dark is None else dark[order]),
        sums=send(np.stack([layout.norm_sum, layout.norm_squared])),
        tables=send(np.stack([clipping.tables.shortfall, clipping.tables.excess])),
        ring=send(layout.ring),
        radius=send(layout.radius),
        norm_at=send(one if norm is None else norm),
        dark_at=send(nothing if dark is None else dark),
        largest_norm=send(layout.largest_norm),
    )


class OpenClSparsifier(Sparsifier):
    """Sparsifies frames on a device; many threads may at the same time.

    Parameters
    ----------
    rings, settings
        As of `Sparsifier`.
    compute
        The device.

    Raises
    ------
    ValueError
        In one sentence, if the device cannot be used.
    """

    def __init__(self, rings: Rings, settings: Sparsifying, compute: Compute) -> None:
        super().__init__(rings, settings)
        self.accelerator, self._workgroup = accelerator(compute), compute.workgroup
        self.lend = self.accelerator.lend
        model = settings.error_model
        self._formula = model if isinstance(model, Formula) else None
        size = self._layout.ring.size
        # Twice the pixels, thrice places of pixels; and what is the same for all frames.
        self.accelerator.check_room(8 * size, (16 + 12 + 24) * size)
        self._constants = _send(self.accelerator, self._layout, self._clipper.clipping)
        self._threads = threading.local()

    def _stand_out(
        self, pixels: NDArray[Any], limits: Limits
    ) -> tuple[Background, Index, Index | None]:
        with self.accelerator.explained():
            work = self._work(pixels.dtype, limits)
            background, kept = work.reduce(pixels, self._formula)
            return background, kept, work.picked_again()

    def _work(self, dtype: np.dtype[Any], limits: Limits) -> _Work:
        """Return what this thread has on the device for frames of a type."""
        own = self._threads
        work: _Work | None = getattr(own, "work", None)
        if work is None or work.dtype != dtype:
            own.work = work = None  # its memory is free before the next is taken
            own.work = work = self._new_work(dtype, limits)
        return work

    def _new_work(self, dtype: np.dtype[Any], limits: Limits) -> _Work:
        layout = self._layout
        macros = {
            "PIXEL": TYPES[dtype.name],
            "RING": TYPES[layout.ring.dtype.name],
            "LANES": LANES,
            "MODEL": int(clipping_model(self.settings.error_model)),
            "NORM": int(layout.norm is not None),
            "DARK": int(layout.dark is not None),
        }
        program = self.accelerator.program(("pixels", "sparsify"), macros)
        work = _Work(self.accelerator, program, self._workgroup, layout, dtype)
        work.set_up_clipping(self._constants, limits, self._clipper.clipping, self._formula)
        axis = np.float64(self.rings.centres[0]), np.float64(self.rings.width)
        work.set_up_picking(self._constants, axis, self._rule, saturated=True)
        if self._peak_rule is not None:
            work.set_up_picking(self._constants, axis, self._peak_rule, saturated=False)
        return work


class _Picking(NamedTuple):
    """What picks by one rule, and where it puts the pixels: their number, then their places."""

    calls: tuple[tuple[Call, int], ...]
    """With the number of work groups of each."""
    kept: Any


class _Work:
    """What one thread has on a device: memory for a frame, and the kernels that work on it."""

    def __init__(
        self,
        device: Accelerator,
        program: Any,
        workgroup: int | None,
        layout: Layout,
        dtype: np.dtype[Any],
    ) -> None:
        self.dtype = dtype
        self._device, self._lane = device, device.lane()
        self._program, self._workgroup = program, workgroup
        self._size, self._bins = layout.ring.size, layout.bins
        self._segments = -(-self._size // SEGMENT)
        self._pixels = device.room(self._size * dtype.itemsize)
        self._sorted = device.room(layout.order.size * dtype.itemsize)
        self._background = device.room(7 * self._bins * 4)
        self._filled = device.room(2 * self._bins * 4)
        self._least = device.room((self._bins + 1) * 8)
        self._picked = device.room(self._size * 4)
        self._numbers = device.room(self._segments * 4)
        self._found = self._lane.locked(7 * self._bins, np.uint32)
        self._kept = self._lane.locked(self._size + 1, np.uint32)
        self._pickings: list[_Picking] = []
        self._expected = FEW

    def set_up_clipping(
        self, constants: _Constants, limits: Limits, clipping: Clipping, formula: Formula | None
    ) -> None:
        """Set what clips."""
        self._limits = self._device.constant(np.array(limits, self.dtype))
        told = self._size if formula else 1
        self._variance = self._device.room(told * 8)
        self._told = self._lane.locked(told, np.float64)
        rows, columns = clipping.tables.excess.shape
        self._clip = self._call(
            "clip_rings", self._pixels, self._limits, constants.start, constants.order,
            constants.norm, constants.dark, self._variance, constants.sums, constants.tables,
            np.int32(rows), np.int32(columns), np.float64(clipping.cutoff),
            np.int32(clipping.cycles), self._sorted, self._background,
        )  # fmt: skip

    def set_up_picking(
        self,
        constants: _Constants,
        axis: tuple[np.float64, np.float64],
        rule: Rule,
        *,
        saturated: bool,
    ) -> None:
        """Set what picks by one rule more, with what is saturated or without."""
        bins, table = np.int32(self._bins), self._device.constant(rule.table)
        by = np.float64(rule.cutoff), np.float64(rule.noise), table, np.int32(rule.table.size)
        kept = self._device.room((self._size + 1) * 4)
        thresholds = self._call(
            "set_thresholds", self._background, bins, constants.largest_norm, *by,
            self._filled, self._least,
        )  # fmt: skip
        pick = self._call(
            "pick_pixels", self._pixels, np.uint32(self._size), self._limits, constants.ring,
            constants.radius, constants.norm_at, constants.dark_at, bins, *axis, self._filled,
            self._least, *by, np.int32(saturated), self._picked, self._numbers,
        )  # fmt: skip
        gather = self._call("gather_picked", self._picked, self._numbers, kept)
        groups = -(-(self._bins + 1) // thresholds.items)
        calls = (thresholds, groups), (pick, self._segments), (gather, self._segments)
        self._pickings.append(_Picking(calls, kept))

    def reduce(
        self, pixels: NDArray[Any], formula: Formula | None
    ) -> tuple[Background, NDArray[np.uint32]]:
        """Return the background of a frame and what is kept of it."""
        lane, bins = self._lane, self._bins
        if formula is not None:
            self._told[:] = formula(pixels)
            lane.send(self._variance, self._told)
        lane.send(self._pixels, pixels)
        lane.run(self._clip, bins)
        for picking in self._pickings:
            for call, groups in picking.calls:
                lane.run(call, groups)
        lane.start_fetch(self._found, self._background)
        kept = self._fetch(self._pickings[0]).copy()
        average, deviation = self._found[: 2 * bins].view(np.float32).reshape(2, bins)
        count = self._found[2 * bins : 3 * bins].astype(np.int64)
        totals = self._found[3 * bins :].copy().view(np.float64).reshape(2, bins)
        return Background(average.copy(), deviation.copy(), count, totals), kept

    def picked_again(self) -> Index | None:
        """Return what was picked of that frame by the second rule, until the next; None: no rule.

        That memory is used again for the next frame.
        """
        return None if len(self._pickings) < 2 else self._fetch(self._pickings[1])

    def _fetch(self, picking: _Picking) -> Index:
        """Return picked pixels; as many are fetched at once as lately there were, and some more."""
        first = min(self._expected + 1, self._kept.size)
        self._lane.fetch(self._kept[:first], picking.kept)
        number = int(self._kept[0])
        if number >= first:
            self._lane.fetch(self._kept[first : number + 1], picking.kept, 4 * first)
        self._expected = max(FEW, number + number // 4)
        return self._kept[1 : number + 1]

    def _call(self, name: str, *arguments: Any) -> Call:
        return Call(self._device, self._program, name, arguments, self._workgroup)


@built_once(maxsize=2)
def opencl_sparsifier(rings: Rings, settings: Sparsifying, compute: Compute) -> OpenClSparsifier:
    """Return what sparsifies on a device; the same one again for the same settings."""
    return OpenClSparsifier(rings, settings, compute)
