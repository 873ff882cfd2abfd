"""Decoding of pixels from streams: raw, bitshuffle-LZ4 with or without HDF5's header, photons."""

from __future__ import annotations

import struct
from typing import Any

import dectris.compression
import numpy as np
from numpy.typing import NDArray

CODECS = ("none", "bslz4", "photons")
"""Forms of pixels that are known, by their names in stream messages."""
PHOTON = np.dtype([("y", "<f4"), ("x", "<f4"), ("energy", "<f4")])
"""One photon of the form `photons`: its place in px and its energy in counts."""
MOST_PHOTON_BYTES = 128 << 20
"""Largest image made from photons, which alone do not show that it must be so large."""
MAX_RATIO = 255
"""LZ4 cannot shrink by more; a larger claim is a lie, refused before allocating."""
DEFAULT_BLOCK = 8192
"""Bytes of a bitshuffle block where the stream names none."""
MAX_BLOCK = 1 << 20
"""Largest block taken; the decoder allocates what the header claims (2 GiB were measured)."""


def decode(
    blob: bytes | memoryview, codec: str, shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return pixels (rows, columns) from the bytes of a stream message.

    Parameters
    ----------
    blob
        The bytes as received.
    codec
        `none`; `bslz4`, which comes with the 12-byte HDF5 header (bytes as
        big-endian u64, block bytes as u32) or without: detected; or `photons`,
        records of `PHOTON`, each counted in its pixel: as 1 where the pixels
        are unsigned integers, as its energy where they are floats.
    shape, dtype
        What the message's header claims, already checked by `check_shape`.

    Raises
    ------
    ValueError
        If the bytes do not hold exactly this shape, in one sentence.
    """
    wanted = check_size(blob, codec, shape, dtype)
    if codec == "none":
        return np.frombuffer(memoryview(blob).toreadonly(), dtype).reshape(shape)
    if codec == "photons":
        return _decode_photons(blob, shape, dtype)
    framed = with_header(blob, wanted, dtype.itemsize)
    try:
        raw = dectris.compression.decompress(framed, "bslz4", elem_size=dtype.itemsize)
    except Exception as error:
        raise ValueError(f"bslz4 data cannot be decompressed ({error})") from None
    if len(raw) != wanted:
        raise ValueError(f"bslz4 data holds {len(raw)} bytes where {shape} {dtype} needs {wanted}")
    return np.frombuffer(raw, dtype).reshape(shape)


def check_size(
    blob: bytes | memoryview, codec: str, shape: tuple[int, int], dtype: np.dtype[Any]
) -> int:
    """Return the bytes of the decoded pixels, or refuse what can be refused without decoding.

    Raises
    ------
    ValueError
        If the compression is unknown or the number of bytes cannot be right.
    """
    if codec not in CODECS:
        raise ValueError(f"unknown compression {codec!r:.40}; known are {', '.join(CODECS)}")
    wanted = shape[0] * shape[1] * dtype.itemsize
    if codec == "none" and len(blob) != wanted:
        raise ValueError(f"{len(blob)} bytes of pixels where {shape} {dtype} needs {wanted}")
    if codec == "photons":
        if len(blob) % PHOTON.itemsize or dtype.kind not in "uf":
            raise ValueError(f"{len(blob)} bytes are no list of photons for pixels of {dtype}")
        if wanted > MOST_PHOTON_BYTES:
            raise ValueError(f"an image of {wanted} bytes from photons is too large")
    elif wanted > MAX_RATIO * len(blob):
        raise ValueError(f"{len(blob)} compressed bytes cannot hold the {wanted} claimed")
    return wanted


def _decode_photons(
    blob: bytes | memoryview, shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the image of photons: each in the pixel whose centre is nearest.

    Raises
    ------
    ValueError
        If one lies outside, or a pixel holds more than its type can count.
    """
    flat = photon_pixels(blob, shape)
    image = np.zeros(shape[0] * shape[1], dtype)
    if dtype.kind == "f":
        energy = np.frombuffer(blob, PHOTON)["energy"]
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(image, flat, energy.astype(dtype))
        if not np.isfinite(image[flat]).all():
            raise ValueError(f"the energy of the photons in one pixel does not fit into {dtype}")
        return image.reshape(shape)
    pixels, counts = np.unique(flat, return_counts=True)
    if counts.size and counts.max() >= np.iinfo(dtype).max:
        raise ValueError(f"{counts.max()} photons in one pixel do not fit into {dtype}")
    image[pixels] = counts
    return image.reshape(shape)


def photon_pixels(blob: bytes | memoryview, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Return the pixel of each photon of a list, counted row after row.

    Raises
    ------
    ValueError
        If one lies outside.
    """
    photons = np.frombuffer(blob, PHOTON)
    place = np.floor(np.stack([photons["y"], photons["x"]]).astype(np.float64) + 0.5)
    if not ((place >= 0) & (place < np.array(shape)[:, None])).all():
        raise ValueError(f"a photon lies outside the image of {shape} pixels")
    flat: NDArray[np.intp] = np.ravel_multi_index(tuple(place.astype(np.intp)), shape)
    return flat


def with_header(blob: bytes | memoryview, nbytes: int, itemsize: int) -> bytes | memoryview:
    """Return bslz4 bytes with their 12-byte HDF5 header, adding it where it is missing.

    Parameters
    ----------
    blob
        The bytes as received.
    nbytes, itemsize
        Bytes of the decoded pixels, and of one of them.

    Raises
    ------
    ValueError
        If the header claims a block that no encoder makes.
    """
    claimed, block = struct.unpack(">QI", blob[:12]) if len(blob) >= 12 else (None, 0)
    if claimed != nbytes:
        return struct.pack(">QI", nbytes, DEFAULT_BLOCK) + bytes(blob)
    if not 0 < block <= MAX_BLOCK or block % (8 * itemsize):
        raise ValueError(f"bslz4 blocks of {block} bytes do not fit pixels of {itemsize} bytes")
    return blob
