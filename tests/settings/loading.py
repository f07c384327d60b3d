"""What loading gives: the value of a key, or the problems."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from spyder.settings import BadSettings, Problem, Settings, load

Write = Callable[..., Path]


def value_of(tree: Settings, path: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = tree
    for name in path.split("."):
        value = getattr(value, name)
    return value


def problems_of(
    path: Path | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] = MappingProxyType({})
) -> tuple[Problem, ...]:
    """Return the problems that loading must have."""
    with pytest.raises(BadSettings) as caught:
        load(path, overrides=overrides, environ=environ)
    return caught.value.problems


def outcome(path: Path | None = None, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Return the problems that loading has, if any; they can be printed."""
    try:
        load(path, overrides=overrides, environ={})
    except BadSettings as error:
        str(error).encode()
        return error.problems
    return ()


def set_value(path: str, text: str) -> Any:
    """Return the value that a key has after `--set`."""
    return value_of(load(overrides=[f"{path}={text}"], environ={}).settings, path)


def refusal(path: str, text: str) -> str:
    """Return the message that one `--set` gives."""
    (problem,) = problems_of(overrides=[f"{path}={text}"])
    return problem.message
