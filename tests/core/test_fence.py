"""Nothing outside a device's folders is opened, however its name is written."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ronda.core.fence import Fence
from ronda.core.images.balor import BalorStage
from ronda.core.images.dark import DarkParameters
from ronda.core.mask import MaskParameters
from ronda.core.parameters import InputFile, ParameterError, Parameters, load_yaml
from ronda.core.simulation.source import SimulatedSource
from ronda.core.sources import open_source
from ronda.core.stages import registry

SECRET = np.arange(12, dtype=np.uint16).reshape(3, 4)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with files that could be read."""
    folder = tmp_path / "outside"
    folder.mkdir()
    np.save(folder / "secret.npy", SECRET)
    with h5py.File(folder / "secret.h5", "w") as file:
        file["data"] = SECRET[None]
    return folder


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The folder that the fence is around, with the same files."""
    folder = tmp_path / "inside"
    folder.mkdir()
    np.save(folder / "own.npy", SECRET)
    with h5py.File(folder / "own.h5", "w") as file:
        file["data"] = SECRET[None]
    return folder


@pytest.fixture
def fenced(inside: Path) -> DarkParameters:
    return DarkParameters().guarded(Fence((inside,)))


def refused(parameters: Parameters, name: str) -> str:
    """Return the sentence with which a name is refused by the fence, not by who reads it."""
    with pytest.raises(ParameterError) as refusal:
        parameters.changed({"dark_file": name})
    sentence = str(refusal.value)
    assert "cannot be used as a dark" not in sentence and "\n" not in sentence
    return sentence


def test_files_inside_are_refused(fenced: DarkParameters, inside: Path) -> None:
    np.save(inside / "a_1.npy", SECRET)
    for name in (f"{inside}/own.npy", f"hdf5:{inside}/own.h5", f"hdf5:{inside}/own.h5::/data", ""):
        assert fenced.changed({"dark_file": name}).dark_file == name
    simulated = "simulated:zyla?frames=2&rows=32&columns=32&dark=yes"
    assert SimulatedSource(simulated).total == 2
    assert fenced.changed({"dark_file": simulated}).recorded_dark is not None
    linked = inside.parent / "link"
    linked.symlink_to(inside)
    assert fenced.changed({"dark_file": f"{linked}/own.npy"}).recorded_dark is not None


@pytest.mark.parametrize(
    "form",
    [
        "{outside}/secret.npy",
        "{inside}/../outside/secret.npy",
        "{inside}/nowhere/../../outside/secret.npy",
        "hdf5:{outside}/secret.h5",
        "hdf5:{outside}/secret.h5::/data",
        "hdf5:{inside}/../outside/secret.h5::/data",
        "hdf5:{outside}/secret.h5::/../../inside/own.h5",
        "{outside}/secret.h5::/../../inside/own.h5",
        "hdf5:{inside}/link/secret.h5",
        "images:{outside}/*.npy",
        "images:{outside}/nothing*",
        "images:{inside}/*/*.npy",
        "images:{inside}/**/*.npy",
        "images:{inside}/l*/secret.npy",
        "images:{inside}/*/../../outside/secret.npy",
        "images:{parent}/*/own.npy",
        "recording:{outside}/secret.npy",
        "recording://{outside}/secret.npy",
        "recording:{inside}/own.npy,{outside}/secret.npy",
        "recording:{outside}/secret.npy?stream=x",
        "{inside}/link/secret.npy",
        "{inside}/secret.npy",
        "{inside}/loop",
        "HDF5:{outside}/secret.h5",
        "file:{outside}/secret.npy",
        "secret.npy",
        "/dev/zero",
        "/proc/self/environ",
    ],
)
def test_a_file_outside_is_read(
    fenced: DarkParameters,
    inside: Path,
    outside: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(outside)
    (inside / "link").symlink_to(outside)
    (inside / "secret.npy").symlink_to(outside / "secret.npy")
    (inside / "loop").symlink_to("loop")
    name = form.format(inside=inside, outside=outside, parent=inside.parent)
    sentence = refused(fenced, name)
    assert sentence.startswith("dark_file: ") and f"got {name!r}"[:60] in sentence
    if ".." not in name and "file:" not in name:
        assert f"only files below {inside} are read here (property InputRoots" in sentence


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that somebody might be made to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        yield server


def test_a_client_has_a_connection_opened(fenced: DarkParameters, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    for url in (
        f"stins+tcp://127.0.0.1:{port}",
        f"tango://127.0.0.1:{port}/a/b/c/image",
        f"sardana+http://127.0.0.1:{port}",
        f"http://127.0.0.1:{port}/x",
        f"stins+ipc:///tmp/{port}",
    ):
        assert "only files and simulated: are read here" in refused(fenced, url)
    with pytest.raises(TimeoutError):
        listener.accept()


@pytest.mark.parametrize("option", ["truth", "tr%75th", "frames=2&truth"])
def test_a_simulation_writes_its_truth_where_a_client_says(
    fenced: DarkParameters, inside: Path, option: str
) -> None:
    sentence = refused(fenced, f"simulated:zyla?{option}={inside}/made.h5")
    assert "simulates no truth" in sentence
    assert not (inside / "made.h5").exists()


@pytest.mark.parametrize("kind", ["link", "link of a link", "virtual", "external"])
def test_an_hdf5_file_inside_leads_outside(
    fenced: DarkParameters, inside: Path, outside: Path, kind: str
) -> None:
    with h5py.File(inside / "trap.h5", "w") as file:
        match kind:
            case "link":
                file["data"] = h5py.ExternalLink(str(outside / "secret.h5"), "/data")
            case "link of a link":
                with h5py.File(inside / "middle.h5", "w") as middle:
                    middle["data"] = h5py.ExternalLink(str(outside / "secret.h5"), "/data")
                file["data"] = h5py.ExternalLink("middle.h5", "/data")
            case "virtual":
                layout = h5py.VirtualLayout((1, 3, 4), np.uint16)
                layout[:] = h5py.VirtualSource(str(outside / "secret.h5"), "data", (1, 3, 4))
                file.create_virtual_dataset("data", layout)
            case "external":
                raw = [(str(outside / "secret.npy"), 0, 24)]
                file.create_dataset("data", (1, 3, 4), np.uint16, external=raw)
    sentence = refused(fenced, f"hdf5:{inside}/trap.h5::/data")
    assert "only files below" in sentence or "are in other files" in sentence
    # without a fence they are read, so the trap is one
    assert DarkParameters().changed({"dark_file": f"hdf5:{inside}/trap.h5::/data"}).recorded_dark


@pytest.mark.parametrize("form", ["{}", "{}::/data", "images:{}", "images:{}::/data", "hdf5:{}"])
@pytest.mark.parametrize("kind", ["link", "second data file"])
def test_an_hdf5_file_leads_outside_if_it_is_named_otherwise(
    fenced: DarkParameters, inside: Path, outside: Path, kind: str, form: str
) -> None:
    with h5py.File(inside / "trap.h5", "w") as file:
        name = "data" if kind == "link" else "entry/data/data_000002"
        if kind != "link":
            file["entry/data/data_000001"] = SECRET[None]
            file["data"] = h5py.SoftLink("/entry/data")
        file[name] = h5py.ExternalLink(str(outside / "secret.h5"), "/data")
    assert "only files below" in refused(fenced, form.format(inside / "trap.h5"))


WORDS = ["/", "//", ".", "..", "*", "**", "?", "[", "]", "::", ",", "#", "\0", "data", "link"]
FILES = ["inside", "outside", "secret.npy", "secret.h5", "hdf5:", "images:", "recording:"]
NAMES = st.lists(st.sampled_from(WORDS + FILES), max_size=12).map("".join)


@settings(deadline=None)
@given(NAMES)
def test_any_name_reads_the_secret(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    base = tmp_path_factory.getbasetemp() / "fence-fuzz"
    inside, outside = base / "inside", base / "outside"
    if not base.exists():
        inside.mkdir(parents=True)
        outside.mkdir()
        np.save(outside / "secret.npy", SECRET)
        with h5py.File(outside / "secret.h5", "w") as file:
            file["data"] = SECRET[None]
        (inside / "link").symlink_to(outside)
    for full in (name, f"{inside}/{name}", f"hdf5:{inside}/{name}", f"images:{inside}/{name}"):
        fence = Fence((inside,))
        for parameters in (DarkParameters(), MaskParameters()):
            field = "dark_file" if isinstance(parameters, DarkParameters) else "mask_file"
            try:
                taken = parameters.guarded(fence).changed({field: full})
            except ParameterError:
                continue
            assert not full, f"{field} {full!r} was read: {taken}"


def test_a_fence_is_lost_by_a_change(fenced: DarkParameters, outside: Path) -> None:
    changed = fenced.changed({"dark_level": 7}).changed({}).changed({"dark_level": 8})
    assert "only files below" in refused(changed, f"{outside}/secret.npy")


def test_bytes_of_a_parameter_file_pass_the_fence(
    fenced: DarkParameters, outside: Path, tmp_path: Path
) -> None:
    name = base64.b64encode(f"{outside}/secret.npy".encode()).decode()
    (tmp_path / "p.yaml").write_text(f"dark_file: !!binary {name}\n")
    with pytest.raises(ParameterError, match="only files below"):
        fenced.changed(load_yaml(tmp_path / "p.yaml"))


def test_a_file_is_fenced_in_where_there_is_no_fence(outside: Path) -> None:
    for name in (f"{outside}/secret.npy", f"{outside}/../outside/secret.npy"):
        assert DarkParameters().changed({"dark_file": name}).recorded_dark is not None


def test_a_parameter_that_names_a_file_is_not_of_their_type() -> None:
    """What is opened is read through `Path` or `open_source`; its names end in `_file`."""
    for stage in registry.stages.values():
        fields = stage.Parameters.model_fields
        fenced = {name for name, field in fields.items() if _is_fenced(stage.Parameters, name)}
        assert {name for name in fields if name.endswith("_file")} == fenced
    assert _is_fenced(BalorStage.Parameters, "dark_file")
    assert not _is_fenced(BalorStage.Parameters, "analysis_roi")


def _is_fenced(kind: type[Parameters], name: str) -> bool:
    asked: list[str] = []
    values = {name: "asked"}
    with contextlib.suppress(ValueError):
        kind.model_validate(values, context=asked.append)
    return asked == ["asked"]


def test_the_type_of_input_files_is_no_text() -> None:
    class Sample(Parameters):
        map_file: InputFile = ""

    assert Sample.model_fields["map_file"].annotation is str
    said = []
    assert Sample().guarded(said.append).changed({"map_file": "a"}).map_file == "a"
    assert said == ["a"]


def test_a_source_that_is_no_file_is_opened_for_a_dark() -> None:
    """Offline a stream is refused too, after it was opened: it is never read."""
    with pytest.raises(ParameterError, match="it is no file"):
        DarkParameters().changed({"dark_file": "stins+tcp://127.0.0.1:1"})
    assert open_source("stins+tcp://127.0.0.1:1").live


def test_a_relative_name_is_taken_from_elsewhere(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inside)
    assert MaskParameters().guarded(Fence((Path(),))).changed({"mask_file": "own.npy"})
