"""Hostile page bodies of 512 KiB: each has taken some parser of the wild seconds or minutes.

For every test and benchmark that must show a bounded cost, whoever does the reading.
"""

import random
from collections.abc import Iterator

BODY_BYTES = 512 * 1024
SEED = 20_260_101

# Repeated to the full length.
REPEATED = {
    "nested div": b"<div>",
    "unclosed b": b"<b>",
    "table and a": b"<table><a>",
    "misnested b, p, a": b"<b></p><a href=y>",
    "comment openers": b"<!--",
    "less-than signs": b"<",
    "a with an unclosed quote": b'<a href="',
    "a without an end": b"<a href=",
    "a": b"<a>",
    "a of its own site": b"<a href>",
    "end tag openers": b"</",
    "empty end tags": b"</>",
    "bogus end tags": b"</ x>",
    "bogus comments": b"<?x>",
    "declaration openers": b"<!",
    "declarations": b"<!>",
    "doctypes": b"<!doctype>",
    "empty comments": b"<!-->",
    "comments that nearly end": b"<!-- --!-",
    "dashes": b"<!-----",
    "CDATA in HTML": b"<![CDATA[<a>]]>",
    "ampersands": b"&",
    "unclosed tags": b"<b ",
    "unclosed quotes": b"<b x='",
    "quoted less-than signs": b"<b x='<'>",
    "end tags with values": b"</b x='<a>'>",
    "equals signs": b"<b = = =",
    "slashes in tags": b"<b////",
    "nested templates": b"<template>",
    "templates": b"<template></template>",
    "templates in SVG in templates": b"<template><svg><desc>",
    "nested svg": b"<svg>",
    "svg": b"<svg></svg>",
    "empty svg": b"<svg/>",
    "svg and stray ends": b"<svg><desc></title></mi></svg x>",
    "svg that b breaks out of": b"<svg><b>",
    "nested integration points": b"<svg><foreignObject>",
    "nested math": b"<math><mi>",
    "annotations": b"<math><annotation-xml encoding=text/html>",
    "fonts in svg": b"<svg><font color>",
    "CDATA in svg": b"<svg><![CDATA[",
    "scripts": b"<script></script>",
    "script openers": b"<script>",
    "script that escapes": b"<script><!--<script>",
    "script that escapes and ends": b"<!--<script --></script <script>",
    "titles": b"<title></title>",
    "textareas that nearly end": b"<textarea></textare",
    "noscripts": b"<noscript><style></noscript>",
    "metas that nearly refresh": b"<meta http-equiv=refresh content='0;url'>",
    "bases": b"<base>",
    "selects": b"<select><option><a href=//a.example>",
    "NULs": b"\0",
    "NULs in tags": b"<a\0 href=\0>",
    "spaces": b" ",
    "invalid UTF-8": b"\xff\xfe\xfd",
    "cut UTF-8": b"\xf0\x9f\x98",
}

# Something at the head, something repeated up to the full length, something at the end.
FILLED = {
    "many attributes": (b"<a ", b"x=y ", b"href=//a.example>"),
    "one attribute of references": (b'<a href="', b"&amp", b'">'),
    "one attribute of unknown references": (b'<a href="', b"&nosuchname;", b'">'),
    "one attribute of number references": (b'<a href="', b"&#0000000000000000000047;", b'">'),
    "one reference of digits": (b'<a href="&#', b"9", b';">'),
    "one reference of zeros": (b'<a href="&#', b"0", b';">'),
    "one URL of spaces": (b'<a href="', b" ", b'x">'),
    "one URL of line ends": (b'<a href="', b"\n", b'x">'),
    "one URL of slashes": (b'<a href="', b"/", b'a.example">'),
    "one URL of at signs": (b'<a href="//', b"@", b'a.example">'),
    "one URL of colons": (b'<a href="//', b":", b'a.example">'),
    "one URL of brackets": (b'<a href="//', b"[", b'">'),
    "one URL of a scheme": (b'<a href="', b"a", b':">'),
    "one host of dots": (b'<a href="//', b".", b'">'),
    "one host of labels": (b'<a href="//', b"a.", b'">'),
    "one host of percent signs": (b'<a href="//', b"%61.", b'">'),
    "one host of digits": (b'<a href="//', b"1", b'">'),
    "one host of umlauts": (b'<a href="//', b"\xc3\xbc", b'.example">'),
    "one port of digits": (b'<a href="//a.example:', b"9", b'">'),
    "one port of zeros": (b'<a href="//a.example:', b"0", b'80">'),
    "endless srcset": (b'<img srcset="', b"a 1x,", b'">'),
    "srcset of commas": (b'<img srcset="', b",", b'">'),
    "srcset of parentheses": (b'<img srcset="a ', b"(", b'">'),
    "srcset of closed parentheses": (b'<img srcset="a ', b"(,)", b'">'),
    "srcset of one URL": (b'<img srcset="', b"a,", b'">'),
    "refresh of digits": (b'<meta http-equiv=refresh content="', b"0", b';url=//a.example">'),
    "refresh of spaces": (b'<meta http-equiv=refresh content="0', b" ", b';url=//a.example">'),
    "refresh of url words": (b'<meta http-equiv=refresh content="0;', b"url =", b'">'),
    "refresh in quotes": (b"<meta http-equiv=refresh content=\"0;url='", b"x", b'">'),
    "nearly the refresh": (b"<meta http-equiv=refresh ", b"content ", b">"),
    "one comment of dashes": (b"<!--", b"-", b"!>"),
    "one script of ends": (b"<script>", b"</scrip", b"</script>"),
    "one script of comments": (b"<script>", b"<!-- -->", b"</script>"),
    "one script of nested scripts": (b"<script><!--", b"<script></script>", b"--></script>"),
    "svg ended by what is not open": (b"<svg>" * 40_000, b"</desc>", b""),
    "svg left and entered": (b"<div>", b"<svg><g></div>", b""),
    "UTF-16 of lone surrogates": (b"\xfe\xff", b"\xd8\x00\x00\x61", b""),
    "ISO-2022-JP of broken escapes": (b"<meta charset=iso-2022-jp>", b"\x1b$B\x1b", b""),
    "windows-874 of what it has not": (b"<meta charset=windows-874>", b"\xff", b""),
    "GB 18030 of broken pairs": (b"<meta charset=gb18030>", b"\x81\x20", b""),
}


# Numbered from 0 up to the full length, so that nothing can be remembered from one to the next.
NUMBERED = {
    "different b": (b"", b"<b id=%d>", b""),
    "different attributes": (b"<a ", b"x%d=y ", b""),
    "different hosts": (b"", b"<a href=//h%d.example>", b""),
    "different bad hosts": (b"", b"<a href=//h_%d.example>", b""),
    "different addresses": (b"", b"<a href=//10.%d>", b""),
    "different hosts outside ASCII": (b"", b"<a href=//\xc3\xbc%d.example>", b""),
    "different long hosts outside ASCII": (b"", b"<a href=//%d" + b".\xd7\x90\xc3\xbc" * 100 + b">", b""),
    "different hosts in percent signs": (b"", b"<a href=//%%68%d.example>", b""),
    "different hosts in references": (b"", b"<a href=&sol;/h%d.example>", b""),
    "different paths": (b"", b"<a href=%d>", b""),
    "different images": (b'<img srcset="', b"//h%d.example,", b'">'),
}

_MARKUP_BYTES = b"<>/!?-='\"& \0abchrefsvgtitlescript"

NAMES = (*REPEATED, *FILLED, *NUMBERED, "random bytes", "random markup", "random pieces")
"""Every kind of body there is."""


def body(name: str) -> bytes:
    """Return the body of one kind, `BODY_BYTES` long."""
    if name in REPEATED:
        return _filled(b"", REPEATED[name], b"")
    if name in FILLED:
        return _filled(*FILLED[name])
    if name in NUMBERED:
        head, part, tail = NUMBERED[name]
        return _filled(head, b"".join(part % number for number in range(BODY_BYTES // len(part) + 1)), tail)
    noise = random.Random(SEED)
    if name == "random bytes":
        return noise.randbytes(BODY_BYTES)
    if name == "random markup":
        return bytes(noise.choices(_MARKUP_BYTES, k=BODY_BYTES))
    pieces = [*REPEATED.values(), *(piece for pieces in FILLED.values() for piece in pieces[1:])]
    return b"".join(noise.choices(pieces, k=BODY_BYTES))[:BODY_BYTES]


def bodies() -> Iterator[tuple[str, bytes]]:
    """Yield a name and a body of `BODY_BYTES` of every kind."""
    return ((name, body(name)) for name in NAMES)


def _filled(head: bytes, part: bytes, tail: bytes) -> bytes:
    room = BODY_BYTES - len(head) - len(tail)
    return head + (part * (room // len(part) + 1))[:room] + tail
