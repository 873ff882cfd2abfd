"""Sparse files of Bragg frames, as pyFAI's sparsify-Bragg and Ronda write them.

A frame is kept as the pixels that stand out, exactly, and a background against
the radius. The layout is pyFAI's (`pyFAI/io/sparse_frame.py`): below the group that
the entry's attribute `pyFAI_sparse_frames`, else `default`, names

- `frame_ptr` (n + 1,): frame i has the pixels `frame_ptr[i]:frame_ptr[i + 1]` of
  `index` (in the flattened image) and `intensity`;
- `mask` (rows, columns): the radius of each pixel, NaN where it is masked;
- `radius` (bins,), `background_avg` and `background_std` (n, bins), together or not
  at all (XPCS);
- `dummy` and `normalization` (rows, columns), or not; and, Ronda's own, `dark` likewise:
  the background is told without it, the kept pixels are as recorded;
- Ronda's own as well, `background_fill` (n, bins): the mean of what is not kept.

Such a file comes from a stranger: what it claims is checked before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..frame import BadFrame, check_shape
from ..marks import marks
from ..sources.hdf5_file import DAMAGE, open_hdf5
from .instrument import attribute_text, read_instrument, stored_number

MAX_FRAMES = 10_000_000
"""Most frames of a file: their bounds are held in memory."""
MAX_BINS = 1_000_000
"""Most bins of the background."""
MAX_PEAKS = 1_000_000
"""Most peaks of one frame."""
MAX_CHUNK = 1 << 30
"""Bytes of the largest chunk read: it is decoded whole."""
PEAK = np.dtype([("intensity", "f4"), ("x", "f4"), ("y", "f4"), ("snr", "f4")])
"""A peak as files hold it: counts, place in px (a pixel's centre is a whole number), SNR."""
PEAK_NAMES = {
    "intensity": "peakTotalIntensity",
    "x": "peakXPosRaw",
    "y": "peakYPosRaw",
    "snr": "peakSNR",
}
"""The datasets that hold them; these names are CXI's."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredFrame:
    """One frame of a sparse file."""

    index: NDArray[np.int64]
    """Of the pixels that were kept, in the flattened image; in no order."""
    intensity: NDArray[Any]
    """Their values, exact."""
    average: NDArray[np.float64] | None
    """Of the background (bins,), per pixel of normalization 1."""
    deviation: NDArray[np.float64] | None
    """Standard deviation of the background (bins,)."""
    fill: NDArray[np.float64] | None = None
    """Mean of the pixels that were not kept (bins,), likewise; None: the background's."""


class SparseFile:
    """An open sparse file. Frames are read when they are asked for.

    A file that is being written has the frames that are complete when it is opened.

    Raises
    ------
    OSError
        In one sentence, if the file cannot be read.
    ValueError
        In one sentence, if it is no sparse file, or not what it claims to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path)
        try:
            self._read_head()
        except (ValueError, MemoryError) as error:
            self._file.close()
            raise ValueError(f"{path}: {error}") from None
        except DAMAGE as error:
            self._file.close()
            raise ValueError(f"{path} is damaged: {error}") from None

    def __enter__(self) -> SparseFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def has_background(self) -> bool:
        """Whether frames have a background; without one it is 0 (XPCS)."""
        return self.radius is not None

    @property
    def has_deviation(self) -> bool:
        """Whether it is told how much the background scatters."""
        return self._deviation is not None

    @property
    def has_peaks(self) -> bool:
        """Whether a list of peaks comes with each frame."""
        return bool(self._peaks)

    def frame(self, number: int) -> StoredFrame:
        """Return a frame.

        Raises
        ------
        IndexError
            If there is none of this number.
        ValueError
            In one sentence, if the file is damaged there.
        """
        self._check_number(number)
        start, stop = (int(bound) for bound in self._bounds[number : number + 2])
        average = deviation = fill = None
        try:
            index = self._index[start:stop]
            intensity = self._intensity[start:stop].astype(self.dtype, copy=False)
            if self._average is not None:
                average = self._average[number].astype(np.float64)
            if self._deviation is not None:
                deviation = self._deviation[number].astype(np.float64)
            if self._fill is not None:
                fill = self._fill[number].astype(np.float64)
        except DAMAGE as error:
            raise ValueError(f"frame {number} of {self.path} cannot be read: {error}") from None
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < math.prod(self.shape):
            raise ValueError(f"frame {number} of {self.path} has pixels outside the image")
        return StoredFrame(index.astype(np.int64), intensity, average, deviation, fill)

    def frames(self, numbers: range) -> Iterator[StoredFrame]:
        """Yield frames, one at a time."""
        for number in numbers:
            yield self.frame(number)

    def peaks(self, number: int) -> NDArray[Any]:
        """Return the peaks of a frame, as `PEAK`; none if the file has no such list.

        Raises
        ------
        IndexError
            If there is no frame of this number.
        ValueError
            In one sentence, if the file is damaged there.
        """
        self._check_number(number)
        if not self._peaks:
            return np.zeros(0, PEAK)
        try:
            count = int(self._peaks["count"][number])
            if not 0 <= count <= self._peaks["x"].shape[1]:
                raise ValueError(f"it claims {count} peaks")
            peaks = np.zeros(count, PEAK)
            for name in PEAK_NAMES:
                peaks[name] = self._peaks[name][number, :count]
        except DAMAGE as error:
            raise ValueError(
                f"the peaks of frame {number} of {self.path} cannot be read: {error}"
            ) from None
        return peaks

    def _check_number(self, number: int) -> None:
        if not 0 <= number < self.count:
            raise IndexError(f"{self.path} has frames 0 to {self.count - 1}, not {number}")

    def _read_head(self) -> None:
        """Find and check everything but the frames."""
        entry, group = _find_group(self._file)
        self.creator = attribute_text(self._file.attrs.get("creator"))
        self.start_time = _stored_text(entry, "start_time")
        bounds = _dataset(group, "frame_ptr", "ui", 1)
        if not 0 < bounds.shape[0] <= MAX_FRAMES + 1:
            raise ValueError(f"frame_ptr claims {bounds.shape[0] - 1} frames")
        if bounds.shape[0] == 1 and not self._file.swmr_mode:
            raise ValueError("there is no frame in it")
        self._bounds: NDArray[Any] = bounds[()]
        self._read_image(group)
        self._read_background(group)
        self._index = _dataset(group, "index", "ui", 1)
        self._intensity = _dataset(group, "intensity", "uif", 1)
        self.dtype: np.dtype[Any] = self._intensity.dtype.newbyteorder("=")
        if self.dtype == np.float16 or self.dtype.itemsize > 8:
            raise ValueError(f"pixels of type {self.dtype} are not known")
        self.dummy = _dummy(group, self.dtype)
        self._peaks = _peak_lists(entry)
        self._check_bounds()
        self.instrument = read_instrument(entry, self.shape)

    def _read_image(self, group: h5py.Group) -> None:
        mask = _dataset(group, "mask", "f", 2)
        try:
            self.shape, _ = check_shape(mask.shape, mask.dtype)
        except BadFrame as error:
            raise ValueError(str(error)) from None
        self.pixel_radius: NDArray[Any] = mask[()].astype(mask.dtype.newbyteorder("="), copy=False)
        """(rows, columns), in the unit of `radius`; NaN where masked."""
        self.normalization = self._optional_image(group, "normalization")
        """(rows, columns): what a pixel of background 1 counts."""
        self.dark = self._optional_image(group, "dark")
        """(rows, columns): what it counts besides."""

    def _optional_image(self, group: h5py.Group, name: str) -> NDArray[np.float32] | None:
        if name not in group:
            return None
        stored = _dataset(group, name, "f", 2)
        if stored.shape != self.shape:
            raise ValueError(f"{name} {stored.shape} does not fit images {self.shape}")
        image: NDArray[np.float32] = stored.astype(np.float32)[()]
        return image

    def _read_background(self, group: h5py.Group) -> None:
        self.radius: NDArray[np.float64] | None = None
        """(bins,), rising; None: no background."""
        self.unit = ""
        self._average: h5py.Dataset | None = None
        self._deviation: h5py.Dataset | None = None
        self._fill: h5py.Dataset | None = None
        if "radius" not in group or "background_avg" not in group:
            return
        radius = _dataset(group, "radius", "f", 1)
        if not 0 < radius.shape[0] <= MAX_BINS:
            raise ValueError(f"radius claims {radius.shape[0]} bins")
        self.radius = radius[()].astype(np.float64)
        if not (np.isfinite(self.radius).all() and (np.diff(self.radius) > 0).all()):
            raise ValueError("radius does not rise from bin to bin")
        self.unit = attribute_text(radius.attrs.get("unit", radius.attrs.get("units")))
        self._average = _dataset(group, "background_avg", "f", 2)
        if "background_std" in group:
            self._deviation = _dataset(group, "background_std", "f", 2)
        if "background_fill" in group:
            self._fill = _dataset(group, "background_fill", "f", 2)
        for background in filter(None, (self._average, self._deviation, self._fill)):
            if background.shape[1] != radius.shape[0]:
                raise ValueError(
                    f"{Path(background.name).name} has {background.shape[1]} bins "
                    f"where radius has {radius.shape[0]}"
                )

    def _check_bounds(self) -> None:
        """Check that every frame has its pixels, its background and its peaks.

        Of a file that is being written only the frames that are complete are taken.
        """
        pixels = min(self._index.shape[0], self._intensity.shape[0])
        complete = len(self._bounds) - 1
        for rows in (self._average, self._deviation, self._fill, *self._peaks.values()):
            complete = complete if rows is None else min(complete, rows.shape[0])
        if (self._bounds[1:] < self._bounds[:-1]).any() or self._bounds[0] < 0:
            raise ValueError("frame_ptr falls from one frame to the next")
        ends = self._bounds[1 : complete + 1].astype(np.uint64)
        complete = int(np.searchsorted(ends, np.uint64(pixels), "right"))
        if complete < len(self._bounds) - 1 and not self._file.swmr_mode:
            raise ValueError(
                f"frame_ptr claims {len(self._bounds) - 1} frames, but only {complete} are there"
            )
        self.count = complete
        """Frames."""
        self._bounds = self._bounds[: complete + 1].astype(np.int64)
        if (np.diff(self._bounds) > math.prod(self.shape)).any():
            raise ValueError("frame_ptr claims more pixels for a frame than an image has")


def _find_group(file: h5py.File) -> tuple[h5py.Group, h5py.Group]:
    """Return the entry and the group of the sparse frames."""
    entry = file.get(attribute_text(file.attrs.get("default")) or "entry_0000")
    if not isinstance(entry, h5py.Group):
        raise ValueError("this is no sparse file: it has no default entry")
    name = attribute_text(entry.attrs.get("pyFAI_sparse_frames")) or attribute_text(
        entry.attrs.get("default")
    )
    group = entry.get(name) if name else None
    if not isinstance(group, h5py.Group) or "frame_ptr" not in group:
        raise ValueError("this is no sparse file: it has no sparse frames")
    return entry, group


def _dataset(group: h5py.Group, name: str, kinds: str, axes: int) -> h5py.Dataset:
    """Return a dataset of numbers of these kinds with so many axes.

    Raises
    ------
    ValueError
        If it is not there or is another.
    """
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"there is no dataset {name}")
    if found.dtype.kind not in kinds or len(found.shape or ()) != axes:
        raise ValueError(f"{name} is {found.dtype} {found.shape}, which no sparse file has")
    if math.prod(found.chunks or ()) * found.dtype.itemsize > MAX_CHUNK:
        raise ValueError(f"{name} has chunks {found.chunks}, more than {MAX_CHUNK} bytes each")
    return found


def _dummy(group: h5py.Group, dtype: np.dtype[Any]) -> Any:
    """Return what masked pixels are set to, in the pixels' own type.

    Without one it is NaN for floats and 0 for integers. One that an integer type
    cannot hold becomes what a detector writes there: -1, or the largest value.
    """
    value = stored_number(group, "dummy")
    if dtype.kind == "f":
        return dtype.type(math.nan if value is None else value)
    return _integer_dummy(0 if value is None else value, dtype)


def _integer_dummy(value: float, dtype: np.dtype[Any]) -> Any:
    """Return a dummy in an integer type; what it cannot hold becomes a detector's mark."""
    limits = np.iinfo(dtype)
    if value == int(value) and limits.min <= int(value) <= limits.max:
        return dtype.type(int(value))
    return marks(dtype).masked


def _peak_lists(entry: h5py.Group) -> dict[str, h5py.Dataset]:
    """Return the datasets of the peaks by field, with `count`; none if there is no list."""
    group = entry.get("peaks")
    if not isinstance(group, h5py.Group) or "nPeaks" not in group:
        return {}
    lists = {"count": _dataset(group, "nPeaks", "ui", 1)}
    lists |= {field: _dataset(group, name, "f", 2) for field, name in PEAK_NAMES.items()}
    widths = {lists[field].shape[1] for field in PEAK_NAMES}
    if len(widths) > 1 or max(widths) > MAX_PEAKS:
        raise ValueError(f"the lists of peaks claim {sorted(widths)} peaks a frame")
    return lists


def _stored_text(group: h5py.Group, name: str) -> str:
    found = group.get(name)
    if not isinstance(found, h5py.Dataset) or found.shape != () or found.dtype.kind not in "OS":
        return ""
    return attribute_text(found[()])
