"""A queue with room for so many items, and an end."""

from collections import Counter

import pytest

from spyder.runtime.bounded_queue import BoundedQueue, Closed
from tests.waiting import started, wait_until


def test_items_leave_in_the_order_in_which_they_came() -> None:
    """First in, first out."""
    queue: BoundedQueue[int] = BoundedQueue(3)
    for item in (1, 2, 3):
        queue.put(item)
    assert [queue.take() for _ in range(3)] == [1, 2, 3]


def test_put_waits_for_room() -> None:
    """A full queue holds who puts until somebody takes."""
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    putter = started(lambda: queue.put(2))
    putter.join(0.05)
    assert putter.is_alive()
    assert queue.take() == 1
    assert queue.take() == 2
    putter.join(5)
    assert not putter.is_alive()


def test_take_waits_for_an_item() -> None:
    """An empty queue holds who takes until somebody puts."""
    queue: BoundedQueue[int] = BoundedQueue(1)
    taken: list[int] = []
    taker = started(lambda: taken.append(queue.take()))
    queue.put(7)
    taker.join(5)
    assert taken == [7]


def test_a_closed_queue_gives_what_it_holds_and_then_ends() -> None:
    """Closing loses nothing."""
    queue: BoundedQueue[int] = BoundedQueue(2)
    queue.put(1)
    assert queue.close() == []
    assert queue.take() == 1
    with pytest.raises(Closed):
        queue.take()


def test_nothing_can_be_put_into_a_closed_queue() -> None:
    """Neither at once, nor by one who has been waiting for room."""
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    refused: list[bool] = []

    def put() -> None:
        try:
            queue.put(2)
        except Closed:
            refused.append(True)

    waiting = started(put)
    queue.close()
    waiting.join(5)
    assert refused == [True]
    with pytest.raises(Closed):
        queue.put(3)
    assert len(queue) == 1


def test_closing_wakes_all_who_take() -> None:
    """No taker of many sleeps on after the end."""
    queue: BoundedQueue[int] = BoundedQueue(1)
    ended = Counter[str]()

    def take() -> None:
        with pytest.raises(Closed):
            queue.take()
        ended["takers"] += 1

    takers = [started(take) for _ in range(20)]
    queue.close()
    for taker in takers:
        taker.join(5)
    assert ended["takers"] == 20


def test_closing_may_give_back_what_was_not_taken() -> None:
    """With `discard`, the items come back in order, once, and takers find the end."""
    queue: BoundedQueue[int] = BoundedQueue(3)
    for item in (1, 2, 3):
        queue.put(item)
    assert queue.take() == 1
    assert queue.close(discard=True) == [2, 3]
    assert queue.close(discard=True) == []
    with pytest.raises(Closed):
        queue.take()


def test_nothing_is_lost_or_doubled_between_many_threads() -> None:
    """Eight putters and eight takers over a queue of four: every item arrives exactly once."""
    queue: BoundedQueue[int] = BoundedQueue(4)
    taken: list[list[int]] = [[] for _ in range(8)]

    def put(begin: int) -> None:
        for item in range(begin, begin + 1000):
            queue.put(item)

    def take(into: list[int]) -> None:
        try:
            while True:
                into.append(queue.take())
        except Closed:
            pass

    takers = [started(take, into) for into in taken]
    putters = [started(put, begin) for begin in range(0, 8000, 1000)]
    for thread in putters:
        thread.join(30)
    queue.close()
    for thread in takers:
        thread.join(30)
    assert sorted(item for into in taken for item in into) == list(range(8000))


def test_items_that_are_discarded_are_given_back_exactly_once_under_load() -> None:
    """What was put is either taken or given back, also when the close comes in the middle."""
    queue: BoundedQueue[int] = BoundedQueue(16)
    put: list[int] = []
    taken: list[int] = []

    def feed() -> None:
        try:
            for item in range(1_000_000):
                queue.put(item)
                put.append(item)
        except Closed:
            pass

    def drain() -> None:
        try:
            while True:
                taken.append(queue.take())
        except Closed:
            pass

    threads = [started(feed), started(drain)]
    wait_until(lambda: len(taken) > 100)
    back = queue.close(discard=True)
    for thread in threads:
        thread.join(5)
    assert [*taken, *back] == put
