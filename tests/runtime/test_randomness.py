"""Random bits by the block: as many as asked for, never the same ones twice, from any thread."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from spyder.runtime.randomness import Randomness


@pytest.mark.parametrize("count", [1, 7, 8, 16, 32, 2040, 65536])
def test_as_many_bits_as_asked_for(count: int) -> None:
    """Never more, and over many draws each of them is set and clear at some time."""
    randomness = Randomness()
    ones = zeros = 0
    for _ in range(64):
        drawn = randomness.bits(count)
        assert drawn.bit_length() <= count
        ones |= drawn
        zeros |= ~drawn
    every = (1 << count) - 1
    assert ones == every
    assert zeros & every == every


def test_every_octet_of_the_source_is_used_once() -> None:
    """Draws are the octets of the source in their order; what is left of a block is not stretched."""
    blocks = iter(os.urandom(8192) for _ in range(3))
    given: list[bytes] = []

    def source(size: int) -> bytes:
        assert size == 8192
        given.append(next(blocks))
        return given[-1]

    randomness = Randomness(source)
    drawn = b"".join(randomness.bits(24).to_bytes(3) for _ in range(3000))
    assert drawn == given[0][:8190] + given[1][:810]


def test_threads_never_draw_the_same_octets() -> None:
    """32 bits drawn 40,000 times by eight threads: as many different numbers as chance has it."""
    randomness = Randomness()
    with ThreadPoolExecutor(8) as workers:
        drawn = [
            number
            for part in workers.map(lambda _: [randomness.bits(64) for _ in range(5000)], range(8))
            for number in part
        ]
    assert len(set(drawn)) == 40_000
