"""The counts of each frame, and "no beam": said when the beam goes, and never without reason."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ronda.core.frame import Frame, Series
from ronda.core.images.balor import BalorStage
from ronda.core.images.beam import BeamParameters, BeamWatch, frame_counts
from ronda.core.images.chain import ImageChain
from ronda.core.images.partial import ChainPartial
from ronda.core.images.pilatus import PilatusStage
from ronda.core.images.zyla import ZylaStage
from ronda.core.marks import as_pixels
from ronda.tests.core.images.bench import Bench, Camera, make_runner, run
from ronda.tests.core.images.frames import DTYPES, images, valid

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
SERIES = Series(1, "camera")
IMAGE = np.zeros((1, 1), np.uint16)
BRIGHT, ASIDE = math.inf, math.nan


class Watched:
    """A watch that is fed counts, one frame a second from noon on."""

    def __init__(self, history: int = 10_000, **values: Any) -> None:
        self.watch = BeamWatch(BeamParameters(**values), history)
        self.frames = 0

    def feed(self, counts: Iterable[float], form: str = "counts") -> list[bool]:
        """Take counts; `BRIGHT` and `ASIDE` are such frames. Return what `beam` was after each."""
        told = []
        for each in counts:
            frame = Frame(SERIES, self.frames, IMAGE, timestamp=NOON + self.frames)
            self.frames += 1
            if each == BRIGHT:
                self.watch.add_bright(frame)
            elif math.isnan(each):
                self.watch.set_aside(frame)
            else:
                self.watch.add(frame, float(each), form)
            told.append(self.beam)
        return told

    @property
    def beam(self) -> bool:
        told: bool = self.watch.value("beam")
        return told

    @property
    def says(self) -> str:
        return "\n".join(self.watch.status())


@pytest.fixture
def watched() -> Watched:
    return Watched()


def poisson(mean: float, frames: int, seed: int = 0) -> list[int]:
    numbers: list[int] = np.random.default_rng(seed).poisson(mean, frames).tolist()
    return numbers


# -------------------------------------------------------- against a plain reference


def plainly(
    counts: list[float], frames: int, percent: float
) -> Iterator[tuple[bool, bool, float, float]]:
    """Yield beam, whether it went, mean and ratio after each frame, from all frames so far."""
    share, gone = percent / 100, False
    stretches: list[tuple[float, float]] = []
    stretch: list[float] = []
    first, any_yet = 0, False
    for number, each in enumerate(counts):
        newest = counts[max(number - frames + 1, 0) : number + 1]
        known = [(mean, error) for mean, error in stretches[:-1] if mean][-50:]
        sure = [mean for mean, error in known if (1 - share) * mean > 4 * error]
        limit = share * min(sure) if sure and len(sure) >= len(known) / 2 else 0
        if gone:
            lit = sum(one >= limit for one in newest)
            gone = lit < len(newest) / 4 or np.mean(newest) < limit
        elif len(newest) == frames and np.mean(newest) < limit:
            gone, stretch = True, []
            stretches[-1:] = [(0, 0)]
        else:
            stretch += [each] if each != BRIGHT else []
            if len(stretch) == frames:
                error = float(np.std(stretch) / np.sqrt(frames))
                stretches, stretch = [*stretches, (float(np.mean(stretch)), error)], []
        known_means = [mean for mean, _ in stretches[:-1] if mean][-50:]
        level = np.median(known_means) if known_means else math.nan
        first, any_yet = (number + 1, False) if each == BRIGHT else (first, any_yet or each > 0)
        empty = percent > 0 and number + 1 - first >= frames and not any_yet
        mean = float(np.mean(newest))
        yield not gone and not empty, gone, mean, float(100 * mean / level)


@settings(max_examples=80, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 1, 3, 20, 1000, 1000, 10**6, BRIGHT, ASIDE]),
            st.integers(1, 60),
            st.sampled_from([0.0, 0.0, 0.3]),
        ),
        min_size=1,
        max_size=8,
    ),
    frames=st.integers(5, 12),
    percent=st.sampled_from([0.0, 1.0, 1.0, 50.0]),
    history=st.integers(1, 200),
)
def test_the_trend_is_another_than_one_that_is_found_plainly(
    parts: list[tuple[float, int, float]], frames: int, percent: float, history: int
) -> None:
    watched = Watched(history, no_beam_frames=frames, no_beam_fraction=percent)
    random, counts = np.random.default_rng(0), []
    for level, length, missing in parts:
        here = random.poisson(level, length) if math.isfinite(level) else np.full(length, level)
        counts += np.where(random.random(length) < missing, 0, here).astype(float).tolist()
    told = plainly([each for each in counts if not math.isnan(each)], frames, percent)
    for each in counts:
        watched.feed([each])
        if math.isnan(each):
            continue
        beam, gone, mean, ratio = next(told)
        assert watched.beam == beam
        assert ("no beam:" in watched.says) == gone
        np.testing.assert_allclose(watched.watch.value("counts_mean"), mean, rtol=1e-12)
        np.testing.assert_allclose(watched.watch.value("counts_ratio"), ratio, rtol=1e-12)
    curve = np.array(counts)
    curve[np.isinf(curve)] = np.nan
    np.testing.assert_array_equal(watched.watch.value("counts_per_frame"), curve[-history:])
    times = NOON + np.arange(len(counts))
    np.testing.assert_array_equal(watched.watch.value("counts_time"), times[-history:])


# --------------------------------------------------------------- the beam goes, and comes


def test_a_closed_shutter_is_not_said_or_too_early_or_without_its_time(watched: Watched) -> None:
    assert all(watched.feed([1000] * 185)) and watched.says == ""
    told = watched.feed([4] * 30)
    assert told == [True] * 19 + [False] * 11
    assert watched.says == (
        "no beam: the last 20 frames hold 0.4 % of the counts of the frames before, "
        "since 12:03:05 UTC; is the shutter open?"
    )
    assert watched.watch.value("counts_mean") == 4
    assert watched.watch.value("counts_ratio") == pytest.approx(0.4)


def test_the_beam_is_back_and_nobody_hears_of_it(watched: Watched) -> None:
    watched.feed([1000] * 60 + [0] * 60)
    told = watched.feed([1000] * 30)
    assert told == [False] * 4 + [True] * 26
    assert watched.says == "there was no beam from 12:01:00 UTC to 12:02:00 UTC, for 60 frames"
    watched.feed([1000] * 100)
    assert watched.says == "there was no beam from 12:01:00 UTC to 12:02:00 UTC, for 60 frames"
    watched.feed([0] * 20)
    assert "since 12:04:10 UTC" in watched.says and "there was" not in watched.says


def test_frames_without_beam_become_what_others_are_compared_with(watched: Watched) -> None:
    watched.feed([1000] * 100)
    watched.feed([5] * 3000)
    assert not watched.beam and watched.watch.value("counts_ratio") == pytest.approx(0.5)


def test_a_flash_ends_it(watched: Watched) -> None:
    watched.feed([1000] * 100 + [0] * 40)
    assert not any(watched.feed(([10_000] + [0] * 9) * 10))


def test_pulses_without_beam_are_taken_for_its_end(watched: Watched) -> None:
    random = np.random.default_rng(1)
    assert all(watched.feed(np.where(random.random(5000) < 0.3, 0, 1000)))
    assert watched.feed([0] * 20)[-1] is False


def test_a_detector_twice_as_fast_as_the_beam_is_never_looked_at(watched: Watched) -> None:
    assert all(watched.feed([0, 1000] * 500))
    assert watched.feed([0] * 20)[-1] is False
    assert watched.feed([0, 1000] * 10)[-1] is True


def test_off_is_not_off() -> None:
    watched = Watched(no_beam_fraction=0)
    assert all(watched.feed([0] * 100 + [1000] * 100 + [0] * 100)) and watched.says == ""


# ---------------------------------------------------------------------- crying wolf


@pytest.mark.parametrize("mean", [0.01, 0.05, 0.2, 0.5, 1, 5])
def test_few_photons_are_taken_for_none(watched: Watched, mean: float) -> None:
    photons = poisson(mean, 20_000)
    first = next(n for n, one in enumerate(photons) if one)
    assert all(watched.feed(photons)[first:]) and watched.says == ""


def test_a_scan_over_decades_is_taken_for_a_loss(watched: Watched) -> None:
    peak = 10 ** (1 + 5 * np.exp(-(((np.arange(400) - 200) / 70) ** 2)))
    random = np.random.default_rng(2)
    for _ in range(3):
        assert all(watched.feed(random.poisson(peak) * random.uniform(0.7, 1.3, 400)))
    assert watched.feed([0] * 20)[-1] is False


def test_a_slow_decay_is_taken_for_a_loss(watched: Watched) -> None:
    assert all(watched.feed(1e9 * np.exp(-np.arange(20_000) / 2000)))


def test_a_drop_that_leaves_some_counts_is_taken_for_a_loss(watched: Watched) -> None:
    assert all(watched.feed([1000] * 100 + [20] * 100))


def test_an_offset_hides_the_end_of_the_beam_even_if_the_fraction_fits() -> None:
    """Without a dark 100 counts a pixel are left; the fraction can be set to fit that."""
    random = np.random.default_rng(3)
    offset = random.normal(1e8, 1e4, 2000)
    with_beam = offset + random.normal(5e6, 1e6, 2000)
    watched = Watched()
    assert all(watched.feed([*with_beam, *offset])) and watched.says == ""
    watched = Watched(no_beam_fraction=98)
    assert all(watched.feed(with_beam))
    told = watched.feed(offset)
    assert not any(told[40:]) and "hold 95 % of" in watched.says
    assert watched.feed(with_beam)[-1] is True


def test_nothing_is_said_of_scatter_that_is_as_large_as_the_beam() -> None:
    watched = Watched(no_beam_fraction=98)
    assert all(watched.feed(np.random.default_rng(4).normal(1000, 400, 5000)))


# ------------------------------------------------------------------- how it begins


def test_a_beginning_without_beam_is_called_its_end_or_passed_over(watched: Watched) -> None:
    told = watched.feed([0] * 57)
    assert told == [True] * 19 + [False] * 38
    assert watched.says == (
        "no counts at all in 57 frames, since 12:00:00 UTC: is the shutter open, "
        "does the threshold or mask leave anything?"
    )
    assert all(watched.feed([1000] * 100)) and watched.says == ""
    assert watched.feed([0] * 20)[-1] is False


def test_a_beginning_with_noise_alone_is_judged(watched: Watched) -> None:
    assert all(watched.feed(poisson(50, 300))) and watched.says == ""
    assert all(watched.feed(poisson(50_000, 1100)))
    assert watched.feed(poisson(50, 20))[-1] is False


def test_frames_too_bright_to_count_are_called_dark(watched: Watched) -> None:
    watched.feed([1000] * 100 + [0] * 19)
    assert all(watched.feed([BRIGHT] * 50)) and watched.says == ""
    told = watched.feed([0] * 30)
    assert told[-1] is False and "since 12:02:49 UTC" in watched.says
    assert watched.feed([BRIGHT] * 5)[-1] is True


def test_only_too_bright_frames_then_nothing_at_all_is_not_said(watched: Watched) -> None:
    assert all(watched.feed([0] * 5 + [BRIGHT] * 100))
    watched.feed([0] * 20)
    assert watched.says.startswith("no counts at all in 20 frames, since 12:01:45 UTC")


def test_other_things_that_are_counted_are_compared(watched: Watched) -> None:
    watched.feed([1000] * 100, "counts")
    assert all(watched.feed([1] * 100, "photons"))
    assert watched.watch.value("counts_per_frame").tolist() == [1] * 100
    assert watched.watch.value("counts_ratio") == 100


def test_memory_grows_with_the_frames() -> None:
    watched = Watched(history=100)
    watched.feed(poisson(1000, 3000))
    tracemalloc.start()
    watched.feed(iter(range(1000, 9000)))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert watched.watch.value("counts_per_frame").size == 100
    assert grown < 300_000  # of which most is the list of answers


@pytest.mark.parametrize("stamp", [0.0, -1e18, 1e18, 1e300])
def test_a_stamp_that_is_no_time_stops_the_status(stamp: float) -> None:
    watch = BeamWatch(BeamParameters(), 10)
    for number in range(200):
        counts = 1000.0 if number < 100 else 0.0
        watch.add(Frame(SERIES, number, IMAGE, timestamp=stamp), counts, "")
    assert "no beam" in watch.status()[0]


@pytest.mark.parametrize("counts", [1e308, -1e308, math.inf, -math.inf])
def test_sums_over_all_bounds_warn_or_raise(counts: float) -> None:
    watch = BeamWatch(BeamParameters(), 10)
    for number in range(100):
        watch.add(Frame(SERIES, number, IMAGE), counts if number % 2 else 1.0, "")
        watch.status()
        assert watch.value("beam") or counts == -math.inf


# ------------------------------------------------------------------- in a chain


@settings(max_examples=60, deadline=None)
@given(image=st.sampled_from(DTYPES).flatmap(images))
def test_counts_are_another_sum_while_accumulation_is_off(image: NDArray[Any]) -> None:
    pixels = as_pixels(image)
    good = pixels[valid(pixels)]
    exact, rounding = float(sum(good.tolist())), 0.0
    if pixels.dtype.kind == "f":
        rounding = 1e-12 * sum(abs(good.astype(np.float64)), 1.0)
    nothing = np.empty((0, 8))
    assert frame_counts(ChainPartial(pixels, None, nothing)) == pytest.approx(exact, abs=rounding)
    mask = np.zeros(pixels.shape, np.bool_)
    mask[0] = True
    rest = float(sum(pixels[1:][valid(pixels[1:])].tolist()))
    for support in (None, np.flatnonzero(pixels)):
        partial = ChainPartial(pixels, mask, nothing, support=support)
        assert frame_counts(partial) == pytest.approx(rest, abs=rounding)


def pilatus(**values: Any) -> Bench:
    return Bench(PilatusStage(), **values)


def expose(bench: Bench, counts: float, frames: int, **metadata: Any) -> bool:
    """Take frames that hold so many counts; return what `beam` is then."""
    for _ in range(frames):
        row = bench.frame([[counts, 0, -1], [-2, 0, 0]], "i4", **metadata)
        assert row["counts_per_frame"] == counts
    beam: bool = bench.value("beam")
    return beam


def test_the_trend_ends_with_the_series() -> None:
    bench = pilatus()
    expose(bench, 1000, 30)
    bench.begin(2)
    assert expose(bench, 1000, 10) and not expose(bench, 0, 20)
    assert bench.value("counts_per_frame").tolist() == [1000] * 40 + [0] * 20
    assert bench.status().startswith("no beam: the last 20 frames hold 0 % of")


@pytest.mark.parametrize("accumulate", [True, False])
def test_counts_depend_on_whether_frames_are_summed(accumulate: bool) -> None:
    bench = pilatus(accumulate=accumulate)
    assert expose(bench, 1000, 40) and not expose(bench, 0, 20)
    bench.change(accumulate=not accumulate)
    assert not bench.value("beam") and not expose(bench, 0, 5) and expose(bench, 1000, 5)


def test_clearing_the_sum_leaves_the_comparison() -> None:
    """It is how one says that few counts are what is wanted from now on."""
    bench = pilatus()
    expose(bench, 1000, 40)
    assert not expose(bench, 5, 20)
    bench.command("ClearAccumulation")
    assert bench.value("beam") and "no beam" not in bench.status()
    assert expose(bench, 5, 100) and not expose(bench, 0, 20)


def test_a_restart_compares_with_frames_before_it() -> None:
    bench = pilatus()
    assert expose(bench, 1000, 40)
    again = pilatus()
    again.stage.restore(bench.stage.state() or {})
    assert expose(again, 5, 100) and again.value("counts_ratio") == 100


def test_another_exposure_time_or_detector_is_taken_for_a_loss() -> None:
    bench = pilatus()
    assert expose(bench, 1000, 40, exposure_time=1.0)
    assert expose(bench, 1, 40, exposure_time=0.001)
    bench.series = Series(2, "another")
    assert expose(bench, 1000, 40)
    assert bench.value("counts_per_frame").tolist() == [1000] * 40


def test_a_mask_begins_a_comparison_and_what_is_only_shown_does_not(tmp_path: Path) -> None:
    bench = pilatus()
    expose(bench, 1000, 40)
    assert not expose(bench, 5, 20)
    bench.change(preview_binning="mean", azimuthal_bins=10, x_axis="time")
    bench.change(rois={"a": {"x": 0, "y": 0, "width": 1, "height": 1}})
    assert not bench.value("beam")
    np.save(tmp_path / "mask.npy", np.array([[0, 1, 0], [0, 0, 0]], np.uint8))
    bench.change(mask_file=str(tmp_path / "mask.npy"))
    assert bench.value("beam")


def test_other_numbers_of_frames_or_fractions_are_not_taken_up() -> None:
    bench = pilatus(no_beam_frames=5, no_beam_fraction=10)
    assert expose(bench, 1000, 20) and not expose(bench, 99, 5)
    bench.change(no_beam_frames=50)
    assert expose(bench, 1000, 60) and expose(bench, 99, 49) and not expose(bench, 99, 1)
    bench.change(history_frames=7)
    assert bench.value("counts_time").size > 7
    bench.begin(2)
    assert bench.value("counts_time").size == 7


def test_parameters_that_are_said_not_to_matter_change_what_is_counted() -> None:
    """The others only cost a comparison; of these each was looked at."""
    assert BalorStage.indifferent - ImageChain.indifferent == {
        "double_fraction_limit", "histogram_width", "republish_photons", "trusted", "save_raw",
    }  # fmt: skip
    assert sorted(ImageChain.indifferent) == [
        "accumulate", "azimuthal_bins", "beam_center_x", "beam_center_y", "detector_distance",
        "frames_per_point", "history_frames", "movable", "photon_energy", "pixel_size",
        "polarization", "poni_file", "preview_binning", "preview_source", "q_rings",
        "ring_bytes", "rois", "solid_angle", "tilt", "tilt_plane_rotation", "x_axis",
    ]  # fmt: skip


def test_energies_made_photons_are_compared_with_energies() -> None:
    bench = pilatus(photon_energy=1000.0)
    image = np.full((2, 2), 1000.0)
    for _ in range(40):
        bench.frame(image, "f4")
    assert bench.value("counts_mean") == 4000
    bench.change(energy_to_photons=True)
    for _ in range(40):
        bench.frame(image, "f4")
    assert bench.value("beam") and bench.value("counts_mean") == 4
    assert bench.value("counts_per_frame").tolist() == [4] * 40
    bench.change(photon_energy=1.0)
    bench.frame(image, "f4")
    assert bench.value("counts_per_frame").tolist() == [4000]


# ------------------------------------------------------------------- cameras


def flat(value: int) -> NDArray[np.uint16]:
    return np.full((4, 5), value, np.uint16)


def test_dark_frames_are_taken_for_a_loss(tmp_path: Path) -> None:
    bench = Bench(ZylaStage(), tmp_path)
    for _ in range(40):
        bench.frame(flat(200))
    bench.command("RecordDark", 30)
    for _ in range(30):
        assert math.isnan(bench.frame(flat(100))["counts_per_frame"])
        assert bench.value("beam") and "no beam" not in bench.status()
    bench.frame(flat(200))
    curve = bench.value("counts_per_frame")
    np.testing.assert_array_equal(curve, [2000] * 40 + [np.nan] * 30 + [2000])
    bench.command("UseDark")
    bench.work()
    assert bench.value("dark_frames") == 30
    for _ in range(20):
        bench.frame(flat(100))
    assert bench.status().startswith("no counts at all in 20 frames")


def test_a_threshold_that_leaves_nothing_is_taken_for_a_loss() -> None:
    bench = Bench(ZylaStage())
    for _ in range(40):
        bench.frame(flat(200))
    bench.change(threshold=150)
    for _ in range(20):
        bench.frame(flat(200))
    assert not bench.value("beam") and "no beam" not in bench.status()
    assert "does the threshold or mask leave anything?" in bench.status()


ROWS, COLUMNS = 40, 50


def photons(number: int) -> NDArray[np.uint16]:
    """Return a frame of so many photons."""
    image = np.full((ROWS, COLUMNS), 100, np.uint16)
    for each in range(number):
        image[3 + 6 * (each // 6), 3 + 6 * (each % 6)] += 1200
    return image


def test_photons_are_not_what_is_counted_or_dense_frames_spoil_the_trend() -> None:
    bench = Bench(BalorStage(), analysis_roi=f"0,0,{COLUMNS},{ROWS}")
    dense = np.full((ROWS, COLUMNS), 300, np.uint16)
    for number in range(60):
        bench.frame(photons(12))
        if number % 3 == 0:
            assert math.isnan(bench.frame(dense)["counts_per_frame"])
    assert bench.value("beam") and bench.value("counts_ratio") == math.inf
    for number in range(20):
        assert bench.value("beam") is (number < 20)
        bench.frame(photons(0))
    assert bench.status().startswith("no beam: the last 20 frames hold 0 % of the counts")
    counts = bench.value("counts_per_frame")
    assert np.nansum(counts) == 60 * 12 and np.isnan(counts).sum() == 20
    bench.change(trusted=True)
    assert not bench.value("beam")
    for _ in range(8):
        bench.frame(dense)
    assert bench.value("beam") and "there was no beam from" in bench.status()
    bench.change(analysis_roi="")
    bench.frame(photons(12))
    assert bench.value("beam") and bench.value("counts_mean") == 12 * 1200


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_see_another_trend(workers: int) -> None:
    random, camera = np.random.default_rng(5), Camera()
    lit = np.repeat([1000, 0, 1000, 2, 1000], 60)
    pictures = [np.full((3, 3), each, np.int32) for each in lit * random.integers(1, 3, lit.size)]
    runner = make_runner(PilatusStage(), workers=workers)
    run(runner, camera.start, *camera.frames(*pictures))
    expected = [float(picture.sum()) for picture in pictures]
    assert runner.stage.value("counts_per_frame").tolist() == expected
    told = runner.stage.status()
    assert runner.stage.value("beam") and told[0].startswith("there was no beam from ")
    latched = dict(runner.latch(["beam", "counts_mean", "counts_ratio"]).values)
    assert latched["beam"] is True and latched["counts_mean"] == np.mean(expected[-20:])
    runner.close()
