"""Where kernels run: on the CPU by Numba, or on a device that OpenCL finds."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

KINDS = ("gpu", "acc", "cpu")
"""Kinds of OpenCL devices, by the names that their options have."""
MOST_WORKGROUP = 1 << 16


@dataclass(frozen=True)
class Compute:
    """A choice of where to compute. Without any it is the CPU, by Numba.

    Raises
    ------
    ValueError
        In one sentence, if there cannot be such a choice.
    """

    opencl: bool = False
    """True: by OpenCL."""
    kind: str = ""
    """Of OpenCL device, one of `KINDS`; empty: any, a GPU first."""
    number: tuple[int, int] | None = None
    """Platform and device; None: the first of the kind."""
    workgroup: int | None = None
    """Work items of a group; None: what suits the device. Changes no result."""
    profile: bool = False
    """Note how long copies and kernels of OpenCL take; it takes a little time itself."""

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of device; {', '.join(KINDS)} are")
        if self.number is not None and min(self.number) < 0:
            raise ValueError(f"there is no OpenCL device {self.number}; numbers begin with 0")
        if self.workgroup is not None and not 1 <= self.workgroup <= MOST_WORKGROUP:
            raise ValueError(f"a work group of {self.workgroup} is none of 1 to {MOST_WORKGROUP}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the choice that a text makes.

        Parameters
        ----------
        text
            `cpu`: Numba; `gpu`, `acc`: OpenCL's first of that kind; `opencl`: its first
            GPU, or else whatever it has; `opencl:PLATFORM,DEVICE`: this one.

        Raises
        ------
        ValueError
            In one sentence, if it is none of these.
        """
        if text == "cpu":
            return cls()
        if text in ("gpu", "acc"):
            return cls(opencl=True, kind=text)
        found = re.fullmatch(r"opencl(?::(\d{1,4}),(\d{1,4}))?", text)
        if found is None:
            raise ValueError(
                f"{text!r} is no place to compute: cpu, gpu, acc, opencl or opencl:PLATFORM,DEVICE"
            )
        numbers = (int(found[1]), int(found[2])) if found[1] else None
        return cls(opencl=True, number=numbers)

    def device(self) -> Any:
        """Return the OpenCL device that was chosen.

        Raises
        ------
        ValueError
            In one sentence, if there is none.
        """
        found = opencl_devices()
        for kind in (self.kind,) if self.kind else (*KINDS, ""):
            for place, device in found.items():
                if self.number in (None, place) and kind in ("", _kind(device)):
                    return device
        number = f"{self.number[0]},{self.number[1]}" if self.number else ""
        wanted = " ".join(filter(None, (self.kind, number))) or "device"
        known = ", ".join(
            f"{platform},{number} {device.name.strip()} ({_kind(device)})"
            for (platform, number), device in found.items()
        )
        raise ValueError(f"OpenCL has no {wanted} here; it has {known or 'no device at all'}")


CPU = Compute()


def opencl_devices() -> dict[tuple[int, int], Any]:
    """Return the devices that OpenCL finds, by platform and device number; none without OpenCL."""
    # What drivers compile they keep themselves; pyopencl would keep it as pickles.
    os.environ.setdefault("PYOPENCL_NO_CACHE", "1")
    try:
        import pyopencl

        platforms = pyopencl.get_platforms()
    except Exception:  # no library, no driver, a broken one: there is none
        return {}
    found = {}
    for platform_number, platform in enumerate(platforms):
        with suppress(Exception):  # a driver without a device says so in its own ways
            for number, device in enumerate(platform.get_devices()):
                found[platform_number, number] = device
    return found


def _kind(device: Any) -> str:
    """Return the kind of an OpenCL device."""
    import pyopencl

    kinds = {
        "gpu": pyopencl.device_type.GPU,
        "acc": pyopencl.device_type.ACCELERATOR,
        "cpu": pyopencl.device_type.CPU,
    }
    return next((name for name, flag in kinds.items() if device.type & flag), "")
