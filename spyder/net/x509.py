"""The facts of a leaf certificate, read from its DER bytes.

On the path: the probe's certificate collector hands over the bytes that the TLS connection gave. Pure
functions without state, so any worker thread may call them.

The bytes are walked here, not by a library: the hash of the public key must be of the bytes as they stand,
and one odd field must cost that field only. The walk is linear in the certificate: it has a fixed depth, never
steps back, and ends a field at its first broken header. Lengths are definite (DER); long forms, leading zeros
in a length and high tag numbers are read, as OpenSSL does. Tags are checked where something would be read
wrongly without it.
"""

import re
import socket
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

SANS_MAX: Final = 1_000  # names; the largest real certificates have some hundreds
SAN_MAX_CHARACTERS: Final = 253  # RFC 1035 section 2.3.4: 255 octets on the wire are 253 characters of text
CN_MAX_CHARACTERS: Final = 256  # RFC 5280 appendix A: ub-common-name is 64; certificates of the wild go beyond
SERIAL_MAX_OCTETS: Final = 64  # RFC 5280 section 4.1.2.2: 20; certificates of the wild go beyond
OID_MAX_OCTETS: Final = 64  # far beyond any registered algorithm; an arc without a bound costs its square

_LONG_FORM: Final = 0x80  # X.690 section 8.1.3.5: the low bits are the number of octets of the length
_HIGH_TAG: Final = 0x1F  # X.690 section 8.1.2.4: the number of the tag follows
_CONTINUES: Final = 0x80  # in the octets of a high tag number and of an arc: another one follows

_INTEGER: Final = 0x02
_BIT_STRING: Final = 0x03
_OBJECT_IDENTIFIER: Final = 0x06
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0  # [0] of TBSCertificate, RFC 5280 section 4.1
_EXTENSIONS: Final = 0xA3  # [3] of TBSCertificate
_BOOLEAN: Final = 0x01
_DNS_NAME: Final = 0x82  # [2] of GeneralName, RFC 5280 section 4.2.1.6
_IP_ADDRESS: Final = 0x87  # [7] of GeneralName

_FAMILIES: Final = {4: socket.AF_INET, 16: socket.AF_INET6}  # by octets of the address

_COMMON_NAME: Final = bytes.fromhex("550403")  # 2.5.4.3
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")  # 2.5.29.17

# The one-octet types are read as Latin-1, as OpenSSL reads them: no octet is lost, whatever the type allows.
_CODECS: Final = {
    0x0C: "utf-8",  # UTF8String
    0x12: "latin-1",  # NumericString
    0x13: "latin-1",  # PrintableString
    0x14: "latin-1",  # TeletexString
    0x16: "latin-1",  # IA5String
    0x1A: "latin-1",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}

# Names as OpenSSL prints them (objects.txt); every other algorithm is given by its number.
_SIGNATURE_ALGORITHMS: Final = {
    "1.2.840.113549.1.1.2": "md2WithRSAEncryption",
    "1.2.840.113549.1.1.3": "md4WithRSAEncryption",
    "1.2.840.113549.1.1.4": "md5WithRSAEncryption",
    "1.2.840.113549.1.1.5": "sha1WithRSAEncryption",
    "1.2.840.113549.1.1.10": "rsassaPss",
    "1.2.840.113549.1.1.11": "sha256WithRSAEncryption",
    "1.2.840.113549.1.1.12": "sha384WithRSAEncryption",
    "1.2.840.113549.1.1.13": "sha512WithRSAEncryption",
    "1.2.840.113549.1.1.14": "sha224WithRSAEncryption",
    "1.3.14.3.2.29": "sha1WithRSA",
    "1.2.840.10040.4.3": "dsaWithSHA1",
    "2.16.840.1.101.3.4.3.1": "dsa_with_SHA224",
    "2.16.840.1.101.3.4.3.2": "dsa_with_SHA256",
    "1.2.840.10045.4.1": "ecdsa-with-SHA1",
    "1.2.840.10045.4.3.1": "ecdsa-with-SHA224",
    "1.2.840.10045.4.3.2": "ecdsa-with-SHA256",
    "1.2.840.10045.4.3.3": "ecdsa-with-SHA384",
    "1.2.840.10045.4.3.4": "ecdsa-with-SHA512",
    "1.3.101.112": "ED25519",
    "1.3.101.113": "ED448",
    "1.2.156.10197.1.501": "SM2-with-SM3",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}

# C0, DEL, C1, and what a terminal obeys without showing it: line separators and bidirectional controls.
_UNSEEN: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")
_LATIN_1_LAST: Final = 0xFF
_OUTSIDE_ASCII: Final = re.compile("[^\\x20-\\x7e]")

# X.680 sections 46 and 47, with the minutes required and the zone required: a local time is no instant.
_TIME: Final = re.compile(
    rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(?:(\d\d)(?:[.,]\d+)?)?(?:Z|([+-])([01]\d|2[0-3])([0-5]\d))"
)

_Element = tuple[int, int, int]  # of one TLV: first octet of the tag, where its content starts, where it ends


class BadCertificate(ValueError):
    """The bytes hold no SubjectPublicKeyInfo where a certificate has it."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    r"""What one certificate says of itself; nothing here is verified.

    All text can be encoded as UTF-8 and is free of control characters (shown as `\x00`, `\u202e`).

    Attributes:
        spki_sha256: standard base64 of the SHA-256 of the SubjectPublicKeyInfo, as its bytes stand.
        fingerprint_sha256: lower-case hex of the SHA-256 of all bytes received.
        subject_cn: the last common name of the subject that can be read; "" when there is none. At most
            CN_MAX_CHARACTERS.
        issuer_cn: the same of the issuer.
        not_before: RFC 3339, UTC, whole seconds; None when it cannot be read.
        not_after: the same of the end.
        sans: dNSName (lower case, not decoded) and iPAddress entries in their order: at most SANS_MAX, each
            at most SAN_MAX_CHARACTERS. Of a broken list, those before the break.
        sans_total: how many of these entries there were before the cap.
        serial: upper-case hex of whole octets, `-` before a negative one, as OpenSSL prints it; "" when it
            cannot be read.
        signature_algorithm: OpenSSL's name, or the dotted number where it is not in the list here; "" when it
            cannot be read.
    """

    spki_sha256: str
    fingerprint_sha256: str
    subject_cn: str
    issuer_cn: str
    not_before: str | None
    not_after: str | None
    sans: tuple[str, ...]
    sans_total: int
    serial: str
    signature_algorithm: str


def read_certificate(der: bytes) -> CertificateFacts:
    """Read the facts of one certificate (RFC 5280 section 4.1); a field that cannot be read is empty.

    Bytes after the certificate are left alone, and one that was cut short behind its key is read as far as it
    goes.

    Raises:
        BadCertificate: the SubjectPublicKeyInfo cannot be located.
    """
    at, end = _opened(der, 0, len(der))
    at, end = _opened(der, at, end)
    serial = _element(der, at, end)
    if serial[0] == _VERSION:
        serial = _element(der, serial[2], end)
    algorithm = _element(der, serial[2], end)
    issuer = _element(der, algorithm[2], end)
    validity = _element(der, issuer[2], end)
    subject = _element(der, validity[2], end)
    key_end = _end_of_key(der, subject[2], end)
    not_before, not_after = _validity(der, validity)
    sans, sans_total = _alternative_names(der, key_end, end)
    return CertificateFacts(
        spki_sha256=b64encode(sha256(der[subject[2] : key_end]).digest()).decode("ascii"),
        fingerprint_sha256=sha256(der).hexdigest(),
        subject_cn=_common_name(der, subject),
        issuer_cn=_common_name(der, issuer),
        not_before=not_before,
        not_after=not_after,
        sans=sans,
        sans_total=sans_total,
        serial=_serial(der, serial),
        signature_algorithm=_algorithm(der, algorithm),
    )


def _element(der: bytes, at: int, end: int) -> _Element:
    """Return the element at `at`, whole within `end`; its last number is where the next one starts."""
    start = at + 2
    if start > end:
        raise BadCertificate("truncated")
    tag = der[at]
    length = der[at + 1]
    if length < _LONG_FORM and tag & _HIGH_TAG != _HIGH_TAG:
        stop = start + length
    else:
        start, stop = _long_header(der, at, end)
    if stop > end:
        raise BadCertificate("longer than what holds it")
    return tag, start, stop


def _long_header(der: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where the content of an element starts and where it claims to end, for every form of header."""
    try:
        if der[at] & _HIGH_TAG == _HIGH_TAG:
            at += 1
            while at < end and der[at] & _CONTINUES:  # else a scan from every element to the end of all
                at += 1
        length = der[at + 1]
    except IndexError:
        raise BadCertificate("truncated") from None
    at += 2
    if length == _LONG_FORM:
        raise BadCertificate("indefinite length")
    if length > _LONG_FORM:
        octets = length ^ _LONG_FORM
        length = int.from_bytes(der[at : at + octets], "big")
        at += octets
    if at > end:
        raise BadCertificate("truncated")
    return at, at + length


def _opened(der: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the inside of a sequence, which may claim more than there is."""
    if at >= end or der[at] != _SEQUENCE:
        raise BadCertificate("not a sequence")
    start, stop = _long_header(der, at, end)
    return start, min(stop, end)


def _end_of_key(der: bytes, at: int, end: int) -> int:
    """Return where the SubjectPublicKeyInfo that starts at `at` ends.

    Its shape is checked because nothing else in a TBSCertificate has it: a certificate whose parts are missing
    or moved gives no key, never the hash of something else.
    """
    tag, start, stop = _element(der, at, end)
    algorithm_tag, _, algorithm_end = _element(der, start, stop)
    key_tag, _, _ = _element(der, algorithm_end, stop)
    if (tag, algorithm_tag, key_tag) != (_SEQUENCE, _SEQUENCE, _BIT_STRING):
        raise BadCertificate("no SubjectPublicKeyInfo")
    return stop


def _serial(der: bytes, element: _Element) -> str:
    tag, start, stop = element
    if tag != _INTEGER or not 0 < stop - start <= SERIAL_MAX_OCTETS:
        return ""
    value = int.from_bytes(der[start:stop], "big", signed=True)
    digits = f"{abs(value):X}"
    return "-" * (value < 0) + "0" * (len(digits) % 2) + digits


def _algorithm(der: bytes, identifier: _Element) -> str:
    """Name an AlgorithmIdentifier (RFC 5280 section 4.1.1.2)."""
    try:
        tag, start, stop = _element(der, identifier[1], identifier[2])
    except BadCertificate:
        return ""
    if tag != _OBJECT_IDENTIFIER or stop - start > OID_MAX_OCTETS:
        return ""
    dotted = _dotted(der[start:stop])
    return _SIGNATURE_ALGORITHMS.get(dotted, dotted)


def _dotted(content: bytes) -> str:
    """Return an object identifier as text (X.690 section 8.19); "" when its last arc does not end."""
    if not content or content[-1] & _CONTINUES:
        return ""
    arcs: list[int] = []
    arc = 0
    for octet in content:
        arc = arc << 7 | octet & ~_CONTINUES
        if octet < _CONTINUES:
            arcs.append(arc)
            arc = 0
    root = min(arcs[0] // 40, 2)
    return ".".join(map(str, (root, arcs[0] - 40 * root, *arcs[1:])))


def _common_name(der: bytes, name: _Element) -> str:
    """Return the last common name that can be read, as Go's `pkix.Name.FillFromRDNSequence` leaves it."""
    found: _Element | None = None
    _, at, end = name
    try:
        while at < end:
            _, inner, at = _element(der, at, end)
            while inner < at:
                _, start, inner = _element(der, inner, at)
                found = _common_name_value(der, start, inner) or found
    except BadCertificate:
        pass
    return _text(der, found) if found else ""


def _common_name_value(der: bytes, at: int, end: int) -> _Element | None:
    """Return the value of one attribute if it is a common name of a type that can be read."""
    try:
        _, start, stop = _element(der, at, end)
        if der[start:stop] != _COMMON_NAME:
            return None
        value = _element(der, stop, end)
    except BadCertificate:
        return None
    return value if value[0] in _CODECS else None


def _text(der: bytes, element: _Element) -> str:
    """Decode a DirectoryString (RFC 5280 section 4.1.2.4), with U+FFFD for what its type does not allow."""
    tag, start, stop = element
    stop = min(stop, start + 4 * CN_MAX_CHARACTERS)  # no type has more than four octets to a character
    return _seen(_UNSEEN, der[start:stop].decode(_CODECS[tag], "replace"), CN_MAX_CHARACTERS)


def _seen(unseen: re.Pattern[str], text: str, max_characters: int) -> str:
    if not (text.isascii() and text.isprintable()):
        text = unseen.sub(_escape, text)
    return text[:max_characters]


def _escape(character: re.Match[str]) -> str:
    code = ord(character[0])
    return f"\\x{code:02x}" if code <= _LATIN_1_LAST else f"\\u{code:04x}"


def _validity(der: bytes, validity: _Element) -> tuple[str | None, str | None]:
    _, at, end = validity
    not_before = None
    try:
        element = _element(der, at, end)
        not_before = _time(der, element)
        return not_before, _time(der, _element(der, element[2], end))
    except BadCertificate:
        return not_before, None


def _time(der: bytes, element: _Element) -> str | None:
    """Return a UTCTime or GeneralizedTime as RFC 3339, without its fraction of a second."""
    tag, start, stop = element
    content = der[start:stop]
    if tag == _UTC_TIME:
        content = (b"19" if content >= b"50" else b"20") + content  # RFC 5280 section 4.1.2.5.1
    elif tag != _GENERALIZED_TIME:
        return None
    match = _TIME.fullmatch(content)
    if match is None:
        return None
    year, month, day, hour, minute, second, sign, zone_hours, zone_minutes = match.groups(b"0")
    try:
        instant = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
        if sign != b"0":
            offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
            instant += offset if sign == b"-" else -offset
    except (ValueError, OverflowError):
        return None
    return instant.isoformat().removesuffix("+00:00") + "Z"


def _alternative_names(der: bytes, at: int, end: int) -> tuple[tuple[str, ...], int]:
    """Return the names of every subjectAltName extension behind the key, and how many there were."""
    names: list[str] = []
    total = 0
    try:
        at, end = _extensions(der, at, end)
        while at < end:
            _, start, at = _element(der, at, end)
            total += _append_names(names, der, start, at)
    except BadCertificate:
        pass
    return tuple(names), total


def _extensions(der: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the inside of the Extensions of a TBSCertificate; nothing when it has none."""
    while at < end:
        tag, start, at = _element(der, at, end)
        if tag == _EXTENSIONS:
            _, start, stop = _element(der, start, at)
            return start, stop
    return end, end


def _append_names(names: list[str], der: bytes, at: int, end: int) -> int:
    """Append the names of one extension if it is a subjectAltName, up to SANS_MAX; return how many it has."""
    total = 0
    try:
        _, start, at = _element(der, at, end)
        if der[start:at] != _SUBJECT_ALT_NAME:
            return 0
        tag, start, stop = _element(der, at, end)
        if tag == _BOOLEAN:  # critical
            _, start, stop = _element(der, stop, end)
        _, at, end = _element(der, start, stop)
        while at < end:
            tag, start, at = _element(der, at, end)
            if tag == _DNS_NAME or (tag == _IP_ADDRESS and at - start in _FAMILIES):
                total += 1
                if len(names) < SANS_MAX:
                    names.append(_general_name(der, tag, start, at))
    except BadCertificate:
        pass
    return total


def _general_name(der: bytes, tag: int, start: int, stop: int) -> str:
    if tag == _IP_ADDRESS:
        return socket.inet_ntop(_FAMILIES[stop - start], der[start:stop])
    text = der[start : min(stop, start + SAN_MAX_CHARACTERS)].lower().decode("latin-1")
    return _seen(_OUTSIDE_ASCII, text, SAN_MAX_CHARACTERS)
