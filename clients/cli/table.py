"""What devices are doing, as a live table, or in plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import tango
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...core.ledger import Counts

COUNTS = ("received", "reduced", "rejected", "dropped", "queued", "lost")
SHOWN: Mapping[str, str] = {
    "images_sent": "sent",
    **{f"frames_{name}": name for name in COUNTS},
    "input_rate": "rate (Hz)",
    "latency": "latency (ms)",
}
"""Titles by name of attribute; a device shows those that it has."""
SCALES = {"latency": 1000.0}
DECIMALS = {"input_rate": 1, "latency": 1}
STYLES = {"RUNNING": "green", "STANDBY": "cyan", "ALARM": "yellow", "FAULT": "red"}
LINE_INTERVAL = 2.0
"""Seconds between plain lines."""


@dataclass(frozen=True)
class Reading:
    """What one device showed at one moment."""

    device: str
    state: str = "UNKNOWN"
    status: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """By name of attribute."""

    @property
    def counts(self) -> Counts | None:
        """Its ledger, where it has one."""
        numbers = {name: int(self.values.get(f"frames_{name}", -1)) for name in COUNTS}
        if min(numbers.values()) < 0:
            return None
        del numbers["queued"]
        return Counts(**numbers)

    @property
    def balanced(self) -> bool:
        """True if its ledger holds: received = reduced + rejected + dropped + queued."""
        counts = self.counts
        return counts is not None and counts.queued == self.values["frames_queued"]


def read(device: str, proxy: tango.DeviceProxy) -> Reading:
    """Ask a device; one that does not answer is UNKNOWN, and its status says why."""
    try:
        known = set(proxy.get_attribute_list())
        names = [name for name in SHOWN if name in known]
        answers = proxy.read_attributes(["State", "Status", *names])
        state, status, *numbers = (answer.value for answer in answers)
    except tango.DevFailed as error:
        return Reading(device, status=f"no answer: {error.args[0].desc}")
    values = {name: float(value) for name, value in zip(names, numbers, strict=True)}
    return Reading(device, str(state), status, values)


def table_of(readings: Sequence[Reading]) -> Group:
    """Return a table with a column for each device, and below it what they say."""
    said = "\n".join(f"{one.device}: {one.status}" for one in readings if one.status)
    table = Table()
    table.add_column()
    for one in readings:
        table.add_column(one.device.replace("/", "/\n", 2), justify="right")
    table.add_row("state", *(Text(one.state, STYLES.get(one.state, "")) for one in readings))
    for name, title in SHOWN.items():
        if any(name in one.values for one in readings):
            table.add_row(title, *(_cell(name, one.values) for one in readings))
    return Group(table, Text(said))


def line_of(reading: Reading) -> str:
    """Return what a device is doing, in one line."""
    numbers = ", ".join(
        f"{title} {_cell(name, reading.values)}"
        for name, title in SHOWN.items()
        if _cell(name, reading.values)
    )
    return f"{reading.device} {reading.state}: {numbers or reading.status}"


def _cell(name: str, values: Mapping[str, float]) -> str:
    value = values.get(name, math.nan) * SCALES.get(name, 1.0)
    return "" if math.isnan(value) else f"{value:.{DECIMALS.get(name, 0)}f}"


class Display:
    """Shows readings as they change; a context.

    Parameters
    ----------
    console
        Where: redrawn in place on a terminal, a line now and then elsewhere.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown: list[str] = []
        self._due = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, readings: Iterable[Reading], last: bool = False) -> None:
        """Show what devices are doing; the last readings are shown in any case."""
        readings = list(readings)
        if self._live:
            self._live.update(table_of(readings), refresh=True)
            return
        lines = [line_of(one) for one in readings]
        if lines != self._shown and (last or time.monotonic() >= self._due):
            self._console.print("\n".join(lines), soft_wrap=True)
            self._shown, self._due = lines, time.monotonic() + LINE_INTERVAL
