"""What diffraction tomography writes: complete, resumable, readable while it grows and by PyMca."""

from __future__ import annotations

import json
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.positions import ScanEnd, ScanPoint, ScanStart
from ronda.core.runner import Runner
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.tomography.parameters import DiffTomoParameters
from ronda.core.tomography.stage import DiffTomoStage
from ronda.tests.core.tomography.phantom import write_poni
from ronda.tests.core.tomography.scripted import Script, run, series_of

NaN = np.nan
PLACE = "entry_0000/pyFAI/result"


def make_runner(folder: Path, name: str = "out.h5", **values: Any) -> Runner:
    asked = {"poni_file": write_poni(folder), "n_diffraction": 40, "solid_angle": False, **values}
    writer = NexusWriter(output_file=folder / name)
    return Runner(DiffTomoStage(), DiffTomoParameters().changed(asked), [writer], workers=2)


def written(path: Path, place: str = PLACE) -> tuple[Any, Any]:
    """Frame number by the pattern at each position, NaN where there is none; and frame map."""
    with h5py.File(path) as file:
        intensity = file[place]["intensity"][...]
        assert ((intensity == intensity[..., :1]) | np.isnan(intensity)).all()
        return intensity[..., 0] - 1, file[place]["map_ptr"][...]


def check(path: Path, wanted: Any, place: str = PLACE) -> None:
    shown, frames = written(path, place)
    np.testing.assert_allclose(shown, np.array(wanted, float))
    np.testing.assert_array_equal(frames, np.where(np.isnan(wanted), -1, wanted))


def test_frames_stand_in_their_places_and_nothing_stands_elsewhere(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, n_translations=3, n_rotations=2, offset=1, zigzag=True)
    run(runner, series_of([0, 1, 2, 3, 4, 6, 7, 8]))
    runner.close()
    check(tmp_path / "out.h5", [[1, 2, 3], [6, NaN, 4]])
    with h5py.File(tmp_path / "out.h5") as file:
        scan = file["entry_0000/scan"].items()
        counts = {name: int(value[()]) for name, value in scan if not value.shape}
        assert counts == {
            "points_measured": 5,
            "points_missing": 1,
            "frames_skipped": 1,
            "frames_extra": 2,
            "frames_off_grid": 0,
            "frames_without_position": 0,
            "frames_missed": 0,
            "frames_repeated": 0,
            "frames_averaged": 0,
            "frames_waiting": 0,
        }
        configuration = json.loads(file["entry_0000/pyFAI/configuration/data"].asstr()[()])
        assert configuration["setup"]["poni_file"] == str(tmp_path / "detector.poni")
        assert configuration["geometry"]["dist"] == 0.08


@pytest.mark.parametrize(
    ("values", "axes", "units"),
    [
        ({}, ["rotation", "translation", "2th"], ["deg", "mm", "deg"]),
        ({"unit": "q_A^-1"}, ["rotation", "translation", "q"], ["deg", "mm", "1/angstrom"]),
        (
            {"unit": "r_mm", "azimuthal_bins": 5},
            ["rotation", "translation", "azimuthal", "r"],
            ["deg", "mm", "deg", "mm"],
        ),
        (
            {"slow_axis": "translation", "translation_unit": "um"},
            ["slow", "fast", "2th"],
            ["um", "um", "deg"],
        ),
    ],
)
def test_axes_stand_in_the_order_of_the_dataset_with_their_units(
    tmp_path: Path, values: Any, axes: list[str], units: list[str]
) -> None:
    ends = {"rotation_range": [0, 90], "translation_range": [-1, 1]}
    runner = make_runner(
        tmp_path, n_translations=3, n_rotations=2, error_model="poisson", **ends, **values
    )
    run(runner, series_of(range(6)))
    runner.close()
    with h5py.File(tmp_path / "out.h5") as file:
        default = file[file.attrs["default"]]
        result = default[default.attrs["default"]]
        assert result.name == f"/{PLACE}"
        assert result.attrs["NX_class"] == "NXdata"
        assert list(result.attrs["axes"]) == axes
        signal = result[result.attrs["signal"]]
        assert signal.shape == tuple(len(result[name]) for name in axes)
        assert result["errors"].shape == signal.shape
        assert [result[name].attrs["units"] for name in axes] == units
        np.testing.assert_allclose(result[axes[0]], [0, 90])
        np.testing.assert_allclose(result[axes[1]], [-1, 0, 1])
        sinograms = file["entry_0000/pyFAI/sinograms"]
        assert list(sinograms.attrs["axes"]) == axes[:2]
        bins = (
            np.isfinite(signal[0, 0]).any(axis=0) if len(axes) == 4 else np.isfinite(signal[0, 0])
        )
        wanted = bins.sum() * np.arange(1, 7).reshape(2, 3)
        np.testing.assert_allclose(sinograms["all"], wanted, rtol=1e-5)


def test_pymca_reads_the_map_as_a_stack_of_spectra(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from PyMca5.PyMcaIO.HDF5Stack1D import HDF5Stack1D
    runner = make_runner(tmp_path, n_translations=5, n_rotations=4)
    run(runner, series_of([n for n in range(20) if n != 7]))
    runner.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = HDF5Stack1D([str(tmp_path / "out.h5")], {"y": "/pyFAI/result/intensity"})
    wanted = np.arange(1.0, 21).reshape(4, 5, 1) * np.ones(40)
    wanted[1, 2] = NaN
    np.testing.assert_allclose(stack.data, wanted, rtol=1e-6)
    assert stack.info["McaIndex"] == 2


def test_the_file_can_be_read_while_it_grows(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, n_translations=3, n_rotations=2)
    path, seen = tmp_path / "out.h5", threading.Event()
    begin, *frames, end = series_of(range(6))
    runner.start(lambda: Script([begin, *frames[:4], lambda: seen.wait(30), *frames[4:], end]))
    try:
        deadline, found = time.monotonic() + 30, np.empty(0)
        while time.monotonic() < deadline and np.isfinite(found).sum() < 4:
            time.sleep(0.05)
            if path.exists():
                try:
                    with h5py.File(path, "r", swmr=True) as file:
                        found = file[PLACE]["intensity"][:, :, 0]
                except (OSError, KeyError):
                    continue  # it is being laid out
    finally:
        seen.set()
    np.testing.assert_allclose(found, [[1, 2, 3], [4, NaN, NaN]])
    runner.wait()
    runner.close()
    check(path, [[0, 1, 2], [3, 4, 5]])


def test_a_scan_that_goes_on_has_all_of_its_map_in_the_next_file(tmp_path: Path) -> None:
    first = make_runner(tmp_path, n_translations=3, n_rotations=2)
    run(first, series_of([0, 1, 2]))
    state = first.stage.state()
    first.close()
    second = make_runner(tmp_path, "next.h5", n_translations=3, n_rotations=2)
    second.stage.restore(state)
    run(second, series_of([4, 5], joined_late=True, filename=""))
    run(second, series_of([1, 3]))
    second.close()
    check(tmp_path / "out.h5", [[0, 1, 2], [NaN, NaN, NaN]])
    check(tmp_path / "next.h5", [[0, 1, 2], [NaN, 4, 5]])
    check(tmp_path / "next_2.h5", [[NaN, 1, NaN], [3, NaN, NaN]])


def test_positions_that_are_known_at_the_end_are_in_the_file(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, n_translations=3, place_by="motors")
    begin, *frames, end = series_of([0, 1, 2])
    records = [ScanPoint(n, {"tx": x}) for n, x in enumerate((5.0, 1.0, 3.0))]
    run(runner, [ScanStart(5, ("tx",)), begin, *frames, end, *records, ScanEnd()])
    runner.close()
    check(tmp_path / "out.h5", [[1, 2, 0]])
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file[PLACE]["translation"], [1, 3, 5])


def test_a_corrected_order_is_in_the_file_without_traces_of_the_wrong_one(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, n_translations=3, n_rotations=2)
    begin, *frames, end = series_of([0, 1, 2, 3, 5])
    run(runner, [begin, *frames[:4], lambda: runner.configure({"zigzag": True}), frames[4], end])
    runner.close()
    check(tmp_path / "out.h5", [[0, 1, 2], [5, NaN, 3]])


def test_a_map_that_was_emptied_meanwhile_stays_in_the_file(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, n_translations=3, n_rotations=2)
    begin, *frames, end = series_of([0, 1, 2, 3, 5])
    run(runner, [begin, *frames[:3], lambda: runner.command("ClearMap"), *frames[3:], end])
    runner.close()
    check(tmp_path / "out.h5", [[0, 1, 2], [NaN, NaN, NaN]])
    check(tmp_path / "out.h5", [[NaN, NaN, NaN], [3, NaN, 5]], f"{PLACE}_2")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"n_rotations": 3}, [[0, 1, 2], [3, NaN, NaN], [NaN, NaN, NaN]]),
        ({"unit": "r_mm"}, [[NaN, NaN, NaN], [3, NaN, NaN]]),
    ],
)
def test_a_map_of_another_form_has_its_own_place_in_the_file(
    tmp_path: Path, change: Any, wanted: Any
) -> None:
    runner = make_runner(tmp_path, n_translations=3, n_rotations=2)
    begin, *frames, end = series_of([0, 1, 2, 3])
    run(runner, [begin, *frames[:3], lambda: runner.configure(change), frames[3], end])
    runner.close()
    check(tmp_path / "out.h5", [[0, 1, 2], [NaN, NaN, NaN]])
    check(tmp_path / "out.h5", wanted, f"{PLACE}_2")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["entry_0000"].attrs["default"] == "pyFAI/result_2"
        quantity = "r" if "unit" in change else "2th"
        assert list(file[f"{PLACE}_2"].attrs["axes"])[-1] == quantity
        assert list(file[PLACE].attrs["axes"])[-1] == "2th"


def test_the_cross_section_is_in_the_file_if_it_is_asked_for(tmp_path: Path) -> None:
    ends = {"translation_range": [2.0, -2.0]}
    runner = make_runner(tmp_path, n_translations=5, n_rotations=4, reconstruct=True, **ends)
    run(runner, series_of(range(20)))
    runner.close()
    with h5py.File(tmp_path / "out.h5") as file:
        group = file["entry_0000/pyFAI/reconstruction"]
        assert group["image"].shape == (5, 5)
        assert np.isfinite(group["image"]).any()
        np.testing.assert_allclose(group["x"], [2, 1, 0, -1, -2])
        assert list(group.attrs["axes"]) == ["y", "x"]
        assert group["x"].attrs["units"] == "mm"
