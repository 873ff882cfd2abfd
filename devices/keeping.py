"""A device's folder for what outlives it: its parameters, checkpoints, and the lock on both."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO

import platformdirs

from ..core.parameters import ParameterError, Parameters, load_yaml, save_text, save_yaml

RETRY = 5.0
"""Seconds between trials to keep what could not be kept."""


class FolderError(OSError):
    """A folder that cannot be used; the message is one sentence."""


class FolderInUse(FolderError):
    """A folder that another process has locked: this device is running already."""


class StateFolder:
    """The folder of one device, locked while the device is alive.

    Parameters
    ----------
    root
        Folder that holds those of all devices; empty: systemd's
        STATE_DIRECTORY, else the user's folder for such things.
    device
        Name of the device, `domain/family/member`.

    Raises
    ------
    FolderError
        If it cannot be made or written to.
    FolderInUse
        If another process has it.
    """

    def __init__(self, root: str, device: str) -> None:
        service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        base = Path(root or service or platformdirs.user_state_path("ronda"))
        self.path = base / device.lower().replace("/", "_")
        self.parameters_file = self.path / "parameters.yaml"
        self.problem = ""
        """Why something is not kept, in one sentence; empty if all is."""
        self._waiting: dict[str, Callable[[Path], None]] = {}
        """What writes each file that is not kept yet, by its name."""
        self._tried = 0.0
        self._saving = threading.Lock()
        self._lock = self._take_lock(device)

    def _take_lock(self, device: str) -> IO[str]:
        """Return the lock file, locked; the lock ends with the process, however it ends."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise FolderError(
                f"StateDirectory {self.path} cannot be used ({error.strerror}): "
                "name a folder that this user may write to, then Init"
            ) from None
        try:
            # a POSIX lock: not inherited by the process that writes the files
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise FolderInUse(
                f"{device} is running already ({holder}): stop it before starting it again"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: who comes second is not told who has it
            os.truncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        return lock

    def load(self, defaults: Parameters) -> tuple[Parameters, str]:
        """Return the parameters kept here, or the defaults and a sentence why not.

        A file that cannot be used is kept aside, never overwritten.
        """
        if not self.parameters_file.exists():
            return defaults, ""
        try:
            return defaults.changed(load_yaml(self.parameters_file)), ""
        except ParameterError as error:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            aside = self.parameters_file.with_name(f"parameters.refused-{stamp}.yaml")
            self.parameters_file.replace(aside)
            return defaults, (
                f"the defaults are in use, because the kept parameters are refused ({error}); "
                f"they are in {aside}"
            )

    def save(self, parameters: Parameters, texts: Mapping[str, str]) -> None:
        """Keep the parameters, and texts beside them, as `keep` does."""
        self._keep({self.parameters_file.name: partial(save_yaml, parameters), **_writers(texts)})

    def keep(self, texts: Mapping[str, str]) -> None:
        """Keep texts by file name; an empty one is taken away.

        Where that fails `problem` says why, and `save_again` may help.
        """
        self._keep(_writers(texts))

    def read(self, name: str) -> str:
        """Return a text that was kept; empty if there is none that can be read."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def save_again(self) -> None:
        """Try again to keep what could not be kept, now and then; else do nothing."""
        if self._waiting and time.monotonic() > self._tried + RETRY:
            self._keep({})

    def _keep(self, writers: Mapping[str, Callable[[Path], None]]) -> None:
        with self._saving:
            self._waiting |= writers
            self._tried = time.monotonic()
            problem = ""
            for name, write in list(self._waiting.items()):
                try:
                    write(self.path / name)
                    del self._waiting[name]
                except OSError as error:  # others may do: a full disk lets files be taken away
                    problem = problem or (
                        f"{name} cannot be kept for the next start in {self.path} "
                        f"({error.strerror}); it is tried again"
                    )
            self.problem = problem

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()


def _writers(texts: Mapping[str, str]) -> dict[str, Callable[[Path], None]]:
    """Return what keeps texts, by file name."""
    return {name: partial(save_text, text) if text else _remove for name, text in texts.items()}


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
