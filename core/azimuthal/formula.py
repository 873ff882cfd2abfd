"""Formulas of the variance, such as `5*I+8`: parsed to a tree of a few operations, never run."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_LENGTH = 200
"""Characters of a formula."""
MAX_DEPTH = 20
"""Operations inside each other."""
CHUNK = 1 << 14
"""Pixels that a formula is evaluated for at a time: what it keeps in between fits a cache."""

Floats = NDArray[np.float64]
Node = Callable[[Floats], Any]

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
_ONE: dict[str, Callable[[Any], Any]] = {
    "sqrt": np.sqrt,
    "log": np.log,
    "exp": np.exp,
    "abs": np.abs,
}
_TWO: dict[str, Callable[[Any, Any], Any]] = {"min": np.minimum, "max": np.maximum}


class Formula:
    """The variance of a pixel as a formula of its counts I.

    It knows numbers, I, + - * / **, brackets, sqrt, log, exp, abs of one value,
    min and max of two. Formulas of the same text are equal.

    Parameters
    ----------
    text
        At most `MAX_LENGTH` characters.

    Raises
    ------
    ValueError
        In one sentence, if it says anything else.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        try:
            if len(self.text) > MAX_LENGTH:
                raise ValueError(f"it is longer than {MAX_LENGTH} characters")
            self._evaluate = _build(_parse(self.text), MAX_DEPTH)
        except ValueError as error:
            shown = self.text[:MAX_LENGTH]
            raise ValueError(f"{shown!r} is no formula of the variance: {error}") from None

    def __call__(self, counts: ArrayLike, out: Floats | None = None) -> Floats:
        """Return the variance of pixels, float64 of the same shape; NaN, infinite where it is.

        It is put into `out`, contiguous and of that shape, if there is one.
        """
        pixels = np.asarray(counts)
        variance = np.empty(pixels.shape) if out is None else out
        flat, told = pixels.reshape(-1), variance.reshape(-1)
        with np.errstate(all="ignore"):
            for first in range(0, flat.size, CHUNK):
                some = slice(first, first + CHUNK)
                told[some] = self._evaluate(flat[some].astype(np.float64))
        return variance

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("it cannot be read") from None


def _build(node: ast.expr, depth: int) -> Node:
    """Return the function of I that a node of the tree stands for."""
    if depth == 0:
        raise ValueError(f"more than {MAX_DEPTH} operations lie inside each other")
    match node:
        case ast.Constant(value=int() | float() as value) if type(value) is not bool:
            return _constant(value)
        case ast.Name(id="I"):
            return lambda pixels: pixels
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _applied(_UNARY[type(sign)], [operand], depth)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            return _applied(_BINARY[type(operator)], [left, right], depth)
        case ast.Call(func=ast.Name(id=name), args=[one], keywords=[]) if name in _ONE:
            return _applied(_ONE[name], [one], depth)
        case ast.Call(func=ast.Name(id=name), args=[one, two], keywords=[]) if name in _TWO:
            return _applied(_TWO[name], [one, two], depth)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed in it")


def _constant(value: float) -> Node:
    try:
        number = np.float64(value)
    except OverflowError:
        raise ValueError("a number in it is too large") from None
    if not math.isfinite(number):
        raise ValueError("a number in it is too large")
    return lambda pixels: number


def _applied(operation: Callable[..., Any], operands: list[ast.expr], depth: int) -> Node:
    parts = [_build(operand, depth - 1) for operand in operands]
    return lambda pixels: operation(*(part(pixels) for part in parts))
