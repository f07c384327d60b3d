"""A memory of keys that is bounded in entries, in time and in bytes."""

import threading

from spyder.runtime.seen_table import SeenTable


def test_a_key_is_known_once_it_was_added() -> None:
    """What was added is known, what was not is not."""
    table = SeenTable(1000, ttl_s=60)
    table.add(["a", "b"], now=0.0)
    assert table.contains("a", 1.0)
    assert not table.contains("c", 1.0)


def test_of_many_keys_the_known_ones_come_back_in_their_order() -> None:
    """One call asks about many keys."""
    table = SeenTable(1000, ttl_s=60)
    table.add(["b", "d"], now=0.0)
    assert table.known(["d", "c", "b", "a"], 1.0) == ["d", "b"]


def test_a_key_is_forgotten_after_its_time() -> None:
    """A key lives for `ttl_s`, to the second."""
    table = SeenTable(1000, ttl_s=60)
    table.add(["a"], now=100.0)
    assert table.contains("a", 159.9)
    assert not table.contains("a", 160.0)


def test_a_key_that_is_added_again_lives_anew() -> None:
    """Adding renews."""
    table = SeenTable(1000, ttl_s=60)
    table.add(["a"], now=0.0)
    table.add(["a"], now=50.0)
    assert table.contains("a", 100.0)
    assert len(table) == 1


def test_a_key_added_at_the_first_moment_of_the_clock_counts() -> None:
    """A monotonic clock may begin at 0, which is not the mark of a free slot."""
    table = SeenTable(8, ttl_s=10)
    table.add(["a"], now=0.0)
    assert table.contains("a", 0.0)
    assert len(table) == 1


def test_a_free_slot_is_no_key_not_even_that_whose_hash_is_zero() -> None:
    """The interpreter hashes the empty string to 0, which is also what a free slot holds."""
    table = SeenTable(8, ttl_s=float("inf"))
    assert not table.contains("", 0.0)
    table.add([""], now=0.0)
    assert table.contains("", 0.0)
    assert len(table) == 1


def test_a_full_table_forgets_what_was_added_longest_ago() -> None:
    """With one bucket of eight, the ninth key takes the place of the first."""
    table = SeenTable(8, ttl_s=1e9)
    for number in range(9):
        table.add([f"key{number}"], now=float(number))
    assert table.known([f"key{number}" for number in range(9)], 9.0) == [f"key{number}" for number in range(1, 9)]
    assert len(table) == 8


def test_what_was_renewed_is_not_the_oldest() -> None:
    """Age counts from the last time."""
    table = SeenTable(8, ttl_s=1e9)
    for number in range(8):
        table.add([f"key{number}"], now=float(number))
    table.add(["key0"], now=8.0)
    table.add(["another"], now=9.0)
    assert table.contains("key0", 10.0)
    assert not table.contains("key1", 10.0)


def test_entries_are_bounded_whatever_is_added() -> None:
    """A million keys in a table for a thousand stay within it, rounded up to a power of two."""
    table = SeenTable(1000, ttl_s=1e9)
    table.add((str(number) for number in range(100_000)), now=0.0)
    assert len(table) == 1024


def test_a_half_full_table_forgets_next_to_nothing() -> None:
    """Buckets overflow early by chance only: at half load, fewer than 4 keys of 100 are lost."""
    table = SeenTable(1 << 16, ttl_s=1e9)
    keys = [f"host{number}.test" for number in range(1 << 15)]
    table.add(keys, now=0.0)
    assert len(table.known(keys, 1.0)) > 0.96 * len(keys)


def test_clear_forgets_everything() -> None:
    """After `clear` the table is as new."""
    table = SeenTable(100, ttl_s=60)
    table.add(["a"], now=0.0)
    table.clear()
    assert not table.contains("a", 0.0)
    assert len(table) == 0


def test_many_threads_may_add_and_ask() -> None:
    """No key is lost and none appears from nowhere while eight threads work on one table."""
    table = SeenTable(1 << 17, ttl_s=1e9)
    wrong: list[str] = []

    def work(name: int) -> None:
        for number in range(2000):
            key = f"{name}/{number}"
            if table.contains(key, 1.0):
                wrong.append(key)
            table.add([key], now=1.0)
            if not table.contains(key, 1.0):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(table) == 16_000
