"""Domain files: the bytes that people have, read as the hosts that they mean.

The first step of the path: what is yielded here becomes tasks. Owned by the thread that iterates; nothing is
shared. Bytes are unpacked, brought to UTF-8 and cut into lines, each with a bound on what it may hold in memory;
a line is read in the first known form that fits. A bad line is a value, never an exception; only a stream that
cannot be read on raises.
"""

import codecs
import csv
import ipaddress
import itertools
import json
import lzma
import operator
import re
import string
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple, Protocol

import zstandard

from spyder.model import names

MAX_LINE_BYTES: Final = 64 * 1024
MAX_EXCERPT_CHARS: Final = 100

REASONS: Final = names.REASONS | {
    "line_too_long": f"a line, or an item between commas, is longer than {MAX_LINE_BYTES} bytes",
    "nul_byte": "the line holds a NUL byte: binary, or UTF-16 without a byte order mark",
    "bad_encoding": "the line is not UTF-8",
    "bad_json": "the line starts as a JSON object does and is none",
    "bad_csv": "the line has no such column as the header names",
    "not_a_host": "a line of a known form that names no host (include:, regexp:, $TTL, an allow rule)",
}
"""Every reason that an `Entry` can have, and what it means."""


class InputError(ValueError):
    """The stream cannot be read on; the entries that came before stand, a line cut short gives none.

    `reason` is one of `truncated` (packed data end too soon), `corrupt` (packed data are wrong, or want more than
    128 MiB of memory), `too_large` (there is more than `max_bytes`) and `unreadable` (the stream raised).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Entry(NamedTuple):
    """What a line, or one item of a line, says: a host, or why there is none."""

    line: int
    """Number of the line, from 1."""
    host: str | None
    """The host as `names.normalise_host` writes it, or None."""
    reason: str | None
    """Why there is no host (a key of `REASONS`), or None."""
    text: str
    """At most `MAX_EXCERPT_CHARS` characters of what was read, escaped to printable ASCII."""
    end: int
    """Where to read on, in bytes of the unpacked stream (of its UTF-8 form without byte order mark, where it is
    UTF-16 or UTF-32): just after the line; just after the item, in a line of more than `MAX_LINE_BYTES`. For a
    plain file this is the offset in the file."""


def read_entries(stream: BinaryIO, *, max_bytes: int | None = None, resume_at: int = 0) -> Iterator[Entry]:
    """Yield an entry for every host in `stream`, which stands at its beginning, and for every line without one.

    Only blank lines, comments (`#`, `;`, `//`, `!`, `-- `, `[Adblock`) and a CSV header yield nothing. Read are
    hosts, `host:port` and URLs; `*.x` and `.x` as x; items between commas or blanks; `rank,host`; CSV with a
    header that names the column (one record a line); hosts files; zone and RPZ records (their owner); `||x^`;
    `domain:x` and `full:x` with `@attributes`; JSON objects with a key such as `domain`. Lines end in LF, CRLF or
    CR. UTF-8, or UTF-16 and UTF-32 by their byte order mark; gzip, zstd and xz by their first bytes, whatever the
    file is called. Duplicates are kept.

    `max_bytes` bounds what is read, unpacked. Entries whose `end` is at most `resume_at` are left out: given the
    `end` of the last entry that is done with, the rest comes with the line numbers of the whole.

    Blocks as `stream` does. Holds less than a megabyte of a plain stream, whatever it says; of a packed one, the
    window (at most 128 MiB) and at most 8 MiB that came out at once. Raises `InputError`.
    """
    reader = _Reader()
    for block in blocks(stream, max_bytes=max_bytes):
        if reader.end + len(block) <= resume_at and reader.may_skip(block):
            reader.skip(block)
        elif reader.end < resume_at:
            yield from (entry for entry in reader.read(block) if entry.end > resume_at)
        else:
            yield from reader.read(block)
    yield from (entry for entry in reader.finish() if entry.end > resume_at)


# --- lines -----------------------------------------------------------------------------------------------------

_Finding = tuple[str | None, str | None, str]  # host, reason, text of an Entry
_LINE_ENDS: Final = (b"\n", b"\r")
_plain = re.compile(rb"(?:[0-9]{1,12},)?(%b)[\r\n]*" % names.PLAIN_HOST.encode("ascii")).fullmatch


def _never(raw: bytes) -> re.Match[bytes] | None:  # noqa: ARG001 - stands in for `_plain`
    return None


class _Reader:
    """Counts lines and bytes, and hands each line to who can read it."""

    def __init__(self) -> None:
        self.end = 0
        self._line = 0
        self._form = _Form()
        self._long: _LongLine | None = None

    def read(self, block: bytes) -> Iterator[Entry]:
        """Yield the entries of a block of whole lines, or of a part of a long line."""
        plain = self._plain()
        for raw in block.splitlines(keepends=True):
            match = plain(raw)
            if match is not None and len(raw) <= names.MAX_NAME_CHARS:
                self._line += 1
                self.end += len(raw)
                host = match[1].decode("ascii")
                yield Entry(self._line, host, None, host, self.end)
            else:
                yield from self._read_odd(raw)
                plain = self._plain()

    def may_skip(self, block: bytes) -> bool:
        return self._form.settled and self._long is None and block.endswith(_LINE_ENDS)

    def skip(self, block: bytes) -> None:
        self._line += len(block.splitlines())
        self.end += len(block)

    def finish(self) -> Iterator[Entry]:
        """Yield what a long line that is the last and has no end still holds."""
        if self._long is not None:
            for finding, end in self._long.finish():
                yield Entry(self._line, *finding, end)

    def _plain(self) -> Callable[[bytes], re.Match[bytes] | None]:
        """Return what recognises a line that is just a host, where such a line means that."""
        return _plain if self._form.settled and self._form.column is None and self._long is None else _never

    def _read_odd(self, raw: bytes) -> Iterator[Entry]:
        start, self.end = self.end, self.end + len(raw)
        if self._long is None:
            self._line += 1
            if len(raw.rstrip(b"\r\n")) <= MAX_LINE_BYTES:
                for finding in self._form.read(raw):
                    yield Entry(self._line, *finding, self.end)
                return
            self._long = _LongLine(raw, start)
        for finding, end in self._long.feed(raw):
            yield Entry(self._line, *finding, end)
        if raw.endswith(_LINE_ENDS):
            yield from self.finish()
            self._long = None


class _LongLine:
    """A line of more than `MAX_LINE_BYTES`: a list between commas, read item by item, or rejected once."""

    def __init__(self, beginning: bytes, start: int) -> None:
        first, comma, _ = beginning[:MAX_LINE_BYTES].partition(b",")
        self._is_list = bool(comma) and _read_piece(first)[0] is not None
        self._pending = b""
        self._end = start

    def feed(self, data: bytes) -> Iterator[tuple[_Finding, int]]:
        """Yield the items that are complete, each with the offset after its comma."""
        end = self._end - len(self._pending)
        self._end += len(data)
        data = self._pending + data
        *pieces, rest = data.split(b",") if self._is_list else (data,)
        # One byte too many says that it is too long; two more may be the line's end.
        self._pending = rest[: MAX_LINE_BYTES + 3]
        for piece in pieces:
            end += len(piece) + 1
            if piece.strip():
                yield _read_piece(piece), end

    def finish(self) -> Iterator[tuple[_Finding, int]]:
        rest = self._pending.rstrip(b"\r\n")
        if rest.strip() or len(rest) > MAX_LINE_BYTES:
            yield _read_piece(rest), self._end


def _read_piece(piece: bytes) -> _Finding:
    if len(piece) > MAX_LINE_BYTES:
        return _rejected(piece[:MAX_EXCERPT_CHARS].decode("latin-1"), "line_too_long")
    text, reason = _legible(piece)
    return _rejected(text, reason) if reason else _read_item(text)


def _legible(raw: bytes) -> tuple[str, str | None]:
    """Return the text of a line, and the reason why it is none."""
    if b"\0" in raw:
        return raw.decode("latin-1"), "nul_byte"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "bad_encoding"
    return text, "bad_encoding" if "\ufffd" in text else None


def _rejected(text: str, reason: str) -> _Finding:
    return None, reason, _excerpt(text)


def _excerpt(text: str) -> str:
    return text[:MAX_EXCERPT_CHARS].encode("unicode_escape").decode("ascii")[:MAX_EXCERPT_CHARS]


# --- forms -----------------------------------------------------------------------------------------------------

# What pasting leaves around a name: blanks, byte order marks, zero-width and direction marks.
_AROUND: Final = (
    string.whitespace + "\xa0\xad\u3000\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u202a\u202b\u202c\u202d\u202e"
)
# Keys of JSON objects and columns of CSV files that hold a host, the surest first.
_HOST_KEYS: Final = ("domain", "host", "hostname", "fqdn", "domain_name", "url", "origin", "website", "site", "name")
_comment = re.compile(r"[#;!]|//|--(?:\s|$)|\[adblock", re.IGNORECASE).match
_nameless = re.compile(r"[@$]|(?:include|regexp|keyword):", re.IGNORECASE).match
_trailing_comment = re.compile(r"\s[#;]").search


class _Form:
    """What the first line that says something tells of the others: a CSV header, or nothing."""

    def __init__(self) -> None:
        self.settled = False
        self.column: int | None = None
        self._delimiter = ","

    def read(self, raw: bytes) -> Iterable[_Finding]:
        text, reason = _legible(raw)
        if reason:
            return [_rejected(text, reason)]
        text = text.strip(_AROUND)
        if not text or _comment(text):
            return ()
        if not self.settled:
            self.settled = True
            self._read_header(text)
            if self.column is not None:
                return ()
        if self.column is not None:
            return [self._read_record(text, self.column)]
        return _read_line(text)

    def _read_header(self, text: str) -> None:
        self._delimiter = next((char for char in ",\t;" if char in text), ",")
        cells = [cell.strip(_AROUND).lower() for cell in _csv_cells(text, self._delimiter)]
        if not any(_read_item(cell)[0] for cell in cells):
            self.column = next((cells.index(key) for key in _HOST_KEYS if key in cells), None)

    def _read_record(self, text: str, column: int) -> _Finding:
        cells = _csv_cells(text, self._delimiter)
        return _read_item(cells[column]) if column < len(cells) else _rejected(text, "bad_csv")


def _csv_cells(text: str, delimiter: str = ",") -> list[str]:
    if '"' not in text:
        return text.split(delimiter)
    return next(csv.reader([text], delimiter=delimiter), [])


def _read_line(text: str) -> Iterable[_Finding]:
    """Read a line that is neither blank nor a comment; return at least one finding."""
    if text[0] == "{":
        return [_read_json(text)]
    if _nameless(text):
        return [_rejected(text, "not_a_host")]
    if text.startswith("||"):  # https://help.adblockplus.org/hc/en-us/articles/360062733293, "||" and "^"
        return [_read_item(re.split(r"[\^$|]", text[2:], maxsplit=1)[0])]
    if comment := _trailing_comment(text):
        text = text[: comment.start()]
    text = re.sub(r"^(?:domain|full):", "", text, flags=re.IGNORECASE)
    return _read_words(text, text.split())


def _read_words(text: str, words: list[str]) -> Iterable[_Finding]:
    if len(words) > 1:
        if _is_address(words[0]):
            return map(_read_item, words[1:])
        if _is_record(words):
            return [_read_item(words[0])]
        while len(words) > 1 and words[-1][0] == "@":
            words.pop()
            text = " ".join(words)
    if "," in text:
        return _read_list(text)
    if len(words) == 2 and words[0].isdigit():  # rank and host
        return [_read_item(words[1])]
    if len(words) <= 1:
        return [_read_item(text)]
    hosts = list(itertools.takewhile(operator.itemgetter(0), map(_read_item, words)))
    # Prose gets one complaint, not one for each word.
    return hosts if len(hosts) == len(words) else [_rejected(text, "bad_character")]


def _read_list(text: str) -> Iterable[_Finding]:
    cells = [cell for cell in (cell.strip(_AROUND) for cell in _csv_cells(text)) if cell]
    if not cells:
        return [_rejected(text, "empty")]
    if len(cells) > 1 and cells[0].isdigit():
        return [_read_item(cells[1])]
    if "/" in cells[0].partition("://")[2] and not any("://" in cell for cell in cells[1:]):
        return [_read_item(cells[0])]  # commas of a URL's path, or columns after a URL
    return map(_read_item, cells)


def _read_json(text: str) -> _Finding:
    try:
        record = json.loads(text.rstrip(","))
    except (ValueError, RecursionError):
        return _rejected(text, "bad_json")
    values = {key.lower(): value for key, value in record.items()}
    host = next((values[key] for key in _HOST_KEYS if isinstance(values.get(key), str)), None)
    return _rejected(text, "not_a_host") if host is None else _read_item(host)


def _read_item(text: str) -> _Finding:
    """Read a host, a URL or a wildcard."""
    try:
        return names.normalise_host(_host_part(text)), None, _excerpt(text)
    except names.BadName as error:
        return _rejected(text, error.reason)


_scheme = re.compile(r"[a-z][a-z0-9+.-]*://[/\\]*", re.IGNORECASE).match
_AROUND_ITEM: Final = _AROUND + "\"'"
_wildcard = re.compile(r"(?:\*?\.)+").match


def _host_part(text: str) -> str:
    text = text.strip(_AROUND_ITEM)
    if scheme := _scheme(text):
        text = text[scheme.end() :]
    text = re.split(r"[/?#\\]", text, maxsplit=1)[0]
    if scheme:
        text = urllib.parse.unquote(text.rpartition("@")[2])
    host, colon, port = text.rpartition(":")
    if colon and (not port or port.isdigit()) and (":" not in host or host.endswith("]")):
        text = host
    if wildcard := _wildcard(text):
        text = text[wildcard.end() :]
    return text


def _is_address(word: str) -> bool:
    if not (word[0].isdigit() or ":" in word):
        return False
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


_record_class = re.compile(r"[0-9]{1,10}[smhdw]?|IN|CH|HS", re.IGNORECASE).fullmatch  # TTL or class, RFC 1035 5.1
_record_type = re.compile(
    r"A|AAAA|NS|CNAME|DNAME|MX|TXT|SPF|SOA|PTR|SRV|CAA|NAPTR|HINFO|RP|LOC|SSHFP|TLSA|SVCB|HTTPS"
    r"|DS|CDS|DNSKEY|CDNSKEY|RRSIG|NSEC|NSEC3|NSEC3PARAM|TYPE[0-9]{1,5}",
    re.IGNORECASE,
).fullmatch


def _is_record(words: list[str]) -> bool:
    """Say whether an owner name is followed by TTL and class, in either order or absent, and a type (RFC 1035 5.1)."""
    rest = itertools.dropwhile(_record_class, words[1:4])
    return _record_type(next(rest, "")) is not None


# --- bytes -----------------------------------------------------------------------------------------------------

_CHUNK_BYTES: Final = 64 * 1024
# zstd's own default, and more than the 65 MiB that `xz -9` needs; a file may ask for gigabytes.
_MAX_WINDOW_BYTES: Final = 128 * 1024 * 1024


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip_decoder() -> _Decoder:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: the gzip wrapper, see zlib's inflateInit2


def _xz_decoder() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_WINDOW_BYTES)


def _zstd_decoder() -> _Decoder:
    return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()


# First bytes, decoder, and how many bytes it is given at once: so few that what comes out stays under 8 MiB, as one
# byte becomes at most 1,032 in deflate, some 7,000 in LZMA and 32,768 in zstd (a run-length block, RFC 8878 3.1.1.2).
_PACKINGS: Final[tuple[tuple[bytes, Callable[[], _Decoder], int], ...]] = (
    (b"\x1f\x8b", _gzip_decoder, 4096),  # RFC 1952 2.3.1
    (b"\xfd7zXZ\x00", _xz_decoder, 256),  # The .xz File Format 2.1.1.1
    (b"\x28\xb5\x2f\xfd", _zstd_decoder, 256),  # RFC 8878 3.1.1
)


def blocks(stream: BinaryIO, *, max_bytes: int | None = None) -> Iterator[bytes]:
    """Unpack a stream, bring it to UTF-8, and yield it in blocks that end where a line ends, but for long lines.

    Raises:
        InputError: as `read_entries` does.
    """
    return _blocks(_as_utf8(_bounded(_unpacked(_chunks(stream)), max_bytes)))


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)  # what is there: a pipe may stay silent for long
    while True:
        try:
            chunk = read(_CHUNK_BYTES)
        except OSError as error:
            raise InputError("unreadable", str(error)) from error
        if not chunk:
            return
        yield chunk


def _peek(chunks: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """Return the first `size` bytes, or more, or all, and an iterator over everything."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= size:
            break
    return head, itertools.chain([head], chunks)


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    head, chunks = _peek(chunks, max(len(magic) for magic, _, _ in _PACKINGS))
    for magic, new_decoder, step_bytes in _PACKINGS:
        if head.startswith(magic):
            return _decompressed(chunks, new_decoder, step_bytes)
    return chunks


def _decompressed(chunks: Iterator[bytes], new_decoder: Callable[[], _Decoder], step_bytes: int) -> Iterator[bytes]:
    """Decompress members that stand one after another, with or without zeros between (RFC 1952 2.2)."""
    decoder: _Decoder | None = None
    for chunk in chunks:
        for start in range(0, len(chunk), step_bytes):
            data = chunk[start : start + step_bytes]
            while data := data if decoder else data.lstrip(b"\0"):
                decoder = decoder or new_decoder()
                yield _decompress(decoder, data)
                data, decoder = (decoder.unused_data, None) if decoder.eof else (b"", decoder)
    if decoder:
        raise InputError("truncated", "the compressed data end too soon")


def _decompress(decoder: _Decoder, data: bytes) -> bytes:
    try:
        return decoder.decompress(data)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise InputError("corrupt", str(error)) from error


def _bounded(chunks: Iterator[bytes], max_bytes: int | None) -> Iterator[bytes]:
    """Cut what decompression may have blown up, and stop where it is too much."""
    total_bytes = 0
    for chunk in chunks:
        total_bytes += len(chunk)
        if max_bytes is not None and total_bytes > max_bytes:
            raise InputError("too_large", f"more than {max_bytes} bytes")
        for start in range(0, len(chunk), _CHUNK_BYTES):
            yield chunk[start : start + _CHUNK_BYTES]


def _as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn UTF-16 and UTF-32 with a byte order mark into UTF-8; leave all else, also a mark in UTF-8."""
    head, chunks = _peek(chunks, len(codecs.BOM_UTF32_LE))
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # first: its FF FE is UTF-16's, too
        encoding = "utf-32"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        return chunks
    return (text.encode("utf-8") for text in codecs.iterdecode(chunks, encoding, "replace"))


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut between lines; within a line only where it is longer than `MAX_LINE_BYTES` for sure."""
    tail = b""
    for chunk in chunks:
        tail += chunk
        cut = max(tail.rfind(b"\n"), tail.rfind(b"\r", 0, -1)) + 1  # a CR at the very end may be half a CRLF
        if not cut and len(tail) > MAX_LINE_BYTES + 1:
            cut = len(tail) - tail.endswith(b"\r")
        if cut:
            yield tail[:cut]
            tail = tail[cut:]
    if tail:
        yield tail
