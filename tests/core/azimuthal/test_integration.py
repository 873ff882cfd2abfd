"""Patterns against plain NumPy, against pyFAI used directly, and against crystals."""

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
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal.integration import Integration
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


@settings(max_examples=25, deadline=None)
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
