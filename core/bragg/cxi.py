"""Lists of Bragg peaks as CXI 1.6, for CrystFEL's `indexamajig --peaks=cxi`.

CrystFEL reads, below the `peak_list` that its geometry file names, `nPeaks` (n,) and
`peakXPosRaw`, `peakYPosRaw`, `peakTotalIntensity` (n, most peaks): frame i is row i, of
which the first `nPeaks[i]` count (libcrystfel/src/image-hdf5.c). The places are those
of Ronda: the centre of a pixel is a whole number. CrystFEL counts from the corner of
the first pixel, and for that adds 0.5 to what it reads (crystfel_geometry(5), "Important
note about coordinate conventions"); so `--no-half-pixel-shift` must not be given.

Lengths in the file are in m, the energy of a photon in J, as CXI demands; in eV beside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ..sinks.tree import write_tree
from .instrument import Instrument
from .sparse_file import PEAK_NAMES

VERSION = 160
"""Of the format: 1.6."""
PLANCK_LIGHT = 1.98644586e-25
"""Photon energy times wavelength, in J m (CODATA 2018)."""
ELECTRON_VOLT = 1.602176634e-19
"""In J."""
DATA, PEAKS = "entry_1/data_1/data", "entry_1/result_1"
DETECTOR = "entry_1/instrument_1/detector_1"
ROWS, COLUMNS = 128, 64
"""Frames and peaks of a compressed piece of a list."""


class DataLink(NamedTuple):
    """Images in another file."""

    file: Path
    dataset: str
    """Path in it, of (frames, rows, columns)."""
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]


class PeakTable:
    """Lists of peaks in a group of an HDF5 file; they grow frame by frame, 0 where none is.

    Compressed with gzip, which every reader of HDF5 has.
    """

    def __init__(self, group: h5py.Group) -> None:
        self._count = group.create_dataset(
            "nPeaks", (0,), np.int32, maxshape=(None,), chunks=(4096,)
        )
        self._lists = {
            field: group.create_dataset(
                name,
                (0, 1),  # CrystFEL wants a second axis, also where there is no peak at all
                np.float32,
                maxshape=(None, None),
                chunks=(ROWS, COLUMNS),
                shuffle=True,
                compression="gzip",
                compression_opts=1,
            )
            for field, name in PEAK_NAMES.items()
        }
        self._waiting: list[NDArray[Any]] = []

    def append(self, peaks: NDArray[Any]) -> None:
        """Add the peaks of the next frame: an array with fields intensity, x, y and snr."""
        self._waiting.append(np.array(peaks[list(PEAK_NAMES)]))
        if len(self._waiting) == ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand what was added to HDF5."""
        done, counts = self._count.shape[0], [len(peaks) for peaks in self._waiting]
        self._count.resize(done + len(counts), 0)
        self._count[done:] = counts
        for field, dataset in self._lists.items():
            width = max(dataset.shape[1], *counts, 1)
            block = np.zeros((len(counts), width), np.float32)
            for row, peaks in zip(block, self._waiting, strict=True):
                row[: len(peaks)] = peaks[field]
            dataset.resize((done + len(counts), width))
            dataset[done:] = block
        self._waiting.clear()


class CxiWriter:
    """Writes one CXI file. Under its own name it is seen when it is finished, not before.

    Parameters
    ----------
    path
        Of the file; `PATH.part` is written first.
    instrument
        Where the detector stood.
    mask
        (rows, columns), True where a pixel is masked.
    process
        What made the peaks: names and values, recorded with them.

    Raises
    ------
    OSError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        instrument: Instrument,
        mask: NDArray[np.bool_],
        process: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self._draft = path, path.with_name(f"{path.name}.part")
        self._file = h5py.File(self._draft, "w")
        tree = _tree(instrument, mask)
        tree |= {f"{PEAKS}/process_1/{name}": value for name, value in (process or {}).items()}
        write_tree(self._file, tree)
        self._peaks = PeakTable(self._file[PEAKS])

    def append(self, peaks: NDArray[Any]) -> None:
        """Add the peaks of the next frame: an array with fields intensity, x, y and snr."""
        self._peaks.append(peaks)

    def finish(self, data: Sequence[DataLink] = ()) -> None:
        """Close the file and give it its name.

        Parameters
        ----------
        data
            The images that the peaks are of, in order; linked as `/entry_1/data_1/data`.
        """
        self._peaks.flush()
        if len(data) == 1:
            link = h5py.ExternalLink(self._relative(data[0].file), data[0].dataset)
            self._file[DATA] = link
        elif data:
            self._file.create_virtual_dataset(DATA, self._joined(data))
        self._file.close()
        self._draft.replace(self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def _joined(self, data: Sequence[DataLink]) -> h5py.VirtualLayout:
        """Return one dataset made of several."""
        frames = sum(part.shape[0] for part in data)
        layout = h5py.VirtualLayout((frames, *data[0].shape[1:]), data[0].dtype)
        start = 0
        for part in data:
            source = h5py.VirtualSource(self._relative(part.file), part.dataset, part.shape)
            layout[start : start + part.shape[0]] = source
            start += part.shape[0]
        return layout

    def _relative(self, file: Path) -> str:
        return os.path.relpath(file.absolute(), self.path.absolute().parent)


def crystfel_geometry(
    instrument: Instrument,
    shape: tuple[int, int],
    data: str = f"/{DATA}",
    peaks: str = f"/{PEAKS}",
    mask: str = f"/{DETECTOR}/mask",
) -> str:
    """Return CrystFEL's geometry file for one flat panel, tilted as it was.

    `clen` is where the beam meets the panel, `coffset` how far along the beam its corner
    is from there. Lengths within the panel are in px, those along the beam in m.

    Parameters
    ----------
    shape
        Rows and columns.
    data, peaks, mask
        Paths of images, lists of peaks and mask in the files that are indexed.

    Raises
    ------
    ValueError
        In one sentence, if something about the instrument is not known.
    """
    plane, wavelength = instrument.plane, instrument.wavelength
    if plane is None or wavelength is None:
        raise ValueError("distance, pixel size, beam centre and wavelength are not all known")
    energy = PLANCK_LIGHT / wavelength / ELECTRON_VOLT
    width, distance = float(np.linalg.norm(plane.fast)), plane.distance
    corner = plane.corner / width
    fast, slow = (_vector(step / width) for step in (plane.fast, plane.slow))
    return f"""; {instrument.name}, one flat panel; written by Ronda {__version__}
; --peaks=cxi, without --no-half-pixel-shift
photon_energy = {energy:.6f} eV
clen = {distance:.12g} m
res = {1 / width:.12g}
adu_per_photon = 1

dim0 = %
dim1 = ss
dim2 = fs
data = {data}
peak_list = {peaks}
peak_list_type = cxi
mask0_data = {mask}
mask0_goodbits = 0x0
mask0_badbits = 0xffff

panel/min_fs = 0
panel/max_fs = {shape[1] - 1}
panel/min_ss = 0
panel/max_ss = {shape[0] - 1}
panel/fs = {fast}
panel/ss = {slow}
panel/corner_x = {corner[0]:.6f}
panel/corner_y = {corner[1]:.6f}
panel/coffset = {plane.corner[2] - distance:.12f}
"""


def _vector(steps: NDArray[np.float64]) -> str:
    """Return a direction as CrystFEL reads it, which knows no exponents."""
    return " ".join(f"{step + 0.0:+.12f}{axis}" for step, axis in zip(steps, "xyz", strict=True))


def _tree(instrument: Instrument, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return all but data and peaks."""
    tree: dict[str, Any] = {
        "cxi_version": VERSION,
        "entry_1@NX_class": "NXentry",
        f"{PEAKS}@NX_class": "NXdata",
        f"{PEAKS}/process_1@NX_class": "NXprocess",
        f"{PEAKS}/process_1/program": "ronda",
        f"{PEAKS}/process_1/version": __version__,
        "entry_1/data_1@NX_class": "NXdata",
        "entry_1/data_1@signal": "data",
        "entry_1/instrument_1@NX_class": "NXinstrument",
        f"{DETECTOR}@NX_class": "NXdetector",
        f"{DETECTOR}/description": instrument.name,
        # CXI's mask has bits; any that is set marks a pixel that must not be used.
        f"{DETECTOR}/mask": mask.astype(np.uint32),
    }
    for name in ("distance", "x_pixel_size", "y_pixel_size"):
        if (value := getattr(instrument, name)) is not None:
            tree |= {f"{DETECTOR}/{name}": value, f"{DETECTOR}/{name}@units": "m"}
    return tree | _source(instrument) | _geometry(instrument)


def _source(instrument: Instrument) -> dict[str, Any]:
    """Return the energy of the photons, if it is known."""
    if instrument.wavelength is None:
        return {}
    source, beam = "entry_1/instrument_1/source_1", "entry_1/instrument_1/beam_1"
    energy = PLANCK_LIGHT / instrument.wavelength
    return {
        f"{source}@NX_class": "NXsource",
        f"{source}/energy": energy,
        f"{source}/energy@units": "J",
        f"{beam}@NX_class": "NXbeam",
        f"{beam}/incident_energy": energy / ELECTRON_VOLT,
        f"{beam}/incident_energy@units": "eV",
        f"{beam}/incident_wavelength": instrument.wavelength,
        f"{beam}/incident_wavelength@units": "m",
    }


def _geometry(instrument: Instrument) -> dict[str, Any]:
    """Return where the first pixel's corner is, and how rows and columns run, if known."""
    plane = instrument.plane
    if plane is None:
        return {}
    directions = [step / np.linalg.norm(step) for step in (plane.fast, plane.slow)]
    group = f"{DETECTOR}/geometry_1"
    return {
        f"{group}@NX_class": "NXgeometry",
        f"{group}/translation": plane.corner,
        f"{group}/translation@units": "m",
        f"{group}/orientation": np.concatenate(directions),
        f"{DETECTOR}/corner_position": plane.corner,
        f"{DETECTOR}/corner_position@units": "m",
        f"{DETECTOR}/basis_vectors": np.array([plane.slow, plane.fast]),
        f"{DETECTOR}/basis_vectors@units": "m",
    }
