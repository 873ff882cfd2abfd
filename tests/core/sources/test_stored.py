"""Images that are read as they are stored are those that fabio reads."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import fabio
import numpy as np
import pytest
from PIL import Image
from ronda.core.frame import BadFrame, Encoded
from ronda.core.sources.images import read_images
from ronda.core.sources.stored import Place, read_place
from ronda.tests.image_files import WRITERS, write_image

DATA = Path(__file__).parents[4] / "shared/data"
IMAGE = np.random.default_rng(5).integers(-3, 300, (30, 41)).astype(np.int32)


def only(path: Path) -> Any:
    (image,) = read_images(path)
    return image


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_usual_file_goes_through_fabio_s_copies(tmp_path: Path, suffix: str) -> None:
    found = only(write_image(tmp_path / f"a.{suffix}", IMAGE))
    assert isinstance(found, Encoded)
    np.testing.assert_array_equal(found.decode(), IMAGE)


@pytest.mark.parametrize("name", ["powder/CeO2_Pilatus1M.tif", "map/Fe3O4C_M1_map_1_P1_E1_001.tif"])
def test_a_detector_s_own_file_is_read_otherwise(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"no {name} in shared/data")
    found = only(DATA / name)
    assert isinstance(found, Encoded)
    with fabio.open(str(DATA / name)) as file:
        np.testing.assert_array_equal(found.decode(), file.data, strict=True)


def test_bytes_in_another_order_are_taken_as_they_are(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.edf", IMAGE)
    head, pixels = path.read_bytes()[:512], IMAGE.astype(">i4").tobytes()
    path.write_bytes(head.replace(b"LowByteFirst ", b"HighByteFirst") + pixels)
    np.testing.assert_array_equal(only(path), IMAGE)
    path = tmp_path / "a.tif"
    tags = [(256, 41), (257, 30), (258, 32), (262, 1), (273, 200), (278, 30)]
    tags += [(279, IMAGE.nbytes), (339, 2)]
    entries = b"".join(
        tag.to_bytes(2, "big") + b"\0\4\0\0\0\1" + value.to_bytes(4, "big") for tag, value in tags
    )
    begin = b"MM\0*\0\0\0\x08" + len(tags).to_bytes(2, "big") + entries + bytes(4)
    path.write_bytes(begin.ljust(200, b"\0") + pixels)
    np.testing.assert_array_equal(only(path), IMAGE)


def test_packed_pixels_are_taken_as_they_are(tmp_path: Path) -> None:
    packed = tmp_path / "b.edf.gz"
    packed.write_bytes(gzip.compress(write_image(tmp_path / "a.edf", IMAGE).read_bytes()))
    np.testing.assert_array_equal(only(packed), IMAGE)
    Image.fromarray(IMAGE.astype(np.uint16)).save(tmp_path / "a.tif", compression="packbits")
    found = only(tmp_path / "a.tif")
    assert not isinstance(found, Encoded)


def test_strips_of_a_tiff_are_mixed_up(tmp_path: Path) -> None:
    image = Image.fromarray(IMAGE.astype(np.uint16))
    image.save(tmp_path / "a.tif", tiffinfo={278: 7})
    found = only(tmp_path / "a.tif")
    pixels = found.decode() if isinstance(found, Encoded) else found
    np.testing.assert_array_equal(pixels, IMAGE.astype(np.uint16))


def test_a_file_that_shrank_since_is_read_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    with pytest.raises(BadFrame, match="incomplete"):
        read_place(path, Place(4, 8, (2, 1), np.dtype("i4"), "none"))


def test_pixels_of_another_checksum_count(tmp_path: Path) -> None:
    path = tmp_path / "a.cbf"
    write_image(path, IMAGE)
    whole = path.read_bytes()
    begin = whole.index(b"Content-MD5: ") + 13
    path.write_bytes(whole[:begin] + b"1B2M2Y8AsgTpgAmY7PhCfg==" + whole[begin + 24 :])
    assert "checksum" in only(path)
