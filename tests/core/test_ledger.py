"""The ledger is consistent at every moment, from any thread."""

from __future__ import annotations

import threading

from ronda.core.ledger import Counts, Ledger


def test_no_reading_ever_shows_a_negative_queue() -> None:
    ledger = Ledger()
    stop = threading.Event()
    worst: list[int] = []

    def read() -> None:
        while not stop.is_set():
            worst.append(ledger.counts.queued)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5000):
        ledger.add(received=1)
        ledger.add(reduced=1)
    stop.set()
    reader.join()
    assert set(worst) <= {0, 1}
    assert ledger.counts == Counts(received=5000, reduced=5000)


def test_the_rate_is_zero_without_frames_and_counts_them_otherwise() -> None:
    ledger = Ledger()
    assert ledger.input_rate == 0
    for _ in range(10):
        ledger.add(received=1)
    ledger.add(lost=5)
    assert ledger.input_rate > 10
