"""Keys are claimed when seen, committed when promised, released when lost."""

import random
import threading
import time
from collections import Counter

from spyder.outbox.dedup import Dedup
from tests.reports import domain, edge


def dedup(**changes: float) -> Dedup:
    """Return a memory for 100,000 keys and an hour."""
    settings = {"max_entries": 100_000, "ttl_s": 3600.0, **changes}
    return Dedup(max_entries=int(settings["max_entries"]), ttl_s=settings["ttl_s"])


def test_what_nobody_has_seen_is_claimed() -> None:
    """Things come back as they were given, with their keys."""
    things = [domain("a.test"), domain("b.test")]
    (fresh,), keys = dedup().claim(things)
    assert fresh == things
    assert sorted(keys) == ["domain|a.test", "domain|b.test"]


def test_kinds_come_back_kind_by_kind_in_their_order() -> None:
    """One claim takes a whole report."""
    hosts = [domain("b.test"), domain("a.test")]
    links = [edge("a.test", "b.test"), edge("b.test", "a.test")]
    kept, keys = dedup().claim(hosts, [], links)
    assert kept == [hosts, [], links]
    assert len(keys) == 4


def test_a_key_that_stands_twice_in_one_claim_is_fresh_once() -> None:
    """Also a report that repeats itself says it once."""
    (fresh,), keys = dedup().claim([domain("a.test"), domain("a.test")])
    assert len(fresh) == len(keys) == 1


def test_what_is_claimed_is_not_fresh_for_others() -> None:
    """Two workers do not report the same thing."""
    memory = dedup()
    memory.claim([domain("a.test")])
    assert memory.claim([domain("a.test"), domain("b.test")])[0] == [[domain("b.test")]]


def test_what_is_committed_stays_known() -> None:
    """A promise holds after the claim is gone."""
    memory = dedup()
    _, keys = memory.claim([domain("a.test")])
    memory.commit(keys)
    assert memory.claim([domain("a.test")]) == ([[]], [])


def test_what_is_released_is_fresh_again() -> None:
    """A lost batch is no loss for good."""
    memory = dedup()
    _, keys = memory.claim([domain("a.test")])
    memory.release(keys)
    assert memory.claim([domain("a.test")])[0] == [[domain("a.test")]]


def test_a_refused_claim_gives_nothing_back_that_another_holds() -> None:
    """The claim that stands is not shaken by one that came too late."""
    memory = dedup()
    memory.claim([domain("a.test")])
    _, keys = memory.claim([domain("a.test")])
    memory.release(keys)
    assert memory.claim([domain("a.test")])[0] == [[]]


def test_a_known_key_does_not_stay_claimed() -> None:
    """After its time a committed key is fresh, though it was asked for meanwhile."""
    now_s = [0.0]
    memory = Dedup(max_entries=1000, ttl_s=60, clock=lambda: now_s[0])
    memory.commit(memory.claim([domain("a.test")])[1])
    assert memory.claim([domain("a.test")])[0] == [[]]
    now_s[0] = 61.0
    assert memory.claim([domain("a.test")])[0] == [[domain("a.test")]]


def test_the_number_of_keys_is_known() -> None:
    """Remembered and claimed keys count, each once."""
    memory = dedup()
    memory.commit(memory.claim([domain("a.test")])[1])
    memory.claim([domain("a.test"), domain("b.test")])
    assert len(memory) == 2


def test_a_page_of_known_links_costs_no_more_than_one_of_new_ones() -> None:
    """20,000 links that are all known, as on two hosts with one hostile page: linear, not quadratic."""
    memory = dedup()
    links = [domain(f"host{number}.test") for number in range(20_000)]
    memory.commit(memory.claim(links)[1])
    begun = time.thread_time()
    [again], _ = memory.claim(links)
    assert len(again) < 200  # a full bucket forgets its oldest key; which buckets fill is chance (SipHash)
    assert time.thread_time() - begun < 1.0  # 25 ms; looked up in a list, the known ones took 1.8 s


def test_of_many_threads_each_key_is_fresh_for_exactly_one() -> None:
    """32 threads see the same 2,000 keys, each in its own order; every key is claimed and committed once."""
    memory = dedup()
    fresh = Counter[str]()
    lock = threading.Lock()

    def work(seed: int) -> None:
        things = [domain(f"host{number}.test") for number in range(2000)]
        random.Random(seed).shuffle(things)
        for at in range(0, len(things), 50):
            (mine,), keys = memory.claim(things[at : at + 50])
            with lock:
                fresh.update(thing.host for thing in mine)
            memory.commit(keys)

    run_all(work, 32)
    assert len(fresh) == 2000
    assert set(fresh.values()) == {1}


def test_of_lost_batches_every_key_becomes_fresh_until_one_is_kept() -> None:
    """Threads lose half of what they claim; at the end every key was committed exactly once."""
    memory = dedup()
    committed = Counter[str]()
    lock = threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(30):
            _, keys = memory.claim([domain(f"host{chance.randrange(200)}.test") for _ in range(40)])
            if chance.random() < 0.5:
                memory.release(keys)
            else:
                with lock:
                    committed.update(keys)
                memory.commit(keys)

    run_all(work, 16)
    _, keys = memory.claim([domain(f"host{number}.test") for number in range(200)])
    committed.update(keys)
    assert len(committed) == 200
    assert set(committed.values()) == {1}


def run_all(work: object, count: int) -> None:
    """Run so many threads of a function of their number, and wait for all."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
