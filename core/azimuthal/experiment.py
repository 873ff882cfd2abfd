"""One experiment: where the detector stands, what of it is left out, and what its pixels see."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..geometry import Geometry
from ..mask import load_mask
from ..poni import Poni, read_poni
from ..sources.imagefile import HDF5_SCHEME, images_in
from .once import PYFAI, built_once
from .units import Unit

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]
Shape = tuple[int, int]
A = TypeVar("A", bound=NDArray[Any])


class Misfit(ValueError):
    """An image of another shape than the frames; the message is one sentence."""


@dataclass(frozen=True)
class Setup:
    """What a user says of an experiment. Equal settings are equal.

    Raises
    ------
    ValueError
        In one sentence, if the polarisation or the dummy cannot be.
    """

    poni_file: str
    mask_file: str = ""
    """Image whose nonzero pixels are left out, instead of the detector's own gaps."""
    dark_files: tuple[str, ...] = ()
    """Images, all of each file, that are averaged and subtracted from each frame."""
    flat_files: tuple[str, ...] = ()
    """Images, all of each file, whose average says how sensitive each pixel is."""
    absorption_file: str = ""
    """Image of what reaches each pixel through all that absorbs."""
    polarization: float | None = None
    """Polarisation factor: 1 along the rows (horizontal), -1 across; None: no correction."""
    solid_angle: bool = True
    """Divide by the solid angle of a pixel, relative to one at normal incidence."""
    dummy: float | None = None
    """Value of pixels that are left out of a frame."""
    delta_dummy: float | None = None
    """Pixels at most so far from `dummy` are left out as well."""
    marks: bool = True
    """Leave out what the detector marks (see core/marks.py)."""

    def __post_init__(self) -> None:
        if self.polarization is not None and not -1 <= self.polarization <= 1:
            raise ValueError(f"polarization is {self.polarization:g}; it lies between -1 and 1")
        if self.delta_dummy is not None and not self.delta_dummy >= 0:
            raise ValueError(f"delta_dummy is {self.delta_dummy:g}; it is not negative")

    def experiment(self, shape: tuple[int, ...]) -> Experiment:
        """Return the experiment for frames of (rows, columns); built once for each.

        Files that changed since are read again.

        Raises
        ------
        ValueError
            In one sentence, if a file cannot be used or does not fit.
        """
        if len(shape) != 2:
            raise ValueError(f"frames of shape {tuple(shape)} are no images of rows and columns")
        names = (*self.dark_files, *self.flat_files, self.mask_file, self.absorption_file)
        versions = tuple(_version(name) for name in (self.poni_file, *names) if name)
        return _experiment(self, (int(shape[0]), int(shape[1])), versions)


def _version(name: str) -> tuple[int, int]:
    """Return what tells versions of a file apart; what is not there is told of later."""
    try:
        stat = Path(name.removeprefix(HDF5_SCHEME).partition("::")[0]).stat()
    except (OSError, ValueError):
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@built_once(maxsize=8)
def _experiment(setup: Setup, shape: Shape, versions: tuple[tuple[int, int], ...]) -> Experiment:
    """Return an experiment; `versions` of its files only tell them apart."""
    experiment = Experiment(setup, shape, read_poni(Path(setup.poni_file), any_place=True))
    # Now, while somebody is there to be told that a file does not fit.
    _ = experiment.integrator, experiment.mask
    return experiment


class Experiment:
    """Images and figures of one experiment. Images are (rows, columns), read-only.

    Each is made at its first use and kept; any thread may ask.

    Parameters
    ----------
    setup
        What the user said; its `poni_file` is not read here.
    shape
        (rows, columns) of the frames.
    poni
        Where the detector stands.

    Raises
    ------
    ValueError
        In one sentence, if the detector is one of another shape.
    """

    def __init__(self, setup: Setup, shape: Shape, poni: Poni) -> None:
        if min(shape) < 1:
            raise ValueError(f"frames of shape {shape} hold no pixel")
        if poni.shape is not None:
            _check_detector(poni, poni.shape, shape)
        self.setup = setup
        self.shape = shape
        self._poni = poni

    @classmethod
    def of_geometry(
        cls, geometry: Geometry, shape: Shape, solid_angle: bool, polarization: float | None
    ) -> Experiment:
        """Return the experiment of a geometry, without any file."""
        setup = Setup("", solid_angle=solid_angle, polarization=polarization, marks=False)
        return cls(setup, shape, geometry.poni())

    @property
    def integrator(self) -> Any:
        """The AzimuthalIntegrator of pyFAI, for setting up: what it caches is soon forgotten."""
        with PYFAI:
            integrator = self._integrator
            PYFAI.at_the_end(self._forget)
            return integrator

    def _forget(self) -> None:
        self._integrator.reset(collect_garbage=False)

    @cached_property
    def _integrator(self) -> Any:
        return self.new_integrator()

    def new_integrator(self) -> Any:
        """Return another one, whose settings may be changed; imported here, as it takes seconds."""
        with PYFAI:
            from pyFAI.integrator.azimuthal import AzimuthalIntegrator

            poni = self._poni
            return AzimuthalIntegrator(
                dist=poni.distance,
                poni1=poni.poni1,
                poni2=poni.poni2,
                rot1=poni.rot1,
                rot2=poni.rot2,
                rot3=poni.rot3,
                detector=_detector(poni, self.shape),
                wavelength=None if math.isnan(poni.wavelength) else poni.wavelength,
            )

    @property
    def detector_name(self) -> str:
        """Name of the detector in pyFAI's table; `Detector` where it is none of them."""
        return str(self.integrator.detector.name)

    @property
    def wavelength(self) -> float:
        """In m; NaN where the PONI file does not say."""
        return self._poni.wavelength

    @property
    def distance(self) -> float:
        """Length of the perpendicular from the sample on the detector, in m."""
        return self._poni.distance

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(y, x) in m."""
        return self._poni.pixel_size, self._poni.pixel_size

    @cached_property
    def beam_center(self) -> tuple[float, float]:
        """(x, y) in px where the beam meets the detector; pixel centres are whole, NaN: nowhere."""
        poni, (rows, columns) = self._poni, self.shape
        normal = math.cos(poni.rot1) * math.cos(poni.rot2)
        if normal <= 1e-9:
            return math.nan, math.nan
        # Where the beam's direction, as seen from the detector, meets its plane.
        along_1 = poni.distance * math.sin(poni.rot2) / normal
        along_2 = -poni.distance * math.sin(poni.rot1) * math.cos(poni.rot2) / normal
        y = (poni.poni1 + along_1) / poni.pixel_size - 0.5
        x = (poni.poni2 + along_2) / poni.pixel_size - 0.5
        # Orientations of pyFAI: 1 and 2 count rows, 1 and 4 columns from the other side.
        if poni.orientation in (1, 2):
            y = rows - 1 - y
        if poni.orientation in (1, 4):
            x = columns - 1 - x
        return x, y

    @property
    def configuration(self) -> dict[str, Any]:
        """All that was set, for a JSON text."""
        with PYFAI:
            # What of it is of pyFAI's own types becomes plain numbers.
            geometry = json.loads(json.dumps(dict(self.integrator.get_config())))
        return {"setup": asdict(self.setup), "shape": list(self.shape), "geometry": geometry}

    def radius(self, unit: Unit) -> Floats:
        """Return where the pixel centres lie on the radial axis, in `unit`.

        Raises
        ------
        ValueError
            If the unit needs a wavelength and there is none.
        """
        self.check_unit(unit)
        return self._positions(unit.value)

    def azimuth(self) -> Floats:
        """Return the azimuth of the pixel centres in rad, from -pi to pi."""
        return self._positions("chi_rad")

    def check_unit(self, unit: Unit) -> None:
        """Refuse a unit that needs a wavelength where there is none."""
        if unit.needs_wavelength and math.isnan(self.wavelength):
            raise ValueError(f"{unit} needs a wavelength, and the PONI file has none")

    def _positions(self, unit: str) -> Floats:
        with PYFAI:
            found = self.integrator.array_from_unit(self.shape, "center", unit, scale=True)
            return read_only(np.array(found, np.float64))

    @cached_property
    def mask(self) -> Mask:
        """True where a pixel is left out of all frames.

        These are the pixels of `mask_file`, or else the detector's own gaps; and all
        whose dark is not finite or whose normalization is 0 or not finite.
        """
        with PYFAI:
            mask = self._own_mask()
            for image in (self._raw_dark, self._raw_normalization):
                if image is not None:
                    mask |= ~np.isfinite(image)
            if self._raw_normalization is not None:
                mask |= self._raw_normalization == 0
            for image in (self._raw_dark, self._flat):
                mask |= self._is_dummy(image)
            return read_only(mask)

    @cached_property
    def dark(self) -> Singles | None:
        """What is subtracted from each frame, the mean of the dark files; None: nothing.

        It is 0 where a pixel is left out.
        """
        return self._without_masked(self._raw_dark, 0)

    @cached_property
    def normalization(self) -> Singles | None:
        """Flat times solid angle times polarisation times absorption; None: 1 everywhere.

        It is 1 where a pixel is left out.
        """
        return self._without_masked(self._raw_normalization, 1)

    def _without_masked(self, image: NDArray[Any] | None, instead: float) -> Singles | None:
        if image is None:
            return None
        return read_only(np.where(self.mask, instead, image).astype(np.float32))

    @cached_property
    def _raw_dark(self) -> Singles | None:
        return self._mean("dark", self.setup.dark_files)

    @cached_property
    def _flat(self) -> Singles | None:
        return self._mean("flat", self.setup.flat_files)

    @cached_property
    def _raw_normalization(self) -> Singles | None:
        absorption = (self.setup.absorption_file,) if self.setup.absorption_file else ()
        images = (self._flat, self._mean("absorption", absorption))
        factors: list[NDArray[Any]] = [image for image in images if image is not None]
        with PYFAI:
            if self.setup.solid_angle:
                # The cube of the cosine: pyFAI's own choice.
                factors.append(self.integrator.solidAngleArray(self.shape, 3))
            if self.setup.polarization is not None:
                factor = self.setup.polarization
                factors.append(self.integrator.polarization(self.shape, factor))
        if not factors:
            return None
        product = np.ones(self.shape)
        for image in factors:
            product *= image
        return product.astype(np.float32)

    def _is_dummy(self, image: Singles | None) -> Any:
        dummy, delta = self.setup.dummy, self.setup.delta_dummy or 0.0
        if image is None or dummy is None:
            return False
        return np.abs(image - np.float32(dummy)) <= np.float32(delta)

    def _own_mask(self) -> Mask:
        if self.setup.mask_file:
            mask = load_mask(self.setup.mask_file)
            self._check_shape("mask", self.setup.mask_file, mask.shape)
            return mask.copy()
        theirs = self.integrator.detector.mask
        return np.zeros(self.shape, np.bool_) if theirs is None else np.array(theirs) != 0

    def _mean(self, what: str, names: tuple[str, ...]) -> Singles | None:
        """Return the mean of all images of files, summed in double precision one by one."""
        if not names:
            return None
        total, number = np.zeros(self.shape), 0
        for name in names:
            before = number
            for image in self._read(what, name):
                total += image
                number += 1
            if number == before:
                raise ValueError(f"the {what} {name} holds no image")
        return (total / number).astype(np.float32)

    def _read(self, what: str, name: str) -> Iterator[NDArray[Any]]:
        """Yield the images of a file; of HDF5 those of a dataset."""
        try:
            for image in images_in(name):
                self._check_shape(what, name, image.shape)
                yield image
        except Misfit:
            raise
        except Exception as error:
            raise ValueError(f"the {what} {name} cannot be read as an image ({error})") from None

    def _check_shape(self, what: str, name: str, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            raise Misfit(f"the {what} {name} has {shape} pixels, the frames have {self.shape}")


def read_only(array: A) -> A:
    """Return an array that nobody changes any more."""
    array.flags.writeable = False
    return array


def _check_detector(poni: Poni, theirs: Shape, shape: Shape) -> None:
    if theirs != shape:
        name = "detector" if poni.detector == "Detector" else poni.detector
        raise ValueError(
            f"the PONI file is for a {name} of {theirs} pixels, but the frames have {shape}"
        )


def _detector(poni: Poni, shape: Shape) -> Any:
    """Return pyFAI's detector: one of its table where the PONI file names one.

    Raises
    ------
    ValueError
        If that one has another shape; not if the file tells other pixels (binned) or a shape.
    """
    from pyFAI.detectors import ALL_DETECTORS, Detector

    kind = ALL_DETECTORS.get(poni.detector.lower())
    if kind is not None and kind is not Detector:
        detector = kind(orientation=poni.orientation)
        sizes = (detector.pixel1, detector.pixel2)
        if None not in sizes and np.allclose(sizes, poni.pixel_size, rtol=1e-6):
            theirs = (int(detector.shape[0]), int(detector.shape[1]))
            if poni.shape is None:
                _check_detector(poni, theirs, shape)
            if theirs == shape:
                return detector
    size = poni.pixel_size
    return Detector(size, size, max_shape=shape, orientation=poni.orientation)
