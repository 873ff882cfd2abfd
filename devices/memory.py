"""How the C library takes memory for frames: once, to be used again for the next.

glibc gives large pieces back to the system as soon as they are free, and takes
them anew, page by page, for the next frame. For Balor frames of 34 MB that cost more
than their whole reduction: 60 ms from stamp to result, 33 ms without
(`tests/benchmarks/bench_end_to_end.py`). See `mallopt(3)`.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""mallopt's names for what is set."""
KEPT = 1 << 30
"""Bytes of free memory that are kept for the next frames."""
LARGE = 64 << 20
"""Bytes from which on a piece is given back at once: most frames are smaller.

With 128 MB the free pieces of a Balor's sums pile up as well, to 1 GB.
"""


def keep_for_frames() -> None:
    """Have free memory kept; call it before threads are started. Other libraries do as they do.

    What is free before (what setting up took) is given back.
    """
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        mallopt = library.mallopt
        mallopt(ARENA_MAX, 1)  # those of threads cannot keep pieces of this size
        mallopt(MMAP_THRESHOLD, LARGE)
        mallopt(TRIM_THRESHOLD, KEPT)
