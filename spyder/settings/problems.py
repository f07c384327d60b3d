"""What is wrong with the settings, in words that are safe and short enough for a terminal and a log.

The lowest file of the package. `Problem` and `BadSettings` are immutable values; any thread may hold them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_PROBLEMS: Final = 100
SHOWN_CHARS: Final = 60
MESSAGE_CHARS: Final = 400


class Problem(NamedTuple):
    """One thing that is wrong with the settings."""

    path: str
    """The key, `crawling.concurrency`; empty where a file as a whole is meant."""
    where: str
    """`file /etc/spyder/spyder.yaml line 12`, `environment SPYDER_UA`, `--set`."""
    message: str
    """What is wrong and what to do; never holds the value of a secret."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class BadSettings(Exception):
    """The settings cannot be used. `str()` is one problem a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        left_out = len(problems) - MAX_PROBLEMS
        more = (Problem("", "", f"and {left_out} more problems"),) if left_out > 0 else ()
        self.problems = tuple(problems[:MAX_PROBLEMS]) + more
        super().__init__("\n".join(map(str, self.problems)))


class Unreadable(Exception):
    """Text is no settings file; `line` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def quoted(value: object) -> str:
    """Return a refused value as a message holds it."""
    return f'"{clipped(value)}"' if isinstance(value, str) else "a list or a mapping"


def clipped(text: str, chars: int = SHOWN_CHARS) -> str:
    """Return text that is safe and short enough for a terminal and a log."""
    short = text if len(text) <= chars else text[:chars] + "…"
    return "".join(char if char.isprintable() else "?" for char in short)
