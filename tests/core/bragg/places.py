"""Where pixels lie, by the rules of NXmx, and detectors that stand anyhow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def nxmx_place(file: h5py.File, fast: float, slow: float) -> Floats:
    """Return where a point of the module is, in m; it is so many px from the first corner."""
    place = np.zeros(3)
    detector = file["entry/instrument/detector"]
    for name, steps in (("fast_pixel_direction", fast), ("slow_pixel_direction", slow)):
        axis = detector["module"][name]
        assert abs(np.linalg.norm(axis.attrs["vector"]) - 1) < 1e-12
        place += steps * axis[()] * axis.attrs["vector"]
    while (above := axis.attrs["depends_on"]) != ".":
        axis = file[above]
        place += axis[()] * axis.attrs["vector"] + axis.attrs["offset"]
    return place


@dataclass(frozen=True)
class Standing:
    """A detector of 300 by 200 pixels that stands anyhow; lengths in m, turns in rad."""

    orientation: int
    turns: tuple[float, float, float]
    distance: float = 0.21
    poni: tuple[float, float] = (0.011, 0.017)
    pixel: tuple[float, float] = (1e-4, 1e-4)

    shape = (300, 200)

    def pyfai(self) -> Any:
        """Return pyFAI's geometry of it."""
        from pyFAI.detectors import Detector
        from pyFAI.geometry import Geometry

        detector = Detector(*self.pixel, max_shape=self.shape, orientation=self.orientation)
        return Geometry(self.distance, *self.poni, *self.turns, detector=detector, wavelength=1e-10)

    def places(self) -> Floats:
        """Return where pyFAI sees the pixels' centres, (rows, columns, 3), in CrystFEL's axes.

        x is to the left, y up and z along the beam; pyFAI's axes are up, to the right and
        along the beam, and those of its orientation 3 down, see `instrument._plane`.
        """
        z, one, two = self.pyfai().calc_pos_zyx()
        return np.stack((-two, -one if self.orientation == 3 else one, z), axis=-1)

    def sparse(self, path: Path) -> Path:
        """Write a sparse file with one frame, the place told as pyFAI and Ronda tell it."""
        from .sparse_files import Sparse

        Sparse([[0]], [[1]], mask=np.ones(self.shape, np.float32)).write(path)
        with h5py.File(path, "r+") as file:
            detector = file["entry_0000/beamline/Eiger_4M"]
            detector["y_pixel_size"][()], detector["x_pixel_size"][()] = self.pixel
            text = json.dumps({"geometry": dict(self.pyfai().get_config())})
            file["entry_0000/sparsify/configuration/data"] = text
        return path
