"""The truth about simulated photons, and what was made of it: found, missed, or extra.

Only *isolated* photons tell: those with no other true photon close by. Of two that
share pixels no finder can say which one it found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from ..core.simulation.photons import PhotonKind
from .reading import Photons, open_file

COLUMNS = ("frame", "y", "x", "energy", "kind")
"""Of the table of true photons."""
ENDS = ("frame", "y0", "x0", "y1", "x1")
"""Of the table of streaks."""
MATCH = 1.0
"""A photon is found if it was placed so near to its true place, in px along y and x."""
ISOLATED = 3.0
"""An isolated photon has no other one so near, in px along y and x."""


@dataclass(frozen=True)
class Truth:
    """True photons, one in each row, and what else may look like one."""

    frame: NDArray[Any]
    y: NDArray[Any]
    """Centre of the charge in px, as x; the centre of pixel (r, c) is at (r, c)."""
    x: NDArray[Any]
    energy: NDArray[Any]
    """All of the charge in counts."""
    kind: NDArray[Any]
    """Values of `PhotonKind`."""
    hot_pixels: NDArray[Any]
    """(n, 2): row and column."""
    streaks: NDArray[Any]
    """(n, 5): frame, and row and column of both ends in px."""

    @property
    def row(self) -> NDArray[np.int64]:
        """Row of the pixel that the charge is centred on."""
        return np.floor(np.asarray(self.y, float) + 0.5).astype(np.int64)

    @property
    def column(self) -> NDArray[np.int64]:
        """Column of the same."""
        return np.floor(np.asarray(self.x, float) + 0.5).astype(np.int64)

    def looked_at(self, photons: Photons) -> NDArray[np.bool_]:
        """Tell which true photons lie where others were looked for."""
        frames = photons.frames
        inside = np.ones(len(self.frame), bool) if frames is None else np.isin(self.frame, frames)
        if photons.analysis is not None:
            x, y, width, height = photons.analysis
            inside &= (x <= self.column) & (self.column < x + width)
            inside &= (y <= self.row) & (self.row < y + height)
        return inside

    def chosen(self, which: NDArray[np.bool_]) -> Truth:
        """Return some of the photons."""
        columns = {name: getattr(self, name)[which] for name in COLUMNS}
        return replace(self, **columns)


@dataclass(frozen=True)
class Comparison:
    """Which photons were to be found, which were, and which are not true."""

    expected: NDArray[np.bool_]
    """Of the true ones: isolated, all of the charge collected, in the analysis ROI."""
    found: NDArray[np.bool_]
    """Of the true ones, expected or not."""
    extra: NDArray[np.bool_]
    """Of those that were found: no true one is there, or another was nearer to it."""
    explained: NDArray[np.bool_]
    """Of the extra ones: on a streak or a hot pixel."""

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Of the true ones: expected, but not found."""
        return self.expected & ~self.found

    def __str__(self) -> str:
        found = int((self.expected & self.found).sum())
        return (
            f"{found} of {self.expected.sum()} isolated photons found, {self.missed.sum()} missed, "
            f"{self.extra.sum()} extra"
            + (f" ({self.explained.sum()} on streaks or hot pixels)" if self.extra.any() else "")
        )


def read_truth(path: Path) -> Truth:
    """Return the truth of a simulation, from the file beside it.

    Raises
    ------
    ValueError
        If the file cannot be read or holds no true photons.
    """
    with open_file(path) as file:
        try:
            columns = {name: file[f"truth/photons/{name}"][()] for name in COLUMNS}
        except KeyError:
            raise ValueError(f"{path} holds no true photons: no /truth/photons") from None
        hot = file["truth/hot_pixels"][()] if "truth/hot_pixels" in file else np.empty((0, 2), int)
        streaks = [file[f"truth/streaks/{name}"][()] for name in ENDS if "truth/streaks" in file]
    return Truth(**columns, hot_pixels=hot, streaks=np.reshape(streaks, (len(ENDS), -1)).T)


def compare(photons: Photons, truth: Truth, valid: NDArray[np.bool_] | None = None) -> Comparison:
    """Find the true photon of each one that was found.

    Parameters
    ----------
    photons
        As found; none is matched to a photon of another frame, or twice.
    truth
        Of the frames as they were sent, not turned.
    valid
        [row, column] False in masked pixels: no photon is expected next to one, or at
        the edge; None: all are valid.
    """
    true, seen = (_places(table.frame, table.y, table.x) for table in (truth, photons))
    tree = cKDTree(true)
    apart, _ = tree.query(true, k=[2], p=np.inf, distance_upper_bound=2 * ISOLATED)
    isolated = apart[:, 0] > ISOLATED
    distance, nearest = tree.query(
        seen, p=np.inf, distance_upper_bound=np.nextafter(ISOLATED, np.inf)
    )
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] <= MATCH]
    matched, first = np.unique(nearest[order], return_index=True)
    found = np.zeros(len(truth.frame), bool)
    found[matched] = True
    extra = np.append(isolated, True)[nearest]  # the last one: no true photon is near
    extra[order[first]] = False
    expected = isolated & (truth.kind == PhotonKind.FULL) & truth.looked_at(photons)
    if valid is not None:
        expected[expected] = _surrounded(valid, truth.row[expected], truth.column[expected])
    return Comparison(expected, found, extra, extra & _explained(photons, truth))


def _places(frame: Any, y: Any, x: Any) -> NDArray[np.float64]:
    """Return (n, 3) frame, y and x; the frames are so far apart that none is near another."""
    return np.column_stack([np.asarray(frame, float) * 4 * ISOLATED, y, x])


def _explained(photons: Photons, truth: Truth) -> NDArray[np.bool_]:
    """Tell which photons lie on a streak, or on a hot pixel, as near as they share pixels."""
    points = [np.empty((0, 3))]
    for frame, y0, x0, y1, x1 in truth.streaks:
        number = int(np.hypot(y1 - y0, x1 - x0)) + 2  # less than a pixel from one to the next
        along = np.linspace(y0, y1, number), np.linspace(x0, x1, number)
        points.append(_places(np.full(number, frame), *along))
    streaks, hot = cKDTree(np.concatenate(points)), cKDTree(truth.hot_pixels.astype(float))
    place = _places(photons.frame, photons.y, photons.x)
    bound = np.nextafter(ISOLATED, np.inf)
    on_streak, _ = streaks.query(place, p=np.inf, distance_upper_bound=bound)
    on_hot, _ = hot.query(place[:, 1:], p=np.inf, distance_upper_bound=bound)
    near: NDArray[np.bool_] = np.isfinite(np.minimum(on_streak, on_hot))
    return near


def _surrounded(
    valid: NDArray[np.bool_], row: NDArray[np.int64], column: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which pixels are, with all eight around them, on the image and valid."""
    whole = np.pad(binary_erosion(valid, np.ones((3, 3))), 1)
    rows, columns = valid.shape
    return np.asarray(whole[np.clip(row + 1, 0, rows + 1), np.clip(column + 1, 0, columns + 1)])
