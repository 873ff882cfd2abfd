"""Files of images for tests, as fabio writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fabio.cbfimage import CbfImage
from fabio.edfimage import EdfImage
from fabio.tifimage import TifImage
from numpy.typing import NDArray

WRITERS = {"cbf": CbfImage, "edf": EdfImage, "tif": TifImage}
"""By what names end in."""


def write_image(path: Path | str, *images: NDArray[Any]) -> Path:
    """Write a file in the format that its name ends in; several images only into EDF."""
    path = Path(path)
    file = WRITERS[path.suffix[1:]](data=images[0])
    for image in images[1:]:
        file.append_frame(data=image)
    file.write(str(path))
    file.close()
    return path
