"""What takes seconds to build is built once, also where two threads ask for it at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class Building:
    """A lock that its holder may take again; what gathered under it is forgotten at the end."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._forgetting: set[Callable[[], object]] = set()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        try:
            while self._depth == 1 and self._forgetting:
                self._forgetting.pop()()
        finally:
            self._depth -= 1
            self._lock.release()

    def at_the_end(self, forget: Callable[[], object]) -> None:
        """Have something done, once, when the lock is let go; call it under the lock."""
        self._forgetting.add(forget)


PYFAI = Building()
"""Held while pyFAI sets something up: its objects keep caches that no lock guards, and that
are of no use afterwards (50 to 100 bytes for each pixel)."""


def built_once(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep a function's latest results; nobody builds while another does.

    Parameters
    ----------
    maxsize
        Number of results that are kept. What raises is not kept.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        kept = cast(Callable[P, T], lru_cache(maxsize=maxsize)(function))

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with PYFAI:
                return kept(*args, **kwargs)

        return call

    return decorate
