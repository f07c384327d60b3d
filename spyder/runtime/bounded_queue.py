"""A queue with room for so many items and an end: who puts waits for room, who takes waits for items."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The queue was closed: nothing can be put, or nothing is left to take."""


class BoundedQueue(Generic[T]):
    """First in, first out. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        lock = threading.Lock()
        self._not_full = threading.Condition(lock)
        self._not_empty = threading.Condition(lock)

    def put(self, item: T) -> None:
        """Append an item; blocks while the queue is full, and then until half of it is free.

        Waking who puts for every item that is taken would cost a switch of threads an item.

        Raises:
            Closed: the queue was closed, before or while this call waited.
        """
        with self._not_full:
            while len(self._items) >= self._capacity and not self._closed:
                self._not_full.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self._not_empty.notify()

    def take(self) -> T:
        """Remove and return the oldest item; blocks while the queue is empty and open.

        Raises:
            Closed: the queue was closed and is empty.
        """
        with self._not_empty:
            while not self._items:
                if self._closed:
                    raise Closed
                self._not_empty.wait()
            item = self._items.popleft()
            if len(self._items) <= self._capacity // 2:
                self._not_full.notify_all()
            return item

    def close(self, *, discard: bool = False) -> list[T]:
        """Let nothing more be put; with `discard`, also drop and return what was not taken. May be called twice."""
        with self._not_full:
            self._closed = True
            left = list(self._items) if discard else []
            if discard:
                self._items.clear()
            self._not_full.notify_all()
            self._not_empty.notify_all()
        return left

    def __len__(self) -> int:
        """Return the number of items that wait."""
        with self._not_full:
            return len(self._items)
