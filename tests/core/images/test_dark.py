"""A dark is the mean of its frames, survives its file, and no file can do harm."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import fabio.edfimage
import fabio.tifimage
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ronda.core.frame import BadFrame, Frame, Series
from ronda.core.images.dark import (
    DARKS,
    MOST_FRAMES,
    Dark,
    DarkParameters,
    DarkRecording,
    exposure_time,
    keep_dark,
    load_dark,
)
from ronda.core.images.orientation import Orientation
from ronda.core.images.threshold import recorded
from ronda.core.marks import as_pixels
from ronda.core.parameters import ParameterError
from ronda.tests.core.images.frames import DTYPES, marked, valid, values

SERIES = Series(1, "camera")


def frame(image: NDArray[Any], number: int = 0, series: Series = SERIES, **metadata: Any) -> Frame:
    return Frame(series, number, image, received=1000.0 + number, metadata=metadata)


def averaged(stack: NDArray[Any], wanted: int | None = None) -> Dark:
    """Return the dark of some frames [frame, row, column]."""
    recording = DarkRecording(wanted or len(stack), frame(stack[0]))
    for number, image in enumerate(stack):
        recording.add(frame(image, number))
    return recording.dark()


def dark_of(shape: tuple[int, int] = (3, 4), dtype: str = "u2", **facts: Any) -> Dark:
    mean = np.arange(90, 90 + math.prod(shape)).reshape(shape).astype(dtype)
    return Dark(as_pixels(mean), (mean / 50).astype(np.float32), **facts)


# ------------------------------------------------------------------- recording


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_mean_or_scatter_differs_from_numpy(dtype: str, data: st.DataObject) -> None:
    """Integers below 2**50, which sums of floats hold exactly; marks in some or all frames."""
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)))
    limit = 1e4 if dtype == "f2" else 1e6
    stack = data.draw(hnp.arrays(dtype, shape, elements=values(dtype, limit)))
    pixels = np.stack([as_pixels(image) for image in stack])
    measured = valid(pixels)
    if pixels.dtype.kind == "i" and pixels.itemsize == 8:
        pixels = np.where(measured, np.clip(pixels, -(2**45), 2**45), pixels)
    found = averaged(pixels)
    with np.errstate(invalid="ignore"):
        number = measured.sum(axis=0)
        mean = np.where(measured, pixels, 0).sum(axis=0, dtype=np.float64) / number
        squares = np.where(measured, pixels - mean, 0) ** 2
        rms = np.sqrt(squares.sum(axis=0) / number)
    never = number == 0
    assert found.frames == len(stack) and found.recorded == 1000.0 + len(stack) - 1
    assert found.mean.dtype == pixels.dtype and found.rms is not None
    if pixels.dtype.kind == "f":
        np.testing.assert_allclose(found.mean[~never], mean[~never], rtol=2e-7, atol=1e-4)
        assert (found.mean[never] == np.finfo(pixels.dtype).max).all()
    else:
        highest = np.iinfo(pixels.dtype).max - 1
        whole = [highest if n else round(m) for n, m in zip(never.flat, mean.flat, strict=True)]
        # Half a count may fall to either side where the mean is no number of few digits.
        wrong = np.abs(found.mean.ravel().astype(object) - np.array(whole, object)) > 0
        half = np.abs(np.abs(mean - np.trunc(mean)) - 0.5).ravel() < 1e-6
        assert not (wrong & ~half).any()
    np.testing.assert_array_equal(np.isnan(found.rms), never)
    scale = np.abs(pixels[measured]).max(initial=1.0)
    np.testing.assert_allclose(found.rms[~never], rms[~never], rtol=1e-5, atol=1e-7 * float(scale))


def test_means_are_rounded_the_wrong_way() -> None:
    stack = np.array([[[100, 100, 101, 7]], [[101, 100, 101, 7]], [[101, 101, 102, 7]]], np.uint16)
    found = averaged(stack)
    assert found.mean.tolist() == [[101, 100, 101, 7]]
    assert found.rms is not None
    np.testing.assert_allclose(found.rms, [[np.sqrt(2 / 9)] * 3 + [0]], rtol=1e-6)
    assert averaged(stack[:2]).mean.tolist() == [[100, 100, 101, 7]]  # 100.5: to the even one


def test_the_scatter_of_large_counts_is_lost_in_rounding() -> None:
    stack = 4_000_000_000 + np.random.default_rng(0).integers(-2, 3, (50, 4, 5))
    found = averaged(stack.astype(np.uint32))
    assert found.rms is not None
    np.testing.assert_allclose(found.rms, stack.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_marked_pixels_enter_the_mean(dtype: str) -> None:
    stack = np.full((3, 1, 3), 100, dtype)
    stack[1:, 0, 1] = marked(dtype)
    stack[:, 0, 2] = marked(dtype)
    found = averaged(stack)
    assert found.mean[0, :2].tolist() == [100, 100]
    assert found.rms is not None and np.isnan(found.rms[0]).tolist() == [False, False, True]
    bright = as_pixels(np.full((1, 3), 120, dtype))
    left = recorded(found, Orientation.NORMAL, 12, None, bright.dtype).subtracted(bright)
    assert left.tolist() == [[20, 20, 0]]  # what never had a dark never counts


def test_a_pixel_of_eight_bytes_wraps_in_the_mean() -> None:
    most = np.iinfo(np.int64).max
    found = averaged(np.array([[[most - 1, -most]], [[most - 1, -most]]]))
    assert found.mean[0, 0] > most - 2048 and found.mean[0, 1] < -most + 2048


def test_frames_that_differ_are_mixed() -> None:
    image = np.full((2, 3), 100, np.uint16)
    recording = DarkRecording(5, frame(image, exposure_time=0.1))
    recording.add(frame(image, exposure_time=0.1))
    for other in (
        frame(image.T, exposure_time=0.1),
        frame(image.astype("u4"), exposure_time=0.1),
        frame(image, exposure_time=0.2),
        frame(image),
    ):
        assert not recording.takes(other)
        with pytest.raises(BadFrame, match="is not like the other dark frames"):
            recording.add(other)
    assert recording.takes(frame(image.astype(">u2"), exposure_time=0.1))
    assert (recording.frames, recording.missing) == (1, 4)
    assert recording.dark().exposure_time == 0.1


def test_the_most_frames_overflow_the_count() -> None:
    images = [frame(np.full((1, 2), value, np.uint16)) for value in (60000, 60002)]
    recording = DarkRecording(MOST_FRAMES, images[0])
    for number in range(MOST_FRAMES):
        recording.add(images[number % 2])
    found = recording.dark()
    assert (recording.missing, found.frames) == (0, MOST_FRAMES)
    assert found.mean.tolist() == [[60001, 60001]]


def test_a_dark_is_written_to() -> None:
    image = np.full((2, 2), 100, np.uint16)
    found = averaged(image[None])
    assert not found.mean.flags.writeable
    assert image.tolist() == [[100, 100], [100, 100]]


# ----------------------------------------------------------------------- fit


def test_a_dark_of_other_frames_fits() -> None:
    found = dark_of(exposure_time=0.1)
    assert found.misfit((3, 4), 0.1) == found.misfit((3, 4), 0.10005) == ""
    assert found.misfit((3, 4), None) == dark_of().misfit((3, 4), 0.1) == ""
    assert found.misfit((4, 3), 0.1) == "it has (3, 4) pixels, the frames (4, 3)"
    assert found.misfit((3, 4), 0.2) == "it was exposed for 0.1 s, the frames for 0.2 s"
    assert dark_of(exposure_time=1e-6).misfit((3, 4), 1.009e-6)


@pytest.mark.parametrize("value", [0, -1.0, "0.1", True, None, float("nan"), [0.1]])
def test_what_is_no_exposure_time_is_taken_for_one(value: Any) -> None:
    assert exposure_time(frame(np.zeros((1, 1)), exposure_time=value)) is None
    late = Series(1, metadata={"count_time": value, "ExposureTime": 2})
    assert exposure_time(frame(np.zeros((1, 1)), series=late, exposure_time=value)) == 2.0
    assert exposure_time(frame(np.zeros((1, 1)), series=late, exposure_time=3)) == 3.0


def save(dark: Dark, path: Path) -> None:
    with path.open("wb") as file:
        dark.write(file)


# ----------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("known", [True, False])
def test_a_saved_dark_comes_back_otherwise(tmp_path: Path, dtype: str, known: bool) -> None:
    mean = as_pixels(np.arange(6).reshape(2, 3).astype(dtype))
    rms = np.array([[np.nan, 0, 1], [2, 3, 4]], np.float32) if known else None
    exposure, when = (0.25, 1234.5) if known else (None, float("nan"))
    path = tmp_path / "dark.npz"
    save(Dark(mean, rms, 7, when, exposure), path)
    back = load_dark(str(path))
    np.testing.assert_array_equal(back.mean, mean, strict=True)
    assert (back.rms is None) == (rms is None)
    if rms is not None:
        np.testing.assert_array_equal(back.rms, rms, strict=True)
    np.testing.assert_array_equal([back.frames, back.recorded], [7, when])
    assert back.exposure_time == exposure
    assert [path.name for path in tmp_path.iterdir()] == ["dark.npz"]


def test_a_file_of_the_run_lacks_the_dark() -> None:
    tree = dark_of(frames=9, recorded=5.0, exposure_time=0.5).tree()
    assert tree["process/dark/frames"] == 9 and tree["process/dark/exposure_time"] == 0.5
    assert tree["process/dark/mean"].shape == tree["process/dark/rms"].shape == (3, 4)
    bare = Dark(dark_of().mean).tree()
    assert not {"process/dark/rms", "process/dark/exposure_time"} & set(bare)


IMAGE = np.arange(100, 112).reshape(3, 4).astype(np.uint16)


def written(folder: Path, kind: str) -> str:
    """Return the name of a file with IMAGE."""
    path = folder / f"image.{kind}"
    match kind:
        case "npy":
            np.save(path, IMAGE)
        case "edf":
            fabio.edfimage.EdfImage(data=IMAGE).write(str(path))
        case "tif":
            fabio.tifimage.TifImage(data=IMAGE).write(str(path))
        case "h5":
            with h5py.File(path, "w") as file:
                file["entry/dark"] = IMAGE
            return f"hdf5:{path}::/entry/dark"
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "edf", "tif", "h5"])
def test_an_image_is_no_dark(tmp_path: Path, kind: str) -> None:
    found = DarkParameters().changed({"dark_file": written(tmp_path, kind)}).recorded_dark
    assert found is not None and found.frames == 1 and found.exposure_time is None
    np.testing.assert_array_equal(found.mean, IMAGE, strict=True)
    assert not found.mean.flags.writeable


def test_a_stack_is_not_averaged(tmp_path: Path) -> None:
    stack = np.stack([IMAGE, IMAGE + 1, IMAGE + 5])
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["entry/data"] = stack
    found = load_dark(f"hdf5:{tmp_path}/stack.h5::/entry/data")
    np.testing.assert_array_equal(found.mean, IMAGE + 2, strict=True)
    assert found.frames == 3 and found.rms is not None
    np.testing.assert_allclose(found.rms, np.std([0, 1, 5]), rtol=1e-6)


def test_image_files_are_not_averaged_or_those_of_before_are(tmp_path: Path) -> None:
    for number in range(4):
        image = fabio.edfimage.EdfImage(data=IMAGE + number)
        image.write(str(tmp_path / f"dark_{number}.edf"))
    name = f"images:{tmp_path}/dark_*.edf"
    first = load_dark(name)
    np.testing.assert_array_equal(first.mean, np.rint(IMAGE + 1.5).astype("u2"))
    assert load_dark(name) is first
    for path in list(tmp_path.glob("dark_[123].edf")):
        path.unlink()
    np.testing.assert_array_equal(load_dark(name).mean, IMAGE)


def test_a_dark_is_read_for_every_frame_or_an_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "dark.npz"
    save(dark_of(frames=1), path)
    first = load_dark(str(path))
    assert load_dark(str(path)) is first
    save(dark_of(frames=22, shape=(5, 5)), path)
    assert load_dark(str(path)).frames == 22


@pytest.mark.parametrize("mark", [np.nan, -1.0, np.inf])
def test_marks_of_an_image_are_subtracted(tmp_path: Path, mark: float) -> None:
    path = str(tmp_path / "image.npy")
    np.save(path, np.array([[100.0, mark]]))
    raw = as_pixels(np.array([[150, 150]], np.uint16))
    correction = recorded(load_dark(path), Orientation.NORMAL, 12, None, raw.dtype)
    assert correction.subtracted(raw).tolist() == [[50, 0]]


def test_a_live_stream_is_waited_for() -> None:
    with pytest.raises(ParameterError, match="it is no file: RecordDark averages"):
        load_dark("stins+tcp://localhost:1")


def test_frames_of_two_shapes_are_averaged(tmp_path: Path) -> None:
    for number, image in enumerate((IMAGE, IMAGE.T)):
        fabio.edfimage.EdfImage(data=image.copy()).write(str(tmp_path / f"dark_{number}.edf"))
    with pytest.raises(ParameterError, match=r"dark_file: images:.*is not like the other"):
        load_dark(f"images:{tmp_path}/dark_*.edf")
    (tmp_path / "dark_1.edf").write_bytes(b"no image")
    with pytest.raises(ParameterError, match=r"dark_file: .*dark_1\.edf cannot be read"):
        load_dark(f"images:{tmp_path}/dark_*.edf")


# ------------------------------------------------------------------ hostile files


def archive(path: Path, *, packed: bool = False, **arrays: Any) -> str:
    """Write arrays, or bytes as they are, as a dark would be."""
    way = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", way) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, bytes):
                    member.write(array)
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=True)
    return str(path)


def claim(shape: tuple[int, ...], dtype: str = "<u2") -> bytes:
    """Return the header of an array, without the array."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


GOOD: dict[str, Any] = {
    "mean": IMAGE,
    "rms": np.empty((0, 0), np.float32),
    "facts": np.array([1, np.nan, np.nan]),
}
HOSTILE: dict[str, dict[str, Any]] = {
    "a huge claim": {"mean": claim((16384, 16384), "<f8") + b"a" * 64},
    "a claim beyond memory": {"mean": claim((10**9, 10**9), "<f8")},
    "a claim beyond integers": {"mean": claim((2**62, 2**62))},
    "a huge second array": {"rms": claim((16384, 16384), "<f4")},
    "a huge third array": {"facts": claim((10**12,))},
    "huge texts": {"facts": claim((3,), "<U1000000000")},
    "negative sides": {"mean": claim((-3, -4)) + IMAGE.tobytes()},
    "objects": {"mean": np.array([[{}]], object)},
    "objects that are claimed": {"facts": claim((3,), "|O") + b"cos\nsystem\n" * 9},
    "a stack": {"mean": np.zeros((2, 3, 4), np.uint16)},
    "a line": {"mean": np.zeros(4, np.uint16)},
    "no pixel": {"mean": np.zeros((0, 4), np.uint16)},
    "complex numbers": {"mean": np.zeros((3, 4), complex)},
    "records": {"mean": np.zeros((3, 4), "u1,u2")},
    "texts": {"mean": np.full((3, 4), "a")},
    "noise of another shape": {"rms": np.zeros((4, 3), np.float32)},
    "noise of another type": {"rms": np.zeros((3, 4))},
    "too few facts": {"facts": np.zeros(2)},
    "facts that are texts": {"facts": np.array(["a", "b", "c"])},
    "frames that are no number": {"facts": np.full(3, np.nan)},
    "endless frames": {"facts": np.array([np.inf, 0, 0])},
    "no array": {"mean": b"cos\nsystem\n(S'true'\ntR."},
    "a form of its own": {"mean": claim((3, 4)).replace(b"\x01\x00", b"\x03\x00", 1)},
    "nothing": {"mean": b""},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_dark_is_taken(tmp_path: Path, what: str) -> None:
    name = archive(tmp_path / "dark.npz", **{**GOOD, **HOSTILE[what]})
    with pytest.raises(ParameterError, match=r"dark_file: .*dark\.npz cannot be used") as refusal:
        DarkParameters().changed({"dark_file": name})
    assert "\n" not in str(refusal.value)


class Touch:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", GOOD)
def test_a_pickle_in_a_dark_is_run(tmp_path: Path, name: str) -> None:
    trap = np.empty((1, 1), object)
    trap[0, 0] = Touch(tmp_path / "run")
    dark = archive(tmp_path / "dark.npz", **{**GOOD, name: trap})
    with pytest.raises(ParameterError, match="Object arrays cannot be loaded"):
        load_dark(dark)
    assert not (tmp_path / "run").exists()


def test_what_is_no_archive_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "dark.npz"
    assert load_dark(archive(path, **GOOD)).mean.tolist() == IMAGE.tolist()
    whole = path.read_bytes()
    cut = [whole[: len(whole) * part // 20] for part in range(20)]
    for number, content in enumerate([*cut, b"PK\x05\x06", b"\0" * 500, whole[200:]]):
        path = tmp_path / f"dark{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ParameterError, match=r"dark_file: .*cannot be used"):
            load_dark(str(path))
    for name in ("none.npz", "", "nowhere/*.edf", "none.edf"):
        for scheme in ("", "images:", "hdf5:"):
            with pytest.raises(ParameterError, match=r"dark_file: .*cannot be used"):
                load_dark(f"{scheme}{tmp_path}/{name}")


def test_a_compressed_dark_is_unpacked(tmp_path: Path) -> None:
    arrays = {**GOOD, "mean": np.zeros((8000, 8000), np.uint8)}
    name = archive(tmp_path / "bomb.npz", packed=True, **arrays)
    assert Path(name).stat().st_size < 200_000
    with pytest.raises(ParameterError, match="it is compressed"):
        load_dark(name)


@pytest.mark.parametrize("forged", ["directory", "both"])
def test_an_entry_that_lies_about_its_size_is_believed(tmp_path: Path, forged: str) -> None:
    """The sizes in the archive itself, not those in the header of an array."""
    path = Path(archive(tmp_path / "dark.npz", **{**GOOD, "mean": claim((16000, 16000))}))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        size = file.getinfo("mean.npy").file_size.to_bytes(4, "little")
    lie = (2**31 - 1).to_bytes(4, "little")
    begin = content.index(b"PK\x01\x02") if forged == "directory" else 0
    content[begin:] = content[begin:].replace(size, lie)
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=r"dark\.npz cannot be used"):
        load_dark(str(path))


MEASURE = """
import json, sys
from ronda.core.images.dark import load_dark
from ronda.core.parameters import ParameterError
def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmPeak")]
    return int(line.split()[1]) >> 10
load_dark(sys.argv[1])
before = peak()
for name in sys.argv[2:]:
    try: load_dark(name)
    except ParameterError: pass
    else: raise SystemExit(f"{name} was taken")
print(json.dumps(peak() - before))
"""


def test_a_hostile_dark_takes_memory(tmp_path: Path) -> None:
    """In a process of its own, whose largest size is read: claimed memory counts, used or not."""
    names = [
        archive(tmp_path / f"dark{number}.npz", **{**GOOD, **changed})
        for number, changed in enumerate([{}, *HOSTILE.values()])
    ]
    arrays = {**GOOD, "mean": np.zeros((8000, 8000), np.uint8)}
    names.append(archive(tmp_path / "bomb.npz", packed=True, **arrays))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *names], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 200


# ------------------------------------------------------------------- a folder


def test_the_dark_in_use_is_removed_or_an_older_one_stays(tmp_path: Path) -> None:
    first = keep_dark(dark_of(frames=1), tmp_path, "")
    second = keep_dark(dark_of(frames=2), tmp_path, str(first))
    third = keep_dark(dark_of(frames=3), tmp_path, str(first))
    assert DARKS.newest(tmp_path) == third
    assert first.exists() and not second.exists()
    assert load_dark(str(third)).frames == 3
