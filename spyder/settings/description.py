"""What the tree says of itself: every key with its type, default and names, and every value as it may be shown.

The documents, `config show` and `reading.py` are made from it. Pure; any thread may call what is here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from spyder.settings.tree import Settings
from spyder.settings.values import KeyPath, Kind

PREFIX: Final = "SPYDER_"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What there is to know about one key."""

    path: str
    """As in `--set`: `crawling.concurrency`."""
    type: str
    default: str
    """As it is written in a file."""
    description: str
    environment: tuple[str, ...]
    alias: str | None
    """SPYDER's name for it."""
    unused: bool
    """No code reads it yet."""
    secret: bool
    """Never shown whole."""
    takes_effect: str = "restart"
    """When a changed value is taken up."""


def sections() -> Mapping[str, type[BaseModel]]:
    """Return the sections of the tree by name, in order."""
    fields = Settings.model_fields
    return {name: info.annotation for name, info in fields.items() if _is_section(info)}  # type: ignore[misc]


@cache
def describe() -> Sequence[KeyInfo]:
    """Return every key, in the order of the tree."""
    defaults = Settings()
    return tuple(_describe(path, info, value_at(defaults, path)) for path, info in declarations().items())


def redacted(settings: Settings) -> dict[str, Any]:
    """Return the tree as plain values that a settings file may hold, every secret replaced by `***`."""
    tree: dict[str, Any] = {}
    for path, info in declarations().items():
        place = tree.setdefault(path[0], {}) if path[1:] else tree
        place[path[-1]] = _shown(value_at(settings, path), info)
    return tree


def _is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


@cache
def declarations() -> Mapping[KeyPath, FieldInfo]:
    """Return the declaration of every key."""
    keys: dict[KeyPath, FieldInfo] = {}
    for name, info in Settings.model_fields.items():
        if _is_section(info):
            keys |= {(name, leaf): found for leaf, found in sections()[name].model_fields.items()}
        else:
            keys[(name,)] = info
    return keys


@cache
def aliases() -> Mapping[KeyPath, KeyPath]:
    """Return SPYDER's names of keys, each with ours; a name that is also ours is left out."""
    named = {
        tuple(alias.split(".")): path for path, info in declarations().items() if (alias := marks_of(info)["alias"])
    }
    return {alias: path for alias, path in named.items() if alias != path}


def marks_of(info: FieldInfo) -> Mapping[str, Any]:
    """Return what `tree.key` was told beside the description."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict), "every key is declared by key()"
    return extra


def value_at(settings: Settings, path: KeyPath) -> Any:
    """Return the value of a key."""
    value: Any = settings
    for name in path:
        value = getattr(value, name)
    return value


def _describe(path: KeyPath, info: FieldInfo, default: object) -> KeyInfo:
    marks = marks_of(info)
    own = variable(path)
    return KeyInfo(
        path=".".join(path),
        type=type_text(info),
        default=_written(_shown(default, info)),
        description=info.description or "",
        environment=(own, marks["env"]) if marks["env"] else (own,),
        alias=marks["alias"],
        unused=marks["unused"],
        secret=marks["hide"] is not None,
    )


def variable(path: Sequence[str]) -> str:
    """Return the environment variable of a key: `SPYDER_CRAWLING__CONCURRENCY`."""
    return PREFIX + "__".join(path).upper()


def kind_of(info: FieldInfo) -> Kind | None:
    """Return the `Kind` of a key's type, where it has one."""
    return next((mark for mark in reversed(info.metadata) if isinstance(mark, Kind)), None)


def type_text(info: FieldInfo) -> str:
    """Return what a value of a key is, in words: `whole number from 1 to 4096`."""
    kind = kind_of(info)
    if kind:
        return kind.text
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(get_args(info.annotation))
    if info.annotation is bool:
        return "true or false"
    return ("whole number" if info.annotation is int else "number") + _bounds_text(info)


def _bounds_text(info: FieldInfo) -> str:
    lowest = next((mark.ge for mark in info.metadata if isinstance(mark, annotated_types.Ge)), None)
    highest = next((mark.le for mark in info.metadata if isinstance(mark, annotated_types.Le)), None)
    start = f" from {lowest}" if lowest is not None else " above 0"
    return f"{start} to {highest}" if highest is not None else f"{start} up"


def _shown(value: object, info: FieldInfo) -> Any:
    hide, kind = marks_of(info)["hide"], kind_of(info)
    if hide == "all":
        return _hidden(value)
    if hide == "url":
        return _without_credentials(str(value))
    if value is None:
        return ""
    return kind.show(value) if kind else value


def _hidden(value: object) -> object:
    if isinstance(value, Mapping):
        return dict.fromkeys(value, "***")
    assert isinstance(value, tuple)
    return [{"key": "***", "name": entry.name, "scope": entry.scope} for entry in value]


def _without_credentials(url: str) -> str:
    if "://" not in url:
        return url
    return re.sub(r"(?<=\?).+", "***", re.sub(r"://.*@", "://***@", url))


_plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]*").fullmatch


def _written(value: object) -> str:
    """Return a plain value as a settings file holds it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, str) and _plain(value):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
