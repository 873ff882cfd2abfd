"""Messages between a device and its file writer: one line of JSON, then its arrays' bytes.

Arrays do not stand in the JSON: each leaves a note `{"::array": [dtype, shape]}`
there, and their bytes follow the line in that order. (CBOR was measured too:
cbor2 needs 39 s to read one Balor sum from a pipe, this 0.1 s.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Message = dict[str, Any]
_MARK = "::array"
"""No path of a tree looks like this."""


def plain(value: Any) -> Any:
    """Return a tree's value in one of the forms that cross: None, number, text, texts, array.

    Lists of numbers become arrays; what HDF5 has no form for (dictionaries,
    mixed lists) becomes JSON text.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bytes):
        return clean(value.decode("utf-8", "replace"))
    if isinstance(value, np.ndarray | np.generic):
        return _plain_array(np.asarray(value))
    if isinstance(value, list | tuple):
        return _plain_list(list(value))
    return clean(json.dumps(value, default=str))


def clean(text: str) -> str:
    """Return text that HDF5 can hold: no zero character, no lone surrogate."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def fixed_text(value: str | list[str], width: int, length: int | None = None) -> NDArray[Any]:
    """Return text as fixed-length UTF-8, which can be overwritten in an open file.

    Parameters
    ----------
    width
        Bytes of a text; longer ones are cut between characters.
    length
        Number of texts, filled up with empty ones; None: as many as there are.
    """
    if isinstance(value, str):
        return np.array(_cut(value, width), f"S{width}")
    texts = [_cut(text, width) for text in value]
    texts += [b""] * ((length or 0) - len(texts))
    return np.array(texts, f"S{width}")


def _cut(text: str, width: int) -> bytes:
    return clean(text).encode()[:width].decode("utf-8", "ignore").encode()


def _integer(value: int) -> Any:
    if -(2**63) <= value < 2**63:
        return value
    return np.uint64(value) if 0 <= value < 2**64 else str(value)


def _plain_array(value: NDArray[Any]) -> Any:
    if value.dtype.kind in "biufcS" and value.dtype.itemsize:
        return value
    if value.dtype.kind == "O" or not value.ndim:
        return plain(value.tolist())
    return [clean(str(item)) for item in value.ravel()]


def _plain_list(value: list[Any]) -> Any:
    if value and all(isinstance(item, str) for item in value):
        return [clean(item) for item in value]
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        array = np.asarray(None)
    if array.dtype.kind in "biuf":
        return array
    return clean(json.dumps(value, default=str))


def size(tree: Mapping[str, Any]) -> int:
    """Return roughly how many bytes a tree takes in a queue; an array that is there twice, once."""
    arrays = {id(value): value for value in tree.values() if isinstance(value, np.ndarray)}
    return 64 * len(tree) + sum(map(_bytes, arrays.values()))


def _bytes(array: NDArray[Any]) -> int:
    """Return the bytes of an array; one that repeats a number (`broadcast_to`) has few."""
    return array.nbytes if all(array.strides) else array.itemsize


def send(stream: BinaryIO, message: Message) -> None:
    """Write one message.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    arrays: list[NDArray[Any]] = []

    def note(value: Any) -> Any:
        array = np.asarray(value)
        arrays.append(np.ascontiguousarray(array).reshape(-1))
        return {_MARK: [array.dtype.str, array.shape]}

    stream.write(json.dumps(message, default=note).encode() + b"\n")
    for array in arrays:
        stream.write(array.view("u1").data)
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """Read one message; None at the end of the stream, or if it ends within the message."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    arrays: list[NDArray[Any]] = []

    def take(entry: dict[str, Any]) -> Any:
        if _MARK not in entry:
            return entry
        dtype, shape = entry[_MARK]
        arrays.append(np.empty(math.prod(shape), dtype))
        return arrays[-1].reshape(shape)

    message: Message = json.loads(line, object_hook=take)
    complete = all(_fill(stream, array.view("u1").data) for array in arrays)
    return message if complete else None


def _fill(stream: BinaryIO, block: memoryview) -> bool:
    """Read a block's bytes; False if the stream ended before."""
    done = 0
    while done < len(block):
        count: int = stream.readinto(block[done:])  # type: ignore[attr-defined]
        if not count:
            return False
        done += count
    return True
