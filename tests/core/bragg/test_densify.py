"""Images are rebuilt as the definition says, as fabio does, and with counts of the right mean."""

from __future__ import annotations

import itertools
import threading
import warnings
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.bragg.densify import Densifier, dense_frames
from ronda.core.bragg.sparse_file import SparseFile, StoredFrame
from ronda.tests.core.bragg.sparse_files import Sparse, rings

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def reference(file: SparseFile, frame: StoredFrame) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the image by its definition, with Python's integers, and the unrounded background."""
    background = np.zeros(file.shape)
    if file.radius is not None and frame.average is not None:
        background = np.interp(file.pixel_radius, file.radius, frame.average)
    if file.normalization is not None:
        background = background * file.normalization
    image = np.empty(file.shape, file.dtype)
    flat, exact = image.reshape(-1), background.reshape(-1)
    for pixel, value in enumerate(exact.tolist()):
        if value != value:
            flat[pixel] = file.dummy
        elif file.dtype.kind == "f":
            flat[pixel] = value
        else:
            limits = np.iinfo(file.dtype)
            rounded = int(value + 0.5) if value >= 0 else -int(-value + 0.5)
            flat[pixel] = min(max(rounded, limits.min), limits.max)
    image[~np.isfinite(file.pixel_radius)] = file.dummy
    flat[frame.index] = frame.intensity
    return image, background


def assert_same(
    image: NDArray[Any], expected: NDArray[Any], background: NDArray[Any], precision: float = 1e-6
) -> None:
    """Compare images; where the background is about a half, rounding may differ by 1."""
    if image.dtype.kind == "f":
        np.testing.assert_allclose(image, expected, rtol=precision, atol=precision)
        return
    slack = precision * np.maximum(np.nan_to_num(np.abs(background)), 1)
    doubtful = np.abs(np.nan_to_num(np.abs(background)) % 1 - 0.5) < slack
    assert np.array_equal(image[~doubtful], expected[~doubtful])
    off = np.abs(image.astype(object)[doubtful] - expected.astype(object)[doubtful])
    assert (off <= 1 + slack[doubtful]).all()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_images_are_those_of_the_definition(
    tmp_path: Path, data: st.DataObject, dtype: str
) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    bins = data.draw(st.integers(1, 12))
    kind = np.dtype(dtype)
    pixels = shape[0] * shape[1]
    index = random.permutation(pixels)[: random.integers(pixels + 1)].tolist()
    if kind.kind == "f":
        values = random.normal(0, 1e6, len(index)).tolist()
    else:
        limits = np.iinfo(kind)
        values = random.integers(limits.min, limits.max, len(index), kind, endpoint=True).tolist()
    mask = random.uniform(-1, 12, shape).astype(np.float32)
    mask[random.random(shape) < 0.2] = data.draw(st.sampled_from([np.nan, np.inf]))
    level = data.draw(st.sampled_from([0.3, 3.0, 200.0, 3e9, -2.0]))
    normalization = random.uniform(0, 2, shape).astype(data.draw(st.sampled_from(["f4", "f8"])))
    change = {
        "normalization": data.draw(st.sampled_from([None, normalization])),
        "dummy": data.draw(st.sampled_from([None, np.nan, -2.0, 0, 77.0])),
    }
    sparse = Sparse(
        [index],
        [values],
        kind,
        mask,
        data.draw(st.sampled_from([None, np.sort(random.uniform(0, 9, bins)).astype(np.float32)])),
        (level * random.uniform(0, 2, (1, bins))).astype(np.float32),
        change=change,
    )
    assume(sparse.radius is None or (np.diff(sparse.radius) > 0).all())
    with SparseFile(sparse.write(tmp_path / "any.h5")) as file:
        frame = file.frame(0)
        image = Densifier(file).image(frame)
        assert image.dtype == kind
        assert_same(image, *reference(file, frame))
        flat = image.reshape(-1)
        assert [flat[i].item() for i in index] == [kind.type(each).item() for each in values]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("u4", [2**32 - 1, 2**32 - 2, 2**24 + 1, 2**31]),
        ("i4", [2**31 - 1, -(2**31), 2**24 + 1, -1]),
        ("u8", [2**64 - 1, 2**53 + 1, 2**63, 1]),
        ("i8", [2**63 - 1, -(2**63), 2**53 + 1, -2]),
        ("u2", [65535, 65534, 1, 0]),
    ],
)
def test_kept_pixels_are_exact_to_the_last_count(
    tmp_path: Path, dtype: str, values: list[int]
) -> None:
    index = [47, 0, 9, 20]
    with SparseFile(Sparse([index], [values], dtype).write(tmp_path / "s.h5")) as file:
        image = Densifier(file).image(file.frame(0))
        noisy = Densifier(file).image(file.frame(0), 1.0, np.random.default_rng(0))
    assert image.reshape(-1)[index].tolist() == values
    assert noisy.reshape(-1)[index].tolist() == values


@pytest.mark.parametrize(
    ("level", "rounded"), [(0.5, 1), (1.5, 2), (2.5, 3), (2.499, 2), (-0.5, -1), (-2.5, -3)]
)
def test_halves_are_rounded_away_from_zero(tmp_path: Path, level: float, rounded: int) -> None:
    sparse = Sparse([[]], [[]], "i4", average=np.full((1, 8), level, np.float32))
    with SparseFile(sparse.write(tmp_path / "s.h5")) as file:
        image = Densifier(file).image(file.frame(0))
    assert image[0, 0] == image[5, 7] == rounded
    assert image[1, 2] == -2


def test_a_background_beyond_the_type_does_not_wrap(tmp_path: Path) -> None:
    average = np.array([[300.0, 300, 300, -5, -5, -5, -5, -5]], np.float32)
    with SparseFile(Sparse([[]], [[]], "u1", average=average).write(tmp_path / "s.h5")) as file:
        image = Densifier(file).image(file.frame(0))
    assert (image[0, 0], image[5, 7]) == (255, 0)


def test_a_ring_without_a_background_takes_it_from_its_neighbours(tmp_path: Path) -> None:
    average = np.array([[np.nan, 1, 2, np.nan, 4, 5, 6, np.nan]], np.float32)
    with SparseFile(Sparse([[]], [[]], "f4", average=average).write(tmp_path / "s.h5")) as file:
        image = Densifier(file).image(file.frame(0))
    assert image[0].tolist() == [1, 1, 2, 3, 4, 5, 6, 6]


def test_a_frame_without_any_background_is_all_dummy_but_for_its_pixels(tmp_path: Path) -> None:
    average = np.full((1, 8), np.nan, np.float32)
    with SparseFile(Sparse([[7]], [[9]], "i4", average=average).write(tmp_path / "s.h5")) as file:
        image = Densifier(file).image(file.frame(0)).reshape(-1)
    assert image[7] == 9
    assert (np.delete(image, 7) == -2).all()


def test_another_dummy_may_be_wanted(tmp_path: Path) -> None:
    with SparseFile(Sparse([[]], [[]], "u2").write(tmp_path / "s.h5")) as file:
        densifier = Densifier(file, 65535)
        assert densifier.image(file.frame(0))[1, 2] == 65535
        assert np.array_equal(densifier.mask, np.isnan(rings((6, 8))))
        for dummy in (-1.0, 65536, 0.5, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="cannot be set to the dummy"):
                Densifier(file, dummy)


# ---------------------------------------------------------------- like fabio's


def _random_sparse(dtype: str, seed: int, change: dict[str, Any]) -> Sparse:
    """Return frames of 60 x 70 pixels; none that is masked is kept, as pyFAI has it."""
    random = np.random.default_rng(seed)
    mask = rings((60, 70))
    usable = np.flatnonzero(np.isfinite(mask))
    index = [random.permutation(usable)[: random.integers(50)].tolist() for _ in range(3)]
    intensity = [random.integers(0, 127, len(frame)).tolist() for frame in index]
    average = random.uniform(0, 60, (3, 100)).astype(np.float32)
    radius = np.linspace(0, 90, 100, dtype=np.float32)
    return Sparse(index, intensity, dtype, mask, radius, average, np.sqrt(average), change=change)


def _fabio(file: SparseFile, frame: StoredFrame) -> NDArray[Any]:
    """Return the image from fabio's definition in NumPy."""
    places = (file.pixel_radius, file.radius, frame.index, frame.intensity, file.dummy)
    with np.errstate(invalid="ignore"):  # it turns NaN into integers
        return fabio.sparseimage.densify(*places, frame.average, normalization=file.normalization)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "f4"])
def test_images_are_those_of_fabio(tmp_path: Path, dtype: str, normalized: bool) -> None:
    change: dict[str, Any] = {"dummy": 0.0}
    if normalized:
        change["normalization"] = np.random.default_rng(3).uniform(0.5, 1.5, (60, 70))
    path = _random_sparse(dtype, 7, change).write(tmp_path / "s.h5")
    with SparseFile(path) as file, fabio.open(str(path)) as theirs:
        densifier = Densifier(file)
        for number in range(file.count):
            frame = file.frame(number)
            image, other = densifier.image(frame), theirs.getframe(number).data
            assert image.dtype == other.dtype
            background = reference(file, frame)[1]
            assert_same(image, other, background, 1e-4)  # theirs is in single precision
            assert_same(image, _fabio(file, frame), background)


SHAPE = (120, 130)


def _integrator() -> Any:
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    return AzimuthalIntegrator(
        dist=0.1, poni1=0.0061, poni2=0.0064, pixel1=1e-4, pixel2=1e-4, wavelength=1e-10
    )


def _raw() -> NDArray[np.int32]:
    """Return three frames with a background of 8 counts and three strong pixels."""
    raw = np.random.default_rng(5).poisson(8, (3, *SHAPE)).astype(np.int32)
    raw[:, 40, 50], raw[1, 90, 20] = 5000, 2**31 - 1
    return raw


def _set_up(integrator: Any) -> tuple[Any, NDArray[Any]]:
    """Return pyFAI's rings, and the radius of each pixel."""
    from pyFAI.units import to_unit

    engine = integrator.setup_sparse_integrator(
        SHAPE, 40, mask=np.zeros(SHAPE, np.int8), unit="r_m", split="no", algo="CSR", scale=False
    )
    engine.unit = to_unit("r_m")
    return engine, integrator.array_from_unit(SHAPE, "center", unit="r_m", scale=False)


def _by_hand(raw: NDArray[Any], engine: Any, radius: NDArray[Any]) -> list[Any]:
    """Return what pyFAI's sparsifier hands to its writer, with the pixels over 30 counts."""
    from pyFAI.containers import SparseFrame

    frames = []
    for image in raw:
        index = np.flatnonzero(image > 30)[::-1].astype(np.uint32)
        frame = SparseFrame(index, image.reshape(-1)[index])
        frame._shape, frame._dtype, frame._dummy = SHAPE, image.dtype, None
        frame._mask = np.where(radius < 0.002, np.nan, radius).astype(np.float32)
        frame._radius, frame._unit = engine.bin_centers, engine.unit
        frame._background_avg = np.linspace(7, 9, 40, dtype=np.float32)
        frame._background_std = np.sqrt(frame._background_avg)
        frames.append(frame)
    return frames


def _by_opencl(raw: NDArray[Any], engine: Any, radius: NDArray[Any]) -> list[Any]:
    """Return the frames from pyFAI's own sparsifier."""
    from pyFAI.opencl.peak_finder import OCL_PeakFinder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # compilers say what they think
        finder = OCL_PeakFinder(
            engine.lut,
            image_size=SHAPE[0] * SHAPE[1],
            unit=engine.unit,
            bin_centers=engine.bin_centers,
            radius=radius,
            mask=np.zeros(SHAPE, np.int8),
            ctx=_context(),
        )
        raw[1, 90, 20] = 12345  # its pixels pass through single precision
        return [finder.sparsify(image, error_model="hybrid", cutoff_pick=5) for image in raw]


def _context() -> Any:
    """Return an OpenCL context that compiles; PoCL does not on processors newer than itself."""
    cl = pytest.importorskip("pyopencl")
    from pyFAI.opencl import ocl

    why = "there is no OpenCL for pyFAI's sparsifier"
    for platform in ocl.platforms if ocl else ():
        for device in platform.devices:
            context = ocl.create_context(platformid=platform.id, deviceid=device.id)
            try:
                cl.Program(context, "kernel void nothing(global int *out) { out[0] = 0; }").build()
            except cl.RuntimeError as error:
                why = f"OpenCL compiles nothing here: {error!s:.200}"
            else:
                return context
    return pytest.skip(why)


@pytest.mark.parametrize("sparsified", [_by_hand, _by_opencl])
def test_images_of_a_file_that_pyfai_wrote_are_those_of_fabio(
    tmp_path: Path, sparsified: Any
) -> None:
    from pyFAI.io.sparse_frame import save_sparse

    integrator, raw = _integrator(), _raw()
    path = tmp_path / "pyfai.h5"
    frames = sparsified(raw, *_set_up(integrator))
    save_sparse(str(path), frames, ai=integrator, extra={"correctSolidAngle": True})
    with SparseFile(path) as file, fabio.open(str(path)) as theirs:
        assert (file.count, file.shape, file.dtype) == (3, SHAPE, np.int32)
        assert file.creator.startswith("pyFAI_")
        assert file.normalization is not None
        assert file.radius is not None
        assert file.instrument.distance == pytest.approx(0.1)
        assert file.instrument.wavelength == pytest.approx(1e-10)
        assert (file.instrument.beam_center_x, file.instrument.beam_center_y) == (64, 61)
        for number, image in enumerate(dense_frames(file, Densifier(file), range(3))):
            frame = file.frame(number)
            background = reference(file, frame)[1]
            # fabio's compiled one has 0 nearer to the beam than the first bin's centre.
            near = file.pixel_radius < file.radius[0]
            other = np.where(near, image, theirs.getframe(number).data)
            assert_same(image, other, background, 1e-4)
            assert_same(image, _fabio(file, frame), background)
            kept = raw[number].reshape(-1)[frame.index]
            assert np.array_equal(image.reshape(-1)[frame.index], kept)
            assert 40 * 130 + 50 in frame.index
            assert abs(np.median(image) - 8) <= 1


# ----------------------------------------------------------------------- noise


def _flat(tmp_path: Path, mean: float, deviation: float, dtype: str = "i4") -> SparseFile:
    """Return frames of 300 x 300 pixels with the same background everywhere."""
    radius = np.arange(2, dtype=np.float32)
    flat = np.ones((4, 2), np.float32)
    mask = np.zeros((300, 300), np.float32)
    return SparseFile(
        Sparse([[]] * 4, [[]] * 4, dtype, mask, radius, flat * mean, flat * deviation).write(
            tmp_path / "flat.h5"
        )
    )


@pytest.mark.parametrize("dtype", ["i4", "f4"])
@pytest.mark.parametrize(
    ("mean", "deviation", "scatter"),
    [
        (0.05, 1.0, 0.05**0.5),  # pyFAI's deviation is never below 1: the counts follow the mean
        (0.05, 0.05**0.5, 0.05**0.5),
        (2.0, 2**0.5, 2**0.5),
        (19.0, 19**0.5, 19**0.5),
        (50.0, 60.0, 50**0.5),
        (3000.0, 2000.0, 3000**0.5),
        (50.0, 50**0.5, 50**0.5),
        (1000.0, 10.0, 10.0),
    ],
)
def test_noise_keeps_the_mean_and_has_the_right_scatter(
    tmp_path: Path, mean: float, deviation: float, scatter: float, dtype: str
) -> None:
    with _flat(tmp_path, mean, deviation, dtype) as file:
        image = Densifier(file).image(file.frame(0), 1.0, np.random.default_rng(1))
    values = image.astype(np.float64)
    error = scatter / values.size**0.5
    assert abs(values.mean() - np.float32(mean)) < 5 * error
    assert values.std() == pytest.approx(scatter, rel=0.03)
    assert values.min() >= 0


def test_half_the_noise_is_half_the_scatter(tmp_path: Path) -> None:
    with _flat(tmp_path, 400.0, 20.0, "f8") as file:
        values = Densifier(file).image(file.frame(0), 0.5, np.random.default_rng(1))
    assert values.std() == pytest.approx(10, rel=0.02)


def test_noise_is_per_count_and_not_per_normalized_count(tmp_path: Path) -> None:
    path = tmp_path / "flat.h5"
    _flat(tmp_path, 100.0, 10.0, "f8").close()
    with h5py.File(path, "r+") as stored:
        stored["entry_0000/sparse_frames/normalization"] = np.full((300, 300), 0.25)
    with SparseFile(path) as file:
        values = Densifier(file).image(file.frame(0), 1.0, np.random.default_rng(1))
    assert values.mean() == pytest.approx(25, abs=0.1)
    assert values.std() == pytest.approx(2.5, rel=0.02)


def test_where_the_background_is_not_positive_there_is_no_noise(tmp_path: Path) -> None:
    with _flat(tmp_path, -3.0, 2.0) as file:
        assert (Densifier(file).image(file.frame(0), 1.0, np.random.default_rng(1)) == -3).all()


def test_the_same_seed_gives_the_same_noise_whoever_makes_it(tmp_path: Path) -> None:
    with _flat(tmp_path, 3.0, 2.0) as file:
        densifier = Densifier(file)
        one = list(dense_frames(file, densifier, range(4), 1, 1.0, 5))
        three = list(dense_frames(file, densifier, range(4), 3, 1.0, 5))
        later = list(dense_frames(file, densifier, range(2, 4), 2, 1.0, 5))
        other = list(dense_frames(file, densifier, range(4), 1, 1.0, 6))
    assert np.array_equal(one, three)
    assert np.array_equal(one[2:], later)
    for left, right in itertools.combinations([*one, *other], 2):
        assert not np.array_equal(left, right)


def test_noise_of_unknown_strength_is_refused(tmp_path: Path) -> None:
    sparse = Sparse([[]], [[]], change={"background_std": None})
    with SparseFile(sparse.write(tmp_path / "s.h5")) as file:
        assert not file.has_deviation
        with pytest.raises(ValueError, match="no noise without"):
            Densifier(file).image(file.frame(0), 1.0, np.random.default_rng(0))


# ------------------------------------------------------------------ in parallel


class _Counting(SparseFile):
    """Counts the frames that were read."""

    read = 0

    def frame(self, number: int) -> StoredFrame:
        self.read += 1
        return super().frame(number)


def test_images_come_in_order_and_few_frames_are_read_ahead(tmp_path: Path) -> None:
    index = [[number] for number in range(40)]
    intensity = [[number + 100] for number in range(40)]
    index[10] = [0]  # pixel 10 is masked
    with _Counting(Sparse(index, intensity).write(tmp_path / "s.h5")) as file:
        before = threading.active_count()
        images = dense_frames(file, Densifier(file), range(40), 3)
        for number, image in enumerate(images):
            assert image.reshape(-1)[index[number][0]] == number + 100
            assert file.read <= number + 1 + 6
            if number == 25:
                break
        images.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before
        assert file.read < 40


def test_a_damaged_frame_ends_the_images_with_one_sentence(tmp_path: Path) -> None:
    sparse = Sparse([[1], [2], [99]], [[1], [2], [3]])
    with SparseFile(sparse.write(tmp_path / "s.h5")) as file:
        images = dense_frames(file, Densifier(file), range(3))
        with pytest.raises(ValueError, match=r"frame 2 of .* has pixels outside the image"):
            list(images)
