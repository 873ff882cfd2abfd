"""State and Status: how a device is, first in one sentence for the people at the beamline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tango import DevState

from ..core.results import Activity, Health


@dataclass(frozen=True, slots=True)
class Condition:
    """What State and Status show."""

    state: DevState
    status: str


INITIALISING = Condition(
    DevState.INIT, "Getting ready: the reduction is being prepared, which can take half a minute."
)


def condition(
    health: Health, fault: str, problems: Sequence[str], source: str, queued: int
) -> Condition:
    """Return the state of a device that is initialised.

    Parameters
    ----------
    health
        Of the runner.
    fault
        Why the device cannot work as it is set up, and what to do; empty if it can.
    problems
        What the device itself has to complain about, in sentences.
    source
        URL that is read.
    queued
        Frames that wait or are in work.
    """
    doing = _doing(health.activity, source, queued)
    alarms = [*problems, *health.alarms]
    if fault:
        state, first, doing = DevState.FAULT, fault, ""
    elif health.failure:
        state, first, doing = (
            DevState.FAULT,
            f"Stopped: {health.failure}. {_way_on(health, source)}",
            "",
        )
    elif health.source_lost and health.activity is not Activity.IDLE:
        state, first = DevState.UNKNOWN, f"No frames can come: {health.source_lost}."
    elif alarms:
        state, first = DevState.ALARM, f"{_sentence(alarms.pop(0))} {doing}"
        doing = "Reset acknowledges."
    elif health.activity is Activity.IDLE:
        state, first, doing = DevState.STANDBY, doing, ""
    else:
        state, first, doing = DevState.RUNNING, doing, ""
    lines = [first, *alarms, *health.notes, doing]
    return Condition(state, "\n".join(_sentence(line) for line in lines if line))


def _way_on(health: Health, source: str) -> str:
    """Return what to do about a source that cannot be read, as a sentence."""
    if not health.lasting:
        return "Reset, then Start tries again."
    return f"Correct {'SourceUrl' if source in health.failure else 'PositionsUrl'}, then Init."


def _doing(activity: Activity, source: str, queued: int) -> str:
    """Return what goes on, as a sentence."""
    match activity:
        case Activity.RUNNING:
            return f"Running: frames from {source} are reduced as they come."
        case Activity.DRAINING:
            if not queued:
                return "Stopping: the files are being completed."
            return f"Stopping: {queued} frames that have arrived are still being reduced."
        case Activity.IDLE:
            if not source:
                return "Not running: set SourceUrl to where frames come from, then Init."
            return f"Ready: Start begins to read {source}."


def _sentence(text: str) -> str:
    """Return a text that begins and ends as a sentence does."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
