"""Files that follow each other: what stands for those that are damaged or not there."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

NAMED = 3
"""Gaps that are named one by one."""


def usual_size(others: Collection[int], last: int | None) -> int | None:
    """Return how many frames a file stands for whose own number of frames is not known.

    Parameters
    ----------
    others
        Frames in the files around it, without the last one of all.
    last
        Frames in the last one, which may hold fewer than the others; None: not known.

    Returns
    -------
    int or None
        None if the files do not tell: they differ, or there is only the last one.
    """
    sizes = set(others)
    if not sizes:
        return 1 if last == 1 else None
    size = sizes.pop()
    return None if sizes or (last is not None and last > size) else size


class Gaps(NamedTuple):
    """What is missing in the numbers of files."""

    before: dict[int, int]
    """How many files are missing before one, by its place in the list."""
    sentence: str
    """Where they are missing; empty: nowhere."""
    even: bool = True
    """False: so many are missing that the numbers do not count the files."""


def find_gaps(names: Sequence[str]) -> Gaps:
    """Return where files are missing, as far as their numbers show it.

    They do where the names differ in one number only: it grows in steps of the greatest
    common divisor of all steps (1, 4, 10: 7 is missing; 1, 3, 5: nothing is).

    Parameters
    ----------
    names
        In the order of their numbers.
    """
    parted = [re.split(r"(\d+)", name) for name in names]
    if len(parted) < 3 or any(len(parts) != len(parted[0]) for parts in parted):
        return Gaps({}, "")
    differ = [at for at, texts in enumerate(zip(*parted, strict=True)) if len(set(texts)) > 1]
    if len(differ) != 1 or differ[0] % 2 == 0:
        return Gaps({}, "")
    numbers = [int(parts[differ[0]]) for parts in parted]
    steps = [after - before for before, after in pairwise(numbers)]
    if min(steps) <= 0:
        return Gaps({}, "")
    step = math.gcd(*steps)
    before = {at: size // step - 1 for at, size in enumerate(steps, 1) if size > step}
    places = [f"{count} after {Path(names[at - 1]).name}" for at, count in before.items()]
    more = ", ..." if len(places) > NAMED else ""
    missing = sum(before.values())
    if not missing:
        return Gaps({}, "")
    sentence = f"files are missing by their numbers: {', '.join(places[:NAMED])}{more}"
    return Gaps(before, sentence, even=missing < len(names))
