"""The header fields of every request to an ingest service, of which some come from a file and may change.

Owned by the HTTP destination; any thread.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from spyder.outbox.destinations.delivery import ConfigurationError

MAX_FILE_BYTES: Final = 64 << 10
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # RFC 9110, section 5.6.2
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[ \t\x21-\x7e]*[\x21-\x7e])?")  # RFC 9110, section 5.5, printable ASCII
_OWN: Final = frozenset(
    {"connection", "content-encoding", "content-length", "host", "idempotency-key", "transfer-encoding"}
)
"""They frame the message, or name its receiver or the batch: never the user's to set."""

_Stamp = tuple[int, ...]


class _Unusable(Exception):
    """The file cannot be read, or does not hold headers."""


def checked(name: str, value: str) -> tuple[str, str]:
    """Return a field with its name in lower case; raise `ValueError` with a reason that does not repeat the value."""
    folded = name.lower()
    if _NAME.fullmatch(name) is None:
        raise ValueError("no header name (RFC 9110, section 5.1)")
    if folded in _OWN:
        raise ValueError(f"{name} is set by the program itself")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"the value of {name} is not printable ASCII on one line")
    return folded, value


class HeadersFile:
    """A file of `Name: value` lines, read anew when it has changed, so that a token can be rotated.

    Write the new file beside it and rename: one that is read half-written is either malformed, and then the last good
    headers hold, or refused by the service, and read again when it is whole.
    """

    def __init__(self, path: Path, on_warning: Callable[[str], None]) -> None:
        self._path = path
        self._on_warning = on_warning
        try:
            self._state = self._read()
        except _Unusable as problem:
            raise ConfigurationError(f"output.headers_file: {path}: {problem}") from None
        if self._state[0][-1] & 0o004:
            on_warning(f"output.headers_file: {path} can be read by every user of this machine")

    def current(self) -> Mapping[str, str]:
        """Return the headers that hold now. Warns once for each change that cannot be used."""
        stamp, headers = self._state
        try:
            if _stamp(self._path.stat()) == stamp:
                return headers
            self._state = self._read()
        except (OSError, _Unusable) as problem:
            if stamp != (gone := self._stamp_now()):
                self._on_warning(f"output.headers_file: {self._path}: {problem}; the last good headers hold")
                self._state = gone, headers
        return self._state[1]

    def _stamp_now(self) -> _Stamp:
        try:
            return _stamp(self._path.stat())
        except OSError:
            return (0,)

    def _read(self) -> tuple[_Stamp, dict[str, str]]:
        try:
            with self._path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _Unusable(f"cannot be read: {error.strerror}") from None
        if len(data) > MAX_FILE_BYTES:
            raise _Unusable(f"is larger than {MAX_FILE_BYTES} bytes")
        return stamp, _parsed(data)


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _parsed(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8-sig", "replace").split("\n"), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, _, value = text.partition(":")
        try:
            folded, kept = checked(name, value.strip())
        except ValueError as problem:
            raise _Unusable(f"line {number}: {problem}; each line is Name: value") from None
        if folded in headers:
            raise _Unusable(f"line {number}: {name} is there twice")
        headers[folded] = kept
    if not headers:
        raise _Unusable("holds no header")
    return headers
