"""An OpenCL device at work: transfers, threads, and what is told if something cannot be."""

from __future__ import annotations

import faulthandler
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.core.compute import opencl as module
from ronda.core.compute.device import Compute
from ronda.core.compute.opencl import LANES, Accelerator, Call, Lane, accelerator


@pytest.fixture
def device(opencl: Compute) -> Accelerator:
    return accelerator(opencl)


def back(lane: Lane, buffer: Any, size: int, dtype: str, begin: int = 0) -> NDArray[Any]:
    """Return numbers from a buffer."""
    into = lane.locked(size, dtype)
    lane.fetch(into, buffer, begin)
    return into.copy()


@pytest.mark.parametrize("dtype", ("uint8", "int16", "float64"))
@pytest.mark.parametrize("size", (1, 12, 13, 1001))
def test_arrays_arrive_whole_however_they_are_cut(
    device: Accelerator, monkeypatch: pytest.MonkeyPatch, dtype: str, size: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", 104)
    lane = device.lane()
    first, second = (np.arange(start, start + size).astype(dtype) for start in (3, 50))
    second.flags.writeable = False
    locked = lane.locked(size, dtype)
    locked[:] = 7
    buffer = device.room(3 * first.nbytes)
    lane.send(buffer, first, locked, second)
    everything = back(lane, buffer, 3 * size, dtype)
    np.testing.assert_array_equal(everything, np.concatenate([first, locked, second]))
    part = back(lane, buffer, size, dtype, begin=2 * first.nbytes)
    np.testing.assert_array_equal(part, second)


def test_what_is_sent_may_be_changed_at_once_unless_it_lies_in_locked_memory(
    device: Accelerator,
) -> None:
    lane, array = device.lane(), np.arange(1 << 20)
    buffer = device.room(array.nbytes)
    lane.send(buffer, array)
    expected = array.copy()
    array[:] = -1
    np.testing.assert_array_equal(back(lane, buffer, array.size, "int64"), expected)


def test_sending_waits_for_nothing(device: Accelerator) -> None:
    """Else no kernel would run beside a copy: events of pyopencl wait when they are let go."""
    lane, go = device.lane(), device.library.UserEvent(device.context)
    locked, into = lane.locked(1000, "int64"), lane.locked(1000, "int64")
    locked[:] = np.arange(1000)
    buffer = device.room(locked.nbytes)
    device.library.enqueue_barrier(lane.queue, wait_for=[go])
    faulthandler.dump_traceback_later(30, exit=True)  # as such waiting lets no Python run
    lane.send(buffer, locked)  # comes back, though the device does nothing yet
    lane.start_fetch(into, buffer)
    faulthandler.cancel_dump_traceback_later()
    go.set_status(device.library.command_execution_status.COMPLETE)
    lane.wait()
    np.testing.assert_array_equal(into, locked)


def test_memory_is_locked_as_long_as_it_is_there(device: Accelerator) -> None:
    locked = device.lane().locked((4, 5), "int32")
    assert device.is_locked(locked)
    assert device.is_locked(locked[1:].view(np.uint8).reshape(-1))
    assert not device.is_locked(np.zeros(3))
    beyond = np.lib.stride_tricks.as_strided(locked, (5, 5), writeable=False)
    assert not device.is_locked(beyond)
    part = locked[2:]
    del locked, beyond
    gc.collect()
    assert device.is_locked(part)
    address = part.__array_interface__["data"][0]
    del part
    gc.collect()
    ranges = device._locked.items()
    assert not any(low <= address < high for low, high in ranges)


def test_lent_memory_grows_and_is_locked(device: Accelerator) -> None:
    lane = device.lane()
    for size in (10, 1000, 100):
        lent = lane.lend(size)
        assert lent.shape == (size,)
        assert device.is_locked(lent)


def test_each_thread_has_a_lane_of_its_own_and_they_do_not_disturb_each_other(
    device: Accelerator,
) -> None:
    together = threading.Barrier(4)

    def work(number: int) -> Lane:
        together.wait(10)
        lane, array = device.lane(), np.full(200_000, number)
        buffer = device.room(array.nbytes)
        for turn in range(10):
            lane.send(buffer, array + turn)
            assert (back(lane, buffer, array.size, "int64") == number + turn).all()
        assert device.lane() is lane
        return lane

    with ThreadPoolExecutor(4) as pool:
        lanes = list(pool.map(work, range(4)))
    assert len({id(lane) for lane in lanes}) == 4


def test_a_device_is_set_up_once(opencl: Compute) -> None:
    assert accelerator(opencl) is accelerator(replace(opencl, workgroup=8))
    assert accelerator(replace(opencl, profile=True)) is not accelerator(opencl)


PROGRAM = {"PIXEL": "int", "RING": "ushort", "LANES": 64, "MODEL": 0, "NORM": 0, "DARK": 0}


def gather(device: Accelerator, workgroup: int | None) -> Call:
    """Return a small kernel."""
    program = device.program(("pixels", "sparsify"), PROGRAM)
    one = device.constant(np.array([1], np.uint32))
    return Call(device, program, "gather_picked", (one, one, device.room(8)), workgroup, 64)


def test_copies_and_kernels_are_timed_if_asked_for(opencl: Compute) -> None:
    device = accelerator(replace(opencl, profile=True))
    device.spent()
    lane, call = device.lane(), gather(device, None)
    lane.send(device.room(8), np.ones(1))
    lane.run(call, 1)
    lane.run(call, 1)
    lane.wait()
    spent = device.spent()
    assert {name: each.times for name, each in spent.items()} == {
        "copy to the device": 1,
        "gather_picked": 2,
    }
    assert all(0 < each.seconds < 60 for each in spent.values())
    assert device.spent() == {}


def test_nothing_is_timed_otherwise(device: Accelerator) -> None:
    device.lane().send(device.room(8), np.ones(1))
    device.lane().wait()
    assert device.spent() == {}


@pytest.mark.parametrize(("wanted", "items"), [(None, 64), (1, 1), (3, 3), (64, 64), (4096, 64)])
def test_work_groups_have_as_many_items_as_wanted_and_of_use(
    device: Accelerator, wanted: int | None, items: int
) -> None:
    assert gather(device, wanted).items == items
    assert LANES & (LANES - 1) == 0


def test_any_number_of_threads_set_kernels_up_at_a_time(device: Accelerator) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: gather(device, 8), range(200)))
    assert {call.items for call in made} == {8}


def test_what_a_compiler_says_of_what_it_could_build_warns_nobody(
    device: Accelerator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "chatty.cl").write_text("#warning I might\n__kernel void nothing(void) {}\n")
    monkeypatch.setattr(module, "KERNELS", tmp_path)
    own = Accelerator(device.device)
    assert own.library.Kernel(own.program(("chatty",), {}), "nothing").num_args == 0


def test_a_program_is_built_once(device: Accelerator) -> None:
    built = [device.program(("pixels", "sparsify"), PROGRAM) for _ in range(2)]
    assert built[0] is built[1]


# ---------------------------------------------------------------- what goes wrong


def test_a_program_that_cannot_be_built_is_told_of_in_one_sentence(device: Accelerator) -> None:
    with pytest.raises(ValueError, match=r"failed: .*BUILD_PROGRAM_FAILURE") as caught:
        device.program(("pixels", "sparsify"), {**PROGRAM, "PIXEL": "no_type"})
    assert "\n" not in str(caught.value)


def test_a_device_without_double_precision_is_refused(opencl: Compute) -> None:
    with pytest.raises(ValueError, match="Old GPU cannot be used: it has no numbers of double"):
        Accelerator(SimpleNamespace(name="Old GPU ", double_fp_config=0))


@pytest.mark.parametrize(
    ("largest", "total", "told"),
    [
        (3 << 20, 3 << 20, "2 MiB of memory where 3 are needed"),
        (1 << 20, 9 << 20, "8 MiB of memory where 9 are needed"),
    ],
)
def test_too_little_memory_is_told_of_beforehand(
    opencl: Compute, largest: int, total: int, told: str
) -> None:
    small = Accelerator(accelerator(opencl).device)
    small.check_room(largest, total)
    small.device = SimpleNamespace(max_mem_alloc_size=2 << 20, global_mem_size=8 << 20)
    small.check_room(2 << 20, 8 << 20)
    with pytest.raises(ValueError, match=told):
        small.check_room(largest, total)


def test_memory_that_is_not_there_is_told_of_in_one_sentence(device: Accelerator) -> None:
    told = pytest.raises(ValueError, match=r"^.* failed: |are too little memory$")
    with told as caught, device.explained():  # NVIDIA takes the memory when it is used
        device.lane().send(device.room(1 << 60), np.ones(1))
        device.lane().wait()
    assert "\n" not in str(caught.value)
