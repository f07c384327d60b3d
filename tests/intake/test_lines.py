"""Domain files: real lists, odd files and rubbish."""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from spyder.intake import lines
from spyder.intake.lines import Entry, InputError, read_entries
from spyder.model import names
from tests.shared_data import shared


def read(data: bytes, **options: int) -> list[Entry]:
    """Return all entries of a file that holds `data`."""
    return list(read_entries(io.BytesIO(data), **options))


def hosts(entries: list[Entry]) -> list[str]:
    """Return the hosts of those entries that have one."""
    return [entry.host for entry in entries if entry.host is not None]


def said(data: bytes) -> list[str | None]:
    """Return what each entry says: the host, or the reason."""
    return [entry.host or entry.reason for entry in read(data)]


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = itertools.cycle(sizes)

    def read1(self, size: int | None = -1, /) -> bytes:
        """Return the next few bytes, however many are asked for."""
        return self.read(min(next(self._sizes), size or 0))


# --- real and odd files ------------------------------------------------------------------------------------------


def cases(relative: str) -> Any:
    """Return a file of expectations."""
    return json.loads(shared(relative).read_text())


def test_odd_files_give_their_hosts() -> None:
    """Every file of the messy collection says what it means, whatever its encoding, line ends and form."""
    for case in cases("domains/messy/expected.json"):
        if case["expected_hosts"] is not None:
            entries = read(shared(f"domains/messy/{case['file']}").read_bytes())
            assert sorted(set(hosts(entries))) == sorted(case["expected_hosts"]), case["file"]


def test_hosts_with_nul_bytes_are_reported_and_not_probed() -> None:
    """A NUL after each host rejects each line."""
    entries = read(shared("domains/messy/nul-bytes.txt").read_bytes())
    assert {entry.reason for entry in entries} == {"nul_byte"}
    assert [entry.line for entry in entries] == list(range(1, 51))


def test_a_gzip_file_by_another_name_is_unpacked() -> None:
    """The first bytes say what a file is, not its name."""
    data = shared("domains/messy/gzip-by-mistake.txt").read_bytes()
    assert hosts(read(data)) == gzip.decompress(data).decode().split()


def sha256_of_sorted(found: set[str]) -> str:
    """Return the hash as the expectations define it."""
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


REAL_LISTS = (
    *("opendns-top-domains.txt", "bounty-domains.txt", "disposable_email_blocklist.txt", "adaway-hosts.txt"),
    *("v2fly-mixed.txt", "citizenlab-global.csv", "citizenlab-jp.csv", "citizenlab-de.csv"),
)


@pytest.mark.parametrize("name", REAL_LISTS)
def test_real_lists_give_exactly_their_hosts(name: str) -> None:
    """Counts and hash of the hosts, of the addresses and of what others reject are equal."""
    expected = cases("domains/real_expected.json")[name]
    entries = read(shared(f"domains/real/{name}.gz").read_bytes())
    found = set(hosts(entries))
    assert len(found) == expected["unique_hosts"]
    assert sha256_of_sorted(found) == expected["sha256_sorted_hosts"]
    addresses = {entry.text for entry in entries if entry.reason == "ip_address"}
    assert (
        len({address.split("/")[2] if "//" in address else address for address in addresses}) == expected["unique_ips"]
    )
    rejected = [entry for entry in entries if entry.reason not in {None, "ip_address", "not_a_host"}]
    assert len(rejected) == expected["rejected"]
    assert {entry.text for entry in rejected} >= set(expected["rejected_sample"])


@pytest.mark.parametrize("name", REAL_LISTS)
def test_real_lists_give_exactly_their_registrable_domains(name: str) -> None:
    """Count and hash of the registrable domains are equal, and so are the hosts that have none."""
    expected = cases("domains/real_expected.json")[name]
    found = set(hosts(read(shared(f"domains/real/{name}.gz").read_bytes())))
    registrable = {domain for host in found if (domain := names.registrable_domain(host))}
    assert len(registrable) == expected["unique_registrable"]
    assert sha256_of_sorted(registrable) == expected["sha256_sorted_registrable"]
    assert [h for h in sorted(found) if names.registrable_domain(h) is None] == expected[
        "hosts_that_are_public_suffixes"
    ]


# --- forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("example.com", ["example.com"]),
        ("  Example.COM.  ", ["example.com"]),
        ("bücher.example", ["xn--bcher-kva.example"]),
        ("\u200b\u202aexample.com\u200e\ufeff", ["example.com"]),
        ("# a", []),
        ("; a", []),
        ("// a", []),
        ("! a", []),
        ("-- a", []),
        ("--a.example", ["bad_hyphen"]),
        ("example.com # a, b", ["example.com"]),
        ("example.com ; a", ["example.com"]),
        ("1,example.com", ["example.com"]),
        ("1,Example.com,x", ["example.com"]),
        ("1\texample.com", ["example.com"]),
        ('"1","example.com"', ["example.com"]),
        ("http://user:pw@Example.com:8080/a?b#c", ["example.com"]),
        ("https:///example.com", ["example.com"]),
        ("https://example.com\\@evil.example/", ["example.com"]),
        ("https://ex%61mple.com/", ["example.com"]),
        ("https://example.com/a,b,c", ["example.com"]),
        ("https://[2001:db8::1]:443/", ["ip_address"]),
        ("example.com:443", ["example.com"]),
        ("example.com/path", ["example.com"]),
        ("user@example.com", ["bad_character"]),
        ("192.0.2.1", ["ip_address"]),
        ("::1", ["ip_address"]),
        ("0.0.0.0 a.example b.example # c", ["a.example", "b.example"]),
        ("::1 localhost", ["single_label"]),
        ("0.0.0.0 0.0.0.0", ["ip_address"]),
        ("*.example.com", ["example.com"]),
        (".example.com", ["example.com"]),
        (".com", ["single_label"]),
        ("||example.com^$third-party,domain=a.example", ["example.com"]),
        ("@@||example.com^", ["not_a_host"]),
        ("[Adblock Plus 2.0]", []),
        ("example.com. 300 IN NS ns.example.net. ; a", ["example.com"]),
        ("*.example.com IN 1h TXT a, b", ["example.com"]),
        ("example.com CNAME .", ["example.com"]),
        ("@ IN SOA localhost. root.localhost. 1 2 3 4 5", ["not_a_host"]),
        ("$TTL 60", ["not_a_host"]),
        ("domain:example.com @ads @!cn", ["example.com"]),
        ("full:example.com", ["example.com"]),
        ("full:", ["empty"]),
        ("include:google", ["not_a_host"]),
        (r"regexp:^a,b .+\.example$", ["not_a_host"]),
        ("keyword:example", ["not_a_host"]),
        ('{"rank": 1, "Domain": "example.com"},', ["example.com"]),
        ('{"url": "https://example.com/a"}', ["example.com"]),
        ('{"domain": 1}', ["not_a_host"]),
        ('{"domain": "\\ud800"}', ["bad_idna"]),
        ('{"domain": ', ["bad_json"]),
        ('{"a":' * 9000, ["bad_json"]),
        ("a.example, b_c.example,,d.example,", ["a.example", "underscore", "d.example"]),
        (",", ["empty"]),
        ("a.example b.example", ["a.example", "b.example"]),
        ("this is prose", ["bad_character"]),
    ],
)
def test_each_form_of_line_is_understood(line: str, expected: list[str]) -> None:
    """A line gives its hosts, its faults, or nothing where it is a comment."""
    assert said(b"first.example\n" + line.encode()) == ["first.example", *expected]


@pytest.mark.parametrize(
    ("header", "record", "expected"),
    [
        ("rank,domain,x", "1,a.example,b.example", "a.example"),
        ("name,url", "Alice,https://a.example/b,c", "a.example"),
        ('"note";"Host"', '"x; y";"a.example"', "a.example"),
        ("id\tfqdn", "7\ta.example", "a.example"),
        ("domain", "a.example", "a.example"),
        ("rank,domain", "a.example", "bad_csv"),
        ("rank,domain", "1,", "empty"),
    ],
)
def test_a_csv_header_names_the_column(header: str, record: str, expected: str) -> None:
    """The header yields nothing, and is found behind a byte order mark and comments."""
    entries = read(f"\ufeff# c\n\n{header}\n{record}\n".encode())
    assert [(entry.line, entry.host or entry.reason) for entry in entries] == [(4, expected)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_lines_are_numbered_whatever_ends_them(ending: bytes) -> None:
    """LF, CRLF and CR each end one line, also where a read ends between CR and LF."""
    data = ending.join([b"a.example", b"", b"# c", b"b_.example", b"c.example"])
    for sizes in ([1], [2, 3], [1000]):
        entries = list(read_entries(Trickle(data, sizes)))
        assert [entry.line for entry in entries] == [1, 4, 5]
    assert [data[: entry.end].split(ending)[-2:] for entry in entries[:1]] == [[b"a.example", b""]]
    assert entries[-1].end == len(data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-8"])
def test_text_with_a_byte_order_mark_is_decoded(encoding: str) -> None:
    """UTF-8, UTF-16 and UTF-32 in both orders; a stray byte at the end costs one line."""
    data = ("" if encoding in {"utf-16", "utf-32"} else "\ufeff") + "bücher.example\r\nb.example\n"
    assert said(data.encode(encoding) + b"\xff") == ["xn--bcher-kva.example", "b.example", "bad_encoding"]


def test_excerpts_are_short_and_printable() -> None:
    """A message that shows one can harm no terminal."""
    (entry,) = read(b"\x1b]0;\xc3\xa9\xe2\x80\xae\x07" * 50)
    assert entry.text.startswith("\\x1b]0;\\xe9\\u202e\\x07")
    assert len(entry.text) == lines.MAX_EXCERPT_CHARS
    assert entry.text.isprintable()
    assert entry.text.isascii()


# --- rubbish -----------------------------------------------------------------------------------------------------


def test_a_file_of_rubbish_costs_only_its_bad_lines() -> None:
    """Binary, a line of 10 MB, URLs, ports, wildcards, IDN, duplicates, CRLF and BOM in one file."""
    good = ["a.example", "b.example", "c.example", "d.example", "xn--bcher-kva.example", "a.example", "e.example"]
    parts = [
        *(
            b"\xef\xbb\xbfa.example\r\n",
            random.Random(1).randbytes(300).replace(b"\n", b"").replace(b"\r", b"") + b"\n",
        ),
        *(b"x" * 10_000_000 + b"\r\n", b"https://b.example/x\n", b"c.example:8443\n", b"*.d.example\r\n"),
        *(
            "bücher.example\n".encode(),
            b"a.example\n",
            b"\0" * 1000 + b"\n",
            "f.example\n".encode("utf-16"),
            b"\ne.example",
        ),
    ]
    entries = read(b"".join(parts))
    assert hosts(entries) == good
    bad = [(entry.line, entry.reason) for entry in entries if entry.reason]
    assert bad[1] == (3, "line_too_long")
    assert [line for line, _ in bad] == [2, 3, 9, 10, 11]
    assert entries[-1].line == 12


@pytest.mark.parametrize("sizes", [[1 << 20], [1000, 70_000], [65_537], [64 * 1024]])
def test_a_long_line_is_read_between_commas_or_rejected_once(sizes: list[int]) -> None:
    """The bound does not depend on how the bytes arrive."""
    names_ = [f"h{i}.example" for i in range(20_000)]
    bound = b"a" * lines.MAX_LINE_BYTES
    data = b"\r\n".join(
        [b"first.example", ",".join(names_).encode(), bound, bound + b"a", b" " * 100_000 + b"x.example"]
        + [b"y.example," + b"z" * 200_000 + b",\xff,z_.example,", b"{" + b"1," * 50_000, b"last.example"]
    )
    entries = list(read_entries(Trickle(data, sizes)))
    assert [(entry.line, entry.host or entry.reason) for entry in entries] == [
        (1, "first.example"),
        *((2, name) for name in names_),
        (3, "too_long"),
        (4, "line_too_long"),
        (5, "line_too_long"),
        *((6, said) for said in ("y.example", "line_too_long", "bad_encoding", "underscore")),
        (7, "line_too_long"),
        (8, "last.example"),
    ]
    ends = [entry.end for entry in entries]
    assert ends == sorted(ends)
    assert data[: ends[1]].endswith(b"h0.example,")
    assert ends[-1] == len(data)


@given(
    st.binary(max_size=2000),
    st.sampled_from([b"", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"{"]),
)
def test_any_bytes_give_entries_or_a_typed_error(data: bytes, beginning: bytes) -> None:
    """Nothing but `InputError` is raised, and every entry has a host or a known reason."""
    with contextlib.suppress(InputError):
        for entry in read_entries(io.BytesIO(beginning + data)):
            assert (entry.host is None) == (entry.reason in lines.REASONS)


# With letters that the forms are made of, hypothesis gets further than with any bytes.
rubbish = st.lists(st.sampled_from(list("a.1,:@#;*|^\"'{}[]/ \t-_\r\n\u00fc\u2003\ufeff$") + ["com", "IN", "full:"]))


@given(rubbish.map("".join))
def test_every_line_that_says_something_yields_something(text: str) -> None:
    """Only blank lines, comments and a header may be silent."""
    spoken = {entry.line for entry in read(b"first.example\n" + text.encode())}
    written = b"\n".join(text.encode().splitlines()).decode().split("\n")
    for number, line in enumerate(written, 2):
        if line.strip(lines._AROUND) and not lines._comment(line.strip(lines._AROUND)):
            assert number in spoken


@given(rubbish.map("".join), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_how_the_bytes_arrive_changes_nothing(text: str, sizes: list[int]) -> None:
    """A stream that trickles gives the same entries as one that comes at once."""
    assert list(read_entries(Trickle(text.encode(), sizes))) == read(text.encode())


# --- packed ------------------------------------------------------------------------------------------------------

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_packed_files_are_unpacked_member_by_member(pack: Callable[[bytes], bytes]) -> None:
    """Members may follow each other, with zeros between, and a host may lie across two."""
    assert said(pack(b"a.example\nb.ex") + pack(b"ample\n") + bytes(512) + pack(b"c.example")) == [
        *("a.example", "b.example", "c.example")
    ]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_truncated_packed_file_is_told_and_gives_no_half_host(pack: Callable[[bytes], bytes]) -> None:
    """What came before stands; the host that was cut is not taken for a shorter one."""
    rng = random.Random(2)
    listed = [f"h{rng.getrandbits(64):x}.example.com" for _ in range(20_000)]
    packed = pack("\n".join(listed).encode())
    entries: list[Entry] = []
    with pytest.raises(InputError) as caught:
        entries.extend(read_entries(io.BytesIO(packed[: len(packed) * 2 // 3])))
    assert caught.value.reason == "truncated"
    found = hosts(entries)
    assert len(found) == len(entries) > 0
    assert found == listed[: len(found)]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_corrupt_packed_file_is_told(pack: Callable[[bytes], bytes]) -> None:
    """Rubbish after a member, or in it, ends the reading."""
    with pytest.raises(InputError) as caught:
        read(pack(b"a.example\n") + b"rubbish" * 9)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_bomb_is_bounded_in_memory_and_by_max_bytes(pack: Callable[[bytes], bytes]) -> None:
    """60 MB of zeros out of a small file never stand in memory, and the caller says how much is too much."""
    bomb = pack(bytes(60_000_000))
    tracemalloc.start()
    try:
        assert said(bomb) == ["line_too_long"]
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(InputError) as caught:
        read(bomb, max_bytes=1_000_000)
    assert caught.value.reason == "too_large"


def test_a_stream_that_fails_is_told() -> None:
    """An error of the disk is an `InputError`, too."""

    class Broken(io.BytesIO):
        def read1(self, _size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError) as caught:
        list(read_entries(Broken()))
    assert caught.value.reason == "unreadable"


# --- size, speed, resuming ---------------------------------------------------------------------------------------


class Made(io.BytesIO):
    """A stream of 50 MB that is made as it is read: hosts, comments, bad lines, a line of 25 MB."""

    def __init__(self) -> None:
        super().__init__()
        self._parts = itertools.chain(
            itertools.repeat((b"good.example\n_bad.example\n# " + b"c" * 972 + b"\n") * 50, 500),
            itertools.repeat(b"x" * 50_000, 500),
        )

    def read1(self, _size: int | None = -1, /) -> bytes:
        """Return the next part."""
        return next(self._parts, b"")


def test_a_stream_of_50_megabytes_is_never_in_memory() -> None:
    """Memory stays under 2 MB, whatever the lines are."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_entries(Made()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 500 * 50 * 2 + 1
    assert peak < 2_000_000


def test_plain_lines_are_read_fast() -> None:
    """A list of 10 million hosts is read in well under a minute of CPU (goal: 300,000 lines a second)."""
    data = b"".join(b"%d.some-host.example.com\n" % i for i in range(100_000))
    started = time.process_time()
    assert len(read(data)) == 100_000
    assert time.process_time() - started < 1.0


def test_reading_goes_on_at_the_end_of_any_entry() -> None:
    """With `resume_at` the rest is the same, line numbers included: across blocks, long lines, a CSV header."""
    many = b"".join(b"h%d.example\r\n" % i for i in range(6_000))
    for data in (
        b"\xef\xbb\xbf# c\r\n"
        + many
        + b"https://a.example/\n"
        + b",".join(b"l%d.example" % i for i in range(6_000))
        + b"\n"
        + many,
        b"rank,domain\n" + b"".join(b"%d,h%d.example\n" % (i, i) for i in range(6_000)),
        b"a.example,b.example\nbad_.example\n" + bytes(100_000) + b"\nlast.example",
        b"a.example\n" + b"x" * 100_000,
    ):
        whole = read(data)
        for entry in [*whole[:: max(1, len(whole) // 12)], whole[-1]]:
            assert read(data, resume_at=entry.end) == [later for later in whole if later.end > entry.end]


def test_a_plain_file_can_be_read_on_from_an_offset() -> None:
    """`end` is the offset in a plain file: from there the rest gives the same hosts."""
    data = b"\xef\xbb\xbfa.example\r\n# c\r\n0.0.0.0 b.example\r\rc_.example\nhttps://d.example/\n"
    whole = read(data)
    for number, entry in enumerate(whole, 1):
        assert [(e.host, e.reason) for e in read(data[entry.end :])] == [(e.host, e.reason) for e in whole[number:]]
