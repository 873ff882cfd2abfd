"""Patterns against plain NumPy, against pyFAI used directly, and against crystals."""

import concurrent.futures
import gzip
import json
import subprocess
import sys
from pathlib import Path

import cbor2
import fabio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyFAI.detectors import Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal.errors import ErrorModel, parse_error_model
from ronda.core.azimuthal.experiment import Setup
from ronda.core.azimuthal.formula import Formula
from ronda.core.azimuthal.integration import Integration, Integrator
from ronda.core.azimuthal.splitting import Split
from ronda.core.azimuthal.units import Unit
from ronda.core.geometry import Geometry
from ronda.core.simulation import FEMTOMAX, lab6_lines, simulate_powder

SHAPE = (45, 64)
DATA = Path(__file__).parents[4] / "shared/data"
RECORDING = DATA / "lab6-pilatus.cbors.gz"
TILTED = Geometry(
    photon_energy=9.0,
    detector_distance=0.02,
    beam_center_x=10.0,
    beam_center_y=20.0,
    tilt=20.0,
    tilt_plane_rotation=35.0,
    pixel_size=172e-6,
    rotation=10.0,
)


def weights(geometry, shape, solid_angle, polarization):
    """What a pixel at rest sees of a ring of intensity one, from the textbook."""
    weight = geometry.solid_angle(shape) if solid_angle else np.ones(shape)
    if polarization is None:
        return weight
    theirs = AzimuthalIntegrator()
    poni = geometry.poni()
    theirs.set_rot1(poni.rot1)
    theirs.set_rot2(poni.rot2)
    theirs.set_rot3(poni.rot3)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    place = np.stack(
        (
            rows * poni.pixel_size - poni.poni1,
            columns * poni.pixel_size - poni.poni2,
            np.full(shape, poni.distance),
        )
    )
    vertical, horizontal, along = np.tensordot(theirs.rotation_matrix(), place, 1)
    square = horizontal**2 + vertical**2 + along**2
    # Share of the field across the way of the photon: Als-Nielsen, Elements of X-ray Physics, 1.
    in_plane = (1 + polarization) / 2 * (1 - horizontal**2 / square)
    return weight * (in_plane + (1 - polarization) / 2 * (1 - vertical**2 / square))


def reference(geometry, shape, q, total, weight, variance):
    """Integration of pixels split by their bounding box in q: plain NumPy, bin by bin."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centre = geometry.q_map(shape)
    corners = [
        geometry.q_at(rows + up, columns + left) for up in (-0.5, 0.5) for left in (-0.5, 0.5)
    ]
    half = np.max(np.abs(np.array(corners) - centre), axis=0)
    low, high = np.maximum(centre - half, 0), centre + half
    step = q[1] - q[0]
    intensity, sigma = np.full(len(q), np.nan), np.full(len(q), np.nan)
    for number, middle in enumerate(q):
        overlap = np.minimum(high, middle + step / 2) - np.maximum(low, middle - step / 2)
        share = np.maximum(overlap, 0) / (high - low)
        # A sliver of a pixel is at the mercy of pyFAI's single precision.
        if (norm := (share * weight).sum()) > 0.3:
            intensity[number] = (share * total).sum() / norm
            sigma[number] = np.sqrt((share**2 * variance).sum()) / norm
    return intensity, sigma


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from([np.int64, np.float64, np.int32]),
    solid_angle=st.booleans(),
    polarization=st.sampled_from([None, 0.0, 0.95, -1.0]),
    tilted=st.booleans(),
    masked=st.floats(0, 0.9),
)
def test_pattern_is_the_sum_over_rings_divided_by_what_was_exposed(
    seed, kind, solid_angle, polarization, tilted, masked
):
    random = np.random.default_rng(seed)
    geometry = TILTED if tilted else FEMTOMAX
    count = random.integers(0, 30, SHAPE).astype(np.uint32)
    count[random.random(SHAPE) < masked] = 0
    total = (random.poisson(3.0, SHAPE) * count).astype(kind)
    weight = count * weights(geometry, SHAPE, solid_angle, polarization)
    pattern = Integration(geometry, SHAPE, 60, solid_angle, polarization).integrate(
        total, count, 30, variance_gain=2.5
    )
    intensity, sigma = reference(geometry, SHAPE, pattern.q, total, weight, 2.5 * total)
    assert {a.dtype for a in (pattern.q, pattern.intensity, pattern.sigma)} == {np.dtype(float)}
    solid = np.isfinite(intensity)
    np.testing.assert_allclose(pattern.intensity[solid], intensity[solid], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(pattern.sigma[solid], sigma[solid], rtol=1e-3, atol=1e-3)


def test_unsplit_histogram_agrees_in_broad_bins():
    random = np.random.default_rng(1)
    total = random.poisson(1000 * FEMTOMAX.solid_angle((200, 300)))
    pattern = Integration(FEMTOMAX, (200, 300), bins=12).integrate(total, None, 1)
    step = pattern.q[1] - pattern.q[0]
    edges = np.append(pattern.q - step / 2, pattern.q[-1] + step / 2)
    q = FEMTOMAX.q_map((200, 300))
    above = np.histogram(q, edges, weights=total)[0]
    below = np.histogram(q, edges, weights=FEMTOMAX.solid_angle((200, 300)))[0]
    np.testing.assert_allclose(pattern.intensity, above / below, rtol=2e-3)


def test_pyfai_with_a_fixed_mask_says_the_same():
    powder = simulate_powder(frames=4, shape=(212, 494))
    valid = (powder.frames >= 0).all(axis=0)
    total = np.where(valid, powder.frames, 0).sum(axis=0, dtype=float)
    ours = Integration(FEMTOMAX, (212, 494), 200, polarization=0.9).integrate(
        total, valid * np.uint32(4), 4
    )
    half = (ours.q[1] - ours.q[0]) / 2
    poni = FEMTOMAX.poni()
    theirs = AzimuthalIntegrator(
        poni.distance, poni.poni1, poni.poni2, poni.rot1, poni.rot2, poni.rot3, 172e-6, 172e-6,
        wavelength=poni.wavelength,
    ).integrate1d_ng(
        total, 200, mask=~valid, normalization_factor=4, polarization_factor=0.9,
        radial_range=(ours.q[0] - half, ours.q[-1] + half),
        method=("bbox", "csr", "cython"), unit="q_A^-1",
    )  # fmt: skip
    assert theirs.intensity.max() > 0.1
    # Where nothing counted we say NaN, pyFAI 0.
    intensity = np.nan_to_num(ours.intensity)
    np.testing.assert_allclose(intensity[1:-1], theirs.intensity[1:-1], rtol=1e-3)


@pytest.mark.parametrize("rubbish", [-1e30, np.nan, np.inf, -2.0])
def test_pixel_that_never_counted_changes_nothing(rubbish):
    count = np.full(SHAPE, 5, np.uint32)
    count[::3] = 0
    total = np.where(count, 10.0, 0.0)
    integration = Integration(FEMTOMAX, SHAPE, 50, solid_angle=False)
    clean = integration.integrate(total, count, 5)
    dirty = integration.integrate(np.where(count, total, rubbish), count, 5)
    np.testing.assert_array_equal(dirty.intensity, clean.intensity)
    np.testing.assert_array_equal(dirty.sigma, clean.sigma)
    assert clean.intensity == pytest.approx(np.full(50, 2.0), rel=1e-6)


def test_ring_without_a_pixel_is_nan_not_zero():
    count = np.full(SHAPE, 1, np.uint32)
    q = FEMTOMAX.q_map(SHAPE)
    middle = (q.min() + q.max()) / 2
    count[np.abs(q - middle) < 0.1] = 0
    pattern = Integration(FEMTOMAX, SHAPE, 50).integrate(np.zeros(SHAPE), count, 1)
    hollow = np.isnan(pattern.intensity)
    assert hollow.any() and np.all(np.abs(pattern.q[hollow] - middle) < 0.1)
    np.testing.assert_array_equal(np.isnan(pattern.sigma), hollow)
    assert np.all(pattern.intensity[~hollow] == 0)
    nothing = Integration(FEMTOMAX, SHAPE, 50).integrate(np.zeros(SHAPE), None, 0)
    assert np.isnan(nothing.intensity).all() and np.isfinite(nothing.q).all()


def test_sigma_is_the_scatter_of_counted_photons():
    random = np.random.default_rng(5)
    integration = Integration(FEMTOMAX, (200, 300), 300, solid_angle=False)
    counts = random.poisson(4.0, (200, 300))
    pattern = integration.integrate(counts, None, 20)
    scatter = (pattern.intensity - 4.0 / 20) / pattern.sigma
    assert 0.9 < scatter[10:-10].std() < 1.1
    in_kev = integration.integrate(counts * 13.5, None, 20, variance_gain=13.5)
    np.testing.assert_allclose(in_kev.intensity, 13.5 * pattern.intensity, rtol=1e-6)
    np.testing.assert_allclose(in_kev.sigma, 13.5 * pattern.sigma, rtol=1e-6)


def test_second_pattern_is_not_touched_by_the_third():
    integration = Integration(FEMTOMAX, SHAPE, 50)
    kept = integration.integrate(np.full(SHAPE, 3), None, 1)
    before = kept.intensity.copy()
    integration.integrate(np.full(SHAPE, 99), None, 1)
    np.testing.assert_array_equal(kept.intensity, before)


def test_image_of_another_shape_is_refused_by_name():
    integration = Integration(FEMTOMAX, SHAPE)
    with pytest.raises(ValueError, match=r"total has shape \(64, 45\); these frames have"):
        integration.integrate(np.zeros(SHAPE[::-1]), None, 1)
    with pytest.raises(ValueError, match="valid_count has shape"):
        integration.integrate(np.zeros(SHAPE), np.zeros((1, 1)), 1)


@pytest.mark.parametrize(("name", "value"), [("bins", 0), ("polarization", 1.5)])
def test_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        Integration(FEMTOMAX, SHAPE, **{name: value})


def test_equal_settings_are_equal_so_that_a_matrix_is_not_built_twice():
    integration = Integration(FEMTOMAX, SHAPE)
    integration.integrate(np.zeros(SHAPE), None, 1)
    assert integration == Integration(FEMTOMAX, SHAPE)
    assert integration != Integration(FEMTOMAX, SHAPE, bins=999)


def test_nobody_waits_for_pyfai_who_does_not_integrate():
    code = (
        "import sys, ronda.core.azimuthal.integration as i, ronda.core.simulation as s\n"
        "i.Integration(s.FEMTOMAX, (5, 5)); s.FEMTOMAX.from_poni(s.FEMTOMAX.to_poni((5, 5)))\n"
        "sys.exit('pyFAI' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def lines_found(pattern, lines, tolerance=0.035):
    """Offsets of the highest points near the lines, and which are high and close enough."""
    step = pattern.q[1] - pattern.q[0]
    kernel = np.exp(-((np.arange(-8, 9) / 2.0) ** 2) / 2)
    kernel /= kernel.sum()
    smooth = np.convolve(np.nan_to_num(pattern.intensity), kernel, "same")
    noise = np.convolve(np.nan_to_num(pattern.sigma) ** 2, kernel**2, "same") ** 0.5
    offsets, found = [], []
    for line in lines:
        distance = pattern.q - line
        flank = (np.abs(distance) > 0.07) & (np.abs(distance) < 0.1) & np.isfinite(pattern.sigma)
        background = np.polyval(np.polyfit(distance[flank], smooth[flank], 1), distance)
        height = np.where(np.abs(distance) < 0.09, smooth - background, -np.inf)
        top = int(height.argmax())
        offsets.append(distance[top])
        found.append(abs(distance[top]) < tolerance + step / 2 and height[top] > 5 * noise[top])
    return np.array(offsets), np.array(found)


def summed(frames):
    """Sum over frames of pixels that are valid in them, and how often each was."""
    valid = frames >= 0
    return np.where(valid, frames, 0).sum(axis=0, dtype=float), valid.sum(axis=0).astype(np.uint32)


@pytest.fixture(scope="module")
def lab6():
    """The recorded frames, decoded with cbor2 alone."""
    if not RECORDING.exists():
        pytest.skip(f"the LaB6 recording is not at {RECORDING}")
    frames = []
    with gzip.open(RECORDING) as file:
        decoder = cbor2.CBORDecoder(file, tag_hook=lambda tag, immutable=False: tag.value)
        while len(frames) < 30:
            for _, parts in decoder.decode()[1].values():
                header = json.loads(parts[0])
                if header["htype"] == "image":
                    frames.append(np.frombuffer(parts[1], "<f4").reshape(header["shape"]))
    return np.array(frames)


def test_recorded_lab6_shows_13_of_its_14_lines(lab6):
    total, count = summed(lab6)
    assert total.sum() == pytest.approx(1555495.6, abs=0.1)
    lines, _ = lab6_lines(6.1)
    assert len(lines) == 14 and lines[[0, -1]] == pytest.approx([1.5115, 6.0462], abs=1e-4)
    pattern = Integration(FEMTOMAX, total.shape).integrate(total, count, 30, variance_gain=13.5)
    assert lines_found(pattern, lines)[1].sum() >= 13
    # The finder is no yes-man: a detector 6 mm nearer loses the lines.
    wrong = Geometry(**{**vars(FEMTOMAX), "detector_distance": 0.125})
    pattern = Integration(wrong, total.shape).integrate(total, count, 30, variance_gain=13.5)
    assert lines_found(pattern, lines)[1].sum() < 7


def test_simulated_lab6_shows_every_line():
    powder = simulate_powder()
    total, count = summed(powder.frames)
    pattern = Integration(FEMTOMAX, total.shape).integrate(total, count, 30, variance_gain=13.5)
    offsets, found = lines_found(pattern, powder.q[:14], tolerance=0.01)
    assert found.all(), offsets


@pytest.mark.skipif(not (DATA / "powder").exists(), reason="the CeO2 frame is not there")
def test_recorded_ceria_gives_the_pattern_that_came_with_it():
    image = np.flipud(fabio.open(DATA / "powder/CeO2_Pilatus1M.tif").data)
    shipped = np.loadtxt(DATA / "powder/CeO2_Pilatus1M.xy")
    geometry = Geometry.from_poni(DATA / "powder/CeO2_Pilatus1M.poni")
    valid = image >= 0
    pattern = Integration(geometry, image.shape, len(shipped)).integrate(
        image, valid.astype(np.uint32), 1
    )
    angle = 2 * np.degrees(np.arcsin(pattern.q * geometry.wavelength / (4 * np.pi)))
    ours = np.interp(shipped[:, 0], angle, np.nan_to_num(pattern.intensity))
    used = (shipped[:, 0] > 3) & (shipped[:, 0] < 22)
    assert np.corrcoef(ours[used], shipped[used, 1])[0, 1] > 0.998


# ---------------------------------------------------------------- single frames


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A PONI file of a tilted detector, and what makes pyFAI's integrator of it."""

    def theirs():
        return AzimuthalIntegrator(
            0.02, 0.002, 0.0034, 0.2, -0.15, 0.4, detector=Detector(1e-4, 1e-4, max_shape=SHAPE),
            wavelength=1e-10,
        )  # fmt: skip

    folder = tmp_path_factory.mktemp("integration")
    theirs().save(str(folder / "a.poni"))
    random = np.random.default_rng(4)
    images = {
        "dark": random.uniform(0, 3, SHAPE).astype(np.float32),
        "flat": random.uniform(0.5, 2, SHAPE).astype(np.float32),
        "mask": random.random(SHAPE) < 0.1,
        "absorption": random.uniform(0.8, 1, SHAPE).astype(np.float32),
    }
    for name, image in images.items():
        np.save(folder / f"{name}.npy", image)
    return folder, theirs, images


def corrected(place, **settings):
    """An experiment with everything that corrects, and the same for pyFAI."""
    folder, _, images = place
    setup = Setup(
        str(folder / "a.poni"),
        str(folder / "mask.npy"),
        (str(folder / "dark.npy"),),
        (str(folder / "flat.npy"),),
        str(folder / "absorption.npy"),
        polarization=0.9,
        **settings,
    )
    theirs = {**images, "polarization_factor": 0.9, "correctSolidAngle": True}
    return setup.experiment(SHAPE), theirs


def compare(ours, theirs, sigma=True, first=0):
    """Ours and pyFAI's, where a bin holds more than a sliver of a pixel."""
    np.testing.assert_allclose(ours.radial, theirs.radial, rtol=1e-6)
    used = np.flatnonzero(theirs.count > 1e-3)
    used = used[used >= first]
    assert len(used) > 0.7 * len(ours.radial)
    pairs = {
        "intensity": theirs.intensity,
        "sum_signal": theirs.sum_signal,
        "sum_normalization": theirs.sum_normalization,
        "count": theirs.count,
    }
    if sigma:
        pairs |= {"sigma": theirs.sigma, "sum_variance": theirs.sum_variance}
        pairs |= {"sum_norm_squared": theirs.sum_normalization2}
    for name, expected in pairs.items():
        np.testing.assert_allclose(
            getattr(ours, name)[used], expected[used], rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("kind", [np.int32, np.uint16, np.float32])
def test_frame_gives_pyfais_pattern(place, unit, split, kind):
    experiment, theirs = corrected(place, dummy=5)
    image = np.random.default_rng(1).poisson(50, SHAPE).astype(kind)
    image[3:7, 20:40] = 5
    ours = Integrator(
        experiment, 60, unit, split=split, error_model=ErrorModel.POISSON_CLASSIC
    ).integrate(image)
    method = (split.value, "csr", "cython")
    compare(ours, place[1]().integrate1d_ng(
        image, 60, unit=unit.value, method=method, dummy=5, delta_dummy=0,
        error_model="poisson", **theirs,
    ))  # fmt: skip


@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize(("limits", "sector"), [((1.0, 3.0), None), (None, (-60.0, 30.0))])
def test_part_of_the_detector_gives_pyfais_pattern(place, split, limits, sector):
    experiment, theirs = corrected(place)
    image = np.random.default_rng(1).poisson(50, SHAPE)
    ours = Integrator(experiment, 30, Unit.Q_A, limits, sector, split).integrate(image)
    expected = place[1]().integrate1d_ng(
        image, 30, unit="q_A^-1", method=(split.value, "csr", "cython"), radial_range=limits,
        azimuth_range=sector, **theirs,
    )  # fmt: skip
    # Without splitting, pyFAI counts pixels below the range to its first bin.
    compare(ours, expected, sigma=False, first=int(split is Split.NO))
    if limits and split is Split.NO:
        q = experiment.radius(Unit.Q_A)[~experiment.mask]
        count = np.histogram(q, 30, limits)[0]
        np.testing.assert_array_equal(ours.count, count)
        assert expected.count[0] > count[0]


@pytest.mark.parametrize("model", ["poisson", "hybrid", "azimuthal", "5*I+8"])
@pytest.mark.parametrize("split", list(Split))
def test_errors_are_pyfais(place, split, model):
    experiment, theirs = corrected(place)
    image = np.random.default_rng(1).poisson(50, SHAPE).astype(np.int32)
    assert image.min() > 0
    ours = Integrator(
        experiment, 60, Unit.Q_A, split=split, error_model=parse_error_model(model)
    ).integrate(image)
    told = {"variance": 5.0 * image + 8} if "I" in model else {"error_model": model}
    # Its compiled engines take the azimuthal scatter approximately, in a running sum.
    language = "python" if model == "azimuthal" else "cython"
    if model == "azimuthal" and split is Split.BBOX:
        pytest.skip("pyFAI has no exact azimuthal scatter with splitting; see test_splitting")
    compare(ours, place[1]().integrate1d_ng(
        image, 60, unit="q_A^-1", method=(split.value, "csr", language), **told, **theirs
    ))  # fmt: skip


def test_poisson_errors_are_right_where_there_is_less_than_a_photon_a_pixel(place):
    experiment = Setup(str(place[0] / "a.poni"), solid_angle=False).experiment(SHAPE)
    random = np.random.default_rng(8)
    integrator, classic = (
        Integrator(experiment, 10, Unit.Q_A, error_model=model)
        for model in (ErrorModel.POISSON, ErrorModel.POISSON_CLASSIC)
    )
    frames = [random.poisson(0.05, SHAPE).astype(np.uint16) for _ in range(200)]
    patterns = [integrator.integrate(frame) for frame in frames]
    scatter = np.std([pattern.intensity for pattern in patterns], axis=0)
    told = np.sqrt(np.mean([pattern.sigma**2 for pattern in patterns], axis=0))
    np.testing.assert_allclose(told, scatter, rtol=0.25)
    assert (classic.integrate(frames[0]).sigma > 3 * scatter).all()


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "?"])
def test_every_pixel_type_gives_the_same_pattern(place, kind):
    experiment, _ = corrected(place)
    image = (np.random.default_rng(1).integers(0, 2, SHAPE)).astype(kind)
    integrator = Integrator(experiment, 40, Unit.Q_A, error_model=ErrorModel.POISSON)
    expected = integrator.integrate(image.astype(float))
    raw = np.zeros(image.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(image.dtype).reshape(SHAPE)
    unaligned[:] = image
    unaligned.flags.writeable = False
    swapped = image.astype(image.dtype.newbyteorder())
    for frame in (image, unaligned, swapped, np.asfortranarray(image), image.ravel()):
        found = integrator.integrate(frame)
        np.testing.assert_allclose(found.intensity, expected.intensity, rtol=1e-12)
        np.testing.assert_allclose(found.sigma, expected.sigma, rtol=1e-12)


def test_negative_pixels_add_no_variance_but_count(place):
    experiment = Setup(str(place[0] / "a.poni"), solid_angle=False, marks=False).experiment(SHAPE)
    image = np.random.default_rng(1).integers(-5, 6, SHAPE).astype(np.int32)
    pattern = Integrator(experiment, 5, Unit.Q_A, error_model=ErrorModel.POISSON).integrate(image)
    assert pattern.sum_signal.sum() == image.sum()
    assert pattern.sum_variance.sum() == np.maximum(image, 0).sum()


def test_ring_that_a_frame_leaves_empty_is_nan(place):
    experiment, _ = corrected(place)
    q = experiment.radius(Unit.Q_A)
    image = np.full(SHAPE, 4, np.uint16)
    image[q > np.quantile(q, 0.8)] = 65535
    for split in Split:
        for model in ErrorModel:
            integrator = Integrator(experiment, 40, Unit.Q_A, split=split, error_model=model)
            pattern = integrator.integrate(image)
            empty = pattern.count == 0
            assert 0 < empty.sum() < 39
            np.testing.assert_array_equal(np.isnan(pattern.intensity), empty)
            assert pattern.sigma is None or (np.isnan(pattern.sigma) == empty).all()
            assert (pattern.sum_normalization[empty] == 0).all()


def test_pixel_whose_formula_tells_nothing_does_not_count(place):
    experiment = Setup(str(place[0] / "a.poni"), solid_angle=False).experiment(SHAPE)
    image = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.int32)
    image[0] = -1
    pattern = Integrator(experiment, 5, Unit.Q_A, error_model=Formula("1/I")).integrate(image)
    assert pattern.count.sum() == (image > 0).sum()
    assert pattern.sum_variance.sum() == pytest.approx((1 / image[image > 0]).sum())


def test_frames_in_parallel_are_those_in_turn(place):
    experiment, _ = corrected(place)
    random = np.random.default_rng(1)
    frames = [random.poisson(20, SHAPE).astype(np.int32) for _ in range(40)]
    integrator = Integrator(
        experiment, 50, Unit.Q_A, split=Split.BBOX, error_model=ErrorModel.AZIMUTHAL
    )
    expected = [integrator.integrate(frame) for frame in frames]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found, pattern in zip(pool.map(integrator.integrate, frames), expected, strict=True):
            np.testing.assert_array_equal(found.intensity, pattern.intensity)
            np.testing.assert_array_equal(found.sigma, pattern.sigma)


@pytest.mark.parametrize("image", [np.zeros((64, 45)), np.zeros(45), np.zeros(SHAPE, complex)])
def test_frame_that_does_not_fit_is_refused(place, image):
    experiment, _ = corrected(place)
    with pytest.raises(ValueError, match="the frame h") as caught:
        Integrator(experiment, 5, Unit.Q_A).integrate(image)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------- real data

CERIA_LINES = {(1, 1, 1): 3, (2, 0, 0): 4, (2, 2, 0): 8, (3, 1, 1): 11, (2, 2, 2): 12,
               (4, 0, 0): 16, (3, 3, 1): 19, (4, 2, 0): 20}  # fmt: skip
"""Lines of CeO2 and the sums of their squared indices."""
CERIA = 5.4116
"""Lattice constant in angstrom (NIST SRM 674b)."""


def real_frame(name):
    """A frame of the Pilatus 1M; it is stored upside down against its PONI file."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    return np.flipud(fabio.open(path).data)


@pytest.mark.parametrize("split", list(Split))
def test_ceria_lines_stand_where_they_belong(split):
    image = real_frame("powder/CeO2_Pilatus1M.tif")
    experiment = Setup(str(DATA / "powder/CeO2_Pilatus1M.poni")).experiment(image.shape)
    pattern = Integrator(experiment, 1500, Unit.TTH_DEG, split=split).integrate(image)
    for squares in CERIA_LINES.values():
        sine = experiment.wavelength * 1e10 / 2 / CERIA * np.sqrt(squares)
        line = 2 * np.degrees(np.arcsin(sine))
        near = np.abs(pattern.radial - line) < 0.08
        angle, height = pattern.radial[near], pattern.intensity[near]
        flank = np.abs(angle - line) > 0.06
        height = np.maximum(
            height - np.polyval(np.polyfit(angle[flank], height[flank], 1), angle), 0
        )
        assert (angle * height).sum() / height.sum() == pytest.approx(line, abs=0.006)


@pytest.mark.parametrize("number", [1, 3, 7, 11, 13])
def test_map_frame_gives_the_pattern_that_came_with_it(tmp_path, number):
    name = f"map/Fe3O4C_M1_map_{number}_P1_E1_001"
    image = real_frame(f"{name}.tif")
    shipped = np.loadtxt(DATA / f"{name}.xy")
    # As the head of the shipped patterns tells it, in the terms of Fit2D.
    geometry = Geometry(
        photon_energy=12.398419843320026 / 0.3344,
        detector_distance=0.284635,
        beam_center_x=485.389 - 0.5,
        beam_center_y=508.119 - 0.5,
        tilt=0.037,
        tilt_plane_rotation=67.409,
        pixel_size=172e-6,
    )
    poni = tmp_path / "map.poni"
    poni.write_text(geometry.to_poni(image.shape))
    # They were made without a mask: the marks of the gaps are counted as they are.
    setup = Setup(str(poni), polarization=0.99, marks=False)
    experiment = setup.experiment(image.shape)
    pattern = Integrator(experiment, len(shipped), Unit.TTH_DEG, split=Split.BBOX).integrate(image)
    ours = np.interp(shipped[:, 0], pattern.radial, np.nan_to_num(pattern.intensity))
    used = (shipped[:, 0] > 3) & (shipped[:, 0] < 20) & (shipped[:, 1] > 0)
    np.testing.assert_allclose(ours[used], shipped[used, 1], rtol=4e-3)
    assert np.corrcoef(ours[used], shipped[used, 1])[0, 1] > 0.9999
