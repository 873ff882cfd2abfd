"""The toy stage as a device server: all that a new stage needs to be in Tango."""

from __future__ import annotations

from ronda.devices.base import StageDevice
from ronda.devices.servers import serve
from ronda.tests.toy import ToyStage


class ToyDevice(StageDevice, stage=ToyStage):
    """Sums the pixels of each frame."""


if __name__ == "__main__":
    serve("ToyDevice", ToyDevice)
