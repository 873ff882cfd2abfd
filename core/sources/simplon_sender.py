"""SIMPLON stream V2 as a detector writes it: for simulators and tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import cbor2
import numpy as np

from ..codecs import encode_bslz4, with_header
from ..frame import Encoded
from .cbor import SELF_DESCRIBED
from .simplon import DATE, SeriesId
from .simplon2 import COMPRESSED, ROW_MAJOR, TYPES

CHANNEL = "threshold_1"
"""The only channel that is sent."""
TIME_BASE = 10**9
"""Ticks of the detector's clock in a second."""
ENERGY = 12398.42
"""Of the photons, in eV, where the source does not say: then the wavelength is 1 angstrom."""
TAGS = {dtype: tag for tag, dtype in TYPES.items()}
"""Tags of typed arrays by the type of their numbers."""


def as_bslz4(image: np.ndarray[Any, Any] | Encoded) -> Encoded:
    """Return an image as it is sent: bitshuffle-LZ4 with HDF5's header."""
    if isinstance(image, Encoded) and image.codec == "bslz4":
        dtype = image.dtype
        nbytes = image.shape[0] * image.shape[1] * dtype.itemsize
        return Encoded(with_header(image.blob, nbytes, dtype.itemsize), image.shape, dtype, "bslz4")
    pixels = image.decode() if isinstance(image, Encoded) else image
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    rows, columns = native.shape
    return Encoded(encode_bslz4(native), (rows, columns), native.dtype, "bslz4")


def encode_start(
    series: SeriesId,
    image: Encoded,
    images: int = 0,
    frame_time: float = 0.1,
    filename: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the message that begins a series.

    Parameters
    ----------
    series
        Which one.
    image
        One of its images, for shape and type.
    images
        How many there will be; 0: unknown.
    frame_time
        From the beginning of one image to that of the next, in s.
    filename
        The raw file, in the user data as MAX IV writes it; empty: nothing is to be saved.
    metadata
        Free entries. Those that the protocol has a field for go there, all into the user data.
    """
    entries = dict(metadata or {})
    rows, columns = image.shape
    energy = _given(entries, "incident_energy", ENERGY) or ENERGY
    settings = {
        "beam_center_x": columns / 2,
        "beam_center_y": rows / 2,
        "count_time": frame_time,
        "countrate_correction_enabled": False,
        "detector_description": "",
        "detector_serial_number": "0",
        "detector_translation": [0.0, 0.0, -0.1],
        "flatfield_enabled": False,
        "frame_time": frame_time,
        "goniometer": {"omega": {"start": 0.0, "increment": 0.0}},
        "incident_energy": energy,
        "incident_wavelength": ENERGY / energy,
        "pixel_mask_enabled": False,
        "pixel_size_x": 75e-6,
        "pixel_size_y": 75e-6,
        "sensor_material": "Si",
        "sensor_thickness": 450e-6,
        "threshold_energy": {CHANNEL: energy / 2},
        "virtual_pixel_interpolation_enabled": False,
    }
    return _encode(
        "start",
        series,
        arm_date=_date(datetime.now(UTC)),
        channels=[CHANNEL],
        image_size_x=columns,
        image_size_y=rows,
        image_dtype=image.dtype.name,
        number_of_images=images,
        saturation_value=_saturation(image.dtype),
        **{name: _given(entries, name, value) for name, value in settings.items()},
        user_data=json.dumps({**entries, "filename": filename}, default=str),
    )


def encode_image(
    series: SeriesId,
    number: int,
    image: Encoded,
    series_date: datetime,
    start_time: float,
    count_time: float = 0.1,
) -> bytes:
    """Return the message that carries one image.

    Parameters
    ----------
    series, number
        Which series, and which image of it, from 0.
    image
        From `as_bslz4`.
    series_date
        When the series began.
    start_time, count_time
        When the image began after that, and how long it took, in s.
    """
    compressed = cbor2.CBORTag(COMPRESSED, [image.codec, image.dtype.itemsize, b""])
    numbers = cbor2.CBORTag(TAGS[image.dtype.newbyteorder("<")], compressed)
    head = _encode(
        "image",
        series,
        image_id=number,
        series_date=_date(series_date),
        start_time=_ratio(start_time),
        stop_time=_ratio(start_time + count_time),
        real_time=_ratio(count_time),
        data={CHANNEL: cbor2.CBORTag(ROW_MAJOR, [list(image.shape), numbers])},
    )
    assert head[-1] == EMPTY
    return b"".join((head[:-1], struct.pack(">BI", LONG, len(image.blob)), image.blob))


EMPTY, LONG = 0x40, 0x5A
"""First bytes of a byte string of length 0, and of one whose length follows in 4 bytes."""


def encode_end(series: SeriesId) -> bytes:
    """Return the message that ends a series."""
    return _encode("end", series)


def _encode(kind: str, series: SeriesId, **entries: Any) -> bytes:
    """Return a message of which the last entry stands last."""
    names = {"type": kind, "series_id": series.number, "series_unique_id": series.unique}
    return cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, {**names, **entries}))


def _date(moment: datetime) -> cbor2.CBORTag:
    return cbor2.CBORTag(DATE, moment.isoformat())


def _ratio(seconds: float) -> list[int]:
    return [max(round(seconds * TIME_BASE), 0), TIME_BASE]


def _given(entries: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """Return an entry if it has the type that it must have."""
    value = entries.get(name)
    return value if type(value) is type(otherwise) else otherwise


def _saturation(dtype: np.dtype[Any]) -> int:
    """Return the highest count that marks no pixel."""
    return int(np.iinfo(dtype).max) - 1 if dtype.kind in "ui" else 1 << 24
