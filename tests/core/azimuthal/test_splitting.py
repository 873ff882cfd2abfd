"""Splitting: the compact form holds pyFAI's matrix, and every pass over it is the plain product."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal.experiment import Experiment, Setup
from ronda.core.azimuthal.limits import pixel_limits, usable
from ronda.core.azimuthal.matrix import build_matrix
from ronda.core.azimuthal.splitting import Split, splitting
from ronda.core.azimuthal.summing import CHUNK
from ronda.core.azimuthal.units import Unit
from ronda.core.marks import as_pixels
from ronda.core.simulation import FEMTOMAX

SHAPE = (81, 127)
KINDS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">i4", ">f8"]
RANGES = {None: None, "radial": (8.0, 20.0)}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A tilted detector with everything that corrects."""
    folder = tmp_path_factory.mktemp("splitting")
    theirs = AzimuthalIntegrator(
        0.01, 0.001, 0.0017, 0.1, -0.05, detector=Detector(1e-4, 1e-4, max_shape=SHAPE),
        wavelength=1e-10,
    )  # fmt: skip
    theirs.save(str(folder / "a.poni"))
    random = np.random.default_rng(3)
    for name, image in {
        "mask": random.random(SHAPE) < 0.1,
        "dark": random.uniform(0, 3, SHAPE),
        "flat": random.uniform(0.5, 2, SHAPE),
    }.items():
        np.save(folder / f"{name}.npy", image)
    setup = Setup(
        str(folder / "a.poni"),
        str(folder / "mask.npy"),
        (str(folder / "dark.npy"),),
        (str(folder / "flat.npy"),),
        polarization=0.9,
        dummy=7,
    )
    assert SHAPE[0] * SHAPE[1] > 5 * CHUNK
    return setup.experiment(SHAPE)


class Plain:
    """The product with pyFAI's matrix, entry by entry."""

    def __init__(self, experiment, bins, split, limits=None):
        self.matrix = build_matrix(experiment, Unit.TTH_DEG, bins, split is Split.BBOX, limits)
        self.bins = bins if isinstance(bins, int) else bins[0] * bins[1]
        self.share = self.matrix.share.astype(float)

    def dense(self):
        """Return the matrix, (bins, pixels)."""
        matrix = np.zeros((self.bins, SHAPE[0] * SHAPE[1]))
        matrix[self.matrix.bin, self.matrix.pixel] = self.share
        return matrix

    def sum(self, image, power=1):
        """Return the sums of an image times the shares to a power."""
        weight = self.share**power * image[self.matrix.pixel]
        return np.bincount(self.matrix.bin, weight, minlength=self.bins)


@pytest.mark.parametrize("limits", list(RANGES))
@pytest.mark.parametrize("bins", [1, 5, 40, 90, 400, (9, 7), (30, 40)])
@pytest.mark.parametrize("split", list(Split))
def test_compact_form_holds_the_whole_matrix(experiment, split, bins, limits):
    built, centres, azimuths = splitting(experiment, Unit.TTH_DEG, bins, split, RANGES[limits])
    expected = Plain(experiment, bins, split, RANGES[limits]).dense()
    number = len(expected)
    held = np.zeros((number + 3, experiment.mask.size))
    pixels = np.flatnonzero(built.bin != number)
    held[built.bin[pixels].astype(int), pixels] = 1 - built.shares[:, pixels].sum(axis=0)
    for column, share in enumerate(built.shares[:, pixels]):
        held[built.bin[pixels].astype(int) + column + 1, pixels] += share
    assert not set(pixels.tolist()) & set(built.rest.pixel.tolist())
    np.add.at(held, (built.rest.bin, built.rest.pixel), built.rest.share)
    np.testing.assert_allclose(held[:number], expected, atol=2e-6)
    assert (held[number:] == 0).all() and held[:, experiment.mask.ravel()].sum() == 0
    assert len(centres) * max(len(azimuths), 1) == number
    assert built.split == (split is Split.BBOX and number > 1) or limits or number == 1


def frame(seed, kind, odd):
    """Return pixels of a type, some of them marked, dummies or negative."""
    random = np.random.default_rng(seed)
    kind = np.dtype(kind)
    image = random.poisson(30, SHAPE).astype(kind)
    rubbish = [7]
    if kind.kind == "f":
        rubbish += [np.nan, np.inf, -1, -2, -2.5]
    else:
        rubbish += [np.iinfo(kind).max, np.iinfo(kind).max - 1]
        rubbish += [-1, -2, -3] if kind.kind == "i" else []
    where = random.random(SHAPE) < odd
    image[where] = np.array(rubbish, kind)[random.integers(len(rubbish), size=where.sum())]
    return image


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(KINDS),
    odd=st.sampled_from([0, 0.001, 0.05, 1]),
    split=st.sampled_from(list(Split)),
    bins=st.sampled_from([5, 40, 90, 400, (9, 7), 4200]),
)
def test_sums_are_those_of_the_matrix(experiment, seed, kind, odd, split, bins):
    image = frame(seed, kind, odd)
    pixels = as_pixels(image).ravel()
    limits = pixel_limits(pixels.dtype, experiment.setup)
    valid = usable(pixels, limits)
    plain = Plain(experiment, bins, split)
    values = np.where(valid, pixels, 0).astype(float)
    dark = experiment.dark.ravel().astype(float)
    norm = experiment.normalization.ravel().astype(float)
    built, *_ = splitting(experiment, Unit.TTH_DEG, bins, split)
    sums, negative = built.sums(pixels, limits)
    close = {"rtol": 1e-5, "atol": 1e-4 + 1e-7 * np.abs(values).max()}
    np.testing.assert_allclose(sums.raw, plain.sum(values), **close)
    np.testing.assert_allclose(sums.signal, plain.sum((values - dark) * valid), **close)
    np.testing.assert_allclose(sums.norm, plain.sum(norm * valid), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        sums.norm_squared, plain.sum(norm**2 * valid, 2), rtol=1e-5, atol=1e-5
    )
    count = plain.sum(valid)
    np.testing.assert_allclose(sums.count, count, rtol=1e-5, atol=1e-5)
    assert (sums.count[count == 0] == 0).all()
    assert (sums.count[count > 1e-5] > 0).all()
    close["atol"] = 1e-4 + 1e-7 * np.square(values).max()
    again, variance = built.sums_and_variance(pixels, pixels, 1.0, limits)
    np.testing.assert_allclose(variance, plain.sum(np.maximum(values, 1) * valid, 2), **close)
    for each in fields(sums):
        one, other = (getattr(found, each.name) for found in (sums, again))
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-9 * np.abs(values).max())
    mean = np.divide(sums.signal, sums.norm, out=np.zeros(plain.bins), where=sums.norm != 0)
    pixel = plain.matrix.pixel
    distance = (values - dark)[pixel] - norm[pixel] * mean[plain.matrix.bin]
    expected = np.bincount(
        plain.matrix.bin, (plain.share * distance) ** 2 * valid[pixel], minlength=plain.bins
    )
    np.testing.assert_allclose(built.scatter(pixels, sums, limits), expected, **close)
    if split is Split.NO:
        inside = valid & np.isin(np.arange(valid.size), pixel)
        assert negative == (values[inside] < 0).any()


def test_sums_of_integers_are_exact(experiment):
    image = np.full(SHAPE, 2**31 - 2, np.int32)
    pixels = as_pixels(image).ravel()
    built, *_ = splitting(experiment, Unit.TTH_DEG, 5, Split.NO)
    sums, _ = built.sums(pixels, pixel_limits(np.int32, experiment.setup))
    count = np.bincount(built.bin, minlength=6)[:5]
    assert sums.raw.astype(int).tolist() == [int(n) * (2**31 - 2) for n in count]


def test_splitting_is_built_once(experiment):
    first = splitting(experiment, Unit.Q_A, 11, Split.BBOX)
    assert splitting(experiment, Unit.Q_A, 11, Split.BBOX) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0].norm[0] = 1


def test_geometry_needs_no_file():
    experiment = Experiment.of_geometry(FEMTOMAX, SHAPE, solid_angle=True, polarization=None)
    q = FEMTOMAX.q_map(SHAPE)
    np.testing.assert_allclose(experiment.radius(Unit.Q_A), q, rtol=1e-9)
