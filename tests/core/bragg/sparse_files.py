"""Sparse files in pyFAI's layout, written by hand for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

GROUP = "entry_0000/sparse_frames"


@dataclass
class Sparse:
    """What a sparse file holds. Entries of `change` replace datasets; None leaves one out."""

    index: list[list[int]]
    intensity: list[list[Any]]
    dtype: Any = np.int32
    mask: NDArray[Any] = field(default_factory=lambda: rings((6, 8)))
    radius: NDArray[Any] | None = field(default_factory=lambda: np.arange(8, dtype=np.float32))
    average: NDArray[Any] | None = None
    deviation: NDArray[Any] | None = None
    pointer: Any = np.uint32
    change: dict[str, Any] = field(default_factory=dict)
    peaks: list[list[tuple[float, float, float, float]]] | None = None

    def write(self, path: Path) -> Path:
        """Write the file."""
        count = len(self.index)
        lengths = [len(index) for index in self.index]
        values: dict[str, Any] = {
            "frame_ptr": np.cumsum([0, *lengths]).astype(self.pointer),
            "index": np.array([i for frame in self.index for i in frame], np.uint32),
            "intensity": np.array([v for frame in self.intensity for v in frame], self.dtype),
            "mask": self.mask,
            "dummy": -2.0,
        }
        if self.radius is not None:
            bins = len(self.radius)
            flat = np.ones((count, bins), np.float32)
            values["radius"] = self.radius
            values["background_avg"] = flat if self.average is None else self.average
            values["background_std"] = flat if self.deviation is None else self.deviation
        values |= self.change
        with h5py.File(path, "w") as file:
            file.attrs.update(default="entry_0000", creator="pyFAI_2026.9.0")
            group = file.create_group(GROUP)
            file["entry_0000"].attrs["pyFAI_sparse_frames"] = f"/{GROUP}"
            for name, value in values.items():
                if value is not None:
                    group[name] = value
            if "radius" in group:
                group["radius"].attrs["unit"] = "q_nm^-1"
            add_instrument(file["entry_0000"])
            if self.peaks is not None:
                add_peaks(file["entry_0000"], self.peaks)
        return path


def rings(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the distance of each pixel from the first; two pixels are masked."""
    rows, columns = np.indices(shape)
    radius = np.hypot(rows, columns).astype(np.float32)
    radius[1, 2] = radius[4, 4] = np.nan
    return radius


def add_instrument(entry: h5py.Group) -> None:
    """Add what pyFAI tells about the detector; the pixels are no squares."""
    instrument = entry.create_group("beamline")
    instrument.attrs["NX_class"] = "NXinstrument"
    detector = instrument.create_group("Eiger_4M")
    detector.attrs["NX_class"] = "NXdetector"
    values = {"distance": 0.3, "x_pixel_size": 75e-6, "y_pixel_size": 150e-6}
    for name, value in values.items():
        detector[name] = value
        detector[name].attrs["units"] = "m"
    detector["beam_center_x"], detector["beam_center_y"] = 4.25, 2.5
    monochromator = instrument.create_group("monchromator")
    monochromator.attrs["NX_class"] = "NXmonochromator"
    monochromator["wavelength"] = np.float32(1.5)
    monochromator["wavelength"].attrs["units"] = "Å"


def add_peaks(entry: h5py.Group, peaks: list[list[tuple[float, float, float, float]]]) -> None:
    """Add lists of peaks: (intensity, x, y, snr) of each."""
    group = entry.create_group("peaks")
    group["nPeaks"] = np.array([len(frame) for frame in peaks], np.int32)
    table = np.zeros((4, len(peaks), max(map(len, peaks))), np.float32)
    for number, frame in enumerate(peaks):
        for place, peak in enumerate(frame):
            table[:, number, place] = peak
    for name, values in zip(
        ("peakTotalIntensity", "peakXPosRaw", "peakYPosRaw", "peakSNR"), table, strict=True
    ):
        group[name] = values
