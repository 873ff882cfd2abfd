"""Frames do not take their memory from the system again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from ronda.devices.memory import keep_for_frames
if sys.argv[1] == "keep":
    keep_for_frames()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for turn in range(6):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    frame = libc.malloc(34_000_000)
    ctypes.memset(frame, 1, 34_000_000)
    libc.free(frame)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Return how often a process had to ask for a page while it used five Balor frames."""
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, timeout=60
    )
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_the_next_frame_uses_the_memory_of_the_last() -> None:
    each = 34_000_000 // 4096
    assert page_faults("leave") > 4 * each
    assert page_faults("keep") < each
