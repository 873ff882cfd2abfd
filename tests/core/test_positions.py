"""A frame gets the position of its own point, whatever is missing, late or twice."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.frame import Series, new_run_id
from ronda.core.positions import Scan, ScanBooks, ScanEnd, ScanPoint, ScanStart

START = ScanStart(7, ("motor",), event_number=0)


def scan_of(records: Sequence[ScanPoint], start: ScanStart | None = START) -> Scan:
    scan = Scan(start)
    for record in records:
        scan.add(record)
    return scan


def record(
    point: int, frames: int | None = None, event: int | None = None, x: float | None = None
) -> ScanPoint:
    return ScanPoint(point, {"motor": float(point) if x is None else x}, frames, event)


COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


@given(COUNTS, st.data())
def test_events_give_a_frame_to_another_point(counts: list[int], data: st.DataObject) -> None:
    """Every point ends with its record; some records and frames are missing, none is wrong."""
    ends = np.cumsum(counts)
    truth = np.repeat(np.arange(len(counts)), counts)
    events = np.arange(1, ends[-1] + 1)
    kept = sorted(data.draw(st.sets(st.integers(0, len(counts) - 1), min_size=1)))
    counted = data.draw(st.booleans())
    records = [record(k, counts[k] if counted else None, int(ends[k])) for k in kept]
    scan = scan_of(data.draw(st.permutations(records)))
    found = scan.point_of(np.arange(events.size), events)
    assert set(found[found != truth]) <= {-1}
    np.testing.assert_array_equal(found[ends[kept] - 1], kept)
    if counted or len(kept) == len(counts):
        np.testing.assert_array_equal(found >= 0, np.isin(truth, kept))


@given(COUNTS, st.data())
def test_a_missing_frame_shifts_later_points(counts: list[int], data: st.DataObject) -> None:
    truth = np.repeat(np.arange(len(counts)), counts)
    kept = sorted(data.draw(st.sets(st.integers(0, truth.size - 1))))
    scan = scan_of([record(k, count) for k, count in enumerate(counts)])
    np.testing.assert_array_equal(scan.point_of(np.array(kept, int)), truth[kept])


@given(COUNTS, st.integers(0, 11))
def test_counting_goes_on_beyond_a_missing_record(counts: list[int], missing: int) -> None:
    """Unequal counts: what lies behind a lost record is unknown, not guessed."""
    counts = [*counts, 8, 9]
    truth = np.repeat(np.arange(len(counts)), counts)
    missing = min(missing, len(counts) - 3)
    scan = scan_of([record(k, count) for k, count in enumerate(counts) if k != missing])
    found = scan.point_of(np.arange(truth.size + 3))
    np.testing.assert_array_equal(found[:-3], np.where(truth < missing, truth, -1))
    np.testing.assert_array_equal(found[-3:], -1)


def test_equal_counts_do_not_bridge_a_missing_record() -> None:
    scan = scan_of([record(0, 3), record(2, 3)])
    np.testing.assert_array_equal(scan.point_of(np.arange(10)), [0, 0, 0, 1, 1, 1, 2, 2, 2, -1])
    np.testing.assert_array_equal(scan.x(np.array([0, 1, 2, -1])), [0, np.nan, 2, np.nan])


def test_unequal_counts_guess_beyond_a_missing_record() -> None:
    scan = scan_of([record(0, 3), record(2, 4)])
    np.testing.assert_array_equal(scan.point_of(np.arange(8)), [0, 0, 0, -1, -1, -1, -1, -1])


def test_frames_per_point_are_used_though_the_record_counts() -> None:
    frames = np.arange(6)
    np.testing.assert_array_equal(
        scan_of([record(0, 3), record(1, 3)]).point_of(frames, None, 2), [0, 0, 0, 1, 1, 1]
    )
    np.testing.assert_array_equal(
        scan_of([record(0), record(1)]).point_of(frames, None, 2), [0, 0, 1, 1, 2, 2]
    )
    np.testing.assert_array_equal(scan_of([record(0)]).point_of(frames), frames)


def test_events_are_used_though_one_side_has_none() -> None:
    frames, unknown = np.arange(4), np.full(4, -1)
    with_events = scan_of([record(0, 2, 10), record(1, 2, 20)])
    np.testing.assert_array_equal(with_events.point_of(frames, unknown), [0, 0, 1, 1])
    without = scan_of([record(0, 2), record(1, 2)])
    np.testing.assert_array_equal(without.point_of(frames, frames + 9), [0, 0, 1, 1])
    np.testing.assert_array_equal(with_events.point_of(frames, frames + 9), [0, 0, 1, 1])
    np.testing.assert_array_equal(
        with_events.point_of(frames, np.array([10, -1, 20, 21])), [0, -1, 1, -1]
    )


def test_an_empty_scan_knows_points() -> None:
    scan = Scan()
    np.testing.assert_array_equal(scan.point_of(np.arange(3), np.arange(3), 2), [-1, -1, -1])
    assert np.isnan(scan.x(np.arange(3))).all()
    assert scan.points.size == 0
    assert scan.movables == ()
    assert scan.frames_expected(0, 5) == 5


def test_a_repeated_record_adds_a_point() -> None:
    scan = scan_of([record(0, x=1.0), record(1, x=2.0), record(1, x=2.5)])
    np.testing.assert_array_equal(scan.points, [0, 1])
    np.testing.assert_array_equal(scan.x(np.array([[0], [1]])), [[1.0], [2.5]])


def test_a_column_that_is_no_movable_cannot_be_x() -> None:
    scan = scan_of([ScanPoint(0, {"timestamp": 9.0, "motor": 1.0, "diode": 5.0})])
    assert scan.x(np.array([0])) == [1.0]
    assert scan.x(np.array([0]), "diode") == [5.0]
    assert np.isnan(scan.x(np.array([0]), "nothing"))


def test_time_is_x_of_a_scan_without_a_beginning() -> None:
    scan = scan_of([ScanPoint(0, {"timestamp": 9.0, "motor": 1.0})], start=None)
    assert scan.movables == ("motor", "timestamp")
    assert scan.x(np.array([0])) == [1.0]
    assert np.isnan(scan_of([ScanPoint(0, {})], start=None).x(np.array([0])))


def test_the_frames_expected_are_not_the_point_s_own() -> None:
    scan = scan_of([record(0, 6, 6), record(1, None, 13), record(2, None, 15)])
    assert scan.frames_expected(0, 9) == 6
    assert scan.frames_expected(1, 9) == 7
    assert scan_of([record(0, None, 6)]).frames_expected(0) == 6
    assert scan_of([record(0, None, 6)]).frames_expected(1) == 1
    assert scan_of([record(0)]).frames_expected(0, 4) == 4


def test_a_huge_point_number_takes_memory() -> None:
    scan = scan_of([record(0, 3), record(1 << 24, 3)])
    assert scan.point_of(np.array([3 << 24]))[0] == 1 << 24


def series(number: int | None = None) -> Series:
    return Series(new_run_id(), filename=f"/raw/scan-{number}_x.h5" if number is not None else "")


def test_a_series_gets_the_scan_of_another_number() -> None:
    books = ScanBooks()
    first, second = books.add(ScanStart(5, ())), books.add(ScanStart(6, ()))
    assert books.scan_for(series(5)) is first
    assert books.scan_for(series(6)) is second
    assert books.scan_for(series(7)) is None
    assert books.scan_for(series()) is second


def test_a_series_without_number_gets_a_scan_that_was_over() -> None:
    books = ScanBooks()
    books.add(ScanStart(5, ()))
    books.add(ScanEnd())
    later = Series(new_run_id() + 10)
    assert books.scan_for(later) is None
    scan = books.add(ScanStart(None, ()))
    assert books.scan_for(later) is scan


def test_a_recorded_scan_is_over_because_it_was_read_first() -> None:
    books = ScanBooks()
    books.add(ScanStart(None, ("motor",), event_number=0))
    scan = books.add(record(0, 1, 1))
    books.add(ScanEnd(2))
    assert books.scan_for(Series(new_run_id() + 10)) is scan
    anonymous = ScanBooks()
    scan = anonymous.add(record(0, 1, 1))
    anonymous.add(ScanEnd(2))
    assert anonymous.scan_for(Series(new_run_id() + 10)) is scan


def test_the_next_scan_takes_over_an_open_series() -> None:
    books, run = ScanBooks(), series()
    books.add(ScanStart(None, ("motor",)))
    scan = books.add(record(0))
    assert books.scan_for(run) is scan
    books.add(ScanStart(None, ("motor",)))
    assert books.scan_for(run) is scan
    assert books.scan_for(series()) is not scan


def test_a_record_without_a_beginning_joins_the_scan_before() -> None:
    books = ScanBooks()
    first = books.add(ScanStart(5, ("motor",)))
    books.add(record(0))
    assert books.add(ScanEnd()) is first
    second = books.add(record(0))
    assert second is not first
    assert second.serial is None
    assert books.add(record(1)) is second
    np.testing.assert_array_equal(second.points, [0, 1])


def test_a_new_scan_leaves_the_old_one_open() -> None:
    books = ScanBooks()
    before = new_run_id()
    first = books.add(ScanStart(5, ()))
    assert first.ended is None
    books.add(ScanStart(6, ()))
    assert before < first.ended < new_run_id()


def test_an_end_without_a_scan_fails() -> None:
    assert ScanBooks().add(ScanEnd()).ended is not None


def test_books_grow_without_bound() -> None:
    books = ScanBooks()
    for serial in range(100):
        books.add(ScanStart(serial, ("motor",)))
        books.add(record(0))
        assert books.scan_for(series(serial)) is not None
    assert books.scan_for(series(0)) is None
    assert len(books._scans) == len(books._chosen) == books.KEEP


def test_a_scan_claims_what_comes_after_it_when_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books = ScanBooks()
    books.add(ScanStart(None, ("motor",)))
    books.add(record(0))
    during = Series(new_run_id())
    assert books.scan_for(during) is not None
    books.add(ScanEnd())
    an_hour_ago = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    after = Series(new_run_id())
    assert during.run_id < after.run_id
    assert books.scan_for(after) is None
