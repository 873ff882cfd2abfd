"""What a receiver knows of its source."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq
from ronda.core.frame import Frame, Lost, Notice, Series, SeriesStart
from ronda.core.receiver import Receiver
from ronda.core.results import Activity
from ronda.core.runner import Runner
from ronda.core.sources.base import Event, Source, UrlError
from ronda.tests.toy import ToyStage
from ronda.tests.waiting import wait_for


class Talking(Source):
    """Has something to say of itself first; a message comes when it is asked for."""

    message_wanted = False

    def events(self) -> Iterator[Event]:
        yield Notice("something is odd")
        wait_for(lambda: self.message_wanted)
        yield Lost(1)
        self.closed.wait()


def test_the_time_is_that_of_messages_not_of_what_the_source_says_of_itself() -> None:
    source, accepted, begin = Talking("talking:"), [], time.time()
    receiver = Receiver("test", lambda: source, accepted.append)
    receiver.thread.start()
    wait_for(lambda: accepted)
    assert receiver.last_message_time == 0.0
    source.message_wanted = True
    wait_for(lambda: len(accepted) == 2)
    assert begin <= receiver.last_message_time <= time.time()
    receiver.stop()


class Failing(Source):
    """Gives two frames of a series, and then an error that is none of a source."""

    def __init__(self, error: Exception) -> None:
        super().__init__("failing:")
        self._error = error

    def events(self) -> Iterator[Event]:
        series = Series(1)
        yield SeriesStart(series)
        for number in range(2):
            yield Frame(series, number, np.ones((2, 3), np.uint16))
        raise self._error


@pytest.mark.allow_error_log
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "MemoryError"),
        (zmq.ZMQError(errno.EMFILE, "Too many\nopen files"), "ZMQError: Too many open files"),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_an_error_that_is_none_of_a_source_ends_the_reading_without_a_word(
    caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    runner = Runner(ToyStage())
    runner.start(lambda: Failing(error))
    wait_for(lambda: runner.health.failure)
    assert runner.health.failure == f"internal error while reading: {said}"
    assert not runner.health.lasting
    runner.stop()
    assert runner.health.activity is Activity.IDLE
    assert (runner.ledger.counts.received, runner.ledger.counts.reduced) == (2, 2)
    assert not runner.in_series
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info
    runner.reset()
    assert runner.health.failure == ""
    runner.close()


def test_a_live_source_whose_address_is_none_is_opened_again_for_ever() -> None:
    receiver = Receiver(
        "test", lambda: Failing(UrlError("x: not of the form y")), lambda event: None
    )
    receiver.thread.start()
    receiver.thread.join(30)
    assert (receiver.failure, receiver.lasting) == ("x: not of the form y", True)
