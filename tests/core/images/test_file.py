"""A series' file has what others rely on, under the names that they know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import pytest
from ronda.core.frame import Frame, Series, SeriesEnd, SeriesStart, new_run_id
from ronda.core.images.pilatus import PilatusParameters, PilatusStage
from ronda.core.images.roi import STATISTICS
from ronda.core.positions import ScanEnd, ScanPoint, ScanStart
from ronda.core.runner import Runner
from ronda.core.sinks.nexus import NexusWriter
from ronda.core.sources import Event, Source

SHAPE = (40, 50)
GEOMETRY = {
    "photon_energy": 13.5,
    "detector_distance": 0.01,
    "beam_center_x": 25.0,
    "beam_center_y": 20.0,
    "azimuthal_bins": 20,
}


class Script(Source):
    """Events, and things to be done between them once everything before is reduced."""

    live = False

    def __init__(self, runner: Runner, *events: Event | Callable[[], object]) -> None:
        super().__init__("script:")
        self._runner, self._events = runner, events

    def events(self) -> Iterator[Event]:
        for event in self._events:
            if callable(event):
                event()
            else:
                yield event


def frames(series: Series, *numbers: int) -> list[Event]:
    """Return frames of as many counts a pixel as their number says, with one gap."""
    out: list[Event] = []
    for number in numbers:
        image = np.full(SHAPE, number, np.int32)
        image[:, 30] = -1
        out.append(Frame(series, number, image, timestamp=1e9 + number))
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[h5py.File]:
    """The file of a scan of three points, in which a ROI was added and another moved."""
    path = tmp_path_factory.mktemp("file") / "out.nxs"
    rois = {"peak": {"x": 2, "y": 3, "width": 4, "height": 5}}
    parameters = PilatusParameters().changed({"rois": rois, "frames_per_point": 2, **GEOMETRY})
    runner = Runner(PilatusStage(), parameters, [NexusWriter(output_file=path)])
    series = Series(new_run_id(), "pilatus", "scan-7_pilatus.h5")
    points = [ScanPoint(number, {"motor": 0.5 * number}) for number in range(3)]
    script: list[Event | Callable[[], object]] = [
        ScanStart(7, ("motor",)),
        SeriesStart(series),
        *frames(series, 0, 1),
        points[0],
        lambda: runner.command("AddRoi", "flat=10,10,5,5"),
        *frames(series, 2, 3),
        lambda: runner.command("MoveRoi", "peak=29,0,2,40"),
        *frames(series, 4),
        SeriesEnd(series),
        *points[1:],
        ScanEnd(),
    ]
    runner.start(lambda: Script(runner, *script))
    runner.wait()
    assert runner.ledger.counts.reduced == 5, runner.last_error
    runner.close()
    with h5py.File(path) as file:
        yield file


def test_sums_say_how_many_frames_they_hold(written: h5py.File) -> None:
    for group in ("accumulated", "scan"):
        for name in ("", "/sum", "/valid_count"):
            assert written[f"entry/{group}{name}"].attrs["frames"] == 5
        total, count = written[f"entry/{group}/sum"], written[f"entry/{group}/valid_count"]
        assert total.dtype == np.int64
        assert (total[0, 0], count[0, 0]) == (10, 5)
        assert (total[:, 30].max(), count[:, 30].max()) == (0, 0)
    assert "scan-7_pilatus.h5: 5 frames" in written["entry/accumulated/series"].asstr()[0]


def test_rois_have_their_rows_by_name(written: h5py.File) -> None:
    for name in ("peak", "flat"):
        group = written[f"entry/rois/{name}"]
        wanted = {"time", "frame", "x", "version", *STATISTICS}
        assert {key for key in group if key != "steps"} == wanted
        assert all(len(group[key]) == 5 for key in wanted)
        assert group["x"][:].tolist() == [0, 0, 0.5, 0.5, 1]
    peak, flat = written["entry/rois/peak"], written["entry/rois/flat"]
    assert peak["frame"][:].tolist() == [0, 1, 2, 3, 4]
    assert peak["time"][0] == 1e9
    assert peak["mean"][:].tolist() == [0, 1, 2, 3, 4]
    assert peak["sum"][:].tolist() == [0, 20, 40, 60, 4 * 40]
    assert peak["version"][:].tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(flat["mean"][:], [np.nan, np.nan, 2, 3, 4])


def test_points_have_their_means(written: h5py.File) -> None:
    steps = written["entry/rois/peak/steps"]
    assert {"point", "x", "mean", "error", "n"} <= set(steps)
    assert steps["point"][:].tolist() == [0, 1, 2]
    assert steps["x"][:].tolist() == [0, 0.5, 1]
    assert steps["mean"][:].tolist() == [0.5, 2.5, 4]
    np.testing.assert_allclose(steps["error"][:], [0.5 / 2**0.5, 0.5 / 2**0.5, 0])
    assert steps["n"][:].tolist() == [2, 2, 1]
    assert steps["expected"][:].tolist() == [2, 2, 2]
    assert written["entry/rois/flat/steps/n"][:].tolist() == [0, 2, 1]
    assert written["entry/rois/incomplete"].asstr()[()] == "point 2: 1 of 2 frames"


def test_the_pattern_and_the_geometry_are_there(written: h5py.File) -> None:
    group = written["entry/azimuthal"]
    assert group["q"].shape == group["intensity"].shape == group["sigma"].shape == (20,)
    assert np.isfinite(group["intensity"][5])
    np.testing.assert_array_equal(group["intensity_errors"], group["sigma"])
    assert group["q"].attrs["units"] == "1/angstrom"
    assert "Wavelength" in written["entry/geometry/poni"].asstr()[()]


def test_every_parameter_is_there(written: h5py.File) -> None:
    group: Any = written["entry/process/parameters"]
    assert set(group) == set(PilatusParameters.model_fields)
    assert group["detector_distance"].attrs["units"] == "m"


def test_the_axis_is_named_after_the_motor(written: h5py.File) -> None:
    for place in ("entry/rois/peak/x", "entry/rois/peak/steps/x"):
        assert written[place].attrs["long_name"] == "motor"
