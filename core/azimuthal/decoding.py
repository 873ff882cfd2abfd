"""Pixels for who reduces a frame and keeps nothing of it: decoded into memory used again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs import INTO_BUFFERS, check_size
from ..frame import BadFrame, Encoded, Frame

MOST_KEPT = 256 << 20
"""Bytes of the largest buffer that a thread keeps; a larger frame takes memory of its own."""

Lend = Callable[[int], NDArray[np.uint8]]
"""Returns memory of so many bytes, or more, until this thread's next call."""


class _Buffer(threading.local):
    """What this thread decodes into."""

    memory = np.empty(0, np.uint8)


_buffer = _Buffer()


def borrow_pixels(frame: Frame, lend: Lend | None = None) -> NDArray[Any]:
    """Return a frame's pixels as `frame.data` does, but only until this thread's next call.

    Compressed pixels are decoded into one buffer a thread. Nobody may keep the array or
    a view of it; who needs the pixels longer takes `frame.data`. The array is read-only.

    Parameters
    ----------
    frame
        The frame.
    lend
        Returns that buffer, if it is to lie where a device copies it from.

    Raises
    ------
    BadFrame
        If they cannot be decoded.
    """
    payload = frame.payload
    size = math.prod(frame.shape) * frame.dtype.itemsize
    decoded = "data" in vars(frame)  # somebody needed them before
    if decoded or not isinstance(payload, Encoded) or size > MOST_KEPT:
        return frame.data
    if payload.codec not in INTO_BUFFERS:
        return frame.data
    try:
        check_size(payload.blob, payload.codec, payload.shape, payload.dtype)
        pixels = payload.decode_into((lend or _room)(size))
    except ValueError as error:
        raise BadFrame(f"frame {frame.frame_id}: {error}") from None
    pixels = pixels.view()
    pixels.flags.writeable = False
    return pixels


def _room(size: int) -> NDArray[np.uint8]:
    """Return this thread's buffer, made larger if need be."""
    if _buffer.memory.size < size:
        _buffer.memory = np.empty(size, np.uint8)
    return _buffer.memory
