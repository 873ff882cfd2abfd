"""The way of frames, hop by hop: detector, stream, device, file; how each is, and what to do.

What a device says in the first sentence of its Status is told as it is. What is added
here is what a device cannot know: that another one does not run or does not answer,
and how long ago something last came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..core.sinks.room import NOTED
from .answers import DEVICE_TIME, Answer, Answers, Device, source_device

NOBODY, READY, NO_SOURCE = "nobody sends at", "Ready: Start", "Not running: set SourceUrl"
"""What the first line of Status has that must be told apart, which State does not tell."""
SILENCE = 30.0
"""Seconds without a message, in the middle of a series, that are worth a look."""
UNANSWERED = f"does not answer within {DEVICE_TIME:g} s"
ANY_HOST = {"*", "[::]", "0.0.0.0"}  # noqa: S104 (nothing is bound here)
THIS_HOST = {"localhost", "127.0.0.1", "[::1]"}


class Mark(Enum):
    """How a hop is."""

    OK = "ok"
    LOOK = "look"
    """It is not ready for frames, or there is something to look at."""
    WRONG = "wrong"
    """Frames cannot pass."""


MARKS = {"FAULT": Mark.WRONG, "ALARM": Mark.LOOK, "UNKNOWN": Mark.LOOK, "INIT": Mark.LOOK}
"""Of states; others are well."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop, as one line tells it."""

    hop: str
    """What it is: detector, stream, device or file."""
    name: str
    """Name of the device, address of the stream, path of the file."""
    mark: Mark
    says: str
    """How it is, in few words."""
    next_step: str = ""
    """What to do, or to know, in sentences."""
    age: float | None = None
    """Seconds since the last message, or since the file was last written to."""
    depth: int = 0
    """How many devices frames went through before."""


def hops(answers: Answers) -> Iterator[list[Hop]]:
    """Yield for each detector the hops of the way of its frames, in their order."""
    simulators = [one for one in answers.devices if one.class_name == "DetectorSimulator"]
    stages = [one for one in answers.devices if one not in simulators]
    firsts = [one for one in stages if not any(_feeds(other, one) for other in stages)]
    told: set[str] = set()
    for device in (*firsts, *stages):  # those of a ring have no first
        if device.name not in told:
            feeding = [one for one in simulators if _feeds(one, device)]
            told |= {one.name for one in feeding}
            lines = [_simulator(one, answers.of(one.name)) for one in feeding]
            yield [*lines, *_through(device, stages, answers, told, 0)]
    for one in simulators:
        if one.name not in told:
            yield [_simulator(one, answers.of(one.name))]


def _through(
    device: Device, stages: list[Device], answers: Answers, told: set[str], depth: int
) -> Iterator[Hop]:
    """Yield the hops to a device, through it, and of the devices that it sends frames to."""
    told.add(device.name)
    answer = answers.of(device.name)
    fed = any(_feeds(other, device) for other in stages)
    if detector := device.detector or ("" if fed else source_device(device.source)):
        yield _detector(detector, answers.of(detector), depth)
    yield _stream(device, answer, depth)
    yield _device(device, answer, depth)
    if answer.values:
        yield _file(answer, depth)
    for other in stages:
        if other.name not in told and _feeds(device, other):
            yield from _through(other, stages, answers, told, depth + 1)


def _feeds(sender: Device, receiver: Device) -> bool:
    """Tell whether a device reads what another one sends, or one of its attributes."""
    if name := source_device(receiver.source):
        return name.lower().split("/")[-3:] == sender.name.lower().split("/")
    return bool(sender.offers) and _same_address(sender.offers, receiver.source)


def _same_address(offered: str, read: str) -> bool:
    """Tell whether who connects to an address comes to whom listens at another."""
    (scheme, _, listens), (other, _, connects) = (
        url.partition("?")[0].partition("://") for url in (offered, read)
    )
    if scheme != other or listens == connects:
        return scheme == other
    (host, _, port), (wanted, _, other_port) = listens.rpartition(":"), connects.rpartition(":")
    return port == other_port and (host in ANY_HOST or {host, wanted} <= THIS_HOST)


# ------------------------------------------------------------------- the hops


def _simulator(device: Device, answer: Answer) -> Hop:
    absent = _absent("detector", device, answer, 0)
    if absent:
        return absent
    state, sentence, _ = _condition(answer)
    says = f"{state}, {answer.values.get('images_sent', 0)} images sent"
    mark = MARKS.get(state, Mark.OK)
    return Hop("detector", device.name, mark, says, "" if state == "RUNNING" else sentence)


def _detector(name: str, answer: Answer, depth: int) -> Hop:
    """Return the line of a detector's own device, whose class is not Ronda's."""
    if not answer.values:
        why = "does not run" if answer.gone else answer.error or UNANSWERED
        return Hop("detector", name, Mark.WRONG, why, "Is its server running?", depth=depth)
    state, sentence, _ = _condition(answer)
    mark = MARKS.get(state, Mark.OK)
    return Hop("detector", name, mark, state, "" if mark is Mark.OK else sentence, depth=depth)


def _stream(device: Device, answer: Answer, depth: int) -> Hop:
    values = answer.values
    address = (values.get("source_url") or device.source).partition("?")[0]
    age = _age(answer, "last_message_time")

    def line(mark: Mark, says: str, next_step: str = "") -> Hop:
        return Hop("stream", address or "none", mark, says, next_step, age, depth)

    if not values:
        return line(Mark.LOOK, "not known: who reads it does not answer")
    state, sentence, _ = _condition(answer)
    if state == "UNKNOWN":
        asked = NOBODY in sentence and not depth  # else the sender stands above
        hint = " Is the sender on, and armed?" if asked else ""
        return line(Mark.WRONG, "nothing can come", sentence + hint)
    if state == "ALARM" and READY in sentence:
        return line(Mark.LOOK, "is not read", "Start begins to read it.")
    if state not in ("RUNNING", "ALARM") or NO_SOURCE in sentence:
        return line(Mark.LOOK, "is not read")
    lost = values.get("frames_lost", 0)
    rate = f"{values.get('input_rate') or 0:.1f} frames/s, {lost or 'none'} lost"
    if age is None:
        return line(Mark.OK, "nothing yet", "Nothing has come since Start: begin a series.")
    if values.get("in_series") and age > SILENCE:
        return line(
            Mark.LOOK, rate, "The series has not ended and nothing comes: does its sender go on?"
        )
    return line(Mark.OK, rate)


def _device(device: Device, answer: Answer, depth: int) -> Hop:
    absent = _absent("device", device, answer, depth)
    if absent:
        return absent
    state, sentence, more = _condition(answer)
    mark = Mark.LOOK if state == "STANDBY" else MARKS.get(state, Mark.OK)
    if state == "RUNNING":
        sentence = " ".join(more)
    elif state == "UNKNOWN":
        sentence = " ".join(more[:-1])  # the stream's line has the first, the last is of no use
    else:
        sentence = " ".join([sentence, *more])
    if device.source != answer.values.get("source_url", device.source):
        mark = Mark.LOOK
        sentence = f"Its property SourceUrl is now {device.source}: Init takes it up. {sentence}"
    return Hop("device", device.name, mark, f"{state}, {_ledger(answer)}", sentence, None, depth)


def _file(answer: Answer, depth: int) -> Hop:
    values = answer.values
    path, left = values.get("file", ""), values.get("disk_time_left")
    if not path:
        return Hop("file", "none", Mark.OK, "none written yet", depth=depth)
    age, stream_age = _age(answer, "file_time"), _age(answer, "last_message_time")
    says = "complete" if values.get("file_complete") else "being written"
    mark, next_step = Mark.OK, ""
    if left is not None:
        says += f", disk full in {duration(left)}"
    if left is not None and left < NOTED:
        mark, next_step = Mark.LOOK, "Make room on its disk."
    late = age is not None and age > SILENCE
    if late and values.get("in_series") and (stream_age or 0) < SILENCE:
        mark = Mark.LOOK
        next_step = "Frames come and nothing reaches the file: is its disk full, or away?"
    return Hop("file", path, mark, says, next_step, age, depth)


# ------------------------------------------------------------- what they share


def _absent(hop: str, device: Device, answer: Answer, depth: int) -> Hop | None:
    """Return the line of a device of ours that cannot be asked; None if it answered."""
    program, _, instance = device.server.partition("/")
    start = f"Start its server: {program} {instance}"
    if not device.exported:
        says = "does not run" if device.has_run else "has never run"
        next_step = start
    elif answer.gone:
        says, next_step = f"has died (it was process {device.process})", start
    elif answer.error:
        says, next_step = "cannot be asked", answer.error
    elif not answer.values:
        says = UNANSWERED
        next_step = f"If it stays so, end process {device.process}. {start}"
    else:
        return None
    return Hop(hop, device.name, Mark.WRONG, says, next_step, depth=depth)


def _condition(answer: Answer) -> tuple[str, str, list[str]]:
    """Return state, first line and further lines of Status."""
    first, *more = str(answer.values.get("Status", "")).splitlines() or [""]
    return str(answer.values.get("State", "UNKNOWN")), first, more


def _ledger(answer: Answer) -> str:
    """Return the ledger and what is left to do, in short."""
    values = answer.values
    names = ("received", "reduced", "rejected", "dropped", "queued")
    counts = {name: values.get(f"frames_{name}", 0) for name in names}
    shown = [f"{count} {name}" for name, count in counts.items() if count or name == "received"]
    if fill := values.get("queue_fill"):
        shown.append(f"queue {fill:.0f} % full")
    if (latency := values.get("latency")) is not None:
        shown.append(f"latency {1000 * latency:.0f} ms")
    return ", ".join(shown)


def _age(answer: Answer, attribute: str) -> float | None:
    """Return the seconds since a time that a device shows, by its own clock."""
    since: Any = answer.values.get(attribute)
    return max(0.0, answer.time - since) if since else None


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    units = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48), ("d", 86400, math.inf))
    value, unit = next((seconds / one, name) for name, one, most in units if seconds < most * one)
    return f"{value:.{int(value < 10)}f} {unit}"
