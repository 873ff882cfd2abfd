"""A device that knows a source which fails as none should, after three frames of a series."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import numpy as np
import zmq
from ronda.core.frame import Frame, Series, SeriesStart, new_run_id
from ronda.core.sources.base import Event, Source, source
from ronda.devices.base import StageDevice
from ronda.devices.servers import serve
from ronda.tests.toy import ToyStage

ERRORS = {"memory": MemoryError(), "zmq": zmq.ZMQError(errno.EMFILE)}
FRAMES = 3


@source("breaking")
class BreakingSource(Source):
    """`breaking:ERROR`."""

    def events(self) -> Iterator[Event]:
        series = Series(new_run_id(), filename="/there/broken.h5")
        yield SeriesStart(series)
        for number in range(FRAMES):
            yield Frame(series, number, np.ones((4, 5), np.uint16))
        raise ERRORS[self.url.partition(":")[2]]


class BreakingDevice(StageDevice, stage=ToyStage):
    """Sums the pixels of each frame."""


if __name__ == "__main__":
    serve("BreakingDevice", BreakingDevice)
