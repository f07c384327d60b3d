"""Workers wait for their turn at a host, and no longer than they may."""

import time

from spyder.policy.pacing import Pacer
from tests.waiting import started, wait_until


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_the_first_request_to_a_host_waits_for_nothing() -> None:
    """A host that was not asked lately is free."""
    pacer = Pacer(rate_per_host=1, burst=1)
    begun = time.monotonic()
    assert pacer.wait("a.test", begun + 60)
    assert pacer.wait("b.test", begun + 60)
    assert time.monotonic() - begun < 0.5


def test_the_next_one_waits_for_its_turn() -> None:
    """At 20 requests a second the second one comes 50 ms later."""
    pacer = Pacer(rate_per_host=20, burst=1)
    begun = time.monotonic()
    assert pacer.wait("a.test", begun + 60)
    assert pacer.wait("a.test", begun + 60)
    assert time.monotonic() - begun >= 0.049


def test_a_turn_after_the_deadline_is_refused_at_once() -> None:
    """Nobody sleeps towards a turn that comes too late."""
    clock = Clock()
    pacer = Pacer(rate_per_host=0.001, burst=1, clock=clock)
    assert pacer.wait("a.test", clock() + 30)
    begun = time.monotonic()
    assert not pacer.wait("a.test", clock() + 30)
    assert time.monotonic() - begun < 1


def test_a_refusal_costs_the_others_nothing() -> None:
    """A hundred who were refused have not taken the turn of the one who can wait."""
    clock = Clock()
    pacer = Pacer(rate_per_host=1, burst=1, clock=clock)
    assert pacer.wait("a.test", clock() + 30)
    assert not any(pacer.wait("a.test", clock() + 0.5) for _ in range(100))
    clock.now_s += 1
    assert pacer.wait("a.test", clock() + 0.5)


def test_a_deadline_that_is_over_is_a_refusal() -> None:
    """Not even a free host is asked when the time is over."""
    clock = Clock()
    assert not Pacer(rate_per_host=1, burst=5, clock=clock).wait("a.test", clock())


def test_stop_wakes_those_who_wait_and_refuses_the_rest() -> None:
    """A stop is not held up by the pace of a host."""
    clock = Clock()
    pacer = Pacer(rate_per_host=0.01, burst=1, clock=clock)
    pacer.wait("a.test", clock() + 1000)
    turns: list[bool] = []
    waiting = started(lambda: turns.append(pacer.wait("a.test", clock() + 1000)))
    waiting.join(0.05)
    assert waiting.is_alive()
    pacer.stop()
    pacer.stop()
    wait_until(lambda: turns == [False])
    waiting.join(5)
    assert not pacer.wait("b.test", clock() + 1000)
