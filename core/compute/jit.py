"""How kernels are compiled: with Numba, once, and kept in a folder of ours.

One thread a kernel and the GIL released: frames run in parallel, not pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import platformdirs

F = TypeVar("F", bound=Callable[..., Any])


def cache_directory() -> Path | None:
    """Return the folder for compiled kernels, made if need be; None if there can be none.

    It is NUMBA_CACHE_DIR, else below systemd's CACHE_DIRECTORY, else below the
    user's cache. What lies there is run, so it must belong to this user.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    service = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    base = Path(service) if service else platformdirs.user_cache_path("ronda")
    folder = Path(named) if named else base / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = folder.stat().st_uid == os.getuid()
    except (OSError, RuntimeError):
        return None
    return folder if ours and os.access(folder, os.W_OK | os.X_OK) else None


_FOLDER = cache_directory()
if _FOLDER is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(_FOLDER)
    numba.config.reload_config()  # type: ignore[no-untyped-call]


def kernel(function: F) -> F:
    """Compile a function at its first call, for the types it is called with.

    Sums of floats may be reordered (so that they vectorise); NaN and infinity
    keep their meaning; a division by zero gives infinity or NaN.
    """
    compiler = numba.njit(
        nogil=True, cache=_FOLDER is not None, error_model="numpy", fastmath={"reassoc"}
    )
    return cast(F, compiler(function))
