"""What must never be in the code, what a size from outside may cost, and who can connect."""

from __future__ import annotations

import ast
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import yaml
from ronda.core.frame import Rejected
from ronda.core.images.accumulation import Accumulation
from ronda.core.images.balor import BalorStage
from ronda.core.images.pilatus import PilatusStage
from ronda.core.mask import MaskParameters
from ronda.core.order import OrderedQueue, Ticket
from ronda.core.parameters import MAX_TEXT, MAX_YAML, ParameterError, load_yaml, parse_assignments
from ronda.core.poni import MAX_BYTES, read_poni
from ronda.core.sinks.checkpoint import load_checkpoint, write_checkpoint
from ronda.core.sinks.journal import Journal
from ronda.core.sinks.publisher import Publisher, PublishError
from ronda.core.sources import SourceError, open_source
from ronda.core.sources.imagefile import read_image
from ronda.core.sources.replay import Replay
from ronda.core.stage import Settings
from ronda.devices.registration import ConfigError, read_config

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted(
    path for folder in ("core", "devices", "clients") for path in (ROOT / folder).rglob("*.py")
)
LOOPBACK = {"127.0.0.1", "::1"}

# ------------------------------------------------------------------- forbidden code

FORBIDDEN = {
    "eval": "eval(input())",
    "exec": "exec(input())",
    "a pickle": "import pickle",
    "a pickle by its C module": "from _pickle import loads",
    "a call of a pickle": "import pickle as harmless\n\nharmless.loads(b'')",
    "a pickle of others": "import dill",
    "joblib": "from joblib import load",
    "cloudpickle": "import cloudpickle",
    "marshal": "import marshal",
    "a shelf": "import shelve",
    "a module that is found by its name": "import importlib\n\nimportlib.import_module('pickle')",
    "pickles of another process": "from multiprocessing.connection import Client",
    "a shell": "import subprocess\n\nsubprocess.run('ls', shell=True)",
    "a shell with another call": "import subprocess\n\nsubprocess.Popen('ls *', shell=True)",
    "os.system": "import os\n\nos.system('ls')",
    "os.popen": "import os\n\nos.popen('ls')",
    "getoutput": "import subprocess\n\nsubprocess.getoutput('ls')",
    "os.execv": "import os\n\nos.execv('ls', [])",
    "os.spawnl": "import os\n\nos.spawnl(os.P_WAIT, 'ls')",
    "unsafe YAML": "import yaml\n\nyaml.load('', yaml.Loader)",
    "YAML that makes objects": "import yaml\n\nyaml.unsafe_load('')",
    "full YAML": "import yaml\n\nyaml.full_load('')",
    "mktemp": "import tempfile\n\ntempfile.mktemp()",
    "XML with entities": "import xml.etree.ElementTree as tree\n\ntree.parse('a.xml')",
    "a socket for the world": "import socket\n\nsocket.create_server(('0.0.0.0', 1))",
    "a weak mode": "import os\n\nos.chmod('a', 0o777)",
    "an archive that leaves its folder": "import tarfile\n\ntarfile.open('a').extractall()",
}


@pytest.mark.parametrize("place", ["core/x.py", "devices/x.py", "clients/x.py", "tests/x.py"])
@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_linter_lets_pass(name: str, place: str) -> None:
    """Ruff, as `make test` runs it, on code as if it stood there."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=json"]
    done = subprocess.run(
        [*command, f"--stdin-filename={ROOT / place}", "-"],
        input=FORBIDDEN[name],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    codes = {found["code"] for found in json.loads(done.stdout)}
    assert done.returncode == 1
    assert [code for code in codes if code.startswith("S") or code == "TID251"], codes


def _calls(path: Path) -> Iterator[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def unpickling(path: Path) -> list[str]:
    """Return where NumPy or ZeroMQ may unpickle: no rule of ruff looks for this."""
    return [f"{path}:{call.lineno}" for call in _calls(path) if _unpickles(call)]


def _unpickles(call: ast.Call) -> bool:
    words = [word.value for word in call.keywords if word.arg == "allow_pickle"]
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name == "load":
        words += call.args[2:]  # of numpy.load: file, mmap_mode, allow_pickle
    allowed = [not (isinstance(word, ast.Constant) and word.value is False) for word in words]
    return any(allowed) or name.endswith("_pyobj")


def test_numpy_or_zeromq_unpickle(tmp_path: Path) -> None:
    assert len(CODE) > 100
    assert not [place for path in CODE for place in unpickling(path)]
    for bad in (
        "np.load('a', allow_pickle=True)",
        "np.load('a', allow_pickle=yes)",
        "np.load('a', None, True)",
        "socket.recv_pyobj()",
        "socket.send_pyobj(thing)",
    ):
        (tmp_path / "bad.py").write_text(bad)
        assert unpickling(tmp_path / "bad.py") == [f"{tmp_path / 'bad.py'}:1"]


# ---------------------------------------------------------------- bounded allocations

LIMITED = """
import json, resource, sys
from pathlib import Path

def grown():
    # not getrusage, whose maximum includes that of the process that started this one
    [peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(peak) >> 10

import h5py, fabio, numpy
import ronda.core.images.balor
before = grown()
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
"""


def cost(code: str, *arguments: object) -> int:
    """Return by how many MB a process grows with this code, which must raise no other error."""
    done = subprocess.run(
        [sys.executable, "-c", f"{LIMITED}\n{code}\nprint(grown() - before)", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


READ = """
from ronda.core.mask import MaskParameters
from ronda.core.parameters import ParameterError
for name in sys.argv[1:]:
    try:
        MaskParameters().changed({"mask_file": name})
    except ParameterError as error:
        assert "MemoryError" not in str(error) and "allocate" not in str(error), error
        continue
    raise SystemExit(f"{name} was taken")
"""


def test_a_claim_in_an_image_file_is_allocated(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("side", (16384, 16385), np.uint8, chunks=(16, 16))
        file.create_dataset("deep", (2, 16384, 16384), np.uint8, chunks=(1, 16, 16))
        file.create_dataset("words", (16384, 16384), "S10000", chunks=(1, 16))
        file.create_dataset("objects", (16384, 16384), h5py.string_dtype(), chunks=(16, 16))
        file.create_dataset("compound", (16384, 16384), "u1,(1000,)f8", chunks=(1, 16))
        file.create_dataset("arrays", (16384, 16384), "(1000,)f8", chunks=(1, 16))
        file.create_dataset("complex", (16384, 16384), np.complex128, chunks=(16, 16))
        file["empty"] = h5py.Empty("f8")
        file["scalar"] = 1.0
        names = list(file)
    with (tmp_path / "b.npy").open("wb") as array:
        header = {"descr": "|S100000", "fortran_order": False, "shape": (16384, 16384)}
        np.lib.format.write_array_header_1_0(array, header)
        array.truncate(1 << 40)  # takes no room on the disk
    with (tmp_path / "c.npy").open("wb") as array:
        array.write(b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little"))
        array.truncate(1 << 33)
    files = [f"hdf5:{tmp_path}/a.h5::/{name}" for name in names]
    assert cost(READ, *files, tmp_path / "b.npy", tmp_path / "c.npy") < 200


def test_the_largest_mask_cannot_be_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("mask", (16384, 16), np.bool_, fillvalue=True)
    assert read_image(f"hdf5:{tmp_path}/a.h5::/mask").all()


@pytest.mark.parametrize("suffix", ["edf.gz", "edf.bz2", "tif.gz"])
@pytest.mark.allow_error_log
def test_a_bomb_of_an_image_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import bz2

    pack = bz2.compress if suffix.endswith("bz2") else gzip.compress
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(pack(b"{\n" + b" " * (2 << 20)))
    monkeypatch.setattr("ronda.core.sources.images.MAX_UNPACKED", 1 << 20)
    [rejected] = [e for e in open_source(f"images:{path}").events() if isinstance(e, Rejected)]
    assert "more than 1048576 bytes when it is unpacked" in rejected.reason


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xml", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><a>&b;</a>", "XML"),
        ("a.edf", b"<?xml version='1.0'?><a/>", "XML"),
        ("a.xsd", b"\xff\xfe<\0a\0", "XML"),
        ("a.edf", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "hdf5:FILE::/dataset"),
    ],
)
def test_an_image_file_that_names_other_files_is_opened(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    [rejected] = [
        e for e in open_source(f"images:{tmp_path / name}").events() if isinstance(e, Rejected)
    ]
    assert said in rejected.reason


LAUGHS = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "a: " + "[" * 50_000,
        "a: " + "{b: " * 5_000,
        "a: 2001-99-99",
        "a: !!bool maybe",
        "a: !!timestamp never",
        "a: !!int 0b",
        "a: " + "9" * 5000,
        "? [a]\n: b",
        "a: !!python/object/apply:os.getcwd []",
        "a: " + "b" * MAX_YAML,
    ],
    ids=lambda text: text[:20],
)
def test_a_parameter_file_costs_memory_or_the_process(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"p\.yaml cannot be read"):
        load_yaml(path)


def test_an_assignment_costs_memory_or_the_process() -> None:
    parameters = PilatusStage.Parameters()
    for value in ("2001-99-99", "!!bool maybe", "[" * 5000, "[&a [1, 2], *a]"):
        with pytest.raises(ParameterError, match="cannot be read as a value"):
            parse_assignments(parameters, [f"tilt={value}"])


def test_what_was_saved_cannot_be_loaded_for_its_aliases(tmp_path: Path) -> None:
    """PyYAML writes aliases for an object that is there twice."""
    from ronda.core.parameters import save_yaml

    box = {"x": 1, "y": 1, "width": 2, "height": 2}
    parameters = PilatusStage.Parameters().changed({"rois": {"a": box, "b": box}, "q_rings": [1.5]})
    save_yaml(parameters, tmp_path / "p.yaml")
    assert PilatusStage.Parameters().changed(load_yaml(tmp_path / "p.yaml")) == parameters
    assert yaml.safe_load((tmp_path / "p.yaml").read_text())["rois"]["b"]["width"] == 2


def test_a_text_of_any_length_is_kept() -> None:
    assert MaskParameters().changed({"mask_file": ""})
    with pytest.raises(ParameterError, match=f"at most {MAX_TEXT} characters"):
        MaskParameters().changed({"mask_file": "/" * (MAX_TEXT + 1)})


@pytest.mark.parametrize("key", ["Distance", "Poni1", "Detector_config", "poni_version"])
def test_a_poni_file_shows_what_is_in_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.poni"
    path.write_text(f"{key}: the secret\nDetector: the secret\n")
    with pytest.raises(ValueError, match=r"a\.poni") as refused:
        read_poni(path)
    assert "secret" not in str(refused.value)
    path.write_text("a" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="longer than"):
        read_poni(path)


@pytest.mark.allow_error_log
def test_a_refused_file_shows_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    for text in ("s3cret,1\n", "s3cret:x:0:0:s3cret:/root\n", "{\ns3cret = 1;\n}", "<s3cret/>"):
        path.write_text(text)
        for name in ("mask_file", "dark_file", "hot_pixel_file", "poni_file"):
            with pytest.raises(ParameterError, match=r"secret\.txt") as refused:
                BalorStage.Parameters().changed({name: str(path)})
            assert "s3cret" not in str(refused.value)


def test_frames_without_pixels_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ronda.core.order.MOST_WAITING", 3)
    queue = OrderedQueue(1 << 30)
    ticket = Ticket(Settings(0, PilatusStage.Parameters()))
    queue._nbytes = 1  # as if of a frame of one byte
    for _ in range(3):
        assert queue.room_for(1)
        queue.put(ticket)
    assert not queue.room_for(1)
    queue.get(1)
    assert queue.room_for(1)


# ------------------------------------------------- what was tampered with on our disk


def state() -> dict[str, Any]:
    """Return what a stage keeps, of a small sum."""
    total = Accumulation((3, 4), np.int32)
    tree = {f"accumulation/{name}": value for name, value in total.tree().items()}
    return {**tree, "accumulation/form": "4 x 3 integers", "accumulation/resets": 0}


TAMPERED: dict[str, Callable[[], dict[str, Any]]] = {
    "frames": lambda: {"accumulation/frames": np.inf},
    "no number": lambda: {"accumulation/frames": "many"},
    "many numbers": lambda: {"accumulation/frames": np.zeros(5)},
    "overflow": lambda: {"accumulation/overflow_pixels": -np.inf},
    "resets": lambda: {"accumulation/resets": np.inf},
    "total": lambda: {"accumulation/total": "9" * 10_000},
    "side": lambda: {"accumulation/sum": np.zeros((1, 20_000), np.int64)},
    "rank": lambda: {"accumulation/sum": np.zeros(5, np.int64)},
    "type": lambda: {"accumulation/sum": np.zeros((3, 4), np.int16)},
    "text": lambda: {"accumulation/sum": "nothing"},
    "empty": lambda: {"accumulation/sum": np.zeros((0, 0), np.int64)},
    "counts": lambda: {"accumulation/missing": np.zeros((9, 9), np.uint32)},
    "series": lambda: {"accumulation/series": "[" * 5000},
    "entries": lambda: {"accumulation/series": '[{"run_id": 1}]'},
    "no series": lambda: {"accumulation/series": "5"},
    "gone": lambda: {"accumulation/sum": None},
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_checkpoint_that_was_tampered_with_keeps_a_device_from_starting(
    tmp_path: Path, what: str
) -> None:
    write_checkpoint(tmp_path, state())
    BalorStage().restore(load_checkpoint(tmp_path) or {})
    changed = {**state(), **TAMPERED[what]()}
    write_checkpoint(tmp_path, {k: v for k, v in changed.items() if v is not None})
    tree = load_checkpoint(tmp_path)
    assert tree is not None
    with pytest.raises(ValueError, match=r"\w"):
        BalorStage().restore(tree)


CLAIMED = """
from ronda.core.sinks.checkpoint import load_checkpoint
assert load_checkpoint(Path(sys.argv[1])) is None
"""


def test_a_claim_in_a_checkpoint_is_allocated(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state())
    with h5py.File(tmp_path / "checkpoint_a.h5", "r+") as file:
        del file["accumulation/sum"]
        chunks = (1024, 1024)
        file.create_dataset("accumulation/sum", (1 << 20, 1 << 20), np.int64, chunks=chunks)
    assert cost(CLAIMED, tmp_path) < 200


@pytest.mark.parametrize(
    "content", [b"5", b"null", b"[" * 100_000, b"{}", b'["\\u0000", 5, null]', b"[", b""]
)
def test_a_list_of_open_files_that_was_tampered_with_kills_the_file_writer(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "open_files_1.json").write_bytes(content)
    assert Journal(tmp_path).left_behind() == []
    assert not list(tmp_path.iterdir())


def test_a_long_list_of_open_files_is_read(tmp_path: Path) -> None:
    with (tmp_path / "open_files_1.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    assert Journal(tmp_path).left_behind() == []


def test_a_deep_set_up_ends_in_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"servers":' * 50_000)
    with pytest.raises(ConfigError, match=r"a\.json cannot be read"):
        read_config(tmp_path / "a.json", {})


# ------------------------------------------------------------------- who can connect


def listening() -> set[tuple[str, int]]:
    """Return address and port of every TCP socket that this process listens on."""
    connections = psutil.Process().net_connections("tcp")
    return {
        (one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN
    }


def test_a_socket_of_the_core_is_open_to_other_machines(tmp_path: Path) -> None:
    before = listening()
    publisher = Publisher("stins+tcp://127.0.0.1:0")
    replay = Replay("stins+tcp://127.0.0.1:0")
    positions = open_source("sardana+http://:0")
    local = Publisher(f"stins+ipc://{tmp_path}/s")
    try:
        opened = listening() - before
        assert len(opened) == 3
        assert {address for address, _ in opened} <= LOOPBACK
    finally:
        for one in (publisher, replay, positions, local):
            one.close()
    assert listening() <= before


@pytest.mark.parametrize("where", ["", ":27001", "27001", ":", "//:27001", "127.0.0.1", "/27001"])
def test_an_address_without_host_is_published_at(where: str) -> None:
    before = listening()
    with pytest.raises(PublishError, match=r"^stins\+tcp://"):
        Publisher(f"stins+tcp://{where}")
    with pytest.raises(SourceError, match=r"^stins\+tcp://"):
        Replay(f"stins+tcp://{where}")
    assert listening() <= before


@pytest.mark.parametrize("url", ["sardana+http://:0", "sardana+http://:0/", "sardana+http:// :0"])
def test_positions_without_host_are_taken_from_other_machines(url: str) -> None:
    before = listening()
    try:
        source = open_source(url)
    except SourceError:
        return
    try:
        assert {address for address, _ in listening() - before} <= LOOPBACK
    finally:
        source.close()


def test_a_source_of_frames_listens() -> None:
    before = listening()
    source = open_source("stins+tcp://127.0.0.1:9")
    events = source.events()
    source.close()
    assert list(events) == [] and listening() <= before
