"""Single images in files: EDF, TIFF, CBF and their like, NPY, or a dataset of an HDF5 file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..frame import MAX_SIDE, Encoded
from .hdf5_file import MAX_CHUNK
from .images import check_numpy, read_images

HDF5_SCHEME = "hdf5:"


def read_image(name: str) -> NDArray[Any]:
    """Return the one image of numbers (rows, columns) in a file, or in `hdf5:FILE::/dataset`.

    Raises
    ------
    ValueError
        If it holds something else.
    OSError
        If it cannot be read.
    """
    if name.startswith(HDF5_SCHEME):
        image = _read_hdf5(name)
    else:
        image = _read_numpy(name) if name.endswith(".npy") else _read_fabio(name)
    _check_kind(image.shape, image.dtype)
    return image


def _check_kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what is no image of numbers; for HDF5 that is before it is read."""
    if len(shape) != 2 or dtype.kind not in "buif":
        raise ValueError(f"it holds {dtype} of shape {shape}, not one image of numbers")


def _read_hdf5(name: str) -> NDArray[Any]:
    file, separator, dataset = name.removeprefix(HDF5_SCHEME).partition("::")
    if not separator:
        raise ValueError("it is not of the form hdf5:FILE::/dataset")
    with h5py.File(file, "r") as h5:
        found = h5.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"there is no dataset {dataset} in {file}")
        check_size(found.shape or ())
        _check_kind(found.shape or (), found.dtype)
        if math.prod(found.chunks or ()) * found.dtype.itemsize > MAX_CHUNK:
            raise ValueError(f"it has chunks {found.chunks}, more than {MAX_CHUNK} bytes each")
        return np.asarray(found[()])


def _read_numpy(name: str) -> NDArray[Any]:
    with Path(name).open("rb") as file:
        check_numpy(file.read(12))
    image = np.load(name, mmap_mode="r", allow_pickle=False)
    check_size(image.shape)
    return np.asarray(image)


def _read_fabio(name: str) -> NDArray[Any]:
    image = next(read_images(Path(name)), "it holds no image")
    if isinstance(image, str):
        raise ValueError(image)
    return image.decode().copy() if isinstance(image, Encoded) else image


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse a claimed shape that no image has, before anything is allocated for it."""
    if max(shape, default=0) > MAX_SIDE or len(shape) > 2:
        raise ValueError(f"it has the shape {shape}, not two sides of at most {MAX_SIDE} pixels")
