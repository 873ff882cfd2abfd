"""`ronda sparsify-Bragg` keeps each frame of every file once, and refuses in one sentence."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from ronda.clients.cli import options
from ronda.clients.cli.main import app, main
from ronda.core.bragg.parameters import BraggParameters
from ronda.core.bragg.stage import BraggStage
from ronda.core.compute.device import Compute, opencl_devices
from ronda.core.frame import Frame, Series
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.stage import Settings
from ronda.tests.clients.commands import (
    RONDA,
    Said,
    carried_out,
    interrupted,
    offered,
    options_of,
    refusal,
    started,
    write_many,
)
from ronda.tests.image_files import write_image
from ronda.tests.waiting import wait_for

SHAPE = (120, 100)
PIXEL = 1e-4
BINS = ("--bins", "40")
PONI = ("-p", "detector.poni")
SCAN = (*PONI, "scan.h5")
CALL = (*SCAN, *BINS, "-o", "out.h5")
SPARSE = "entry_0000/sparse_frames"


def write_poni(folder: Path, shape: tuple[int, int] = SHAPE) -> Path:
    path = folder / "detector.poni"
    path.write_text(
        "poni_version: 2.1\nDetector: Detector\n"
        f'Detector_config: {{"pixel1": {PIXEL}, "pixel2": {PIXEL}, '
        f'"max_shape": {list(shape)}, "orientation": 3}}\n'
        "Distance: 0.1\nPoni1: 0.005\nPoni2: 0.006\nRot1: 0.1\nRot2: 0\nRot3: 0\n"
        "Wavelength: 1e-10\n"
    )
    return path


def crystal(count: int, dtype: str = "i4", seed: int = 0) -> NDArray[Any]:
    """Frames of a background and three spots each; frame n has a pixel of 1000 + n."""
    random = np.random.default_rng(seed)
    frames = random.poisson(5, (count, *SHAPE)).astype(dtype)
    for number in range(count):
        frames[number, 20 + number % 50, 30:32] = 1000 + number, 600
        frames[number, 90, 20 + number % 60] = 700
        frames[number, 91, 20 + number % 60] = 500
        frames[number, 60:62, 80] = 300, 200
    return frames


def write_hdf5(path: Path, frames: NDArray[Any], **storage: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data/data", data=frames, **storage)
    return path


@pytest.fixture
def said(said: Said, tmp_path: Path) -> Said:
    """Return a function that sparsifies in a folder with a PONI file."""
    write_poni(tmp_path)
    return partial(said, "sparsify-Bragg")


@pytest.fixture
def stack(tmp_path: Path) -> NDArray[Any]:
    """Six frames, also in scan.h5."""
    frames = crystal(6)
    write_hdf5(tmp_path / "scan.h5", frames)
    return frames


def kept(path: Path | str) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Places and values of the kept pixels of each frame of a file."""
    with h5py.File(path) as file:
        group = file[SPARSE]
        pairs = itertools.pairwise(group["frame_ptr"][()])
        return [(group["index"][a:b], group["intensity"][a:b]) for a, b in pairs]


def plain(frames: NDArray[Any], poni: Path | str = "detector.poni", **changes: Any) -> Any:
    """What the stage itself makes of frames: kept pixels, their values, and the background."""
    stage = BraggStage()
    asked = {"poni_file": str(poni), "radial_bins": 40, **changes}
    settings = Settings(0, BraggParameters().changed(asked))
    series, partials = Series(1), []
    for number, image in enumerate(frames):
        partials.append(stage.map(Frame(series, number, image), settings.parameters))
    sparse = [partial.sparse for partial in partials]
    return [(each.index, each.intensity, each.background.average) for each in sparse]


def same(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted) > 0
    for (index, values, *_), (wanted_index, wanted_values, *_) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(index, wanted_index)
        np.testing.assert_array_equal(values, wanted_values)


# ------------------------------------------------------------------------ input


def test_files_of_any_form_are_one_series_in_natural_order_each_frame_once(
    said: Said, tmp_path: Path
) -> None:
    frames = crystal(16)
    for number in (0, 1):  # a numbered series, which fabio would walk through from each file
        write_image(f"s_{number + 8}.edf", frames[number])
    write_image("s_10.cbf", frames[2])
    write_image("s_11.tif", frames[3])
    write_hdf5(tmp_path / "s_12.h5", frames[4:7])
    chunks = {"chunks": (1, *SHAPE), **hdf5plugin.Bitshuffle()}
    write_hdf5(tmp_path / "s_13.h5", frames[7:10], **chunks)
    write_hdf5(tmp_path / "part.h5", frames[10:12])
    layout = h5py.VirtualLayout((2, *SHAPE), "i4")
    layout[...] = h5py.VirtualSource("part.h5", "entry/data/data", (2, *SHAPE))
    with h5py.File("s_14.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
    write_hdf5(tmp_path / "linked.h5", frames[12:14])
    with h5py.File("s_15.h5", "w") as file:
        file["external"] = h5py.ExternalLink("linked.h5", "entry/data/data")
    write_image("s_16.edf", *frames[14:])
    status, out, err = said(*PONI, *BINS, "s_*")
    assert (status, out) == (0, ""), err
    assert "16 frames received = 16 reduced + 0 rejected" in err
    same(kept("s_8_sparse.h5"), plain(frames))
    brightest = [values.max() for _, values in kept("s_8_sparse.h5")]
    assert brightest == [1000 + number for number in range(16)]


def test_a_dataset_can_be_named_and_the_output_follows_the_first_image(
    said: Said, tmp_path: Path
) -> None:
    frames = crystal(4)
    (tmp_path / "raw").mkdir()
    with h5py.File("raw/two.h5", "w") as file:
        file["a"], file["b"] = frames[:2], frames[2:]
    assert said(*PONI, *BINS, "raw/two.h5::b")[0] == 0
    same(kept("two_sparse.h5"), plain(frames[2:]))
    named = ("-o", "{basename}_other.h5")
    assert said(*PONI, *BINS, "raw/two.h5::a", *named)[0] == 0
    same(kept("two_other.h5"), plain(frames[:2]))


def test_a_truncated_file_is_named_and_the_others_are_done(said: Said, tmp_path: Path) -> None:
    frames = crystal(3)
    for number, image in enumerate(frames):
        write_image(f"f_{number}.cbf", image)
    whole = (tmp_path / "f_1.cbf").read_bytes()
    (tmp_path / "f_1.cbf").write_bytes(whole[: len(whole) // 2])
    status, _, err = said(*PONI, *BINS, "f_*.cbf", "-o", "out.h5")
    assert status == 1  # not all is there: a script has to know
    assert "3 frames received = 2 reduced + 1 rejected" in err
    assert "f_1.cbf cannot be read" in err
    same(kept("out.h5"), [plain(frames)[0], plain(frames)[2]])
    with h5py.File("out.h5") as file:
        assert file["entry_0000/frames/number"][()].tolist() == [0, 2]


def test_sources_are_kept_as_names_and_as_links_that_open(
    said: Said, stack: NDArray[Any], tmp_path: Path
) -> None:
    write_image("a_1.edf", stack[0])
    call = (*PONI, *BINS, "--save-source")
    assert said(*call, "a_1.edf", "scan.h5::entry/data/data", "-o", "out.h5")[0] == 0
    with h5py.File("out.h5") as file:
        names = file["entry_0000/sparsify/source"].asstr()[()].tolist()
        assert names == [f"{tmp_path}/a_1.edf", f"{tmp_path}/scan.h5::entry/data/data"]
        assert np.array_equal(file["entry_0000/data/data_0001"][()], stack)
    assert said(*call, "scan.h5", "-o", "all.h5")[0] == 0
    with h5py.File("all.h5") as file:
        assert np.array_equal(file["entry_0000/data/data_0001/entry/data/data"][()], stack)
    assert said(*call[:-1], "scan.h5", "-o", "none.h5")[0] == 0
    with h5py.File("none.h5") as file:
        assert "data" not in file["entry_0000"]


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (("--radial-range", "0.002", "0.006"), {"radial_range": [0.002, 0.006]}),
        (("--unit", "q_A^-1"), {"unit": "q_A^-1"}),
        (
            ("--unit", "2th_deg", "--radial-range", "1", "3"),
            {"unit": "2th_deg", "radial_range": [1, 3]},
        ),
        (("-P", "0.99"), {"polarization": 0.99}),
        (("-A",), {"solid_angle": True}),
        (("--dummy", "300", "--delta-dummy", "2"), {"dummy": 300, "delta_dummy": 2}),
        (("--cycle", "0"), {"cycles": 0}),
        (("--cutoff-clip", "8"), {"cutoff_clip": 8}),
        (("--cutoff-pick", "5"), {"cutoff_pick": 5}),
        (("--spot-size", "3"), {"spot_size": 3}),
        (("--error-model", "azimuthal"), {"error_model": "azimuthal"}),
        (("--error-model", "5*I+8"), {"error_model": "5*I+8"}),
        (("--noise", "2.5"), {"noise": 2.5}),
        (("--workers", "1"), {}),
        (("-m", "mask.edf"), {"mask_file": "mask.edf"}),
        (("-m", "mask.h5::/mask"), {"mask_file": "mask.h5::/mask"}),
        (("-m", "hdf5:mask.h5::/mask"), {"mask_file": "hdf5:mask.h5::/mask"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_are_the_parameters_of_the_stage(
    said: Said, stack: NDArray[Any], arguments: tuple[str, ...], changes: dict[str, Any]
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[60:63] = 1
    write_image("mask.edf", mask)
    with h5py.File("mask.h5", "w") as file:
        file["mask"] = mask > 0
    status, _, err = said(*CALL, *arguments)
    assert status == 0, err
    wanted = plain(stack, **changes)
    same(kept("out.h5"), wanted)
    if changes:
        pairs = zip(plain(stack), wanted, strict=True)
        arrays = [pair for frames in pairs for pair in zip(*frames, strict=True)]
        assert not all(np.array_equal(a, b, equal_nan=True) for a, b in arrays)
    with h5py.File("out.h5") as file:
        averages = file[f"{SPARSE}/background_avg"][()]
    found = np.array([average for *_, average in wanted])
    known = ~np.isnan(found)  # outside the radial range the file goes on with the last value
    np.testing.assert_array_equal(averages[known], found[known])
    with h5py.File("out.h5") as file:
        settings = json.loads(file["entry_0000/sparsify/configuration/data"].asstr()[()])
        for name, value in changes.items():
            assert settings["sparsify"][name] == value


def test_counts_of_minus_one_and_two_are_left_out_unless_asked(said: Said, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (2, *SHAPE)).round().astype(np.int16)
    write_hdf5(tmp_path / "scan.h5", noise)
    means = {}
    for word, marks in (("--no-detector-marks", False), ("--detector-marks", True)):
        assert said(*CALL, "--error-model", "azimuthal", "--force", word)[0] == 0
        wanted = plain(noise, error_model="azimuthal", detector_marks=marks)
        same(kept("out.h5"), wanted)
        means[marks] = np.nanmean([average for *_, average in wanted])
    assert abs(means[False]) < 0.1 < 0.3 < means[True]


PEAKFINDER8 = ("--peak-finder", "peakfinder8")
SEARCHES: dict[str, tuple[tuple[str, ...], float]] = {
    "max_peaks": (("--cutoff-peak", "4"), 2),
    "peak_threshold": (PEAKFINDER8, 650.0),
    "min_snr": (PEAKFINDER8, 60.0),
    "min_pixels": (PEAKFINDER8, 3),
    "max_pixels": ((*PEAKFINDER8, "--min-pixels", "1"), 1),
    "local_background_radius": (PEAKFINDER8, 6),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_setting_of_the_search_for_peaks_cannot_be_given(
    said: Said, stack: NDArray[Any], name: str
) -> None:
    finder, value = SEARCHES[name]
    option, declared = f"--{name.replace('_', '-')}", BraggParameters.model_fields[name]
    assert said(*CALL, *finder)[0] == 0
    assert said(*CALL, *finder, option, value, "-o", "b.h5")[0] == 0
    found = []
    for path in ("out.h5", "b.h5"):
        with h5py.File(path) as file:
            text = file["entry_0000/sparsify/configuration/data"].asstr()[()]
            found.append(json.loads(text)["sparsify"][name])
            peaks = file["entry_0000/peaks"]
            found.append((peaks["nPeaks"][()].tolist(), peaks["peakTotalIntensity"][()].tolist()))
    assert found[::2] == [declared.default, value]
    assert found[1] != found[3]
    assert f"by default {declared.default}" in help_of(option).lower()


def help_of(option: str) -> str:
    """What is said of an option of the command."""
    command = typer.main.get_command(app).commands["sparsify-Bragg"]  # type: ignore[attr-defined]
    (found,) = [each.help for each in command.params if option in each.opts]
    return str(found)


def test_the_defaults_are_those_of_the_specification(said: Said, stack: NDArray[Any]) -> None:
    assert said(*SCAN, "-o", "out.h5")[0] == 0
    with h5py.File("out.h5") as file:
        text = file["entry_0000/sparsify/configuration/data"].asstr()[()]
        assert file["entry_0000/beamline"].attrs["NX_class"] == "NXinstrument"
    asked = json.loads(text)["sparsify"]
    wanted = {
        "unit": "r_m",
        "radial_bins": 800,
        "cycles": 5,
        "cutoff_clip": 0.0,
        "cutoff_pick": 3.0,
        "spot_size": 1,
        "error_model": "poisson",
        "noise": 1.0,
        "polarization": None,
        "solid_angle": False,
        "dummy": None,
        "peak_finder": "none",
        "peak_patch_size": 3,
        "peak_connected": 2,
    }
    assert {name: asked[name] for name in wanted} == wanted


def test_the_beamline_names_the_instrument(said: Said, stack: NDArray[Any]) -> None:
    assert said(*CALL, "-b", "FemtoMAX")[0] == 0
    with h5py.File("out.h5") as file:
        assert file["entry_0000/FemtoMAX"].attrs["NX_class"] == "NXinstrument"


def test_every_option_of_the_specification_is_there() -> None:
    wanted = """--help -V --version -v --verbose --debug --profile -o --output --save-source -b
        --beamline -p --poni -m --mask --dummy --delta-dummy --radial-range -P --polarization -A
        --solidangle --bins --unit --cycle --cutoff-clip --cutoff-pick --error-model --noise
        --workgroup --device --device-type --cutoff-peak --peak-patch-size --peak-connected"""
    assert set(wanted.split()) - options_of("sparsify-Bragg") == set()
    assert main(["sparsify-Bragg", "-h"]) == main(["sparsify-Bragg", "--help"]) == 0


def test_what_the_shell_offers_are_the_words_that_are_taken() -> None:
    for kind in options.DEVICE_TYPES[:2]:
        assert options.compute(None, kind) is not None


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("sparsify-Bragg --unit 2", {"2th_deg", "2th_rad"}),
        ("sparsify-Bragg --peak-finder p", {"patch", "peakfinder8"}),
        ("diff_tomo --slow-axis t", {"translation"}),
    ],
)
def test_the_shell_completes_what_options_take(typed: str, words: set[str]) -> None:
    assert offered(f"ronda {typed}") == words


def test_every_frame_and_the_profile_are_told_when_asked(said: Said, stack: NDArray[Any]) -> None:
    call = (*CALL, "--cutoff-peak", "4")
    status, out, err = said(*call, "-v", "--profile")
    assert (status, out) == (0, "")
    pixels = [int(number) for number in re.findall(r"pixels kept: (\d+), peaks: 3", err)]
    assert pixels == [len(index) for index, _ in kept("out.h5")]
    for step in ("read", "decode and map, 2 workers", "reduce", "write", "all"):
        assert re.search(rf"│ {step}.*│ +[\d.]+ +│ +[\d.]+ +│", err), step
    status, _, err = said(*call, "--force")
    assert "pixels kept" not in err
    assert "Profile" not in err


# ----------------------------------------------------------------------- OpenCL


def test_a_device_that_is_not_there_is_an_error(said: Said, stack: NDArray[Any]) -> None:
    err = refusal(said, *CALL, "--device", "97", "98")
    assert re.fullmatch(r"ronda: OpenCL has no 97,98 here; it has .*\n", err)
    if not any(opencl_devices()) or not _has("acc"):
        refusal(said, *CALL, "--device-type", "acc")
    assert not Path("out.h5").exists()


def _has(kind: str) -> bool:
    try:
        Compute(opencl=True, kind=kind).device()
    except ValueError:
        return False
    return True


@pytest.mark.skipif(not opencl_devices(), reason="OpenCL has no device here")
def test_every_work_group_and_opencl_itself_give_the_same(said: Said, stack: NDArray[Any]) -> None:
    device = next(iter(opencl_devices()))
    call = (*PONI, *BINS, "scan.h5", "--device", *device)
    results = []
    for workgroup in (1, 16, 64):
        out = f"{workgroup}.h5"
        status, _, err = said(*call, "-o", out, "--workgroup", workgroup)
        assert status == 0, err
        results.append(kept(out))
    same(results[1], results[0])
    same(results[2], results[0])
    same(results[0], plain(stack))


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("scan.h5",), "no PONI file: say where the detector stands with -p"),
        (("-p", "none.poni", "scan.h5"), "none.poni"),
        (("-p", "other.poni", "scan.h5"), "120"),
        ((*PONI, "-m", "small.edf", "scan.h5"), "small.edf"),
        ((*PONI, "-m", "detector.poni", "scan.h5"), "detector.poni"),
        ((*PONI, "-m", "nowhere.edf", "scan.h5"), "nowhere.edf"),
        ((*SCAN, "-o", "no/out.h5"), "folder no does not exist"),
        ((*SCAN, "-o", "folder"), "is a directory"),
        ((*SCAN, "-o", "precious.h5"), "--force overwrites it"),
        ((*SCAN, "-o", "scan.h5", "--force"), "one of the files to"),
        ((*PONI, "nothing_*.h5"), "nothing_*.h5: there is no such file"),
        ((*PONI, "text.cbf"), "text.cbf"),
        ((*PONI, "scan.h5::nowhere"), "nowhere"),
        (PONI, "Missing argument"),
        ((*SCAN, "--unit", "furlong"), "furlong"),
        ((*SCAN, "--error-model", "import os"), "no error model"),
        ((*SCAN, "--device-type", "abacus"), "abacus"),
        ((*SCAN, "--bins", "0"), "--bins"),
        ((*SCAN, "--cutoff-pick", "0"), "cutoff_pick"),
        ((*SCAN, "-P", "3"), "--polarization"),
        ((*SCAN, "--radial-range", "3", "1"), "radial_range"),
        ((*SCAN, "-b", "../up"), "beamline"),
        ((*SCAN, "--cxi", "p.cxi"), "give --cutoff-peak"),
        ((*SCAN, "--min-peaks", "2"), "--min-peaks is about peaks, and none are looked for: give"),
        ((*SCAN, "--max-peaks", "9"), "--max-peaks is about peaks, and none"),
        (
            (*SCAN, "--cutoff-peak", "3", "--peak-finder", "none"),
            "--cutoff-peak is about peaks, and none are looked for: leave out --peak-finder none",
        ),
        ((*SCAN, "--cutoff-peak", "3", "--min-snr", "3"), "give --peak-finder peakfinder8"),
        ((*SCAN, "--cutoff-peak", "3", "--max-peaks", "0"), "max_peaks"),
        ((*PONI, "folder"), "folder is a folder: name its files, as in 'folder/*'"),
        (
            (*SCAN, "--radial-range", "50", "100"),
            "no pixel lies in radial_range (50.0, 100.0) in r_m: the detector has radii from 0.",
        ),
        ((*PONI, "-m", "ones.edf", "scan.h5"), "the mask leaves out every pixel"),
        ((*PONI, "-m", "scan.h5::/entry/data/data", "scan.h5"), "it holds several images, not one"),
        ((*PONI, "-m", "scan.h5::/nowhere", "scan.h5"), "scan.h5 has nothing to read at /nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_written(
    said: Said, stack: NDArray[Any], tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    (tmp_path / "sub").mkdir()
    write_poni(tmp_path / "sub", (60, 60)).rename("other.poni")
    write_image("small.edf", np.zeros((3, 4), np.uint8))
    write_image("ones.edf", np.ones(SHAPE, np.uint8))
    (tmp_path / "precious.h5").write_text("precious")
    (tmp_path / "text.cbf").write_text("text")
    (tmp_path / "folder").mkdir()
    assert part in refusal(said, *arguments)


def test_a_folder_that_cannot_be_written_to_is_refused(
    said: Said, stack: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("locked").mkdir(mode=0o500)
    if os.geteuid() == 0:  # who may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    err = refusal(said, *SCAN, "-o", "locked/out.h5")
    assert err == "ronda: folder locked cannot be written to; choose another\n"
    assert not any(Path("locked").iterdir())


def test_a_full_disk_is_told_as_frames_that_cannot_be_used(
    said: Said, stack: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = property(lambda self: "", lambda self, value: None)
    monkeypatch.setattr(NexusWriter, "file", none, raising=False)
    status, _, err = said(*CALL)
    assert status == 1
    assert "nothing was written: 6 frames were reduced, but there is no file to hold them" in err


# ------------------------------------------------------------------- interrupted


def test_an_interrupted_run_leaves_a_file_with_what_was_done(tmp_path: Path) -> None:
    poni, frames = write_poni(tmp_path), crystal(1)
    raw = write_many(tmp_path / "many.h5", 3000, lambda number: frames[0])
    out = tmp_path / "out.h5"
    call = ["-p", poni, *BINS, "--cutoff-peak", "4", "--cxi", tmp_path / "out.cxi", "-o", out]
    with started(*RONDA, "sparsify-Bragg", *call, raw) as process:
        wait_for(out.exists, 60)
        err = interrupted(process)
    ledger = re.search(r"(\d+) frames received = (\d+) reduced \+ 0 rejected", err)
    assert ledger, err
    assert 0 < int(ledger[2]) == int(ledger[1])
    found = kept(out)
    assert len(found) == int(ledger[2])
    same(found[:1], plain(frames, poni))
    assert not list(tmp_path.glob("*.part"))


# ---------------------------------------------------------------------- CrystFEL


def test_peaks_are_listed_for_crystfel_beside_the_images_that_they_are_of(
    said: Said, tmp_path: Path
) -> None:
    frames = crystal(7)
    frames[2] = 5  # no peak: vetoed, but an image of the stack
    write_hdf5(tmp_path / "a_1.h5", frames[:3])
    write_hdf5(tmp_path / "a_2.h5", frames[3:], chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
    call = (*PONI, *BINS, "--cutoff-peak", "4", "--min-peaks", "1", "a_*.h5")
    (tmp_path / "lists").mkdir()
    status, _, err = said(*call, "-o", "out.h5", "--cxi", "lists/peaks.cxi")
    assert status == 0, err
    assert "written: lists/peaks.cxi, lists/peaks.geom" in err
    with h5py.File("lists/peaks.cxi") as file:
        assert np.array_equal(file["entry_1/data_1/data"][()], frames)
        counts = file["entry_1/result_1/nPeaks"][()]
        assert counts.tolist() == [3, 3, 0, 3, 3, 3, 3]
        for number in (0, 1, 3, 4, 5, 6):
            x = file["entry_1/result_1/peakXPosRaw"][number, :3]
            y = file["entry_1/result_1/peakYPosRaw"][number, :3]
            found = sorted(zip(np.round(y).tolist(), np.round(x).tolist(), strict=True))
            assert found == sorted([(20 + number, 30), (60, 80), (90, 20 + number)])
    assert "data = /entry_1/data_1/data" in Path("lists/peaks.geom").read_text()


def test_peaks_of_single_images_are_listed_without_them(said: Said, tmp_path: Path) -> None:
    for number, image in enumerate(crystal(3)):
        write_image(f"f_{number}.cbf", image)
    call = (*PONI, *BINS, "--cutoff-peak", "4", "f_*.cbf")
    status, _, err = said(*call, "-o", "out.h5", "--cxi", "peaks.cxi")
    assert status == 0
    assert "peaks.cxi has no links to images" in err
    with h5py.File("peaks.cxi") as file:
        assert file["entry_1/result_1/nPeaks"][()].tolist() == [3, 3, 3]
        assert "data" not in file["entry_1/data_1"]


@pytest.mark.parametrize("there", ["peaks.cxi", "peaks.geom"])
def test_no_list_of_peaks_and_no_geometry_is_overwritten_unasked(
    said: Said, stack: NDArray[Any], there: str
) -> None:
    Path(there).write_text("precious")
    call = (*CALL, "--cutoff-peak", "4")
    assert f"{there} exists; --force overwrites it" in refusal(said, *call, "--cxi", "peaks.cxi")
    assert Path(there).read_text() == "precious"
    assert not Path("out.h5").exists()
    assert said(*call, "--cxi", "peaks.cxi", "--force")[0] == 0
    assert Path(there).read_bytes() != b"precious"


def test_the_list_of_peaks_is_not_the_sparse_file(said: Said, stack: NDArray[Any]) -> None:
    sentence = refusal(said, *CALL, "--cutoff-peak", "4", "--cxi", "out.h5")
    assert "--cxi and --output are both out.h5" in sentence


# ------------------------------------------------------------------- round trip


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("u4", [2**32 - 1, 2**32 - 2, 2**31, 16_777_217]),
        ("i4", [2**31 - 1, 2**31 - 2, 16_777_219, -5]),
        ("u2", [65535, 65534, 32768, 1001]),
    ],
)
def test_fabio_reads_every_kept_value_exactly_and_densifies_as_we_do(
    said: Said, tmp_path: Path, dtype: str, values: list[int]
) -> None:
    frames = crystal(4, dtype)
    for number, value in enumerate(values):
        frames[number, 40, 50] = value
    source = write_hdf5(tmp_path / "scan.h5", frames)
    line = ["run", "bragg", "--source", f"hdf5:{source}", "--output", "out.h5"]
    for asked in ("poni_file=detector.poni", "radial_bins=40", "detector_marks=false"):
        line += ["--param", asked]
    assert main(line) == 0
    wanted = plain(frames, detector_marks=False)
    same(kept("out.h5"), wanted)
    for number, value in enumerate(values):
        place = np.flatnonzero(wanted[number][0] == 40 * SHAPE[1] + 50)
        assert (place.size == 1) == (value > 0)
    with fabio.open("out.h5") as file:
        assert file.nframes == 4
        assert file.shape == SHAPE
        dense = np.array([frame.data for frame in file])
    assert dense.dtype == frames.dtype
    for image, frame, (index, intensity, _) in zip(dense, frames, wanted, strict=True):
        np.testing.assert_array_equal(image.ravel()[index], intensity)
        np.testing.assert_array_equal(frame.ravel()[index], intensity)
    assert main(["densify", "out.h5", "-o", "ours.h5"]) == 0
    with h5py.File("ours.h5") as file:
        ours = file["entry_0000/measurement/data"][()].astype(np.int64)
    with h5py.File("out.h5") as file:  # nearer than the first ring's middle fabio has no background
        radius, rings = file[f"{SPARSE}/mask"][()], file[f"{SPARSE}/radius"][()]
    both = (radius >= rings[0]) & (radius <= rings[-1])
    assert both.mean() > 0.9
    assert np.abs(ours - dense.astype(np.int64))[:, both].max() <= 1
    carried_out(sys.executable, "-m", "fabio.app.densify", "-N", "0", "-O", "lima", "out.h5")
    with fabio.open("out_dense.h5") as file:
        theirs = np.array([frame.data for frame in file])
    np.testing.assert_array_equal(theirs, dense)


# ------------------------------------------------------------------------ memory

PEAK_OF = """
import re, sys
from functools import partial
from pathlib import Path
from ronda.clients.cli.main import main
assert main(sys.argv[1:]) == 0
# Its own: getrusage would count what the test's process had when it started this one.
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    shape = (500, 500)
    poni = write_poni(tmp_path, shape)
    frame = np.random.default_rng(0).poisson(3, shape).astype(np.int32)
    peaks = []
    for count in (40, 160):
        raw = write_many(tmp_path / f"{count}.h5", count, lambda number: frame)
        line = ["sparsify-Bragg", "-p", poni, *BINS, raw, "-o", tmp_path / f"out_{count}.h5"]
        peaks.append(int(carried_out(sys.executable, "-c", PEAK_OF, *line)))
    raw_megabytes = 120 * frame.nbytes >> 20
    assert peaks[1] - peaks[0] < raw_megabytes / 2
    assert peaks[1] < 600


def test_the_command_keeps_memory_for_frames_before_it_starts_threads(
    said: Said, stack: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ronda.core.runner import Runner
    from ronda.devices import memory

    called: list[str] = []
    start = Runner.start
    monkeypatch.setattr(memory, "keep_for_frames", lambda: called.append("keep"))

    def started(self: Runner, *arguments: Any) -> None:
        called.append("start")
        start(self, *arguments)

    monkeypatch.setattr(Runner, "start", started)
    assert said(*CALL)[0] == 0
    assert called == ["keep", "start"]
    assert memory.LARGE > 18_000_000  # what 4M pixels of 4 bytes are
