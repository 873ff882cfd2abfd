"""What is kept of the frames of a series, one row each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..frame import Frame, Series
from ..growing import Growing
from ..positions import Scan
from ..stage import SLOTS
from .roi import MEAN, STATISTICS


class SeriesRows:
    """The frames of one series: numbers, times and ROI means of all, more of the newest.

    ROIs stand in slots. A row is what was found when its frame was reduced; the
    newest rows may be replaced for a ROI that was moved, its older ones are then
    not shown any more. What was found at first is kept for the file.
    """

    def __init__(self, series: Series, history: int) -> None:
        self.series = series
        self.history = history
        """Newest rows of which everything is kept."""
        self.scan: Scan | None = None
        """The scan in which the series was taken, as far as known."""
        self._frames = Growing(np.int64)
        self._events = Growing(np.int64)
        self._times = Growing(np.float64)
        self._means: dict[int, Growing] = {}
        self._newest = Growing(np.float64, (SLOTS, len(STATISTICS)))
        self._valid_from = dict.fromkeys(range(SLOTS), 0)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def frames(self) -> NDArray[np.int64]:
        """The detector's frame numbers, (n,)."""
        return self._frames.values

    @property
    def events(self) -> NDArray[np.int64]:
        """Trigger events, (n,); -1 where unknown."""
        return self._events.values

    @property
    def times(self) -> NDArray[np.float64]:
        """Unix times in s, (n,)."""
        return self._times.values

    @property
    def first_live(self) -> int:
        """Number of the first row of which everything is shown."""
        return max(len(self) - self.history, 0)

    def add(self, frame: Frame, statistics: NDArray[np.float64]) -> None:
        """Add a row.

        Parameters
        ----------
        frame
            Whose row it is.
        statistics
            (SLOTS, len(STATISTICS)), NaN where a slot holds no ROI.
        """
        for slot in range(SLOTS):
            if slot not in self._means and not np.isnan(statistics[slot, MEAN]):
                self._means[slot] = Growing(np.float64)
                self._means[slot].extend(np.nan, len(self))
        for slot, means in self._means.items():
            means.append(statistics[slot, MEAN])
        self._frames.append(frame.frame_id)
        self._events.append(-1 if frame.event_number is None else frame.event_number)
        self._times.append(frame.taken)
        self._newest.append(statistics)
        self._newest.keep_last(max(self.history, 1))

    def live(self, slot: int, statistic: int) -> NDArray[np.float64]:
        """Return the newest values of one statistic in a slot; a copy."""
        rows = self._newest.values[len(self._newest) - (len(self) - self.first_live) :]
        return rows[:, slot, statistic].copy()

    def written_means(self, slot: int) -> NDArray[np.float64]:
        """Return the means of all frames as first found, (n,); NaN where there was no ROI."""
        if slot not in self._means:
            return np.full(len(self), np.nan)
        return self._means[slot].values

    def shown_means(self, slot: int) -> NDArray[np.float64]:
        """Return the means of all frames for the present ROI, (n,); NaN where not known; a copy."""
        means = self.written_means(slot).copy()
        begin = len(self) - len(self._newest)
        means[begin:] = self._newest.values[:, slot, MEAN]
        means[: self._valid_from[slot]] = np.nan
        return means

    def forget(self, slot: int) -> None:
        """Show no row so far of a slot: its ROI is another now."""
        self._newest.values[:, slot] = np.nan
        self._valid_from[slot] = len(self)

    def replace(self, slot: int, row: int, statistics: NDArray[np.float64]) -> None:
        """Show other values, (len(STATISTICS),), in a row; unless it is too old."""
        index = row - (len(self) - len(self._newest))
        if index >= 0:
            self._newest.values[index, slot] = statistics
            self._valid_from[slot] = min(self._valid_from[slot], row)
