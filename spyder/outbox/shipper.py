"""Ships what is spooled, oldest first, and lets a batch leave the disk only when the destination has it.

Place: the end of the path, between the spool and the destination. A pass (`run_pass`) lists the spool in windows and
hands batch after batch to the senders; it is a job of the daemon's scheduler, and what `spyderctl replay-spool` runs.
One pass at a time. Threads: `shipper-N`, the senders, each with one batch at a time, claimed, read, sent and settled;
`shipper-wake`, which runs a pass when a batch was promised. Nothing sleeps here but in waits that `stop` ends.

What a verdict does (`docs/spool.md` has it for people):

    DELIVERED   remove. Where that fails, it is remembered and removed later, not sent again
    TRY_LATER   this batch waits (backoff with full jitter, Retry-After); five in a row open the circuit for all
    HOLD        nothing is sent but one batch a minute, until a person has mended the settings; nothing is parked
    TOO_LARGE   two halves in its place; a single record goes to dead/
    REFUSED     three times over ten minutes: to dead/. Where that would be many, it is the destination that is wrong,
                and everything is held instead

What is remembered of a batch between two tries lives in memory only: after a restart it begins anew, which costs tries
and never a batch.
"""

import itertools
import math
import random
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

from spyder.model.records import rfc3339
from spyder.outbox.destinations.delivery import Delivery, Destination, Verdict
from spyder.outbox.halves import halves_of_payload
from spyder.outbox.payload import BadPayload
from spyder.outbox.spool import BadBatch, Name, Usage
from spyder.runtime.backoff import Backoff, Circuit, CircuitState
from spyder.runtime.durable import DurableError, NotRegular

CONCURRENCY: Final = 4
_WINDOW: Final = 5000
"""Names listed at a time: a megabyte, and twenty listings for a hundred thousand files."""
_BASE_S: Final = 1.0
_CAP_S: Final = 300.0
_FAILURES_TO_OPEN: Final = 5
_RETRY_REMOVAL_S: Final = 30.0
HOLD_S: Final = 60.0
"""Between two tries while everything is held."""
MAX_RETRY_AFTER_S: Final = 3600.0
REFUSALS: Final = 3
REFUSED_OVER_S: Final = 600.0
_BETWEEN_REFUSALS_S: Final = REFUSED_OVER_S / (REFUSALS - 1)
"""Parked after so many refusals over so long: a receiver that is being deployed refuses too (`docs/spool.md`)."""
_JUDGED: Final = 20
_MOST_PARKED: Final = 5
"""Of the last `_JUDGED` batches that were delivered or parked. More is no poison but a receiver's fault."""
_MOST_REFUSED_IN_A_ROW: Final = 20
"""Without one delivery between: the same, noticed before the first of them is parked."""
_MOST_REMEMBERED: Final = 10_000
"""Batches with a state of their own (300 bytes each); of more, those tried longest ago begin anew."""
_NO_TICKET: Final = -1
_MOST_STUCK: Final = 10_000
"""Delivered, yet not removable. With so many the disk needs a person, and nothing more is sent."""

K = TypeVar("K", bound=Hashable)


class CannotReplace(Exception):
    """This source cannot hold halves: the batch stays as it is."""


class BadFile(Exception):
    """A file that is no batch, of a source that is no spool; it is left where it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Held(Protocol):
    """A batch that nobody else holds; `spool.Claim`."""

    @property
    def name(self) -> Name:
        """Under which it is sent; valid once it was read."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def read(self) -> bytes:
        """See `Claim.read`; or raise `BadFile`."""

    def remove(self) -> None:
        """See `Claim.remove`."""

    def bury(self, why: Mapping[str, object]) -> None:
        """See `Claim.bury`."""

    def replace(self, parts: Iterable[tuple[str, bytes]]) -> object:
        """See `Claim.replace`; or raise `CannotReplace`."""

    def release(self) -> None:
        """See `Claim.release`."""


class Source(Protocol[K]):
    """Where batches wait; `spool.Spool`."""

    def ready(self, *, limit: int, after: K | None = None) -> Sequence[K]:
        """See `Spool.ready`."""

    def claim(self, name: K, /) -> Held | None:
        """See `Spool.claim`."""

    def sync(self) -> None:
        """See `Spool.sync`."""

    def usage(self) -> Usage:
        """See `Spool.usage`."""


class Fate(StrEnum):
    """What has become of a batch in one attempt."""

    DELIVERED = "delivered"
    STUCK = "stuck"
    """Delivered, but it could not be removed from the disk; it is removed later."""
    LATER = "later"
    """Not delivered, will be tried again."""
    HELD = "held"
    """Not delivered, since the settings or the destination are wrong."""
    REFUSED = "refused"
    BURIED = "buried"
    SPLIT = "split"
    BAD = "bad"
    """Damaged; in bad/ now, where it could be moved."""
    ELSEWHERE = "elsewhere"
    """Held by another shipper, or gone."""
    UNREADABLE = "unreadable"
    """The disk did not let us read, split or bury it; it is where it was."""
    FAULT = "fault"
    """Our own; it is where it was."""


class Ended(StrEnum):
    """Why a pass ended."""

    DONE = "done"
    """It came to the end of the list."""
    WAITING = "waiting"
    """The circuit is open, or the destination asked for time."""
    STOPPED = "stopped"
    BUSY = "busy"
    """Another pass is under way."""
    DISK = "disk"
    """The spool could not be listed, or holds too much that cannot be removed."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass came to."""

    ended: Ended
    fates: Mapping[Fate, int] = field(default_factory=lambda: MappingProxyType({}))
    """Attempts by their fate."""
    reason: str = ""
    """For people: why it could not go on."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the shipper did so far, and how it stands."""

    fates: Mapping[Fate, int]
    retried: Mapping[str, int]
    """`LATER` by reason: `no_answer`, `http_503` ..."""
    delivered_bytes: int
    last_delivery_at: float | None
    """Seconds since the epoch."""
    in_flight: int
    circuit: CircuitState
    held: bool
    """Whether a person must act."""
    reason: str
    """Why it does not go on, or why the last batch that was not taken was not."""
    wait_s: float
    """Until something is tried again."""
    stuck: int
    """Delivered batches that could not be removed yet."""
    oldest_age_s: float | None
    """Of the batches that wait; None where the spool cannot be listed."""
    listing_failures: int


@dataclass(slots=True)
class _Trial:
    """What is remembered of a batch that was tried and not settled."""

    due_at: float = -math.inf
    attempts: int = 0
    failures: int = 0
    refusals: int = 0
    first_refused_at: float = 0.0


class Shipper(Generic[K]):
    """Moves batches from a source to a destination. `start`, `stop`, `join` are for one thread, the rest for any."""

    def __init__(
        self,
        source: Source[K],
        destination: Destination,
        *,
        concurrency: int = CONCURRENCY,
        park: bool = True,
        keep: bool = False,
        selects: Callable[[K], bool] = lambda _name: True,
        rate_per_s: float = math.inf,
        on_event: Callable[[str], None] = lambda _text: None,
        on_fate: Callable[[K, Fate, str, int], None] = lambda _name, _fate, _detail, _bytes: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Send nothing yet.

        Args:
            source: where batches wait.
            destination: where they go; stays the caller's.
            concurrency: senders.
            park: bury what is refused; False leaves it where it is, and tries it once.
            keep: leave what was delivered on the disk, and send it once.
            selects: which batches are meant at all.
            rate_per_s: batches a second at most, for the sake of the destination.
            on_event: told, in one line for people, when shipping is held up, and when it goes on. Any thread.
            on_fate: told of each attempt: name, fate, why, bytes. Any thread; must not block.
            clock: seconds that only go forward.
            wall_clock: seconds since the epoch.
            uniform: randomness of the jitter.
        """
        self._source = source
        self._destination = destination
        self._concurrency = concurrency
        self._park = park
        self._keep = keep
        self._selects = selects
        self._interval_s = 1.0 / rate_per_s
        self._on_event = on_event
        self._on_fate = on_fate
        self._clock = clock
        self._wall_clock = wall_clock
        self._backoff = Backoff(_BASE_S, _CAP_S, uniform)
        self._circuit = Circuit(failures_to_open=_FAILURES_TO_OPEN, backoff=self._backoff, clock=clock)
        self._changed = threading.Condition()
        self._queue: deque[tuple[K, int]] = deque()
        self._in_flight: set[K] = set()
        self._settled = 0
        self._stopping = self._passing = self._woken = self._unsynced = False
        self._next_at = -math.inf
        self._trials: OrderedDict[K, _Trial] = OrderedDict()
        self._stuck: set[K] = set()
        self._judged: deque[bool] = deque(maxlen=_JUDGED - 1)
        self._refused_in_a_row = 0
        self._distrusted = False
        self._left: set[K] = set()
        self._obstacle = self._held_for = self._disk_trouble = self._told = ""
        self._fates: Counter[Fate] = Counter()
        self._retried: Counter[str] = Counter()
        self._delivered_bytes = self._listing_failures = 0
        self._last_delivery_at: float | None = None
        self._threads = [
            threading.Thread(target=self._send_on, name=f"shipper-{number}", daemon=True)
            for number in range(concurrency)
        ]
        self._threads.append(threading.Thread(target=self._pass_on_wake, name="shipper-wake", daemon=True))

    # life

    def start(self) -> None:
        """Start the senders."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing more, and end every wait. What is being sent goes on. Returns at once, may be called twice."""
        with self._changed:
            self._stopping = True
            self._in_flight.difference_update(name for name, _ in self._queue)
            self._queue.clear()
            self._changed.notify_all()

    def join(self, budget_s: float) -> int:
        """Wait until what is being sent is settled, after `stop`; return how many batches still are.

        Closing the destination cuts those off.
        """
        end = time.monotonic() + budget_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        with self._changed:  # a pass that a scheduler runs uses the source until it ends
            self._changed.wait_for(lambda: not self._passing, max(0.0, end - time.monotonic()))
        self._sync()
        with self._changed:
            return len(self._in_flight)

    @property
    def alive(self) -> bool:
        """Whether every thread lives."""
        return all(thread.is_alive() for thread in self._threads)

    def wake(self) -> None:
        """Look for new batches now: one was promised. Returns at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def next_due_s(self) -> float:
        """Return how long there is nothing to do for batches that were tried before; infinite where there are none."""
        now, wait_s = self._clock(), self._circuit.view().wait_s
        with self._changed:
            due_at = min((trial.due_at for trial in self._trials.values()), default=math.inf)
        return max(wait_s, due_at - now, 0.0)

    def retry_now(self) -> None:
        """Try again at once, whatever the circuit and the batches wait for: the settings have changed."""
        with self._changed:
            for trial in self._trials.values():
                trial.due_at = -math.inf
        self._circuit.retry_now()
        self.wake()

    def redirect(self, destination: Destination) -> Destination:
        """Send to another destination from now on; return the one before, which may still be sending."""
        with self._changed:
            before, self._destination = self._destination, destination
        self.retry_now()
        return before

    def statistics(self) -> Statistics:
        """Return what was done so far."""
        circuit = self._circuit.view()
        try:
            oldest_age_s: float | None = self._source.usage().oldest_age_s
        except DurableError:
            oldest_age_s = None
        with self._changed:
            return Statistics(
                fates=MappingProxyType(dict(self._fates)),
                retried=MappingProxyType(dict(self._retried)),
                delivered_bytes=self._delivered_bytes,
                last_delivery_at=self._last_delivery_at,
                in_flight=len(self._in_flight),
                circuit=circuit.state,
                held=bool(self._held_for),
                reason=self._reason_to_wait(),
                wait_s=circuit.wait_s,
                stuck=len(self._stuck),
                oldest_age_s=oldest_age_s,
                listing_failures=self._listing_failures,
            )

    # a pass

    def run_pass(self) -> PassResult:
        """Send what is due, oldest first, and return when all of it is settled. Blocks; ended early by `stop`.

        Raises nothing for what the disk or the destination do.
        """
        with self._changed:
            if self._passing or self._stopping:
                return PassResult(Ended.BUSY if self._passing else Ended.STOPPED)
            self._passing = True
            before = Counter(self._fates)
        try:
            ended = self._run_through()
            self._wait_for_senders()
            self._sync()
        finally:
            with self._changed:
                self._passing = False
                self._changed.notify_all()
                fates = MappingProxyType(dict(self._fates - before))
        return PassResult(ended, fates, self._reason_to_wait())

    def _reason_to_wait(self) -> str:
        return self._disk_trouble or self._held_for or self._obstacle

    def _pass_on_wake(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or (self._woken and not self._passing))
                if self._stopping:
                    return
            try:
                self.run_pass()
            except Exception as error:  # noqa: BLE001 - a thread that died would be missed by nobody
                self._say(f"shipping: fault of our own: {error!r}")

    def _run_through(self) -> Ended:
        after: K | None = None
        while True:
            if after is None:
                with self._changed:
                    self._woken = False
            if self._circuit.view().wait_s > 0:
                return Ended.WAITING
            window = self._listed(after)
            if window is None:
                return Ended.DISK
            for name in window:
                if self._is_due(name) and (end := self._hand_over(name)) is not None:
                    return end
            after = window[-1] if len(window) == _WINDOW else None
            if after is None and not self._is_called_back():
                return Ended.STOPPED if self._stopping else Ended.DONE
            self._sync()

    def _listed(self, after: K | None) -> Sequence[K] | None:
        window: Sequence[K] | None = None
        try:
            window = self._source.ready(limit=_WINDOW, after=after)
            trouble = ""
        except (DurableError, OSError) as error:  # OSError: in the middle of a listing
            trouble = f"the spool cannot be listed: {error}"
            with self._changed:
                self._listing_failures += 1
        if window is not None and len(self._stuck) >= _MOST_STUCK:
            trouble = f"{len(self._stuck)} delivered batches cannot be removed: make the spool directory writable"
            for name in itertools.islice((each for each in window if each in self._stuck), 1):
                self._ship(name, _NO_TICKET)
        with self._changed:
            before, self._disk_trouble = self._disk_trouble, trouble
        if trouble and not before:
            self._say(f"shipping waits, nothing is lost: {trouble}")
        return None if trouble else window

    def _is_called_back(self) -> bool:
        """At the end of the list: wait for the senders, unless there is something new meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._woken or not self._in_flight)
            return self._woken and not self._stopping

    def _is_due(self, name: K) -> bool:
        with self._changed:
            trial = self._trials.get(name)
            waits = trial is not None and trial.due_at > self._clock()
            if waits or name in self._in_flight or name in self._left:
                return False
        return self._selects(name)

    def _hand_over(self, name: K) -> Ended | None:
        """Give a batch to a sender, as soon as there is one, or say why the pass is over."""
        if not self._wait_turn():
            return Ended.STOPPED
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or len(self._in_flight) < self._concurrency)
                settled = self._settled
            ticket = self._circuit.admit()
            with self._changed:
                if self._stopping:
                    return Ended.STOPPED
                if ticket is not None:
                    self._in_flight.add(name)
                    self._queue.append((name, ticket))
                    self._changed.notify_all()
                    return None
                # an answer that is on its way may close the circuit; without one there is nothing to wait for
                if not self._in_flight and self._settled == settled:
                    return Ended.WAITING
                while not self._stopping and self._settled == settled:
                    self._changed.wait()

    def _wait_turn(self) -> bool:
        """Wait as `rate_per_s` has it; False where we stop."""
        if not self._interval_s:
            return True
        now = self._clock()
        self._next_at = max(now, self._next_at + self._interval_s)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, self._next_at - now)
            return not self._stopping

    def _wait_for_senders(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._in_flight)

    def _sync(self) -> None:
        with self._changed:
            unsynced, self._unsynced = self._unsynced, False
        if unsynced:
            try:
                self._source.sync()
            except DurableError as error:
                self._say(f"removals may come back after a power cut, and be sent again: {error}")

    # a sender

    def _send_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._queue)
                if self._stopping:
                    return
                name, ticket = self._queue.popleft()
            try:
                self._ship(name, ticket)
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch is on the disk and others wait
                self._put_off(name, error)
                self._tell(name, Fate.FAULT, f"fault of our own: {error!r}")
                self._say(f"shipping {name}: fault of our own: {error!r}")
            finally:
                self._circuit.unused(ticket)  # where nobody has reported with it
                self._say_what_changed()
                with self._changed:
                    self._in_flight.discard(name)
                    self._settled += 1
                    self._changed.notify_all()

    def _ship(self, name: K, ticket: int) -> None:
        try:
            held = self._source.claim(name)
        except (BadBatch, NotRegular) as damage:
            self._set_aside(name, damage)
            return
        except DurableError as error:
            self._put_off(name, error)
            return
        if held is None:
            self._tell(name, Fate.ELSEWHERE, "held by another shipper, or gone")
            return
        try:
            if name in self._stuck:
                self._remove(name, held)
            else:
                self._send(name, held, ticket)
        except (BadBatch, BadFile) as damage:
            self._set_aside(name, damage)
        except DurableError as error:
            self._put_off(name, error)
        finally:
            held.release()

    def _send(self, name: K, held: Held, ticket: int) -> None:
        payload = held.read()
        with self._changed:
            destination = self._destination
        delivery = destination.send(held.name.batch_id, payload)
        with self._changed:
            trial = self._trials.pop(name, None) or _Trial()
            trial.attempts += 1
            self._trials[name] = trial
            while len(self._trials) > _MOST_REMEMBERED:
                self._trials.popitem(last=False)
        if delivery.verdict is Verdict.DELIVERED:
            self._delivered(name, held, ticket)
        elif delivery.verdict is Verdict.TRY_LATER:
            self._failed(name, trial, delivery, ticket)
        elif delivery.verdict is Verdict.HOLD:
            self._hold(ticket, delivery.detail)
            self._tell(name, Fate.HELD, delivery.detail)
        elif delivery.verdict is Verdict.TOO_LARGE:
            self._too_large(name, held, payload, trial, delivery, ticket)
        else:
            self._refused(name, held, trial, delivery, ticket)

    def _delivered(self, name: K, held: Held, ticket: int) -> None:
        self._circuit.succeeded(ticket)
        with self._changed:
            self._judged.append(False)
            self._refused_in_a_row = 0
            self._distrusted = False
            self._obstacle = ""
            self._delivered_bytes += held.size
            self._last_delivery_at = self._wall_clock()
            (self._left if self._keep else self._stuck).add(name)  # stuck until it is removed
        self._tell(name, Fate.DELIVERED, "", held.size)
        if not self._keep:
            self._remove(name, held)

    def _remove(self, name: K, held: Held) -> None:
        try:
            held.remove()
        except DurableError as error:
            with self._changed:
                self._trials.setdefault(name, _Trial()).due_at = self._clock() + _RETRY_REMOVAL_S
            self._tell(name, Fate.STUCK, f"delivered, but it cannot be removed: {error}")
        else:
            with self._changed:
                self._trials.pop(name, None)
                self._stuck.discard(name)
                self._unsynced = True

    def _failed(self, name: K, trial: _Trial, delivery: Delivery, ticket: int) -> None:
        asked_s = _asked_s(delivery.retry_after_s)
        if delivery.http_status == 409:  # it still works at an earlier try of this batch: no fault of the destination
            self._circuit.succeeded(ticket)
        else:
            with self._changed:
                if self._circuit.failed(ticket):
                    self._held_for, self._obstacle = "", delivery.detail
            if asked_s:
                self._circuit.pause(asked_s)
        with self._changed:
            trial.failures += 1
            trial.due_at = self._clock() + max(asked_s, self._backoff.delay_s(trial.failures))
            self._retried[_reason(delivery)] += 1
        self._tell(name, Fate.LATER, delivery.detail)

    def _hold(self, ticket: int, detail: str) -> None:
        with self._changed:
            if self._circuit.hold(ticket, HOLD_S):
                self._held_for = detail

    def _too_large(self, name: K, held: Held, payload: bytes, trial: _Trial, delivery: Delivery, ticket: int) -> None:
        reason = "too large, and a single record"
        try:
            halves = halves_of_payload(held.name.batch_id, payload)
            if halves and not self._keep:
                self._circuit.succeeded(ticket)
                held.replace(halves)
                with self._changed:
                    self._trials.pop(name, None)
                    self._unsynced = True
                self._tell(name, Fate.SPLIT, delivery.detail, held.size)
                self.wake()
                return
        except (BadPayload, CannotReplace, ValueError) as error:  # ValueError: halved as often as an id can tell
            reason = f"too large, and cannot be halved: {error}"
        self._give_up(name, held, trial, delivery, ticket, reason)

    def _refused(self, name: K, held: Held, trial: _Trial, delivery: Delivery, ticket: int) -> None:
        now = self._clock()
        with self._changed:
            self._refused_in_a_row += 1
            all_of_them = self._distrusted or self._refused_in_a_row >= _MOST_REFUSED_IN_A_ROW
            trial.refusals += 1
            if trial.refusals == 1:
                trial.first_refused_at = now
            trial.due_at = now + _BETWEEN_REFUSALS_S
            over = trial.refusals >= REFUSALS and now - trial.first_refused_at >= REFUSED_OVER_S
        if all_of_them:
            self._distrust(name, delivery, ticket)
        elif over or not self._park:
            self._give_up(name, held, trial, delivery, ticket, "refused")
        else:
            self._circuit.succeeded(ticket)
            self._tell(name, Fate.REFUSED, delivery.detail)

    def _give_up(self, name: K, held: Held, trial: _Trial, delivery: Delivery, ticket: int, reason: str) -> None:
        """Park a batch, unless that happens too often."""
        if not self._park:
            self._circuit.succeeded(ticket)
            with self._changed:
                self._left.add(name)
            self._tell(name, Fate.REFUSED, f"{reason}: {delivery.detail}")
            return
        with self._changed:
            too_many = sum(self._judged) >= _MOST_PARKED
            trial.due_at = self._clock() + _BETWEEN_REFUSALS_S
            if not too_many:
                self._judged.append(True)
        if too_many:
            self._distrust(name, delivery, ticket)
            return
        self._circuit.succeeded(ticket)
        held.bury({
            "batch_id": held.name.batch_id,
            "reason": reason,
            "http_status": delivery.http_status,
            "detail": delivery.detail,
            "excerpt": delivery.excerpt,
            "attempts": trial.attempts,
            "parked_at": rfc3339(self._wall_clock()),
        })  # fmt: skip
        with self._changed:
            self._trials.pop(name, None)
        self._tell(name, Fate.BURIED, f"{reason}: {delivery.detail}", held.size)
        self._say(f"batch {held.name.batch_id} is in dead/ now: {reason}: {delivery.detail}")

    def _distrust(self, name: K, delivery: Delivery, ticket: int) -> None:
        """Hold everything: so much is refused that it is not the batches' fault."""
        with self._changed:
            self._distrusted = True
        self._hold(ticket, f"the destination refuses so many batches that nothing is parked: {delivery.detail}")
        self._tell(name, Fate.REFUSED, delivery.detail)

    # what is remembered, and told

    def _set_aside(self, name: K, damage: BadBatch | BadFile | NotRegular) -> None:
        """Have nothing more to do with a damaged file, also where it could not be moved away."""
        with self._changed:
            self._trials.pop(name, None)
            self._left.add(name)
        moved = isinstance(damage, BadBatch) and damage.moved
        reason = str(damage) if isinstance(damage, NotRegular) else damage.reason
        self._tell(name, Fate.BAD, f"damaged: {reason}{'; it is in bad/ now' if moved else ''}")

    def _put_off(self, name: K, error: Exception) -> None:
        with self._changed:
            trial = self._trials.setdefault(name, _Trial())
            trial.failures += 1
            trial.due_at = self._clock() + self._backoff.delay_s(trial.failures)
        if isinstance(error, DurableError):
            self._tell(name, Fate.UNREADABLE, str(error))

    def _tell(self, name: K, fate: Fate, detail: str, size: int = 0) -> None:
        with self._changed:
            self._fates[fate] += 1
        with suppress(Exception):  # who looks on must not hinder
            self._on_fate(name, fate, detail, size)

    def _say(self, text: str) -> None:
        with suppress(Exception):  # a log that cannot be written must not hinder
            self._on_event(text)

    def _say_what_changed(self) -> None:
        """Say it once when nothing goes through any more, for another reason, or again."""
        with self._changed:
            is_open = self._circuit.view().state is not CircuitState.CLOSED
            if not is_open:
                self._held_for = ""
            before, self._told = self._told, (self._held_for or "failures") if is_open else ""
            told, last = self._told, self._obstacle
        if told == before:
            return
        if not told:
            self._say("shipping goes on")
        elif told == "failures":
            self._say(f"shipping waits, nothing is lost: too many failures in a row, the last: {last}")
        else:
            self._say(f"shipping is held, nothing is lost: {told}. Mend it and reload; tried every {HOLD_S:.0f} s")


def _asked_s(retry_after_s: float | None) -> float:
    """Return how long the destination asks us to wait, whatever nonsense it asks."""
    if retry_after_s is None or math.isnan(retry_after_s):
        return 0.0
    return min(max(0.0, retry_after_s), MAX_RETRY_AFTER_S)


def _reason(delivery: Delivery) -> str:
    """Return a label of which there are few, whatever statuses a destination makes up."""
    status = delivery.http_status
    if status is None:
        return "no_answer"
    return f"http_{status}" if status in (408, 409, 425, 429, 500, 502, 503, 504) else f"http_{status // 100}xx"
