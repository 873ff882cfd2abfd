"""What takes seconds to build is built once, also where two threads ask for it at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

PYFAI = threading.RLock()
"""Held while pyFAI sets something up: its objects keep caches that no lock guards."""


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
