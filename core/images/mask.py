"""Masks: pixels that are never to be used, read from a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
from numpy.typing import NDArray

from ..frame import MAX_SIDE, BadFrame
from ..parameters import ParameterError, Parameters, parameter
from .pixels import Mask

HDF5_SCHEME = "hdf5:"


class MaskParameters(Parameters):
    """Which pixels are left out."""

    mask_file: str = parameter(
        "",
        "Image whose nonzero pixels are left out (EDF, TIFF, CBF, NPY, or hdf5:FILE::/dataset), "
        "in the orientation of the turned frame; empty: none but what the detector marks.",
    )

    @cached_property
    def mask(self) -> Mask | None:
        """The mask (rows, columns), True where a pixel is left out; None: no mask.

        Read once for each set of parameters: a file that changes later changes nothing.

        Raises
        ------
        ParameterError
            If the file cannot be used.
        """
        return load_mask(self.mask_file) if self.mask_file else None

    def check(self) -> None:
        """Read the mask before it is taken."""
        super().check()
        _ = self.mask

    def mask_for(self, shape: tuple[int, ...]) -> Mask | None:
        """Return the mask for frames of this shape.

        Raises
        ------
        BadFrame
            If the mask has another shape, or its file cannot be read.
        """
        try:
            mask = self.mask
        except ParameterError as error:
            raise BadFrame(str(error)) from None
        if mask is not None and mask.shape != shape:
            raise BadFrame(
                f"the mask {self.mask_file} has {mask.shape} pixels, the frame {tuple(shape)}; "
                "set mask_file to one that fits, or to nothing"
            )
        return mask


def load_mask(name: str) -> Mask:
    """Return the mask in a file, read once as long as the file stays the same.

    Raises
    ------
    ParameterError
        In one sentence, if there is no two-dimensional image of numbers in it.
    """
    path = Path(name.removeprefix(HDF5_SCHEME).partition("::")[0])
    try:
        stat = path.stat()
        return _load(name, stat.st_mtime_ns, stat.st_size)
    except ParameterError:
        raise
    except Exception as error:
        raise ParameterError(f"mask_file: {name} cannot be read as an image ({error})") from None


@lru_cache(maxsize=4)
def _load(name: str, modified: int, size: int) -> Mask:
    """Return the mask; `modified` and `size` of the file only tell versions apart."""
    image = _reader(name)(name)
    if image.ndim != 2 or image.dtype.kind not in "buif":
        raise ParameterError(
            f"mask_file: {name} holds {image.dtype} of shape {image.shape}, "
            "not one image of numbers"
        )
    mask = np.ascontiguousarray(image != 0)
    mask.flags.writeable = False
    return mask


def _reader(name: str) -> Callable[[str], NDArray[Any]]:
    if name.startswith(HDF5_SCHEME):
        return _read_hdf5
    return _read_numpy if name.endswith(".npy") else _read_fabio


def _read_hdf5(name: str) -> NDArray[Any]:
    file, separator, dataset = name.removeprefix(HDF5_SCHEME).partition("::")
    if not separator:
        raise ParameterError(f"mask_file: {name} is not of the form hdf5:FILE::/dataset")
    with h5py.File(file, "r") as h5:
        found = h5.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise ParameterError(f"mask_file: there is no dataset {dataset} in {file}")
        _check_size(name, found.shape)
        return np.asarray(found[()])


def _read_numpy(name: str) -> NDArray[Any]:
    image = np.load(name, mmap_mode="r", allow_pickle=False)
    _check_size(name, image.shape)
    return np.asarray(image)


def _read_fabio(name: str) -> NDArray[Any]:
    with fabio.open(name) as image:
        return np.asarray(image.data)


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if max(shape, default=0) > MAX_SIDE or len(shape) > 2:
        raise ParameterError(
            f"mask_file: {name} has the shape {shape}, not two sides of at most {MAX_SIDE} pixels"
        )
