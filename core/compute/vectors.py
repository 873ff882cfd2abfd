"""Additions to several sums side by side, as one vector of the processor.

Numba leaves it to LLVM to find them, and keeps that pass switched off; so these say it
outright. Sharing pixels of a Pilatus 1M out over three bins each, with their variance,
takes 1.5 ms so, and 1.9 ms by single additions (`tests/benchmarks/bench_azimuthal.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

_INDEX = ir.IntType(32)


def _intrinsic(function: Callable[..., Any]) -> Callable[..., None]:
    return cast(Callable[..., None], numba.extending.intrinsic(function))


@_intrinsic
def add_products(typing: Any, sums: Any, place: Any, value: Any, shares: Any) -> Any:
    """Add a value times each of its shares to a flat array, from a place on.

    Parameters
    ----------
    sums
        Of float64, contiguous; nothing checks its end.
    place
        uint64.
    value
        float64.
    shares
        A tuple of 1, 2, 4 or 8 float64.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, place, value, shares = arguments
        at = _Vectors(builder, len(signature.args[3]))
        at.add(
            at.place(context, signature.args[0], array, place),
            builder.fmul(at.all(value), at.each(shares)),
        )
        return context.get_dummy_value()

    return types.void(sums, types.uint64, types.float64, shares), generate


@_intrinsic
def add_products_and_squares(
    typing: Any, sums: Any, place: Any, value: Any, weight: Any, shares: Any
) -> Any:
    """Add a value times each of its shares, and behind these a weight times their squares.

    The parameters are those of `add_products`; `weight` is float64.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, place, value, weight, shares = arguments
        at = _Vectors(builder, len(signature.args[4]))
        first, each = at.place(context, signature.args[0], array, place), at.each(shares)
        at.add(first, builder.fmul(at.all(value), each))
        behind = builder.gep(first, [_INDEX(1)])
        at.add(behind, builder.fmul(builder.fmul(at.all(weight), each), each))
        return context.get_dummy_value()

    return types.void(sums, types.uint64, types.float64, types.float64, shares), generate


class _Vectors:
    """Writes code for vectors of so many float64."""

    def __init__(self, builder: Any, size: int) -> None:
        self._builder, self._size = builder, size
        self._type = ir.VectorType(ir.DoubleType(), size)
        self._any = ir.Constant(self._type, ir.Undefined)

    def place(self, context: Any, kind: Any, array: Any, place: Any) -> Any:
        """Return where in an array a vector lies."""
        data = context.make_array(kind)(context, self._builder, array).data
        pointer = self._builder.gep(data, [place])
        return self._builder.bitcast(pointer, self._type.as_pointer())

    def each(self, numbers: Any) -> Any:
        """Return the vector of a tuple's numbers."""
        vector = self._any
        for lane in range(self._size):
            number = self._builder.extract_value(numbers, lane)
            vector = self._builder.insert_element(vector, number, _INDEX(lane))
        return vector

    def all(self, number: Any) -> Any:
        """Return a vector of one number."""
        first = self._builder.insert_element(self._any, number, _INDEX(0))
        lanes = ir.Constant(ir.VectorType(_INDEX, self._size), [0] * self._size)
        return self._builder.shuffle_vector(first, self._any, lanes)

    def add(self, pointer: Any, vector: Any) -> None:
        """Add a vector to what lies at a pointer, which need not be aligned to its size."""
        held = self._builder.load(pointer, align=8)
        self._builder.store(self._builder.fadd(held, vector), pointer, align=8)
