"""`ronda diff_tomo` puts each frame in its place, goes on after a stop, and is quiet."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.clients.cli import tomography
from ronda.clients.cli.main import main
from ronda.core.frame import Frame, Series
from ronda.core.positions import Position, ScanEnd, ScanPoint, ScanStart
from ronda.core.sources.recording import RECORD, SELF_DESCRIBED, STREAM
from ronda.core.sources.replay import sardana_document
from ronda.core.tomography.parameters import DiffTomoParameters
from ronda.core.tomography.profiles import Profiles, profiles
from ronda.tests.clients.commands import (
    RONDA,
    Said,
    carried_out,
    interrupted,
    options_of,
    refusal,
    started,
    write_many,
)
from ronda.tests.core.tomography.phantom import SIDE, flat, write_poni
from ronda.tests.image_files import write_image
from ronda.tests.waiting import wait_for

RESULT = "entry_0000/pyFAI/result"
CALL = ("-p", "detector.poni", "-c", "30")
NaN = np.nan


@pytest.fixture
def said(said: Said, tmp_path: Path) -> Said:
    """Return a function that integrates in a folder with a PONI file."""
    write_poni(tmp_path)
    return partial(said, "diff_tomo")


def write_stack(path: str, values: list[int]) -> None:
    """Frames of one value each, so that their patterns are this value everywhere."""
    with h5py.File(path, "w") as file:
        data = np.array([flat(value) for value in values])
        file.create_dataset("data", data=data, chunks=(1, SIDE, SIDE), **hdf5plugin.Bitshuffle())


def plain(images: NDArray[Any], **changes: Any) -> Any:
    """The patterns that the integrator itself makes of frames."""
    asked = DiffTomoParameters().changed(
        {"poni_file": "detector.poni", "n_diffraction": 30, **changes}
    )
    made = profiles(asked.setup.experiment(images.shape[1:]), asked.bins)
    series = Series(1)
    reduced = [made.reduce(Frame(series, n, image)) for n, image in enumerate(images)]
    return [each.cake or each.pattern for each in reduced]


def patterns(path: str | Path, name: str = "intensity") -> NDArray[Any]:
    with h5py.File(path) as file:
        values: NDArray[Any] = file[f"{RESULT}/{name}"][()]
    return values


def check(path: str | Path, wanted: list[list[float]]) -> None:
    """Compare the number of the frame in each place, NaN where there is none."""
    numbers = patterns(path, "map_ptr")
    np.testing.assert_array_equal(numbers, np.where(np.isnan(wanted), -1, wanted))
    shown = patterns(path)
    there = numbers >= 0
    assert np.isnan(shown[~there]).all()
    # frame n has the value n + 1; the solid angle of flat frames is divided out
    values = np.broadcast_to(numbers[there][:, None] + 1, shown[there].shape)
    np.testing.assert_allclose(shown[there], values, rtol=1e-5)


# a flat frame's pattern is flat only without the solid angle
FLAT = (*CALL, "--no-solidangle")


# ------------------------------------------------------------------------ input


def test_the_default_is_quiet_and_puts_all_patterns_in_place(said: Said) -> None:
    images = np.random.default_rng(0).poisson(50, (6, SIDE, SIDE)).astype(np.int32)
    for number, image in enumerate(images):
        write_image(f"s_{number + 7}.edf", image)
    status, out, err = said(*CALL, "-t", 3, "-r", 2, "s_*.edf")
    assert (status, out, err) == (0, "", "")
    wanted = [pattern.intensity for pattern in plain(images)]
    np.testing.assert_array_equal(patterns("diff_tomo.h5").reshape(6, 30), wanted)
    assert patterns("diff_tomo.h5", "map_ptr").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_files_of_any_form_are_one_series(said: Said) -> None:
    write_image("s_1.edf", flat(1))
    write_image("s_2.cbf", flat(2))
    write_image("s_3.tif", flat(3))
    write_stack("s_4.h5", [4, 5])
    write_image("s_10.edf", flat(6))
    assert said(*FLAT, "-t", 3, "-r", 2, "s_*") == (0, "", "")
    check("diff_tomo.h5", [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "arguments",
    [
        ("-P", "a_", "-e", "edf", "folder"),
        ("-P", "a_", "-e", ".edf", "folder"),
        ("-P", "folder/a_", "-e", "edf"),
        ("-e", "edf", "folder/a_*"),
        ("-P", "a_", "-e", "edf", "sp [1] a"),
        ("-P", "sp [1] a/a_", "-e", "edf"),
    ],
)
def test_prefix_and_extension_choose_the_files(said: Said, arguments: tuple[str, ...]) -> None:
    for folder in ("folder", "sp [1] a"):
        Path(folder).mkdir()
        for name, value in (("a_1.edf", 1), ("a_2.edf", 2), ("b_3.edf", 99)):
            write_image(f"{folder}/{name}", flat(value))
        write_image(f"{folder}/a_4.cbf", flat(98))
    assert said(*FLAT, "-t", 2, "-r", 1, *arguments) == (0, "", "")
    check("diff_tomo.h5", [[0, 1]])


def test_darks_and_flats_are_averaged_from_lists_and_patterns(said: Said) -> None:
    random = np.random.default_rng(1)
    images = random.poisson(100, (2, SIDE, SIDE)).astype(np.int32)
    darks = random.poisson(20, (3, SIDE, SIDE)).astype(np.int32)
    flats = random.uniform(0.5, 1.5, (3, SIDE, SIDE)).astype(np.float32)
    for number in range(3):
        write_image(f"dark_{number}.edf", darks[number])
        write_image(f"flat_{number}.edf", flats[number])
    for number in range(2):
        write_image(f"s_{number}.edf", images[number])
    lists = ("-d", "dark_0.edf,dark_[12].edf", "-f", "flat_*.edf")
    call = (*CALL, "-t", 2, "-r", 1, "s_*.edf")
    assert said(*call, *lists, "--split", "no", "--no-solidangle") == (0, "", "")
    signal_of = images - darks.mean(axis=0)
    place = (np.arange(SIDE) + 0.5) * 1e-3
    tth = np.rad2deg(np.arctan2(np.hypot(place[:, None], place[None]), 0.08))
    edges = np.linspace(tth.min(), tth.max() * (1 + 1e-7), 31)
    bins = np.digitize(tth, edges) - 1
    for number in range(2):
        sums = np.bincount(bins.ravel(), signal_of[number].ravel(), 30)
        norms = np.bincount(bins.ravel(), flats.mean(axis=0, dtype=float).ravel(), 30)
        np.testing.assert_allclose(patterns("diff_tomo.h5")[0, number], sums / norms, rtol=2e-5)
    with h5py.File("dark.h5", "w") as file:
        file["entry/a"], file["entry/b"] = darks[:2], darks[2]
    with h5py.File("flat.h5", "w") as file:
        file["entry/flats"] = flats
    write_image("dark_multi.edf", *darks)
    for several in (
        ("-d", "dark_0.edf", "-d", "dark_1.edf, dark_2.edf", "-f", "flat_*.edf"),
        ("-d", "dark.h5::/entry/a, hdf5:dark.h5::entry/b", "-f", "flat.h5"),
        ("-d", "dark_multi.edf", "-f", "hdf5:flat.h5::/entry/flats"),
    ):
        again = (*several, "-o", "b.h5", "--split", "no", "--no-solidangle", "--force")
        assert said(*call, *again) == (0, "", "")
        np.testing.assert_array_equal(patterns("b.h5"), patterns("diff_tomo.h5"))


# ------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("-t", 3, "-r", 2, "--zigzag"), [[0, 1, 2], [5, 4, 3]]),
        (("-t", 3, "-r", 2, "-O", 2), [[2, 3, 4], [5, NaN, NaN]]),
        (("-t", 3, "-r", 2, "--fast", "rotation"), [[0, 2, 4], [1, 3, 5]]),
        (("-t", 2, "-r", 3, "--slow-axis", "translation"), [[0, 1], [2, 3], [4, 5]]),
        (("-t", 4, "-r", 2), [[0, 1, 2, 3], [4, 5, NaN, NaN]]),
    ],
)
def test_frames_stand_where_the_scan_took_them(
    said: Said, arguments: tuple[Any, ...], wanted: list[list[float]]
) -> None:
    write_stack("s.h5", [1, 2, 3, 4, 5, 6])
    status, out, err = said(*FLAT, *arguments, "s.h5")
    assert (status, out) == (0, "")
    missing = int(np.isnan(wanted).sum())
    assert err == (f"note: 2 of {np.size(wanted)} positions were not measured\n" * bool(missing))
    check("diff_tomo.h5", wanted)
    with h5py.File("diff_tomo.h5") as file:
        axes = file[RESULT].attrs["axes"].tolist()
    plain_map = "--slow-axis" in arguments
    assert axes == [*(("slow", "fast") if plain_map else ("rotation", "translation")), "2th"]


def test_frames_that_have_no_place_are_told_of_even_when_quiet(said: Said) -> None:
    write_stack("s.h5", [1, 2, 3])
    status, out, err = said(*FLAT, "-t", 2, "-r", 1, "s.h5")
    assert (status, out) == (0, "")
    assert "1 frames came after the last of 1 x 2 positions" in err
    check("diff_tomo.h5", [[0, 1]])


def test_a_truncated_file_is_named_and_its_place_stays_empty(said: Said, tmp_path: Path) -> None:
    for number in range(4):
        write_image(f"s_{number}.cbf", flat(number + 1))
    whole = (tmp_path / "s_2.cbf").read_bytes()
    (tmp_path / "s_2.cbf").write_bytes(whole[:-200])
    status, _, err = said(*FLAT, "-t", 2, "-r", 2, "s_*.cbf")
    assert status == 1  # not all is there: a script has to know
    assert "s_2.cbf cannot be read" in err
    check("diff_tomo.h5", [[0, 1], [NaN, 3]])


def test_frames_without_a_pixel_that_counts_are_told_of(said: Said) -> None:
    images = [np.where(np.arange(SIDE) < 9, -1, flat(5)).astype(np.int32)] * 2
    write_image("s.edf", *images)
    write_image("inverted.edf", (images[0] >= 0).astype(np.uint8))
    status, _, err = said(*FLAT, "-t", 2, "-r", 1, "s.edf", "-m", "inverted.edf")
    assert status == 0
    assert "2 frames have no pixel that counts, their patterns are empty: see mask_file" in err
    assert np.isnan(patterns("diff_tomo.h5")).all()


# ----------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (("--unit", "q_A^-1"), {"unit": "q_A^-1"}),
        (("--radial-range", "5", "25"), {"radial_range": [5, 25]}),
        (("--split", "no"), {"split": "no"}),
        (("--polarization", "0.9"), {"polarization": 0.9}),
        (("--no-solidangle",), {"solid_angle": False}),
        (("--error-model", "poisson"), {"error_model": "poisson"}),
        (("--azimuthal-bins", "8"), {"azimuthal_bins": 8}),
        (("-m", "mask.edf"), {"mask_file": "mask.edf"}),
        (("--dummy", "7", "--delta-dummy", "1"), {"dummy": 7, "delta_dummy": 1}),
        (("--no-detector-marks",), {"detector_marks": False}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_are_the_parameters_of_the_stage(
    said: Said, arguments: tuple[str, ...], changes: dict[str, Any]
) -> None:
    images = np.random.default_rng(2).poisson(8, (2, SIDE, SIDE)).astype(np.int32)
    images += np.arange(SIDE, dtype=np.int32) - 6
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, 10:30] = 1
    write_image("mask.edf", mask)
    with h5py.File("s.h5", "w") as file:
        file["data"] = images
    call = (*CALL, "-t", 2, "-r", 1, "s.h5")
    assert said(*call, *arguments) == (0, "", "")
    wanted = plain(images, **changes)
    found = patterns("diff_tomo.h5")[0]
    np.testing.assert_array_equal(found, [each.intensity for each in wanted])
    if "error_model" in changes:
        np.testing.assert_array_equal(
            patterns("diff_tomo.h5", "errors")[0], [each.sigma for each in wanted]
        )
    else:
        default = [each.intensity for each in plain(images)]
        assert found.shape != np.shape(default) or not np.array_equal(found, default)


def test_radial_ranges_give_sinograms(said: Said) -> None:
    write_stack("s.h5", [1, 2, 3, 4])
    roi = ("--roi", "low=5,10", "--roi", "high=20,24")
    assert said(*FLAT, "-t", 2, "-r", 2, "s.h5", *roi) == (0, "", "")
    with h5py.File("diff_tomo.h5") as file:
        radial = file[f"{RESULT}/2th"][()]
        for name, low, high in (("low", 5, 10), ("high", 20, 24)):
            bins = int(((radial >= low) & (radial <= high)).sum())
            sinogram = file[f"entry_0000/pyFAI/sinograms/{name}"][()]
            np.testing.assert_allclose(sinogram, bins * np.array([[1, 2], [3, 4]]), rtol=1e-5)


def test_pymca_opens_the_result(said: Said) -> None:
    pytest.importorskip("PyMca5.PyMcaIO.HDF5Stack1D")
    write_stack("s.h5", [1, 2, 3, 4, 5, 6])
    assert said(*FLAT, "-t", 3, "-r", 2, "s.h5") == (0, "", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMca's own
        from PyMca5.PyMcaIO.HDF5Stack1D import HDF5Stack1D

        selection = {"x": [], "y": [f"/{RESULT}/intensity"], "m": []}
        stack = HDF5Stack1D(["diff_tomo.h5"], selection)
    assert stack.data.shape == (2, 3, 30)
    np.testing.assert_array_equal(stack.data, patterns("diff_tomo.h5"))


def test_every_option_of_the_specification_is_there() -> None:
    wanted = """--help -V --version -o --output -v --verbose -P --prefix -e --extension -t --nTrans
        -r --nRot -c --nDiff -d --dark -f --flat -m --mask -p --poni -O --offset -g --gpu -S
        --stats"""
    assert set(wanted.split()) - options_of("diff_tomo") == set()
    assert main(["diff_tomo", "-h"]) == 0


def test_places_and_statistics_are_told_when_asked(said: Said) -> None:
    write_stack("s.h5", [1, 2, 3, 4])
    status, out, err = said(*FLAT, "-t", 2, "-r", 2, "s.h5", "-v", "-S")
    assert (status, out) == (0, "")
    places = re.findall(r"frame (\d): rotation (\d), translation (\d) ", err)
    assert places == [("0", "0", "0"), ("1", "0", "1"), ("2", "1", "0"), ("3", "1", "1")]
    assert "written: diff_tomo.h5" in err
    assert "drawn: diff_tomo_stats.png" in err
    assert Path("diff_tomo_stats.png").read_bytes().startswith(b"\x89PNG")


# -------------------------------------------------------------------- bad input

SCAN = ("-t", "2", "-r", "1", "-c", "30")
WHOLE = ("-p", "detector.poni", *SCAN)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((*SCAN, "s.h5"), "no PONI file: say where the detector stands with -p"),
        (("-p", "detector.poni", "-r", "1", "-c", "30", "s.h5"), "say with -t"),
        (("-p", "detector.poni", "-t", "1", "-c", "30", "s.h5"), "say with -r"),
        (("-p", "detector.poni", "-t", "1", "-r", "1", "s.h5"), "say with -c"),
        (("-p", "detector.poni", "-t", "1", "-r", "1", "-c", "0", "s.h5"), "n_diffraction"),
        (("-p", "detector.poni", "-t", "0", "-r", "1", "-c", "9", "s.h5"), "n_translations"),
        ((*WHOLE, "-O", "2", "s.h5"), "offset of 2 leaves nothing of a series of 2 frames"),
        ((*WHOLE,), "no images: name files, folders or patterns"),
        ((*WHOLE, "none_*.edf"), "none_*.edf: there is no such file"),
        ((*WHOLE, "-e", "edf", "s.h5"), "none of the 1 files ends in .edf"),
        ((*WHOLE, "empty"), "empty/*: there is no such file"),
        ((*WHOLE, "-d", "none.edf", "s.h5"), "none.edf"),
        ((*WHOLE, "-f", "small.edf", "s.h5"), "small.edf"),
        ((*WHOLE, "-m", "small.edf", "s.h5"), "small.edf"),
        (("-p", "other.poni", *SCAN, "s.h5"), "40"),
        ((*WHOLE, "s.h5", "-o", "empty"), "is a directory"),
        ((*WHOLE, "s.h5", "-o", "no/out.h5"), "folder no does not exist"),
        ((*WHOLE, "s.h5", "-o", "precious.h5"), "--force overwrites it"),
        ((*WHOLE, "s.h5", "-o", "s.h5", "--force"), "one of the files to read"),
        ((*WHOLE, "s.h5", "--unit", "furlong"), "furlong"),
        ((*WHOLE, "s.h5", "--error-model", "wild"), "no error model"),
        ((*WHOLE, "s.h5", "--roi", "a=3"), "name=low,high"),
        ((*WHOLE, "s.h5", "--fast", "time"), "fast_axis"),
        ((*WHOLE, "s.h5", "--positions", "recording:none.cbors"), "none.cbors"),
        ((*WHOLE, "s.h5", "--resume", "--force"), "--resume and --force do not go together"),
        (
            (*WHOLE, "s.h5", "--resume", "--positions", "sardana+http://127.0.0.1:0"),
            "does not end: --positions needs a recording",
        ),
        (
            (*WHOLE, "s.h5", "--positions", "sardana+http://127.0.0.1:1"),
            "does not end: --positions needs a recording",
        ),
        ((*WHOLE, "-O", "-2", "s.h5"), "offset of -2 leaves nothing of 2 positions"),
        (
            (*WHOLE, "s.h5", "--roi", "ring=500,600"),
            "--roi: radial range ring (500 to 600) holds no point of the patterns, which lie from",
        ),
        (
            (*WHOLE, "s.h5", "--radial-range", "500", "600"),
            "no pixel lies in radial_range (500.0, 600.0) in 2th_deg: the detector has radii from",
        ),
        ((*WHOLE, "-f", "zero.edf", "s.h5"), "the flat leaves out every pixel"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_written(
    said: Said, tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    write_stack("s.h5", [1, 2])
    (tmp_path / "sub").mkdir()
    Path(write_poni(tmp_path / "sub", 60)).rename("other.poni")
    write_image("small.edf", np.zeros((3, 4), np.uint8))
    write_image("zero.edf", flat(0))
    (tmp_path / "precious.h5").write_text("precious")
    (tmp_path / "empty").mkdir()
    assert part in refusal(said, *arguments)


# ------------------------------------------------------------------------ resumed


@pytest.fixture
def integrated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the frames that are integrated."""
    numbers: list[int] = []
    reduce = Profiles.reduce

    def noted(self: Profiles, frame: Frame) -> Any:
        numbers.append(frame.frame_id)
        return reduce(self, frame)

    monkeypatch.setattr(Profiles, "reduce", noted)
    return numbers


ERRORS = ("--error-model", "poisson")


def test_a_run_goes_on_and_leaves_nothing_of_it_out(
    said: Said, integrated: list[int], tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    images = random.poisson(50, (10, SIDE, SIDE)).astype(np.int32)
    for number, image in enumerate(images):
        write_image(f"s_{number}.cbf", image)
    call = (*CALL, *ERRORS, "-t", 4, "-r", 2, "-O", 1, "--zigzag")
    assert said(*call, "s_*.cbf", "-o", "whole.h5")[0] == 0
    torn = (tmp_path / "s_3.cbf").read_bytes()
    (tmp_path / "s_3.cbf").write_bytes(torn[:-300])
    first = [f"s_{number}.cbf" for number in range(6)]
    assert said(*call, *first)[0] == 1
    assert patterns("diff_tomo.h5", "map_ptr").tolist() == [[1, 2, -1, 4], [-1, -1, -1, 5]]
    (tmp_path / "s_3.cbf").write_bytes(torn)
    integrated.clear()
    assert said(*call, "s_*.cbf", "--resume")[:2] == (0, "")
    assert sorted(integrated) == [3, 6, 7, 8, 9]
    for name in ("intensity", "errors", "map_ptr", "2th"):
        np.testing.assert_array_equal(patterns("diff_tomo.h5", name), patterns("whole.h5", name))
    with h5py.File("diff_tomo.h5") as file, h5py.File("whole.h5") as whole:
        for place in ("sinograms/all", "mean/intensity"):
            place = f"entry_0000/pyFAI/{place}"
            np.testing.assert_array_equal(file[place][()], whole[place][()])
        scan = file["entry_0000/scan"]
        for name, value in whole["entry_0000/scan"].items():
            np.testing.assert_array_equal(scan[name][()], value[()], name)
    assert not list(tmp_path.glob("*.part"))
    integrated.clear()
    extra = said(*call, "s_*.cbf", "--resume", "-v")
    assert extra[0] == 0
    assert integrated == [9]  # beyond the last position: it has no place to be known by


def test_a_finished_map_is_left_as_it_is(said: Said, integrated: list[int]) -> None:
    write_stack("s.h5", [1, 2])
    assert said(*FLAT, "-t", 2, "-r", 1, "s.h5")[0] == 0
    before = Path("diff_tomo.h5").read_bytes()
    integrated.clear()
    status, _, err = said(*FLAT, "-t", 2, "-r", 1, "s.h5", "--resume")
    assert status == 0
    assert "diff_tomo.h5 is as it was: no frame is left to be done" in err
    assert integrated == []
    assert Path("diff_tomo.h5").read_bytes() == before


def test_without_an_output_a_resumed_run_begins(said: Said) -> None:
    write_stack("s.h5", [1, 2])
    assert said(*FLAT, "-t", 2, "-r", 1, "s.h5", "--resume") == (0, "", "")
    check("diff_tomo.h5", [[0, 1]])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("-t", 3, "-r", 1, "s.h5"), "n_translations was 2, not 3"),
        (("-t", 2, "-r", 1, "-c", 31, "s.h5"), "n_diffraction was 30, not 31"),
        (("-t", 2, "-r", 1, "s.h5", "--zigzag"), "zigzag was False, not True"),
        (("-t", 2, "-r", 1, "s.h5", "--unit", "r_mm"), "unit was '2th_deg', not 'r_mm'"),
        (("-t", 2, "-r", 1, "other.h5"), "made of other files"),
        (("-t", 2, "-r", 1, "s.h5", "-o", "s_copy.h5"), "holds no map that could go on"),
        (("-t", 2, "-r", 1, "s.h5", "-o", "text.h5"), "text.h5 cannot be read"),
        (("-t", 2, "-r", 1, "s.h5", "--azimuthal-bins", 4), "azimuthal_bins was 0, not 4"),
    ],
)
def test_what_does_not_fit_is_not_gone_on_with(
    said: Said, arguments: tuple[Any, ...], part: str
) -> None:
    for name in ("s.h5", "other.h5", "s_copy.h5"):
        write_stack(name, [1, 2])
    Path("text.h5").write_text("text")
    assert said(*FLAT, "-t", 2, "-r", 1, "s.h5")[0] == 0
    sentence = refusal(said, *FLAT, *arguments, "--resume")
    assert part in sentence
    assert "--force begins anew" in sentence


def test_another_geometry_is_not_gone_on_with(said: Said, tmp_path: Path) -> None:
    write_stack("s.h5", [1, 2])
    assert said(*FLAT, "-t", 4, "-r", 1, "s.h5")[0] == 0
    write_poni(tmp_path, distance=0.09)
    sentence = refusal(said, *FLAT, "-t", 4, "-r", 1, "s.h5", "--resume")
    assert "a PONI file or images that changed since" in sentence


def test_a_pattern_that_a_killed_writer_left_out_is_made_again(
    said: Said, integrated: list[int]
) -> None:
    write_stack("s.h5", [1, 2, 3])
    assert said(*FLAT, "-t", 4, "-r", 1, "s.h5")[0] == 0
    with h5py.File("diff_tomo.h5", "r+") as file:
        file[f"{RESULT}/intensity"][0, 1] = NaN
    integrated.clear()
    assert said(*FLAT, "-t", 4, "-r", 1, "s.h5", "--resume")[0] == 0
    assert integrated == [1]
    check("diff_tomo.h5", [[0, 1, 2, NaN]])


# -------------------------------------------------------------- stopped and killed

LONG = 3000


@pytest.fixture
def long(tmp_path: Path) -> list[str]:
    """The command line of a run over many frames."""
    write_poni(tmp_path)
    frames = write_many(tmp_path / "s.h5", LONG, lambda number: flat(number + 1))
    line = ["diff_tomo", "-p", f"{tmp_path}/detector.poni", "-c", "30", "--no-solidangle"]
    line += ["-t", "60", "-r", str(LONG // 60), "-o", f"{tmp_path}/out.h5", str(frames)]
    return [*RONDA, *line]


def grows(path: Path) -> bool:
    """Tell whether a file is there and open to readers."""
    with contextlib.suppress(OSError), h5py.File(path, swmr=True):
        return True
    return False


def is_let_go(path: Path) -> bool:
    """Tell whether nobody writes a file."""
    with path.open("rb") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def readable(path: Path) -> int:
    """Check that what a file holds is right; return how many places are measured."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path))
        except OSError:  # its writer was killed
            file = stack.enter_context(h5py.File(path, swmr=True))
        numbers = file[f"{RESULT}/map_ptr"][()].ravel()
        shown = file[f"{RESULT}/intensity"][()].reshape(numbers.size, -1)
    there = (numbers >= 0) & np.isfinite(shown).any(axis=1)
    np.testing.assert_array_equal(numbers[there], np.flatnonzero(there))
    np.testing.assert_allclose(shown[there, 5], numbers[there] + 1, rtol=1e-5)
    return int(there.sum())


def test_ctrl_c_leaves_a_file_that_is_gone_on_with(tmp_path: Path, long: list[str]) -> None:
    out = tmp_path / "out.h5"
    with started(*long) as process:
        wait_for(out.exists, 60)
        interrupted(process)
    assert 0 < readable(out) <= LONG
    carried_out(*long, "--resume")
    assert readable(out) == LONG
    assert [path.name for path in tmp_path.glob("out*")] == ["out.h5"]


def test_a_kill_leaves_the_old_or_the_new_file_readable(tmp_path: Path, long: list[str]) -> None:
    out, draft = tmp_path / "out.h5", tmp_path / "out.h5.part"
    measured = [0]
    for turn in range(2):
        with started(*long, "--resume") as process:
            wait_for(draft.exists if turn else lambda: grows(out), 60)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
        wait_for(partial(is_let_go, draft if turn else out), 60)  # its writer lives on for a moment
        measured.append(readable(out))
    assert measured[1] <= measured[2]
    carried_out(*long, "--resume")
    assert readable(out) == LONG
    assert not draft.exists()
    with h5py.File(out) as file:
        text = file["entry_0000/process/configuration/data"].asstr()[()]
        assert json.loads(text)["continue_scan"] is True


# what is in the map of a run that was stopped is the same as in one that was not

WIDTH, TAKEN = 60, 1440
"""Positions of the fast axis, and frames."""
KINDS: dict[str, tuple[str, ...]] = {
    "zigzag": ("--zigzag", "--error-model", "poisson", "-O", "7"),
    "two dimensions": ("--azimuthal-bins", "5", "--error-model", "poisson", "--zigzag"),
    "motors": ("--positions", "recording:motors.cbors", "--error-model", "poisson"),
    "motors, two frames each": (
        *("--positions", "recording:pairs.cbors"),
        *("--azimuthal-bins", "3", "--error-model", "poisson"),
    ),
    "motors that are not described": ("--positions", "recording:bare.cbors"),
}


def write_positions(path: str, frames: int, described: bool = True, shift: float = 0.0) -> None:
    """A recording of where the motors were: backwards, now and then twice, sometimes beside."""
    lines = TAKEN // WIDTH // frames
    ends = {"tx": (0.0, WIDTH - 1.0), "rot": (0.0, 10.0 * (lines - 1))}
    columns = [{"name": n, "min_value": low, "max_value": high} for n, (low, high) in ends.items()]
    said = {"column_desc": columns} if described else {}
    positions: list[Position] = [ScanStart(1, tuple(ends), "mesh", None, said)]
    for point in range(TAKEN // frames):
        line, step = divmod(point, WIDTH)
        x, angle = WIDTH - 1.0 - step, 10.0 * line
        if point % 37 == 36:
            x = min(x + 3, WIDTH - 1.0)  # measured before
        if point % 101 == 100:
            angle += 4.0  # off the grid
        values = {"tx": x + shift, "rot": angle}
        positions.append(ScanPoint(point, values, frames if frames > 1 else None))
    positions.append(ScanEnd())
    kinds = {ScanStart: "DataDescription", ScanPoint: "RecordData", ScanEnd: "RecordEnd"}
    with Path(path).open("wb") as file:
        for number, position in enumerate(positions):
            _, document = sardana_document(position)
            text = json.dumps({**document, "type": kinds[type(position)]}).encode()
            content = {"sardana": cbor2.CBORTag(STREAM, ["sardana", [text]])}
            record = cbor2.CBORTag(RECORD, [number, content])
            file.write(cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, record)))


SLOWLY = (
    sys.executable,
    "-c",
    """
import time
from ronda.clients.cli import reducing
from ronda.clients.cli.main import main
from ronda.core.tomography.profiles import Profiles

def reduce(self, frame, quickly=Profiles.reduce):
    time.sleep(0.004)
    return quickly(self, frame)

Profiles.reduce, reducing.LEAST_QUEUE = reduce, 0
raise SystemExit(main())
""",
)
"""The command, with frames that take long and do not pile up: it can be stopped in the middle."""


def measured(path: Path) -> int:
    """Return how many positions are measured in a file, also one that is being written."""
    with contextlib.suppress(OSError, KeyError), h5py.File(path, swmr=not is_let_go(path)) as file:
        return int((file[f"{RESULT}/map_ptr"][()] >= 0).sum())
    return 0


def make_scan() -> None:
    random = np.random.default_rng(5)
    with h5py.File("s.h5", "w") as file:
        images = random.poisson(20, (TAKEN, SIDE, SIDE)).astype(np.uint16)
        file.create_dataset("data", data=images, chunks=(1, SIDE, SIDE))
    write_positions("motors.cbors", 1)
    write_positions("pairs.cbors", 2)
    write_positions("bare.cbors", 1, described=False)


def everything(path: str) -> dict[str, Any]:
    """All values of a map, by path."""
    found: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        for group in ("entry_0000/pyFAI", "entry_0000/scan"):
            file[group].visititems(lambda name, item, group=group: take(f"{group}/{name}", item))
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "motors"])
def test_a_run_that_was_stopped_or_killed_differs_from_one_that_was_not(
    said: Said, kind: str
) -> None:
    make_scan()
    lines = TAKEN // WIDTH // (2 if "pairs" in " ".join(KINDS[kind]) else 1)
    call = [*CALL, "-t", WIDTH, "-r", lines, *KINDS[kind], "s.h5"]
    assert said(*call, "-o", "whole.h5")[0] == 0
    wanted = everything("whole.h5")
    for number in (signal.SIGINT, signal.SIGKILL):
        out = Path(f"{number}.h5")
        with started(*SLOWLY, "diff_tomo", *call, "-o", out) as process:
            wait_for(lambda: grows(out) and measured(out), 60)  # noqa: B023 - over when this goes on
            os.kill(process.pid, number)
            process.communicate(timeout=60)
        wait_for(partial(is_let_go, out), 60)
        assert 0 < measured(out) < (wanted[f"{RESULT}/map_ptr"] >= 0).sum()
        status, _, err = said(*call, "-o", out, "--resume")
        assert status == 0, err
        found = everything(str(out))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize("kind", ["two dimensions", "motors, two frames each"])
def test_only_what_is_not_in_the_map_is_integrated_again(
    said: Said, integrated: list[int], kind: str
) -> None:
    make_scan()
    pairs = "pairs" in " ".join(KINDS[kind])
    call = [*CALL, "-t", WIDTH, "-r", TAKEN // WIDTH // (1 + pairs)]
    call += [*KINDS[kind], "s.h5", "-o", "out.h5"]
    assert said(*call)[0] == 0
    wanted = everything("out.h5")
    last = np.argwhere(wanted["entry_0000/pyFAI/result/map_ptr"] == TAKEN - 1)[0]
    with h5py.File("out.h5", "r+") as file:
        result = file[RESULT]
        if pairs:  # only the first frame of the last point was in time
            result["map_ptr"][tuple(last)] -= 1
            file["entry_0000/scan/places"][tuple(last)] -= [1, 0, 0, 1, 1, 0]
        else:
            result["map_ptr"][3, 7] = -1
    integrated.clear()
    status, _, err = said(*call, "--resume")
    assert status == 0, err
    if pairs:  # those off the grid have no place to be known by
        off = {frame for frame in range(TAKEN) if frame // 2 % 101 == 100}
        assert set(integrated) == off | {TAKEN - 2, TAKEN - 1}
    else:
        assert integrated == [3 * WIDTH + WIDTH - 1 - 7]
    for name, value in everything("out.h5").items():
        np.testing.assert_array_equal(value, wanted[name], name)


def test_positions_that_place_no_frame_end_well(said: Said) -> None:
    make_scan()
    write_positions("motors.cbors", 1, shift=0.5)
    call = [*CALL, "-t", WIDTH, "-r", TAKEN // WIDTH, *KINDS["motors"], "s.h5"]
    status, _, err = said(*call)
    assert status == 1
    assert "1440 frames were taken beside the grid" in err


def spoil(path: str, name: str, place: Any, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        file[f"entry_0000/{name}"][place] = value


@pytest.mark.parametrize(
    ("harm", "part"),
    [
        (lambda: write_positions("motors.cbors", 1, shift=1.0), "frames where they do not belong"),
        (lambda: spoil("out.h5", "scan/motor_grid", (0, 1), NaN), "ends of the motors' axes"),
        (lambda: spoil("out.h5", "scan/motor_grid", (1, 1), 0.0), "cannot all be at 0"),
        (lambda: spoil("out.h5", "scan/motor_grid", (1, 1), 30.0), "where they do not belong"),
        (lambda: spoil("out.h5", "scan/places", (0, 0, 2), 5), "where they do not belong"),
        (lambda: spoil("out.h5", "scan/places", (0, 0, 2), 1 << 41), "no series of these files"),
        (
            lambda: (
                spoil("out.h5", "scan/places", (0, 0, 0), 1 << 30),
                spoil("out.h5", "pyFAI/result/map_ptr", (0, 0), 1 << 30),
            ),
            "no series of these files",
        ),
    ],
)
def test_a_map_of_other_positions_is_not_gone_on_with(
    said: Said, harm: Callable[[], None], part: str
) -> None:
    make_scan()
    call = [*CALL, "-t", WIDTH, "-r", TAKEN // WIDTH, *KINDS["motors"]]
    assert said(*call, "s.h5", "-o", "out.h5")[0] == 0
    harm()
    assert part in refusal(said, *call, "s.h5", "-o", "out.h5", "--resume")


def test_a_draft_that_holds_more_is_gone_on_with(said: Said, integrated: list[int]) -> None:
    write_stack("s.h5", [1, 2, 3, 4])
    call = (*FLAT, "-t", 4, "-r", 1)
    assert said(*call, "s.h5", "-o", "whole.h5")[0] == 0
    with h5py.File("whole.h5", "r+") as file:
        file[f"{RESULT}/map_ptr"][0, 3] = -1
    draft = tomography.draft_of(Path("diff_tomo.h5"))
    draft.write_bytes(Path("whole.h5").read_bytes())
    with h5py.File("whole.h5", "r+") as file:
        file[f"{RESULT}/map_ptr"][0, 1:] = -1
    Path("diff_tomo.h5").write_bytes(Path("whole.h5").read_bytes())
    integrated.clear()
    assert said(*call, "s.h5", "--resume")[0] == 0
    assert integrated == [3]
    check("diff_tomo.h5", [[0, 1, 2, 3]])
    assert not draft.exists()
