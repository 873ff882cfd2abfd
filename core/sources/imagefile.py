"""Single images in files: EDF, TIFF, CBF and their like, NPY, or a dataset of an HDF5 file."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..frame import MAX_SIDE, Encoded
from .files import HDF5_SUFFIXES
from .hdf5_file import MAX_CHUNK, dataset_at, open_hdf5
from .hdf5_frames import StoredFrames
from .images import check_numpy, read_images

Images = Generator[NDArray[Any], None, None]

HDF5_SCHEME = "hdf5:"
MOST_IMAGES = 100_000
"""Most images of one file that are averaged."""


def read_image(name: str) -> NDArray[Any]:
    """Return the one image of numbers (rows, columns) in a file: see `images_in`.

    Raises
    ------
    ValueError
        If it holds something else, or several.
    OSError
        If it cannot be read.
    """
    images = list(images_in(name, most=1))
    if not images:
        raise ValueError("it holds no image")
    return images[0]


def images_in(name: str, most: int = MOST_IMAGES) -> Iterator[NDArray[Any]]:
    """Yield the images of numbers (rows, columns) in a file, one after the other.

    Parameters
    ----------
    name
        A file; of HDF5 `FILE::/dataset` or `hdf5:FILE::/dataset`, whose images are along
        its last two axes, or `FILE` where only one dataset holds images. Those of a stack
        that were never written are left out.
    most
        Images that may be in it.

    Raises
    ------
    ValueError
        If it holds something else, or more, or one of them is damaged.
    OSError
        If it cannot be read.
    """
    place = hdf5_place(name)
    if place is not None:
        found = _of_hdf5(*place, most)
    else:
        found = _of_numpy(name) if name.endswith(".npy") else _of_fabio(name)
    with closing(found) as images:
        for number, image in enumerate(images):
            if number == most:
                raise ValueError(_too_many(most))
            _check_kind(image.shape, image.dtype)
            yield image


def hdf5_place(name: str) -> tuple[Path, str] | None:
    """Return the file and the dataset (empty: that which is meant) of a name; None: no HDF5."""
    file, separator, dataset = name.removeprefix(HDF5_SCHEME).partition("::")
    named_so = name.startswith(HDF5_SCHEME) or separator
    if named_so or Path(file).suffix.lower() in HDF5_SUFFIXES:
        return Path(file), dataset
    return None


def _too_many(most: int) -> str:
    return "it holds several images, not one" if most == 1 else f"it holds more than {most} images"


def _check_kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what is no image of numbers; for HDF5 that is before it is read."""
    if len(shape) != 2 or dtype.kind not in "buif":
        raise ValueError(f"it holds {dtype} of shape {shape}, not one image of numbers")


def _of_hdf5(file: Path, path: str, most: int) -> Images:
    with open_hdf5(file) as h5:
        dataset = dataset_at(h5, path)
        shape = dataset.shape or ()
        check_size(shape[-2:])
        _check_kind(shape[-2:], dataset.dtype)
        if math.prod(shape[:-2]) > most:
            raise ValueError(_too_many(most))
        if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > MAX_CHUNK:
            raise ValueError(f"it has chunks {dataset.chunks}, more than {MAX_CHUNK} bytes each")
        if len(shape) == 2:
            yield np.asarray(dataset[()])
        else:
            yield from _of_stack(dataset)


def _of_stack(dataset: h5py.Dataset) -> Images:
    with closing(StoredFrames(dataset)) as frames:
        for index in np.ndindex(dataset.shape[:-2]):
            image = frames.read(index)
            if image is not None:
                yield image.decode() if isinstance(image, Encoded) else image


def _of_numpy(name: str) -> Images:
    with Path(name).open("rb") as file:
        check_numpy(file.read(12))
    image = np.load(name, mmap_mode="r", allow_pickle=False)
    check_size(image.shape)
    yield np.asarray(image)


def _of_fabio(name: str) -> Images:
    for image in read_images(Path(name)):
        if isinstance(image, str):
            raise ValueError(image)
        yield image.decode().copy() if isinstance(image, Encoded) else image


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse a claimed shape that no image has, before anything is allocated for it."""
    if max(shape, default=0) > MAX_SIDE or len(shape) > 2:
        raise ValueError(f"it has the shape {shape}, not two sides of at most {MAX_SIDE} pixels")
