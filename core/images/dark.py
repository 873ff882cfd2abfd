"""Dark frames: what a detector shows without light, recorded and subtracted."""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..compute.jit import kernel
from ..frame import BadFrame, Frame, Rejected, check_shape
from ..kept import Kept
from ..marks import Marks, Pixels, as_pixels, is_valid, marks, measured
from ..parameters import InputFile, ParameterError, parameter
from ..sources.base import SourceError, open_source
from ..sources.imagefile import check_size, read_image
from ..stage import Tree
from .orientation import OrientationParameters

URL = re.compile(r"[a-z][a-z0-9+]+:")
"""How frames to average are named, rather than one image in a file."""
SUFFIX = ".npz"
"""Of a dark that Ronda recorded."""
DARKS = Kept("dark", SUFFIX)
"""Darks that were recorded, in a device's folder."""
MOST_FRAMES = 10_000
"""Frames of a dark, at most."""
EXPOSURE = ("exposure_time", "ExposureTime", "count_time")
"""Entries of a header, or of an image, that tell the exposure time in s."""


@dataclass(frozen=True, slots=True, eq=False)
class Dark:
    """The mean of dark frames and how they scatter, as the detector sent them (not turned)."""

    mean: Pixels
    """(rows, columns) in the type of the frames, integers rounded; the type's highest
    value where no frame had a valid pixel."""
    rms: NDArray[np.float32] | None = None
    """(rows, columns) standard deviation (ddof 0); NaN where no frame had a valid pixel;
    None: not known."""
    frames: int = 1
    recorded: float = float("nan")
    """Unix time in s of the last frame; NaN: not known."""
    exposure_time: float | None = None
    """In s; None: not known."""

    def misfit(self, shape: tuple[int, ...], exposure_time: float | None) -> str:
        """Return why it cannot be subtracted from such (unturned) frames; empty if it can."""
        if self.mean.shape != tuple(shape):
            return f"it has {self.mean.shape} pixels, the frames {tuple(shape)}"
        known = self.exposure_time is not None and exposure_time is not None
        if known and not np.isclose(self.exposure_time or 0, exposure_time or 0, rtol=1e-3, atol=0):
            return (
                f"it was exposed for {self.exposure_time:g} s, the frames for {exposure_time:g} s"
            )
        return ""

    def tree(self) -> Tree:
        """Return it as it stands in a file that was made with it."""
        place = "process/dark"
        tree = {
            f"{place}@NX_class": "NXdata",
            f"{place}@signal": "mean",
            f"{place}/mean": self.mean,
            f"{place}/frames": self.frames,
            f"{place}/recorded": self.recorded,
            f"{place}/recorded@units": "s",
        }
        if self.exposure_time is not None:
            tree |= {f"{place}/exposure_time": self.exposure_time}
        return tree if self.rms is None else {**tree, f"{place}/rms": self.rms}

    def write(self, file: BinaryIO) -> None:
        """Write it as `load_dark` reads it."""
        exposure = np.nan if self.exposure_time is None else self.exposure_time
        facts = np.array([self.frames, self.recorded, exposure])
        rms = np.empty((0, 0), np.float32) if self.rms is None else self.rms
        np.savez(file, mean=self.mean, rms=rms, facts=facts)


class DarkParameters(OrientationParameters):
    """What is subtracted from every pixel."""

    dark_level: float = parameter(
        100.0, "Uniform dark, for as long as no recorded one is used.", unit="counts", ge=0
    )
    dark_file: InputFile = parameter(
        "",
        f"Recorded dark to subtract: a {SUFFIX} that RecordDark made, an image (EDF, TIFF, CBF, "
        "NPY), or frames to average (hdf5:FILE::/dataset, images:GLOB ...); empty: dark_level.",
    )

    @cached_property
    def recorded_dark(self) -> Dark | None:
        """The recorded dark, read once for each set of parameters; None: none is named.

        Raises
        ------
        ParameterError
            If the file cannot be used.
        """
        return load_dark(self.dark_file) if self.dark_file else None

    def check(self) -> None:
        """Read the dark before it is taken."""
        super().check()
        _ = self.recorded_dark


def exposure_time(frame: Frame) -> float | None:
    """Return the exposure time in s that came with a frame or its series, or None."""
    for entries in (frame.metadata, frame.series.metadata):
        for name in EXPOSURE:
            value = entries.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
                return float(value)
    return None


def load_dark(name: str) -> Dark:
    """Return the dark in a file, or averaged over the frames of a source; kept while it is new.

    Raises
    ------
    ParameterError
        In one sentence, if it cannot be used.
    """
    scheme, colon, rest = name.partition(":")
    path = Path(rest.partition("::")[0] if colon and len(scheme) > 1 else name)
    try:
        pattern = str(path.relative_to(path.anchor))
        files = [path] if path.exists() else sorted(Path(path.anchor).glob(pattern))
        version = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        return _load(name, version)
    except Exception as error:
        raise ParameterError(f"dark_file: {name} cannot be used as a dark ({error})") from None


@lru_cache(maxsize=2)
def _load(name: str, version: tuple[tuple[Path, int, int], ...]) -> Dark:
    """Return the dark; `version` of the files only tells versions apart."""
    if name.endswith(SUFFIX):
        return _load_recorded(name)
    if URL.match(name):
        return _average(name)
    image = read_image(name)
    check_shape(image.shape, image.dtype)
    return Dark(_without_marks(image))


def _without_marks(image: Pixels) -> Pixels:
    """Return the mean of a dark: where nothing was measured, nothing is ever above it."""
    pixels = as_pixels(image)
    special = marks(pixels.dtype)
    return as_pixels(np.where(measured(pixels, special), pixels, special.highest))


def _load_recorded(name: str) -> Dark:
    """Return a dark that `write` wrote; sizes are checked before anything is read."""
    size = Path(name).stat().st_size
    with zipfile.ZipFile(name) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed, as RecordDark never does")
            with archive.open(entry) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{entry.filename} is of no form that RecordDark writes")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            check_size(shape)
            if math.prod(shape) * dtype.itemsize > size:
                raise ValueError(f"{entry.filename} claims {shape} {dtype}, more than the file")
    with np.load(name, allow_pickle=False) as arrays:
        mean, rms, facts = (arrays[name] for name in ("mean", "rms", "facts"))
    check_shape(mean.shape, mean.dtype)
    if facts.shape != (3,) or rms.dtype != np.float32 or rms.shape not in (mean.shape, (0, 0)):
        raise ValueError("its arrays do not belong together")
    exposure = None if np.isnan(facts[2]) else float(facts[2])
    noise = rms if rms.size else None
    return Dark(_without_marks(mean), noise, int(facts[0]), float(facts[1]), exposure)


def _average(url: str) -> Dark:
    """Return the dark of the frames of a file."""
    source = open_source(url)
    if source.live:
        source.close()
        raise SourceError("it is no file: RecordDark averages the frames of a detector")
    recording: DarkRecording | None = None
    try:
        for event in source.events():
            if isinstance(event, Rejected):
                raise SourceError(event.reason)
            if isinstance(event, Frame):
                recording = recording or DarkRecording(MOST_FRAMES, event)
                recording.add(event)
                if recording.missing == 0:
                    break
    finally:
        source.close()
    if recording is None:
        raise SourceError("it holds no frame")
    return recording.dark()


class DarkRecording:
    """Dark frames as they come, until there are enough.

    Parameters
    ----------
    wanted
        Number of frames.
    frame
        One like those to come: shape, type and exposure time.
    """

    def __init__(self, wanted: int, frame: Frame) -> None:
        self.frames, self.wanted = 0, wanted
        self._exposure, self._last = exposure_time(frame), frame.received
        pixels = as_pixels(frame.data)
        self._dtype = pixels.dtype
        self._first = np.zeros_like(pixels)
        self._valid = np.zeros(pixels.shape, np.uint16)
        self._sum, self._squares = (np.zeros(pixels.shape) for _ in range(2))

    @property
    def missing(self) -> int:
        """Frames still to come."""
        return self.wanted - self.frames

    def takes(self, frame: Frame) -> bool:
        """Tell whether a frame is like the others."""
        kind = as_pixels(np.empty(0, frame.dtype)).dtype
        like = (frame.shape, kind, exposure_time(frame))
        return like == (self._first.shape, self._dtype, self._exposure)

    def add(self, frame: Frame) -> None:
        """Add one frame.

        Raises
        ------
        BadFrame
            If it is not like the others.
        """
        if not self.takes(frame):
            raise BadFrame(
                f"frame {frame.frame_id} of {frame.shape} {frame.dtype} is not like the other "
                f"dark frames of {self._first.shape} {self._dtype}"
            )
        pixels = as_pixels(frame.data)
        add_dark(pixels, marks(self._dtype), self._first, self._sum, self._squares, self._valid)
        self.frames, self._last = self.frames + 1, frame.received

    def dark(self) -> Dark:
        """Return the mean and scatter of what came so far."""
        with np.errstate(invalid="ignore"):
            shift = self._sum / self._valid
            rms = np.sqrt(np.maximum(self._squares / self._valid - shift**2, 0))
        never = self._valid == 0
        mean = self._first + shift
        pixels = in_type(np.where(never, np.nan, mean), self._dtype)
        return Dark(
            as_pixels(pixels), rms.astype(np.float32), self.frames, self._last, self._exposure
        )


def in_type(values: NDArray[Any], dtype: np.dtype[Any]) -> Pixels:
    """Return values in a type of pixels, rounded where it is one of integers.

    What is too large, or NaN, becomes the highest value that is no mark.
    """
    highest = marks(dtype).highest
    whole = np.rint(values) if dtype.kind != "f" and values.dtype.kind == "f" else values
    fits = whole < highest
    return np.where(fits, np.where(fits, whole, 0).astype(dtype), highest)


@kernel
def add_dark(
    frame: Pixels,
    marks: Marks,
    first: Pixels,
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
    valid: NDArray[np.uint16],
) -> None:
    """Add the valid pixels of a frame to sums of distances from each pixel's first value.

    Distances are small where values may be large, so the squares of a camera's counts stay exact.
    """
    for row in range(frame.shape[0]):
        pixels = frame[row]
        for column in range(pixels.size):
            value = pixels[column]
            if is_valid(value, marks):
                if valid[row, column] == 0:
                    first[row, column] = value
                distance = np.float64(value) - np.float64(first[row, column])
                total[row, column] += distance
                squares[row, column] += distance * distance
                valid[row, column] += 1


def keep_dark(dark: Dark, folder: Path, in_use: str) -> Path:
    """Write a recorded dark into a folder; older ones but that in use are removed."""
    path = DARKS.add(folder, dark.write)
    DARKS.remove_older(folder, in_use)
    return path
