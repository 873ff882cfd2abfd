"""What clients and streams can make a real device read, write and allocate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import yaml
from ronda.core.parameters import MAX_TEXT
from ronda.core.sources.replay import Replay
from ronda.devices.database import LOOPBACK, free_port
from ronda.devices.declaration import MAX_TEXT as MAX_JSON_TEXT
from ronda.tests.devices.conftest import Served, StartDevice, refusal
from ronda.tests.waiting import wait_for
from tango import DevState

SHAPE = (6, 5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the roots of a device in it, and things that are none of its business."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("data", "output", "calibration", "private"):
        (folder / name).mkdir()
        np.save(folder / name / "image.npy", np.zeros(SHAPE, np.uint16))
        (folder / name / "hot.csv").write_text("1,1\n")
    (folder / "data" / "link").symlink_to(folder / "private")
    (folder / "data" / "loop").symlink_to("loop")
    return folder


@pytest.fixture(scope="module")
def ports() -> tuple[str, str]:
    """Ports for images and for positions."""
    return str(free_port()), str(free_port())


@pytest.fixture(scope="module")
def balor(start_shared: StartDevice, place: Path, source: Replay, ports: tuple[str, str]) -> Served:
    """A device that reads files of all kinds, with both roots set, running."""
    device = start_shared(
        "BalorPhotonDetector",
        SourceUrl=f"stins+{source.address}",
        RepublishUrl=f"stins+tcp://{LOOPBACK}:{ports[0]}",
        PositionsUrl=f"sardana+http://:{ports[1]}",
        DataRoot=str(place / "data"),
        OutputRoot=str(place / "output"),
    )
    device.proxy.Start()
    return device


def written(device: Served, name: str, value: Any) -> str:
    """Return the sentence with which a value is refused; it is not taken."""
    before = device.proxy.read_attribute(name).value
    sentence = refusal(lambda: device.proxy.write_attribute(name, value))
    assert device.proxy.read_attribute(name).value == before
    assert "\n" not in sentence and len(sentence) < 1000
    return sentence


@pytest.mark.parametrize("name", ["mask_file", "dark_file", "hot_pixel_file", "poni_file"])
def test_a_client_has_a_file_outside_read(balor: Served, place: Path, name: str) -> None:
    file = "hot.csv" if name == "hot_pixel_file" else "image.npy"
    for outside in (f"{place}/private/{file}", f"{place}/data/link/{file}", "/etc/hostname"):
        sentence = written(balor, name, outside)
        assert "(property InputRoots of the device)" in sentence
        assert sentence.startswith(f"{name}: ") and f"got {outside!r}"[:60] in sentence
    assert "without .." in written(balor, name, f"{place}/data/../private/{file}")


def test_a_client_has_files_of_any_form_read(balor: Served, place: Path) -> None:
    for url in (f"images:{place}/private/*.npy", f"hdf5:{place}/private/a.h5::/b"):
        assert "only files below" in written(balor, "dark_file", url)
    for url in (
        "tango://a/b/c/image",
        "lima://a/b/c",
        "simplon2+tcp://127.0.0.1:1",
        f"stins+{balor.name}",
        "sardana+http://0.0.0.0:1",
    ):
        sentence = written(balor, "dark_file", url)
        assert "only files" in sentence
    truth = place / "data" / "made.h5"
    assert "truth" in written(balor, "dark_file", f"simulated:balor?truth={truth}")
    assert not truth.exists()


def test_files_of_the_device_are_fenced_out(balor: Served, place: Path) -> None:
    proxy = balor.proxy
    for folder in ("data", "output"):
        proxy.mask_file = f"{place}/{folder}/image.npy"
        proxy.hot_pixel_file = f"{place}/{folder}/hot.csv"
        proxy.dark_file = f"{place}/{folder}/image.npy"
    proxy.mask = np.ones(SHAPE, np.uint8)
    assert Path(proxy.mask_file).parent.parent.name == "state"
    for name in ("mask_file", "hot_pixel_file", "dark_file"):
        proxy.write_attribute(name, "")


def test_kept_parameters_pass_the_fence(start_device: StartDevice, place: Path) -> None:
    pilatus = start_device("PilatusAccumulator", InputRoots=str(place / "calibration"))
    pilatus.proxy.mask_file = f"{place}/calibration/image.npy"
    for name in ("data", "private"):
        assert "only files below" in written(pilatus, "mask_file", f"{place}/{name}/image.npy")
    folder = Path(pilatus.process.log).parent / "state" / pilatus.name.replace("/", "_")
    kept = folder / "parameters.yaml"
    content = yaml.safe_load(kept.read_text())
    content["mask_file"] = f"{place}/private/image.npy"
    kept.write_text(yaml.safe_dump(content))
    pilatus.proxy.Init()
    wait_for(lambda: pilatus.state != DevState.INIT)
    assert pilatus.proxy.mask_file == ""
    assert "the kept parameters are refused (mask_file: only files below" in pilatus.proxy.status()


def test_without_any_root_everything_is_read(start_device: StartDevice, place: Path) -> None:
    pilatus = start_device("PilatusAccumulator")
    assert "only files below" in written(pilatus, "mask_file", f"{place}/data/image.npy")
    pilatus.set_up(InputRoots="/")
    pilatus.proxy.mask_file = f"{place}/data/image.npy"
    assert pilatus.proxy.mask.shape == SHAPE
    pilatus.proxy.mask_file = ""
    assert "DataRoot is not set: the stream says where" in pilatus.process.log.read_text()


# --------------------------------------------------------------------- files that are written


def tree(place: Path) -> set[str]:
    """Return everything outside the two roots: names only."""
    return {
        str(path.relative_to(place))
        for path in place.rglob("*")
        if not path.is_relative_to(place / "data") and not path.is_relative_to(place / "output")
    }


HOSTILE = [
    "../../private/raw/x.h5",
    "{place}/private/raw/x.h5",
    "{place}/private/x.h5",
    "{place}/data/../private/raw/x.h5",
    "{place}/data/link/raw/x.h5",
    "{place}/data/loop/raw/x.h5",
    "{place}/data/raw/../../private/x.h5",
    "/raw/../../etc/x.h5",
    "/etc/raw/x.h5",
    "{place}/private",
    "/" + "a/" * 2000 + "x.h5",
    "/" + "b" * 4000 + ".h5",
    "{place}/data/image.npy/raw/x.h5",
    "..",
    "/",
    "raw/..",
    "~/raw/x.h5",
    "$HOME/raw/x.h5",
    "{place}/private/raw/a\\..\\b.h5",
]


def test_a_file_name_of_the_stream_leads_out_of_the_roots(
    balor: Served, source: Replay, place: Path, frames_file: Path
) -> None:
    before, etc = tree(place), set(Path("/etc").iterdir())
    series = balor.proxy.run_id
    for name in HOSTILE:
        source.start(f"hdf5:{frames_file}", filename=name.format(place=place))
        assert source.wait(60)
        wait_for(lambda last=series: balor.proxy.run_id != last)
        series = balor.proxy.run_id
        wait_for(lambda: balor.ledger()["queued"] == 0)
    balor.set_up()  # ends the file writer, which completes the files
    found = [path for path in place.rglob("*_balor*.h5") if path.is_file()]
    refused = 3  # a loop of links, a path that is too long, and a name of nothing
    assert len(found) == len(HOSTILE) - refused
    assert tree(place) == before
    assert set(Path("/etc").iterdir()) == etc
    balor.proxy.Start()


def test_a_name_that_a_client_gives_leads_out_of_the_roots(
    balor: Served, source: Replay, place: Path, frames_file: Path
) -> None:
    source.start(f"hdf5:{frames_file}", filename="")
    assert source.wait(60)
    wait_for(lambda: balor.proxy.accumulated_frames > 0)
    before = tree(place)
    for name in ("../x", "/etc/x", "a/b", "..", ".", "a\nb", "x" * 101, "-x", "\xe9"):
        balor.proxy.SaveAccumulated(name)
        wait_for(lambda: "is no name for a file" in balor.proxy.last_error)
        balor.proxy.Reset()
    for roi in ("../x=0,0,2,2", "a/b=0,0,2,2", ".=0,0,2,2", "a" * 33 + "=0,0,2,2"):
        assert "is no name for a ROI" in refusal(lambda roi=roi: balor.proxy.AddRoi(roi))
    assert tree(place) == before


def test_the_name_of_a_detector_makes_groups(
    balor: Served, source: Replay, place: Path, tmp_path: Path
) -> None:
    """The stream's entries stand in the file as text, whatever is in them."""
    from ronda.core.sources.stins import encode_end, encode_header, encode_image

    hostile = "../../x/\0y\n" + "z" * 10_000
    image = np.zeros(SHAPE, np.uint16)
    parts = [
        encode_header(10**6, "/raw/named.h5", {"detector": hostile, "../a/b": {"c": "d"}}),
        encode_image(10**6 + 1, 0, image, extra={"../e": "f"}),
        encode_end(10**6 + 2),
    ]
    for message in parts:
        source._socket.send_multipart(message)
    path = place / "data" / "process" / "named_balor.h5"
    wait_for(lambda: path.exists() and balor.ledger()["queued"] == 0)
    balor.set_up()  # ends the file writer, which completes the file
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        assert not [name for name in names if ".." in name or "zzz" in name]
        assert json.loads(file["entry/header/data"][()])["../a/b"] == {"c": "d"}
    balor.proxy.Start()


# ------------------------------------------------------------------ sizes, and who can connect


def test_a_text_of_any_length_is_taken(balor: Served) -> None:
    assert f"at most {MAX_TEXT} characters" in written(balor, "mask_file", "/" * 100_000)
    long = json.dumps({f"a{n}": {"x": 0, "y": 0, "width": 1, "height": 1} for n in range(20_000)})
    assert f"more than {MAX_JSON_TEXT}" in written(balor, "rois", long)
    assert "is no JSON" in written(balor, "rois", "[" * 60_000)
    many = {f"a{n}": {"x": 0, "y": 0, "width": 1, "height": 1} for n in range(33)}
    assert "room for 32" in written(balor, "rois", json.dumps(many))
    for command in ("AddRoi", "SaveAccumulated"):
        said = refusal(lambda name=command: balor.proxy.command_inout(name, "x" * 1_000_000))
        assert f"{command}: a text of 1000000 characters, more than {MAX_JSON_TEXT}" in said
    assert balor.proxy.ping() > 0


def test_a_list_of_any_length_is_taken(balor: Served) -> None:
    assert "at most 256" in refusal(lambda: balor.proxy.write_attribute("q_rings", [1.0] * 4096))
    with pytest.raises(Exception, match="q_rings"):
        balor.proxy.write_attribute("q_rings", [1.0] * 4097)
    assert "window" in refusal(lambda: balor.proxy.ReadImageWindow(range(100_000)))
    assert "not a part of" in refusal(lambda: balor.proxy.ReadImageWindow([0, 2**40, 0, 2**40]))
    assert len(balor.proxy.q_rings) == 0


def test_a_socket_of_ours_is_open_to_other_machines(balor: Served, ports: tuple[str, str]) -> None:
    process = psutil.Process(balor.process.pid)
    ours = {int(port) for port in ports}
    found = {}
    for one in process.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr.port in ours:
            found[one.laddr.port] = one.laddr.ip
    assert found == dict.fromkeys(ours, LOOPBACK)
    assert not [one for child in process.children() for one in child.net_connections("inet")]
