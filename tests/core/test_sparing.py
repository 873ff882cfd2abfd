"""What is logged of something that happens with every frame."""

from __future__ import annotations

import logging
import time

import pytest
from ronda.core.sparing import PAUSE, SparingLog


def test_an_hour_of_rejected_frames_fills_the_disk_with_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    caplog.set_level(logging.DEBUG)
    log = SparingLog(logging.getLogger("test"))
    for number in range(36_000):
        log.warn(f"frame {number}")
        now += 0.125  # 8 Hz
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warnings[:2] == ["frame 0", "frame 80; 79 more since the last such line"]
    assert len(warnings) == 36_000 * 0.125 / PAUSE
    assert len(caplog.records) == 36_000  # who logs everything misses none


def test_what_is_rare_is_held_back_or_counted_as_more(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = SparingLog(logging.getLogger("test"))
    for number in range(3):
        log.warn(f"frame {number}")
        now += PAUSE
    assert caplog.messages == ["frame 0", "frame 1", "frame 2"]
