"""How old a frame is when it is reduced, whatever the clocks do meanwhile.

The detector's stamp and ours are of two clocks, and either may be set. Here time
runs on the monotonic clock; the two clocks are compared once, at receipt.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .frame import Frame

MOST_AHEAD, MOST_BEHIND = 1.0, 600.0
"""Seconds that a stamp may be after its frame's receipt, or before it, to be believed."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How old a frame is, and since when that is counted."""

    seconds: float
    since: str
    """`detector`: since the detector's stamp; `receipt`: since it arrived here."""
    transport: float = math.nan
    """Seconds of it from the detector's stamp to its arrival here; NaN: not known."""
    doubt: str = ""
    """Why the detector's stamp is not believed, as a sentence; empty if it is, or if none."""


def latency(frame: Frame) -> Latency:
    """Return how old a frame is now."""
    waited = time.monotonic() - frame.arrived
    if frame.timestamp is None:
        return Latency(waited, "receipt")
    under_way = frame.received - frame.timestamp
    if -MOST_AHEAD <= under_way <= MOST_BEHIND:
        return Latency(under_way + waited, "detector", under_way)
    word = "behind" if under_way > 0 else "ahead of"
    return Latency(
        waited,
        "receipt",
        doubt=f"the detector's clock is {abs(under_way):.0f} s {word} this computer's, so "
        "latency is counted from receipt: set the clocks",
    )
