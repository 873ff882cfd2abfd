"""A mask is read from what people have, or refused in a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from ronda.core.frame import BadFrame
from ronda.core.mask import MaskParameters
from ronda.core.parameters import ParameterError
from ronda.tests.image_files import write_image

MASK = np.array([[0, 1, 0], [2, 0, 0]], np.uint8)


def written(folder: Path, kind: str) -> str:
    path = folder / f"mask.{kind}"
    if kind == "npy":
        np.save(path, MASK)
    elif kind == "edf":
        write_image(path, MASK)
    else:
        with h5py.File(path, "w") as file:
            file["entry/mask"] = MASK
        return f"hdf5:{path}::/entry/mask"
    return str(path)


def parameters(name: str) -> MaskParameters:
    return MaskParameters().changed({"mask_file": name})


@pytest.mark.parametrize("kind", ["npy", "edf", "h5"])
def test_nonzero_pixels_are_left_out(tmp_path: Path, kind: str) -> None:
    mask = parameters(written(tmp_path, kind)).mask_for((2, 3))
    assert mask is not None
    assert mask.tolist() == (MASK != 0).tolist()
    assert not mask.flags.writeable


def test_no_file_is_no_mask() -> None:
    assert parameters("").mask_for((5, 5)) is None


def test_a_mask_of_another_shape_rejects_the_frame(tmp_path: Path) -> None:
    with pytest.raises(BadFrame, match=r"mask.*\(2, 3\) pixels, the frame \(3, 2\)"):
        parameters(written(tmp_path, "npy")).mask_for((3, 2))


def test_what_cannot_be_a_mask_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "stack.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    (tmp_path / "text.edf").write_text("no image")
    np.save(tmp_path / "cut.npy", np.zeros((50, 50)))
    os.truncate(tmp_path / "cut.npy", 400)
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "<u8", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    h5 = written(tmp_path, "h5")
    names = [path.name for path in tmp_path.iterdir() if path.name != "mask.h5"]
    assert len(names) == 7
    for name in [str(tmp_path / name) for name in names]:
        with pytest.raises(ParameterError, match="mask_file"):
            parameters(name)
    for name in (f"{tmp_path}/none.edf", h5.replace("/entry/mask", "/entry"), f"{h5}2", h5[:-13]):
        with pytest.raises(ParameterError, match="mask_file"):
            parameters(name)


def test_a_mask_that_vanished_rejects_frames_and_does_no_more(tmp_path: Path) -> None:
    unchecked = MaskParameters(mask_file=str(tmp_path / "gone.npy"))
    with pytest.raises(BadFrame, match=r"gone\.npy"):
        unchecked.mask_for((2, 3))


def test_a_mask_is_kept_while_it_is_set_and_read_again_when_set_again(tmp_path: Path) -> None:
    name = written(tmp_path, "npy")
    before = parameters(name)
    np.save(name, 1 - np.minimum(MASK, 1))
    os.utime(name, ns=(1, 1))
    after = before.changed({"mask_file": name})
    assert before.mask is not None and before.mask.tolist() == (MASK != 0).tolist()
    assert after.mask is not None and after.mask.tolist() == (MASK == 0).tolist()
