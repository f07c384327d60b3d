"""Host names, against the vectors of the Public Suffix List and real internationalised names."""

import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spyder.model import names
from tests.shared_data import shared


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("example.com", "example.com"),
        (" WWW.Example.COM. ", "www.example.com"),
        ("a1.2b.co-op.example", "a1.2b.co-op.example"),
        ("EXÄMPLE.com", "xn--exmple-cua.com"),
        ("faß.de", "xn--fa-hia.de"),  # non-transitional: not fass.de
        ("☃.net", "xn--n3h.net"),  # a symbol: IDNA 2008 refuses it, browsers do not
        ("\U0001fae8.com", "xn--929h.com"),  # newer than the Unicode of Python 3.11
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),  # an ideographic full stop
        ("\u200bexample.com\ufeff", "example.com"),
        ("\u212aelvin.com", "kelvin.com"),  # KELVIN SIGN
        ("xn--a.com", "xn--a.com"),  # decodes to nothing, and may yet be in DNS
        ("a." * 124 + "com", "a." * 124 + "com"),
    ],
)
def test_a_host_is_brought_to_lower_case_a_labels(text: str, host: str) -> None:
    """Every spelling that browsers accept gives the name that DNS is asked for."""
    assert names.normalise_host(text) == host
    assert names.normalise_host(host) == host


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (".", "empty"),
        ("\u200b", "empty"),
        (("a" * 63 + ".") * 4 + "com", "too_long"),
        ("x" * 5000, "too_long"),
        ("a" * 64 + ".com", "label_too_long"),
        ("ä" * 64 + ".com", "label_too_long"),
        ("a..com", "empty_label"),
        (".com", "empty_label"),
        ("a b.com", "bad_character"),
        ("a/b.com", "bad_character"),
        ("a\x00.com", "bad_character"),
        ("example.com:80", "bad_character"),
        ("\uff0fa.com", "bad_character"),  # FULLWIDTH SOLIDUS maps to a slash
        ("-a.com", "bad_hyphen"),
        ("a-.com", "bad_hyphen"),
        ("_dmarc.example.com", "underscore"),
        ("a_b.example.com", "underscore"),
        ("a\u200db.com", "bad_idna"),  # a joiner where none may be
        ("\u202eabc.com", "bad_idna"),  # RIGHT-TO-LEFT OVERRIDE
        ("\u0301a.com", "bad_idna"),  # begins with a combining mark
        ("\u05d0a.com", "bad_idna"),  # both directions in a label
        ("xn--ä.com", "bad_idna"),
        ("\udce9.com", "bad_idna"),  # what surrogateescape leaves of Latin-1
        ("192.0.2.1", "ip_address"),
        ("127.1", "ip_address"),
        ("0x7f.0.0.1", "ip_address"),
        ("\uff12\uff11\uff13.0.0.1", "ip_address"),
        ("[2001:db8::1]", "ip_address"),
        ("::ffff:192.0.2.1", "ip_address"),
        ("fe80::1%eth0", "ip_address"),
        ("localhost", "single_label"),
        ("example.123", "numeric_tld"),
        ("1.2.3.4.5", "numeric_tld"),
        ("example.0x", "numeric_tld"),
    ],
)
def test_what_is_no_host_is_refused_with_its_reason(text: str, reason: str) -> None:
    """Each fault has one reason out of the closed list."""
    with pytest.raises(names.BadName) as caught:
        names.normalise_host(text)
    assert caught.value.reason == reason
    assert reason in names.REASONS


@given(st.text(max_size=300))
def test_any_text_gives_a_stable_host_or_a_reason(text: str) -> None:
    """A normalised host is its own normal form; nothing else than `BadName` is raised."""
    try:
        host = names.normalise_host(text)
    except names.BadName:
        return
    assert names.normalise_host(host) == host
    assert host.isascii()
    assert names.apex(host)


@pytest.mark.parametrize("text", ["a" * 500_000, "a-" * 250_000, "a." * 250_000, "ä" * 500_000, "1." * 250_000])
def test_a_long_text_costs_no_more_than_reading_it(text: str) -> None:
    """No input makes the patterns or punycode run away."""
    started = time.process_time()
    with pytest.raises(names.BadName):
        names.normalise_host(text)
    with pytest.raises(names.BadName):
        names.normalise_host("b." + text[:1000])
    names.registrable_domain(text)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NS1.Example.COM.", "ns1.example.com"),
        ("_sip._TCP.example.com", "_sip._tcp.example.com"),
        (r"a\.b.example.", r"a\.b.example"),
        (r"example\.", r"example\."),  # an escaped dot ends the label, not the name
        (r"example\\.", r"example\\"),
        (r"\000\255.example", r"\000\255.example"),
        (r"\200" * 63 + ".example", r"\200" * 63 + ".example"),  # 261 characters, 71 octets
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_name_from_dns_is_only_folded(text: str, name: str) -> None:
    """What an answer says is kept, whatever octets it has."""
    assert names.normalise_dns_name(text) == name


@pytest.mark.parametrize(("text", "reason"), [("", "empty"), (".", "empty"), ("a." * 127 + "com", "too_long")])
def test_a_name_from_dns_may_be_neither_the_root_nor_too_long(text: str, reason: str) -> None:
    """A null MX, for one, names nothing."""
    with pytest.raises(names.BadName) as caught:
        names.normalise_dns_name(text)
    assert caught.value.reason == reason


def test_registrable_domains_are_those_of_the_list_s_own_vectors() -> None:
    """Every vector of publicsuffix.org holds (an answer in Unicode is compared as A-labels)."""
    for vector in json.loads(shared("psl/test_psl.json").read_text()):
        if vector["input"] is None:
            continue
        expected = vector["registrable"] and names.normalise_host(vector["registrable"])
        assert names.registrable_domain(vector["input"]) == expected, vector


@pytest.mark.parametrize(
    ("host", "registrable"),
    [
        ("a.b.github.io", "b.github.io"),  # the private section
        ("www.city.kobe.jp", "city.kobe.jp"),  # an exception
        ("a.b.c.kobe.jp", "b.c.kobe.jp"),  # a wildcard
        ("a.b.compute.amazonaws.com", "a.b.compute.amazonaws.com"),
        ("b.compute.amazonaws.com", None),
        ("compute.amazonaws.com", "amazonaws.com"),  # the parent of a wildcard is no suffix
        ("a.b.c.unheard-of", "c.unheard-of"),  # the rule "*"
        ("_dmarc.example.co.uk", "example.co.uk"),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
        ("", None),
        (".", None),
        ("a..com", None),
        ("example.com.", "example.com"),
    ],
)
def test_the_longest_rule_wins_and_an_exception_beats_all(host: str, registrable: str | None) -> None:
    """The algorithm of publicsuffix.org, on rules of each kind."""
    assert names.registrable_domain(host) == registrable
    assert names.apex(host) == (registrable or host)


def test_overlapping_wildcards_are_both_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `*.x` and `*.y.x`, y.x is a suffix and so is every name below it."""
    flags: dict[str, int] = {}
    for rule in ("*.x", "*.y.x"):
        names._add_rule(flags, rule)
    monkeypatch.setattr(names, "_suffix_rules", lambda: flags)
    assert names.registrable_domain("y.x") is None
    assert names.registrable_domain("b.y.x") is None
    assert names.registrable_domain("a.b.y.x") == "a.b.y.x"
    assert names.registrable_domain("c.b.z.x") == "b.z.x"


def test_real_internationalised_names_survive_the_round_trip() -> None:
    """A-labels stay, Unicode becomes the same A-labels, and both have the same registrable domain."""
    for vector in json.loads(shared("domains/idn/real_idn_expected.json").read_text()):
        host = vector["whatwg_host"]
        typed = urlsplit(vector["input"]).hostname if "://" in vector["input"] else vector["input"]
        for text in (typed, vector["unicode"]):
            if "." in host:
                assert names.normalise_host(text) == host
            else:
                with pytest.raises(names.BadName, match="without a dot"):
                    names.normalise_host(text)
            assert names.registrable_domain(text) == vector["registrable"], vector


def test_suffixes_are_known_without_an_http_client() -> None:
    """Neither the list's package nor an HTTP client is imported: nothing can be fetched, and commands start fast."""
    code = (
        "import sys; from spyder.model import names; early = 'idna' in sys.modules;"
        "assert names.registrable_domain('a.example.co.uk') == 'example.co.uk';"
        "sys.exit(early or bool({'publicsuffixlist', 'requests', 'urllib3', 'idna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
