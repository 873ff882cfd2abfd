"""Rings: pyFAI's, each pixel on one, and the constant sums."""

import numpy as np
import pytest
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal.experiment import Setup
from ronda.core.azimuthal.matrix import build_matrix
from ronda.core.azimuthal.rings import Rings, rings
from ronda.core.azimuthal.units import Unit

SHAPE = (40, 53)


@pytest.fixture
def setup(tmp_path):
    """A tilted detector with a dark, a flat and a mask."""
    theirs = AzimuthalIntegrator(
        0.01, 0.001, 0.0017, 0.1, -0.05, detector=Detector(1e-4, 1e-4, max_shape=SHAPE),
        wavelength=1e-10,
    )  # fmt: skip
    theirs.save(str(tmp_path / "a.poni"))
    random = np.random.default_rng(3)
    images = {
        "mask": random.random(SHAPE) < 0.1,
        "dark": random.uniform(0, 3, SHAPE),
        "flat": random.uniform(0.5, 2, SHAPE),
    }
    names = {name: str(tmp_path / f"{name}.npy") for name in images}
    for name, image in images.items():
        np.save(names[name], image)
    return Setup(
        str(tmp_path / "a.poni"), names["mask"], (names["dark"],), (names["flat"],), polarization=1
    )


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("bins", [1, 7, 100])
@pytest.mark.parametrize("limited", [False, True])
def test_ring_is_where_the_radius_lies(setup, unit, bins, limited):
    experiment = setup.experiment(SHAPE)
    radius = experiment.radius(unit)
    limits = tuple(np.quantile(radius, [0.2, 0.7]).tolist()) if limited else None
    found = Rings(experiment, unit, bins, limits)
    inside = ~experiment.mask
    low, high = limits or (radius[inside].min(), radius[inside].max())
    width = (high - low) / bins
    assert found.width == pytest.approx(width, rel=1e-6)
    assert found.lowest == pytest.approx(low, rel=1e-6, abs=1e-9 * high)
    np.testing.assert_allclose(found.centres, low + width * (np.arange(bins) + 0.5), rtol=1e-6)
    ring = found.ring.reshape(SHAPE).astype(int)
    assert (ring[experiment.mask] == bins).all()
    place = (radius - low) / width
    used = inside & (place > 1e-4) & (place < bins - 1e-4)
    np.testing.assert_array_less(np.abs(place - 0.5 - ring)[used], 0.5 + 1e-3)
    assert (ring[inside & ((place < -1e-3) | (place > bins + 1e-3))] == bins).all()
    # The last pixel belongs to the last ring.
    assert limited or ring[inside & (place > bins - 1e-6)].tolist() == [bins - 1]


def test_constant_sums_are_those_of_the_pixels(setup):
    experiment = setup.experiment(SHAPE)
    found = Rings(experiment, Unit.Q_A, 20)
    norm = experiment.normalization.astype(float).ravel()
    for ring in range(20):
        on = found.ring == ring
        assert found.count[ring] == on.sum()
        assert found.norm[ring] == pytest.approx(norm[on].sum(), rel=1e-12)
        assert found.norm_squared[ring] == pytest.approx((norm[on] ** 2).sum(), rel=1e-12)
    assert found.count.dtype == np.int64 and found.count.sum() == (~experiment.mask).sum()
    np.testing.assert_array_equal(found.dark, experiment.dark.ravel())
    np.testing.assert_array_equal(np.isnan(found.radius), experiment.mask)
    assert found.radius.dtype == np.float32


def test_ring_of_many_bins_has_a_wider_index(setup):
    experiment = setup.experiment(SHAPE)
    assert Rings(experiment, Unit.R_M, 65535).ring.dtype == np.uint16
    found = Rings(experiment, Unit.R_M, 65536)
    assert found.ring.dtype == np.uint32 and found.ring.max() == 65536


def test_nothing_to_correct_is_nothing(setup):
    plain = Rings(Setup(setup.poni_file, solid_angle=False).experiment(SHAPE), Unit.R_M, 10)
    assert plain.dark is None and plain.normalization is None
    np.testing.assert_array_equal(plain.norm, plain.count)


def test_rings_are_built_once_and_not_changed(setup):
    experiment = setup.experiment(SHAPE)
    found = rings(experiment, Unit.Q_A, 30)
    assert rings(experiment, Unit.Q_A, 30) is found is not rings(experiment, Unit.Q_A, 31)
    with pytest.raises(ValueError, match="read-only"):
        found.ring[0] = 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"bins": 0}, "bins is 0; a pattern has at least one"),
        ({"bins": 10**9}, "at most 1000000"),
        ({"radial_range": (3.0, 1.0)}, r"radial_range is \(3.0, 1.0\); it goes from"),
        ({"radial_range": (0.0, np.nan)}, "radial_range"),
        ({"azimuth_range": (-200.0, 200.0)}, "no more than 360 deg"),
        ({"azimuth_range": (-100.0, 250.0)}, "cannot reach over both 0 and 180"),
        (
            {"radial_range": (50.0, 100.0)},
            r"no pixel lies in radial_range \(50.0, 100.0\) in q_A\^-1: the detector has radii "
            r"from [\d.]+ to [\d.]+ 1/angstrom$",
        ),
        (
            {"radial_range": (0.0, 1e-9), "azimuth_range": (10.0, 11.0)},
            r"radial_range .* and azimuth_range .* to [\d.]+ 1/angstrom at azimuths from .* deg$",
        ),
    ],
)
def test_impossible_rings_are_refused_in_a_sentence(setup, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Rings(setup.experiment(SHAPE), Unit.Q_A, **{"bins": 5, **arguments})


def test_mask_over_everything_is_said(setup, tmp_path):
    np.save(tmp_path / "all.npy", np.ones(SHAPE, bool))
    masked = Setup(setup.poni_file, str(tmp_path / "all.npy")).experiment(SHAPE)
    with pytest.raises(ValueError, match="leaves out every pixel"):
        Rings(masked, Unit.Q_A, 5)


@pytest.mark.parametrize("what", ["flat_files", "dark_files"])
def test_flat_or_dark_that_leaves_nothing_is_named(setup, tmp_path, what):
    value = 0 if what == "flat_files" else np.nan
    np.save(tmp_path / "a.npy", np.full(SHAPE, value))
    none = Setup(setup.poni_file, **{what: (str(tmp_path / "a.npy"),)}).experiment(SHAPE)
    with pytest.raises(ValueError, match=f"^the {what.partition('_')[0]} leaves out every pixel"):
        Rings(none, Unit.Q_A, 5)


def test_range_without_a_pixel_is_not_told_in_the_words_of_pyfai(setup, caplog):
    with pytest.raises(ValueError, match="no pixel lies in"):
        build_matrix(setup.experiment(SHAPE), Unit.R_M, 5, True, (50.0, 100.0))
    assert not caplog.records
