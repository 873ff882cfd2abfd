"""What an experiment is made of, against pyFAI, and every way in which it does not fit."""

import json
import math
import threading
import tracemalloc
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from fabio.TiffIO import TiffIO
from pyFAI.detectors import Detector, detector_factory
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from ronda.core.azimuthal import experiment as module
from ronda.core.azimuthal.experiment import Setup
from ronda.core.azimuthal.once import PYFAI, Building
from ronda.core.azimuthal.rings import rings
from ronda.core.azimuthal.splitting import Split, splitting
from ronda.core.azimuthal.units import Unit
from ronda.core.poni import read_poni
from ronda.tests.image_files import write_image

SHAPE = (24, 35)
PLACE = {"dist": 0.05, "poni1": 0.001, "poni2": 0.0017, "rot1": 0.1, "rot2": -0.05, "rot3": 0.3}


def write_poni(folder, detector=None, wavelength=1e-10, name="a.poni"):
    """Write a PONI file with pyFAI; return its name and pyFAI's integrator."""
    detector = detector or Detector(1e-4, 1e-4, max_shape=SHAPE, orientation=3)
    theirs = AzimuthalIntegrator(**PLACE, detector=detector, wavelength=wavelength)
    path = folder / name
    path.unlink(missing_ok=True)
    theirs.save(str(path))
    return str(path), theirs


@pytest.fixture
def poni(tmp_path):
    return write_poni(tmp_path)[0]


def save(path, image):
    np.save(path, image)
    return str(path)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
@pytest.mark.parametrize("unit", list(Unit))
def test_positions_are_pyfais_in_every_orientation(tmp_path, orientation, unit):
    detector = Detector(1e-4, 1e-4, max_shape=SHAPE, orientation=orientation)
    name, theirs = write_poni(tmp_path, detector)
    experiment = Setup(name).experiment(SHAPE)
    expected = theirs.array_from_unit(SHAPE, "center", unit.value)
    np.testing.assert_allclose(experiment.radius(unit), expected, rtol=1e-12)
    np.testing.assert_allclose(experiment.azimuth(), theirs.chiArray(SHAPE), atol=1e-6)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_beam_centre_is_where_the_radius_is_least(tmp_path, orientation):
    detector = Detector(1e-4, 1e-4, max_shape=(100, 120), orientation=orientation)
    theirs = AzimuthalIntegrator(
        0.02, 0.004, 0.0033, 0.05, -0.1, 0.2, detector=detector, wavelength=1e-10
    )
    theirs.save(str(tmp_path / "b.poni"))
    experiment = Setup(str(tmp_path / "b.poni")).experiment((100, 120))
    least = np.unravel_index(experiment.radius(Unit.TTH_RAD).argmin(), (100, 120))
    x, y = experiment.beam_center
    assert (round(y), round(x)) == least and 1 < x < 118 and 1 < y < 98


def test_normalization_is_the_product_of_all(tmp_path, poni):
    random = np.random.default_rng(1)
    flats = [random.uniform(0.5, 2, SHAPE) for _ in range(2)]
    names = tuple(save(tmp_path / f"flat{i}.npy", flat) for i, flat in enumerate(flats))
    absorption = random.uniform(0.9, 1, SHAPE)
    through = save(tmp_path / "absorption.npy", absorption)
    theirs = write_poni(tmp_path, name="b.poni")[1]
    experiment = Setup(
        poni, flat_files=names, absorption_file=through, polarization=0.9
    ).experiment(SHAPE)
    expected = (
        (flats[0] + flats[1]) / 2 * absorption * theirs.solidAngleArray(SHAPE)
        * theirs.polarization(SHAPE, 0.9)
    )  # fmt: skip
    assert experiment.normalization.dtype == np.float32
    np.testing.assert_allclose(experiment.normalization, expected, rtol=1e-6)
    assert Setup(poni, solid_angle=False).experiment(SHAPE).normalization is None


def test_darks_are_averaged(tmp_path, poni):
    darks = [np.full(SHAPE, value, kind) for value, kind in ((3, np.uint8), (8, np.int32))]
    names = tuple(save(tmp_path / f"dark{i}.npy", dark) for i, dark in enumerate(darks))
    experiment = Setup(poni, dark_files=names).experiment(SHAPE)
    assert experiment.dark.dtype == np.float32 and (experiment.dark == 5.5).all()
    assert Setup(poni).experiment(SHAPE).dark is None


def write_images(folder, form, images):
    """Write several images into one file; return how it is named."""
    path = folder / f"several.{form}"
    if form == "edf":
        write_image(path, *images)
    elif form == "tif":
        for number, image in enumerate(images):
            with TiffIO(str(path), mode="rb+" if number else "wb+") as file:
                file.writeImage(image)
    elif form == "packed.h5":
        with h5py.File(path, "w") as file:
            chunks = {"chunks": (2, *SHAPE), **hdf5plugin.Bitshuffle()}
            file.create_dataset("dark/data", data=images, **chunks)
    else:
        with h5py.File(path, "w") as file:
            stack = file.create_dataset("dark/data", (9, *SHAPE), images.dtype, chunks=(1, *SHAPE))
            stack[:2], stack[4:] = images[:2], images[2:]
    return str(path)


@pytest.mark.parametrize("what", ["dark", "flat"])
@pytest.mark.parametrize("form", ["edf", "tif", "packed.h5", "holes.h5"])
def test_only_the_first_of_several_darks_or_flats_of_a_file_counts(tmp_path, poni, form, what):
    images = np.random.default_rng(3).integers(1, 60_000, (7, *SHAPE)).astype(np.uint16)
    name = write_images(tmp_path, form, images)
    other = save(tmp_path / "other.npy", np.full(SHAPE, 1000.0))
    expected = (images.sum(0, dtype=float) + 1000) / 8
    hdf5 = name.endswith("h5")
    for each in (f"{name}::/dark/data", f"hdf5:{name}::dark/data", name) if hdf5 else (name,):
        setup = Setup(poni, solid_angle=False, **{f"{what}_files": (each, other)})
        experiment = setup.experiment(SHAPE)
        found = experiment.dark if what == "dark" else experiment.normalization
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_stack_of_darks_is_held_in_memory(tmp_path):
    name, count = str(tmp_path / "d.h5"), 300
    with h5py.File(name, "w") as file:
        stack = file.create_dataset("d", (count, 500, 500), np.int32, chunks=(1, 500, 500))
        for number in range(count):
            stack[number] = number
    experiment = Setup(
        write_poni(tmp_path, Detector(1e-4, 1e-4, max_shape=(500, 500), orientation=3))[0],
        dark_files=(f"{name}::/d",),
    ).experiment((500, 500))
    tracemalloc.start()
    try:
        dark = experiment.dark
        assert tracemalloc.get_traced_memory()[1] < 60 * 500 * 500 * 4
    finally:
        tracemalloc.stop()
    assert (dark == np.float32((count - 1) / 2)).all()


def test_mask_file_replaces_the_gaps_of_the_detector(tmp_path):
    name, theirs = write_poni(tmp_path, detector_factory("Pilatus100k"))
    shape = (195, 487)
    plain = Setup(name).experiment(shape)
    np.testing.assert_array_equal(plain.mask, theirs.detector.mask != 0)
    gaps = Setup(write_poni(tmp_path, detector_factory("Pilatus300k"), name="g.poni")[0])
    assert gaps.experiment((619, 487)).mask.sum() == 487 * 17 * 2
    mask = np.zeros(shape, np.uint8)
    mask[3, 4] = 7
    edf = str(write_image(tmp_path / "mask.edf", mask))
    assert np.argwhere(Setup(name, mask_file=edf).experiment(shape).mask).tolist() == [[3, 4]]
    assert plain.detector_name == "Pilatus 100k"


def test_pixel_that_cannot_be_normalised_is_left_out(tmp_path, poni):
    flat = np.ones(SHAPE)
    flat[0, :3] = 0, np.nan, np.inf
    dark = np.zeros(SHAPE)
    dark[1, 1] = np.nan
    dark[2, 2] = -10
    flat[3, 3] = -10.2
    files = {"flat_files": (save(tmp_path / "f.npy", flat),)}
    files["dark_files"] = (save(tmp_path / "d.npy", dark),)
    experiment = Setup(poni, dummy=-10, delta_dummy=0.5, **files).experiment(SHAPE)
    expected = [[0, 0], [0, 1], [0, 2], [1, 1], [2, 2], [3, 3]]
    assert np.argwhere(experiment.mask).tolist() == expected
    assert np.isfinite(experiment.normalization).all() and np.isfinite(experiment.dark).all()
    assert len(np.argwhere(Setup(poni, **files).experiment(SHAPE).mask)) == 4


def test_configuration_is_json_with_all_that_was_set(poni):
    experiment = Setup(poni, polarization=0.9).experiment(SHAPE)
    told = json.loads(json.dumps(experiment.configuration))
    assert told["setup"]["polarization"] == 0.9 and told["shape"] == list(SHAPE)
    assert told["geometry"]["dist"] == PLACE["dist"]
    assert (experiment.wavelength, experiment.distance) == (1e-10, 0.05)
    assert experiment.pixel_size == (1e-4, 1e-4) and experiment.detector_name == "Detector"


def test_images_cannot_be_changed(tmp_path, poni):
    dark = save(tmp_path / "d.npy", np.ones(SHAPE))
    experiment = Setup(poni, dark_files=(dark,)).experiment(SHAPE)
    for image in (experiment.dark, experiment.normalization, experiment.mask):
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0] = 1


def test_equal_settings_give_one_experiment_until_a_file_changes(tmp_path, poni):
    first = Setup(poni).experiment(SHAPE)
    assert Setup(poni).experiment(SHAPE) is first
    assert Setup(poni, polarization=1.0).experiment(SHAPE) is not first
    Path(poni).write_text(Path(poni).read_text().replace("Distance: 0.05", "Distance: 0.0625"))
    assert Setup(poni).experiment(SHAPE).distance == 0.0625


def test_two_threads_build_it_once(tmp_path, monkeypatch):
    poni = write_poni(tmp_path)[0]
    built = []

    def slow(*args, **kwargs):
        built.append(1)
        threading.Event().wait(0.05)
        return read_poni(*args, **kwargs)

    monkeypatch.setattr(module, "read_poni", slow)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(Setup(poni).experiment(SHAPE)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and len(set(map(id, found))) == 1 and len(found) == 4


def test_what_pyfai_cached_for_setting_up_is_kept(poni):
    experiment = Setup(poni, polarization=0.9).experiment(SHAPE)
    with PYFAI:
        theirs = experiment.integrator
        experiment.radius(Unit.Q_A)
        assert theirs._cached_array
    assert not theirs._cached_array
    rings(experiment, Unit.Q_A, 20)
    splitting(experiment, Unit.TTH_DEG, (20, 9), Split.BBOX)
    experiment.azimuth()
    assert experiment.normalization is not None
    assert not theirs._cached_array and not theirs.engines


def test_what_fails_under_the_lock_holds_it_or_forgets_nothing():
    lock, said = Building(), []
    with pytest.raises(ValueError, match="fails"), lock:
        with lock:
            lock.at_the_end(lambda: said.append("forgotten"))
        assert not said
        raise ValueError("fails")
    assert said == ["forgotten"]
    other = threading.Thread(target=lock.__enter__)
    other.start()
    other.join(10)
    assert not other.is_alive()


def test_no_wavelength_is_no_obstacle_unless_q_is_asked_for(tmp_path):
    name, _ = write_poni(tmp_path, wavelength=None)
    experiment = Setup(name).experiment(SHAPE)
    assert math.isnan(experiment.wavelength)
    assert experiment.radius(Unit.TTH_DEG).max() > 1
    with pytest.raises(ValueError, match=r"q_nm\^-1 needs a wavelength, and"):
        experiment.radius(Unit.Q_NM)


def bad(folder, poni):
    """Settings that cannot be, and what is said of them."""
    wrong = save(folder / "wrong.npy", np.zeros((3, 4)))
    text = folder / "no.npy"
    text.write_text("no image")
    stack, torn = str(folder / "stack.h5"), str(folder / "torn.edf")
    with h5py.File(stack, "w") as file:
        file["a"], file["b"] = np.zeros((2, 2, *SHAPE))
        file.create_dataset("empty", (0, *SHAPE), "f4")
        file["words"] = np.zeros(SHAPE, "S3")
    whole = write_image(torn, *np.ones((3, *SHAPE))).read_bytes()
    Path(torn).write_bytes(whole[:-100])
    pilatus = write_poni(folder, detector_factory("Pilatus1M"), name="p.poni")[0]
    return [
        (Setup(str(folder / "none.poni")), "PONI file .* cannot be read: No such file"),
        (
            Setup(pilatus),
            r"for a Pilatus1M of \(1043, 981\) pixels, but the frames",
        ),
        (Setup(poni, mask_file=wrong), r"the mask .* has \(3, 4\) pixels, the frames have"),
        (Setup(poni, mask_file=str(text)), "mask_file: .* cannot be read as an image"),
        (Setup(poni, flat_files=(wrong,)), r"the flat .* has \(3, 4\) pixels"),
        (Setup(poni, dark_files=(str(text),)), "the dark .* cannot be read as an image"),
        (Setup(poni, absorption_file=str(folder)), "the absorption .* cannot be read as an image"),
        (Setup(poni, dark_files=(f"{stack}::/none",)), "the dark .* nothing to read at /none"),
        (Setup(poni, dark_files=(stack,)), "several datasets of images; choose one with ::PATH"),
        (Setup(poni, flat_files=(f"{stack}::/empty",)), "the flat .* holds no image"),
        (Setup(poni, mask_file=f"{stack}::/a"), "it holds several images, not one"),
        (Setup(poni, dark_files=(torn,)), "the dark .* cannot be read as an image"),
        (Setup(poni, dark_files=(f"{stack}::/words",)), r"it holds \|S3 of shape"),
    ]


@pytest.mark.allow_error_log
@pytest.mark.parametrize("number", range(13))
def test_what_does_not_fit_is_said_in_a_sentence(tmp_path, poni, number):
    setup, sentence = bad(tmp_path, poni)[number]
    with pytest.raises(ValueError, match=sentence) as caught:
        setup.experiment(SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(24,), (1, 24, 35), (0, 0)])
def test_frames_that_are_no_images_are_refused(poni, shape):
    with pytest.raises(ValueError, match="frames of shape"):
        Setup(poni).experiment(shape)


@pytest.mark.parametrize(("name", "value"), [("polarization", 1.1), ("delta_dummy", -1.0)])
def test_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        Setup("a.poni", **{name: value})
