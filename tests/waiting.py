"""How tests wait: for a thread that they start, and for a condition with a limit, never for a time to pass."""

import threading
import time
from collections.abc import Callable

LIMIT_S = 20.0  # of a wait for what takes milliseconds, on a machine that is busy


def started(work: Callable[..., object], *arguments: object) -> threading.Thread:
    """Return a thread that has begun to work."""
    thread = threading.Thread(target=work, args=arguments, name="test", daemon=True)
    thread.start()
    return thread


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Return as soon as the condition holds; fail after the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not so within {limit_s:g} s"
        time.sleep(0.002)
