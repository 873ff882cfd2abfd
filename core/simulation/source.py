"""The source `simulated:DETECTOR[?option=value&...]`: frames of a simulated detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl

from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from ..frame import MAX_SIDE, Frame, Series, SeriesEnd, SeriesStart, new_run_id
from ..parameters import ParameterError, Parameters, parameter, parse_assignments, save_text
from ..poni import WRITTEN_BY
from ..sources.base import Event, Source, SourceError, UrlError, source
from . import balor, eiger, zyla
from .camera import Camera
from .photons import SIGMA
from .powder import simulate_powder
from .truth import may_be_written, write_truth

MAX_BYTES = 2 << 30
"""Bytes of all frames together."""
MAX_PHOTONS = 10_000_000
"""Photons of all frames together: the truth keeps every one."""
EXPOSURE_TIME = 0.1
"""In s, as the headers say."""


@dataclass(frozen=True)
class Simulation:
    """What an open source yields."""

    frame: Callable[[int], NDArray[Any]]
    """Makes the frame of a number, [row, column]."""
    truth: Mapping[str, NDArray[Any]]


class Options(Parameters):
    """What every simulated detector takes."""

    pixel_bytes: ClassVar[int] = 2

    frames: int = parameter(16, "Number of frames.", ge=1, le=10_000)
    rows: int = parameter(2048, "Rows of a frame.", ge=32, le=MAX_SIDE)
    columns: int = parameter(2048, "Columns of a frame.", ge=32, le=MAX_SIDE)
    seed: int = parameter(0, "Of all random numbers.", ge=0, lt=1 << 32)
    repeats: int = parameter(1, "How often the frames come, one after another.", ge=1, le=10_000)
    truth: str = parameter("", "HDF5 file that the truth is written to; empty: none.")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    def check(self) -> None:
        """Refuse more than fits into memory, and a truth that would replace something else."""
        claimed = self.frames * self.rows * self.columns * self.pixel_bytes
        if claimed > MAX_BYTES:
            raise ParameterError(
                f"frames: {self.frames} of {self.rows} x {self.columns} pixels are "
                f"{claimed} bytes, more than {MAX_BYTES}"
            )
        path = Path(self.truth)
        if self.truth and not path.absolute().parent.is_dir():
            raise ParameterError(f"truth: folder {path.parent} does not exist; make it first")
        if self.truth and not may_be_written(path):
            raise ParameterError(f"truth: {path} is no older truth; name a file that is not there")

    def simulate(self) -> Simulation:
        """Return the frames and their truth."""
        raise NotImplementedError


class CameraOptions(Options):
    """What both sCMOS cameras take."""

    dark: bool = parameter(False, "Dark frames of the same sensor instead.")

    def camera(self) -> Camera:
        """Return the camera, with no light on it if it is to be dark."""
        raise NotImplementedError

    def simulate(self) -> Simulation:
        """Return the frames and their truth."""
        camera = self.camera()
        return Simulation(camera.dark if self.dark else camera.frame, camera.truth())


def _least_and_largest(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value, value)


Width = Annotated[float, Field(ge=0.1, le=1.0)]


class BalorOptions(CameraOptions):
    """What the Balor takes."""

    rows: int = parameter(balor.SHAPE[0], "Rows of a frame.", ge=32, le=MAX_SIDE)
    columns: int = parameter(balor.SHAPE[1], "Columns of a frame.", ge=32, le=MAX_SIDE)
    photons: float = parameter(2000.0, "Mean number of photons in a frame.", ge=0, le=1_000_000)
    sigma: Annotated[tuple[Width, Width], BeforeValidator(_least_and_largest)] = parameter(
        SIGMA, "Standard deviation of the charge clouds, or the least and the largest.", unit="px"
    )
    streaks: float = parameter(5.0, "Mean number of streaks in a frame.", ge=0, le=1000)

    def check(self) -> None:
        """Refuse more photons than fit into memory."""
        super().check()
        if self.frames * self.photons > MAX_PHOTONS:
            raise ParameterError(
                f"photons: {self.photons:g} in each of {self.frames} frames "
                f"are more than {MAX_PHOTONS}"
            )
        if self.sigma[0] > self.sigma[1]:
            raise ParameterError(
                f"sigma: {self.sigma[0]:g},{self.sigma[1]:g}: write the least first"
            )

    def camera(self) -> Camera:
        """Return the Balor."""
        photons, streaks = (0.0, 0.0) if self.dark else (self.photons, self.streaks)
        return balor.simulate_balor(
            self.frames, self.shape, photons, self.sigma, self.seed, streaks=streaks
        )


class ZylaOptions(CameraOptions):
    """What the Zyla takes."""

    photons: float = parameter(3000.0, "Mean number of photons in the peak.", ge=0, le=1_000_000)
    drift: float = parameter(0.5, "Walk of the peak from frame to frame.", unit="px", ge=0, le=100)
    jitter: float = parameter(0.1, "Fluctuation of its strength, relative.", ge=0, le=1)

    def camera(self) -> Camera:
        """Return the Zyla."""
        photons = 0.0 if self.dark else self.photons
        return zyla.simulate_zyla(
            self.frames, self.shape, photons, self.drift, self.jitter, self.seed
        )


class PilatusOptions(Options):
    """What the Pilatus takes."""

    pixel_bytes: ClassVar[int] = 4

    rows: int = parameter(831, "Rows of a frame.", ge=32, le=MAX_SIDE)
    columns: int = parameter(1475, "Columns of a frame.", ge=32, le=MAX_SIDE)

    def simulate(self) -> Simulation:
        """Return a powder's frames, and where its rings are."""
        powder = simulate_powder(self.frames, self.shape, seed=self.seed)
        rings = powder.q.astype([("q", "f8")])
        return Simulation(powder.frames.__getitem__, {"rings": rings})


class EigerOptions(Options):
    """What the Eiger takes."""

    rows: int = parameter(eiger.SHAPE[0], "Rows of a frame.", ge=32, le=MAX_SIDE)
    columns: int = parameter(eiger.SHAPE[1], "Columns of a frame.", ge=32, le=MAX_SIDE)
    spots: float = parameter(400.0, "Mean number of Bragg spots in a frame.", ge=0, le=100_000)
    background: float = parameter(
        2.0, "Mean counts of a pixel on the ring of water.", unit="counts", ge=0, le=100_000
    )
    bits: Literal[16, 32] = parameter(32, "Bits of a pixel.")
    poni: str = parameter("", "PONI file that is written; empty: none.")

    def check(self) -> None:
        """Refuse more spots than fit into memory, and a PONI file that would replace one."""
        super().check()
        if self.frames * self.spots > MAX_PHOTONS:
            raise ParameterError(
                f"spots: {self.spots:g} in each of {self.frames} frames are more than {MAX_PHOTONS}"
            )
        path = Path(self.poni)
        if self.poni and not path.absolute().parent.is_dir():
            raise ParameterError(f"poni: folder {path.parent} does not exist; make it first")
        if self.poni and path.exists() and not _is_ours(path):
            raise ParameterError(f"poni: {path} is none of ours; name a file that is not there")

    def simulate(self) -> Simulation:
        """Return the frames, and where the spots are."""
        made = eiger.simulate_eiger(
            self.frames, self.shape, self.spots, self.background, self.bits, self.seed
        )
        if self.poni:
            save_text(made.geometry.to_poni(self.shape), Path(self.poni))
        return Simulation(made.frame, {"spots": made.spots})


def _is_ours(path: Path) -> bool:
    """Tell whether a PONI file was written here."""
    try:
        with path.open("rb") as file:
            return file.read(len(WRITTEN_BY)) == WRITTEN_BY.encode()
    except OSError:
        return False


DETECTORS: Mapping[str, type[Options]] = {
    "balor": BalorOptions,
    "zyla": ZylaOptions,
    "pilatus": PilatusOptions,
    "eiger": EigerOptions,
}


@source("simulated")
class SimulatedSource(Source):
    """Simulates frames as they are read, as one series; the same for the same URL.

    The truth is written before the first frame.
    """

    live: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._detector, _, query = url.partition(":")[2].partition("?")
        if self._detector not in DETECTORS:
            known = ", ".join(DETECTORS)
            raise UrlError(f"{url}: {self._detector!r} is no simulated detector; {known} are")
        options = DETECTORS[self._detector]()
        given = (f"{name}={value}" for name, value in parse_qsl(query, keep_blank_values=True))
        try:
            self._options = options.changed(parse_assignments(options, given))
        except ParameterError as error:
            raise UrlError(f"{url}: {error}") from None
        self.total = self._options.frames * self._options.repeats

    def events(self) -> Iterator[Event]:
        """Yield one series.

        Raises
        ------
        SourceError
            If the truth, or what else is to be written, cannot be.
        """
        try:
            simulation = self._options.simulate()
        except OSError as error:
            raise SourceError(f"{self.url}: {error}") from None
        if self._options.truth:
            self._write_truth(simulation)
        filename = f"/simulated/scan-000001_{self._detector}.h5"
        metadata = {"exposure_time": EXPOSURE_TIME}
        series = Series(new_run_id(), self._detector, filename, metadata)
        yield SeriesStart(series)
        made: list[NDArray[Any]] = []
        for number in range(self._options.frames * self._options.repeats):
            if self.closed.is_set():
                return
            if number < self._options.frames:
                pixels = simulation.frame(number)
                if self._options.repeats > 1:
                    made.append(pixels)
            else:
                pixels = made[number % len(made)]
            yield Frame(series, number, pixels)
        yield SeriesEnd(series)

    def _write_truth(self, simulation: Simulation) -> None:
        path = Path(self._options.truth)
        options = {"detector": self._detector, **self._options.model_dump()}
        try:
            write_truth(path, simulation.truth, options)
        except OSError as error:
            raise SourceError(f"{self.url}: {path} cannot be written: {error}") from None
