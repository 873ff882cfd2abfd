"""Frames and series: what every source delivers and every stage takes.

A source yields *events* in the order of the stream: a `SeriesStart`, its
`Frame` objects, a `SeriesEnd`; a `Rejected` for a message that could not be
made a frame; `Lost` when message numbers are missing; a `Notice` for the
operator; `Away` while the sender is not there. Position events
(`ronda.core.positions`) may stand between them.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .codecs import decode, decode_into, photon_pixels, sparse_pixels

MAX_SIDE = 16384
"""Longest side of a frame in pixels; larger claims are refused before allocation."""


class BadFrame(ValueError):
    """A frame that cannot be used; the message is one sentence for the operator."""


_run_lock = threading.Lock()
_last_run_id = 0


def new_run_id() -> int:
    """Return a run number: Unix time in ms, strictly increasing within a process."""
    global _last_run_id
    with _run_lock:
        _last_run_id = max(_last_run_id + 1, time.time_ns() // 1_000_000)
        return _last_run_id


@dataclass(frozen=True, slots=True)
class Series:
    """One exposure series of a detector: what its header said."""

    run_id: int
    """Unix time in ms at which the series began here; unique across restarts."""
    detector: str = ""
    """Name of the detector or stream; empty if unknown."""
    filename: str = ""
    """The detector's own raw file; empty: nothing is to be saved."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The header's free entries, as sent."""
    joined_late: bool = False
    """True if images came without a header."""

    @property
    def scan_number(self) -> int | None:
        """Scan number in the file name (`scan-123374_pilatus.h5`), or None."""
        found = re.search(r"scan[-_]?(\d{1,18})", self.filename.rpartition("/")[2])
        return int(found.group(1)) if found else None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Pixels as they came from the wire: decoded by the worker that needs them."""

    blob: bytes | memoryview
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    codec: str = "none"
    """One of `codecs.CODECS`."""

    @property
    def nbytes(self) -> int:
        """Bytes as they are, not decoded."""
        return len(self.blob)

    def decode(self) -> NDArray[Any]:
        """Return the pixels, shape (rows, columns); read-only where no copy was made.

        Raises
        ------
        ValueError
            If the bytes do not hold this shape.
        """
        return decode(self.blob, self.codec, self.shape, self.dtype)

    def decode_into(self, buffer: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the pixels as `decode` does, in a buffer where they hold until its next use.

        See `codecs.decode_into`: for who reduces a frame and keeps no view of it.

        Raises
        ------
        ValueError
            If the bytes do not hold this shape, or the buffer is too small for it.
        """
        return decode_into(buffer, self.blob, self.codec, self.shape, self.dtype)

    @property
    def support(self) -> NDArray[np.intp] | None:
        """Pixels, counted row after row, outside of which all are 0; None: any may be something.

        Raises
        ------
        ValueError
            As from `decode`.
        """
        if self.codec == "sparse":
            return sparse_pixels(self.blob, self.shape, self.dtype)
        return np.unique(photon_pixels(self.blob, self.shape)) if self.codec == "photons" else None


@dataclass(frozen=True, eq=False)
class Frame:
    """One detector image with what identifies it.

    `data` is indexed [row, column]; it may be read-only and unaligned
    (frames from a socket are), and must never be written to.
    """

    series: Series
    frame_id: int
    """The detector's own frame number, from 0."""
    payload: NDArray[Any] | Encoded
    message_number: int | None = None
    event_number: int | None = None
    """Number of the trigger event, where the source knows it (recordings)."""
    timestamp: float | None = None
    """Unix time in s stamped by the detector, if it stamps."""
    received: float = field(default_factory=time.time)
    """Unix time in s at which the frame arrived here."""
    arrived: float = field(default_factory=time.monotonic)
    """The same by the clock that nobody sets."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self.payload.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        return self.payload.dtype

    @property
    def taken(self) -> float:
        """Unix time in s: the detector's stamp, or when the frame arrived."""
        return self.received if self.timestamp is None else self.timestamp

    @property
    def nbytes(self) -> int:
        """Bytes that the frame holds while it waits, decoded."""
        pixels = math.prod(self.shape) * self.dtype.itemsize
        if isinstance(self.payload, Encoded) and self.payload.codec != "none":
            return pixels + len(self.payload.blob)
        return pixels

    @cached_property
    def data(self) -> NDArray[Any]:
        """Pixels [row, column], decoded at first use.

        Raises
        ------
        BadFrame
            If they cannot be decoded.
        """
        if not isinstance(self.payload, Encoded):
            return self.payload
        try:
            return self.payload.decode()
        except ValueError as error:
            raise BadFrame(f"frame {self.frame_id}: {error}") from None


def check_shape(shape: object, dtype: DTypeLike) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return shape and dtype that a header claims, or refuse them before allocating.

    Raises
    ------
    BadFrame
        If the shape is not two positive integers of at most `MAX_SIDE`, or the
        dtype is no boolean-free real number of at most 8 bytes.
    """
    try:
        kind = np.dtype(dtype if dtype is not None else object)  # None would mean float64
    except (TypeError, ValueError, SyntaxError):
        raise BadFrame(f"unknown pixel type {dtype!r:.60}") from None
    if kind.kind not in "uif" or kind.itemsize > 8:
        raise BadFrame(f"pixel type {kind} is not an integer or float of at most 8 bytes")
    if not isinstance(shape, (list, tuple)) or len(shape) != 2:
        raise BadFrame(f"shape {shape!r:.60} is not [rows, columns]")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= MAX_SIDE for n in shape):
        raise BadFrame(f"shape {shape!r:.60} is outside 1 to {MAX_SIDE} pixels a side")
    return (shape[0], shape[1]), kind


@dataclass(frozen=True, slots=True)
class SeriesStart:
    """A series begins."""

    series: Series


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """A series ended; no more of its frames are expected."""

    series: Series
    announced: bool = True
    """False if the sender did not say so: it began another one, or there is nothing more."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A frame arrived that cannot be used; it counts as received and rejected."""

    reason: str
    """One sentence."""
    frame_id: int | None = None
    message_number: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages missing from the stream; negative when late ones turned up."""

    count: int


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence for Status; empty when what it said no longer holds."""

    text: str


@dataclass(frozen=True, slots=True)
class Away:
    """The sender is not there, and why, as part of a sentence; empty when it is there again."""

    reason: str


FrameEvent = SeriesStart | SeriesEnd | Frame | Rejected | Lost | Notice | Away
