"""What tests of core share: a thread that reads a source, bitshuffle-LZ4 data, an OpenCL device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.compute.device import Compute, opencl_devices
from ronda.core.sources import Event, Source


class Collector:
    """Reads a source in a thread of its own."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.events: list[Event] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for event in self.source.events():
            self.events.append(event)

    def of(self, *kinds: type) -> list[Any]:
        """Return the events of these kinds so far."""
        return [event for event in list(self.events) if isinstance(event, kinds)]

    def close(self) -> None:
        self.source.close()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the source did not end when it was closed"


@pytest.fixture
def collect() -> Iterator[Callable[[Source], Collector]]:
    """Return a function that begins to read a source; everything is closed at the end."""
    collectors: list[Collector] = []

    def start(source: Source) -> Collector:
        collectors.append(Collector(source))
        return collectors[-1]

    yield start
    for collector in collectors:
        collector.close()


def _bslz4(image: NDArray[Any]) -> bytes:
    """Return an image as HDF5's bitshuffle filter stores it, 12-byte header included."""
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset(
            "data", data=image, chunks=image.shape, **hdf5plugin.Bitshuffle(cname="lz4")
        )
        return bytes(dataset.id.read_direct_chunk((0, 0))[1])


@pytest.fixture(scope="session")
def bslz4() -> Callable[[NDArray[Any]], bytes]:
    """Return the encoder of test data."""
    return _bslz4


@pytest.fixture(scope="session")
def poisson() -> NDArray[np.uint16]:
    """Return a small image that compresses well, (60, 130)."""
    return np.random.default_rng(1).poisson(2, (60, 130)).astype(np.uint16)


@pytest.fixture(scope="session")
def opencl() -> Compute:
    """Return the choice of an OpenCL device; the one that every computer can have is PoCL."""
    if not opencl_devices():
        pytest.skip("OpenCL has no device here")
    return Compute(opencl=True)
