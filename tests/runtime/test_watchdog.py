"""Sockets cut off from outside the call that blocks on them: real sockets, and a clock that only the test moves."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from spyder.runtime.watchdog import TICK_S, Watchdog

PATIENCE_S = 5.0
"""Longer than anything here takes: a test that meets it has failed."""
LATE_S = TICK_S + 0.5
"""A cut comes at most a tick late, and a busy machine adds its own."""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """The time of the watchdog under test."""
    return Clock()


@pytest.fixture
def watchdog(clock: Clock) -> Iterator[Watchdog]:
    """A watchdog that runs."""
    running = Watchdog(clock)
    running.start()
    yield running
    running.stop()
    assert running.join(PATIENCE_S)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection: ours, which is watched, and theirs."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def blocked() -> Iterator[Callable[..., "Future[object]"]]:
    """Run a call that blocks on a worker of its own."""
    with ThreadPoolExecutor(8) as workers:
        yield workers.submit


def _let_it_look(watchdog: Watchdog) -> None:
    """Return when the watchdog has looked at every deadline once."""
    ours, theirs = socket.socketpair()
    with ours, theirs, watchdog.watch(ours, 0.0):
        assert ours.recv(1) == b""


def test_a_blocked_read_ends_at_its_deadline(
    watchdog: Watchdog,
    clock: Clock,
    pair: tuple[socket.socket, socket.socket],
    blocked: Callable[..., "Future[object]"],
) -> None:
    """Not before; and then at once, with the end of the stream."""
    ours, _ = pair
    with watchdog.watch(ours, clock() + 10) as watch:
        reading = blocked(ours.recv, 1)
        clock.now_s += 9.9
        _let_it_look(watchdog)
        assert not reading.done()
        assert not watch.expired
        clock.now_s += 0.1
        assert reading.result(LATE_S) == b""
        assert watch.expired


def test_a_blocked_write_ends_at_its_deadline(
    watchdog: Watchdog,
    clock: Clock,
    pair: tuple[socket.socket, socket.socket],
    blocked: Callable[..., "Future[object]"],
) -> None:
    """A peer that does not read holds nobody either."""
    ours, _ = pair
    with watchdog.watch(ours, clock() + 10):
        writing = blocked(ours.sendall, bytes(10 * 2**20))
        clock.now_s += 10
        with pytest.raises(BrokenPipeError):
            writing.result(LATE_S)


def test_a_blocked_connect_ends_at_its_deadline(
    watchdog: Watchdog, clock: Clock, blocked: Callable[..., "Future[object]"]
) -> None:
    """Also where the kernel still waits for the first packet of the other side."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # until the backlog is full, and SYNs are dropped
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        ours = stack.enter_context(socket.socket())
        stack.enter_context(watchdog.watch(ours, clock() + 10))
        connecting = blocked(ours.connect, listener.getsockname())
        _let_it_look(watchdog)
        assert not connecting.done()
        clock.now_s += 10
        with pytest.raises(OSError, match=r".+"):
            connecting.result(LATE_S)


def test_a_drip_does_not_put_a_deadline_off(
    watchdog: Watchdog, clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Bytes that keep coming do not keep a connection."""
    ours, theirs = pair
    with watchdog.watch(ours, clock() + 10) as watch:
        while not watch.expired:
            theirs.send(b"x")
            assert ours.recv(1) == b"x"
            clock.now_s += 1
            _let_it_look(watchdog)
        assert clock.now_s <= 1011
        assert ours.recv(1) == b""


def test_a_deadline_may_be_moved(watchdog: Watchdog, clock: Clock, pair: tuple[socket.socket, socket.socket]) -> None:
    """Later or sooner, at any time."""
    ours, _ = pair
    with watchdog.watch(ours, clock() + 10) as watch:
        watch.deadline = clock() + 100
        clock.now_s += 50
        _let_it_look(watchdog)
        assert not watch.expired
        watch.deadline = clock()
        assert ours.recv(1) == b""
        assert watch.expired


def test_a_watch_that_was_released_never_cuts(
    watchdog: Watchdog, clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The socket may go on to be used; releasing twice is nothing."""
    ours, theirs = pair
    with watchdog.watch(ours, clock() + 10) as watch:
        watch.release()
    clock.now_s += 100
    _let_it_look(watchdog)
    assert not watch.expired
    theirs.send(b"x")
    assert ours.recv(1) == b"x"


def test_a_socket_closed_under_watch_harms_nobody(
    watchdog: Watchdog, clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Neither the watchdog nor the socket that has its descriptor's number now."""
    ours, theirs = pair
    gone, other = socket.socketpair()
    number = gone.fileno()
    with watchdog.watch(gone, clock() + 10) as watch:
        gone.close()
        heir = ours.dup()
        assert heir.fileno() == number
        with heir, other:
            clock.now_s += 10
            _let_it_look(watchdog)
            assert watch.expired
            theirs.send(b"x")
            assert heir.recv(1) == b"x"


def test_a_tls_socket_takes_the_place_of_the_one_it_was_made_of(
    watchdog: Watchdog,
    clock: Clock,
    pair: tuple[socket.socket, socket.socket],
    blocked: Callable[..., "Future[object]"],
) -> None:
    """A handshake is cut off like any read, without a goodbye that would block itself."""
    ours, _ = pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with watchdog.watch(ours, clock() + 10) as watch:
        secured = context.wrap_socket(ours, server_hostname="site.test", do_handshake_on_connect=False)
        with secured:
            watch.socket = secured
            shaking = blocked(secured.do_handshake)
            clock.now_s += 10
            with pytest.raises(OSError, match=r".+"):
                shaking.result(LATE_S)


def test_everything_can_be_cut_off_at_once(
    watchdog: Watchdog, clock: Clock, blocked: Callable[..., "Future[object]"]
) -> None:
    """The last resort of a stop: every read ends, whatever its deadline."""
    with ExitStack() as stack:
        reads = []
        for _ in range(8):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            stack.enter_context(watchdog.watch(ours, clock() + 1000))
            reads.append(blocked(ours.recv, 1))
            stack.callback(theirs.close)
        started = time.monotonic()
        watchdog.cut_all()
        assert [read.result(PATIENCE_S) for read in reads] == [b""] * 8
        assert time.monotonic() - started < LATE_S


def test_many_watches_come_and_go_while_it_looks(watchdog: Watchdog, clock: Clock) -> None:
    """Workers begin and end watches all the time; none disturbs another."""
    watched = socket.socket()

    def come_and_go() -> None:
        for _ in range(5_000):
            with watchdog.watch(watched, clock() + 1000):
                pass

    workers = [threading.Thread(target=come_and_go) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
    _let_it_look(watchdog)
    assert watchdog._watches == set()
    watched.close()


def test_a_cut_comes_at_most_a_tick_late() -> None:
    """By the real clock."""
    with _running() as watchdog:
        ours, theirs = socket.socketpair()
        started = time.monotonic()
        with ours, theirs, watchdog.watch(ours, started + 0.2):
            assert ours.recv(1) == b""
        assert 0.2 <= time.monotonic() - started < 0.2 + LATE_S


def test_it_stops_at_once_and_may_be_stopped_twice() -> None:
    """`stop()` returns at once; `join()` tells that the thread has ended."""
    started = time.monotonic()
    with _running() as watchdog:
        watchdog.stop()
    assert time.monotonic() - started < LATE_S


@contextmanager
def _running() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
        assert watchdog.join(PATIENCE_S)
