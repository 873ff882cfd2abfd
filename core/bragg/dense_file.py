"""Stacks of whole images as HDF5, in the two layouts that crystallography reads.

Eiger (DECTRIS): `STEM_000001.h5`, `STEM_000002.h5`... with `/entry/data/data`, and
`STEM_master.h5` (NXmx), which links to them as `/entry/data/data_000001`... For XDS the
template is `STEM_??????.h5`. What XDS's plug-ins neggia and durin read of the master:
the links, `x_pixel_size`, `y_pixel_size`, `detectorSpecific/{nimages, ntrigger, pixel_mask}`
(bit 0: no pixel there). durin takes the last NXdata in the file for the images, so
there is no other one.

Lima (ESRF): one file with `/entry_0000/measurement/data`.

In both an image is one chunk of bitshuffle-LZ4, and files have HDF5's oldest format,
which all readers know. Files get their names when all is written: what is half
written ends in `.part`. If fewer images come than were told, the files are as long
as what came.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ..sinks.reserved import ROOM
from ..sinks.tree import write_tree
from .cxi import DataLink, PeakTable
from .dense_layout import (
    EIGER_IMAGES,
    LIMA_IMAGES,
    Stack,
    eiger_data_tree,
    lima_tree,
    master_tree,
)

IMAGES_PER_FILE = 1000
"""Images of one data file of Eiger style, as DECTRIS's file writer has it by default."""
MOST_FILES = 999_999
"""Data files that the names have room for."""


class DenseWriter(Protocol):
    """Takes a stack image by image."""

    paths: Sequence[Path]
    """The files that there will be if all images come."""

    def write(self, image: NDArray[Any], peaks: NDArray[Any] | None = None) -> None:
        """Add an image, and its peaks if the stack has them.

        Raises
        ------
        OSError
            In one sentence, if there is no room; then `discard`.
        """

    def finish(self) -> list[DataLink]:
        """Give the files their names; return where the images are. Without any: leave nothing."""

    def discard(self) -> None:
        """Leave nothing behind."""


class LimaWriter:
    """Writes a stack as Lima does.

    Parameters
    ----------
    path
        Of the file.
    stack
        What the images have in common.

    Raises
    ------
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Path, stack: Stack) -> None:
        self.paths: Sequence[Path] = (path,)
        self._stack = stack
        self._draft = _Draft(path, LIMA_IMAGES, stack, stack.count, "entry_0000/peaks")

    def write(self, image: NDArray[Any], peaks: NDArray[Any] | None = None) -> None:
        """Add an image, and its peaks if the stack has them."""
        self._draft.write(image, peaks)

    def finish(self) -> list[DataLink]:
        """Give the file its name; return where the images are. Without any: leave nothing."""
        if self._draft.count == 0:
            self.discard()
            return []
        self._draft.fill(lima_tree(self._stack, self._draft.count, self.paths[0]))
        self._draft.publish()
        return [self._draft.link]

    def discard(self) -> None:
        """Leave nothing behind."""
        self._draft.discard()


class EigerWriter:
    """Writes a stack as DECTRIS's detectors do: a master file and data files.

    Parameters
    ----------
    stem
        Path of the files up to `_master.h5`.
    stack
        What the images have in common.

    Raises
    ------
    OSError
        If they cannot be written.
    ValueError
        If there are too many images.
    """

    def __init__(self, stem: Path, stack: Stack) -> None:
        self._stem, self._stack = stem, stack
        files = -(-stack.count // IMAGES_PER_FILE)
        if files > MOST_FILES:
            raise ValueError(f"{stack.count} images are too many for {MOST_FILES} files")
        data = [self._data_path(number) for number in range(1, files + 1)]
        self.paths: Sequence[Path] = (*data, self._master)
        self._drafts: list[_Draft] = []

    @property
    def _master(self) -> Path:
        return self._stem.with_name(f"{self._stem.name}_master.h5")

    def _data_path(self, number: int) -> Path:
        return self._stem.with_name(f"{self._stem.name}_{number:06d}.h5")

    @property
    def _count(self) -> int:
        return sum(draft.count for draft in self._drafts)

    def write(self, image: NDArray[Any], peaks: NDArray[Any] | None = None) -> None:
        """Add an image, and its peaks if the stack has them."""
        done = self._count
        if done % IMAGES_PER_FILE == 0:
            expected = min(max(self._stack.count - done, 1), IMAGES_PER_FILE)
            path = self._data_path(len(self._drafts) + 1)
            if self._drafts:
                self._drafts[-1].close()
            draft = _Draft(path, EIGER_IMAGES, self._stack, expected, "entry/peaks")
            self._drafts.append(draft)
            draft.fill(eiger_data_tree(path))
        self._drafts[-1].write(image, peaks)

    def finish(self) -> list[DataLink]:
        """Give the files their names; return where the images are. Without any: leave nothing."""
        if self._count == 0:
            self.discard()
            return []
        master = _Draft(self._master, "", self._stack, 0, "")
        self._drafts.append(master)
        links = [draft.link for draft in self._drafts[:-1]]
        count = sum(link.shape[0] for link in links)
        master.fill(master_tree(self._stack, count, links, self._master))
        master.write_mask("entry/instrument/detector/pixel_mask", self._stack.mask)
        specific = "entry/instrument/detector/detectorSpecific"
        master.fill({f"{specific}/pixel_mask>": "entry/instrument/detector/pixel_mask"})
        for draft in self._drafts:  # the master comes last: what it links to is there
            draft.publish()
        return links

    def discard(self) -> None:
        """Leave nothing behind."""
        for draft in self._drafts:
            draft.discard()


class _Draft:
    """One HDF5 file that has no name of its own yet, perhaps with a stack in it.

    HDF5 does not survive a full disk (core/sinks/reserved.py), so before each image it
    is tried whether the file may grow by so much.
    """

    def __init__(self, path: Path, images: str, stack: Stack, expected: int, peaks: str) -> None:
        self._path, self._draft = path, path.with_name(f"{path.name}.part")
        self._images, self._shape, self._dtype = images, stack.shape, stack.dtype
        self.count = 0
        self._draft.touch()
        try:
            self._make_room(0)
            self._file = h5py.File(self._draft, "w")
        except OSError:
            self._draft.unlink(missing_ok=True)
            raise
        self._peaks: PeakTable | None = None
        if images:
            dataset = self._file.create_dataset(
                images,
                (expected, *stack.shape),
                stack.dtype,
                maxshape=(None, *stack.shape),
                chunks=(1, *stack.shape),
                **hdf5plugin.Bitshuffle(cname="lz4"),
            )
            dataset.attrs["interpretation"] = "image"
            if stack.peaks:
                self._peaks = PeakTable(self._file.create_group(peaks))

    @property
    def link(self) -> DataLink:
        """Where the images are."""
        return DataLink(self._path, f"/{self._images}", (self.count, *self._shape), self._dtype)

    def write(self, image: NDArray[Any], peaks: NDArray[Any] | None) -> None:
        """Add an image and its peaks."""
        self._make_room(image.nbytes)
        dataset = self._file[self._images]
        if self.count == dataset.shape[0]:
            dataset.resize(self.count + 1, 0)
        dataset[self.count] = image
        self.count += 1
        if self._peaks is not None and peaks is not None:
            self._peaks.append(peaks)

    def fill(self, tree: Mapping[str, Any]) -> None:
        """Write what stands beside the images.

        Raises
        ------
        ValueError
            If something cannot be written.
        """
        if refused := write_tree(self._file, tree):
            raise ValueError(f"{self._path}: {'; '.join(refused)}")

    def write_mask(self, path: str, mask: NDArray[np.bool_]) -> None:
        """Write a mask as DECTRIS has it, compressed as the images are: neggia knows no other."""
        self._make_room(mask.size * 4)
        self._file.create_dataset(
            path,
            data=mask.astype(np.uint32),
            chunks=mask.shape,
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )

    def close(self) -> None:
        """Close the file, as long as what came; nothing can be added."""
        if not self._file:
            return
        if self._images:
            self._file[self._images].resize(self.count, 0)
        if self._peaks is not None:
            self._peaks.flush()
        self._file.close()

    def publish(self) -> None:
        """Close the file and give it its name."""
        self.close()
        self._draft.replace(self._path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Try whether the file may grow by so many bytes.

        Raises
        ------
        OSError
            If it may not, because of the disk or a quota.
        """
        with self._draft.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                os.posix_fallocate(file.fileno(), end, size + ROOM)
            except OSError as error:
                raise OSError(f"{self._path} cannot grow: {error.strerror}") from None
            finally:
                file.truncate(end)
