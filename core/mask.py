"""Masks: pixels that are never to be used, read from a file."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from .frame import BadFrame
from .marks import Mask
from .parameters import InputFile, ParameterError, Parameters, parameter
from .sources.imagefile import HDF5_SCHEME, read_image


class MaskParameters(Parameters):
    """Which pixels are left out."""

    mask_file: InputFile = parameter(
        "",
        "Image whose nonzero pixels are left out (EDF, TIFF, CBF, NPY, or FILE.h5::/dataset), "
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
    except Exception as error:
        raise ParameterError(f"mask_file: {name} cannot be read as an image ({error})") from None


@lru_cache(maxsize=4)
def _load(name: str, modified: int, size: int) -> Mask:
    """Return the mask; `modified` and `size` of the file only tell versions apart."""
    mask = np.ascontiguousarray(read_image(name) != 0)
    mask.flags.writeable = False
    return mask
