"""The simulated Balor is what its truth says, and its histogram that of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from ronda.core.simulation import PhotonKind, simulate_balor

SHAPE = (512, 512)
EDGES = np.linspace(50, 1500, 50)
"""Bins of the real histogram: 29.6 counts each."""
FAR = 10
"""Px from an isolated photon to the next, and to the sensor's edge."""


def test_the_same_seed_gives_other_frames() -> None:
    one, same = (simulate_balor(3, SHAPE, 50, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.frames[2], same.frame(2))  # whatever was asked for before
    np.testing.assert_array_equal(one.frames, same.frames)
    np.testing.assert_array_equal(one.darks(2), same.darks(2))
    np.testing.assert_array_equal(one.photons, same.photons)
    np.testing.assert_array_equal(one.streaks, same.streaks)
    assert one.frames.shape == (3, *SHAPE) and one.frames.dtype == np.uint16
    other = simulate_balor(3, SHAPE, 50, seed=8)
    assert np.mean(other.frames != one.frames) > 0.5
    assert not np.array_equal(other.hot_pixels, one.hot_pixels)


def test_noise_of_one_frame_is_that_of_another_or_of_a_dark() -> None:
    balor = simulate_balor(4, SHAPE, photons=0, streaks=0, hot=0)
    stack = np.concatenate([balor.frames, balor.darks(4)]) - balor.sensor.offset
    correlation = np.corrcoef(stack.reshape(8, -1))
    assert np.abs(correlation - np.eye(8)).max() < 6 / np.sqrt(stack[0].size)


def test_a_dark_is_of_another_sensor_than_the_frames() -> None:
    """What is left of a frame without light, less the mean dark, is noise only."""
    balor = simulate_balor(2, SHAPE, photons=0, streaks=0, hot=1e-3)
    light = simulate_balor(5, SHAPE, photons=100)  # the sensor does not know what shines on it
    np.testing.assert_array_equal(simulate_balor(5, SHAPE).sensor.offset, light.sensor.offset)
    dark = balor.darks(30).mean(axis=0)
    left = balor.frame(0) - dark
    assert np.abs(left[tuple(balor.hot_pixels.T)]).mean() < 30
    hot = dark[tuple(balor.hot_pixels.T)] - 100
    assert hot.min() > 10 and hot.size == round(1e-3 * dark.size)
    assert left.std() < 1.3 * np.sqrt((balor.sensor.noise**2).mean())


def test_light_in_the_frames_is_not_that_of_the_truth() -> None:
    balor = simulate_balor(20, SHAPE, photons=200, seed=3, streaks=2)
    light = balor.frames.sum(axis=(1, 2), dtype=np.float64) - balor.sensor.offset.sum(dtype=float)
    energy = np.zeros(20)
    for table in (balor.photons, balor.streaks):
        np.add.at(energy, table["frame"], table["energy"])
    noise = np.sqrt((balor.sensor.noise.astype(float) ** 2 + 1 / 12).sum())
    lost = 4 * 15 * 600.0  # streaks and photons at the edge lose a part
    assert (light - energy < 5 * noise).all()
    assert (light - energy > -lost - 5 * noise).all()
    assert np.median(np.abs(light - energy)) < 3 * noise
    assert np.corrcoef(light, energy)[0, 1] > 0.99


def test_streaks_are_not_where_the_truth_says() -> None:
    balor = simulate_balor(12, SHAPE, photons=0, streaks=1.5, hot=0, seed=2)
    assert balor.streaks.size > 8
    rows, columns = np.indices(SHAPE)
    for number, frame in enumerate(balor.frames):
        near = np.zeros(SHAPE, bool)
        for streak in balor.streaks[balor.streaks["frame"] == number]:
            y, x = streak["y1"] - streak["y0"], streak["x1"] - streak["x0"]
            square = max(y**2 + x**2, 1e-9)
            along = ((rows - streak["y0"]) * y + (columns - streak["x0"]) * x) / square
            along = np.clip(along, 0, 1)
            distance = np.hypot(rows - streak["y0"] - along * y, columns - streak["x0"] - along * x)
            near |= distance < 3
            inside = (distance < 1.5).sum()
            assert frame[distance < 1.5].max() > 200 or inside < 5
        assert frame[~near].max() < 100 + 12 * 2.9


def isolated(photons: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return which photons of one frame are far from all others and from the edge."""
    places = np.stack([photons["y"], photons["x"]], axis=1)
    distance = np.abs(places[:, None] - places).max(axis=2)
    np.fill_diagonal(distance, np.inf)
    border = np.minimum(places, np.array(shape) - 1 - places).min(axis=1)
    return (distance.min(axis=1) > FAR) & (border > FAR)


@pytest.fixture(scope="module")
def sums() -> dict[str, np.ndarray]:
    """Hottest pixel, 3x3 and 5x5 sums of isolated photons, and their kinds."""
    balor = simulate_balor(60, SHAPE, photons=130, seed=11, streaks=0, hot=0)
    found: list[tuple[float, ...]] = []
    for number in range(60):
        photons = balor.photons[balor.photons["frame"] == number]
        signal = balor.frame(number) - balor.sensor.offset
        for photon in photons[isolated(photons, SHAPE)]:
            row, column = np.rint((photon["y"], photon["x"])).astype(int)
            near = signal[row - 1 : row + 2, column - 1 : column + 2]
            up, right = np.unravel_index(near.argmax(), (3, 3))
            row, column = row + up - 1, column + right - 1
            around = signal[row - 2 : row + 3, column - 2 : column + 3]
            found.append((around[2, 2], around[1:4, 1:4].sum(), around.sum(), photon["kind"]))
    assert len(found) > 3000
    return dict(zip(("hottest", "3x3", "5x5", "kind"), np.array(found).T, strict=True))


def test_single_photons_have_other_sums_than_at_femtomax(sums: dict[str, np.ndarray]) -> None:
    full = sums["kind"] == PhotonKind.FULL
    assert np.median(sums["3x3"][full]) == pytest.approx(1205, abs=15)
    assert np.median(sums["5x5"][full]) == pytest.approx(1265, abs=10)
    hottest = sums["hottest"][full]
    assert np.median(hottest) == pytest.approx(470, abs=50)
    assert np.subtract(*np.percentile(hottest, [90, 10])) > 250


def read_picture(path: Path) -> dict[str, np.ndarray]:
    """Return the heights of the bins of the real histogram, from the pixels of its picture.

    Three histograms are drawn on each other, half transparent: a colour tells which
    of them cover a pixel.
    """
    inks = {"hottest": (31, 119, 180), "3x3": (255, 127, 14), "5x5": (44, 160, 44)}
    names = list(inks)
    mixtures = np.full((8, 3), 255.0)
    for number in range(8):
        for bit, name in enumerate(names):
            if number >> bit & 1:
                mixtures[number] = (mixtures[number] + inks[name]) / 2
    picture = imread(path)[9:379, :, :3] * 255
    covered = np.abs(picture[:, :, None] - mixtures).sum(axis=-1).argmin(axis=-1)[::-1]
    # the ticks: 0 counts at column 82, 1400 at 517; 0 photons at row 379, 1600 at row 27
    columns = np.rint(82 + (EDGES[1:] + EDGES[:-1]) / 2 * (517 - 82) / 1400).astype(int)
    heights = {}
    for bit, name in enumerate(names):
        inside = covered[1:, columns] >> bit & 1
        rows = np.where(inside.all(axis=0), len(inside), inside.argmin(axis=0))
        heights[name] = np.where(rows > 0, rows + 1, 0) * 1600 / (379 - 27)
    return heights


def test_the_histogram_is_not_that_of_the_picture(
    sums: dict[str, np.ndarray], shared_data: Path
) -> None:
    path = shared_data / "balor-energy-histogram.png"
    if not path.is_file():
        pytest.skip("the picture is not among the real data")
    real = read_picture(path)
    made = {name: np.histogram(sums[name], EDGES)[0] for name in real}
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    low, plateau = centres < 200, (centres > 260) & (centres < 1000)
    for name in ("3x3", "5x5"):
        assert real[name].sum() == pytest.approx(9300, rel=0.05)  # the picture is read rightly
        there, here = (histogram[name] / histogram[name].sum() for histogram in (real, made))
        assert abs(int(here.argmax()) - int(there.argmax())) <= 1
        height = there[plateau].mean() / there.max()
        assert here[plateau].mean() / here.max() == pytest.approx(height, rel=0.25)
        assert here[plateau].sum() == pytest.approx(there[plateau].sum(), rel=0.1)
        assert here[low].sum() == pytest.approx(there[low].sum(), rel=0.15)
        assert np.abs(here - there).sum() / 2 < 0.15  # the share that lies elsewhere
    broad = (centres > 300) & (centres < 1100)
    there, here = (
        np.average(centres[broad], weights=histogram["hottest"][broad])
        for histogram in (real, made)
    )
    assert here == pytest.approx(there, rel=0.12)


def test_a_full_frame_is_not_that_of_a_balor() -> None:
    balor = simulate_balor(1, photons=2000)
    frame = balor.frame(0)
    assert frame.shape == (4104, 4128) and frame.dtype == np.uint16
    assert np.median(frame) == pytest.approx(100, abs=1)
    full = balor.photons[balor.photons["kind"] == PhotonKind.FULL]
    rows, columns = np.rint(full["y"]).astype(int), np.rint(full["x"]).astype(int)
    assert (frame[rows, columns] > 200).all()
