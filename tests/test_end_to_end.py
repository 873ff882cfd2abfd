"""A whole set loses nothing: a minute in `make test`, longer in `make soak`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ronda.tests.end_to_end import COUNTS, RATE, Run, Usage, run_set

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
GROWTH = 64
"""MB that any process may grow by, from the second third to the last."""
ON_THE_WAY = 20
"""Frames that ZeroMQ and the queue may hold besides: more on a slow machine than on a fast one."""
FRAME = {"balor": 34, "zyla": 8, "pilatus": 5}
"""MB of a frame."""


def say(what: str) -> None:
    sys.stderr.write(f"... {what}\n")


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.timeout(SECONDS + 900)
def test_a_whole_set_loses_or_grows(tmp_path: Path) -> None:
    run = run_set(SECONDS, tmp_path, say)
    report(run)
    for one in run.outcomes:
        counts, ledger, sent = one.counts, one.files.ledger, one.sent
        assert one.measured > 0 and sent["images_sent"] > 0
        for name in ("received", "reduced", "rejected", "lost"):
            assert counts[name] == ledger[name] == sent[f"expected_{name}"], (one.name, name)
        assert counts["dropped"] == ledger["dropped"] == counts["queued"] == 0
        assert counts["reduced"] == sent["images_sent"] == one.accumulated
        assert set(counts) == set(COUNTS)
        assert one.files.problems == []
        assert one.files.number == sent["series_sent"]
        assert one.files.rows == sent["images_sent"]
        assert one.state == "STANDBY", one.status
    balor = next(one for one in run.outcomes if one.name == "balor")
    assert balor.files.photons > 500 * balor.counts["reduced"]
    pilatus = next(one for one in run.outcomes if one.name == "pilatus")
    assert pilatus.sent["positions_sent"] > 5
    assert run.errors == []
    assert min(run.polls) > 0
    assert {usage.name: usage.after - usage.before for usage in run.usage if grew(usage)} == {}


def grew(usage: Usage) -> bool:
    """Tell whether a process takes more memory than before, beside frames on their way."""
    frame = next((size for name, size in FRAME.items() if name in usage.name.lower()), 0)
    return usage.after - usage.before > GROWTH + ON_THE_WAY * frame


def report(run: Run) -> None:
    """Say what `make soak` is for."""
    for one in run.outcomes:
        sys.stderr.write(
            f"{one.name}: {one.counts['reduced']} frames of {one.sent['images_sent']} sent, "
            f"{one.rate:.1f}/s of {RATE:g}/s, in {one.files.number} files\n"
        )
    for usage in run.usage:
        sys.stderr.write(f"{usage.name}: {usage.before:.0f} MB, then {usage.after:.0f} MB\n")
