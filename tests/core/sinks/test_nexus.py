"""A series' file is whole, can be followed, and survives the death of everybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame, Series, new_run_id
from ronda.core.sinks import process
from ronda.core.sinks.checkpoint import load_checkpoint
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sinks.recover import recover
from ronda.core.stage import Document
from ronda.tests.core.sinks.writing import Drive, ToyStage, filled, kill, rows_seen, stuck
from ronda.tests.waiting import wait_for
from silx.io import nxdata

Write = Callable[..., NexusWriter]


def text(dataset: h5py.Dataset) -> str:
    return str(dataset.asstr()[()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Path:
    visit = tmp_path_factory.mktemp("visit")
    (visit / "raw").mkdir()
    writer = NexusWriter()
    writer.open(ToyStage())
    series = Drive(writer, f"{visit}/raw/scan-0001_pilatus.h5")
    series.frames(20)
    series.update()
    series.adopt(threshold=3.0, rois={"peak": [0, 0, 9, 9]})
    series.frames(5)
    series.end(**{"rois/slot_00/steps/x": [1.5, 2.5], "rois/again>": "rois/slot_00"})
    assert writer.problem == ""
    assert writer.file == str(visit / "process" / "scan-0001_pilatus_toy.h5")
    return Path(writer.file)


class TestWholeSeries:
    @pytest.fixture
    def file(self, whole: Path) -> Iterator[h5py.File]:
        with h5py.File(whole) as file:
            yield file

    def test_tables_hold_every_row_in_order(self, file: h5py.File) -> None:
        assert file["entry/frames/frame"][...].tolist() == list(range(25))
        assert file["entry/frames/profile"].shape == (25, 50)
        assert file["entry/frames/total"][3] == 3 * 40 * 50
        assert file["entry/frames/total"].attrs["units"] == "counts"

    def test_last_values_are_there(self, file: h5py.File) -> None:
        assert (file["entry/accumulated/sum"][...] == sum(range(25))).all()
        assert file["entry/accumulated"].attrs["frames"] == 25
        assert file["entry/ledger/reduced"][()] == 25
        assert file["entry/ledger/missing_rows"][()] == 0
        assert text(file["entry/end_note"]) == "complete"
        assert text(file["entry/end_time"]) >= text(file["entry/start_time"])[:10]

    def test_rois_stand_under_their_names_and_empty_slots_are_gone(self, file: h5py.File) -> None:
        rois = file["entry/rois"]
        assert set(rois) == {"names", "peak", "again", "background", "slot_00", "slot_01"}
        assert rois["peak"] == rois["slot_00"] == rois["again"]
        assert rois["peak/mean"][...].tolist() == list(range(25))
        assert rois["peak/time"][1] == 1e9 + 1
        assert rois["peak/n"][...].tolist() == [7] * 25
        assert rois["peak/steps/x"][...].tolist() == [1.5, 2.5]

    def test_roi_that_is_never_a_number_keeps_its_rows(self, file: h5py.File) -> None:
        assert np.isnan(file["entry/rois/background/mean"][...]).all()
        assert len(file["entry/rois/background/mean"]) == 25

    def test_every_parameter_and_its_changes_are_recorded(self, file: h5py.File) -> None:
        process = file["entry/process"]
        assert process.attrs["NX_class"] == "NXprocess"
        assert process["parameters/threshold"][()] == 12.0
        assert process["parameters/threshold"].attrs["units"] == "counts"
        assert set(process["parameters"]) == {"threshold", "pixel_size", "rois", "mask", "weights"}
        assert process["changes/frame"][...].tolist() == [20]
        assert process["changes/version"][...].tolist() == [2]
        values = process["changes/values"].asstr()[0]
        assert values == '{"threshold": 3.0, "rois": {"peak": [0, 0, 9, 9]}}'

    def test_viewers_find_the_default_plot(self, file: h5py.File) -> None:
        plot = nxdata.get_default(file)
        assert plot is not None
        assert plot.signal_dataset_name == "sum"
        assert plot.interpretation == "image"

    def test_raw_file_is_linked_relatively(self, file: h5py.File) -> None:
        link = file["entry"].get("raw", getlink=True)
        assert (link.filename, link.path) == ("../raw/scan-0001_pilatus.h5", "/")

    def test_header_survives_what_hdf5_cannot_hold(self, file: h5py.File) -> None:
        assert '"exposure": 0.1' in text(file["entry/header/data"])

    def test_file_says_what_it_is(self, file: h5py.File) -> None:
        assert file.attrs["creator"].startswith("Ronda ")
        assert file.attrs["default"] == "entry"
        assert file.attrs["file_name"] == file.filename
        assert file["entry/scan_number"][()] == 1


def test_raw_file_that_is_not_kept_is_not_linked(write: Write, raw: str, reduced: Path) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.series = Series(new_run_id(), "pilatus", raw, {"save_raw": False})
    series.frames(1)
    series.end()
    with h5py.File(reduced) as file:
        assert "raw" not in file["entry"]


def test_reader_follows_the_file_while_it_grows(write: Write, raw: str, reduced: Path) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(10)
    wait_for(lambda: rows_seen(reduced) == 10)
    with h5py.File(reduced, "r", swmr=True) as file:
        series.frames(7)
        series.update()

        def followed() -> bool:
            for name in ("frames/frame", "rois/slot_00/mean", "accumulated/sum"):
                file["entry"][name].refresh()
            rows = file["entry/frames/frame"][...].tolist() == list(range(17))
            rois = len(file["entry/rois/slot_00/mean"]) == 17
            return rows and rois and bool((file["entry/accumulated/sum"][...] == 136).all())

        wait_for(followed)
    series.finish()


def test_second_series_with_the_same_raw_name_overwrites_nothing(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write()
    for count in (3, 4):
        series = Drive(writer, raw)
        series.frames(count)
        series.finish()
    writer.close()
    second = reduced.with_name("scan-0001_pilatus_toy_2.h5")
    with h5py.File(reduced) as one, h5py.File(second) as two:
        assert len(one["entry/frames/frame"]) == 3
        assert len(two["entry/frames/frame"]) == 4
        assert two.attrs["file_name"] == str(second)


def test_series_that_end_after_the_next_began_are_kept_apart(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write()
    first, second = Drive(writer, raw), Drive(writer, raw.replace("0001", "0002"))
    first.frames(3)
    second.frames(5)
    first.finish()
    second.finish()
    writer.close()
    with h5py.File(reduced) as one, h5py.File(str(reduced).replace("0001", "0002")) as two:
        assert len(one["entry/frames/frame"]) == 3
        assert len(two["entry/frames/frame"]) == 5


def test_roi_added_later_starts_with_empty_rows(write: Write, raw: str, reduced: Path) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(2)
    wait_for(lambda: rows_seen(reduced) == 2)
    frame = Frame(series.series, 2, np.zeros((40, 50)), received=5.0)
    mean = np.full(32, np.nan)
    mean[7] = 3.0
    counts = np.zeros(32, int)
    writer.row(frame, {"frame": 2, "roi_time": 5.0, "roi_mean": mean, "roi_n": counts})
    series.end()
    with h5py.File(reduced) as file:
        np.testing.assert_array_equal(file["entry/rois/slot_07/mean"], [np.nan, np.nan, 3.0])
        np.testing.assert_array_equal(file["entry/rois/slot_07/time"], [np.nan, np.nan, 5.0])
        assert np.isnan(file["entry/frames/total"][2])


def test_large_image_is_there_at_once_if_nothing_else_will_bring_it(
    write: Write, raw: str, reduced: Path
) -> None:
    image = np.arange(700.0 * 600).reshape(700, 600)

    class Large(ToyStage):
        def update(self) -> dict[str, Any]:
            once = (
                {"constant/image": image, "constant/image@units": "m"} if self.summed == 1 else {}
            )
            return {**super().update(), **once}

    stage = Large((700, 600))
    writer = write(stage)
    series = Drive(writer, raw, stage)
    series.frames(1)
    wait_for(lambda: rows_seen(reduced) == 1)
    with h5py.File(reduced, "r", swmr=True) as file:
        np.testing.assert_array_equal(file["entry/constant/image"], image)
        assert file["entry/constant/image"].attrs["units"] == "m"
        assert (file["entry/accumulated/sum"][...] == 0).all()
    series.frames(2)
    series.update()
    series.end()
    with h5py.File(reduced) as file:
        np.testing.assert_array_equal(file["entry/constant/image"], image)
        assert (file["entry/accumulated/sum"][...] == 3).all()


def test_value_of_another_shape_is_replaced_at_the_end(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(2)
    final = {"azimuthal/q": np.arange(7.0), "azimuthal/intensity": np.ones(7), "new/text": ["a"]}
    series.end(**final)
    with h5py.File(reduced) as file:
        assert file["entry/azimuthal/q"][...].tolist() == list(range(7))
        assert file["entry/azimuthal/q"].attrs["units"] == "1/nm"
        assert file["entry/new/text"].asstr()[...].tolist() == ["a"]


def test_values_that_do_not_fit_are_named_and_the_rest_is_kept(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(2)
    frame = Frame(series.series, 2, np.zeros((40, 50)))
    writer.row(frame, {"frame": 2.5, "total": 7.0, "profile": np.zeros(3)})
    series.end()
    assert "frame of 1 frames, profile of 1 frames" in writer.problem
    with h5py.File(reduced) as file:
        assert file["entry/frames/frame"][...].tolist() == [0, 1, -1]
        assert file["entry/frames/total"][2] == 7.0


def test_series_without_file_name_has_no_file_and_loses_nothing(
    write: Write, tmp_path: Path
) -> None:
    writer = write(output_root=tmp_path / "out")
    series = Drive(writer, "")
    series.frames(3)
    series.end()
    assert not (tmp_path / "out").exists()
    assert (writer.problem, writer.rows_lost) == ("", 0)


def test_late_joiner_writes_a_file_named_after_the_time(write: Write, tmp_path: Path) -> None:
    writer = write(output_root=tmp_path / "out")
    series = Drive(writer, "")
    series.series = Series(1_700_000_000_123, joined_late=True)
    series.frames(3)
    series.end()
    with h5py.File(tmp_path / "out" / "late_20231114T221320Z_toy.h5") as file:
        assert file["entry/joined_late"][()]


def test_folder_that_cannot_be_made_is_a_sentence_and_rows_are_counted(
    write: Write, tmp_path: Path
) -> None:
    writer = write()
    series = Drive(writer, "/no/such/visit/raw/scan-1.h5")
    series.frames(3)
    wait_for(lambda: writer.rows_lost == 3)
    assert "/no/such/visit does not exist here" in writer.problem
    assert "set OutputRoot" in writer.problem
    series.finish()


def test_folder_that_refuses_files_is_a_sentence_until_it_takes_them(
    write: Write, raw: str, reduced: Path
) -> None:
    reduced.parent.write_text("a file stands where the folder should be")
    writer = write(output_file=reduced)
    series = Drive(writer, raw)
    series.frames(3)
    wait_for(lambda: "cannot be written" in writer.problem)
    reduced.parent.unlink()
    wait_for(lambda: writer.problem == "")
    series.end()
    with h5py.File(reduced) as file:
        assert len(file["entry/frames/frame"]) == 3
    assert writer.rows_lost == 0


def test_output_file_is_not_overwritten_unless_asked(
    write: Write, raw: str, tmp_path: Path
) -> None:
    target = tmp_path / "mine.h5"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match="exists"):
        NexusWriter(output_file=target)
    writer = write(output_file=target, overwrite=True)
    for count in (2, 3):
        series = Drive(writer, raw)
        series.frames(count)
        series.finish()
    writer.close()
    with h5py.File(target) as file, h5py.File(tmp_path / "mine_2.h5") as second:
        assert len(file["entry/frames/frame"]) == 2
        assert len(second["entry/frames/frame"]) == 3


def test_document_is_saved_beside_the_series_and_never_over_another(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(2)
    document = Document(
        "accumulated", {"accumulated/sum": np.ones((3, 4)), "accumulated@frames": 2}
    )
    writer.save(document)
    writer.save(document)
    series.end()
    for name in ("accumulated.h5", "accumulated_2.h5"):
        with h5py.File(reduced.with_name(name)) as file:
            plot = nxdata.get_default(file)
            assert plot is not None
            assert plot.signal.shape == (3, 4)
            assert file["entry/process/parameters/threshold"][()] == 12.0
            assert file["entry/accumulated"].attrs["frames"] == 2


class TestDeathOfTheWriter:
    def test_device_survives_and_the_file_is_readable(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write()
        series = Drive(writer, raw)
        series.frames(50)
        series.update()
        wait_for(lambda: rows_seen(reduced) == 50)
        kill(writer)
        series.frames(5)
        wait_for(lambda: writer.rows_lost >= 5)
        with pytest.raises(OSError, match="already open"):
            h5py.File(reduced)
        with h5py.File(reduced, swmr=True) as file:
            assert file["entry/frames/frame"][...].tolist() == list(range(50))
        series.finish()

    def test_recovered_file_opens_plainly_with_every_row(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write(state_directory=None)
        series = Drive(writer, raw)
        series.frames(50)
        wait_for(lambda: rows_seen(reduced) == 50)
        kill(writer)
        assert "with 50 rows" in recover(reduced)
        with h5py.File(reduced) as file:
            assert file["entry/frames/frame"][...].tolist() == list(range(50))
            assert text(file["entry/end_note"]).startswith("recovered")
            assert file["entry/ledger"].attrs["as_of"].startswith("the last checkpoint")
            assert file["entry/ledger/missing_rows"][()] == -1
            assert "peak" in file["entry/rois"]
            assert "slot_31" not in file["entry/rois"]
        series.finish()

    def test_next_series_has_a_new_writer_that_recovers_the_old_file(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write()
        series = Drive(writer, raw)
        series.frames(10)
        wait_for(lambda: rows_seen(reduced) == 10)
        kill(writer)
        after = Drive(writer, raw.replace("0001", "0002"))
        after.frames(4)
        wait_for(lambda: "writer died" not in writer.problem)
        series.finish()
        after.finish()
        writer.close()
        with h5py.File(reduced) as old, h5py.File(str(reduced).replace("0001", "0002")) as new:
            assert len(old["entry/frames/frame"]) == 10
            assert len(new["entry/frames/frame"]) == 4

    def test_rows_lost_with_a_writer_are_forgotten_at_the_next_series(
        self, write: Write, raw: str, reduced: Path
    ) -> None:
        writer = write()
        series = Drive(writer, raw)
        series.frames(3)
        wait_for(lambda: rows_seen(reduced) == 3)
        kill(writer)
        series.frames(4)
        wait_for(lambda: writer.rows_lost >= 4)
        series.finish()
        for name in ("0002", "0003"):
            after = Drive(writer, raw.replace("0001", name))
            after.frames(4)
            wait_for(lambda: "writer died" not in writer.problem)
            after.finish()
            assert writer.problem == (
                f"{writer.rows_lost} reduced frames are not known to be in their file, "
                f"the last of {raw}"
            )
        writer.reset()
        assert (writer.problem, writer.rows_lost >= 4) == ("", True)


@pytest.mark.parametrize("next_writer", [False, True])
def test_a_file_that_is_deleted_while_it_is_written_is_forgotten_with_its_rows(
    write: Write, raw: str, reduced: Path, next_writer: bool
) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(3)
    wait_for(lambda: rows_seen(reduced) == 3)
    reduced.unlink()
    series.frames(2)
    series.finish()
    wait_for(lambda: writer.rows_lost == 5)
    wait_for(lambda: f"{reduced} was deleted or moved" in writer.problem)
    if next_writer:
        kill(writer)
    after = Drive(writer, raw.replace("0001", "0002"))
    after.frames(4)
    after.finish()
    writer.settle()
    wait_for(lambda: "writer died" not in writer.problem)
    assert "5 reduced frames are not known to be in their file" in writer.problem
    assert f"{reduced} was deleted or moved" in writer.problem
    writer.reset()
    assert (writer.problem, writer.rows_lost) == ("", 5)


DEVICE = """
    import time
    from pathlib import Path
    from ronda.core.sinks.nexus import NexusWriter
    from ronda.tests.core.sinks import writing
    from ronda.tests.waiting import wait_for
    writer = NexusWriter(state_directory=Path({state!r}))
    writer.open(writing.ToyStage())
    series = writing.Drive(writer, {raw!r})
    series.frames(30)
    wait_for(lambda: writing.rows_seen(Path({reduced!r})) == 30)
    series.frames(3)
    print(writer.writer_pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def device(raw: str, reduced: Path, tmp_path: Path) -> Any:
    """A process that writes a series; it has shown 30 rows and sent 3 more."""
    names = {"raw": raw, "reduced": str(reduced), "state": str(tmp_path / "state")}
    script = textwrap.dedent(DEVICE).format(**names)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()


def test_killed_device_leaves_a_complete_file(device: subprocess.Popen[str], reduced: Path) -> None:
    assert device.stdout
    pid = int(device.stdout.readline())
    device.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    with h5py.File(reduced) as file:
        assert len(file["entry/frames/frame"]) >= 30
        assert "peak" in file["entry/rois"]
        assert text(file["entry/end_note"]) == "closed before the end of the series"
        assert file["entry/ledger"].attrs["as_of"].startswith("the last checkpoint")
        assert file["entry/ledger/missing_rows"][()] == -1


def test_after_both_were_killed_the_next_start_recovers_the_file(
    device: subprocess.Popen[str], write: Write, reduced: Path, tmp_path: Path
) -> None:
    assert device.stdout
    os.kill(int(device.stdout.readline()), signal.SIGKILL)
    device.kill()
    assert rows_seen(reduced) >= 30
    write(state_directory=tmp_path / "state")

    def opens() -> bool:
        try:
            h5py.File(reduced).close()
        except OSError:
            return False
        return True

    wait_for(opens)
    with h5py.File(reduced) as file:
        assert len(file["entry/frames/frame"]) >= 30
        assert text(file["entry/end_note"]).startswith("recovered")


def test_full_disk_is_a_sentence_and_loses_no_row_once_there_is_room(
    write: Write, small_disk: Path
) -> None:
    target = small_disk / "process" / "scan-1_toy.h5"
    writer = write()
    series = Drive(writer, str(small_disk / "raw" / "scan-1.h5"))
    series.frames(10)
    wait_for(lambda: rows_seen(target) == 10)
    with filled(small_disk):
        series.frames(500)
        wait_for(lambda: "the disk is full" in writer.problem)
        series.frames(100)
        assert rows_seen(target) == 10
    wait_for(lambda: writer.problem == "")
    series.end()
    assert writer.rows_lost == 0
    with h5py.File(target) as file:
        assert file["entry/frames/frame"][...].tolist() == list(range(610))
        assert file["entry/rois/peak/mean"][...].tolist() == list(range(610))


def test_disk_that_stays_full_does_not_hang_the_device(write: Write, small_disk: Path) -> None:
    target = small_disk / "process" / "scan-1_toy.h5"
    writer = write()
    series = Drive(writer, str(small_disk / "raw" / "scan-1.h5"))
    series.frames(10)
    wait_for(lambda: rows_seen(target) == 10)
    with filled(small_disk):
        series.frames(500)
        series.end()
    assert "the disk is full" in writer.problem
    assert rows_seen(target) == 10


def test_writer_that_is_stuck_never_blocks_the_reduction(
    write: Write, raw: str, reduced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "QUEUE_BYTES", 100_000)
    writer = write()
    series = Drive(writer, raw)
    series.frames(1)
    wait_for(lambda: rows_seen(reduced) == 1)
    with stuck(writer):
        while not writer.rows_lost:
            series.frames(100)
        dropped = writer.rows_lost
        assert "not known to be in their file" in writer.problem
    series.end()
    with h5py.File(reduced) as file:
        assert len(file["entry/frames/frame"]) == series.count - dropped
        assert file["entry/ledger/missing_rows"][()] == dropped
        assert np.all(np.diff(file["entry/frames/frame"][...]) > 0)


def test_the_newest_checkpoint_is_kept_and_no_image_pushes_it_or_a_row_out(
    write: Write, raw: str, reduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "QUEUE_BYTES", 10_000_000)
    writer = write(state_directory=tmp_path / "state")
    series = Drive(writer, raw)
    series.frames(1)
    wait_for(lambda: rows_seen(reduced) == 1)
    image = np.zeros(1_000_000)
    with stuck(writer):
        for _ in range(5):  # more than the queue takes
            writer.update(series.series, {"image": image})
        for number in range(5):
            writer.checkpoint({"number": number, "sum": image})
        series.frames(10)
    series.end()
    assert writer.rows_lost == 0
    assert rows_seen(reduced) == 11
    kept = load_checkpoint(tmp_path / "state")
    assert kept is not None and kept["number"] == 4


def test_a_series_without_a_place_and_one_whose_writer_died_are_not_waited_for(
    write: Write, raw: str, tmp_path: Path
) -> None:
    writer = write(data_root=tmp_path / "missing")
    series = Drive(writer, raw)
    series.frames(3)
    series.finish()
    wait_for(lambda: not writer._ending)
    writer = write()
    series = Drive(writer, raw)
    series.frames(3)
    wait_for(lambda: writer.file)
    kill(writer)
    series.finish()
    assert not writer._ending


def test_what_is_over_is_forgotten_when_acknowledged_and_what_is_not_stays(
    write: Write, raw: str, reduced: Path
) -> None:
    writer = write()
    series = Drive(writer, raw)
    series.frames(3)
    wait_for(lambda: rows_seen(reduced) == 3)
    kill(writer)
    series.frames(1)
    # the last row, and those whose writing was not confirmed when it died: all or none
    wait_for(lambda: writer.rows_lost in (1, 4))
    writer.note("writer 7", "the disk is full")
    writer.reset()
    assert writer.problem == "the disk is full"
    assert writer.rows_lost


def test_writer_that_is_stuck_at_the_end_does_not_hang_the_device(
    write: Write, raw: str, reduced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CLOSE_SECONDS", 0.5)
    writer = write()
    series = Drive(writer, raw)
    series.frames(3)
    wait_for(lambda: rows_seen(reduced) == 3)
    assert writer.writer_pid
    os.kill(writer.writer_pid, signal.SIGSTOP)
    series.end()
    assert rows_seen(reduced) == 3
