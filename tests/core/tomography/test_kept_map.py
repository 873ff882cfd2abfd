"""What a killed device left is taken up again: all of it, and nothing that was cleared."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.runner import Runner
from ronda.core.sinks.checkpoint import load_checkpoint, write_checkpoint
from ronda.core.sinks.journal import NEWEST
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.stage import Connection
from ronda.core.tomography.parameters import DiffTomoParameters
from ronda.core.tomography.stage import DiffTomoStage
from ronda.tests.core.tomography.phantom import Scanner, flat, write_poni
from ronda.tests.core.tomography.scripted import run, series_of
from ronda.tests.waiting import wait_for

NaN = np.nan
PLACE = "entry_0000/pyFAI/result"
SCAN: dict[str, Any] = {"n_translations": 3, "n_rotations": 2, "n_diffraction": 40}


def leave(folder: Path, steps: list[Any], **values: Any) -> dict[str, Any]:
    """Leave `out.h5` of these events, those of a runner among them; return what was set."""
    values = {**SCAN, **values, "error_model": "poisson"}
    poni = {"poni_file": write_poni(folder), "solid_angle": False}
    asked = DiffTomoParameters().changed({**values, **poni})
    writer = NexusWriter(output_file=folder / "out.h5", state_directory=folder)
    runner = Runner(DiffTomoStage(), asked, [writer], folder=folder)
    run(runner, [partial(each, runner) if callable(each) else each for each in steps])
    runner.close()
    return values


@pytest.fixture(params=[{}, {"azimuthal_bins": 2}, {"frames_per_point": 2}], ids=str)
def left(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What is set of a scan whose device was killed after frame 3; its file is `out.h5`."""
    return leave(tmp_path, series_of(range(4)), **request.param)


def started_again(folder: Path, checkpoint: bool, values: dict[str, Any]) -> Scanner:
    """Return a stage that takes up what was left."""
    scan = Scanner(folder, **values)
    if checkpoint:
        state = load_checkpoint(folder)
        assert state is not None
        scan.stage.restore(state)
    scan.stage.recover(folder)
    return scan


@pytest.mark.parametrize("checkpoint", [False, True])
def test_frames_of_a_file_without_a_checkpoint_are_lost(
    tmp_path: Path, left: dict[str, Any], checkpoint: bool
) -> None:
    scan = started_again(tmp_path, checkpoint, left)
    whole = Scanner(tmp_path, **left)
    whole.frames(*range(4))
    assert ("did not have yet were taken from out.h5" in scan.status()) is not checkpoint
    scan.begin(2, joined_late=True)
    for each in (scan, whole):
        each.frames(5, 6)
    names = [each.name for each in scan.stage.outputs if each.live and each.name != "time_left"]
    for name in set(names) - {"frames_missed"}:
        np.testing.assert_array_equal(scan.value(name), whole.value(name), name)
    assert scan.value("frames_missed") == 1  # the one with number 4
    assert "1 frames came before the series was joined late" in scan.status()


def test_a_map_is_made_of_what_another_scan_left(tmp_path: Path, left: dict[str, Any]) -> None:
    other = started_again(tmp_path, False, {**left, "zigzag": True})
    assert "what out.h5 holds was not taken up" in other.status()
    assert "zigzag was False, not True" in other.status()
    assert other.value("points_measured") == 0


@pytest.mark.parametrize(("name", "change"), [("run", 1), ("in_file", -1)])
def test_a_file_that_the_map_has_left_is_not_taken_up(
    tmp_path: Path, left: dict[str, Any], name: str, change: int
) -> None:
    state = dict(load_checkpoint(tmp_path) or {})
    state[f"tomogram/{name}"] += change
    state["tomogram/empty"] = True
    scan = Scanner(tmp_path, **left)
    scan.stage.restore(state)
    scan.stage.recover(tmp_path)
    assert scan.value("points_measured") == 0
    assert "taken" not in scan.status()


@pytest.mark.parametrize("change", [{}, {"polarization": 0.9}], ids=["ClearMap", "polarization"])
def test_a_map_that_was_emptied_in_a_scan_is_back_after_a_kill(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    begin, *frames, end = series_of(range(6))

    def empty(runner: Runner) -> None:
        wait_for((tmp_path / NEWEST).exists)
        wait_for(lambda: runner.ledger.counts.reduced == 4)
        if change:
            runner.configure(change)
        else:
            runner.command("ClearMap")

    values = leave(tmp_path, [begin, *frames[:4], empty, *frames[4:], end])
    scan = started_again(tmp_path, False, {**values, **change})
    assert scan.value("points_measured") == 0
    scan = started_again(tmp_path, True, {**values, **change})
    assert scan.frame_map == [[-1, -1, -1], [-1, 4, 5]]


def test_a_map_cleared_after_a_restart_is_back_after_another(
    tmp_path: Path, left: dict[str, Any]
) -> None:
    scan = started_again(tmp_path, True, left)
    scan.stage.connection = Connection(folder=tmp_path)
    scan.stage.handle("ClearMap", None)
    assert not write_checkpoint(tmp_path, scan.stage.state() or {})
    assert started_again(tmp_path, True, left).value("points_measured") == 0


@pytest.mark.parametrize("azimuthal_bins", [0, 2])
def test_bins_masked_in_some_frames_of_a_cut_point_get_the_weights_of_others(
    tmp_path: Path, azimuthal_bins: int
) -> None:
    images = [flat(n * n + 1) for n in range(9)]
    for n in (1, 3, 6):
        images[n][20:] = images[n][:, 20:] = -1  # the outer rings are left out
    begin, *frames, end = series_of(range(5))
    frames = [replace(frame, payload=images[frame.frame_id]) for frame in frames]
    asked = {"frames_per_point": 3, "azimuthal_bins": azimuthal_bins}
    values = leave(tmp_path, [begin, *frames, end], **asked)
    scan, whole = started_again(tmp_path, False, values), Scanner(tmp_path, **values)
    for number in range(5):
        whole.frame(number, images[number])
    scan.begin(2, joined_late=True)
    for each in (scan, whole):
        for number in range(5, 9):
            each.frame(number, images[number])
    found, wanted = (each.stage.state() or {} for each in (scan, whole))
    for name, array in wanted.items():
        if name.startswith(("tomogram/pattern/", "tomogram/cake/", "tomogram/times")):
            np.testing.assert_array_equal(found[name], array, name)


def test_what_a_file_does_not_hold_is_taken_from_the_checkpoint(
    tmp_path: Path, left: dict[str, Any]
) -> None:
    whole = started_again(tmp_path, True, left)
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        file[PLACE]["intensity"][0, 0] = NaN  # its writer was killed before
        file["entry_0000/scan/places"][0, 1, 2] = 5  # where frames do not belong
    bare = started_again(tmp_path, False, left)
    assert bare.value("points_measured") == whole.value("points_measured") - 2
    scan = started_again(tmp_path, True, left)
    for name in ("frame_map", "sinogram", "mean_pattern"):
        np.testing.assert_array_equal(scan.value(name), whole.value(name))


@pytest.mark.parametrize(
    "name",
    ["run_id", "pyFAI/result/map_ptr", "pyFAI/result/2th", "scan/places", "scan/frames_extra"],
)
def test_a_file_that_is_no_map_stops_a_device(
    tmp_path: Path, left: dict[str, Any], name: str
) -> None:
    for link in (None, h5py.ExternalLink("else.h5", "/data"), h5py.SoftLink("/nowhere"), "text"):
        with h5py.File(tmp_path / "out.h5", "r+") as file:
            if name in file["entry_0000"] or file["entry_0000"].get(name, getlink=True):
                del file[f"entry_0000/{name}"]
            if link is not None:
                file[f"entry_0000/{name}"] = link
        scan = started_again(tmp_path, False, left)
        assert scan.value("points_measured") == 0
        assert "what out.h5 holds was not taken up" in scan.status()
    (tmp_path / "out.h5").write_bytes(b"torn")
    assert "cannot be read" in started_again(tmp_path, False, left).status()
