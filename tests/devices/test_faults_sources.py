"""Sources that cannot be read, or are not what they should be: what an operator is told of them.

Every test runs real servers and, where there is a sender, real sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from ronda.clients.answers import ask_all
from ronda.clients.hops import Hop, Mark, hops
from ronda.devices.database import EmbeddedDatabase
from ronda.tests.devices import breaking
from ronda.tests.devices.conftest import Served, StartDevice, refusal
from ronda.tests.devices.faults import frames_in, sending, wait_until_done
from ronda.tests.waiting import wait_for
from tango import DevState


@pytest.fixture(scope="module")
def pilatus(start_shared: StartDevice, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A device for all tests, which set it up."""
    output = tmp_path_factory.mktemp("process")
    return start_shared("PilatusAccumulator", OutputRoot=str(output))


def lines_in_log(device: Served, text: str) -> int:
    """Return in how many lines of a device's log a text is."""
    return sum(text in line for line in device.process.log.read_text().splitlines())


@pytest.fixture
def look(database: EmbeddedDatabase, pilatus: Served) -> Callable[[], Hop]:
    """Return a function that gives the stream's line of `ronda status`."""

    def stream() -> Hop:
        found = [hop for chain in hops(ask_all(database.tango_host)) for hop in chain]
        at = next(index for index, hop in enumerate(found) if hop.name == pilatus.name)
        return found[at - 1]

    return stream


# ----------------------------------------------------------------- defects


@pytest.mark.allow_error_log
def test_a_source_that_fails_as_none_should_leaves_a_device_that_says_ready(
    start_device: StartDevice, tmp_path: Path
) -> None:
    output = tmp_path / "process"
    program = Path(breaking.__file__)
    device = start_device("BreakingDevice", program=program, OutputRoot=str(output))
    errors = {"memory": "MemoryError", "zmq": "ZMQError: Too many open files"}
    for number, (error, said) in enumerate(errors.items(), 1):
        device.set_up(SourceUrl=f"breaking:{error}")
        device.proxy.Start()
        device.wait_for_state(DevState.FAULT)
        stopped = f"Stopped: internal error while reading: {said}. Reset, then Start tries again."
        assert device.proxy.status().splitlines()[0] == stopped
        counts = device.ledger()
        assert counts["received"] == counts["reduced"] == breaking.FRAMES
        name = "broken_toy.h5" if number == 1 else f"broken_toy_{number}.h5"
        wait_for(lambda name=name: frames_in(output / name) == breaking.FRAMES)
        assert lines_in_log(device, "reading has ended") == number
        device.proxy.Reset()
        device.wait_for_state(DevState.STANDBY)


# ------------------------------------------------------------- wrong addresses


@pytest.mark.parametrize(
    "url",
    [
        "nonsense:x",
        "stins+tcp://127.0.0.1",
        "stins+tcp://127.0.0.1:5000?socket=pub",
        "stins+tcp://bad host name:1",
        "lima://one",
        "simplon2+tcp://host:1?socket=sub",
    ],
)
def test_a_url_that_is_none_is_to_be_tried_again(pilatus: Served, url: str) -> None:
    pilatus.set_up(SourceUrl=url)
    pilatus.proxy.Start()
    pilatus.wait_for_state(DevState.FAULT)
    status = pilatus.proxy.status()
    assert url in status and status.splitlines()[0].endswith(". Correct SourceUrl, then Init.")
    assert refusal(pilatus.proxy.Start) == status
    pilatus.set_up(SourceUrl="stins+tcp://127.0.0.1:9")
    assert pilatus.state == DevState.STANDBY


def test_positions_whose_url_is_none_blame_the_source(pilatus: Served) -> None:
    pilatus.set_up(SourceUrl="stins+tcp://127.0.0.1:9", PositionsUrl="sardana+http://nothing")
    try:
        pilatus.proxy.Start()
        pilatus.wait_for_state(DevState.FAULT)
        assert "Correct PositionsUrl, then Init." in pilatus.proxy.status()
    finally:
        pilatus.set_up(PositionsUrl="")


# --------------------------------------------------------- what `ronda status` says


def test_a_stopped_device_with_an_alarm_is_told_as_one_that_waits_for_a_series(
    pilatus: Served, look: Callable[[], Hop]
) -> None:
    pilatus.set_up(SourceUrl="stins+tcp://127.0.0.1:9")
    pilatus.proxy.SaveAccumulated("sum.h5")
    pilatus.wait_for_state(DevState.ALARM)
    stream = look()
    assert (stream.mark, stream.says, stream.age) == (Mark.LOOK, "is not read", None)
    assert stream.next_step == "Start begins to read it."
    pilatus.proxy.Reset()


def test_a_socket_of_another_kind_is_told_as_a_sender_that_is_off(
    pilatus: Served, look: Callable[[], Hop], free_port: int
) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    pilatus.set_up(SourceUrl=f"stins+{address}")
    pilatus.proxy.Start()
    pilatus.wait_for_state(DevState.UNKNOWN)
    stream = look()
    assert stream.next_step.endswith("waiting for it. Is the sender on, and armed?")
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        publisher.bind(address)
        wait_for(lambda: "if it publishes, SourceUrl needs ?socket=sub" in pilatus.proxy.status())
        assert pilatus.state == DevState.UNKNOWN
        stream = look()
        assert (stream.mark, stream.says) == (Mark.WRONG, "nothing can come")
        assert stream.next_step.endswith("SourceUrl needs ?socket=sub.")
    pilatus.set_up(SourceUrl=f"stins+{address}?socket=sub")


# ------------------------------------------------------------------------ the log


def test_each_rejected_frame_is_a_line_in_the_log(pilatus: Served, free_port: int) -> None:
    url = f"stins+tcp://127.0.0.1:{free_port}"
    pilatus.set_up(SourceUrl=url)
    pilatus.proxy.Start()
    with sending(url) as detector:
        detector.header()
        detector.images([0] * 500)
        counts = wait_until_done(pilatus, 500)
    assert counts["rejected"] == 499
    wait_for(lambda: "Frames rejected: 499" in pilatus.proxy.status())
    assert 1 <= lines_in_log(pilatus, "frame rejected: ") <= 5  # one, where it is not very busy
    pilatus.set_up(SourceUrl="")
