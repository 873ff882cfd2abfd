"""What takes seconds to build is built once, also where two threads ask for it at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

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
    """Keep the results of a function that were last asked for; nobody builds while another does.

    Who asks for what is kept waits for nobody: each frame does.

    Parameters
    ----------
    maxsize
        Number of results that are kept. What raises is not kept.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        kept: OrderedDict[object, T] = OrderedDict()
        looking = threading.Lock()

        def look(key: object) -> T:
            with looking:
                kept.move_to_end(key)
                return kept[key]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            key = args, tuple(sorted(kwargs.items()))
            with suppress(KeyError):
                return look(key)
            with PYFAI:
                with suppress(KeyError):  # who was here before may have built it
                    return look(key)
                result = function(*args, **kwargs)
                with looking:
                    kept[key] = result
                    while len(kept) > maxsize:
                        kept.popitem(last=False)
                return result

        return call

    return decorate
