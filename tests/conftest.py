"""What all tests share: errors in the log fail a test, and where the real data is."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class ErrorRecords(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files of this folder: nobody should wait for one at the end."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != here)


@pytest.fixture(autouse=True)
def errors_in_the_log_fail(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logs an error, unless it is marked `allow_error_log`."""
    records = ErrorRecords()
    logging.getLogger().addHandler(records)
    yield
    logging.getLogger().removeHandler(records)
    if records.messages and not request.node.get_closest_marker("allow_error_log"):
        pytest.fail(f"errors were logged: {records.messages}")


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves threads behind."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not left, f"threads left behind: {left}"


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real detector data, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not here: {SHARED_DATA.name} beside the clone's shared/")
    return SHARED_DATA


@pytest.fixture
def lab6(shared_data: Path) -> Path:
    """Folder that holds the LaB6 recording of the Pilatus and its scan."""
    if not (shared_data / "lab6-pilatus.cbors.gz").is_file():
        pytest.skip("the LaB6 recording is not among the real data")
    return shared_data


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
