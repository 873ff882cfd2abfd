"""Where to compute: what can be chosen, and what OpenCL finds."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ronda.core.compute import device
from ronda.core.compute.device import CPU, Compute

FLAGS = {"GPU": 4, "ACCELERATOR": 8, "CPU": 2, "CUSTOM": 16}


def found(monkeypatch: pytest.MonkeyPatch, *platforms: list[str]) -> None:
    """Have OpenCL find devices of these kinds on its platforms; each is named after its place."""
    monkeypatch.setitem(
        sys.modules, "pyopencl", SimpleNamespace(device_type=SimpleNamespace(**FLAGS))
    )
    devices = {
        (platform, number): SimpleNamespace(type=FLAGS[kind], name=f" {platform},{number} ")
        for platform, kinds in enumerate(platforms)
        for number, kind in enumerate(kinds)
    }
    monkeypatch.setattr(device, "opencl_devices", lambda: devices)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("cpu", CPU),
        ("gpu", Compute(opencl=True, kind="gpu")),
        ("acc", Compute(opencl=True, kind="acc")),
        ("opencl", Compute(opencl=True)),
        ("opencl:1,0", Compute(opencl=True, number=(1, 0))),
    ],
)
def test_texts_are_understood(text: str, chosen: Compute) -> None:
    assert Compute.parse(text) == chosen


@pytest.mark.parametrize(
    "text", ("", "GPU", "cuda", "opencl:", "opencl:1", "opencl:-1,0", "gpu:0,0")
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no place to compute"):
        Compute.parse(text)


@pytest.mark.parametrize(
    "wrong", ({"kind": "tpu"}, {"number": (0, -1)}, {"workgroup": 0}, {"workgroup": 1 << 17})
)
def test_a_choice_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"kind of device|begin with 0|work group"):
        Compute(opencl=True, **wrong)


def test_without_a_kind_a_gpu_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, ["CPU"], ["CUSTOM", "ACCELERATOR", "GPU"])
    assert Compute(opencl=True).device().name == " 1,2 "
    found(monkeypatch, ["CUSTOM"])
    assert Compute(opencl=True).device().name == " 0,0 "


def test_the_first_of_a_kind_or_the_very_one_that_was_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found(monkeypatch, ["GPU", "CPU"], ["CPU", "GPU"])
    assert Compute(opencl=True, kind="cpu").device().name == " 0,1 "
    assert Compute(opencl=True, number=(1, 0)).device().name == " 1,0 "
    assert Compute(opencl=True, kind="gpu", number=(1, 1)).device().name == " 1,1 "


@pytest.mark.parametrize(
    "chosen", (Compute(opencl=True, kind="acc"), Compute(opencl=True, number=(2, 0)),
               Compute(opencl=True, kind="gpu", number=(0, 1)))
)  # fmt: skip
def test_a_device_that_is_not_there_is_told_of_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, chosen: Compute
) -> None:
    found(monkeypatch, ["GPU", "CPU"])
    with pytest.raises(ValueError, match=r"it has 0,0 0,0 \(gpu\), 0,1 0,1 \(cpu\)"):
        chosen.device()


def test_a_library_that_is_missing_or_broken_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(ValueError, match="it has no device at all"):
        Compute(opencl=True).device()


def test_a_platform_without_devices_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> list[Any]:
        raise RuntimeError("DEVICE_NOT_FOUND")

    platforms = [SimpleNamespace(get_devices=none), SimpleNamespace(get_devices=lambda: ["it"])]
    library = SimpleNamespace(get_platforms=lambda: platforms)
    monkeypatch.setitem(sys.modules, "pyopencl", library)
    assert device.opencl_devices() == {(1, 0): "it"}
