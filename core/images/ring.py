"""The newest images, kept for looking at them again with other ROIs."""

from __future__ import annotations

from collections import deque

from ..frame import Encoded
from ..marks import Pixels


class Ring:
    """Images by the number of their row, the oldest given up when there are too many bytes."""

    def __init__(self) -> None:
        self._images: deque[tuple[int, Pixels | Encoded]] = deque()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def add(self, row: int, image: Pixels | Encoded, limit: int) -> None:
        """Keep an image, by reference, and at most `limit` bytes of them all."""
        self._images.append((row, image))
        self._nbytes += image.nbytes
        while self._nbytes > limit:
            self._nbytes -= self._images.popleft()[1].nbytes

    def clear(self) -> None:
        """Give up all images."""
        self._images.clear()
        self._nbytes = 0

    def images(self) -> list[tuple[int, Pixels | Encoded]]:
        """Return the row and image of each, oldest first."""
        return list(self._images)
