"""What a stage declares is what Tango shows, and nothing is written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tango
import yaml
from ronda.core.parameters import Parameters, parameter
from ronda.core.sources.replay import Replay
from ronda.core.stage import Kind, Output, Stage
from ronda.devices.declaration import served_by
from ronda.tests.devices.conftest import Served, StartDevice, refusal
from ronda.tests.devices.gallery import GalleryStage
from ronda.tests.waiting import wait_for
from tango import DevState

COMMON = [
    "run_id",
    "frame_id",
    "frames_received",
    "frames_reduced",
    "frames_rejected",
    "frames_dropped",
    "frames_queued",
    "frames_lost",
    "source_url",
    "last_message_time",
    "in_series",
    "file",
    "file_time",
    "file_complete",
    "disk_time_left",
    "rows_lost",
    "queue_fill",
    "input_rate",
    "latency",
    "latency_from",
    "transport_time",
    "processing_time",
    "scan_number",
    "last_error",
    "history",
    "parameters_version",
    "software_version",
]


@pytest.fixture(scope="module")
def gallery(start_shared: StartDevice) -> Served:
    """A device whose parameters a test may change."""
    return start_shared("GalleryDevice")


@pytest.fixture
def proxy(gallery: Served) -> tango.DeviceProxy:
    """A client of it."""
    return gallery.proxy


def test_a_toy_stage_is_in_tango_with_all_that_it_declares(
    start_device: StartDevice, detector: Replay, frames_file: Path, tmp_path: Path
) -> None:
    toy = start_device("ToyDevice", SourceUrl=f"stins+{detector.address}")
    attributes = {info.name: info for info in toy.proxy.attribute_list_query_ex()}
    assert set(attributes) == {*COMMON, "total", "gain", "State", "Status"}
    gain, total = attributes["gain"], attributes["total"]
    assert (gain.unit, gain.label, gain.min_value, gain.max_value) == ("keV", "Gain", "0", "1000")
    assert gain.description == "Factor on every pixel."
    assert gain.writable == tango.AttrWriteType.READ_WRITE
    assert (total.unit, total.writable) == ("keV", tango.AttrWriteType.READ)
    assert toy.proxy.description() == "Sums the pixels of each frame."

    heard: list[float] = []
    event = tango.EventType.CHANGE_EVENT
    subscription = toy.proxy.subscribe_event(
        "total",
        event,
        lambda data: heard.append(float("nan") if data.err else data.attr_value.value),
    )
    toy.proxy.gain = 2.5
    detector.start(f"hdf5:{frames_file}")
    toy.proxy.Start()
    toy.wait_until_reduced(20)
    assert toy.proxy.total == 2.5 * 20 * 30
    wait_for(lambda: heard and heard[-1] == toy.proxy.total)
    toy.proxy.unsubscribe_event(subscription)
    assert toy.proxy.parameters_version == 1
    [kept] = (tmp_path / "state").glob("*/parameters.yaml")
    assert yaml.safe_load(kept.read_text()) == {"gain": 2.5}


def test_every_kind_of_parameter_and_output_has_its_form(proxy: tango.DeviceProxy) -> None:
    kind, form = tango.CmdArgType, tango.AttrDataFormat
    expected = {
        "gain": (kind.DevDouble, form.SCALAR),
        "skip": (kind.DevLong64, form.SCALAR),
        "flip": (kind.DevEnum, form.SCALAR),
        "active": (kind.DevBoolean, form.SCALAR),
        "title": (kind.DevString, form.SCALAR),
        "note": (kind.DevString, form.SCALAR),
        "threshold_enabled": (kind.DevBoolean, form.SCALAR),
        "threshold": (kind.DevDouble, form.SCALAR),
        "count_enabled": (kind.DevBoolean, form.SCALAR),
        "count": (kind.DevLong64, form.SCALAR),
        "weights": (kind.DevDouble, form.SPECTRUM),
        "corners": (kind.DevLong64, form.SPECTRUM),
        "names": (kind.DevString, form.SPECTRUM),
        "boxes": (kind.DevString, form.SCALAR),
        "newest": (kind.DevDouble, form.SCALAR),
        "total": (kind.DevLong64, form.SCALAR),
        "recent": (kind.DevLong, form.SPECTRUM),
        "image": (kind.DevUShort, form.IMAGE),
        "preview": (kind.DevFloat, form.IMAGE),
        "says": (kind.DevString, form.SCALAR),
        "lines": (kind.DevString, form.SPECTRUM),
    }
    infos = {info.name: info for info in proxy.attribute_list_query_ex()}
    assert {name: (infos[name].data_type, infos[name].data_format) for name in expected} == expected
    assert "hidden" not in infos
    assert list(infos["flip"].enum_labels) == ["none", "rows", "columns"]
    assert infos["skip"].disp_level == tango.DispLevel.EXPERT
    assert (infos["image"].max_dim_x, infos["image"].max_dim_y) == (16384, 16384)
    assert infos["weights"].max_dim_x == 4096


def test_values_read_back_as_they_were_written(proxy: tango.DeviceProxy) -> None:
    values = {
        "gain": 4.5,
        "skip": 3,
        "flip": 2,
        "active": False,
        "title": "Ågren",
        "note": "some",
        "threshold": 7.0,
        "weights": [0.5],
        "corners": [3, 4],
        "names": ["a", "b"],
        "boxes": '{"q": {"x": 4, "y": 0}}',
    }
    for name, value in values.items():
        setattr(proxy, name, value)
    for name, value in values.items():
        read = proxy.read_attribute(name)
        for found in (read.value, read.w_value):
            assert list(found) == value if isinstance(value, list) else found == value, name
    for name, empty in {"note": "", "weights": [], "corners": [], "names": []}.items():
        setattr(proxy, name, empty)
        assert list(getattr(proxy, name)) == list(empty), name


def test_an_optional_number_is_a_flag_and_the_number(proxy: tango.DeviceProxy) -> None:
    proxy.threshold_enabled = False
    proxy.threshold = 7
    assert proxy.threshold_enabled
    proxy.threshold_enabled = False
    assert (proxy.threshold_enabled, proxy.threshold) == (False, 7)
    proxy.threshold_enabled = True
    assert (proxy.threshold_enabled, proxy.threshold) == (True, 7)


def test_a_bad_write_is_refused_in_one_sentence_and_nothing_changes(
    gallery: Served, proxy: tango.DeviceProxy
) -> None:
    proxy.gain = 1.0
    proxy.boxes = '{"a": {}}'
    kept = gallery.state_folder / "parameters.yaml"
    before = kept.read_text()
    refused = {
        "gain": (2000.0, "above the maximum"),
        "boxes": ("{", "boxes: '{' is no JSON"),
        "corners": ([1, 2, 3], "corners: "),
    }
    for name, (value, said) in refused.items():
        sentence = refusal(lambda name=name, value=value: setattr(proxy, name, value))
        assert said in sentence
        assert "\n" not in sentence.strip()
    assert refusal(lambda: proxy.Grow("a")) == "box a exists already"
    assert (proxy.gain, proxy.boxes) == (1.0, '{"a": {"x": 0, "y": 0}}')
    assert proxy.read_attribute("gain").w_value == 1.0
    assert kept.read_text() == before
    assert gallery.state == DevState.STANDBY


def test_commands_are_the_stages_own_with_their_arguments(proxy: tango.DeviceProxy) -> None:
    assert proxy.command_query("Clear").in_type == tango.CmdArgType.DevVoid
    grow = proxy.command_query("Grow")
    assert (grow.in_type, grow.in_type_desc) == (tango.CmdArgType.DevString, "Name of the box.")
    proxy.Grow("new")
    assert "new" in proxy.boxes
    assert proxy.read_attribute("boxes").w_value == proxy.boxes


def test_a_window_of_an_image_is_its_pixels_and_nothing_else(
    gallery: Served, detector: Replay, frames_file: Path
) -> None:
    gallery.set_up(SourceUrl=f"stins+{detector.address}")
    assert gallery.proxy.image.shape == (0, 0)
    detector.start(f"hdf5:{frames_file}")
    gallery.proxy.Start()
    gallery.wait_until_reduced(20)
    image = gallery.proxy.image
    assert (image.shape, image.dtype, image[0, 0]) == ((6, 5), np.uint16, 20)
    window = gallery.proxy.ReadImageWindow([1, 4, 0, 2])
    assert window.tolist() == [20] * 6
    for wrong in ([0, 7, 0, 5], [3, 3, 0, 5], [-1, 2, 0, 5], [0, 1, 2]):
        assert "row" in refusal(lambda wrong=wrong: gallery.proxy.ReadImageWindow(wrong))


def test_parameters_are_kept_whatever_ends_the_process_and_refused_ones_are_kept_aside(
    start_device: StartDevice, tmp_path: Path
) -> None:
    gallery = start_device("GalleryDevice")
    gallery.proxy.gain = 12.5
    gallery.proxy.flip = 1
    gallery.proxy.Grow("box")
    gallery.process.kill()
    [kept] = (tmp_path / "state").glob("*/parameters.yaml")
    assert yaml.safe_load(kept.read_text())["flip"] == "rows"
    again = start_device("GalleryDevice", gallery.name)
    assert (again.proxy.gain, again.proxy.flip) == (12.5, 1)
    assert "box" in again.proxy.boxes
    assert again.proxy.read_attribute("gain").w_value == 12.5

    kept.write_text("gain: [unfinished")
    again.set_up(SourceUrl="")
    assert again.state == DevState.ALARM
    assert "defaults are in use" in again.proxy.status()
    assert again.proxy.gain == 1.0
    [aside] = kept.parent.glob("parameters.refused-*.yaml")
    assert aside.read_text() == "gain: [unfinished"
    again.proxy.Reset()
    assert again.state == DevState.STANDBY


class Clash(Parameters):
    total: float = parameter(0.0, "Same name as an output.")


class ClashingStage(GalleryStage):
    Parameters = Clash


class UntypedStage(GalleryStage):
    outputs = (Output("pixels", Kind.IMAGE, np.complex64),)


@pytest.mark.parametrize(
    ("stage", "said"),
    [(ClashingStage, "two attributes would be named total"), (UntypedStage, "no type for complex")],
)
def test_a_declaration_that_tango_cannot_show_is_refused_at_once(
    stage: type[Stage[Any, Any]], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        served_by(stage)
