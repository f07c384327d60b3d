"""Where redirects lead, what is HTML, and which hosts are outside."""

import pytest

from spyder.net.http import Response
from spyder.probe.page import Target, is_html, outside_hosts, redirect_target

BASE = "https://www.a.test/dir/page?x=1"


def leads_to(location: str, status: int = 302, base: str = BASE) -> Target | None:
    """Return where an answer leads. The header is decoded as the transport decodes it."""
    headers = {"location": location.encode().decode("latin-1")} if location else {}
    return redirect_target(Response(status, headers), base)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://b.test/", Target("https", "b.test", None, "/")),
        ("https://b.test", Target("https", "b.test", None, "/")),
        ("http://b.test/x?y=1#z", Target("http", "b.test", None, "/x?y=1")),
        ("HTTPS://B.Test/X", Target("https", "b.test", None, "/X")),
        ("//b.test/x", Target("https", "b.test", None, "/x")),
        ("/x", Target("https", "www.a.test", None, "/x")),
        ("x", Target("https", "www.a.test", None, "/dir/x")),
        ("../x", Target("https", "www.a.test", None, "/x")),
        ("?y", Target("https", "www.a.test", None, "/dir/page?y")),
        ("https://b.test:8443/", Target("https", "b.test", 8443, "/")),
        ("https://user:secret@b.test/", Target("https", "b.test", None, "/")),
        ("https://b.test./", Target("https", "b.test", None, "/")),
        ("  https://b.test/  ", Target("https", "b.test", None, "/")),
        ("https://bücher.test/", Target("https", "xn--bcher-kva.test", None, "/")),
        ("https://b.test/ü x", Target("https", "b.test", None, "/%C3%BC%20x")),
        ("https://b.test/%C3%BC", Target("https", "b.test", None, "/%C3%BC")),
        ('https://b.test/<"^`{|}>', Target("https", "b.test", None, "/%3C%22%5E%60%7B%7C%7D%3E")),
        ("https://b.test/a;b=c?d=e&f=[g]", Target("https", "b.test", None, "/a;b=c?d=e&f=%5Bg%5D")),
    ],
)
def test_a_location_is_read_as_browsers_read_it(location: str, target: Target) -> None:
    """Absolute or relative, with whatever servers put into it; what is sent on is ASCII without blanks."""
    assert leads_to(location) == target


@pytest.mark.parametrize(
    "location",
    [
        "ftp://b.test/",
        "javascript:alert(1)",
        "data:text/html,x",
        "mailto:a@b.test",
        "file:///etc/passwd",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://localhost/",
        "https://a_b.test/",
        "https://b.test:99999/",
        "https://b.test:x/",
        "https://b..test/",
        "https://" + "a" * 300 + ".test/",
        "https://b.test/" + "a" * 9000,
        "https://exa\u2100mple.test/",
        "https://b.test%00.a.test/",
        "https://b\x00.test/",
    ],
)
def test_a_location_that_leads_to_no_host_is_no_redirect(location: str) -> None:
    """Other schemes, addresses, names that are none, broken URLs, endless ones: none of them raises."""
    assert leads_to(location) is None


@pytest.mark.parametrize("status", [200, 204, 299, 304, 400, 404, 500])
def test_only_a_redirect_redirects(status: int) -> None:
    """A Location beside another status says something else (RFC 9110, section 10.2.2)."""
    assert leads_to("https://b.test/", status) is None


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_every_redirect_with_a_location_counts(status: int) -> None:
    """Also 300, which browsers follow."""
    assert leads_to("https://b.test/", status) is not None


def test_a_redirect_without_a_location_leads_nowhere() -> None:
    """It is the last answer."""
    assert leads_to("") is None


@pytest.mark.parametrize(
    "raw", [b"https://b.test/\xff\xfe", b"\xc3\x28", b"//\xed\xa0\x80.test/", b"https://b.test/\r\nX: y"]
)
def test_bytes_that_are_no_text_do_no_harm(raw: bytes) -> None:
    """What is sent on is always one line of ASCII."""
    target = redirect_target(Response(302, {"location": raw.decode("latin-1")}), BASE)
    assert target is None or (target.path.isascii() and target.path.isprintable() and " " not in target.path)


@pytest.mark.parametrize(
    ("content_type", "html"),
    [
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        (" text/html ;x", True),
        ("text/plain", False),
        ("application/xhtml+xml", False),
        ("text/html2", False),
        ("", False),
    ],
)
def test_html_is_what_says_so(content_type: str, html: bool) -> None:
    """By the media type alone (RFC 9110, section 8.3)."""
    assert is_html(Response(200, {"content-type": content_type})) is html


def test_outside_is_what_has_another_registrable_domain() -> None:
    """Not the host, nor its siblings; the base is the page that was reached."""
    body = b'<a href="https://b.test/"><a href="https://c.a.test/"><a href="/x"><a href="//www.d.test/"><a href="https://b.test/2">'
    response = Response(200, {"content-type": "text/html"}, body)
    assert sorted(outside_hosts(response, host="www.a.test", page_url="https://a.test/")) == ["b.test", "www.d.test"]
