"""Backoff and circuit: how long, how spread, and who gets through."""

import random
import threading
from collections.abc import Iterator

import pytest

from spyder.runtime.backoff import Backoff, Circuit, CircuitState


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return what the test has set."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def _circuit(clock: Clock, failures: int = 5) -> Circuit:
    # without jitter: every wait is its ceiling
    return Circuit(failures_to_open=failures, backoff=Backoff(1.0, 300.0, lambda _, most: most), clock=clock)


def _ticket(circuit: Circuit) -> int:
    ticket = circuit.admit()
    assert ticket is not None
    return ticket


def _open(circuit: Circuit, failures: int = 5) -> None:
    for _ in range(failures):
        circuit.failed(_ticket(circuit))


def test_ceilings_double_up_to_the_cap() -> None:
    """The first failure gives the base, each further one twice as much, and none more than the cap."""
    backoff = Backoff(1.0, 300.0)
    assert [backoff.ceiling_s(each) for each in (1, 2, 3, 9, 10, 11)] == [1, 2, 4, 256, 300, 300]


@pytest.mark.parametrize("failures", [-1, 0, 10**6, 10**30])
def test_no_number_of_failures_is_too_many(failures: int) -> None:
    """Neither none nor a number beyond floats raises."""
    assert 0.0 <= Backoff(1.0, 300.0).delay_s(failures) <= 300.0


def test_the_jitter_is_full() -> None:
    """Waits are spread evenly from 0 to the ceiling: each tenth of it gets a tenth of them."""
    backoff = Backoff(1.0, 300.0, random.Random(1).uniform)
    tenths = [0] * 10
    for _ in range(20_000):
        tenths[int(backoff.delay_s(5) / 1.6)] += 1
    assert all(1_850 < each < 2_150 for each in tenths)


def test_it_opens_after_failures_in_a_row_only(clock: Clock) -> None:
    """A success in between begins the count anew."""
    circuit = _circuit(clock)
    for _ in range(3):
        for _ in range(4):
            circuit.failed(_ticket(circuit))
        circuit.succeeded(_ticket(circuit))
    assert circuit.view().state is CircuitState.CLOSED
    _open(circuit)
    assert circuit.view().state is CircuitState.OPEN
    assert circuit.admit() is None


def test_half_open_lets_one_through(clock: Clock) -> None:
    """After the wait one gets a ticket, the others none until its fate is known."""
    circuit = _circuit(clock)
    _open(circuit)
    clock.now += 0.99
    assert circuit.admit() is None
    clock.now += 0.02
    ticket = _ticket(circuit)
    assert [circuit.admit() for _ in range(3)] == [None] * 3
    circuit.succeeded(ticket)
    assert circuit.view().state is CircuitState.CLOSED
    assert _ticket(circuit) != ticket


def test_a_failed_try_waits_twice_as_long(clock: Clock) -> None:
    """The wait doubles each time that the one which was let through fails, up to the cap."""
    circuit = _circuit(clock)
    _open(circuit)
    waits = []
    for _ in range(11):
        waits.append(circuit.view().wait_s)
        clock.now += waits[-1]
        circuit.failed(_ticket(circuit))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_an_unused_ticket_is_given_back(clock: Clock) -> None:
    """Where the one that was let through found nothing to do, the next may try."""
    circuit = _circuit(clock)
    _open(circuit)
    clock.now += 1
    circuit.unused(_ticket(circuit))
    assert circuit.admit() is not None


def test_late_reports_are_ignored(clock: Clock) -> None:
    """What began before the circuit opened neither closes it nor lengthens the wait, nor opens it once it closed."""
    circuit = _circuit(clock)
    late = [_ticket(circuit) for _ in range(4)]
    _open(circuit)
    assert [circuit.succeeded(late[0]), circuit.failed(late[1])] == [False, False]
    assert circuit.view().wait_s == 1.0
    clock.now += 1
    circuit.succeeded(_ticket(circuit))
    assert circuit.hold(late[2], 60) is False
    circuit.unused(late[3])
    assert circuit.view().state is CircuitState.CLOSED


def test_a_pause_holds_whatever_the_state(clock: Clock) -> None:
    """A pause lets nothing through, closed or half-open; a shorter one does not end it."""
    circuit = _circuit(clock)
    circuit.pause(30)
    circuit.pause(1)
    assert circuit.admit() is None
    clock.now += 30
    assert circuit.admit() is not None


def test_a_hold_lasts_and_ends_by_word_or_time(clock: Clock) -> None:
    """A hold opens at once; `retry_now` lets one through, whose success closes it."""
    circuit = _circuit(clock)
    assert circuit.hold(_ticket(circuit), 60)
    assert (circuit.view().state, circuit.view().wait_s) == (CircuitState.OPEN, 60)
    circuit.retry_now()
    assert circuit.view().state is CircuitState.HALF_OPEN
    ticket = _ticket(circuit)
    assert circuit.admit() is None
    circuit.succeeded(ticket)
    assert circuit.view().state is CircuitState.CLOSED


def test_threads_that_race_get_one_ticket(clock: Clock) -> None:
    """Of many threads that find it half-open, one is let through."""
    circuit = _circuit(clock)
    for _ in range(50):
        _open(circuit)
        clock.now += 1
        found: list[int] = []
        start = threading.Barrier(8)

        def try_it(start: threading.Barrier = start, found: list[int] = found) -> None:
            start.wait()
            ticket = circuit.admit()
            if ticket is not None:
                found.append(ticket)

        for thread in list(_started(try_it, 8)):
            thread.join()
        assert len(found) == 1
        circuit.succeeded(found[0])


def _started(work: object, count: int) -> Iterator[threading.Thread]:
    threads = [threading.Thread(target=work) for _ in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    yield from threads
