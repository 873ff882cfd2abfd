"""The small image of what an image chain has: its newest frame, or its sum."""

from __future__ import annotations

import numpy as np

from ..marks import Pixels, marks, sum_type, unmarked
from ..preview import Binning, Preview, PreviewSource, make_preview, no_preview
from .declaration import ChainParameters
from .partial import ChainPartial
from .sums import FrameSum


def of_chain(newest: ChainPartial | None, total: FrameSum, parameters: ChainParameters) -> Preview:
    """Return the preview that the parameters ask for; the sum's, if frames are summed."""
    binning = parameters.preview_binning
    if parameters.preview_source is PreviewSource.IMAGE or not parameters.accumulate:
        if newest is None:
            return no_preview()
        return make_preview(newest.image, marks(newest.image.dtype), newest.mask, binning)
    shown = total.shown()
    if shown is None:
        return no_preview()
    image, never_valid = shown
    return make_preview(image, unmarked(image[0].dtype), never_valid, binning)


def warm_up(image: Pixels) -> None:
    """Compile the kernels for images like this, and for their sums."""
    total = np.zeros(image.shape, sum_type(image.dtype))
    for binning in Binning:
        make_preview(image, marks(image.dtype), None, binning)
        make_preview(total, unmarked(total.dtype), None, binning)
