"""Geometry against pyFAI, and rings against the q of the pixels they run through."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyFAI import load as load_in_pyfai
from pyFAI.detectors import ALL_DETECTORS, Detector
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.geometry import CHORD, HC, Geometry
from ronda.core.poni import MAX_BYTES, read_poni

SHAPE = (83, 147)
FLAT = Geometry(
    photon_energy=13.5,
    detector_distance=0.131,
    beam_center_x=210.0,
    beam_center_y=373.0,
    pixel_size=172e-6,
)
CERIA = Path(__file__).parents[3] / "shared/data/powder/CeO2_Pilatus1M.poni"

geometries = st.builds(
    Geometry,
    photon_energy=st.floats(3, 100),
    detector_distance=st.floats(0.005, 2),
    beam_center_x=st.floats(-100, 250),
    beam_center_y=st.floats(-100, 180),
    tilt=st.floats(0, 75),
    tilt_plane_rotation=st.floats(-180, 180),
    pixel_size=st.sampled_from([50e-6, 172e-6, 1e-3]),
)


def in_pyfai(geometry: Geometry) -> AzimuthalIntegrator:
    """The same place of the detector, told to pyFAI in the words of Fit2D."""
    integrator = AzimuthalIntegrator(
        detector=Detector(geometry.pixel_size, geometry.pixel_size, max_shape=SHAPE),
        wavelength=geometry.wavelength * 1e-10,
    )
    integrator.setFit2D(
        geometry.detector_distance * 1e3,
        geometry.beam_center_x + 0.5,
        geometry.beam_center_y + 0.5,
        geometry.tilt,
        geometry.tilt_plane_rotation,
    )
    return integrator


def segments(ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end points of a polyline's segments, none across a gap."""
    whole = np.isfinite(ring[:-1, 0]) & np.isfinite(ring[1:, 0])
    return ring[:-1][whole], ring[1:][whole]


@settings(max_examples=15, deadline=None)
@given(geometries)
def test_poni_is_what_pyfai_makes_of_fit2d(geometry):
    theirs, ours = in_pyfai(geometry), geometry.poni()
    scale = geometry.detector_distance + 1
    assert [ours.distance, ours.poni1, ours.poni2] == pytest.approx(
        [theirs.dist, theirs.poni1, theirs.poni2], abs=1e-12 * scale
    )
    # pyFAI takes rot1 and rot3 from arc cosines: good to the root of the rounding.
    assert [ours.rot1, ours.rot2, ours.rot3] == pytest.approx(
        [theirs.rot1, theirs.rot2, theirs.rot3], abs=1e-7
    )


@settings(max_examples=10, deadline=None)
@given(geometries)
def test_q_and_two_theta_are_pyfais(geometry):
    theirs = in_pyfai(geometry)
    q, angle = geometry.q_map(SHAPE), geometry.two_theta(SHAPE)
    assert q.shape == SHAPE and q.dtype == np.float64
    # pyFAI places pixels in single precision: 5e-7 of the distance is an angle, or a q.
    blur = 5e-7 * geometry.photon_energy / 1.973269804
    np.testing.assert_allclose(q, theirs.qArray(SHAPE) / 10, rtol=1e-5, atol=1e-5 * q.max() + blur)
    np.testing.assert_allclose(np.radians(angle), theirs.twoThetaArray(SHAPE), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(geometries)
def test_q_is_that_of_pyfais_rotations_to_nine_digits(geometry):
    poni = geometry.poni()
    theirs = AzimuthalIntegrator(1, 0, 0, poni.rot1, poni.rot2, poni.rot3)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    place = np.stack(
        (
            rows * geometry.pixel_size - poni.poni1,
            columns * geometry.pixel_size - poni.poni2,
            np.full(SHAPE, poni.distance),
        )
    )
    y, x, z = np.tensordot(theirs.rotation_matrix(), place, 1)
    q = 4 * np.pi / geometry.wavelength * np.sin(np.arctan2(np.hypot(x, y), z) / 2)
    np.testing.assert_allclose(geometry.q_map(SHAPE), q, rtol=1e-9, atol=1e-12 * q.max())


@settings(max_examples=100, deadline=None)
@given(
    rot1=st.floats(-1.4, 1.4),
    rot2=st.floats(-1.4, 1.4),
    rot3=st.floats(-3.1, 3.1),
    poni1=st.floats(-1, 1),
    poni2=st.floats(-1, 1),
)
def test_poni_comes_back_and_its_beam_centre_is_pyfais(rot1, rot2, rot3, poni1, poni2):
    theirs = AzimuthalIntegrator(
        0.2, poni1, poni2, rot1, rot2, rot3, detector=Detector(1e-4, 1e-4), wavelength=1e-10
    )
    fields = [theirs.dist, poni1, poni2, rot1, rot2, rot3]
    names = ["Distance", "Poni1", "Poni2", "Rot1", "Rot2", "Rot3"]
    lines = [f"{name}: {value!r}" for name, value in zip(names, fields, strict=True)]
    text = "\n".join([*lines, "Wavelength: 1e-10", "PixelSize1: 1e-4", "PixelSize2: 1e-4"])
    geometry = Geometry.from_poni(text)
    back = geometry.poni()
    assert [back.distance, back.poni1, back.poni2, back.rot1, back.rot2] == pytest.approx(
        fields[:5], abs=1e-9
    )
    assert math.remainder(back.rot3 - rot3, 2 * math.pi) == pytest.approx(0, abs=1e-9)
    fit2d = theirs.getFit2D()
    assert geometry.detector_distance * 1e3 == pytest.approx(fit2d["directDist"], rel=1e-9)
    assert geometry.beam_center_x + 0.5 == pytest.approx(fit2d["centerX"], rel=1e-6, abs=1e-3)
    if fit2d["tilt"] > 1e-5:  # below, pyFAI leaves the tilt out of centerY
        assert geometry.beam_center_y + 0.5 == pytest.approx(fit2d["centerY"], rel=1e-6, abs=1e-3)
    assert geometry.tilt == pytest.approx(fit2d["tilt"], abs=1e-5)


def test_a_detector_turned_about_the_beam_keeps_its_azimuth_in_pyfai():
    text = FLAT.to_poni(SHAPE).replace(f"Rot3: {FLAT.poni().rot3!r}", "Rot3: 1.5")
    geometry = Geometry.from_poni(text)
    assert geometry.rotation == pytest.approx(math.degrees(1.5))
    assert geometry.poni().rot3 == pytest.approx(1.5)
    np.testing.assert_allclose(geometry.q_map(SHAPE), FLAT.q_map(SHAPE), rtol=1e-12)


@pytest.mark.parametrize("turns", [(0.3, -0.2, 1.0), (math.pi - 0.2, math.pi - 0.1, 0.3)])
def test_conversion_keeps_the_whole_orientation(turns):
    names = ("Rot1", "Rot2", "Rot3")
    lines = "".join(f"{name}: {turn!r}\n" for name, turn in zip(names, turns, strict=True))
    back = Geometry.from_poni(FLAT.to_poni(SHAPE) + lines).poni()
    theirs = AzimuthalIntegrator(1, 0, 0, *turns).rotation_matrix()
    ours = AzimuthalIntegrator(1, 0, 0, back.rot1, back.rot2, back.rot3).rotation_matrix()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_beam_meets_the_centre_of_its_pixel():
    assert FLAT.two_theta_at(373, 210) == 0
    assert FLAT.poni().poni1 == pytest.approx(373.5 * 172e-6)
    assert FLAT.poni().poni2 == pytest.approx(210.5 * 172e-6)
    # 100 px up or left are alike; plain trigonometry says what they are.
    angle = math.degrees(math.atan(100 * 172e-6 / 0.131))
    assert FLAT.two_theta_at([273, 373], [210, 110]) == pytest.approx([angle, angle])


def test_wavelength_is_the_physicists():
    assert FLAT.wavelength == pytest.approx(12.398419843320026 / 13.5, rel=1e-15)
    assert pytest.approx(12.398419843320026, rel=1e-15) == HC


@settings(max_examples=60, deadline=None)
@given(geometries, st.floats(0.001, 0.999))
def test_rings_run_exactly_where_the_pixels_have_that_q(geometry, fraction):
    q_map = geometry.q_map(SHAPE)
    q = float(q_map.min() + fraction * np.ptp(q_map))
    (ring,) = geometry.rings([q], SHAPE)
    points = ring[np.isfinite(ring[:, 0])]
    assert len(points) > 1
    np.testing.assert_allclose(geometry.q_at(*points.T), q, rtol=1e-9)
    assert np.all(points >= -0.5 - 1e-6) and np.all(points <= np.array(SHAPE) - 0.5 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(geometries, st.floats(0.001, 0.999))
@example(Geometry(**{**vars(FLAT), "beam_center_x": 73.0, "beam_center_y": 41.0}), 0.3)
@example(Geometry(**{**vars(FLAT), "tilt": 60.0, "detector_distance": 0.01}), 0.9)
def test_no_piece_of_a_ring_is_missing_and_no_chord_leaves_it(geometry, fraction):
    q_map = geometry.q_map(SHAPE)
    q = float(q_map.min() + fraction * np.ptp(q_map))
    (ring,) = geometry.rings([q], SHAPE)
    begin, end = segments(ring)
    middle = (begin + end) / 2
    # Wherever q passes the ring's between two neighbours of a row, the ring is near.
    below = q_map < q
    rows, columns = np.nonzero(below[:, 1:] != below[:, :-1])
    left, right = q_map[rows, columns], q_map[rows, columns + 1]
    crossing = np.stack((rows, columns + (q - left) / (right - left)), axis=1)
    along = end - begin
    offset = crossing[:, None] - begin
    s = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-30)
    distance = np.linalg.norm(offset - np.clip(s, 0, 1)[..., None] * along, axis=-1)
    assert distance.min(axis=1).max(initial=0) < 0.75
    # And the middle of a chord is within CHORD px of the ring.
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    steps = CHORD * 1.03 * np.stack((np.sin(turn), np.cos(turn)), axis=1)
    steps = np.append(steps, [[0, 0]], axis=0)
    around = geometry.q_at(*np.moveaxis(middle[:, None] + steps, -1, 0))
    assert np.all((around.min(axis=1) <= q * (1 + 1e-9)) & (around.max(axis=1) >= q * (1 - 1e-9)))


def test_ring_cut_by_the_frame_is_in_pieces_that_no_line_joins():
    geometry = Geometry(**{**vars(FLAT), "beam_center_x": 73.0, "beam_center_y": 41.0})
    q = float(geometry.q_at(41, 73 + 60))
    (ring,) = geometry.rings([q], SHAPE)  # 60 px: cut above and below, not left and right
    gaps = np.flatnonzero(np.isnan(ring[:, 0]))
    assert len(gaps) == 1 and 0 < gaps[0] < len(ring) - 1
    assert np.isnan(ring[gaps]).all()
    ends = ring[[0, gaps[0] - 1, gaps[0] + 1, -1], 0]
    assert sorted(ends) == pytest.approx([-0.5, -0.5, 82.5, 82.5])
    (closed,) = geometry.rings([float(geometry.q_at(41, 73 + 30))], SHAPE)
    assert np.isfinite(closed).all() and closed[0] == pytest.approx(closed[-1])


def test_ring_that_nothing_reaches_has_no_points():
    impossible = 4 * math.pi / FLAT.wavelength * 1.0001
    rings = FLAT.rings([0.0, -1.0, math.nan, math.inf, impossible, 13.0, 0.2], SHAPE)
    assert [ring.shape for ring in rings] == [(0, 2)] * 7


def test_backward_scattering_is_drawn_where_a_steep_detector_reaches_it():
    steep = Geometry(**{**vars(FLAT), "tilt": -70.0, "detector_distance": 0.005})
    angles = steep.two_theta((831, 1475))
    assert angles.max() > 95
    right_angle = 4 * math.pi / steep.wavelength * math.sin(math.radians(45))
    (ring,) = steep.rings([right_angle], (831, 1475))
    np.testing.assert_allclose(steep.two_theta_at(*ring.T), 90, rtol=1e-9)
    assert sorted(ring[[0, -1], 0]) == pytest.approx([-0.5, 830.5], abs=1e-3)


def test_ring_is_symmetric_about_the_beam():
    geometry = Geometry(**{**vars(FLAT), "beam_center_x": 73.0, "beam_center_y": 41.0})
    (ring,) = geometry.rings([0.3], SHAPE)
    assert len(ring) > 20
    radius = np.hypot(ring[:, 0] - 41, ring[:, 1] - 73)
    assert np.ptp(radius) < 1e-9


def test_written_poni_is_read_by_pyfai_and_comes_back(tmp_path):
    geometry = Geometry(**{**vars(FLAT), "tilt": 12.0, "tilt_plane_rotation": -30.0})
    path = tmp_path / "detector.poni"
    path.write_text(geometry.to_poni(SHAPE))
    theirs = load_in_pyfai(str(path))
    assert theirs.detector.shape == SHAPE
    assert theirs.wavelength == geometry.wavelength * 1e-10
    np.testing.assert_allclose(theirs.qArray(SHAPE) / 10, geometry.q_map(SHAPE), rtol=1e-5)
    back = Geometry.from_poni(path, SHAPE)
    for name, value in vars(geometry).items():
        assert getattr(back, name) == pytest.approx(value, rel=1e-12, abs=1e-9), name


def test_a_poni_of_unknown_shape_is_read_by_pyfai_and_comes_back(tmp_path):
    geometry = Geometry(**vars(FLAT))
    path = tmp_path / "detector.poni"
    path.write_text(geometry.to_poni(None))
    np.testing.assert_allclose(
        load_in_pyfai(str(path)).qArray(SHAPE) / 10, geometry.q_map(SHAPE), rtol=1e-5
    )
    back = Geometry.from_poni(path, SHAPE)
    assert back.wavelength == pytest.approx(geometry.wavelength, rel=1e-12)


@pytest.mark.parametrize("corrected", [False, True])
def test_what_pyfai_saves_is_read(tmp_path, corrected):
    path = tmp_path / "theirs.poni"
    theirs = AzimuthalIntegrator(
        0.2, 0.08, 0.07, 0.1, -0.05, 0.3, detector="Pilatus1M", wavelength=1e-10
    )
    theirs.save(str(path))
    if corrected:
        path.write_text(path.read_text() + "poni_version: 3\nParallax: True\n")
        with pytest.raises(ValueError, match="parallax"):
            Geometry.from_poni(path)
        return
    geometry = Geometry.from_poni(path, theirs.detector.shape)
    np.testing.assert_allclose(
        geometry.q_map((1043, 981)), theirs.qArray((1043, 981)) / 10, rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif(not CERIA.exists(), reason="the CeO2 calibration is not on this machine")
def test_old_file_of_version_1_says_what_its_comments_say():
    geometry = Geometry.from_poni(CERIA)
    assert geometry.detector_distance == pytest.approx(0.208689, abs=1e-6)
    assert geometry.beam_center_x + 0.5 == pytest.approx(487.259, abs=1e-3)
    assert geometry.beam_center_y + 0.5 == pytest.approx(512.548, abs=1e-3)
    assert geometry.tilt == pytest.approx(1.083, abs=1e-3)
    assert geometry.tilt_plane_rotation == pytest.approx(12.646, abs=1e-3)


GOOD = FLAT.to_poni(SHAPE)


def config(**changes):
    entries = {"pixel1": 1e-4, "pixel2": 1e-4, "orientation": 3, **changes}
    kept = {key: value for key, value in entries.items() if value != "gone"}
    return f"{GOOD}Detector_config: {json.dumps(kept)}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD.replace("Wavelength", "# Wavelength"), "no line `Wavelength: ...`"),
        (GOOD.replace("Distance", "Weather"), "no line `Distance: ...`"),
        (f"{GOOD}Wavelength: None\n", "Wavelength which is no number"),
        (f"{GOOD}Wavelength: -1e-10\n", "must be positive"),
        (f"{GOOD}Rot1: nan\n", "not finite"),
        (f"{GOOD}Poni1: __import__('os')\n", "Poni1 which is no number"),
        (f"{GOOD}Rot2: 1.5707963267948966\n", "90 deg or more"),
        (f"{GOOD}poni_version: 4\n", "version 4; known are 1 to 3"),
        (f"{GOOD}SplineFile: /tmp/x.spline\n", "spline"),
        (f"{GOOD}Detector_config: [1, 2]\n", "no JSON object"),
        (f"{GOOD}Detector_config: {'[' * 30000}\n", "no JSON object"),
        (config(pixel2=2e-4), "only square pixels"),
        (config(pixel1=0), "must be positive"),
        (config(pixel1="wide"), "Pixel1 which is no number"),
        (config(pixel1="gone"), "no line `Pixel1: ...`"),
        (config(orientation=1), "another orientation"),
        (config(max_shape=[1, "2"]), "max_shape"),
        (config(x_offset_file="/tmp/x"), "names a file"),
        (config(pixel1="gone", pixel2="gone"), "Detector is not known"),
        (config(pixel1="gone", pixel2="gone") + "Detector: /tmp/x.h5\n", "is not known"),
        (config(pixel1="gone", pixel2="gone") + "Detector: Aarhus\n", "not all alike"),
        (config(max_shape=[10, 20]), r"frames of \(10, 20\) pixels, but these have \(83, 147\)"),
    ],
)
def test_poni_that_does_not_fit_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        Geometry.from_poni(text, SHAPE)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_named_detector_of_pyfai_has_its_pixels_and_shape():
    text = config(pixel1="gone", pixel2="gone") + "Detector: Pilatus1M\n"
    assert (read_poni(text).pixel_size, read_poni(text).shape) == (172e-6, (1043, 981))


def test_poni_file_that_is_none_is_refused_with_its_name(tmp_path):
    path = tmp_path / "a.poni"
    with pytest.raises(ValueError, match=r"a\.poni cannot be read: No such file"):
        Geometry.from_poni(path)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        Geometry.from_poni(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text"):
        Geometry.from_poni(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="longer than"):
        Geometry.from_poni(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{os.sep}a.poni "):
        Geometry.from_poni(str(path))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_damaged_poni_never_crashes_the_reader(noise, at, cut):
    try:
        Geometry.from_poni(GOOD[:at] + noise + "\n" + GOOD[at + cut :])
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("photon_energy", 0.0),
        ("detector_distance", -1.0),
        ("pixel_size", 0.0),
        ("tilt", 90.0),
        ("beam_center_x", math.nan),
        ("photon_energy", math.inf),
    ],
)
def test_impossible_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        Geometry(**{**vars(FLAT), name: value})


def test_any_place_has_orientation_detector_and_perhaps_no_wavelength():
    text = config(pixel1="gone", pixel2="gone", orientation=2) + "Detector: Pilatus1M\n"
    poni = read_poni(text.replace("Wavelength", "# Wavelength"), any_place=True)
    assert (poni.detector, poni.orientation, poni.shape) == ("Pilatus1M", 2, (1043, 981))
    assert np.isnan(poni.wavelength)
    with pytest.raises(ValueError, match="another orientation"):
        read_poni(text)
    with pytest.raises(ValueError, match="no line `Wavelength"):
        read_poni(GOOD.replace("Wavelength", "# Wavelength"))


@pytest.mark.parametrize("orientation", [0, None, 3])
def test_orientation_that_is_not_told_is_that_of_the_stored_pixels(orientation):
    assert read_poni(config(orientation=orientation)).orientation == 3


@pytest.mark.parametrize("orientation", [5, -1, "3", 2.0, [1]])
def test_orientation_that_there_is_not_is_refused(orientation):
    with pytest.raises(ValueError, match="orientation of the detector that is none of 1 to 4"):
        read_poni(config(orientation=orientation), any_place=True)


@pytest.mark.parametrize("detector", ["Pilatus1M", "Eiger4M", "Eiger2_16M", "Jungfrau4M"])
@pytest.mark.parametrize("version", ["1", "2", "2.1", "3"])
def test_registered_detectors_are_known_in_every_version(detector, version):
    text = GOOD.replace("poni_version: 2.1", f"poni_version: {version}")
    lines = [line for line in text.splitlines() if not line.startswith("Detector")]
    lines.append(f"Detector: {detector}")
    if version != "1":
        lines.append('Detector_config: {"orientation": 3}')
    poni = read_poni("\n".join(lines) + "\n", any_place=True)
    theirs = ALL_DETECTORS[detector.lower()]()
    assert (poni.pixel_size, poni.shape) == (theirs.pixel1, theirs.shape)
    assert poni.detector == detector
