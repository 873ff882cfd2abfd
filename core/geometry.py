"""Where the detector stands: q and two-theta of its pixels, and rings of equal q on it.

Pixel centres are at whole numbers: pixel (row, column) covers row - 0.5 to
row + 0.5. PONI files count from the outer corner of the first pixel instead; the
one conversion between the two is in `Geometry.poni` and `Geometry.from_poni`.

The frame of reference: a detector plane is turned by `tilt` about an axis
through the beam centre. `a` runs on the plane in the direction of the tilt
(`tilt_plane_rotation`, from the columns' axis towards the rows'), `b` across it.
A point of the plane lies at (a cos tilt, b, distance + a sin tilt), the third
along the beam.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .poni import Poni, format_poni, read_poni

HC = 6.62607015e-34 * 299792458 / 1.602176634e-19 * 1e7
"""Planck's constant times the speed of light in keV angstrom (CODATA 2018, exact)."""
CHORD = 0.1
"""Largest distance in px of a ring from the polyline drawn for it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A flat detector of square pixels in a beam of one photon energy.

    The tilt has the sign and sense of Fit2D and pyFAI (`getFit2D`, `setFit2D`):
    a positive one moves the pixels in the direction of `tilt_plane_rotation`
    away from the sample. The angles of `q_map`, `two_theta` and `rings` follow
    from the first seven values; `rotation` moves the azimuth only.

    Raises
    ------
    ValueError
        If a value is not finite, an energy, distance or size is not positive,
        or the tilt is 90 degrees or more.
    """

    photon_energy: float
    """In keV."""
    detector_distance: float
    """From the sample to the detector along the beam, in m (Fit2D's, not PONI's)."""
    beam_center_x: float
    """Column where the beam meets the detector, in px."""
    beam_center_y: float
    """Row where the beam meets the detector, in px."""
    tilt: float = 0.0
    """Angle between the detector's normal and the beam, in deg."""
    tilt_plane_rotation: float = 0.0
    """Direction of the tilt, in deg from the columns' axis towards the rows'."""
    pixel_size: float
    """Side of a pixel in m."""
    rotation: float = 0.0
    """Turn of the whole about the beam in deg, as pyFAI's rot3; matters to polarisation only."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}, not a finite number")
        for name in ("photon_energy", "detector_distance", "pixel_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be positive")
        if abs(self.tilt) >= 90:
            raise ValueError(f"tilt is {self.tilt:g} deg; it must lie between -90 and 90")

    @property
    def wavelength(self) -> float:
        """Wavelength in angstrom."""
        return HC / self.photon_energy

    @classmethod
    def from_poni(cls, source: str | Path, shape: tuple[int, int] | None = None) -> Self:
        """Return the geometry that a PONI file describes.

        Parameters
        ----------
        source
            Path of the file, or its text (a `str` of several lines).
        shape
            (rows, columns) of the frames, compared with the file's where it names one.

        Raises
        ------
        ValueError
            In one sentence, if the file cannot be read or does not fit.
        """
        poni = read_poni(source)
        if shape is not None and poni.shape not in (None, shape):
            raise ValueError(
                f"the PONI file is for frames of {poni.shape} pixels, but these have {shape}"
            )
        # The beam's direction as seen from the detector, along (columns, rows, normal).
        along_x = -math.sin(poni.rot1) * math.cos(poni.rot2)
        along_y = math.sin(poni.rot2)
        normal = math.cos(poni.rot1) * math.cos(poni.rot2)
        if normal <= 1e-9:
            raise ValueError("the PONI file turns the detector by 90 deg or more: no beam centre")
        tilt, direction = math.hypot(along_x, along_y), math.atan2(along_y, along_x)
        plain = cls(
            photon_energy=HC / (poni.wavelength * 1e10),
            detector_distance=poni.distance / normal,
            beam_center_x=(poni.poni2 + poni.distance * along_x / normal) / poni.pixel_size - 0.5,
            beam_center_y=(poni.poni1 + poni.distance * along_y / normal) / poni.pixel_size - 0.5,
            tilt=math.degrees(math.atan2(tilt, normal)),
            tilt_plane_rotation=math.degrees(direction) if tilt else 0.0,
            pixel_size=poni.pixel_size,
        )
        flip = math.pi if math.cos(poni.rot2) < 0 else 0.0
        turn = math.remainder(poni.rot3 + flip - plain.poni().rot3, 2 * math.pi)
        return replace(plain, rotation=math.degrees(turn))

    def poni(self) -> Poni:
        """Return the same geometry in pyFAI's terms."""
        tilt, direction = math.radians(self.tilt), math.radians(self.tilt_plane_rotation)
        along_x = math.sin(tilt) * math.cos(direction)
        along_y = math.sin(tilt) * math.sin(direction)
        # pyFAI turns about three axes in a row; rot3 is what makes that a plain tilt.
        shrink = math.sin(direction) * math.cos(direction) * (math.cos(tilt) - 1)
        keep = math.sin(direction) ** 2 * math.cos(tilt) + math.cos(direction) ** 2
        return Poni(
            distance=self.detector_distance * math.cos(tilt),
            poni1=(self.beam_center_y + 0.5) * self.pixel_size - self.detector_distance * along_y,
            poni2=(self.beam_center_x + 0.5) * self.pixel_size - self.detector_distance * along_x,
            rot1=math.atan2(-along_x, math.cos(tilt)),
            rot2=math.asin(along_y),
            rot3=math.atan2(shrink, keep) + math.radians(self.rotation),
            wavelength=self.wavelength * 1e-10,
            pixel_size=self.pixel_size,
        )

    def to_poni(self, shape: tuple[int, int] | None) -> str:
        """Return the text of a PONI file for frames of `shape` (rows, columns; None: unknown)."""
        return format_poni(self.poni(), shape)

    def two_theta_at(self, rows: ArrayLike, columns: ArrayLike) -> Floats:
        """Return the scattering angle in deg at points in px, broadcast together."""
        across_1, across_2, along = self._position(rows, columns)
        return np.degrees(np.arctan2(np.hypot(across_1, across_2), along))

    def two_theta(self, shape: tuple[int, int]) -> Floats:
        """Return the scattering angle of every pixel centre in deg, shape (rows, columns)."""
        return self.two_theta_at(np.arange(shape[0])[:, None], np.arange(shape[1]))

    def q_at(self, rows: ArrayLike, columns: ArrayLike) -> Floats:
        """Return q = 4 pi sin(theta) / wavelength in 1/angstrom at points in px."""
        theta = np.radians(self.two_theta_at(rows, columns)) / 2
        return np.asarray(4 * np.pi / self.wavelength * np.sin(theta))

    def q_map(self, shape: tuple[int, int]) -> Floats:
        """Return q of every pixel centre in 1/angstrom, shape (rows, columns)."""
        return self.q_at(np.arange(shape[0])[:, None], np.arange(shape[1]))

    def solid_angle(self, shape: tuple[int, int]) -> Floats:
        """Return every pixel's solid angle, relative to one at normal incidence.

        It is the cube of the cosine of the incidence, shape (rows, columns).
        """
        across_1, across_2, along = self._position(
            np.arange(shape[0])[:, None], np.arange(shape[1])
        )
        nearest = self.detector_distance / self.pixel_size * math.cos(math.radians(self.tilt))
        return np.asarray((nearest / np.sqrt(across_1**2 + across_2**2 + along**2)) ** 3)

    def rings(self, q_values: Iterable[float], shape: tuple[int, int]) -> list[Floats]:
        """Return the lines of equal q on a frame, one for each of `q_values`.

        Parameters
        ----------
        q_values
            In 1/angstrom.
        shape
            (rows, columns) of the frame; a ring ends at the outer edges of its pixels.

        Returns
        -------
        list of arrays (n, 2)
            Points [row, column] in px, exactly on the ring and at most `CHORD`
            from it between two of them. Pieces that do not touch are separated by
            a row of NaN. No points where q is not on the frame or beyond 4 pi / wavelength.
        """
        return [self._ring(q, shape) for q in q_values]

    def _position(self, rows: ArrayLike, columns: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Return where points of the detector lie, in px: two axes across the beam, one along."""
        tilt, direction = math.radians(self.tilt), math.radians(self.tilt_plane_rotation)
        x = np.asarray(columns, float) - self.beam_center_x
        y = np.asarray(rows, float) - self.beam_center_y
        a = x * math.cos(direction) + y * math.sin(direction)
        b = y * math.cos(direction) - x * math.sin(direction)
        distance = self.detector_distance / self.pixel_size
        return a * math.cos(tilt), b, distance + a * math.sin(tilt)

    def _on_ring(self, two_theta: float, azimuth: Floats) -> Floats:
        """Return points [row, column] in px of a cone on the plane; NaN where it misses.

        `two_theta` and `azimuth` (from the direction of the tilt, about the beam) in rad.
        """
        tilt, direction = math.radians(self.tilt), math.radians(self.tilt_plane_rotation)
        across_1 = math.sin(two_theta) * np.cos(azimuth)
        across_2 = math.sin(two_theta) * np.sin(azimuth)
        towards = math.cos(tilt) * math.cos(two_theta) - math.sin(tilt) * across_1
        towards = np.where(towards > 0, towards, np.nan)
        reach = self.detector_distance / self.pixel_size * math.cos(tilt) / towards
        a, b = reach * across_1 / math.cos(tilt), reach * across_2
        rows = self.beam_center_y + a * math.sin(direction) + b * math.cos(direction)
        columns = self.beam_center_x + a * math.cos(direction) - b * math.sin(direction)
        return np.stack((rows, columns), axis=-1)

    def _ring(self, q: float, shape: tuple[int, int]) -> Floats:
        sine = q * self.wavelength / (4 * math.pi)
        if not 0 < sine <= 1:
            return np.empty((0, 2))
        two_theta = 2 * math.asin(sine)
        pieces: list[Floats] = []
        for begin, end in self._visible(two_theta, shape):
            pieces += [self._arc(two_theta, begin, end), np.full((1, 2), np.nan)]
        return np.concatenate(pieces[:-1]) if pieces else np.empty((0, 2))

    def _visible(self, two_theta: float, shape: tuple[int, int]) -> list[tuple[float, float]]:
        """Return the ranges of azimuth, in rad, in which a cone is on the frame."""
        breaks = self._crossings(two_theta, shape)
        limits = np.append(breaks, breaks[0] + 2 * np.pi)
        middle = self._on_ring(two_theta, (limits[:-1] + limits[1:]) / 2)
        inside = np.all((middle >= -0.5) & (middle <= np.array(shape) - 0.5), axis=1)
        if inside.all():
            return [(float(limits[0]), float(limits[-1]))]
        begins = limits[:-1][inside & ~np.roll(inside, 1)]
        ends = limits[1:][inside & ~np.roll(inside, -1)]
        ends = np.append(ends, ends + 2 * np.pi)
        return [(float(begin), float(ends[ends > begin][0])) for begin in begins]

    def _crossings(self, two_theta: float, shape: tuple[int, int]) -> Floats:
        """Return the azimuths, sorted, at which a cone may cross the frame's edges.

        An edge is a line P + s D; (P + s D) is on the double cone where
        z^2 = cos^2(2 theta) r^2, a quadratic equation in s. Points of the mirrored
        cone come out as well: the caller looks at what lies between the crossings.
        """
        low, high = -0.5, np.array(shape) - 0.5
        # The four edges of the frame: [row, column] of their two corners.
        corners = np.array([[low, low], [low, high[1]], [high[0], high[1]], [high[0], low]])
        start = np.stack(self._position(*corners.T), axis=-1)
        along = np.roll(start, -1, axis=0) - start
        weight = np.array([0, 0, 1]) - math.cos(two_theta) ** 2
        square = (weight * along**2).sum(axis=1)
        half = (weight * along * start).sum(axis=1)
        constant = (weight * start**2).sum(axis=1)
        root = half**2 - square * constant
        # A touching line may come out as a little less than zero.
        root = np.sqrt(np.where(root > -1e-12 * half**2, np.maximum(root, 0), np.nan))
        larger = -(half + np.copysign(root, half))
        with np.errstate(divide="ignore", invalid="ignore"):
            s = np.stack((larger / square, constant / larger))
        # A little slack, lest a crossing at a corner fall between two edges.
        s = np.where((s >= -1e-9) & (s <= 1 + 1e-9), s, np.nan)
        points = start + s[..., None] * along
        azimuths = np.unique(np.arctan2(points[..., 1], points[..., 0]))
        azimuths = azimuths[np.isfinite(azimuths)]
        return azimuths if azimuths.size else np.array([-np.pi])

    def _arc(self, two_theta: float, begin: float, end: float) -> Floats:
        """Return points of a ring, dense enough that its chords stay within `CHORD`."""
        azimuth = np.linspace(begin, end, 9)
        for _ in range(20):
            points = self._on_ring(two_theta, azimuth)
            between = (azimuth[:-1] + azimuth[1:]) / 2
            chords = (points[:-1] + points[1:]) / 2
            coarse = np.linalg.norm(self._on_ring(two_theta, between) - chords, axis=1) > CHORD
            if not coarse.any():
                break
            azimuth = np.sort(np.append(azimuth, between[coarse]))
        return points
