"""OpenCL devices at work: what is built once for all threads, and what each thread has of its own.

A transfer is fast and runs beside the kernels only from page-locked memory. So each
thread has a queue and page-locked memory of its own: while the frame of one is
copied, that of another is reduced.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .device import Compute

KERNELS = Path(__file__).parent / "kernels"
CHUNK = 4 << 20
"""Bytes that are brought into page-locked memory before their transfer begins."""
LANES = 256
"""Partial sums of a work group, at most, however many work items it has."""
TYPES = {
    "int8": "char", "uint8": "uchar", "int16": "short", "uint16": "ushort", "int32": "int",
    "uint32": "uint", "int64": "long", "float32": "float", "float64": "double",
}  # fmt: skip
"""What OpenCL calls NumPy's types."""


_generating = threading.Lock()
"""pyopencl writes Python for each kernel, and threads that do so at a time disturb each other."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the work of one kind took on a device."""

    times: int
    seconds: float


class Call:
    """A kernel with its arguments, for one thread at a time.

    Parameters
    ----------
    accelerator
        Where it runs.
    program
        As `Accelerator.program` returns it.
    name
        Of the kernel.
    arguments
        Buffers, and NumPy's numbers of the very types.
    wanted
        Work items of a group; None: as many as the group has partial sums, which is
        also the most that it has use for.
    lanes
        Partial sums of a group.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        program: Any,
        name: str,
        arguments: Sequence[Any],
        wanted: int | None,
        lanes: int = LANES,
    ) -> None:
        import pyopencl

        self.name = name
        with _generating:
            self.kernel = pyopencl.Kernel(program, name)
            self.kernel.set_args(*arguments)
        self._held = tuple(arguments)  # OpenCL does not hold the buffers
        device = accelerator.device
        info = pyopencl.kernel_work_group_info.WORK_GROUP_SIZE
        most = min(self.kernel.get_work_group_info(info, device), device.max_work_item_sizes[0])
        self.items = min(wanted or lanes, lanes, most)


class Accelerator:
    """An OpenCL device at work. Any number of threads may use it at once.

    Parameters
    ----------
    device
        Of pyopencl.
    profile
        Note how long everything takes.

    Raises
    ------
    ValueError
        In one sentence, if the device cannot be used.
    """

    def __init__(self, device: Any, profile: bool = False) -> None:
        import pyopencl

        self.library, self.device, self.profile = pyopencl, device, profile
        self.name = str(device.name).strip()
        if not getattr(device, "double_fp_config", 0):
            raise ValueError(f"{self.name} cannot be used: it has no numbers of double precision")
        with self.explained():
            self.context = pyopencl.Context([device])
        self._lock = threading.Lock()
        self._programs: dict[tuple[str, tuple[tuple[str, Any], ...]], Any] = {}
        self._spent: dict[str, Spent] = {}
        self._locked: dict[int, int] = {}
        self._own = threading.local()

    def lane(self) -> Lane:
        """Return the queue of this thread."""
        if not hasattr(self._own, "lane"):
            self._own.lane = Lane(self)
        lane: Lane = self._own.lane
        return lane

    def lend(self, size: int) -> NDArray[np.uint8]:
        """Lend memory of this thread, as its lane does."""
        return self.lane().lend(size)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell of what goes wrong on the device in one sentence, as a ValueError."""
        try:
            yield
        except self.library.MemoryError:
            size = self.device.global_mem_size >> 20
            raise ValueError(f"the {size} MiB of {self.name} are too little memory") from None
        except self.library.Error as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{self.name} failed: {first}") from None

    def check_room(self, largest: int, total: int) -> None:
        """Raise ValueError if there cannot be buffers of so many bytes."""
        device = self.device
        for needed, most in ((largest, device.max_mem_alloc_size), (total, device.global_mem_size)):
            if needed > most:
                raise ValueError(
                    f"{self.name} has {most >> 20} MiB of memory where {needed >> 20} are needed"
                )

    def program(self, names: tuple[str, ...], constants: Mapping[str, Any]) -> Any:
        """Return a program of kernels, built once.

        Parameters
        ----------
        names
            Of the files in `kernels`, without their ending; they are put together.
        constants
            What their macros stand for.
        """
        key = ("+".join(names), tuple(sorted(constants.items())))
        with self._lock:
            if key not in self._programs:
                source = "\n".join((KERNELS / f"{name}.cl").read_text() for name in names)
                options = ["-cl-std=CL1.2", *(f"-D{name}={value}" for name, value in key[1])]
                # Compilers remark on what is as it should be; what is wrong is raised.
                warnings.simplefilter("ignore", self.library.CompilerWarning)
                with self.explained():
                    self._programs[key] = self.library.Program(self.context, source).build(options)
            return self._programs[key]

    def constant(self, array: NDArray[Any]) -> Any:
        """Return a buffer that holds an array for good; of nothing, one without meaning."""
        flags = self.library.mem_flags
        values = np.ascontiguousarray(array if array.size else np.zeros(1, array.dtype))
        with self.explained():
            return self.library.Buffer(
                self.context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=values
            )

    def room(self, size: int) -> Any:
        """Return a buffer of so many bytes."""
        with self.explained():
            return self.library.Buffer(
                self.context, self.library.mem_flags.READ_WRITE, max(size, 1)
            )

    def note_locked(self, array: NDArray[Any]) -> None:
        """Note that an array lies in page-locked memory, as long as it is there."""
        begin = _address(array)
        self._locked[begin] = begin + array.nbytes
        weakref.finalize(array, self._locked.pop, begin, None)

    def is_locked(self, array: NDArray[Any]) -> bool:
        """Tell whether an array lies in page-locked memory."""
        begin = _address(array)
        ranges = list(self._locked.items())
        return any(low <= begin and begin + array.nbytes <= high for low, high in ranges)

    def add(self, name: str, event: Any) -> None:
        """Note how long something took that is done."""
        seconds = 1e-9 * (event.profile.end - event.profile.start)
        with self._lock:
            before = self._spent.get(name, Spent(0, 0.0))
            self._spent[name] = Spent(before.times + 1, before.seconds + seconds)

    def spent(self) -> dict[str, Spent]:
        """Return what copies and kernels took since this was asked for; empty if not noted."""
        with self._lock:
            spent, self._spent = self._spent, {}
        return spent


class Lane:
    """One thread's way to a device: what it is told is done in order.

    Nothing waits but `fetch` and `wait`.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        cl = self._cl = accelerator.library
        noted = cl.command_queue_properties.PROFILING_ENABLE if accelerator.profile else 0
        with accelerator.explained():
            self.queue = cl.CommandQueue(accelerator.context, properties=noted)
        self._events: list[tuple[str, Any]] = []
        self._staging = self._lent = self.locked(1, np.uint8)

    def locked(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array in page-locked memory; any thread may send it."""
        cl, accelerator, kind = self._cl, self.accelerator, np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.ALLOC_HOST_PTR
        access = cl.map_flags.READ | cl.map_flags.WRITE
        with accelerator.explained():
            buffer = cl.Buffer(accelerator.context, flags, size)
            array, _ = cl.enqueue_map_buffer(
                self.queue, buffer, access, 0, shape, kind, is_blocking=True
            )
        accelerator.note_locked(array)
        locked: NDArray[Any] = array
        return locked

    def lend(self, size: int) -> NDArray[np.uint8]:
        """Return page-locked memory of so many bytes, until the next call.

        A frame that is decoded into it needs no copy before it is sent.
        """
        if self._lent.size < size:
            self._lent = self.locked(size, np.uint8)
        return self._lent[:size]

    def send(self, buffer: Any, *arrays: NDArray[Any]) -> None:
        """Copy flat arrays of one type into a buffer, one after another.

        What is not in page-locked memory is brought there in parts; each part is on its
        way while the next one is brought.
        """
        size = sum(array.nbytes for array in arrays)
        begin = 0
        for array in arrays:
            source = array.view(np.uint8)
            if self.accelerator.is_locked(array):
                self._send(buffer, begin, source)
            else:
                if self._staging.size < size:
                    self._staging = self.locked(size, np.uint8)
                for first in range(0, source.size, CHUNK):
                    part = source[first : first + CHUNK]
                    staged = self._staging[begin + first : begin + first + part.size]
                    np.copyto(staged, part)
                    self._send(buffer, begin + first, staged)
            begin += source.size

    def _send(self, buffer: Any, begin: int, source: NDArray[np.uint8]) -> None:
        event = self._cl.enqueue_copy(
            self.queue, buffer, source, dst_offset=begin, is_blocking=False
        )
        self._note("copy to the device", event)
        self.queue.flush()

    def run(self, call: Call, *groups: int) -> None:
        """Run a kernel in so many work groups, in one dimension or more."""
        whole = (groups[0] * call.items, *groups[1:])
        local = (call.items, *(1 for _ in groups[1:]))
        event = self._cl.enqueue_nd_range_kernel(self.queue, call.kernel, whole, local)
        self._note(call.name, event)

    def start_fetch(self, into: NDArray[Any], buffer: Any, begin: int = 0) -> None:
        """Copy a part of a buffer, from that byte on, into page-locked memory."""
        event = self._cl.enqueue_copy(self.queue, into, buffer, src_offset=begin, is_blocking=False)
        self._note("copy from the device", event)

    def fetch(self, into: NDArray[Any], buffer: Any, begin: int = 0) -> None:
        """Copy as `start_fetch` does, and wait for all."""
        self.start_fetch(into, buffer, begin)
        self.wait()

    def wait(self) -> None:
        """Wait until all is done."""
        self.queue.finish()
        events, self._events = self._events, []
        if self.accelerator.profile:
            for name, event in events:
                self.accelerator.add(name, event)

    def _note(self, name: str, event: Any) -> None:
        # Held until all is done: pyopencl's events of copies wait for the copy when they go,
        # and let no other thread of Python run meanwhile.
        self._events.append((name, event))


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


_accelerators: dict[tuple[int, bool], Accelerator] = {}
_building = threading.Lock()


def accelerator(compute: Compute) -> Accelerator:
    """Return the device that was chosen, at work; the same one again for the same device.

    Raises
    ------
    ValueError
        In one sentence, if there is none, or none that can be used.
    """
    device = compute.device()
    key = (device.int_ptr, compute.profile)
    with _building:
        if key not in _accelerators:
            _accelerators[key] = Accelerator(device, compute.profile)
        return _accelerators[key]
