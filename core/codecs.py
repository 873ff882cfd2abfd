"""Decoding of pixels from streams: raw, (bitshuffle-)LZ4 with or without header, lists."""

from __future__ import annotations

import struct
import threading
from typing import Any

import dectris.compression
import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from .decompression import decompress_into

CODECS = ("none", "bslz4", "lz4", "byte-offset", "photons", "sparse")
"""Forms of pixels that are known, by their names in stream messages."""
INTO_BUFFERS = ("bslz4", "byte-offset")
"""Those that are decoded into a given buffer."""
PHOTON = np.dtype([("y", "<f4"), ("x", "<f4"), ("energy", "<f4")])
"""One photon of the form `photons`: its place in px and its energy in counts."""
MOST_LISTED_BYTES = 128 << 20
"""Largest image made from a list, which alone does not show that it must be so large."""
MAX_RATIO = 255
"""LZ4 cannot shrink by more; a larger claim is a lie, refused before allocating."""
MAX_LZ4 = 0x7E000000
"""Most bytes that one block of LZ4 can hold (`LZ4_MAX_INPUT_SIZE`)."""
DEFAULT_BLOCK = 8192
"""Bytes of a bitshuffle block where the stream names none."""
MAX_BLOCK = 1 << 20
"""Largest block taken of a smaller image; the decoder allocates what the header claims
(2 GiB were measured)."""


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
        big-endian u64, block bytes as u32) or without: detected; `lz4`, in the
        framing of HDF5's filter or as one bare block: detected; `byte-offset`, as
        CBF files have it, of signed integers; `photons`,
        records of `PHOTON`, each counted in its pixel: as 1 where the pixels
        are unsigned integers, as its energy where they are floats; or `sparse`,
        as `encode_sparse` makes it.
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
    if codec == "sparse":
        return _decode_sparse(blob, shape, dtype)
    if codec == "byte-offset":
        return _decode_byte_offset(np.empty(wanted, np.uint8), blob, shape, dtype)
    bitshuffled = codec == "bslz4"
    framed = with_header(blob, wanted, dtype.itemsize) if bitshuffled else _framed(blob, wanted)
    try:
        raw = dectris.compression.decompress(framed, codec, elem_size=dtype.itemsize)
    except Exception as error:
        raise ValueError(f"{codec} data cannot be decompressed ({error})") from None
    if len(raw) != wanted:
        raise ValueError(f"{codec} data hold {len(raw)} bytes where {shape} {dtype} needs {wanted}")
    return np.frombuffer(raw, dtype).reshape(shape)


def decode_into(
    buffer: NDArray[np.uint8],
    blob: bytes | memoryview,
    codec: str,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Return the same pixels as `decode`, in a buffer of the caller's if that saves memory.

    Only bitshuffle-LZ4 and byte-offset are decoded into the buffer; the pixels then hold
    until it is used again, and whoever keeps them longer must copy them.

    Parameters
    ----------
    buffer
        Bytes, contiguous, writable, at least as many as the decoded pixels have.
    blob, codec, shape, dtype
        As for `decode`.

    Raises
    ------
    ValueError
        As from `decode`, or if the buffer is too small; it then holds anything.
    """
    wanted = check_size(blob, codec, shape, dtype)
    if codec in INTO_BUFFERS and buffer.size < wanted:
        raise ValueError(f"{wanted} bytes of pixels do not fit into {buffer.size}")
    if codec == "byte-offset":
        return _decode_byte_offset(buffer[:wanted], blob, shape, dtype)
    if codec == "bslz4":
        framed = with_header(blob, wanted, dtype.itemsize)
        if decompress_into(buffer[:wanted], framed, dtype.itemsize):
            return buffer[:wanted].view(dtype).reshape(shape)
    return decode(blob, codec, shape, dtype)


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
    if codec == "photons" and (len(blob) % PHOTON.itemsize or dtype.kind not in "uf"):
        raise ValueError(f"{len(blob)} bytes are no list of photons for pixels of {dtype}")
    if codec == "byte-offset" and (dtype.kind != "i" or shape[0] * shape[1] > len(blob)):
        raise ValueError(f"{len(blob)} bytes are no differences of {shape} pixels of {dtype}")
    if codec == "sparse" and len(blob) % (4 + dtype.itemsize):
        raise ValueError(f"{len(blob)} bytes are no list of pixels of {dtype}")
    if codec in ("photons", "sparse"):
        if wanted > MOST_LISTED_BYTES:
            raise ValueError(f"an image of {wanted} bytes made from a list is too large")
    elif wanted > MAX_RATIO * len(blob):
        raise ValueError(f"{len(blob)} compressed bytes cannot hold the {wanted} claimed")
    return wanted


def _decode_byte_offset(
    buffer: NDArray[np.uint8], blob: bytes | memoryview, shape: tuple[int, int], dtype: Any
) -> NDArray[Any]:
    """Return the pixels in a buffer of just their size, native."""
    from .byteoffset import decode_byte_offset  # Numba takes a while to import

    pixels: NDArray[Any] = buffer.view(dtype.newbyteorder("="))
    decode_byte_offset(blob, pixels)
    return pixels.reshape(shape)


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


def encode_sparse(index: NDArray[np.integer[Any]], values: NDArray[Any]) -> bytes:
    """Return pixels of an image that is 0 elsewhere, as `decode` takes them as `sparse`.

    The bytes are n indices as little-endian u32, then the n values in the pixels' type.

    Parameters
    ----------
    index
        Pixels, counted row after row; each once, in ascending order, shape (n,).
    values
        What they hold, shape (n,).

    Raises
    ------
    ValueError
        If there are not as many of the ones as of the others, or they are not in order.
    """
    flat = np.asarray(index, np.int64).reshape(-1)
    if flat.shape != values.shape:
        raise ValueError(f"{flat.size} pixels for values of shape {values.shape}")
    if flat.size and (flat[0] < 0 or flat[-1] >= 1 << 32 or (flat[1:] <= flat[:-1]).any()):
        raise ValueError("pixels are not in ascending order, each once")
    return flat.astype("<u4").tobytes() + values.tobytes()


def sparse_pixels(
    blob: bytes | memoryview, shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[np.intp]:
    """Return the pixels that a `sparse` image lists, counted row after row.

    Raises
    ------
    ValueError
        If one lies outside, or they are not in ascending order.
    """
    check_size(blob, "sparse", shape, dtype)
    count = len(blob) // (4 + dtype.itemsize)
    index = np.frombuffer(blob, "<u4", count)
    if count and (index[-1] >= shape[0] * shape[1] or (index[1:] <= index[:-1]).any()):
        raise ValueError(f"pixels lie outside the image of {shape} pixels or are not in order")
    return index.astype(np.intp)


def _decode_sparse(
    blob: bytes | memoryview, shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the image that has the listed values in the listed pixels, and 0 elsewhere."""
    index = sparse_pixels(blob, shape, dtype)
    image = np.zeros(shape[0] * shape[1], dtype)
    image[index] = np.frombuffer(blob, dtype, index.size, offset=4 * index.size)
    return image.reshape(shape)


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
    if has_header(blob, nbytes, itemsize):
        return blob
    return struct.pack(">QI", nbytes, DEFAULT_BLOCK) + bytes(blob)


def has_header(blob: bytes | memoryview, nbytes: int, itemsize: int) -> bool:
    """Tell whether bslz4 bytes begin with the HDF5 header of this many decoded bytes.

    Raises
    ------
    ValueError
        If the header claims a block that no encoder makes.
    """
    claimed, block = struct.unpack(">QI", blob[:12]) if len(blob) >= 12 else (None, 0)
    if claimed != nbytes:
        return False
    if not 0 < block <= max(MAX_BLOCK, nbytes) or block % (8 * itemsize):
        raise ValueError(f"bslz4 blocks of {block} bytes do not fit pixels of {itemsize} bytes")
    return True


def _framed(blob: bytes | memoryview, nbytes: int) -> bytes | memoryview:
    """Return LZ4 bytes in the framing of HDF5's filter, adding it around one bare block.

    It is: decoded bytes as big-endian u64, bytes of a block as u32; then blocks, each
    after its length as u32.

    Raises
    ------
    ValueError
        If a bare block is too large for LZ4, or so long that the framing means raw pixels.
    """
    claimed, block = struct.unpack(">QI", blob[:12]) if len(blob) >= 12 else (None, 0)
    if claimed == nbytes and 0 < block <= MAX_LZ4:
        return blob
    if nbytes > MAX_LZ4 or len(blob) == nbytes:
        raise ValueError(f"{len(blob)} bytes are no LZ4 block of {nbytes}")
    return struct.pack(">QII", nbytes, nbytes, len(blob)) + bytes(blob)


def encode_bslz4(pixels: NDArray[Any], header: bool = True) -> bytes:
    """Return pixels as bitshuffle-LZ4, as HDF5's filter 32008 stores them in one chunk.

    For simulators and tests; the bytes are those that `decode` takes as `bslz4`.

    Parameters
    ----------
    pixels
        Any shape but an empty one; numbers of 1 to 8 bytes, in whatever byte order they have.
    header
        With the 12-byte HDF5 header (bytes as big-endian u64, block bytes as u32),
        or without, as some streams send it.
    """
    flat = np.ascontiguousarray(pixels).reshape(-1)
    name = f"encoder of thread {threading.get_ident()}"  # HDF5 opens no name twice
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset(
            "pixels", data=flat, chunks=flat.shape, **hdf5plugin.Bitshuffle(cname="lz4")
        )
        blob: bytes = dataset.id.read_direct_chunk((0,))[1]
    return blob if header else blob[12:]
