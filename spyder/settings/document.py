"""One YAML document as text, lists and mappings: the grammar of a settings file, without the guesses.

A scalar stays text until the key's own type reads it, so that YAML's guesses cannot harm (`no` is Norway where a
top-level domain is meant, `1:30` is no number of seconds in base 60). The document may be hostile. One reader, one
thread.
"""

from collections.abc import Iterator
from typing import Any, Final

import yaml

from spyder.settings.problems import Unreadable
from spyder.settings.values import KeyPath, Raw

# Room for every country's top-level domain and a few thousand networks; read in under a second.
MAX_VALUES: Final = 20_000
MAX_DEPTH: Final = 6  # a key of one of `api.keys` lies at depth 4


class Document:
    """One YAML document as text, lists and mappings, with the line of every key.

    Bounded: aliases, tags and more than `MAX_VALUES` values or `MAX_DEPTH` levels are refused as they come.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.repeated: list[tuple[KeyPath, int]] = []
        self._text = text
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._values_left = MAX_VALUES

    def read_mapping(self) -> dict[str, Raw]:
        """Return a document that is a mapping, or empty; raises `Unreadable`."""
        tree = self.read() or {}
        if not isinstance(tree, dict):
            raise Unreadable("must hold keys with values (key: value)", 1)
        return tree

    def read(self) -> Raw:
        """Return the document; raises `Unreadable`."""
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place, line = (f" (column {mark.column + 1})", mark.line + 1) if mark else ("", None)
            raise Unreadable(f"{error.problem or error.context}{place}", line) from None
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            raise Unreadable("holds a control character", line) from None
        except (ValueError, OverflowError):  # a directive or an escape with a number beyond all bounds
            raise Unreadable("holds a number that YAML does not allow") from None

    def _document(self) -> Raw:
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _refused(after, "a second document begins; keep one")
        return value

    def _value(self, event: Any, path: KeyPath) -> Raw:
        self._values_left -= 1
        if self._values_left < 0 or len(path) > MAX_DEPTH:
            raise _refused(event, f"more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        if event.anchor is not None:
            raise _refused(event, "anchors (&) and aliases (*) are not understood; write the value out")
        if event.tag is not None:
            raise _refused(event, "tags (!) are not understood; write the plain value")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        plain = event.implicit[0]
        return None if plain and event.value in ("", "~", "null", "Null", "NULL") else str(event.value)

    def _list(self, path: KeyPath) -> Raw:
        items: list[Raw] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, str(len(items)))))
        return items

    def _mapping(self, path: KeyPath) -> Raw:
        tree: dict[str, Raw] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused(event, "a key must be text")
            here, line = (*path, event.value), _line(event)
            if event.value in tree:
                self.repeated.append((here, line))
            self.lines[here] = line
            tree[event.value] = self._value(next(self._events), here)
        return tree


def _refused(event: Any, message: str) -> Unreadable:
    return Unreadable(f"{message} (column {event.start_mark.column + 1})", _line(event))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
