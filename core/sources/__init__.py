"""Sources of frames and positions; importing this makes every URL scheme known."""

from . import files, hdf5, images, recording, sardana, simplon1, simplon2, stins_socket
from .base import Event, Source, SourceError, open_source

__all__ = [
    "Event",
    "Source",
    "SourceError",
    "files",
    "hdf5",
    "images",
    "open_source",
    "recording",
    "sardana",
    "simplon1",
    "simplon2",
    "stins_socket",
]
