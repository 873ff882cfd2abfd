"""The queue keeps its order and its bound in bytes, and never strands a waiting thread."""

from __future__ import annotations

import threading

import numpy as np
from ronda.core.frame import Frame, Series
from ronda.core.order import OrderedQueue, Ticket
from ronda.core.parameters import Parameters
from ronda.core.stage import Settings

SETTINGS = Settings(0, Parameters())


def of_frame(number: int, nbytes: int = 8) -> Ticket:
    return Ticket(SETTINGS, Frame(Series(1), number, np.zeros((1, nbytes), np.uint8)))


def token() -> Ticket:
    return Ticket(SETTINGS, token=lambda: None)


def numbers(queue: OrderedQueue) -> list[int | None]:
    found = []
    while (ticket := queue.get(0)) is not None:
        found.append(ticket.frame.frame_id if ticket.frame else None)
    return found


def test_tokens_keep_their_place_between_frames_that_are_dropped() -> None:
    queue = OrderedQueue(1000)
    for ticket in (of_frame(0), token(), of_frame(1), of_frame(2)):
        queue.put(ticket)
    dropped = queue.drop_frames(2)
    assert [ticket.frame.frame_id for ticket in dropped if ticket.frame] == [0, 1]
    assert numbers(queue) == [None, 2]


def test_one_frame_larger_than_the_limit_is_taken() -> None:
    queue = OrderedQueue(10)
    assert queue.room_for(100)
    queue.put(of_frame(0, 100))
    assert not queue.room_for(1)
    assert queue.fill == 10
    queue.get(0)
    assert queue.fill == 0


def test_a_thread_that_waits_for_room_gets_it() -> None:
    queue = OrderedQueue(8)
    queue.put(of_frame(0))
    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(queue.wait_for_room(8, 10)))
    waiter.start()
    queue.get(0)
    waiter.join()
    assert got == [True]


def test_closing_frees_every_waiting_thread_and_keeps_what_is_queued() -> None:
    queue = OrderedQueue(8)
    queue.put(of_frame(0))
    waiter = threading.Thread(target=queue.wait_for_room, args=(8, 60))
    waiter.start()
    queue.close()
    waiter.join(5)
    assert not waiter.is_alive()
    assert not queue.put(of_frame(1))
    assert not queue.finished
    assert numbers(queue) == [0]
    assert queue.finished
