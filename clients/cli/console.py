"""Where the command line writes: tables to stdout, everything about the work to stderr."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console

from ...core.ledger import Counts

PLAIN_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def stdout() -> Console:
    """Return the console for answers: what a user may pipe into another program."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return the console for progress, summaries and complaints."""
    return _console(sys.stderr)


def _console(stream: IO[str]) -> Console:
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False)


def ledger_line(counts: Counts) -> str:
    """Return the ledger as people read it: what came is what was done, or is still there."""
    return (
        f"{counts.received} frames received = {counts.reduced} reduced "
        f"+ {counts.rejected} rejected + {counts.dropped} dropped + {counts.queued} queued; "
        f"{counts.lost} lost"
    )
