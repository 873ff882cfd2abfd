"""What a receiver knows of its source."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ronda.core.frame import Lost, Notice
from ronda.core.receiver import Receiver
from ronda.core.sources.base import Event, Source
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
