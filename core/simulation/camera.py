"""A simulated sCMOS camera: a sensor, the light on it, and frames that are made when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sensor import Sensor


class Purpose(IntEnum):
    """What random numbers are for: those of one purpose never change with another's."""

    SENSOR = 0
    SCENE = 1
    LIGHT = 2
    FRAME = 3
    DARK = 4


def generator(seed: int, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """Return the random numbers of a purpose, and of one frame."""
    return np.random.default_rng((seed, purpose, number))


@dataclass(frozen=True, eq=False)
class Camera(ABC):
    """Simulated frames with the truth about them, the same for the same seed."""

    sensor: Sensor
    count: int
    """Number of frames."""
    seed: int

    @cached_property
    def frames(self) -> NDArray[np.uint16]:
        """All frames in counts [frame, row, column], made at first use."""
        return self._stack(self.frame, self.count)

    @property
    def hot_pixels(self) -> NDArray[np.int64]:
        """(n, 2): row and column of the hot pixels."""
        return self.sensor.hot_pixels

    def frame(self, number: int) -> NDArray[np.uint16]:
        """Return one frame in counts [row, column], the same whenever it is asked for."""
        light = np.zeros(self.sensor.shape, np.float32)
        self.shine(light, number)
        return self.sensor.expose(light, generator(self.seed, Purpose.FRAME, number))

    def dark(self, number: int) -> NDArray[np.uint16]:
        """Return one dark frame of the same sensor; its noise is that of no other frame."""
        return self.sensor.expose(None, generator(self.seed, Purpose.DARK, number))

    def darks(self, count: int) -> NDArray[np.uint16]:
        """Return dark frames of the same sensor in counts [frame, row, column]."""
        return self._stack(self.dark, count)

    @abstractmethod
    def shine(self, light: NDArray[np.float32], number: int) -> None:
        """Add a frame's signal in counts to an image [row, column]."""

    @abstractmethod
    def truth(self) -> Mapping[str, NDArray[Any]]:
        """Return what is true of the frames: arrays, and tables of named columns."""

    def _stack(self, make: Callable[[int], NDArray[np.uint16]], count: int) -> NDArray[np.uint16]:
        frames = np.empty((count, *self.sensor.shape), np.uint16)
        for number in range(count):
            frames[number] = make(number)
        return frames
