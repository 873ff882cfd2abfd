"""Integration on an OpenCL device against that on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal import opencl_integration
from ronda.core.azimuthal.cake import CakeIntegrator
from ronda.core.azimuthal.errors import parse_error_model
from ronda.core.azimuthal.experiment import Experiment, Setup
from ronda.core.azimuthal.integration import Integrator, Pattern1D
from ronda.core.azimuthal.opencl_integration import OpenClSummation
from ronda.core.azimuthal.splitting import Split
from ronda.core.azimuthal.units import Unit
from ronda.core.compute.device import Compute
from ronda.core.frame import Frame, Series
from ronda.core.stage import Connection
from ronda.core.tomography.parameters import DiffTomoParameters
from ronda.core.tomography.stage import DiffTomoStage
from ronda.tests.image_files import write_image

SHAPE = (75, 81)
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
          "float32", "float64")  # fmt: skip
MODELS = ("none", "poisson", "poisson-classic", "azimuthal", "hybrid", "5*I+8")
SUMS = ("sum_signal", "sum_normalization", "sum_norm_squared", "count", "intensity")


@pytest.fixture(scope="module")
def setups(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Setup]:
    """A bare setup, and one with all corrections and a mask."""
    folder = tmp_path_factory.mktemp("opencl")
    AzimuthalIntegrator(
        0.05, 0.003, 0.0034, 0.02, -0.05, detector=Detector(1e-4, 1e-4, max_shape=SHAPE),
        wavelength=1e-10,
    ).save(str(folder / "a.poni"))  # fmt: skip
    random = np.random.default_rng(3)
    images = {
        "mask": random.random(SHAPE) < 0.1,
        "dark": random.uniform(-1, 4, SHAPE),
        "flat": random.uniform(0.3, 2, SHAPE),
    }
    files = {
        name: str(write_image(folder / f"{name}.edf", image.astype(np.float32)))
        for name, image in images.items()
    }
    plain = Setup(str(folder / "a.poni"), solid_angle=False)
    full = replace(
        plain, solid_angle=True, polarization=0.9, dummy=4.0, delta_dummy=0.5,
        mask_file=files["mask"], dark_files=(files["dark"],), flat_files=(files["flat"],),
    )  # fmt: skip
    return {"plain": plain, "full": full}


def frame(dtype: str, seed: int = 1) -> NDArray[Any]:
    """Counts, some high, some marked, some negative."""
    random, kind = np.random.default_rng(seed), np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind in "iu" else 60000.0
    image = np.minimum(random.poisson(6, SHAPE), 100).astype(kind)
    image.flat[random.integers(0, image.size, 60)] = top - kind.type(1)
    image[3:5, 20:60] = top if kind.kind in "iu" else np.nan
    if kind.kind != "u":
        image.flat[random.integers(0, image.size, 60)] = -1
        image.flat[random.integers(0, image.size, 60)] = -9
    return image


def both(
    experiment: Experiment, compute: Compute, **settings: Any
) -> tuple[Integrator, Integrator]:
    """Return what integrates on the device, and on the CPU."""
    settings = {"bins": 50, "unit": Unit.Q_NM, **settings}
    ours, cpu = (Integrator(experiment, compute=each, **settings) for each in (compute, Compute()))
    return ours, cpu


def check(found: Pattern1D, expected: Pattern1D, exact: bool) -> None:
    """Compare two patterns."""
    within = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-9, "atol": 1e-9}
    for name in SUMS:
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), **within, err_msg=name
        )
    assert (found.sigma is None) == (expected.sigma is None)
    if expected.sigma is not None:
        np.testing.assert_allclose(found.sigma, expected.sigma, rtol=1e-9)
        np.testing.assert_allclose(found.sum_variance, expected.sum_variance, rtol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_of_every_type_are_summed_as_on_the_cpu(
    setups: dict[str, Setup], opencl: Compute, dtype: str
) -> None:
    ours, cpu = both(
        setups["plain"].experiment(SHAPE), opencl, error_model=parse_error_model("poisson")
    )
    image, kind = frame(dtype), np.dtype(dtype)
    with np.errstate(invalid="ignore"):  # the error of a sum below 0
        check(ours.integrate(image), cpu.integrate(image), kind.kind in "iu" and kind.itemsize < 8)


@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("model", MODELS)
def test_every_error_model_with_all_corrections(
    setups: dict[str, Setup], opencl: Compute, model: str, split: Split
) -> None:
    ours, cpu = both(
        setups["full"].experiment(SHAPE), opencl, split=split,
        error_model=parse_error_model(model),
    )  # fmt: skip
    check(ours.integrate(frame("int32")), cpu.integrate(frame("int32")), False)


def test_sums_of_the_largest_counts_are_exact(setups: dict[str, Setup], opencl: Compute) -> None:
    experiment = replace(setups["plain"], marks=False).experiment(SHAPE)
    image = np.random.default_rng(1).integers(2**32 - 99, 2**32, SHAPE).astype(np.uint32)
    ours, cpu = both(experiment, opencl, bins=1)
    found = ours.integrate(image)
    assert found.sum_signal[0] == float(image.astype(object).sum())
    check(found, cpu.integrate(image), True)


def test_a_formula_without_a_value_leaves_the_pixel_out(
    setups: dict[str, Setup], opencl: Compute
) -> None:
    ours, cpu = both(
        setups["plain"].experiment(SHAPE), opencl, error_model=parse_error_model("1/I+sqrt(I)")
    )
    found, expected = ours.integrate(frame("int32")), cpu.integrate(frame("int32"))
    check(found, expected, False)
    assert found.count.sum() < (frame("int32") != 2**31 - 1).sum()


@pytest.mark.parametrize("split", list(Split))
def test_the_size_of_work_groups_changes_nothing(
    setups: dict[str, Setup], opencl: Compute, split: Split
) -> None:
    experiment, image = setups["full"].experiment(SHAPE), frame("float32")
    expected = None
    for workgroup in (1, 8, 64, 256, 4096):
        model = parse_error_model("azimuthal")
        ours, _ = both(
            experiment, replace(opencl, workgroup=workgroup), bins=8, split=split,
            error_model=model,
        )  # fmt: skip
        found = ours.integrate(image)
        if expected is not None:
            for name in (*SUMS, "sigma"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        expected = found


def test_a_batch_is_what_its_frames_are_one_by_one(
    setups: dict[str, Setup], opencl: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [frame("int32", seed) for seed in range(7)]
    for model in ("poisson", "5*I+8"):
        ours, cpu = both(
            setups["full"].experiment(SHAPE), opencl, error_model=parse_error_model(model)
        )
        expected = [cpu.integrate(each) for each in frames]
        for most in (1 << 30, 3 * 8 * frames[0].size, 1):
            monkeypatch.setattr(opencl_integration, "MOST", most)
            found = ours.integrate_batch(np.stack(frames))  # type: ignore[arg-type]
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                check(one, other, False)
        assert ours.integrate_batch([]) == []


def test_a_batch_of_several_types_is_refused(setups: dict[str, Setup], opencl: Compute) -> None:
    ours, _ = both(setups["plain"].experiment(SHAPE), opencl)
    with pytest.raises(ValueError, match="are of one type"):
        ours.integrate_batch([frame("int32"), frame("uint16")])
    with pytest.raises(ValueError, match=r"has shape \(3, 3\)"):
        ours.integrate_batch([np.zeros((3, 3), np.int32)])


def test_frames_of_one_type_after_another(setups: dict[str, Setup], opencl: Compute) -> None:
    ours, cpu = both(setups["full"].experiment(SHAPE), opencl)
    for dtype in ("int32", "uint16", "int32", "float32", "uint16"):
        check(ours.integrate(frame(dtype)), cpu.integrate(frame(dtype)), False)


def test_threads_do_not_disturb_each_other(setups: dict[str, Setup], opencl: Compute) -> None:
    ours, cpu = both(setups["full"].experiment(SHAPE), opencl)
    frames = [frame("int32", seed) for seed in range(8)]
    expected = [cpu.integrate(each) for each in frames]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(ours.integrate, frames * 10), expected * 10, strict=True):
            check(found, right, False)


def test_lent_memory_is_sent_as_it_is(setups: dict[str, Setup], opencl: Compute) -> None:
    ours, cpu = both(setups["plain"].experiment(SHAPE), opencl)
    image = frame("int32")
    assert cpu.lend is None
    assert ours.lend is not None
    lent = ours.lend(image.nbytes).view(np.int32).reshape(SHAPE)
    lent[:] = image
    check(ours.integrate(lent), cpu.integrate(image), True)


@pytest.mark.parametrize("split", list(Split))
def test_cakes(setups: dict[str, Setup], opencl: Compute, split: Split) -> None:
    experiment, image = setups["full"].experiment(SHAPE), frame("int32")
    ours, cpu = (
        CakeIntegrator(
            experiment, 30, 24, Unit.R_MM, split=split, compute=compute,
            error_model=parse_error_model("poisson"),
        ).integrate(image)
        for compute in (opencl, Compute())
    )  # fmt: skip
    for name in ("intensity", "sigma", "count"):
        np.testing.assert_allclose(getattr(ours, name), getattr(cpu, name), rtol=1e-5)


@pytest.mark.parametrize("masked", (0, 1, 12))
@pytest.mark.parametrize("bins", (1, 7, 300))
def test_few_pixels_and_many_empty_bins(
    tmp_path: Path, opencl: Compute, masked: int, bins: int
) -> None:
    shape = (3, 4)
    AzimuthalIntegrator(
        0.05, 0, 0, detector=Detector(1e-4, 1e-4, max_shape=shape), wavelength=1e-10
    ).save(str(tmp_path / "a.poni"))
    experiment = Setup(str(tmp_path / "a.poni")).experiment(shape)
    image = np.arange(12, dtype=np.uint16).reshape(shape)
    image.flat[:masked] = 65535
    for split in Split:
        ours, cpu = both(experiment, opencl, bins=bins, split=split)
        check(ours.integrate(image), cpu.integrate(image), False)


def test_one_pixel_is_a_pattern(tmp_path: Path, opencl: Compute) -> None:
    AzimuthalIntegrator(
        0.05, 0, 0, detector=Detector(1e-4, 1e-4, max_shape=(1, 1)), wavelength=1e-10
    ).save(str(tmp_path / "a.poni"))
    ours, cpu = both(Setup(str(tmp_path / "a.poni")).experiment((1, 1)), opencl, bins=1)
    image = np.full((1, 1), 7, np.int32)
    check(ours.integrate(image), cpu.integrate(image), True)
    assert ours.integrate(image).sum_signal[0] == 7


def stage_on(compute: Compute) -> DiffTomoStage:
    made = DiffTomoStage()
    made.connection = Connection(compute=compute)
    return made


def test_the_stage_of_maps_computes_where_it_is_told(
    setups: dict[str, Setup], opencl: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = DiffTomoParameters(
        poni_file=setups["plain"].poni_file, n_diffraction=40, azimuthal_bins=12
    )
    of_frame = Frame(Series(1), 0, frame("uint16"))
    found = []
    for compute in (opencl, Compute()):
        found.append(stage_on(compute).map(of_frame, parameters.changed({})))
    for name in ("pattern", "cake"):
        ours, cpu = (getattr(each, name).intensity for each in found)
        np.testing.assert_allclose(ours, cpu, rtol=1e-6)
    monkeypatch.setattr(OpenClSummation, "sums", None)
    with pytest.raises(TypeError, match="not callable"):
        stage_on(opencl).map(of_frame, parameters.changed({}))
