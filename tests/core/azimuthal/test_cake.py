"""Cakes against pyFAI, and against a plain histogram."""

import numpy as np
import pytest
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal.cake import CakeIntegrator
from ronda.core.azimuthal.errors import ErrorModel
from ronda.core.azimuthal.experiment import Setup
from ronda.core.azimuthal.splitting import Split
from ronda.core.azimuthal.units import Unit

SHAPE = (60, 71)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A PONI file, and what makes pyFAI's integrator of it (its caches are never shared)."""

    def theirs():
        return AzimuthalIntegrator(
            0.05, 0.003, 0.0034, 0.02, -0.05, detector=Detector(1e-4, 1e-4, max_shape=SHAPE),
            wavelength=1e-10,
        )  # fmt: skip

    name = str(tmp_path_factory.mktemp("cake") / "a.poni")
    theirs().save(name)
    return name, theirs


@pytest.mark.parametrize("sector", [None, (-90.0, 0.0), (20.0, 80.0)])
@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("unit", [Unit.Q_NM, Unit.R_MM])
def test_cake_is_pyfais(place, split, unit, sector):
    name, theirs = place
    image = np.random.default_rng(2).poisson(20, SHAPE).astype(np.int32)
    image[5:9, 30:50] = -1
    experiment = Setup(name, polarization=0.9).experiment(SHAPE)
    ours = CakeIntegrator(
        experiment, 30, 24, unit, azimuth_range=sector, split=split,
        error_model=ErrorModel.POISSON_CLASSIC,
    ).integrate(image)  # fmt: skip
    cake = theirs().integrate2d_ng(
        image, 30, 24, unit=unit.value, azimuth_range=sector, dummy=-1, delta_dummy=0.1,
        polarization_factor=0.9, error_model="poisson", method=(split.value, "csr", "cython"),
    )  # fmt: skip
    assert ours.intensity.shape == (24, 30)
    np.testing.assert_allclose(ours.radial, cake.radial, rtol=1e-6)
    np.testing.assert_allclose(ours.azimuthal, cake.azimuthal, rtol=1e-6, atol=1e-9)
    # Without splitting, pyFAI counts pixels below the sector to its first bin.
    used = np.s_[1:] if sector and split is Split.NO else np.s_[:]
    for name in ("intensity", "sigma", "count"):
        found, expected = getattr(ours, name)[used], getattr(cake, name)[used]
        # A sliver of a pixel is at the mercy of single precision.
        solid = cake.count[used] > 1e-3
        np.testing.assert_allclose(found[solid], expected[solid], rtol=1e-5)
    assert np.isnan(ours.intensity[ours.count == 0]).all()


@pytest.mark.parametrize(
    "sector", [(-180.0, 180.0), (0.0, 360.0), (170.0, 190.0), (-190.0, -170.0)]
)
def test_sector_may_lie_anywhere(place, sector):
    experiment = Setup(place[0], solid_angle=False).experiment(SHAPE)
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    cake = CakeIntegrator(experiment, 10, 5, Unit.TTH_DEG, azimuth_range=sector).integrate(image)
    step = (sector[1] - sector[0]) / 5
    np.testing.assert_allclose(cake.azimuthal, sector[0] + step * (np.arange(5) + 0.5), atol=1e-4)
    azimuth = (np.degrees(experiment.azimuth()) - sector[0]) % 360 + sector[0]
    radius = experiment.radius(Unit.TTH_DEG)
    half = (cake.radial[1] - cake.radial[0]) / 2
    edges = np.linspace(*sector, 6), np.append(cake.radial - half, cake.radial[-1] + 1.01 * half)
    count = np.histogram2d(azimuth.ravel(), radius.ravel(), edges)[0]
    assert np.abs(cake.count - count).sum() <= 4 and cake.count.sum() > 50


def test_many_bins_lose_no_count(place):
    experiment = Setup(place[0], solid_angle=False).experiment(SHAPE)
    image = np.random.default_rng(2).integers(0, 2**31 - 1, SHAPE, np.uint32)
    for split in Split:
        cake = CakeIntegrator(experiment, 300, 360, Unit.Q_A, split=split).integrate(image)
        total = np.nansum(cake.intensity * cake.count)
        assert total == pytest.approx(image.sum(dtype=float), rel=1e-6)
        assert cake.count.sum() == pytest.approx(image.size, rel=1e-6)
        assert cake.sigma is None


def test_frame_of_another_shape_is_refused(place):
    experiment = Setup(place[0]).experiment(SHAPE)
    with pytest.raises(ValueError, match=r"the frame has shape \(71, 60\)"):
        CakeIntegrator(experiment, 5, 5, Unit.Q_A).integrate(np.zeros(SHAPE[::-1]))


@pytest.mark.parametrize("bins", [(0, 5), (5, 0), (2000, 2000)])
def test_impossible_cake_is_refused(place, bins):
    with pytest.raises(ValueError, match="bins is"):
        CakeIntegrator(Setup(place[0]).experiment(SHAPE), *bins, Unit.Q_A)
