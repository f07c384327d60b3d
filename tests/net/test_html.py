"""The link grammar: against expectations made by other parsers, against html5lib, and against hostile bodies.

The URL table was checked against Node's URL, the real pages' hosts come from parse5 (see `shared_data`).
"""

import gzip
import json
import re
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spyder.model.names import BadName, normalise_host, registrable_domain
from spyder.net.html import LINK_ATTRIBUTES, decode, link_hosts
from tests.net import hostile_markup
from tests.shared_data import shared

PAGE = "https://page.example/dir/index.html"
PAGES = shared("pages/expected.json")
EXPECTED: list[dict[str, Any]] = json.loads(PAGES.read_text("utf-8"))
ANCHORS = frozenset({"a", "area"})

BUDGET_HOSTILE_SECONDS = 0.5  # CPU for 512 KiB, whatever they are
BUDGET_PAGE_SECONDS = 0.001  # CPU for a typical page of 20 KB


def hosts(markup: str, page_url: str = PAGE) -> list[str]:
    """Return the hosts of a page of UTF-8."""
    return link_hosts(markup.encode(), page_url=page_url, content_type="text/html; charset=utf-8")


def names(written: Iterable[str]) -> set[str]:
    """Return what is left of hosts when names are normalised, and what is no name is left out."""
    found = set()
    for host in written:
        try:
            found.add(normalise_host(host))
        except BadName:
            continue
    return found


def page_body(name: str) -> bytes:
    """Return a real page; of `NAME@BYTES`, its first bytes."""
    name, _, size = name.partition("@")
    return gzip.decompress((PAGES.parent / f"{name}.html.gz").read_bytes())[: int(size) if size else None]


# --- real pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected["name"])
class TestRealPages:
    """What parse5 and Node's URL find on real pages."""

    def test_anchors(self, expected: dict[str, Any]) -> None:
        """Hosts and outside domains of `a` and `area` are those that parse5 finds."""
        found = link_hosts(
            page_body(expected["name"]),
            page_url=expected["page_url"],
            content_type=expected["content_type"],
            elements=ANCHORS,
        )
        assert set(found) == names(expected["hosts"])
        assert len(found) == len(set(found))
        own = registrable_domain(urllib.parse.urlsplit(expected["page_url"]).hostname or "")
        outside = {registrable_domain(host) for host in found} - {None, own}
        assert outside == set(expected["external_registrable"])

    def test_all_elements(self, expected: dict[str, Any]) -> None:
        """With every element, the hosts are those of `a` and `area` and of the other elements, and no more."""
        found = link_hosts(
            page_body(expected["name"]), page_url=expected["page_url"], content_type=expected["content_type"]
        )
        assert set(found) == names(expected["hosts"] + expected["hosts_only_in_other_elements"])
        assert set(found).isdisjoint(expected["hosts_only_in_templates"])


# --- against html5lib ---------------------------------------------------------------------------------------

_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"


def tree_of(text: str) -> Element:
    """Return html5lib's tree; the names of elements in SVG and MathML stand with their namespaces."""
    tree: Element = html5lib.parse(text, treebuilder="etree", namespaceHTMLElements=False)
    return tree


def reference_urls(tree: Element) -> Iterator[str]:
    """Yield the URLs of a tree's elements as they are written, except those of a refresh."""
    for element in tree.iter():
        if callable(element.tag):  # a comment
            continue
        if element.tag.startswith("{"):
            if element.tag.endswith("}a"):
                yield element.get("href", element.get(_XLINK_HREF, ""))
            continue
        for attribute in LINK_ATTRIBUTES.get(element.tag, ()):
            value = element.get(attribute)
            if value is None:
                continue
            if attribute.endswith("srcset"):
                yield from re.findall(r"(?:https?:)?//[^\s,]+", value)
            elif element.tag != "meta":
                yield value


def reference_hosts(text: str) -> Iterator[str]:
    """Yield the hosts of html5lib's links, by the URLs of the standard library."""
    tree = tree_of(text)
    base = urllib.parse.urljoin(PAGE, next((e.attrib["href"] for e in tree.iter("base") if "href" in e.attrib), ""))
    for url in reference_urls(tree):
        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url.strip()))
            if parts.scheme in {"http", "https"}:
                yield parts.hostname or ""
        except ValueError:
            continue


@pytest.mark.parametrize("name", [e["name"] for e in EXPECTED if "@" not in e["name"]])
def test_real_pages_as_html5lib(name: str) -> None:
    """On the first 256 KiB of real pages, html5lib's tree and ours have the same links."""
    body = page_body(name)[: 256 * 1024]
    assert set(hosts(decode(body, "text/html; charset=utf-8"))) == names(
        reference_hosts(decode(body, "text/html; charset=utf-8"))
    )


# Left out of the soup, as the tree differs there and we do not follow it: `select`, `frameset`, `form` in a form;
# `button` in a table (a second one is lost), `template` (unknown) and a NUL that starts a comment, in which
# html5lib is not the standard's.
_LINKS = [
    '<a href="//h{}.example">', "<a href=//h{}.example>", "<A HREF='//h{}.example'/>", "<img src=//h{}.example>",
    '<img alt="<a href=//h{}.example>">', '<img alt=x>y title="//h{}.example">', "<a/href=//h{}.example>",
    '<a ="" href=//h{}.example>', "<a x href=//h{}.example href=//x{}.example>", '<a href = "//h{}.example">',
    "<a href\n=\n//h{}.example>", "<a x=y/href=//h{}.example>", '<a x="y"href=//h{}.example>', "<a href=//h{}.example",
    "<a href='//h{}.example",
    "<a hrefx=1 href=//h{}.example>", "<a href=//&#104;{}.example>", "<a href=&sol;/h{}.example>",
    "<abbr href=//h{}.example>", "</a href=//h{}.example>", '</div x="<a href=//h{}.example>">',
    "<image src=//h{}.example>", "<video src=//h{}.example poster=//p{}.example>", "<object data=//h{}.example>",
    "<input formaction=//h{}.example>", "<embed src=//h{}.example>", "<audio src=//h{}.example>",
    "<area href=//h{}.example>", "<source src=//h{}.example>", "<link href=//h{}.example>",
    "<script src=//h{}.example>", "<script src=//h{}.example></script>", "<iframe src=//h{}.example>",
    "<a\0 href=//h{}.example>", "<a \0href=//h{}.example>", "<iframe/src=//h{}.example></iframe>",
]  # fmt: skip
_MARKUP = [
    "</a>", "<div>", "</div>", "<p>", "</p>", "<b>", "</b>", "<table>", "<tr>", "<td>", "</table>", "<script>",
    "</script>", "<!--", "-->", "--!>", "<!-->", "<!--->", "<style>", "</style>", "<title>", "</title>", "<textarea>",
    "</textarea>", "</iframe>", "<noscript>", "</noscript>", "<xmp>", "</xmp>", "<noembed>", "</noembed>",
    "<noframes>", "</noframes>", '"', "'", ">", "<", "/", "=", " ", "x", "-", "!", "<?", "<!x", "</ x", "</>",
    "<!doctype html>", "<base>", '<div x="', "<div x='", '<div "x">', "<div =x>", '<div ="x">', "<![CDATA[", "]]>",
    "<b x=>", "<br/>", "</br>", "<script><!--<script>", "</script x>", "<li>", "</body>", "</html>", "<body>",
    "<head>", "</head>", "<h1>", "<center>", "<pre>", "<plaintext", "\r\n", "\f", "&amp;", "<object>", "</object>",
    "<caption>", "<colgroup>", "<hr>", "<nobr>", "<font color=x>", '<!DOCTYPE html PUBLIC "a>b">', "<svg/>", "<math/>",
    "</svg>", "<mi>", "<desc>", "<script", "</script", "<!-", "<style/>",
]  # fmt: skip
_IN_SVG = [
    "<path/>", "<path>", "<g>", "<title>t</title>", "<title><area href=//h{}.example></title>", "<desc/>", "<title/>",
    "<title><style><a href=//h{}.example></style></title>", "<style><a href=//h{}.example></a></style>", "<script/>",
    "<script src=//h{}.example>", "<a xlink:href=//h{}.example></a>", "<![CDATA[<a href=//h{}.example>]]>", "x",
    "<!--<a href=//h{}.example>-->", "<foreignObject><area href=//h{}.example></foreignObject>", "<a href=x/></a>",
    "<foreignObject><style><a href=//h{}.example></style></foreignObject>", "<image href=//h{}.example>", "<font>",
    "<link href=//h{}.example>", "<iframe src=//h{}.example>", "<svg><path/></svg>", "<math></math>", "<mi>",
    "<foreignObject><svg><style><a href=//h{}.example></a></style></svg></foreignObject>", "<font color=a>", "<div>",
    "<img src=//h{}.example>", "<table>", "<title x=y/>t</title>", "<textarea>", "<annotation-xml>", "<a href=x />",
]  # fmt: skip
_IN_MATH = [
    "<mi>x</mi>", "<mi><style><a href=//h{}.example></style></mi>", "<style><a href=//h{}.example></a></style>",
    "<annotation-xml><style><a href=//h{}.example></a></style></annotation-xml>", "<mrow></mrow>", "<b>",
    "<annotation-xml encoding=text/html><style><a href=//h{}.example></style></annotation-xml>",
    "<annotation-xml><svg><title><style><a href=//h{}.example></style></title></svg></annotation-xml>",
    "<mtext><area href=//h{}.example></mtext>", "<title><a href=//h{}.example></a></title>",
    "<![CDATA[<a href=//h{}.example>]]>", "<desc><style><a href=//h{}.example></a></style></desc>",
]  # fmt: skip
_AROUND = [
    "<a href=//h{}.example></a>", "<div>", "<p>", "<table><tr><td>", "<style><a href=//h{}.example></style>",
    "<title><a href=//h{}.example></title>", "<link href=//h{}.example>", "<b>", "<script>x</script>", "<!--x-->",
    "<iframe></iframe>", "<![CDATA[<a href=//h{}.example>]]>",
]  # fmt: skip


def _numbered(pieces: list[str]) -> str:
    """Join pieces; every link gets a host of its own."""
    parts = "".join(pieces).split("{}")
    return parts[0] + "".join(f"{number}{part}" for number, part in enumerate(parts[1:]))


def _soup(pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(pieces, min_size=1, max_size=14).map(_numbered)


def _element(name: str, content: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(content), max_size=5).map(lambda parts: f"<{name}>{''.join(parts)}</{name}>")


html_soup = _soup(st.sampled_from(_LINKS) | st.sampled_from(_MARKUP))
foreign_soup = _soup(st.sampled_from(_AROUND) | _element("svg", _IN_SVG) | _element("math", _IN_MATH))
as_html5lib = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _assert_as_html5lib(markup: str) -> None:
    written = (re.fullmatch(r"//([a-z0-9.]+)/?", url) for url in reference_urls(tree_of(markup)))
    assert set(hosts(markup)) - {"page.example"} == {found[1] for found in written if found}


@as_html5lib
@given(html_soup)
def test_soup_as_html5lib(markup: str) -> None:
    """Whatever HTML is thrown together, the links are those of html5lib's tree."""
    _assert_as_html5lib(markup)


@as_html5lib
@given(foreign_soup)
def test_foreign_soup_as_html5lib(markup: str) -> None:
    """Whatever stands in SVG and MathML that are closed, the links are those of html5lib's tree."""
    _assert_as_html5lib(markup)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text("<>/!?-='\"& abhrefscipt\0", max_size=100).map(str.encode), st.text())
def test_nothing_raises(body: bytes, label: str) -> None:
    """Whatever the bytes and the header are, the answer is a list."""
    assert isinstance(link_hosts(body, page_url=label, content_type=f"text/html; charset={label}"), list)


# --- tags ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "markup",
    [
        "<a href=//h.example>",
        "<area href=//h.example>",
        "<link href=//h.example>",
        "<link imagesrcset='//h.example 1x'>",
        "<script src=//h.example></script>",
        "<img src=//h.example>",
        "<img srcset=//h.example>",
        "<image src=//h.example>",
        "<iframe src=//h.example></iframe>",
        "<source src=//h.example>",
        "<source srcset=//h.example>",
        "<video src=//h.example>",
        "<video poster=//h.example>",
        "<audio src=//h.example>",
        "<embed src=//h.example>",
        "<object data=//h.example>",
        "<form action=//h.example>",
        "<button formaction=//h.example>",
        "<input formaction=//h.example>",
        "<meta http-equiv=refresh content='0;url=//h.example'>",
        "<svg><a href=//h.example>",
        "<svg><a xlink:href=//h.example>",
        "<select><a href=//h.example>",
        "<noscript><img src=//h.example></noscript>",
    ],
)
def test_an_element_links(markup: str) -> None:
    """Each attribute that names a resource is a link."""
    assert hosts(markup) == ["h.example"]
    assert hosts(f"<template>{markup}</template>") == []


@pytest.mark.parametrize(
    "markup",
    [
        "<a href=//h.example",
        "<a href='//h.example>",
        "<a data-href=//h.example>",
        "<a xlink:href=//h.example>",
        "<b href=//h.example>",
        "<meta content='0;url=//h.example'>",
        "<meta http-equiv=refresh-not content='0;url=//h.example'>",
        "<svg><link href=//h.example></svg>",
        "<svg><script src=//h.example></script></svg>",
        "<!-- <a href=//h.example> -->",
        "<style><a href=//h.example></style>",
        "<title><a href=//h.example></title>",
        "<script><!--<script></script><a href=//h.example></script>",
        "<plaintext></plaintext><a href=//h.example>",
        "<template><template></template><a href=//h.example></template>",
        "<template><a href=//h.example>",
        "<template><svg><title></template-><a href=//h.example>",
    ],
)
def test_what_is_not_a_link(markup: str) -> None:
    """Tags that never end, other attributes, raw text, comments and templates hold no links."""
    assert hosts(markup) == []


def test_after_templates_and_raw_text() -> None:
    """Reading goes on after templates, scripts that escape themselves, and foreign content left open in them."""
    markup = (
        "<template><svg><template></template></template><a href=//a.example>"
        "<script><!--<script></script>--></script><a href=//b.example>"
        "<script><!--></script><a href=//c.example>"
        "<style></styles></style/><a href=//d.example>"
        "<div><svg></div><style><a href=//not.example></style><a href=//e.example>"
    )
    assert hosts(markup) == ["a.example", "b.example", "c.example", "d.example", "e.example"]


def test_order_and_distinctness() -> None:
    """Hosts come once each, in the order first seen, however they are spelt."""
    markup = "<a href=//b.example><img src=//A.example><a href=HTTP://B.example.:80/><a href=x>"
    assert hosts(markup) == ["b.example", "a.example", "page.example"]


def test_elements_are_restricted() -> None:
    """Only the elements asked for count; `base` counts always."""
    body = b"<base href=//base.example><img src=//img.example><a href=x><area href=//area.example>"
    assert link_hosts(body, page_url=PAGE, elements=ANCHORS) == ["base.example", "area.example"]


def test_limit() -> None:
    """No more hosts are returned than asked for."""
    assert len(link_hosts(hostile_markup.body("different hosts"), page_url=PAGE)) == 10_000
    assert link_hosts(b"<a href=//a.example><a href=//b.example>", page_url=PAGE, limit=1) == ["a.example"]


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("//h.example?a&amp;b", "h.example"),
        ("//h&period;example", "h.example"),
        ("&#47;&#x2F;h.example", "h.example"),
        ("&#x2f&#x2Fh.example", "h.example"),
        ("//h.example/&copy=1", "h.example"),
        ("//&copy=.example", None),
        ("//&ampx.example", None),
        ("//h.example&sol", None),
        ("//h.example&sol;x", "h.example"),
        ("//&uuml.example", "xn--tda.example"),
        ("//&uumlx.example", None),
        ("//&#0;.example", None),
        ("//&#xD800;.example", None),
        ("//&#99999999999999999999;.example", None),
        ("//&#x8A;.example", "xn--pga.example"),
        ("&#32;//h.example", "h.example"),
    ],
)
def test_character_references(value: str, host: str | None) -> None:
    """References are resolved by the rules for attributes."""
    assert set(hosts(f'<a href="{value}">')) - {"page.example"} == ({host} if host else set())


@pytest.mark.parametrize(
    ("base", "link", "host"),
    [
        ("//other.example/", "x", "other.example"),
        ("https://other.example/", "//h.example", "h.example"),
        ("/dir/", "x", "page.example"),
        ("javascript:x", "x", "page.example"),
        ("data:x", "x", "page.example"),
        ("https://", "x", "page.example"),
        ("mailto:x", "x", None),
        ("mailto:x", "//h.example", None),
        ("ftp://h.example/", "//h.example", None),
        ("ftp://h.example/", "http:h.example", "h.example"),
        ("http://other.example/", "http:h.example", "other.example"),
        ("http://other.example/", "https:h.example", "h.example"),
        ("", "x", "page.example"),
    ],
)
def test_base(base: str, link: str, host: str | None) -> None:
    """Links are relative to the first `base` that has an href, wherever it stands."""
    for before, after in (
        (f"<base target=_top><base href='{base}'><base href=//no.example>", ""),
        ("", f"<base href='{base}'>"),
        ("<template><base href=//no.example></template>", f"<base href='{base}'>"),
        ("<svg><base href=//no.example></svg>", f"<base href='{base}'>"),
    ):
        markup = f"{before}<a href='{link}'>{after}"
        assert hosts(markup) == ([host] if host else [])


@pytest.mark.parametrize(
    ("content", "host"),
    [
        ("0;url=//h.example", "h.example"),
        ("0; URL = '//h.example' x", "h.example"),
        (' 5.5 , url=\n"//h.example" x', "h.example"),
        ("0 //h.example", "h.example"),
        ("0;//h.example", "h.example"),
        (".5;//h.example", "h.example"),
        ("0;'//h.example", "h.example"),
        ("0;url=&#47;/h.example", "h.example"),
        ("0;url//h.example", "page.example"),
        ("0;ur=//h.example", "page.example"),
        ("0", None),
        ("0;", None),
        ("0x;url=//h.example", None),
        (";url=//h.example", None),
        ("url=//h.example", None),
        ("", None),
    ],
)
def test_meta_refresh(content: str, host: str | None) -> None:
    """A refresh links where browsers would go (HTML 4.2.5.3)."""
    quoted = content.replace('"', "&quot;")
    assert hosts(f'<meta content="{quoted}" http-equiv=Refresh>') == ([host] if host else [])


@pytest.mark.parametrize(
    ("srcset", "expected"),
    [
        ("//a.example", ["a.example"]),
        ("//a.example 1x, //b.example 2x", ["a.example", "b.example"]),
        ("//a.example, //b.example", ["a.example", "b.example"]),
        (" , //a.example/,x 1x,//b.example", ["a.example", "b.example"]),
        ("//a.example (x, //no.example) 1x, //b.example", ["a.example", "b.example"]),
        ("//a.example (x, //no.example", ["a.example"]),
        ("//a.example,,,//no.example,", []),
        ("//a.example,,, //b.example", ["a.example", "b.example"]),
        ("data:,a, //b.example 2x", ["b.example"]),
        ("//a.example/&comma; //b.example", ["a.example", "b.example"]),
        ("", []),
    ],
)
def test_srcset(srcset: str, expected: list[str]) -> None:
    """Every image candidate is a link (HTML 4.8.4.2.2)."""
    assert hosts(f'<img srcset="{srcset}">') == expected


# --- URLs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://h.example", "h.example"),
        ("HTTPS://H.Example/x", "h.example"),
        ("http://h.example:80#f", "h.example"),
        ("//h.example?q", "h.example"),
        (r"\\h.example\x", "h.example"),
        (r"/\h.example", "h.example"),
        ("////h.example", "h.example"),
        ("https:////h.example", "h.example"),
        ("http:/h.example", "h.example"),
        ("http:h.example", "h.example"),
        ("https:/h.example", "page.example"),
        ("https:h.example", "page.example"),
        (r"https:\\h.example", "h.example"),
        ("https:", "page.example"),
        (" \x01//h.example\n ", "h.example"),
        ("ht\ntps://h.ex\tam\rple", "h.example"),
        ("/\t/h.example", "h.example"),
        ("//u:p@h.example", "h.example"),
        ("//u@v@h.example", "h.example"),
        ("//u@h.example:8443/@x", "h.example"),
        ("//h.example:", "h.example"),
        ("//h.example:0000443", "h.example"),
        ("//h.example:65536", None),
        ("//h.example:x", None),
        ("//h.example.", "h.example"),
        ("//h.example..", None),
        ("//h%2Eexample", "h.example"),
        ("//%68.example", "h.example"),
        ("//h%2Fx.example", None),
        ("//%ff.example", None),
        ("//bücher.example", "xn--bcher-kva.example"),
        ("//b%C3%BCcher.example", "xn--bcher-kva.example"),
        ("//例え。example", "xn--r8jz45g.example"),
        ("//\u00a0h.example", None),
        ("//h.example\u00a0", None),
        ("//h_h.example", None),
        ("//h example", None),
        ("//localhost", None),
        ("//127.0.0.1", None),
        ("//0x7f.1", None),
        ("//1", None),
        ("//[::1]:80", None),
        ("//[", None),
        ("//", None),
        ("https://", None),
        ("//@", None),
        ("//u@", None),
        ("//:80", None),
        ("", "page.example"),
        ("#x", "page.example"),
        ("?//h.example", "page.example"),
        ("/x//h.example", "page.example"),
        ("x.html", "page.example"),
        ("x/y:z", "page.example"),
        ("./x", "page.example"),
        ("1:2", "page.example"),
        ("javascript://h.example", None),
        ("JavaScript:x", None),
        ("mailto:x@h.example", None),
        ("data:text/html,//h.example", None),
        ("ftp://h.example", None),
        ("ws://h.example", None),
        ("x:y", None),
        ("h.example:80", None),
    ],
)
def test_url(url: str, host: str | None) -> None:
    """The host of a link is that of the WHATWG URL Standard, where it is a host name."""
    assert hosts(f'<a href="{url}">') == ([host] if host else [])


def test_page_without_a_host() -> None:
    """Where the page's own URL has no host, relative links have none."""
    assert hosts("<a href=x><a href=//a.example><a href=http://b.example>", page_url="nonsense") == ["b.example"]


# --- encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"\xef\xbb\xbf\xc3\xbc", "text/html; charset=latin1", "ü"),
        (b"\xff\xfe\xfc\x00", None, "ü"),
        (b"\xfe\xff\x00\xfc", "text/html", "ü"),
        (b"\xfc", "text/html; charset=ISO-8859-1", "ü"),
        (b"\x80", "text/html; charset=latin1", "€"),
        (b"\xfc", 'text/html; Charset = "windows-1252"; x=y', "ü"),
        (b"\xc3\xbc", "text/html; charset=nonsense", "ü"),
        (b"\xc3\xbc", "text/html; charset=\udcff", "ü"),
        (b"\xc3\xbc", None, "ü"),
        (b"\xfc", None, "\ufffd"),
        (b"\xc3\xbc\xc3", "", "ü\ufffd"),
        (b"\x82\xa0", "text/html; charset=shift_jis", "あ"),
        (b"x", "text/html; charset=iso-2022-kr", "\ufffd"),
    ],
)
def test_decode(body: bytes, content_type: str | None, text: str) -> None:
    """A byte order mark goes before the header, the header before the guess, and nothing raises."""
    assert decode(body, content_type) == text


@pytest.mark.parametrize(
    ("head", "is_latin"),
    [
        (b"<meta charset=latin1>", True),
        (b"<META x Charset='latin1'/>", True),
        (b"<meta http-equiv=content-type content='text/html; charset=latin1'>", True),
        (b"<meta charset=nonsense><meta charset=latin1>", True),
        (b"<p title='<meta charset=utf-8>'><meta charset=latin1>", True),
        (b"<!-- <meta charset=utf-8> --><meta charset=latin1>", True),
        (b"<!--><meta charset=latin1>", True),
        (b"</p x><?x><!x><meta charset=latin1>", True),
        (b"<meta content='text/html; charset=latin1'>", False),
        (b"<!-- <meta charset=latin1>", False),
        (b"<p title='<meta charset=latin1>", False),
        (b"<meta charset=utf-16><meta charset=latin1>", False),
        (b" " * 1010 + b"<meta charset=latin1>", False),
    ],
)
def test_encoding_of_meta(head: bytes, is_latin: bool) -> None:
    """The first `meta` of the first 1024 bytes that names a known encoding decides; UTF-16 means UTF-8."""
    assert decode(head + b"\xfc", None)[-1] == ("ü" if is_latin else "\ufffd")


def test_host_in_another_encoding() -> None:
    """A host is read in the page's encoding."""
    assert link_hosts(b"<a href=//b\xfccher.example>", page_url=PAGE, content_type="text/html; charset=latin1") == [
        "xn--bcher-kva.example"
    ]


# --- cost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile_markup.NAMES)
def test_hostile_body(name: str) -> None:
    """Finding the links of 512 KiB costs at most half a second of CPU, whatever they are."""
    body = hostile_markup.body(name)
    assert len(body) == hostile_markup.BODY_BYTES
    before = time.process_time()
    link_hosts(body, page_url=PAGE)
    assert time.process_time() - before < BUDGET_HOSTILE_SECONDS


@pytest.mark.parametrize(("name", "start"), [("wikipedia", 40_960), ("mozilla-2", 0), ("tmz-1", 0), ("webmd-2", 0)])
def test_typical_page(name: str, start: int) -> None:
    """Finding the links of 20 KB of a real page costs at most a millisecond of CPU."""
    body = page_body(name)[start : start + 20_480]
    spent = []
    for _ in range(20):
        before = time.process_time()
        link_hosts(body, page_url=PAGE, content_type="text/html; charset=utf-8")
        spent.append(time.process_time() - before)
    assert min(spent) < BUDGET_PAGE_SECONDS
