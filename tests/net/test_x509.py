"""Certificates of the wild, odd ones built octet by octet, and hostile ones, read as the probe reads them."""

import _ssl
import datetime as dt
import hashlib
import ipaddress
import json
import random
import re
import time
import timeit
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from spyder.net.x509 import (
    _SIGNATURE_ALGORITHMS,
    CN_MAX_CHARACTERS,
    SAN_MAX_CHARACTERS,
    SANS_MAX,
    BadCertificate,
    CertificateFacts,
    read_certificate,
)
from tests.shared_data import shared

LARGEST_CPU_S = 0.5  # for one certificate of 100 KB: OpenSSL takes no longer handshake message by default
TYPICAL_CPU_S = 300e-6  # three times the budget of 100 microseconds, for a loaded machine

# --- DER, built by hand -----------------------------------------------------------------------------------


def tlv(tag: int, *contents: bytes) -> bytes:
    """Write one element with a definite, shortest length."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def name(*values: bytes, kind: str = "550403") -> bytes:
    """Write a Name of one attribute an RDN, common names unless told."""
    return tlv(0x30, *(tlv(0x31, tlv(0x30, tlv(6, bytes.fromhex(kind)), value)) for value in values))


def extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    """Write one Extension."""
    return tlv(0x30, tlv(6, bytes.fromhex(oid)), critical, tlv(4, value))


def san(*names: bytes, critical: bytes = b"") -> bytes:
    """Write a subjectAltName extension."""
    return extension("551d11", tlv(0x30, *names), critical)


ECDSA_SHA256 = tlv(0x30, tlv(6, bytes.fromhex("2a8648ce3d040302")))
VALIDITY = tlv(0x30, tlv(0x17, b"250102030405Z"), tlv(0x17, b"260102030405Z"))
KEY = tlv(0x30, tlv(0x30, tlv(6, bytes.fromhex("2b6570"))), tlv(3, b"\0" + bytes(32)))
KEY_SHA256 = b64encode(hashlib.sha256(KEY).digest()).decode()


def tbs(
    *extensions: bytes,
    serial: bytes = b"\x02\x01\x05",
    algorithm: bytes = ECDSA_SHA256,
    issuer: bytes = name(tlv(0x0C, b"issuer")),
    validity: bytes = VALIDITY,
    subject: bytes = name(tlv(0x0C, b"subject")),
    key: bytes = KEY,
) -> bytes:
    """Write a TBSCertificate, sound unless told."""
    version = tlv(0xA0, b"\x02\x01\x02")
    tail = tlv(0xA3, tlv(0x30, *extensions)) if extensions else b""
    return tlv(0x30, version, serial, algorithm, issuer, validity, subject, key, tail)


def certificate(*extensions: bytes, **parts: bytes) -> bytes:
    """Write a Certificate, sound unless told."""
    return tlv(0x30, tbs(*extensions, **parts), ECDSA_SHA256, tlv(3, b"\0signature"))


def made_by_a_library(sans: int) -> bytes:
    """A leaf as a public CA of today writes it: ECDSA P-256, ten extensions."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com")]))
        .issuer_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Trust"),
                    x509.NameAttribute(NameOID.COMMON_NAME, "E1"),
                ]
            )
        )
        .public_key(key.public_key())
        .serial_number(0x4A1B2C3D4E5F60718293A4B5C6D7E8F9)
        .not_valid_before(dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2051, 1, 2, 3, 4, 5, tzinfo=dt.UTC))
    )
    for arc in range(8):
        oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{arc}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, bytes(30)), critical=False)
    names = [x509.DNSName(f"host{n}.example.com") for n in range(sans)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


# --- certificates of the wild -----------------------------------------------------------------------------


@cache
def wild() -> list[tuple[dict[str, Any], bytes]]:
    """Read what is expected of each shared certificate, and its bytes."""
    expected = shared("certs/expected.json")
    records = json.loads(expected.read_text("utf-8"))
    return [(record, (expected.parent / Path(record["file"]).name).read_bytes()) for record in records]


def shown(raw: bytes) -> str:
    """Write octets as a name is to be shown."""
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else f"\\x{octet:02x}" for octet in raw.lower())


def by_openssl(record: dict[str, Any]) -> CertificateFacts:
    r"""What OpenSSL says of a certificate, in our words.

    The differences, all wanted: times have a `T`; of several common names the last counts; names are in lower
    case with octets outside printable ASCII shown as `\\x..`; addresses are compressed as RFC 5952 asks; no
    other kind of general name is taken.
    """
    return CertificateFacts(
        spki_sha256=record["spki_sha256_b64"],
        fingerprint_sha256=record["sha256"],
        subject_cn=(record["subject_cn"] or [""])[-1],
        issuer_cn=(record["issuer_cn"] or [""])[-1],
        not_before=record["not_before"].replace(" ", "T"),
        not_after=record["not_after"].replace(" ", "T"),
        sans=(
            *(shown(bytes.fromhex(raw)) for raw in record["san_dns_hex"]),
            *(
                ipaddress.ip_address(text).compressed
                for text in re.findall(r"IP Address:([0-9A-F.:]+)", record["san_text"] or "")
            ),
        ),
        sans_total=len(record["san_dns_hex"]) + (record["san_text"] or "").count("IP Address:"),
        serial=record["serial_hex"],
        signature_algorithm=record["sig_alg"],
    )


def test_every_field_of_every_certificate_of_the_wild_is_what_openssl_says() -> None:
    """All fields of the 168 shared certificates are OpenSSL's, without an exception."""
    assert len(wild()) == 168
    for record, der in wild():
        facts, expected = read_certificate(der), by_openssl(record)
        assert sorted(facts.sans) == sorted(expected.sans), record["label"]
        assert {**as_dict(facts), "sans": ()} == {**as_dict(expected), "sans": ()}, record["label"]


def as_dict(facts: CertificateFacts) -> dict[str, Any]:
    """Give the fields by their names."""
    return {field: getattr(facts, field) for field in CertificateFacts.__slots__}


def test_names_of_the_wild_stand_in_their_order() -> None:
    """The dNSName entries are in the order of the certificate."""
    for record, der in wild():
        dns = [shown(bytes.fromhex(raw)) for raw in record["san_dns_hex"]]
        assert [entry for entry in read_certificate(der).sans if entry in set(dns)] == dns


def test_names_of_algorithms_are_openssls() -> None:
    """Each signature algorithm has the long name that the linked OpenSSL gives it, where it knows it."""
    known = 0
    for oid, text in _SIGNATURE_ALGORITHMS.items():
        try:
            _, _, long_name, _ = _ssl.txt2obj(oid)
        except ValueError:
            assert text.startswith("ML-DSA-"), oid  # since OpenSSL 3.5
        else:
            assert text == long_name
            known += 1
    assert known >= 20


# --- fields -----------------------------------------------------------------------------------------------


def test_a_plain_certificate_gives_all_its_fields() -> None:
    """Every field of a sound certificate is read."""
    der = certificate(san(tlv(0x82, b"A.example"), tlv(0x87, bytes([192, 0, 2, 1]))))
    assert read_certificate(der) == CertificateFacts(
        spki_sha256=KEY_SHA256,
        fingerprint_sha256=hashlib.sha256(der).hexdigest(),
        subject_cn="subject",
        issuer_cn="issuer",
        not_before="2025-01-02T03:04:05Z",
        not_after="2026-01-02T03:04:05Z",
        sans=("a.example", "192.0.2.1"),
        sans_total=2,
        serial="05",
        signature_algorithm="ecdsa-with-SHA256",
    )


def test_the_key_is_hashed_as_its_bytes_stand() -> None:
    """A key with a length that is longer than needed is hashed with that length."""
    inner = tlv(0x30, tlv(6, bytes.fromhex("2b6570"))) + tlv(3, b"\0" + bytes(32))
    key = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner
    facts = read_certificate(certificate(key=key))
    assert facts.spki_sha256 == b64encode(hashlib.sha256(key).digest()).decode() != KEY_SHA256


@pytest.mark.parametrize(
    ("tag", "content", "text"),
    [
        (0x0C, "Jürgen 沃通 😜".encode(), "Jürgen 沃通 😜"),
        (0x0C, b"\xff\xed\xa0\x80x", "\ufffd\ufffd\ufffd\ufffdx"),
        (0x12, b"12 34", "12 34"),
        (0x13, b"a*b\xe9", "a*bé"),
        (0x14, b"J\xfcrgen", "Jürgen"),
        (0x16, b"a@b", "a@b"),
        (0x1A, b"visible", "visible"),
        (0x1E, "沃通".encode("utf-16-be"), "沃通"),
        (0x1E, b"\xd8\x00\x00a\x00", "\ufffda\ufffd"),
        (0x1C, "x😜".encode("utf-32-be"), "x😜"),
        (0x1C, b"\x00\x00\xd8\x00\x7f\xff\xff\xff\x00\x00\x00a", "\ufffd\ufffda"),
        (0x0C, b"evil.example\0.good.example\x1b[2J\x7f", r"evil.example\x00.good.example\x1b[2J\x7f"),
        (0x0C, "a\u202eb\u2028\x85".encode(), r"a\u202eb\u2028\x85"),
        (0x0C, b"HOST\\user", "HOST\\user"),
        (0x04, b"octets", ""),
        (0x0C, b"", ""),
    ],
)
def test_a_common_name_is_decoded_by_its_type(tag: int, content: bytes, text: str) -> None:
    """Each string type is decoded, faults become U+FFFD, control characters are shown."""
    assert read_certificate(certificate(subject=name(tlv(tag, content)))).subject_cn == text


@pytest.mark.parametrize("character", ["x", "é", "沃", "😜", "\0"])
def test_a_common_name_is_cut(character: str) -> None:
    """A common name of any characters has at most 256 of them."""
    facts = read_certificate(certificate(issuer=name(tlv(0x0C, character.encode() * 9_000))))
    shown_character = r"\x00" if character == "\0" else character
    assert facts.issuer_cn == (shown_character * 256)[:CN_MAX_CHARACTERS]


def test_the_last_common_name_counts() -> None:
    """Of several common names, in one RDN or in many, the last that can be read counts (Go: pkix.Name)."""
    common = [
        tlv(0x30, tlv(6, b"\x55\x04\x03"), tlv(tag, text)) for tag, text in [(12, b"one"), (12, b"two"), (4, b"x")]
    ]
    assert read_certificate(certificate(subject=tlv(0x30, tlv(0x31, *common)))).subject_cn == "two"
    each = tlv(0x30, *(tlv(0x31, attribute) for attribute in common))
    assert read_certificate(certificate(subject=each)).subject_cn == "two"


def test_a_broken_attribute_does_not_hide_the_next() -> None:
    """An attribute without a value costs itself only."""
    broken = tlv(0x31, tlv(0x30), tlv(0x30, tlv(6, b"\x55\x04\x03")), tlv(0x30, b"\x06\x7f"))
    subject = tlv(0x30, broken, tlv(0x31, tlv(0x30, tlv(6, b"\x55\x04\x03"), tlv(12, b"good"))))
    assert read_certificate(certificate(subject=subject)).subject_cn == "good"


@pytest.mark.parametrize(
    ("tag", "content", "text"),
    [
        (0x17, b"491231235959Z", "2049-12-31T23:59:59Z"),
        (0x17, b"500101000000Z", "1950-01-01T00:00:00Z"),
        (0x17, b"2501020304Z", "2025-01-02T03:04:00Z"),
        (0x17, b"250102030405+0130", "2025-01-02T01:34:05Z"),
        (0x17, b"2501020304-0800", "2025-01-02T11:04:00Z"),
        (0x18, b"99991231235959Z", "9999-12-31T23:59:59Z"),
        (0x18, b"00010101000000Z", "0001-01-01T00:00:00Z"),
        (0x18, b"202501020304Z", "2025-01-02T03:04:00Z"),
        (0x18, b"20250102030405.999Z", "2025-01-02T03:04:05Z"),
        (0x18, b"20250102030405,5+0100", "2025-01-02T02:04:05Z"),
        (0x18, b"20240229000000Z", "2024-02-29T00:00:00Z"),
        (0x18, b"20250229000000Z", None),
        (0x18, b"20250102030405", None),
        (0x18, b"00000101000000Z", None),
        (0x18, b"00010101000000+0100", None),
        (0x18, b"99991231235959-0100", None),
        (0x18, b"20250102246060Z", None),
        (0x18, b"20250102030405Z\n", None),
        (0x18, "\uff12\uff10250102030405Z".encode(), None),
        (0x17, b"20250102030405Z", None),
        (0x17, b"", None),
        (0x0C, b"250102030405Z", None),
    ],
)
def test_a_time_is_read_in_each_of_its_forms(tag: int, content: bytes, text: str | None) -> None:
    """UTCTime and GeneralizedTime become RFC 3339 in UTC; a time that is none costs that field only."""
    facts = read_certificate(certificate(validity=tlv(0x30, tlv(tag, content), tlv(0x17, b"260102030405Z"))))
    assert (facts.not_before, facts.not_after) == (text, "2026-01-02T03:04:05Z")


def test_a_validity_cut_short_keeps_its_first_time() -> None:
    """Without a second time, the first one is kept."""
    facts = read_certificate(certificate(validity=tlv(0x30, tlv(0x17, b"250102030405Z"), b"\x17\x0d26")))
    assert (facts.not_before, facts.not_after) == ("2025-01-02T03:04:05Z", None)


@pytest.mark.parametrize(
    ("element", "text"),
    [
        ("020100", "00"),
        ("02020080", "80"),
        ("02020abc", "0ABC"),
        ("02030000ff", "FF"),
        ("0201ff", "-01"),
        ("02020100", "0100"),
        ("0202ff00", "-0100"),
        ("0200", ""),
        ("0a0105", ""),
        ("0240" + "7f" * 64, "7F" * 64),
        ("0241" + "7f" * 65, ""),
    ],
)
def test_a_serial_is_printed_as_openssl_prints_it(element: str, text: str) -> None:
    """Whole octets, upper case, a sign before a negative one; what is no serial costs that field only."""
    assert read_certificate(certificate(serial=bytes.fromhex(element))).serial == text


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        ("2a864886f70d01010b", "sha256WithRSAEncryption"),
        ("2b6570", "ED25519"),
        ("883703", "2.999.3"),
        ("2a03", "1.2.3"),
        ("2a83", ""),
        ("", ""),
        ("2a" + "83" * 63 + "03", ""),
    ],
)
def test_an_algorithm_is_named_or_numbered(oid: str, text: str) -> None:
    """A common signature algorithm has its name, another its number; one that cannot be read costs that field."""
    algorithm = tlv(0x30, tlv(6, bytes.fromhex(oid)))
    assert read_certificate(certificate(algorithm=algorithm)).signature_algorithm == text


@pytest.mark.parametrize("algorithm", [tlv(0x30), tlv(0x30, b"\x06\x70"), tlv(0x30, b"\x05\x00")])
def test_an_algorithm_without_a_number_is_empty(algorithm: bytes) -> None:
    """An AlgorithmIdentifier without an object identifier costs that field only."""
    assert read_certificate(certificate(algorithm=algorithm)).signature_algorithm == ""


def test_odd_names_are_shown_and_cut() -> None:
    """A name keeps its order and its octets: lower case, everything outside printable ASCII shown, at most 253."""
    der = certificate(
        san(
            tlv(0x82, b"B.Example"),
            tlv(0x82, b"evil.example\0.good.example"),
            tlv(0x82, "É😜".encode()),
            tlv(0x82, b"x" * 9_000),
            tlv(0x82, b"\xff" * 9_000),
            tlv(0x82),
        )
    )
    facts = read_certificate(der)
    assert facts.sans == (
        "b.example",
        r"evil.example\x00.good.example",
        r"\xc3\x89\xf0\x9f\x98\x9c",
        "x" * SAN_MAX_CHARACTERS,
        (r"\xff" * 64)[:SAN_MAX_CHARACTERS],
        "",
    )


def test_only_host_names_and_addresses_are_taken() -> None:
    """Mail addresses, URIs, directory names and addresses of no length are neither taken nor counted."""
    der = certificate(
        san(
            tlv(0x81, b"a@example"),
            tlv(0x86, b"http://example/"),
            tlv(0xA4, name(tlv(12, b"x"))),
            tlv(0x87, bytes(8)),
            tlv(0x87, ipaddress.ip_address("2001:db8::1").packed),
            b"\xbf\x87\x68\x01x",  # a tag number above 30
            tlv(0x82, b"a.example"),
        )
    )
    facts = read_certificate(der)
    assert (facts.sans, facts.sans_total) == (("2001:db8::1", "a.example"), 2)


def test_names_before_a_break_are_kept() -> None:
    """An entry that is longer than the list ends it; those before it stay."""
    broken = tlv(0x82, b"a.example") + b"\x82\x7fb.example"
    facts = read_certificate(certificate(extension("551d11", tlv(0x30, broken))))
    assert (facts.sans, facts.sans_total) == (("a.example",), 1)


@pytest.mark.parametrize(
    "odd",
    [b"", tlv(0x30), tlv(0x30, b"\x06\x7f"), extension("551d11", b"\x30\x7f"), extension("551d11", b""), b"\x05\x00"],
)
def test_a_bad_extension_does_not_hide_the_names_of_another(odd: bytes) -> None:
    """One bad extension costs itself only, and a critical one is read like any other."""
    facts = read_certificate(certificate(odd, san(tlv(0x82, b"a.example"), critical=b"\x01\x01\xff")))
    assert (facts.sans, facts.sans_total) == (("a.example",), 1)


def test_names_of_two_extensions_are_joined() -> None:
    """RFC 5280 section 4.2 forbids two; where there are two, both are read."""
    facts = read_certificate(certificate(san(tlv(0x82, b"a.example")), san(tlv(0x82, b"b.example"))))
    assert (facts.sans, facts.sans_total) == (("a.example", "b.example"), 2)


@pytest.mark.parametrize("extensions", [b"\xa3\x00", b"\xa3\x02\x30\x7f", b"\x05\x00", b"\xa3\x7f"])
def test_broken_extensions_cost_the_names_only(extensions: bytes) -> None:
    """Extensions that cannot be opened leave the rest of the record."""
    body = tbs()[2:] if tbs()[1] < 0x80 else tbs()[3:]
    facts = read_certificate(tlv(0x30, tlv(0x30, body, extensions)))
    assert (facts.spki_sha256, facts.subject_cn, facts.sans) == (KEY_SHA256, "subject", ())


def test_ten_thousand_names_are_counted_and_a_thousand_kept() -> None:
    """A certificate with 10,000 names gives the first 1,000 and how many there were, in bounded time."""
    der = certificate(san(*(tlv(0x82, b"h%d.example" % n) for n in range(10_000))))
    facts, cpu_s = timed(der)
    assert facts.sans == tuple(f"h{n}.example" for n in range(SANS_MAX))
    assert facts.sans_total == 10_000
    assert cpu_s < LARGEST_CPU_S


# --- forms of headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["8107", "820007", "8a00000000000000000007"])
def test_a_length_longer_than_needed_is_read(length: str) -> None:
    """Long forms and leading zeros, which OpenSSL tolerates, are read."""
    subject = name(bytes.fromhex("0c" + length) + b"subject")
    assert read_certificate(certificate(subject=subject)).subject_cn == "subject"


def test_an_indefinite_length_on_the_way_to_the_key_is_refused() -> None:
    """BER's indefinite length is not read."""
    with pytest.raises(BadCertificate):
        read_certificate(certificate(issuer=b"\x30\x80\x00\x00"))


def test_bytes_behind_the_certificate_are_left_alone() -> None:
    """Trailing bytes change the fingerprint only."""
    facts = read_certificate(certificate())
    longer = read_certificate(certificate() + b"more")
    assert as_dict(longer) | {"fingerprint_sha256": ""} == as_dict(facts) | {"fingerprint_sha256": ""}


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        b"\x30\x80",
        b"\x30\xff",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x1f" + b"\x80" * 100_000,
        b"\x3f" + b"\xff" * 100_000,
        b"<html>not a certificate</html>",
        bytes(100_000),
        b"\x30\x82" * 50_000,
        tlv(0x30, tlv(0x30)),
        certificate(key=b""),
        certificate(key=tlv(0x30)),
        certificate(key=VALIDITY),
        certificate(key=ECDSA_SHA256),
        certificate(issuer=b""),
        certificate(serial=b""),
    ],
)
def test_bytes_without_a_key_are_no_certificate(der: bytes) -> None:
    """Where the key is not in its place, nothing else is taken for it."""
    started = time.process_time()
    with pytest.raises(BadCertificate):
        read_certificate(der)
    assert time.process_time() - started < LARGEST_CPU_S


def test_a_certificate_cut_short_gives_its_key_as_soon_as_it_is_whole() -> None:
    """Cut at every octet: no certificate before the end of the key, the right key after it."""
    der = certificate(san(tlv(0x82, b"a.example")))
    key_end = der.index(KEY) + len(KEY)
    for size in range(key_end):
        with pytest.raises(BadCertificate):
            read_certificate(der[:size])
    for size in range(key_end, len(der)):
        assert read_certificate(der[:size]).spki_sha256 == KEY_SHA256


# --- hostile bytes ----------------------------------------------------------------------------------------


def timed(der: bytes) -> tuple[CertificateFacts, float]:
    """Read a certificate; give the facts and the CPU seconds that they cost."""
    started = time.process_time()
    facts = read_certificate(der)
    return facts, time.process_time() - started


def survives(der: bytes) -> None:
    """Assert that the bytes give sound facts or BadCertificate, in bounded time."""
    started = time.process_time()
    try:
        facts = read_certificate(der)
    except BadCertificate:
        return
    finally:
        assert time.process_time() - started < LARGEST_CPU_S
    json.dumps(as_dict(facts), ensure_ascii=False).encode("utf-8")
    assert max(len(facts.subject_cn), len(facts.issuer_cn)) <= CN_MAX_CHARACTERS
    assert all(len(entry) <= SAN_MAX_CHARACTERS for entry in facts.sans)
    assert len(facts.sans) == min(facts.sans_total, SANS_MAX)
    for moment in filter(None, (facts.not_before, facts.not_after)):
        dt.datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)


def test_changed_certificates_of_the_wild_are_survived() -> None:
    """Octets flipped, cut out, put in, and ends cut off: facts or BadCertificate, nothing else."""
    dice = random.Random(20260101)
    for _, der in wild():
        for _ in range(40):
            changed = bytearray(der)
            for _ in range(dice.choice((1, 1, 2, 8))):
                at = dice.randrange(min(len(changed), 4_000))
                match dice.randrange(4):
                    case 0:
                        changed[at] = dice.randrange(256)
                    case 1:
                        changed[at] ^= 1 << dice.randrange(8)
                    case 2:
                        del changed[at : at + dice.randrange(1, 9)]
                    case _:
                        changed[at:at] = dice.randbytes(dice.randrange(1, 9))
            survives(bytes(changed[: dice.randrange(len(changed))] if dice.random() < 0.2 else changed))


def test_every_single_octet_of_a_certificate_may_be_anything() -> None:
    """Each octet in turn set to each of a dozen telling values."""
    der = made_by_a_library(2)
    for at in range(len(der)):
        for octet in (0x00, 0x01, 0x1F, 0x30, 0x7F, 0x80, 0x81, 0x82, 0x84, 0x9F, 0xBF, 0xFF):
            survives(der[:at] + bytes([octet]) + der[at + 1 :])


def elements() -> st.SearchStrategy[bytes]:
    """Nested elements with tags that mean something here, and now and then loose octets."""
    tags = st.sampled_from([0x01, 0x02, 0x03, 0x04, 0x06, 0x0C, 0x17, 0x18, 0x1E, 0x30, 0x31, 0x82, 0x87, 0xA0, 0xA3])
    telling = st.sampled_from([b"\x55\x04\x03", b"\x55\x1d\x11", tlv(6, b"\x55\x1d\x11"), tlv(6, b"\x55\x04\x03")])
    return st.recursive(
        st.binary(max_size=20) | telling,
        lambda inner: st.builds(lambda tag, parts: tlv(tag, *parts), tags, st.lists(inner, max_size=4)),
        max_leaves=12,
    )


@given(st.lists(elements(), min_size=8, max_size=8))
@settings(max_examples=200, deadline=None, database=None)
def test_any_elements_in_any_place_are_survived(parts: list[bytes]) -> None:
    """Every part of a certificate replaced by arbitrary elements, one at a time and all at once."""
    serial, algorithm, issuer, validity, subject, key, extensions, _ = parts
    survives(certificate(issuer=tlv(0x30, issuer), subject=tlv(0x30, subject), validity=tlv(0x30, validity)))
    survives(certificate(extensions, extension("551d11", extensions), tlv(0x30, *parts)))
    survives(certificate(serial=tlv(2, serial), algorithm=tlv(0x30, algorithm)))
    survives(certificate(key=key))
    survives(tlv(0x30, tlv(0x30, *parts)))


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None, database=None)
def test_any_bytes_are_survived(rubbish: bytes) -> None:
    """Arbitrary octets are facts or BadCertificate."""
    survives(rubbish)
    survives(b"\x30\x82\x10\x00\x30\x82\x10\x00" + rubbish)


SIZE = 100_000  # octets
HOSTILE = {
    "tag numbers that run on": certificate(*[b"\xa0\x81\x80\xbf" + b"\xff" * 127] * (SIZE // 131)),
    "empty extensions": certificate(*[tlv(0x30)] * (SIZE // 2)),
    "empty lists of names": certificate(*[san()] * (SIZE // 11)),
    "empty names": certificate(san(*[tlv(0x82)] * (SIZE // 2))),
    "names to be escaped": certificate(san(*[tlv(0x82, b"\xff" * 253)] * (SIZE // 256))),
    "addresses": certificate(san(*[tlv(0x87, bytes(4))] * (SIZE // 6))),
    "empty RDNs": certificate(subject=tlv(0x30, *[tlv(0x31)] * (SIZE // 2))),
    "broken attributes": certificate(subject=tlv(0x30, tlv(0x31, *[tlv(0x30, b"\xbf")] * (SIZE // 3)))),
    "many common names": certificate(subject=name(*[tlv(12, b"\xff" * 100)] * (SIZE // 111))),
    "a large UTF8String": certificate(subject=name(tlv(0x0C, b"\xff" * SIZE))),
    "a large BMPString": certificate(subject=name(tlv(0x1E, b"\xd8" * SIZE))),
    "a large serial": certificate(serial=tlv(2, b"\x7f" * SIZE)),
    "a large arc": certificate(algorithm=tlv(0x30, tlv(6, b"\x83" * SIZE + b"\x03"))),
    "a large fraction": certificate(validity=tlv(0x30, tlv(0x18, b"20250102030405." + b"9" * SIZE), tlv(0x17))),
    "lengths only": certificate(extension("551d11", b"\x30\x82" * (SIZE // 2))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_large_hostile_certificate_costs_a_bounded_time(kind: str) -> None:
    """100 KB of what could be read again and again is read once."""
    facts, cpu_s = timed(HOSTILE[kind])
    assert facts.spki_sha256 == KEY_SHA256
    assert cpu_s < LARGEST_CPU_S


@pytest.mark.parametrize("sans", [2, 10])
def test_a_typical_certificate_costs_microseconds(sans: int) -> None:
    """An ECDSA leaf with few names is read within three times the budget on any machine (best of many)."""
    der = made_by_a_library(sans)
    facts = read_certificate(der)
    assert facts.sans_total == sans
    assert facts.not_after == "2051-01-02T03:04:05Z"
    assert min(timeit.repeat(lambda: read_certificate(der), number=50, repeat=20)) / 50 < TYPICAL_CPU_S
