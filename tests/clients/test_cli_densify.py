"""`ronda densify` writes what readers know, refuses in one sentence, leaves nothing half done."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.bragg import dense_file, densify
from ronda.core.bragg.sparse_file import SparseFile
from ronda.tests.clients.commands import RONDA, Said, interrupted, refusal, started
from ronda.tests.core.bragg.sparse_files import Sparse, rings
from ronda.tests.waiting import wait_for

COUNT = 5
PEAKS = [[(100.0 + number, 3.0, 2.0, 9.0)] * number for number in range(COUNT)]


@pytest.fixture
def said(said: Said) -> Said:
    """Return a function that densifies."""
    return partial(said, "densify")


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A file of five frames with peaks, a background of 9 counts, one pixel kept in each."""
    index = [[number] for number in range(COUNT)]
    intensity = [[2**31 - 1 - number] for number in range(COUNT)]
    level = np.full((COUNT, 8), 9, np.float32)
    folder = tmp_path / "here"
    folder.mkdir()
    made = Sparse(index, intensity, average=level, deviation=level**0.5, peaks=PEAKS)
    return made.write(folder / "s.h5")


def expected(file: Path) -> list[NDArray[np.int32]]:
    """Return the images of a sparse file."""
    with SparseFile(file) as opened:
        return list(densify.dense_frames(opened, densify.Densifier(opened), range(opened.count)))


def read(file: Path) -> list[NDArray[np.int32]]:
    """Return the images as fabio reads them."""
    with fabio.open(str(file)) as opened:
        if opened.nframes == 1:  # of which fabio looks for the next file
            return [opened.data]
        return [opened.getframe(number).data for number in range(opened.nframes)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_lima_style_lies_beside_the_sparse_file(said: Said, sparse: Path) -> None:
    status, _, err = said(sparse)
    assert status == 0, err
    assert names(sparse.parent) == ["s.h5", "s_dense.h5"]
    assert np.array_equal(read(sparse.with_name("s_dense.h5")), expected(sparse))
    assert f"written: {sparse.with_name('s_dense.h5')} (5 frames" in err


def test_eiger_style_is_a_master_and_data(
    said: Said, sparse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_file, "IMAGES_PER_FILE", 3)
    assert said(sparse, "-O", "eiger", "--workers", 3)[0] == 0
    assert names(sparse.parent) == ["s.h5", "s_000001.h5", "s_000002.h5", "s_master.h5"]
    assert np.array_equal(read(sparse.with_name("s_master.h5")), expected(sparse))


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (("-o", "out.h5"), ["out.h5"]),
        (("-o", "out"), ["out.h5"]),
        (("-o", "{basename}_whole.h5"), ["s_whole.h5"]),
        (("-o", "x_master.h5", "--format", "eiger"), ["x_000001.h5", "x_master.h5"]),
        (("-o", "x_000001.h5", "-O", "e"), ["x_000001.h5", "x_master.h5"]),
        (("-o", "x.1", "-O", "eiger"), ["x.1_000001.h5", "x.1_master.h5"]),
        (("-o", "x.h5", "--cxi"), ["x.cxi", "x.geom", "x.h5"]),
    ],
)
def test_the_output_is_named_as_wished(
    said: Said,
    sparse: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    written: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    monkeypatch.chdir(folder)
    status, _, err = said(sparse, *arguments)
    assert status == 0, err
    assert names(folder) == written
    assert names(sparse.parent) == ["s.h5"]


def test_several_files_are_named_by_the_pattern(said: Said, sparse: Path, tmp_path: Path) -> None:
    other = sparse.with_name("t.h5")
    other.write_bytes(sparse.read_bytes())
    assert said(sparse, other, "-o", tmp_path / "{basename}_d.h5")[0] == 0
    assert names(tmp_path) == ["here", "s_d.h5", "t_d.h5"]
    assert "needs {basename}" in refusal(said, sparse, other, "-o", tmp_path / "one.h5")


@pytest.mark.parametrize(
    ("frames", "wanted"), [("1:3", [1, 2]), (":2", [0, 1]), ("3:", [3, 4]), ("4:99", [4])]
)
def test_only_the_wanted_frames_are_written(
    said: Said, sparse: Path, frames: str, wanted: list[int]
) -> None:
    assert said(sparse, "--frames", frames, "--cxi")[0] == 0
    images = expected(sparse)
    assert np.array_equal(read(sparse.with_name("s_dense.h5")), [images[n] for n in wanted])
    with h5py.File(sparse.with_name("s_dense.h5")) as file:
        assert file["entry_0000/densify/first_frame"][()] == wanted[0]
        assert file["entry_0000/peaks/nPeaks"][()].tolist() == wanted
    with h5py.File(sparse.with_name("s.cxi")) as file:
        assert file["entry_1/result_1/nPeaks"][()].tolist() == wanted
        assert np.array_equal(file["entry_1/data_1/data"][0], images[wanted[0]])


def test_peaks_and_geometry_lie_beside_for_crystfel(said: Said, sparse: Path) -> None:
    assert said(sparse, "--cxi", "--format", "eiger")[0] == 0
    assert {"s.cxi", "s.geom", "s_000001.h5", "s_master.h5"} < set(names(sparse.parent))
    with h5py.File(sparse.with_name("s.cxi")) as file:
        assert file["entry_1/result_1/peakTotalIntensity"][4, 3] == 104
        assert np.array_equal(file["entry_1/data_1/data"][4], expected(sparse)[4])
        mask = file["entry_1/instrument_1/detector_1/mask"][()]
    assert np.array_equal(mask == 1, np.isnan(rings((6, 8))))
    assert "photon_energy = 8265.613" in sparse.with_name("s.geom").read_text()


def test_without_a_known_instrument_there_is_no_geometry(said: Said, sparse: Path) -> None:
    with h5py.File(sparse, "r+") as file:
        del file["entry_0000/beamline"]
    status, _, err = said(sparse, "--cxi")
    assert status == 0
    assert "there is no" in err and "s.geom" in err
    assert names(sparse.parent) == ["s.cxi", "s.h5", "s_dense.h5"]


def test_noise_is_wished_for_and_repeatable(said: Said, sparse: Path) -> None:
    stacks = []
    for options in ((), ("--noise", 1), ("-N", "1"), ("-N", 1, "--seed", 7)):
        assert said(sparse, *options, "--force")[0] == 0
        stacks.append(np.array(read(sparse.with_name("s_dense.h5"))))
    plain, noisy, again, other = stacks
    kept = plain > 1000
    assert (plain[~kept & (plain > 0)] == 9).all()
    assert len(np.unique(noisy[~kept])) > 5
    assert np.array_equal(noisy, again)
    assert not np.array_equal(noisy, other)
    for stack in stacks:
        assert np.array_equal(stack[kept], plain[kept])


def test_masked_pixels_may_be_set_otherwise(said: Said, sparse: Path) -> None:
    assert said(sparse, "-D", -1)[0] == 0
    masked = np.isnan(rings((6, 8)))
    assert (np.array(read(sparse.with_name("s_dense.h5")))[:, masked] == -1).all()


def test_what_is_there_is_overwritten_only_with_force(said: Said, sparse: Path) -> None:
    there = sparse.with_name("s_master.h5")
    there.write_text("precious")
    sentence = refusal(said, sparse, "-O", "eiger")
    assert sentence == f"ronda: {there} exists; --force overwrites it\n"
    assert said(sparse, "-O", "eiger", "--force")[0] == 0
    assert len(read(there)) == COUNT


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_sparse_file_itself_is_never_overwritten(
    said: Said, sparse: Path, force: tuple[str, ...]
) -> None:
    assert "is the sparse file itself" in refusal(said, sparse, "-o", sparse, *force)


def test_a_dry_run_writes_nothing_but_reads_all(said: Said, sparse: Path) -> None:
    status, _, err = said(sparse, "--dry-run", "-v", "--cxi")
    assert status == 0
    assert "5 frames of 6 x 8 int32, background in 8 bins, peaks, dummy -2" in err
    assert "5 frames" in err.splitlines()[-1] and "nothing written" in err
    assert names(sparse.parent) == ["s.h5"]


def test_the_formats_are_listed(said: Said) -> None:
    assert said("--list")[:2] == (0, "lima\neiger\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--format", "cbf"), "there is no format 'cbf'; there are lima, eiger"),
        (("--format", ""), "there is no format ''"),
        (("--frames", "5:"), "has 5 frames, none of them in 5:"),
        (("--frames", "3:1"), "none of them in 3:1"),
        (("--frames", "-1:"), "are not A:B"),
        (("--frames", "two"), "are not A:B"),
        (("--dummy", "1e99"), "cannot be set to the dummy"),
        (("--dummy", "nan"), "cannot be set to the dummy"),
        (("--noise", "2"), "should be less than or equal to 1"),
        (("-o", "/nowhere/at/all.h5"), "folder /nowhere/at does not exist; make it first"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    said: Said, sparse: Path, arguments: tuple[str, ...], why: str
) -> None:
    assert why in refusal(said, sparse, *arguments)


def test_no_file_at_all_is_refused(said: Said) -> None:
    assert refusal(said) == "ronda: name at least one sparse file\n"


def test_peaks_that_were_not_looked_for_are_refused(said: Said, tmp_path: Path) -> None:
    path = Sparse([[1]], [[1]]).write(tmp_path / "s.h5")
    assert "has no peaks for --cxi" in refusal(said, path, "--cxi")


def test_files_that_are_no_sparse_files_are_refused(said: Said, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("text")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    for name in ("missing.h5", "text.h5", "other.h5"):
        assert name in refusal(said, tmp_path / name)


@pytest.mark.parametrize("style", ["lima", "eiger"])
def test_a_file_that_is_damaged_half_way_leaves_nothing(
    said: Said, sparse: Path, style: str
) -> None:
    with h5py.File(sparse, "r+") as file:
        file["entry_0000/sparse_frames/index"][3] = 48
    sentence = refusal(said, sparse, "--format", style, "--cxi")
    assert sentence == f"ronda: frame 3 of {sparse} has pixels outside the image\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_files_with_what_was_done(
    tmp_path: Path, number: signal.Signals
) -> None:
    count = 20_000
    flat = np.ones((count, 8), np.float32)
    peaks = [[(1.0, 2.0, 3.0, 4.0)]] * count
    made = Sparse([[0]] * count, [[7]] * count, average=flat, deviation=flat, peaks=peaks)
    path = made.write(tmp_path / "long.h5")
    line = (*RONDA, "densify", path, "--format", "eiger", "--cxi", "--noise", "1")
    with started(*line) as process:
        wait_for((tmp_path / "long_000002.h5.part").exists, 60)
        err = interrupted(process, number)
    assert f"written: {tmp_path / 'long_master.h5'}" in err
    assert not list(tmp_path.glob("*.part"))
    with h5py.File(tmp_path / "long_master.h5") as file:
        done = file["entry/instrument/detector/detectorSpecific/nimages"][()]
        data = [file["entry/data"][name] for name in file["entry/data"]]
        assert 1000 < done < count
        assert sum(len(part) for part in data) == done
        assert all((part[:, 0, 0] == 7).all() for part in data)
    with h5py.File(tmp_path / "long.cxi") as file:
        assert file["entry_1/result_1/nPeaks"].shape == (done,)
        assert file["entry_1/data_1/data"].shape == (done, 6, 8)
        assert file["entry_1/data_1/data"][done - 1, 0, 0] == 7


def test_a_killed_run_leaves_nothing_under_the_final_names(tmp_path: Path) -> None:
    count = 20_000
    flat = np.ones((count, 8), np.float32)
    path = Sparse([[0]] * count, [[7]] * count, average=flat).write(tmp_path / "long.h5")
    with started(*RONDA, "densify", path) as process:
        wait_for((tmp_path / "long_dense.h5.part").exists, 60)
        process.kill()
    assert names(tmp_path) == ["long.h5", "long_dense.h5.part"]
